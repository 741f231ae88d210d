"""What the tool knows about a vehicle: its ECUs, how to reach them, and the names of what they answer. Values only.

``vehicle_files`` reads it from files; without one, ``generic_vehicle`` has the addresses every OBD car answers at.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gateway.diag.config import EcuConfig
from gateway.uds.names import ROUTINE_NAMES, did_name, session_name
from tester.errors import UsageError
from tester.values import Field


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """What an ECU wants before it does something: one of these sessions (none: any), a security level."""

    sessions: tuple[int, ...] = ()
    security: int | None = None
    authenticated: bool = False
    standstill: bool = False


class Did(msgspec.Struct, frozen=True, kw_only=True):
    """An identifier. ``bytes`` None: not known. ``read``, ``write``, ``io`` None: cannot be done, or not known."""

    number: int
    name: str = ""
    bytes: int | None = None
    fields: tuple[Field, ...] = ()
    read: Access | None = None
    write: Access | None = None
    io: Access | None = None


class Routine(msgspec.Struct, frozen=True, kw_only=True):
    """A routine; ``actions`` are the sub-functions of 0x31 it has (1 start, 2 stop, 3 result)."""

    number: int
    name: str = ""
    actions: tuple[int, ...] = (1, 2, 3)
    option_bytes: int | None = None
    duration_s: float = 0.0
    access: Access | None = None


class SecurityLevel(msgspec.Struct, frozen=True, kw_only=True):
    """How to open a level of 0x27: see ``tester.keys``."""

    level: int
    name: str = ""
    algorithm: str = ""
    constant: str = ""  # hexadecimal
    sessions: tuple[int, ...] = ()


class Region(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of memory."""

    name: str
    start: int
    bytes: int
    read: Access | None = None
    write: Access | None = None


class Download(msgspec.Struct, frozen=True, kw_only=True):
    """What the ECU takes by 0x34."""

    regions: tuple[Region, ...] = ()
    formats: tuple[int, ...] = (0,)
    block_bytes: int | None = None
    hardware_id: str = ""
    access: Access | None = None


class Ecu(msgspec.Struct, frozen=True, kw_only=True):
    """One ECU. ``link`` says how to reach it; the rest is empty where nobody described it."""

    link: EcuConfig
    title: str = ""
    dids: Mapping[int, Did] = {}
    routines: Mapping[int, Routine] = {}
    levels: Mapping[int, SecurityLevel] = {}
    sessions: Mapping[int, str] = {}
    dtc_texts: Mapping[int, str] = {}
    extended_records: Mapping[int, str] = {}
    memory: tuple[Region, ...] = ()
    download: Download | None = None
    boot_s: float | None = None
    services: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """As on the command line."""
        return self.link.name

    def did(self, number: int) -> Did:
        """What is known of an identifier, at least the standard's name."""
        return self.dids.get(number) or Did(number=number, name=did_name(number))

    def routine(self, number: int) -> Routine:
        """What is known of a routine."""
        return self.routines.get(number) or Routine(number=number, name=ROUTINE_NAMES.get(number, ""))

    def session_name(self, number: int) -> str:
        """``extended``, or the maker's word."""
        return self.sessions.get(number) or session_name(number)

    def did_lengths(self) -> dict[int, int]:
        """Bytes of each identifier whose length is known, for reading snapshots and several at once."""
        return {number: did.bytes for number, did in self.dids.items() if did.bytes is not None}


class Vehicle(msgspec.Struct, frozen=True, kw_only=True):
    """All ECUs, in the order of the file. ``is_generic``: addresses to try, not ECUs known to be there."""

    name: str
    ecus: tuple[Ecu, ...]
    is_generic: bool = False
    dtc_texts: Mapping[int, str] = {}
    functional_address: int = 0xE400  # DoIP

    def ecu(self, name: str) -> Ecu:
        """By name, DoIP address (``0x1010``), or request identifier (``7E0``).

        Raises:
            UsageError: there is none; the message lists those there are.
        """
        for ecu in self.ecus:
            if ecu.name.lower() == name.lower():
                return ecu
        try:
            number = int(name, 16)
        except ValueError:
            number = -1
        for ecu in self.ecus:
            if number > 0 and number in (ecu.link.logical_address, ecu.link.request_id):
                return ecu
        known = ", ".join(ecu.name for ecu in self.ecus)
        raise UsageError(f"no ECU {name!r} in {self.name}; there are {known}")

    def texts_of(self, ecu: Ecu) -> dict[int, str]:
        """DTC texts: the vehicle's files, before them the ECU's own."""
        return {**self.dtc_texts, **ecu.dtc_texts}


def generic_vehicle() -> Vehicle:
    """The addresses of legislated OBD: eight with 11 bits, and the usual ones with 29 bits."""
    eleven = [
        Ecu(
            link=EcuConfig(
                name=f"{0x7E0 + i:X}", bus="", logical_address=0x7E0 + i, request_id=0x7E0 + i,
                response_id=0x7E8 + i, functional_id=0x7DF, emissions=True,
            )
        )
        for i in range(8)
    ]  # fmt: skip
    twenty_nine = [
        Ecu(
            link=EcuConfig(
                name=f"18DA{target:02X}F1", bus="", logical_address=0xDA00 | target, addressing="normal_fixed",
                target_address=target, functional_id=0x18DB33F1, emissions=True,
            )
        )
        for target in (0x10, 0x11, 0x17, 0x18, 0x1D, 0x28, 0x33, 0x50)
    ]  # fmt: skip
    return Vehicle(name="generic", ecus=(*eleven, *twenty_nine), is_generic=True)

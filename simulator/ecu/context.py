"""What the services of one ECU share: its state, the vehicle, non-volatile memory, randomness, and who listens to what.

Services change state only through this; the server reads it. Nothing here does I/O but ``nv.save``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from simulator.ecu.description import AccessDescription, EcuDescription, QuirkDescription
from simulator.ecu.dids import DidTable
from simulator.ecu.dynamic_dids import DynamicDids
from simulator.ecu.memory_map import EcuMemory
from simulator.ecu.service import Access, Later, Nrc, Refusal, Session
from simulator.ecu.storage import NvStore
from simulator.ecu.vehicle import VehiclePort

SPEED = "powertrain.VehicleMotion.VehicleSpeed"
VOLTAGE = "body.LowVoltage.BatteryVoltage"
STANDSTILL_KMH = 0.5

#: Refuses a change of session by raising ``Refusal``: (from, to, now_s).
SessionCheck = Callable[[int, int, float], None]
#: (DTC, status byte before, after), called by the fault memory for 0x86 and for tests.
DtcListener = Callable[[int, int, int], None]


@dataclass(slots=True, eq=False)
class EcuContext:
    """The state of an ECU that more than one service cares for."""

    description: EcuDescription
    vehicle: VehiclePort
    nv: NvStore
    random: Callable[[int], bytes] = os.urandom
    session: int = Session.DEFAULT
    unlocked: int = 0  # level of 0x27, 0: locked
    authenticated: bool = False
    dtcs_frozen: bool = False  # 0x85 off: the fault memory must not change
    quirks: QuirkDescription = field(default_factory=QuirkDescription)
    #: Asked in turn before a session is entered.
    session_checks: list[SessionCheck] = field(default_factory=list)
    dtc_listeners: list[DtcListener] = field(default_factory=list)
    #: Asked when the ECU has booted: whether it stays in its boot loader.
    stays_in_boot: Callable[[], bool] = field(default=lambda: False)
    #: Enters a session at once, whoever may; set by the server.
    enter_session: Callable[[int, float], None] = field(default=lambda session, now_s: None)
    #: Answers a whole request as if it had come physically; set by the server, for 0x84 and 0x86.
    execute: Callable[[bytes, float], bytes | Later | None] = field(default=lambda request, now_s: None)
    dids: DidTable = field(init=False)
    memory: EcuMemory = field(init=False)
    dynamic: DynamicDids = field(init=False)
    p2_ms: int = 0  # in force; 0x83 changes it for a session
    p2_star_ms: int = 0
    receive_off: bool = False  # 0x28: normal messages are not received
    #: What services of one module share (fault memory, flash); by module name.
    shared: dict[str, Any] = field(default_factory=dict)
    _boot_mode: bool = False
    _running: bool = True
    _normal_off: bool = False
    _network_off: bool = False
    _reset_after_s: float | None = None
    _reset_kind: int = 0
    uudt: list[bytes] = field(default_factory=list)  # single frames of 0x2A to send on the periodic identifier

    def __post_init__(self) -> None:
        self.quirks = self.description.quirks
        self.dids = DidTable(self.description, self.vehicle, self.nv, lambda: self.session)
        self.memory = EcuMemory(self.description.memory, self.nv)
        self.dynamic = DynamicDids(self.dids, self.memory)
        self.default_timing()

    def default_timing(self) -> None:
        """P2 and P2* as described."""
        self.p2_ms, self.p2_star_ms = self.description.timing.p2_ms, self.description.timing.p2_star_ms

    def read_did(self, number: int) -> bytes | None:
        """A DID's bytes whatever the access, for snapshots; None: there is no such DID."""
        return self.dids.read(number)

    # -- conditions

    def speed_kmh(self) -> float:
        """Of the vehicle."""
        return abs(self.vehicle.value(SPEED)) if self.vehicle.has(SPEED) else 0.0

    def voltage_v(self) -> float:
        """Of the low-voltage supply."""
        return self.vehicle.value(VOLTAGE) if self.vehicle.has(VOLTAGE) else 12.0

    @property
    def is_standing(self) -> bool:
        """Whether the vehicle stands still."""
        return self.speed_kmh() < STANDSTILL_KMH

    def require_standstill(self) -> None:
        """Raises ``Refusal`` (0x22) while the vehicle moves."""
        if not self.is_standing:
            raise Refusal(Nrc.CONDITIONS_NOT_CORRECT)

    def access(self, description: AccessDescription) -> Access:
        """The contract's form of a description's access."""
        return Access(
            sessions=frozenset(description.sessions) or self.description.session_ids,
            security=description.security,
            authenticated=description.authenticated,
        )

    def describe_access(self, access: AccessDescription | None, *, in_boot: bool = True) -> dict[str, object] | None:
        """For ``outrider sim describe``; None: not at all. ``in_boot``: the boot loader has it too."""
        if access is None:
            return None
        sessions = access.sessions or self.description.session_ids
        if not in_boot:
            sessions = frozenset(sessions) - self.description.boot_sessions
        out: dict[str, object] = {"sessions": sorted(sessions)}
        if access.security:
            out["security"] = access.security
        if access.authenticated:
            out["authenticated"] = True
        if access.standstill:
            out["standstill"] = True
        return out

    def check(self, access: AccessDescription) -> None:
        """For a DID, routine or memory range that exists.

        Raises:
            Refusal: 0x31 not in this session, 0x33 locked, 0x34 not authenticated, 0x22 the vehicle moves.
        """
        if access.sessions and self.session not in access.sessions:
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        if access.security and self.unlocked != access.security:
            raise Refusal(Nrc.SECURITY_ACCESS_DENIED)
        if access.authenticated and not self.authenticated:
            raise Refusal(Nrc.AUTHENTICATION_REQUIRED)
        if access.standstill:
            self.require_standstill()

    # -- effects

    def override_did(self, did: int, value: bytes | None) -> None:
        """Make a DID read as ``value`` from now on (None: as described again); non-volatile.

        For what an ECU changes itself, such as software versions after a flash.
        """
        key = f"did.{did:04X}"
        if value is None:
            self.nv.delete(key)
        else:
            self.nv.set(key, value)

    def dtc_changed(self, dtc: int, before: int, after: int) -> None:
        """The fault memory tells that a status byte changed."""
        for listener in self.dtc_listeners:
            listener(dtc, before, after)

    def request_reset(self, kind: int, after_s: float = 0.0) -> None:
        """The ECU boots once the answer is on its way (and ``after_s`` later); ``kind`` as the sub-function of 0x11."""
        self._reset_kind, self._reset_after_s = kind, after_s

    def take_reset(self) -> tuple[int, float] | None:
        """The server fetches the requested reset: its kind and delay."""
        if self._reset_after_s is None:
            return None
        out = (self._reset_kind, self._reset_after_s)
        self._reset_after_s = None
        return out

    def set_quirks(self, **changes: object) -> None:
        """Switch misbehaviour on or off.

        Raises:
            ValueError: no such quirk, or a value of the wrong kind.
        """
        raw = msgspec.to_builtins(self.quirks) | changes
        self.quirks = msgspec.convert(raw, QuirkDescription)

    # -- who is silent

    @property
    def boot_mode(self) -> bool:
        """Whether the boot loader runs: only what the description's ``boot`` allows is answered, no normal frames."""
        return self._boot_mode

    @boot_mode.setter
    def boot_mode(self, on: bool) -> None:
        self._boot_mode = on
        self._apply_silence()

    @property
    def running(self) -> bool:
        """Whether the ECU has power and has booted. Set by the server."""
        return self._running

    @running.setter
    def running(self, on: bool) -> None:
        self._running = on
        self._apply_silence()

    def silence_messages(self, *, normal: bool | None = None, network: bool | None = None) -> None:
        """0x28: whether normal and network management messages of this ECU are off; None: as it is."""
        self._normal_off = self._normal_off if normal is None else normal
        self._network_off = self._network_off if network is None else network
        self._apply_silence()

    @property
    def silenced(self) -> tuple[bool, bool]:
        """Whether normal and network management messages are off the bus, for whatever reason."""
        dead = self._boot_mode or not self._running
        return self._normal_off or dead, self._network_off or dead

    def _apply_silence(self) -> None:
        normal, network = self.silenced
        self.vehicle.silence(self.description.node, normal=normal, network=network)

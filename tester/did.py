"""Reading identifiers: which ones are meant, and their values by name. No argparse."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from gateway.errors import GatewayError
from gateway.uds.client import UdsClient
from gateway.uds.errors import NegativeResponse
from gateway.uds.names import TEXT_DIDS, Nrc
from tester.access import Wanted, prepare
from tester.errors import UsageError
from tester.output import error_json
from tester.values import Field, Value, as_json, decode
from tester.vehicle import Access, Did, Ecu

MAX_RANGE = 0x10000


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """One identifier's data, or why there is none."""

    did: Did
    data: bytes | None = None
    error: Exception | None = None

    @property
    def values(self) -> tuple[Value, ...]:
        """By name, with units."""
        return values_of(self.did, self.data or b"")

    def as_json(self) -> dict[str, object]:
        """For machines."""
        head: dict[str, object] = {"did": f"{self.did.number:04X}", "name": self.did.name}
        if self.data is None:
            return head | {"error": error_json(self.error or ValueError("not read"))}
        return head | {"data": self.data.hex().upper(), "values": as_json(self.values)}


def values_of(did: Did, data: bytes) -> tuple[Value, ...]:
    """The fields of the vehicle file; else text where it is text, a number of up to 4 bytes besides its bytes."""
    if did.fields:
        return decode(did.fields, data)
    if did.number in TEXT_DIDS or not data:
        return decode((), data)
    return (Value(name="", value=data.hex(" ").upper()),)


def parse_dids(words: Sequence[str], ecu: Ecu) -> list[int]:
    """``F190``, ``0xF190``, ``F180-F18F``, ``all`` (the vehicle file's), or part of a name, in that order.

    A name that an ECU does not have gives nothing: another may have it.

    Raises:
        UsageError: a range that cannot be.
    """
    found: dict[int, None] = {}
    for word in words:
        if word.lower() == "all":
            found |= dict.fromkeys(n for n, did in ecu.dids.items() if did.read is not None)
        elif match := re.fullmatch(r"(?:0[xX])?([0-9a-fA-F]{1,4})-(?:0[xX])?([0-9a-fA-F]{1,4})", word):
            first, last = int(match[1], 16), int(match[2], 16)
            if last < first:
                raise UsageError(f"{word}: the range ends before it begins")
            found |= dict.fromkeys(range(first, last + 1))
        elif re.fullmatch(r"0[xX][0-9a-fA-F]{1,4}|[0-9a-fA-F]{4}", word):
            found[int(word, 16)] = None
        else:
            exact = [n for n, did in ecu.dids.items() if did.name.lower() == word.lower()]
            part = [n for n, did in ecu.dids.items() if word.lower() in did.name.lower()]
            found |= dict.fromkeys(exact or part)
    return list(found)


def one_did(word: str, ecu: Ecu) -> Did:
    """The one identifier meant.

    Raises:
        UsageError: none, or several.
    """
    numbers = parse_dids([word], ecu)
    if len(numbers) != 1:
        names = ", ".join(f"{n:04X} {ecu.did(n).name}" for n in numbers[:6]) or "none"
        raise UsageError(f"{ecu.name}: {word!r} means {names}; give one identifier")
    return ecu.did(numbers[0])


def session_only(access: Access | None) -> Access | None:
    """Without security: a key is only sent when the user says so."""
    return None if access is None else Access(sessions=access.sessions)


async def read_one(ecu: Ecu, client: UdsClient, number: int, wanted: Wanted) -> Reading:
    """Never raises what an ECU may answer."""
    did = ecu.did(number)
    try:
        await prepare(ecu, client, session_only(did.read), Wanted(session=wanted.session))
        return Reading(did=did, data=await client.read_did(number))
    except GatewayError as error:
        return Reading(did=did, error=error)


async def read_all(
    ecu: Ecu, client: UdsClient, numbers: Sequence[int], wanted: Wanted, *, skip_absent: bool = False
) -> list[Reading]:
    """One after the other; ``skip_absent`` leaves out those the ECU does not have (ranges).

    Raises:
        TransportError: the first one stays unanswered: nobody is there.
    """
    if wanted.level is not None:
        await prepare(ecu, client, None, wanted)
    found: list[Reading] = []
    for index, number in enumerate(numbers):
        reading = await read_one(ecu, client, number, wanted)
        if reading.error is not None and not isinstance(reading.error, NegativeResponse) and not index:
            raise reading.error
        is_absent = isinstance(reading.error, NegativeResponse) and reading.error.nrc == Nrc.OUT_OF_RANGE
        if not (skip_absent and is_absent):
            found.append(reading)
    return found


def form_of(fields: Sequence[Field]) -> str:
    """How values are written on the command line: ``Limit [km/h] 0 to 250``."""
    from tester.values import format_number, limits

    words = []
    for field in fields:
        name = field.name or "VALUE"
        unit = f" [{field.unit}]" if field.unit else ""
        if field.values:
            words.append(f"{name}: {' | '.join(field.values.values())}")
        elif field.encoding in ("uint", "int"):
            low, high = limits(field)
            words.append(f"{name}{unit} {format_number(low)} to {format_number(high)}")
        else:
            words.append(f"{name}{unit} {field.encoding}, {field.bytes} bytes")
    return "; ".join(words) or "hexadecimal bytes"

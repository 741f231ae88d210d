"""What an ECU has, found by asking without doing: services, sessions, identifiers, routines.

Each probe is chosen so that an ECU that follows ISO 14229-1 refuses it before it acts: a service is asked for with too
few bytes, a session with one too many, a routine only for its result. Services that would act on a sloppy ECU all the
same are not sent at all unless the caller insists.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from gateway.uds.client import UdsClient
from gateway.uds.codec.data import Routine
from gateway.uds.errors import NegativeResponse, NoAnswer
from gateway.uds.names import Nrc, Session, Sid, nrc_name, service_name
from tester.vehicle import Ecu

#: Clear, reset, silence, write, control, transfer, switch off: never in a scan that is meant to be safe.
UNSAFE_SERVICES = frozenset(
    {0x04, 0x08, Sid.RESET, Sid.CLEAR_DTCS, Sid.COMMUNICATION_CONTROL, Sid.WRITE_DID, Sid.IO_CONTROL, Sid.ROUTINE,
     Sid.REQUEST_DOWNLOAD, Sid.REQUEST_UPLOAD, Sid.TRANSFER_DATA, Sid.TRANSFER_EXIT, Sid.REQUEST_FILE,
     Sid.WRITE_MEMORY, Sid.DTC_SETTING, Sid.LINK_CONTROL}
)  # fmt: skip
#: OBD modes stay silent when they have nothing to say, so they are asked properly; none of these changes anything.
OBD_REQUESTS = {0x01: "0100", 0x02: "020000", 0x03: "03", 0x05: "0500", 0x06: "0600", 0x07: "07", 0x09: "0900",
                0x0A: "0A"}  # fmt: skip
#: All that may be a request: no answers (0x40 bit), and not 0x3E's neighbours that no standard uses.
SERVICES = tuple(sid for sid in range(0x01, 0xBF) if not sid & 0x40 and not 0x0B <= sid <= 0x0F)


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """Something found. ``answer``: what the ECU said, in words."""

    number: int
    name: str
    answer: str
    nrc: int | None = None


Progress = Callable[[int, int], None]


def quiet(_done: int, _total: int) -> None:
    """No progress."""


async def _ask(client: UdsClient, pdu: bytes) -> tuple[bytes | None, int | None]:
    """(positive answer, None) or (None, NRC); (None, None): silence.

    Raises:
        GatewayError: the transport failed.
    """
    try:
        return await client.request(pdu, (bytes([pdu[0] | 0x40]),)), None
    except NegativeResponse as refusal:
        return None, refusal.nrc
    except NoAnswer:
        return None, None


def _words(nrc: int | None) -> str:
    return "answers" if nrc is None else f"{nrc_name(nrc)} ({nrc:02X})"


async def services(
    client: UdsClient, *, unsafe: bool = False, progress: Progress = quiet
) -> tuple[list[Item], list[int]]:
    """Those that exist, and those not tried.

    Raises:
        GatewayError: the transport failed.
    """
    found: list[Item] = []
    untried: list[int] = []
    for index, sid in enumerate(SERVICES):
        progress(index, len(SERVICES))
        if sid in UNSAFE_SERVICES and not unsafe:
            untried.append(sid)
            continue
        pdu = bytes.fromhex(OBD_REQUESTS[sid]) if sid in OBD_REQUESTS else bytes([sid])
        answer, nrc = await _ask(client, pdu)
        if nrc == Nrc.SERVICE_NOT_SUPPORTED or (answer is None and nrc is None):
            continue
        found.append(Item(number=sid, name=service_name(sid), answer=_words(nrc), nrc=nrc))
    return found, untried


async def sessions(ecu: Ecu, client: UdsClient, *, enter: bool = False, progress: Progress = quiet) -> list[Item]:
    """Sessions that exist: 10 xx with a byte too many is refused before it is entered. ``enter``: really try each.

    Raises:
        GatewayError: the transport failed.
    """
    found: list[Item] = []
    for number in range(1, 0x80):
        progress(number, 0x7F)
        if number == Session.PROGRAMMING and not enter:  # a sloppy ECU would stop its application
            if number in ecu.sessions:
                found.append(
                    Item(number=number, name=ecu.session_name(number), answer="in the vehicle file, not tried")
                )
            continue
        answer, nrc = await _ask(client, bytes([Sid.SESSION, number]) + (b"" if enter else b"\0"))
        if answer is not None:
            await client.session(Session.DEFAULT)
        if nrc in (Nrc.SUBFUNCTION_NOT_SUPPORTED, Nrc.OUT_OF_RANGE) or (answer is None and nrc is None):
            continue
        words = "exists" if nrc == Nrc.INCORRECT_LENGTH else "entered" if answer is not None else _words(nrc)
        found.append(Item(number=number, name=ecu.session_name(number), answer=words, nrc=nrc))
    return found


async def dids(ecu: Ecu, client: UdsClient, numbers: Sequence[int], progress: Progress = quiet) -> list[Item]:
    """Identifiers that exist, readable or not.

    Raises:
        GatewayError: the transport failed, or the ECU has no 0x22.
    """
    found: list[Item] = []
    for index, number in enumerate(numbers):
        progress(index, len(numbers))
        try:
            content = await client.read_did(number)
        except NegativeResponse as refusal:
            if refusal.nrc in (Nrc.SERVICE_NOT_SUPPORTED, Nrc.SERVICE_NOT_IN_SESSION):
                raise
            if refusal.nrc == Nrc.OUT_OF_RANGE:
                continue
            found.append(Item(number=number, name=ecu.did(number).name, answer=_words(refusal.nrc), nrc=refusal.nrc))
        except NoAnswer:
            continue
        else:
            found.append(Item(number=number, name=ecu.did(number).name, answer=f"{len(content)} bytes"))
    return found


async def routines(ecu: Ecu, client: UdsClient, numbers: Sequence[int], progress: Progress = quiet) -> list[Item]:
    """Routines that exist, by asking for results only.

    Raises:
        GatewayError: the transport failed, or the ECU has no 0x31 here.
    """
    found: list[Item] = []
    for index, number in enumerate(numbers):
        progress(index, len(numbers))
        answer, nrc = await _ask(client, bytes([Sid.ROUTINE, Routine.RESULT]) + number.to_bytes(2, "big"))
        if nrc in (Nrc.SERVICE_NOT_SUPPORTED, Nrc.SERVICE_NOT_IN_SESSION):
            raise NegativeResponse(Sid.ROUTINE, nrc)
        if nrc == Nrc.OUT_OF_RANGE or (answer is None and nrc is None):
            continue
        found.append(Item(number=number, name=ecu.routine(number).name, answer=_words(nrc), nrc=nrc))
    return found

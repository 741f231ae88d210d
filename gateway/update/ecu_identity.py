"""Who an ECU is, what it runs, and whether it could be programmed now, as far as it tells."""

from __future__ import annotations

from gateway.uds.client import UdsClient
from gateway.uds.errors import NegativeResponse
from gateway.uds.names import Nrc, Session
from gateway.update.config import UpdateEcu
from gateway.update.ecu_model import EcuRefusedError, NotYetError, Told

#: Refusals that mean "I have no such identifier", or "not in my boot loader".
_ABSENT = frozenset({0x11, 0x13, 0x22, 0x31, 0x33, 0x7E, 0x7F})
#: Refusals of an optional step that say "I do not have it".
_NOT_THERE = frozenset({0x11, 0x12, 0x13, 0x31, 0x7E, 0x7F, 0x33})
#: Refusals that say "not now".
NOT_NOW = frozenset({0x21, 0x22, 0x37, *range(0x81, 0x94)})


def text_of(content: bytes) -> str:
    """Printable text as such, all else in hexadecimal."""
    plain = content.rstrip(b"\x00 \xff")
    if plain and all(0x20 <= byte <= 0x7E for byte in plain):
        return plain.decode("ascii")
    return content.hex()


async def _read(client: UdsClient, did: int | None) -> bytes:
    """Empty: it is not configured, or the ECU does not tell."""
    if not did:
        return b""
    try:
        return await client.read_did(did)
    except NegativeResponse as refusal:
        if refusal.nrc == Nrc.BUSY:
            raise NotYetError(f"{client.name}: {refusal}") from refusal
        if refusal.nrc in _ABSENT:
            return b""
        raise EcuRefusedError(f"{client.name}: {refusal}") from refusal


async def read_told(client: UdsClient, ecu: UpdateEcu) -> Told:
    """All identifiers that matter; "" for what the ECU does not tell.

    Raises:
        NotYetError: another tester keeps it busy.
        GatewayError: no sound answer.
    """
    version = await _read(client, ecu.version_did)
    serial = await _read(client, ecu.serial_did)
    digest = await _read(client, ecu.digest_did)
    return Told(
        version=text_of(version) if version else "",
        serial=text_of(serial) if serial else "",
        digest=digest.hex() if len(digest) == 32 and any(digest) else "",
    )


async def require_hardware(client: UdsClient, ecu: UpdateEcu) -> None:
    """The ECU at this address is of the hardware it is registered as (N2).

    Raises:
        EcuRefusedError: another, or it does not tell.
        NotYetError, GatewayError: as ``read_told``.
    """
    if not ecu.hardware_did:
        return
    content = await _read(client, ecu.hardware_did)
    found = text_of(content) if content else ""
    if found != ecu.hardware_id:
        says = f"is hardware {found!r}" if found else "does not tell its hardware"
        raise EcuRefusedError(f"{ecu.name} {says}; {ecu.hardware_id!r} is registered (N2)")


async def require_conditions(client: UdsClient, ecu: UpdateEcu) -> None:
    """The extended session is free for us, and the ECU's own conditions for programming hold (N8).

    Raises:
        NotYetError: a condition is missing.
        NegativeResponse, GatewayError: refused (by another tester's lock with 0x21 or 0x22), or no sound answer.
    """
    try:
        await client.session(Session.EXTENDED)
    except NegativeResponse as refusal:
        if refusal.nrc not in _NOT_THERE:  # a boot loader may have no such session
            raise
    if not ecu.preconditions_routine:
        return
    try:
        answer = await client.start_routine(ecu.preconditions_routine)
    except NegativeResponse as refusal:
        if refusal.nrc in _NOT_THERE:
            return
        raise
    if failed := [number for number in answer[1:] if number]:
        numbers = ", ".join(map(str, failed))
        raise NotYetError(f"{ecu.name} cannot be programmed now: its condition {numbers} is not met")

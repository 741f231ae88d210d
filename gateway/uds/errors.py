"""What can come of a request besides its answer."""

from __future__ import annotations

from gateway.errors import PeerError, TransportError
from gateway.uds.names import nrc_name, service_name


class NegativeResponse(PeerError):
    """The ECU refused. ``nrc`` and ``sid`` are the bytes it sent, ``name`` what the NRC means."""

    def __init__(self, sid: int, nrc: int) -> None:
        self.sid, self.nrc, self.name = sid, nrc, nrc_name(nrc)
        super().__init__(f"{service_name(sid)} refused: {self.name} (NRC 0x{nrc:02X})")


class NoAnswer(TransportError):
    """Nothing came within P2, or within P2* after a 0x78. ``pending`` counts the 0x78s before."""

    def __init__(self, sid: int, waited_ms: int, pending: int = 0) -> None:
        self.sid, self.waited_ms, self.pending = sid, waited_ms, pending
        after = f" after {pending} answers 0x78" if pending else ""
        super().__init__(f"{service_name(sid)}: no answer within {waited_ms} ms{after}")


class PendingTooLong(TransportError):
    """The ECU went on answering 0x78 (response pending) past the limit on their count or on the whole time."""

    def __init__(self, sid: int, pending: int, waited_ms: int) -> None:
        self.sid, self.pending, self.waited_ms = sid, pending, waited_ms
        super().__init__(f"{service_name(sid)}: still pending after {pending} answers 0x78 in {waited_ms} ms")


class UnexpectedAnswer(PeerError):
    """Only PDUs that do not belong to the request came before its time was up; ``pdu`` is the first of them."""

    def __init__(self, sid: int, pdu: bytes) -> None:
        self.sid, self.pdu = sid, pdu
        super().__init__(f"{service_name(sid)}: answered with {preview(pdu)}, which answers something else")


class MalformedAnswer(PeerError):
    """The answer belongs to the request but is not what ISO 14229-1 says; ``pdu`` is the whole of it."""

    def __init__(self, pdu: bytes, problem: str) -> None:
        self.pdu, self.problem = pdu, problem
        super().__init__(f"malformed answer {preview(pdu)}: {problem}")


class TransferError(PeerError):
    """A download or upload cannot go on. ``offset`` is the first byte not known to have arrived."""

    def __init__(self, message: str, offset: int) -> None:
        self.offset = offset
        super().__init__(f"{message}, at byte {offset}")


def preview(pdu: bytes, limit: int = 24) -> str:
    """The first bytes of a PDU in hexadecimal."""
    text = pdu[:limit].hex(" ").upper() or "(empty)"
    return text + (f" … ({len(pdu)} bytes)" if len(pdu) > limit else "")

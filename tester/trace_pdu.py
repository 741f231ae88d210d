"""A diagnostic PDU in one line of words: service, sub-function, identifiers with values, refusals. No I/O."""

from __future__ import annotations

from collections.abc import Callable

from gateway.uds.names import (
    NEGATIVE,
    POSITIVE_BIT,
    ROUTINE_NAMES,
    SERVICE_NAMES,
    SUPPRESS_BIT,
    WITH_SUBFUNCTION,
    Sid,
    did_name,
    nrc_name,
    service_name,
    session_name,
)
from gateway.wire.dtc import format_dtc
from gateway.wire.dtc_texts import status_words
from tester import values
from tester.vehicle import Ecu

_ROUTINE_ACTIONS = {1: "start", 2: "stop", 3: "result"}
_RESETS = {1: "hard", 2: "key off and on", 3: "soft"}
OBD_MODES = range(1, 0x0B)
_MAX_HEX = 24
_MAX_DTCS = 6


def describe_pdu(pdu: bytes, ecu: Ecu | None = None) -> str:
    """``read data by identifier F190 vehicle identification number: 0UTR1…``; never fails."""
    if not pdu:
        return "(empty)"
    if pdu[0] == NEGATIVE:
        if len(pdu) < 3:
            return f"negative response, cut off: {_hex(pdu)}"
        return f"REFUSED {_service(pdu[1])}: {nrc_name(pdu[2])} (NRC {pdu[2]:02X})"
    is_answer = bool(pdu[0] & POSITIVE_BIT)
    sid = pdu[0] & ~POSITIVE_BIT
    if sid not in SERVICE_NAMES and sid not in OBD_MODES:
        return f"unknown service {pdu[0]:02X} {_hex(pdu[1:])}".rstrip()
    words = [_service(sid)]
    body = pdu[1:]
    if sid in WITH_SUBFUNCTION and body:
        function, body = body[0] & ~SUPPRESS_BIT, body[1:]
        words.append(_function(sid, function))
        if pdu[1] & SUPPRESS_BIT and not is_answer:
            words.append("(no answer wanted)")
        if sid == Sid.READ_DTCS and is_answer and function in (0x02, 0x0A):
            return " ".join([*words, _dtcs(body)])
    special = _SPECIAL.get(sid)
    words.append(special(body, is_answer, ecu) if special else _hex(body))
    return " ".join(word for word in words if word)


def _service(sid: int) -> str:
    return SERVICE_NAMES.get(sid) or service_name(sid)


def _function(sid: int, function: int) -> str:
    if sid == Sid.SESSION:
        return session_name(function)
    if sid == Sid.RESET:
        return _RESETS.get(function, f"{function:02X}")
    if sid == Sid.ROUTINE:
        return _ROUTINE_ACTIONS.get(function, f"{function:02X}")
    if sid == Sid.SECURITY_ACCESS:
        return f"seed {function:02X}" if function & 1 else f"key {function:02X}"
    if sid == Sid.TESTER_PRESENT:
        return ""
    if sid == Sid.DTC_SETTING:
        return {1: "on", 2: "off"}.get(function, f"{function:02X}")
    return f"{function:02X}"


def _hex(data: bytes) -> str:
    text = data[:_MAX_HEX].hex(" ").upper()
    return text + (f" … ({len(data)} bytes)" if len(data) > _MAX_HEX else "")


def _name(number: int, ecu: Ecu | None) -> str:
    name = ecu.did(number).name if ecu is not None else did_name(number)
    return f"{number:04X} {name}".rstrip()


def _did(body: bytes, is_answer: bool, ecu: Ecu | None) -> str:
    if not is_answer:
        numbers = [int.from_bytes(body[i : i + 2], "big") for i in range(0, len(body) - 1, 2)]
        return ", ".join(_name(number, ecu) for number in numbers) + (" (odd length)" if len(body) % 2 else "")
    found = []
    while len(body) >= 2:
        number = int.from_bytes(body[:2], "big")
        about = ecu.did(number) if ecu is not None else None
        size = about.bytes if about is not None and about.bytes is not None else len(body) - 2
        content, body = body[2 : 2 + size], body[2 + size :]
        shown = values.as_text(values.decode(about.fields if about is not None else (), content))
        found.append(f"{_name(number, ecu)}: {shown}")
    return "; ".join(found)


def _write_did(body: bytes, is_answer: bool, ecu: Ecu | None) -> str:
    if len(body) < 2:
        return _hex(body)
    if is_answer:
        return _name(int.from_bytes(body[:2], "big"), ecu)
    return _did(body, True, ecu)


def _routine(body: bytes, is_answer: bool, ecu: Ecu | None) -> str:
    if len(body) < 2:
        return _hex(body)
    number = int.from_bytes(body[:2], "big")
    name = ecu.routine(number).name if ecu is not None else ROUTINE_NAMES.get(number, "")
    return f"{number:04X} {name} {_hex(body[2:])}".strip()


def _session(body: bytes, is_answer: bool, ecu: Ecu | None) -> str:
    if not is_answer or len(body) < 4:
        return _hex(body)
    p2, p2_star = int.from_bytes(body[:2], "big"), int.from_bytes(body[2:4], "big") * 10
    return f"(P2 {p2} ms, P2* {p2_star} ms)"


def _download(body: bytes, is_answer: bool, ecu: Ecu | None) -> str:
    if is_answer:
        return f"blocks of {int.from_bytes(body[1:], 'big')} bytes" if len(body) > 1 else _hex(body)
    if len(body) < 2:
        return _hex(body)
    address_bytes, size_bytes = body[1] & 0x0F, body[1] >> 4
    if len(body) != 2 + address_bytes + size_bytes:
        return _hex(body)
    address = int.from_bytes(body[2 : 2 + address_bytes], "big")
    return f"{int.from_bytes(body[2 + address_bytes :], 'big')} bytes at {address:#x}, format {body[0]:02X}"


def _block(body: bytes, is_answer: bool, ecu: Ecu | None) -> str:
    if not body:
        return ""
    return f"block {body[0]:02X}" + (f", {len(body) - 1} bytes" if len(body) > 1 else "")


def _clear(body: bytes, is_answer: bool, ecu: Ecu | None) -> str:
    return "all groups" if body[:3] == b"\xff\xff\xff" else _hex(body)


def _dtcs(body: bytes) -> str:
    entries = [body[i : i + 4] for i in range(1, len(body) - 3, 4)]
    shown = [f"{format_dtc(int.from_bytes(e[:3], 'big'))} ({', '.join(status_words(e[3]))})" for e in entries]
    more = f" and {len(shown) - _MAX_DTCS} more" if len(shown) > _MAX_DTCS else ""
    return ("; ".join(shown[:_MAX_DTCS]) or "none") + more


_SPECIAL: dict[int, Callable[[bytes, bool, Ecu | None], str]] = {
    Sid.READ_DID: _did,
    Sid.WRITE_DID: _write_did,
    Sid.IO_CONTROL: _write_did,
    Sid.ROUTINE: _routine,
    Sid.SESSION: _session,
    Sid.REQUEST_DOWNLOAD: _download,
    Sid.REQUEST_UPLOAD: _download,
    Sid.TRANSFER_DATA: _block,
    Sid.CLEAR_DTCS: _clear,
}

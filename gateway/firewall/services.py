"""Diagnostic services as the firewall sees them: which exist, which have a sub-function, which change something."""

from __future__ import annotations

#: Services of ISO 14229-1 and the OBD modes of SAE J1979, in our own words.
NAMES: dict[int, str] = {
    0x01: "OBD current data",
    0x02: "OBD freeze frame",
    0x03: "OBD stored DTCs",
    0x04: "OBD clear",
    0x05: "OBD oxygen sensors",
    0x06: "OBD monitor results",
    0x07: "OBD pending DTCs",
    0x08: "OBD control",
    0x09: "OBD vehicle information",
    0x0A: "OBD permanent DTCs",
    0x10: "session",
    0x11: "reset",
    0x14: "clear DTCs",
    0x19: "read DTCs",
    0x22: "read data",
    0x23: "read memory",
    0x24: "read scaling",
    0x27: "security access",
    0x28: "communication control",
    0x29: "authentication",
    0x2A: "read periodically",
    0x2C: "define data",
    0x2E: "write data",
    0x2F: "input/output control",
    0x31: "routine",
    0x34: "request download",
    0x35: "request upload",
    0x36: "transfer data",
    0x37: "transfer exit",
    0x38: "transfer file",
    0x3D: "write memory",
    0x3E: "tester present",
    0x83: "access timing",
    0x84: "secured data",
    0x85: "DTC setting",
    0x86: "response on event",
    0x87: "link control",
}

#: Their second byte is a sub-function whose bit 7 suppresses the positive answer.
WITH_SUBFUNCTION = frozenset({0x10, 0x11, 0x19, 0x27, 0x28, 0x29, 0x2C, 0x31, 0x3E, 0x83, 0x85, 0x86, 0x87})

#: They only tell. 0x2C and 0x2A are in it because what they name is judged as a reading of its own.
READING = frozenset({0x01, 0x02, 0x03, 0x05, 0x06, 0x07, 0x09, 0x0A, 0x10, 0x19, 0x22, 0x24, 0x2A, 0x2C, 0x3E})

#: Everything else changes the vehicle, opens it or reads its memory; 0x10 is in both, by the session asked for.
WRITING = frozenset(NAMES) - READING | {0x10}

#: Nobody can see what they carry: only a rule that names them lets them pass.
OPAQUE = frozenset({0x84})

#: Sessions that change nothing by themselves.
HARMLESS_SESSIONS = frozenset({0x01, 0x03})


def is_writing(sid: int, sub: int | None) -> bool:
    """Whether a request of this kind counts as writing. Unknown services do."""
    if sid == 0x10:
        return sub not in HARMLESS_SESSIONS
    return sid not in READING


def describe(sid: int) -> str:
    """``0x22 read data``."""
    return f"0x{sid:02X} {NAMES.get(sid, 'unknown service')}"

"""Numbers of ISO 14229-1 and their names, in short words of our own."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType


class Sid(IntEnum):
    """Service identifiers of requests; a positive answer begins with the same plus 0x40."""

    SESSION = 0x10
    RESET = 0x11
    CLEAR_DTCS = 0x14
    READ_DTCS = 0x19
    READ_DID = 0x22
    READ_MEMORY = 0x23
    READ_SCALING = 0x24
    SECURITY_ACCESS = 0x27
    COMMUNICATION_CONTROL = 0x28
    AUTHENTICATION = 0x29
    READ_PERIODIC = 0x2A
    DEFINE_DID = 0x2C
    WRITE_DID = 0x2E
    IO_CONTROL = 0x2F
    ROUTINE = 0x31
    REQUEST_DOWNLOAD = 0x34
    REQUEST_UPLOAD = 0x35
    TRANSFER_DATA = 0x36
    TRANSFER_EXIT = 0x37
    REQUEST_FILE = 0x38
    WRITE_MEMORY = 0x3D
    TESTER_PRESENT = 0x3E
    TIMING = 0x83
    SECURED_DATA = 0x84
    DTC_SETTING = 0x85
    RESPONSE_ON_EVENT = 0x86
    LINK_CONTROL = 0x87


NEGATIVE = 0x7F
POSITIVE_BIT = 0x40
SUPPRESS_BIT = 0x80

#: Services whose second byte is a sub-function, with the suppress bit.
WITH_SUBFUNCTION = frozenset(
    {
        Sid.SESSION, Sid.RESET, Sid.READ_DTCS, Sid.SECURITY_ACCESS, Sid.COMMUNICATION_CONTROL, Sid.AUTHENTICATION,
        Sid.DEFINE_DID, Sid.ROUTINE, Sid.TESTER_PRESENT, Sid.TIMING, Sid.DTC_SETTING, Sid.RESPONSE_ON_EVENT,
        Sid.LINK_CONTROL,
    }
)  # fmt: skip


class Session(IntEnum):
    """Diagnostic sessions; makers have 0x40-0x5F, suppliers 0x60-0x7E."""

    DEFAULT = 1
    PROGRAMMING = 2
    EXTENDED = 3
    SAFETY = 4


class Reset(IntEnum):
    """Sub-functions of 0x11."""

    HARD = 1
    KEY_OFF_ON = 2
    SOFT = 3
    ENABLE_RAPID_SHUTDOWN = 4
    DISABLE_RAPID_SHUTDOWN = 5


class Nrc(IntEnum):
    """Negative response codes that programs decide by; ``nrc_name`` knows all."""

    GENERAL_REJECT = 0x10
    SERVICE_NOT_SUPPORTED = 0x11
    SUBFUNCTION_NOT_SUPPORTED = 0x12
    INCORRECT_LENGTH = 0x13
    RESPONSE_TOO_LONG = 0x14
    BUSY = 0x21
    CONDITIONS_NOT_CORRECT = 0x22
    SEQUENCE_ERROR = 0x24
    OUT_OF_RANGE = 0x31
    SECURITY_ACCESS_DENIED = 0x33
    AUTHENTICATION_REQUIRED = 0x34
    INVALID_KEY = 0x35
    EXCEEDED_ATTEMPTS = 0x36
    DELAY_NOT_EXPIRED = 0x37
    TRANSFER_NOT_ACCEPTED = 0x70
    TRANSFER_SUSPENDED = 0x71
    PROGRAMMING_FAILURE = 0x72
    WRONG_BLOCK_COUNTER = 0x73
    RESPONSE_PENDING = 0x78
    SUBFUNCTION_NOT_IN_SESSION = 0x7E
    SERVICE_NOT_IN_SESSION = 0x7F


SERVICE_NAMES: Mapping[int, str] = MappingProxyType(
    {
        Sid.SESSION: "session control",
        Sid.RESET: "ECU reset",
        Sid.CLEAR_DTCS: "clear DTCs",
        Sid.READ_DTCS: "read DTCs",
        Sid.READ_DID: "read data by identifier",
        Sid.READ_MEMORY: "read memory",
        Sid.READ_SCALING: "read scaling",
        Sid.SECURITY_ACCESS: "security access",
        Sid.COMMUNICATION_CONTROL: "communication control",
        Sid.AUTHENTICATION: "authentication",
        Sid.READ_PERIODIC: "read data periodically",
        Sid.DEFINE_DID: "define identifier",
        Sid.WRITE_DID: "write data by identifier",
        Sid.IO_CONTROL: "input/output control",
        Sid.ROUTINE: "routine control",
        Sid.REQUEST_DOWNLOAD: "request download",
        Sid.REQUEST_UPLOAD: "request upload",
        Sid.TRANSFER_DATA: "transfer data",
        Sid.TRANSFER_EXIT: "transfer exit",
        Sid.REQUEST_FILE: "file transfer",
        Sid.WRITE_MEMORY: "write memory",
        Sid.TESTER_PRESENT: "tester present",
        Sid.TIMING: "access timing parameters",
        Sid.SECURED_DATA: "secured data transmission",
        Sid.DTC_SETTING: "DTC setting",
        Sid.RESPONSE_ON_EVENT: "response on event",
        Sid.LINK_CONTROL: "link control",
    }
)

NRC_NAMES: Mapping[int, str] = MappingProxyType(
    {
        0x10: "general reject",
        0x11: "service not supported",
        0x12: "sub-function not supported",
        0x13: "wrong length or format",
        0x14: "response too long",
        0x21: "busy, repeat the request",
        0x22: "conditions not correct",
        0x24: "wrong sequence of requests",
        0x25: "no response from a sub-network component",
        0x26: "a failure prevents execution",
        0x31: "request out of range",
        0x33: "security access denied",
        0x34: "authentication required",
        0x35: "invalid key",
        0x36: "too many attempts",
        0x37: "required delay not over",
        0x38: "secured data transmission required",
        0x39: "secured data transmission not allowed",
        0x3A: "secured data verification failed",
        0x50: "certificate refused: validity period",
        0x51: "certificate refused: signature",
        0x52: "certificate refused: chain of trust",
        0x53: "certificate refused: type",
        0x54: "certificate refused: format",
        0x55: "certificate refused: content",
        0x56: "certificate refused: scope",
        0x57: "certificate refused: revoked or invalid",
        0x58: "proof of ownership refused",
        0x59: "challenge calculation failed",
        0x5A: "setting of access rights failed",
        0x5B: "session key creation or derivation failed",
        0x5C: "configuration data usage failed",
        0x5D: "de-authentication failed",
        0x70: "upload or download not accepted",
        0x71: "transfer suspended",
        0x72: "programming failure",
        0x73: "wrong block counter",
        0x78: "response pending",
        0x7E: "sub-function not supported in this session",
        0x7F: "service not supported in this session",
        0x81: "engine speed too high",
        0x82: "engine speed too low",
        0x83: "engine is running",
        0x84: "engine is not running",
        0x85: "engine run time too short",
        0x86: "temperature too high",
        0x87: "temperature too low",
        0x88: "vehicle speed too high",
        0x89: "vehicle speed too low",
        0x8A: "throttle or pedal too high",
        0x8B: "throttle or pedal too low",
        0x8C: "transmission not in neutral",
        0x8D: "transmission not in gear",
        0x8F: "brake not pressed",
        0x90: "selector lever not in park",
        0x91: "torque converter clutch locked",
        0x92: "voltage too high",
        0x93: "voltage too low",
        0x94: "resource temporarily unavailable",
    }
)

#: ISO 14229-1 annex C.1, the identifiers with a meaning in every vehicle.
DID_NAMES: Mapping[int, str] = MappingProxyType(
    {
        0xF180: "boot software identification",
        0xF181: "application software identification",
        0xF182: "application data identification",
        0xF183: "boot software fingerprint",
        0xF184: "application software fingerprint",
        0xF185: "application data fingerprint",
        0xF186: "active diagnostic session",
        0xF187: "spare part number",
        0xF188: "software number",
        0xF189: "software version",
        0xF18A: "supplier",
        0xF18B: "date of manufacture",
        0xF18C: "serial number",
        0xF18D: "supported functional units",
        0xF18E: "kit assembly part number",
        0xF18F: "type approval software identification",
        0xF190: "vehicle identification number",
        0xF191: "hardware number",
        0xF192: "supplier's hardware number",
        0xF193: "supplier's hardware version",
        0xF194: "supplier's software number",
        0xF195: "supplier's software version",
        0xF196: "exhaust or type approval number",
        0xF197: "system name or engine type",
        0xF198: "repair shop code or tester serial number",
        0xF199: "programming date",
        0xF19A: "calibration shop code or equipment serial number",
        0xF19B: "calibration date",
        0xF19C: "calibration equipment software number",
        0xF19D: "installation date",
        0xF19E: "diagnostic description file",
        0xF19F: "entity",
        0xFF00: "version of ISO 14229-1",
    }
)

#: Answers of these are text in practice; others are shown in hexadecimal.
TEXT_DIDS = frozenset(
    {
        0xF180, 0xF181, 0xF182, 0xF187, 0xF188, 0xF189, 0xF18A, 0xF18C, 0xF18E, 0xF18F, 0xF190, 0xF191, 0xF192, 0xF193,
        0xF194, 0xF195, 0xF196, 0xF197, 0xF198, 0xF19A, 0xF19C, 0xF19E,
    }
)  # fmt: skip

ROUTINE_NAMES: Mapping[int, str] = MappingProxyType(
    {
        0x0202: "check memory",
        0x0203: "check programming preconditions",
        0xE200: "deploy loop routine",
        0xFF00: "erase memory",
        0xFF01: "check programming dependencies",
        0xFF02: "erase mirror memory DTCs",
    }
)

SESSION_NAMES: Mapping[int, str] = MappingProxyType(
    {
        Session.DEFAULT: "default",
        Session.PROGRAMMING: "programming",
        Session.EXTENDED: "extended",
        Session.SAFETY: "safety",
    }
)


def service_name(sid: int) -> str:
    """``read DTCs (0x19)``; OBD modes and unknown ones by number."""
    if sid in SERVICE_NAMES:
        return f"{SERVICE_NAMES[sid]} (0x{sid:02X})"
    return f"OBD mode 0x{sid:02X}" if 1 <= sid <= 0x0A else f"service 0x{sid:02X}"


def nrc_name(nrc: int) -> str:
    """What a negative response code means."""
    if nrc in NRC_NAMES:
        return NRC_NAMES[nrc]
    if 0xF0 <= nrc <= 0xFE:
        return "conditions not correct (maker's)"
    return "reserved code"


def did_name(did: int) -> str:
    """What an identifier is; empty where the standard leaves it to the maker."""
    if did in DID_NAMES:
        return DID_NAMES[did]
    if 0xF200 <= did <= 0xF2FF:
        return "periodic data"
    if 0xF300 <= did <= 0xF3FF:
        return "dynamically defined data"
    if 0xF400 <= did <= 0xF5FF:
        return "OBD data"
    return ""


def session_name(session: int) -> str:
    """``extended``, or the number of one the standard does not name."""
    return SESSION_NAMES.get(session, f"0x{session:02X}")

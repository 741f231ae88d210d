"""Sessions, reset, security access, communication control, tester present, timing, DTC setting, link control."""

from __future__ import annotations

from gateway.uds.codec.query import Answer, Query, Reader, byte, nothing, number, query, sub_function
from gateway.uds.names import Sid


class SessionStarted(Answer, frozen=True):
    """The ECU's timing in the new session; None where it tells none (ISO 14229 before 2006)."""

    session: int
    p2_ms: int | None
    p2_star_ms: int | None


def session(kind: int) -> Query[SessionStarted]:
    """0x10: enter a session."""

    def read(reader: Reader) -> SessionStarted:
        entered = reader.number(1, "session")
        if not reader.left:
            return SessionStarted(entered, None, None)
        p2_ms, p2_star_ms = reader.number(2, "P2"), reader.number(2, "P2*") * 10
        reader.end()
        return SessionStarted(entered, p2_ms, p2_star_ms)

    return query(bytes([Sid.SESSION]) + sub_function(kind), 1, read)


def reset(kind: int) -> Query[int | None]:
    """0x11: seconds until power-down where the ECU tells (sub-function 4; 0xFF: it does not know), else None."""

    def read(reader: Reader) -> int | None:
        reader.take(1, "echo")
        seconds = reader.number(1, "power-down time") if reader.left else None
        reader.end()
        return seconds

    return query(bytes([Sid.RESET]) + sub_function(kind), 1, read)


def request_seed(level: int, data: bytes = b"") -> Query[bytes]:
    """0x27, odd: the seed; all zero when the level is open already.

    Raises:
        ValueError: an even level.
    """
    if not level & 1:
        raise ValueError(f"security level {level:#x}: seeds are asked for with an odd one")

    def read(reader: Reader) -> bytes:
        reader.take(1, "echo")
        return reader.rest()

    return query(bytes([Sid.SECURITY_ACCESS]) + sub_function(level) + data, 1, read)


def send_key(level: int, key: bytes) -> Query[None]:
    """0x27, even: open the level below with a key."""
    if level & 1:
        raise ValueError(f"security level {level:#x}: keys are sent with an even one")
    return query(bytes([Sid.SECURITY_ACCESS]) + sub_function(level) + key, 1, nothing(1))


def communication_control(control: int, kind: int = 1, node: int | None = None) -> Query[None]:
    """0x28: ``control`` 0 on, 1 receive only, 2 send only, 3 off, 4 and 5 with a ``node`` of a subnet.

    ``kind``: 1 normal messages, 2 network management, 3 both; the high nibble chooses the subnet (0: all).
    """
    if (node is not None) != (control in (4, 5)):
        raise ValueError("a node is named with control 4 and 5, and only there")
    suffix = b"" if node is None else number(node, 2, "node")
    request = bytes([Sid.COMMUNICATION_CONTROL]) + sub_function(control) + byte(kind, "communication type") + suffix
    return query(request, 1, nothing(1))


def tester_present() -> Query[None]:
    """0x3E."""
    return query(bytes([Sid.TESTER_PRESENT, 0]), 1, nothing(1))


def timing(access: int, record: bytes = b"") -> Query[bytes]:
    """0x83: 1 read the possible, 2 set defaults, 3 read the current, 4 set the given ``record``; answers a record."""
    if bool(record) != (access == 4):
        raise ValueError("a timing record goes with access 4, and only there")

    def read(reader: Reader) -> bytes:
        reader.take(1, "echo")
        return reader.rest()

    return query(bytes([Sid.TIMING]) + sub_function(access) + record, 1, read)


def dtc_setting(setting: int, record: bytes = b"") -> Query[None]:
    """0x85: 1 on, 2 off."""
    return query(bytes([Sid.DTC_SETTING]) + sub_function(setting) + record, 1, nothing(1))


def verify_fixed_baudrate(identifier: int) -> Query[None]:
    """0x87 01: may the link go to a rate of annex B.3 (0x12: 500 kbit/s)."""
    return query(bytes([Sid.LINK_CONTROL, 1]) + byte(identifier, "baud rate identifier"), 1, nothing(1))


def verify_baudrate(bits_per_second: int) -> Query[None]:
    """0x87 02: may the link go to any rate."""
    return query(bytes([Sid.LINK_CONTROL, 2]) + number(bits_per_second, 3, "baud rate"), 1, nothing(1))


def transition_baudrate() -> Query[None]:
    """0x87 03: go to the verified rate. Ask with the answer suppressed: it would come at either rate."""
    return query(bytes([Sid.LINK_CONTROL, 3]), 1, nothing(1))

"""Data by identifier and by address: 0x22, 0x23, 0x24, 0x2A, 0x2C, 0x2E, 0x2F, 0x31, 0x3D."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from enum import IntEnum

from gateway.uds.codec.query import Answer, Query, Reader, byte, memory, nothing, number, query, sub_function
from gateway.uds.names import POSITIVE_BIT, Sid

#: Bytes of each identifier's data: a table, or a function that answers None for unknown ones.
Lengths = Mapping[int, int] | Callable[[int], int | None]


def length_of(lengths: Lengths | None, identifier: int) -> int | None:
    """Look one up in either form."""
    if lengths is None:
        return None
    return lengths.get(identifier) if isinstance(lengths, Mapping) else lengths(identifier)


def read_did(did: int) -> Query[bytes]:
    """0x22 with one identifier: its data."""

    def read(reader: Reader) -> bytes:
        reader.take(2, "identifier")
        return reader.rest()

    return query(bytes([Sid.READ_DID]) + number(did, 2, "identifier"), 2, read)


def read_dids(dids: Sequence[int], lengths: Lengths | None) -> Query[dict[int, bytes]]:
    """0x22 with several: the data of those the ECU has (it leaves out others), which may be fewer than asked for.

    Raises:
        ValueError: none, one twice, or the length of one before the last is unknown: where its data ends, nobody could
            tell.
    """
    if not dids or len(set(dids)) != len(dids):
        raise ValueError("one or more different identifiers")
    if unknown := [did for did in dids[:-1] if length_of(lengths, did) is None]:
        raise ValueError(f"the length of 0x{unknown[0]:04X} is not known; read it alone or last")
    asked = [number(did, 2, "identifier") for did in dids]

    def read(reader: Reader) -> dict[int, bytes]:
        found: dict[int, bytes] = {}
        while reader.left:
            did = reader.number(2, "identifier")
            if did not in dids or did in found:
                raise reader.fail(f"identifier 0x{did:04X} was not asked for, or comes twice")
            length = length_of(lengths, did)
            found[did] = reader.take(reader.left if length is None else length, f"data of 0x{did:04X}")
        return found

    answer = bytes([Sid.READ_DID | POSITIVE_BIT])
    return Query(bytes([Sid.READ_DID]) + b"".join(asked), tuple(answer + did for did in asked), read)


def read_memory(
    address: int, size: int, address_bytes: int | None = None, size_bytes: int | None = None
) -> Query[bytes]:
    """0x23: ``size`` bytes from ``address``."""

    def read(reader: Reader) -> bytes:
        content = reader.take(size, "memory")
        reader.end()
        return content

    return query(bytes([Sid.READ_MEMORY]) + memory(address, size, address_bytes, size_bytes), 0, read)


def write_memory(
    address: int, content: bytes, address_bytes: int | None = None, size_bytes: int | None = None
) -> Query[None]:
    """0x3D: write ``content`` at ``address``."""
    place = memory(address, len(content), address_bytes, size_bytes)
    return query(bytes([Sid.WRITE_MEMORY]) + place + content, len(place), nothing(len(place)))


def write_did(did: int, content: bytes) -> Query[None]:
    """0x2E: write an identifier's data."""
    return query(bytes([Sid.WRITE_DID]) + number(did, 2, "identifier") + content, 2, nothing(2))


class IoControl(IntEnum):
    """inputOutputControlParameter of 0x2F."""

    RETURN_CONTROL = 0
    RESET_TO_DEFAULT = 1
    FREEZE = 2
    ADJUST = 3


def io_control(did: int, control: int, state: bytes = b"", mask: bytes = b"") -> Query[bytes]:
    """0x2F: take over, or give back, an input or output; answers its status."""

    def read(reader: Reader) -> bytes:
        reader.take(3, "echo")
        return reader.rest()

    request = bytes([Sid.IO_CONTROL]) + number(did, 2, "identifier") + byte(control, "control parameter")
    return query(request + state + mask, 3, read)


class Routine(IntEnum):
    """Sub-functions of 0x31."""

    START = 1
    STOP = 2
    RESULT = 3


def routine(action: int, identifier: int, option: bytes = b"") -> Query[bytes]:
    """0x31: what follows the identifier in the answer (routineInfo, where there is one, and the status record)."""

    def read(reader: Reader) -> bytes:
        reader.take(3, "echo")
        return reader.rest()

    request = bytes([Sid.ROUTINE]) + sub_function(action) + number(identifier, 2, "routine")
    return query(request + option, 3, read)


class Rate(IntEnum):
    """transmissionMode of 0x2A; how fast each is, the ECU's description tells."""

    SLOW = 1
    MEDIUM = 2
    FAST = 3
    STOP = 4


def periodic(rate: int, identifiers: Collection[int] = ()) -> Query[None]:
    """0x2A: send identifiers 0xF2xx (given as such or as their low byte) by itself; none with ``STOP`` stops all."""
    low = [did & 0xFF if did >> 8 in (0, 0xF2) else -1 for did in identifiers]
    if -1 in low or (not low and rate != Rate.STOP):
        raise ValueError("periodic identifiers are 0xF200-0xF2FF, at least one")
    return query(bytes([Sid.READ_PERIODIC]) + byte(rate, "transmission mode") + bytes(low), 0, nothing(0))


class PeriodicMessage(Answer, frozen=True):
    """One message of 0x2A: the identifier (0xF2xx) and its data."""

    did: int
    data: bytes


def read_periodic_message(pdu: bytes) -> PeriodicMessage | None:
    """Take apart a message sent by itself; None when it is none of 0x2A.

    On the response identifier it begins with 0x6A (type 1); on an identifier of its own with the periodic identifier
    (type 2, which has no SID and is told from an answer by where it came from).
    """
    if len(pdu) >= 2 and pdu[0] == Sid.READ_PERIODIC | POSITIVE_BIT:
        return PeriodicMessage(0xF200 | pdu[1], pdu[2:])
    return None


class DidSource(Answer, frozen=True):
    """A piece of another identifier: ``position`` counts from 1."""

    did: int
    position: int
    size: int


class MemorySource(Answer, frozen=True):
    """A piece of memory."""

    address: int
    size: int


def define_did(did: int, sources: Sequence[DidSource]) -> Query[None]:
    """0x2C 01: make an identifier of pieces of others."""
    if not sources:
        raise ValueError("an identifier of no pieces")
    request = bytes([Sid.DEFINE_DID, 1]) + number(did, 2, "identifier")
    for source in sources:
        request += number(source.did, 2, "identifier") + byte(source.position, "position") + byte(source.size, "size")
    return query(request, 3, nothing(3))


def define_did_by_memory(
    did: int, sources: Sequence[MemorySource], address_bytes: int = 4, size_bytes: int = 2
) -> Query[None]:
    """0x2C 02: make an identifier of pieces of memory."""
    if not sources:
        raise ValueError("an identifier of no pieces")
    request = bytes([Sid.DEFINE_DID, 2]) + number(did, 2, "identifier") + bytes([size_bytes << 4 | address_bytes])
    for source in sources:
        request += number(source.address, address_bytes, "address") + number(source.size, size_bytes, "size")
    return query(request, 3, nothing(3))


def clear_did(did: int | None = None) -> Query[None]:
    """0x2C 03: forget one defined identifier, or all."""
    if did is None:
        return query(bytes([Sid.DEFINE_DID, 3]), 1, nothing(1))
    return query(bytes([Sid.DEFINE_DID, 3]) + number(did, 2, "identifier"), 3, nothing(3))

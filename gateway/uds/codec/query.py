"""What a service's codec hands to a client, and the reading of answers byte by byte."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from gateway.uds.errors import MalformedAnswer
from gateway.uds.exchange import positive_prefix

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Answer(msgspec.Struct, frozen=True):
    """Base of what answers become."""


class Reader:
    """Takes an answer apart from the front.

    Every method raises ``MalformedAnswer`` when there is less than asked for.
    """

    __slots__ = ("_at", "_pdu")

    def __init__(self, pdu: bytes, at: int = 1) -> None:
        """Begin at offset ``at`` (after the SID)."""
        self._pdu, self._at = pdu, at

    @property
    def left(self) -> int:
        """Bytes not yet taken."""
        return len(self._pdu) - self._at

    def take(self, count: int, what: str) -> bytes:
        """The next ``count`` bytes."""
        if self.left < count:
            raise MalformedAnswer(self._pdu, f"{what} needs {count} bytes, {max(self.left, 0)} are left")
        self._at += count
        return self._pdu[self._at - count : self._at]

    def number(self, count: int, what: str) -> int:
        """An unsigned number of ``count`` bytes, most significant first."""
        return int.from_bytes(self.take(count, what), "big")

    def sized(self, what: str, length_bytes: int = 2) -> bytes:
        """Bytes preceded by their count."""
        return self.take(self.number(length_bytes, f"length of {what}"), what)

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(self.left, "rest")

    def end(self) -> None:
        """Nothing may be left."""
        if self.left:
            raise MalformedAnswer(self._pdu, f"{self.left} bytes too many")

    def fail(self, problem: str) -> MalformedAnswer:
        """The error for something wrong with the content."""
        return MalformedAnswer(self._pdu, problem)


@dataclass(frozen=True, slots=True)
class Query(Generic[T_co]):
    """A request, how to know its answer, and how to read it.

    ``read`` gets a ``Reader`` after the SID of the answer; whatever the bytes, it raises nothing but
    ``MalformedAnswer``.
    """

    request: bytes
    prefixes: tuple[bytes, ...]
    read: Callable[[Reader], T_co]

    def decode(self, pdu: bytes) -> T_co:
        """Read a positive answer.

        Raises:
            MalformedAnswer: it is none of this request.
        """
        if not any(pdu.startswith(prefix) for prefix in self.prefixes):
            raise MalformedAnswer(pdu, "does not repeat what was asked")
        return self.read(Reader(pdu))


def query(request: bytes, echo: int, read: Callable[[Reader], T]) -> Query[T]:
    """A query whose answer repeats the first ``echo`` bytes after the SID."""
    return Query(request, (positive_prefix(request, echo),), read)


def nothing(skip: int) -> Callable[[Reader], None]:
    """Reads an answer that says no more than yes: ``skip`` bytes of echo."""

    def read(reader: Reader) -> None:
        reader.take(skip, "echo")
        reader.end()

    return read


def number(value: int, count: int, what: str) -> bytes:
    """An unsigned number of ``count`` bytes for a request.

    Raises:
        ValueError: it does not fit.
    """
    if not 0 <= value < 1 << 8 * count:
        raise ValueError(f"{what} {value:#x} does not fit {count} bytes")
    return value.to_bytes(count, "big")


def byte(value: int, what: str) -> bytes:
    """One byte for a request."""
    return number(value, 1, what)


def sub_function(value: int, *, suppress: bool = False) -> bytes:
    """A sub-function with its suppress bit.

    Raises:
        ValueError: not 7 bits.
    """
    if not 0 <= value <= 0x7F:
        raise ValueError(f"sub-function {value:#x} is not within 0x00-0x7F")
    return bytes([value | (0x80 if suppress else 0)])


def sized(content: bytes, what: str) -> bytes:
    """Content preceded by its 2-byte length."""
    return number(len(content), 2, f"length of {what}") + content


def memory(address: int, size: int, address_bytes: int | None = None, size_bytes: int | None = None) -> bytes:
    """addressAndLengthFormatIdentifier, address, size; as few bytes as they need unless told.

    Raises:
        ValueError: they do not fit.
    """
    address_bytes = address_bytes or max(1, (address.bit_length() + 7) // 8)
    size_bytes = size_bytes or max(1, (size.bit_length() + 7) // 8)
    if not 1 <= address_bytes <= 15 or not 1 <= size_bytes <= 15:
        raise ValueError("addresses and sizes have 1 to 15 bytes")
    return (
        bytes([size_bytes << 4 | address_bytes])
        + number(address, address_bytes, "address")
        + number(size, size_bytes, "size")
    )

"""Headers judged, and messages found in a stream of bytes, with memory bounded before anything is stored. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from gateway.doip.messages import (
    FATAL,
    HEADER,
    HEADER_BYTES,
    IDENTIFICATION_REQUESTS,
    LENGTHS,
    V2012,
    V_ANY,
    VERSIONS,
    HeaderNackCode,
    Message,
    decode,
    length_fits,
)


class Header(msgspec.Struct, frozen=True):
    """The first eight bytes, their pattern found right."""

    version: int
    payload_type: int
    length: int


class Received(msgspec.Struct, frozen=True):
    """One whole message."""

    version: int
    message: Message


class Refused(msgspec.Struct, frozen=True):
    """A header that gets a nack; when it ``is_fatal``, nothing after it can be understood."""

    version: int  # to answer with
    payload_type: int
    length: int
    code: HeaderNackCode

    @property
    def is_fatal(self) -> bool:
        """Whether the connection has to end."""
        return self.code in FATAL


def parse_header(data: bytes | bytearray | memoryview) -> Header | Refused:
    """Judge the pattern of eight bytes: the version we speak, its inverse, and 0xFF only to ask who is there."""
    version, inverse, payload_type, length = HEADER.unpack_from(data)
    is_known = version in VERSIONS or (version == V_ANY and payload_type in IDENTIFICATION_REQUESTS)
    if not is_known or version ^ inverse != 0xFF:
        answer = version if version in VERSIONS else V2012
        return Refused(answer, payload_type, length, HeaderNackCode.INCORRECT_PATTERN)
    return Header(version, payload_type, length)


Judge = Callable[[Header], HeaderNackCode | None]


class StreamParser:
    """Messages out of a stream, whatever the pieces it comes in.

    ``judge`` sees each header before anything of its payload is stored: what it refuses is skipped without being kept,
    so that memory is bounded by what it lets through. Lengths that a type cannot have are refused here.
    """

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._buffer = bytearray()
        self._header: Header | None = None
        self._skip = 0
        self._is_dead = False

    @property
    def buffered(self) -> int:
        """Bytes held of a message that is not whole yet."""
        return len(self._buffer)

    @property
    def is_dead(self) -> bool:
        """Whether a fatal header came; everything after it is ignored."""
        return self._is_dead

    def feed(self, data: bytes) -> Iterator[Received | Refused]:
        """What ``data`` completes, in order. Take all of it: the rest is kept only once the iterator is used up."""
        view, at = memoryview(data), 0
        while not self._is_dead:
            if self._skip:
                step = min(self._skip, len(view) - at)
                self._skip -= step
                at += step
            wanted = HEADER_BYTES if self._header is None else self._header.length
            step = min(wanted - len(self._buffer), len(view) - at)
            self._buffer += view[at : at + step]
            at += step
            if self._skip or len(self._buffer) < wanted:
                return
            if self._header is None:
                if (refused := self._take_header()) is not None:
                    yield refused
            else:
                version, payload_type = self._header.version, self._header.payload_type
                payload = bytes(self._buffer)
                self._buffer.clear()
                self._header = None
                yield Received(version, decode(payload_type, payload))

    def _take_header(self) -> Refused | None:
        header = parse_header(self._buffer)
        self._buffer.clear()
        if isinstance(header, Refused):
            self._is_dead = True
            return header
        code: HeaderNackCode | None
        if header.payload_type not in LENGTHS:
            code = HeaderNackCode.UNKNOWN_TYPE
        elif (code := self._judge(header)) is None and not length_fits(header.payload_type, header.length):
            code = HeaderNackCode.INVALID_LENGTH
        if code is None:
            self._header = header
            return None
        self._skip, self._is_dead = header.length, code in FATAL
        return Refused(header.version, header.payload_type, header.length, code)

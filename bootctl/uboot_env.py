"""The U-Boot environment as bytes: one copy, and the choice between two. No I/O.

A copy is CRC-32 (little endian) of the data, a flag byte where there are two copies, and the data: ``name=value`` ended
by NUL each, one more NUL at the end, padding. The flag is outside the CRC. Of two valid copies the one of the higher
flag counts; 0 is above 255, since the flag is a counter of one byte (U-Boot's "incremental" scheme: MMC, block devices,
UBI, files). Of the "boolean" scheme (NOR flash: 1 active, 0 obsolete) the same comparison reads the right one.

What U-Boot or others keep there is nobody's business here: foreign variables survive byte for byte and in order.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from bootctl.errors import StateError

_CRC_BYTES = 4


@dataclass(frozen=True, slots=True)
class Copy:
    """One valid copy."""

    data: bytes  # without header
    flag: int  # 0 where there is only one copy


def header_bytes(is_redundant: bool) -> int:
    """How long the part before the data is."""
    return _CRC_BYTES + (1 if is_redundant else 0)


def decode(content: bytes, *, is_redundant: bool) -> Copy | None:
    """A copy from all of its bytes; None when the CRC says it is none."""
    head = header_bytes(is_redundant)
    if len(content) <= head:
        return None
    data = content[head:]
    if int.from_bytes(content[:_CRC_BYTES], "little") != zlib.crc32(data):
        return None
    return Copy(data, content[_CRC_BYTES] if is_redundant else 0)


def encode(copy: Copy, *, is_redundant: bool) -> bytes:
    """The bytes of a copy."""
    flag = bytes((copy.flag,)) if is_redundant else b""
    return zlib.crc32(copy.data).to_bytes(_CRC_BYTES, "little") + flag + copy.data


def newer(first: Copy | None, second: Copy | None) -> int | None:
    """Which of two copies counts, 0 or 1; None when neither is valid. With equal flags the first, as U-Boot does."""
    if first is None or second is None:
        return 0 if first is not None else 1 if second is not None else None
    if {first.flag, second.flag} == {0, 255}:
        return 0 if first.flag == 0 else 1
    return 1 if second.flag > first.flag else 0


def variables(data: bytes) -> dict[str, str]:
    """Names and values; the last of a name that is there twice. Bytes that are no UTF-8 survive as surrogates."""
    found = {}
    for entry in _entries(data)[0]:
        name, sign, value = entry.partition(b"=")
        if sign:
            found[_text(name)] = _text(value)
    return found


def changed(data: bytes, changes: Mapping[str, str | None]) -> bytes:
    """``data`` with variables set, or removed (None); as long as before, the rest filled with zeros.

    A variable keeps its place; new ones come last.

    Raises:
        StateError: there is no room.
    """
    todo = {name.encode(): value for name, value in changes.items()}
    made: list[bytes] = []
    for entry in _entries(data)[0]:
        name, sign, _ = entry.partition(b"=")
        if not sign or name not in _names(changes):
            made.append(entry)
        elif name in todo and (value := todo.pop(name)) is not None:
            made.append(name + b"=" + _bytes(value))
    made += [name + b"=" + _bytes(value) for name, value in todo.items() if value is not None]
    content = b"".join(entry + b"\0" for entry in made) + b"\0"
    if not made:
        content = b"\0\0"
    if len(content) > len(data):
        raise StateError(f"the environment is full: {len(content)} bytes do not fit into {len(data)}")
    return content + bytes(len(data) - len(content))


def _names(changes: Mapping[str, str | None]) -> set[bytes]:
    return {name.encode() for name in changes}


def _entries(data: bytes) -> tuple[list[bytes], int]:
    """The entries, and where they end. What is not ended by two NULs ends with the data."""
    entries, place = [], 0
    while place < len(data) and data[place] != 0:
        end = data.find(b"\0", place)
        end = len(data) if end < 0 else end
        entries.append(data[place:end])
        place = end + 1
    return entries, place


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")

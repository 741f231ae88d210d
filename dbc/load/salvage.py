"""Finding the messages that make cantools refuse a whole KCD or SYM file, so that the others can be kept.

Both formats are lists of messages that hardly depend on each other. A file that is refused is tried in halves until
each refused message stands alone. ARXML is a web of references, and is read whole or not at all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from xml.etree import ElementTree

#: A file with more bad messages than this is not worth the search.
MAX_BAD = 20


@dataclass(frozen=True, slots=True)
class Pieces:
    """A file taken apart: names of its messages, and how to write a file with some of them."""

    names: tuple[str, ...]
    with_only: Callable[[Sequence[int]], bytes]


def take_apart(content: bytes, file_format: str) -> Pieces | None:
    """The messages of a file; None where the format or the file does not allow that."""
    if file_format == "kcd":
        return _kcd(content)
    return _sym(content) if file_format == "sym" else None


def bad_pieces(pieces: Pieces, loads: Callable[[bytes], bool]) -> list[int] | None:
    """The messages without which the rest loads; None when that cannot be had.

    Args:
        pieces: The file.
        loads: Whether such content can be loaded.
    """
    if not loads(pieces.with_only([])):
        return None
    good: list[int] = []
    bad: list[int] = []
    pending = [list(range(len(pieces.names)))]
    while pending:
        part = pending.pop()
        if len(bad) > MAX_BAD:
            return None
        if loads(pieces.with_only(sorted(good + part))):
            good += part
        elif len(part) == 1:
            bad += part
        else:
            middle = len(part) // 2
            pending += [part[middle:], part[:middle]]
    return bad


def _kcd(content: bytes) -> Pieces | None:
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError):
        return None
    names = [message.get("name", "") for bus in root for message in bus if message.tag.endswith("}Message")]

    def with_only(wanted: Sequence[int]) -> bytes:
        copy, keep, number = deepcopy(root), set(wanted), 0
        for bus in copy:
            for message in [child for child in bus if child.tag.endswith("}Message")]:
                if number not in keep:
                    bus.remove(message)
                number += 1
        return ElementTree.tostring(copy)

    return Pieces(tuple(names), with_only) if names else None


_BLOCK = re.compile(rb"^\[(.*?)\][^\n]*\n?(?:(?![\[{])[^\n]*\n?)*", re.MULTILINE)


def _sym(content: bytes) -> Pieces | None:
    text = content.replace(b"\r\n", b"\n").rstrip(b"\n") + b"\n"
    blocks = list(_BLOCK.finditer(text))
    names = tuple(block.group(1).decode("cp1252", "replace") for block in blocks)

    def with_only(wanted: Sequence[int]) -> bytes:
        keep, parts, at = set(wanted), [], 0
        for number, block in enumerate(blocks):
            parts.append(text[at : block.start()])
            if number in keep:
                parts.append(block.group())
            at = block.end()
        return b"".join([*parts, text[at:]])

    return Pieces(names, with_only) if names else None

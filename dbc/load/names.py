"""Names that can be parts of ``bus.message.signal``: no dots, no blanks, no two alike."""

from __future__ import annotations

import re
from collections.abc import Set

from dbc.load.model import DefectLog, quote

_UNUSABLE = re.compile(r"\W")


def clean_name(name: str, line: int, log: DefectLog, message: str = "") -> str:
    """The name with every character replaced by ``_`` that is neither letter, digit nor underscore.

    Letters of other scripts stay. A name that begins with a digit is kept, as it means no other.
    """
    cleaned = _UNUSABLE.sub("_", name) or "_"
    where = (message, name) if message else (name, "")
    if cleaned != name:
        log.add("bad_name", line, f"{quote(name)} has characters no name has; called {cleaned}", *where)
    elif name[0].isdigit():
        log.add("name_starts_with_digit", line, "the name begins with a digit", *where)
    return cleaned


def unique_name(wanted: str, taken: Set[str], suffix: str) -> str:
    """``wanted``, or with ``_suffix`` or a further number when it is taken."""
    if wanted not in taken:
        return wanted
    name, count = f"{wanted}_{suffix}", 2
    while name in taken:
        count += 1
        name = f"{wanted}_{suffix}_{count}" if not suffix.isdigit() else f"{wanted}_{count}"
    return name

"""Names and numbers a vehicle sends, checked before they reach the database. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Protocol

from cloud.errors import InvalidInput
from gateway.wire.api import SequenceRange

STREAM = re.compile(r"[A-Za-z0-9._-]{1,64}/[A-Za-z0-9._-]{1,60}")
MAX_SEQUENCE = 1 << 60


class HasLastReceived(Protocol):
    """A stream as far as resolving a short name needs it."""

    last_received_ns: int


def is_stream(name: str) -> bool:
    """Whether ``name`` is ``<spool id>/<stream name>``."""
    return STREAM.fullmatch(name) is not None


def check_range(told: SequenceRange) -> None:
    """Raise ``InvalidInput`` for a range that cannot be."""
    if not is_stream(told.stream):
        raise InvalidInput("a stream is named <spool id>/<stream>", where="stream")
    if not 1 <= told.first <= told.last <= MAX_SEQUENCE:
        raise InvalidInput("a range goes from 1 or more upwards", where="first")


def resolve_stream(name: str, known: Mapping[str, HasLastReceived], spool_id: str = "") -> str | None:
    """The full name of a stream in a ledger, which may leave the spool id out.

    Where the check-in does not tell the spool either (older vehicles), it is the one that received last.
    """
    if name in known:
        return name
    if (full := f"{spool_id}/{name}") in known:
        return full
    candidates: Iterable[str] = (full for full in known if full.partition("/")[2] == name)
    return max(candidates, key=lambda full: (known[full].last_received_ns, full), default=None)

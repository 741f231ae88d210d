"""Query parameters of history requests, checked: each error names the parameter and says what would do."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from cloud.errors import InvalidInput

RESOLUTIONS = ("raw", "1s", "10s", "1m", "1h", "auto")
_MIN_NS, _MAX_NS = -(2**62), 2**62  # far outside what a clock shows, far inside int64


def parse_time(text: str, where: str) -> int:
    """UTC nanoseconds from an RFC 3339 time with a zone, or from milliseconds since the epoch.

    Raises:
        InvalidInput: neither.
    """
    text = text.strip()
    if re.fullmatch(r"-?\d{1,17}(\.\d{1,6})?", text):
        whole, _, fraction = text.partition(".")
        sign = -1 if whole.startswith("-") else 1
        time_ns = int(whole) * 1_000_000 + sign * int(fraction.ljust(6, "0") or 0)
    else:
        try:
            moment = datetime.fromisoformat(text.replace(" ", "+"))  # an unescaped "+" arrives as a blank
        except ValueError:
            hint = "2026-01-31T12:00:00Z or milliseconds since 1970"
            raise InvalidInput(f"{text[:60]!r} is no time; write {hint}", where=where) from None
        if moment.tzinfo is None:
            raise InvalidInput(f"{text[:60]!r} has no time zone; add Z or +01:00", where=where)
        since = moment - datetime(1970, 1, 1, tzinfo=UTC)
        time_ns = (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1_000
    if not _MIN_NS <= time_ns <= _MAX_NS:
        raise InvalidInput("the time is out of range", where=where)
    return time_ns


def format_time(time_ns: int) -> str:
    """RFC 3339 in UTC with as many decimals as needed (3, 6 or 9)."""
    seconds, rest_ns = divmod(time_ns, 1_000_000_000)
    moment = datetime(1970, 1, 1, tzinfo=UTC).timestamp() + seconds
    text = datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0")
    decimals = f"{rest_ns:09d}"
    if decimals.endswith("000000"):
        decimals = decimals[:3]
    elif decimals.endswith("000"):
        decimals = decimals[:6]
    return f"{text}.{decimals}Z"


def parse_cursor(text: str) -> tuple[int, int]:
    """``(time_ns, samples of that time already given)`` from a cursor of an earlier answer."""
    match = re.fullmatch(r"(-?\d{1,19})\.(\d{1,9})", text)
    if match is None or abs(int(match[1])) > _MAX_NS:
        raise InvalidInput("not a cursor of an earlier answer", where="query.cursor")
    return int(match[1]), int(match[2])


def check_limit(limit: int, at_most: int) -> int:
    """A number of points within bounds."""
    if not 1 <= limit <= at_most:
        raise InvalidInput(f"between 1 and {at_most} points", where="query.limit")
    return limit


def check_resolution(resolution: str) -> str:
    """One of ``RESOLUTIONS``."""
    if resolution not in RESOLUTIONS:
        raise InvalidInput(f"one of {', '.join(RESOLUTIONS)}", where="query.resolution")
    return resolution

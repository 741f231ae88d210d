"""Many records that say the same become one with a count, so that a flood of requests does not wash the log out.

The first is kept at once. Those alike within the next seconds are counted and kept as one when the time is over. Alike
are refusals of one service, by one rule, for one tester and target; of what was allowed, only the same request. No I/O;
times are UTC.
"""

from __future__ import annotations

import msgspec

from gateway.firewall.audit import Record
from gateway.firewall.core import AuditEntry
from gateway.firewall.state import SECOND_NS, key_of

WINDOW_NS = 10 * SECOND_NS
MAX_KINDS = 256  # of records counted at a time; the oldest makes room
_BY_REQUEST = frozenset({"write", "read"})
_REQUEST_DIGITS = 8  # service, and identifier or sub-function


class Condenser:
    """Takes entries, gives records. A window begins with the first of a kind."""

    def __init__(self) -> None:
        self._windows: dict[tuple[object, ...], Record] = {}  # count: how many beyond the first

    def add(self, entry: AuditEntry, now_ns: int) -> list[Record]:
        """What is to be written now."""
        what = entry.request[:_REQUEST_DIGITS] if entry.kind in _BY_REQUEST else entry.detail if not entry.sid else ""
        key = (entry.kind, key_of(entry.tester), entry.target, entry.sid, entry.rule, what)
        written = self.due(now_ns)
        window = self._windows.get(key)
        if window is not None:
            detail = entry.detail or window.detail
            self._windows[key] = msgspec.structs.replace(
                window, count=window.count + 1, until_ns=now_ns, request=entry.request, detail=detail
            )
            return written
        record = _record(entry, now_ns)
        if len(self._windows) >= MAX_KINDS:
            written += self._close([next(iter(self._windows))])
        self._windows[key] = msgspec.structs.replace(record, count=0)
        return [*written, record]

    def due(self, now_ns: int) -> list[Record]:
        """Windows that are over."""
        over = []
        for key, window in self._windows.items():  # in order of their beginning
            if 0 <= now_ns - window.at_ns < WINDOW_NS:
                break
            over.append(key)
        return self._close(over)

    def flush(self) -> list[Record]:
        """All that was counted, at the end."""
        return self._close(list(self._windows))

    def _close(self, keys: list[tuple[object, ...]]) -> list[Record]:
        return [window for key in keys if (window := self._windows.pop(key)).count]


def _record(entry: AuditEntry, now_ns: int) -> Record:
    tester = entry.tester
    return Record(
        number=0,
        at_ns=now_ns,
        kind=entry.kind,
        port=tester.port,
        tester=tester.address,
        name=tester.name[:200],
        peer=tester.peer[:100],
        is_secure=tester.is_secure,
        target=entry.target,
        request=entry.request,
        rule=entry.rule,
        nrc=entry.nrc,
        detail=entry.detail[:500],
        is_functional=entry.is_functional,
    )

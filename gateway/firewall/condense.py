"""Many records that say the same become one with a count, so that a flood of requests does not wash the log out.

The first is kept at once. Those alike within the next seconds are counted and kept as one when the time is over. Alike
are refusals of one service, by one rule, for one tester and target; of what was allowed, only the same request. Whoever
varies his requests so that none are alike spends an allowance of records; beyond it only kind and port are told apart.
No I/O; times are UTC.
"""

from __future__ import annotations

import msgspec

from gateway.firewall.audit import Record
from gateway.firewall.core import AuditEntry
from gateway.firewall.state import SECOND_NS, key_of

WINDOW_NS = 10 * SECOND_NS
MAX_KINDS = 256  # of records counted at a time; the oldest makes room
_BY_REQUEST = frozenset({"write", "read"})
#: Hexadecimal digits of a request that tell it apart: service and identifier, or service and sub-function.
_DIGITS = {0x22: 6, 0x23: 2, 0x2E: 6, 0x2F: 6, 0x31: 8, 0x34: 2, 0x35: 2, 0x36: 2, 0x3D: 2}
_DIGITS_OTHERS = 4
#: Records at once, and per second after that: of what was refused, and of what was allowed or happened.
_REFUSED, _OTHER = (200, 0.2), (1000, 1.0)
_IS_REFUSED = frozenset({"refuse", "drop", "observed"})


class _Allowance:
    """A token bucket on a clock that may jump."""

    def __init__(self, burst: int, per_s: float) -> None:
        self._burst, self._per_s = burst, per_s
        self._tokens, self._since_ns = float(burst), 0

    def take(self, now_ns: int) -> bool:
        """Whether one more may be kept."""
        passed_s = max(0, now_ns - self._since_ns) / SECOND_NS
        self._tokens, self._since_ns = min(self._burst, self._tokens + passed_s * self._per_s), now_ns
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Condenser:
    """Takes entries, gives records. A window begins with the first of a kind."""

    def __init__(self) -> None:
        self._windows: dict[tuple[object, ...], Record] = {}  # count: how many beyond the first
        self._refused, self._other = _Allowance(*_REFUSED), _Allowance(*_OTHER)

    def add(self, entry: AuditEntry, now_ns: int) -> list[Record]:
        """What is to be written now."""
        written = self.due(now_ns)
        key = _key(entry)
        if self._count(key, entry, now_ns):
            return written
        allowance = self._refused if entry.kind in _IS_REFUSED else self._other
        if not allowance.take(now_ns):
            key = (entry.kind, entry.tester.port)
            if self._count(key, entry, now_ns):
                return written
        record = _record(entry, now_ns)
        if len(self._windows) >= MAX_KINDS:
            written += self._close([next(iter(self._windows))])
        self._windows[key] = msgspec.structs.replace(record, count=0)
        return [*written, record]

    def _count(self, key: tuple[object, ...], entry: AuditEntry, now_ns: int) -> bool:
        """Count it with those alike; False when it is the first."""
        window = self._windows.get(key)
        if window is None:
            return False
        latest = _record(entry, window.at_ns)
        self._windows[key] = msgspec.structs.replace(latest, count=window.count + 1, until_ns=now_ns)
        return True

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


def _key(entry: AuditEntry) -> tuple[object, ...]:
    """What is the same in records that are alike."""
    if entry.kind in _BY_REQUEST:
        what = entry.request[: _DIGITS.get(entry.sid, _DIGITS_OTHERS)]
    else:
        what = "" if entry.kind in _IS_REFUSED else entry.detail
    return entry.kind, key_of(entry.tester), entry.target, entry.sid, entry.rule, what


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

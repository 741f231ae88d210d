"""Against guessing: wrong keys (0x27) and failed authentications (0x29) lock out, longer each time.

Counted per tester at a target, and per target over all testers, since a source address is easily changed. After a
lockout each further failure is the next one; opening one level does not excuse wrong keys for another. Counts survive
restarts: time locked out that was left is waited for again. Bounded: the oldest tester's count makes room, the
target's stays.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import msgspec

from gateway.firewall.policy import SecurityAccessSection
from gateway.firewall.state import SECOND_NS, TesterKey

MAX_TESTERS = 256
MINUTE_NS = 60 * SECOND_NS
MAX_DOUBLINGS = 40
_WRONG_KEY, _TOO_MANY = 0x35, 0x36


class SavedCount(msgspec.Struct, frozen=True, kw_only=True):
    """One count on disk. ``tester`` is None for the target's own."""

    target: int
    tester: tuple[str, int, str] | None
    failures: int
    lockouts: int
    remaining_ns: int
    levels: tuple[int, ...] = ()


@dataclass(slots=True)
class _Count:
    levels: set[int] = field(default_factory=set)  # whose keys were wrong (odd, as in the seed request; 0: 0x29)
    failures: int = 0
    lockouts: int = 0  # in a row; each doubles the next
    until_ns: int = 0
    last_ns: int = 0


@dataclass(slots=True)
class _Seeds:
    given_ns: deque[int] = field(default_factory=deque)


class Guard:
    """Counts failures and says who must wait."""

    def __init__(self, settings: SecurityAccessSection) -> None:
        self._settings = settings
        self._counts: dict[tuple[int, TesterKey | None], _Count] = {}
        self._seeds: dict[int, _Seeds] = {}
        self.has_changed = False  # since ``saved`` was last called

    def must_wait(self, tester: TesterKey, target: int, now_ns: int) -> str:
        """Why this tester must wait with 0x27 and 0x29 there; empty when it need not."""
        for who, key in (("this tester", tester), ("all testers", None)):
            count = self._counts.get((target, key))
            if count is not None and now_ns < count.until_ns:
                return f"locked out for {who}, {(count.until_ns - now_ns) // SECOND_NS + 1} s to go"
        return ""

    def take_seed(self, target: int, now_ns: int) -> bool:
        """Whether one more seed may be asked for; if so it counts."""
        given = self._seeds.setdefault(target, _Seeds()).given_ns
        while given and now_ns - given[0] >= MINUTE_NS:
            given.popleft()
        if len(given) >= self._settings.max_seeds_per_minute:
            return False
        given.append(now_ns)
        return True

    def answered(self, tester: TesterKey, target: int, pdu: bytes, sub: int, now_ns: int) -> str:
        """An ECU answered a request with sub-function ``sub``; returns what to record ("locked out …"), or nothing."""
        if pdu[0] == 0x67 and len(pdu) > 1 and pdu[1] and pdu[1] % 2 == 0:
            self._succeeded(tester, target, pdu[1] - 1)
        elif len(pdu) >= 3 and pdu[0] == 0x7F and _is_failure(pdu[1], pdu[2]):
            return self._failed(tester, target, (sub - 1) | 1 if pdu[1] == 0x27 else 0, now_ns)
        return ""

    def _succeeded(self, tester: TesterKey, target: int, level: int) -> None:
        for key in (tester, None):
            count = self._counts.get((target, key))
            if count is not None and level in count.levels:
                self.has_changed = True
                count.levels.discard(level)
                if not count.levels:
                    del self._counts[target, key]

    def _failed(self, tester: TesterKey, target: int, level: int, now_ns: int) -> str:
        limits = self._settings.max_failed_keys, self._settings.max_failed_keys_per_target
        told = ""
        for key, limit in zip((tester, None), limits, strict=True):
            count = self._count(target, key, now_ns)
            count.failures, count.last_ns = count.failures + 1, now_ns
            count.levels.add(level)
            if count.failures >= limit:
                seconds = self._settings.lockout_s * 2 ** min(count.lockouts, MAX_DOUBLINGS)
                seconds = min(seconds, self._settings.max_lockout_s)
                count.until_ns = now_ns + int(seconds * SECOND_NS)
                count.failures, count.lockouts = limit - 1, count.lockouts + 1  # as ISO 14229-1: one more try
                told = f"locked out for {seconds:g} s" + ("" if key else ", all testers")
        self.has_changed = True
        return told

    def _count(self, target: int, key: TesterKey | None, now_ns: int) -> _Count:
        count = self._counts.pop((target, key), None)
        if (
            count is not None
            and now_ns - max(count.last_ns, count.until_ns) > self._settings.forget_after_s * SECOND_NS
        ):
            count = None
        if count is None:
            count = _Count()
            if key is not None:
                self._make_room()
        self._counts[target, key] = count  # the most recent is last
        return count

    def _make_room(self) -> None:
        testers = [place for place in self._counts if place[1] is not None]
        if len(testers) >= MAX_TESTERS:
            del self._counts[testers[0]]

    def saved(self, now_ns: int) -> tuple[SavedCount, ...]:
        """What must survive a restart; ``has_changed`` is reset."""
        self.has_changed = False
        return tuple(
            SavedCount(
                target=target,
                tester=key,
                failures=count.failures,
                lockouts=count.lockouts,
                remaining_ns=max(0, count.until_ns - now_ns),
                levels=tuple(sorted(count.levels)),
            )
            for (target, key), count in self._counts.items()
        )

    def restore(self, saved: tuple[SavedCount, ...], now_ns: int) -> None:
        """Go on from what was saved. A lockout begins again with the time that was left of it."""
        longest_ns = int(self._settings.max_lockout_s * SECOND_NS)
        for entry in saved[: 2 * MAX_TESTERS]:
            self._counts[entry.target, entry.tester] = _Count(
                failures=max(0, entry.failures),
                lockouts=max(0, entry.lockouts),
                until_ns=now_ns + max(0, min(entry.remaining_ns, longest_ns)),
                last_ns=now_ns,
                levels=set(entry.levels),
            )


def _is_failure(sid: int, nrc: int) -> bool:
    """0x27 with a wrong key; 0x29 with any of the authentication's own refusals (0x50-0x5D)."""
    return (sid == 0x27 and nrc in (_WRONG_KEY, _TOO_MANY)) or (sid == 0x29 and 0x50 <= nrc <= 0x5D)

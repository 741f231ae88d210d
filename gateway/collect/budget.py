"""The byte budget of a day: how much was spent, how much of it may be spent by now, and how short that leaves us.

A core. The keeper counts bytes as they are stored for upload and answers with a degradation level (``levels``). The
day is the UTC day. Its bytes are released little by little (``pacing``), so that a noisy morning does not silence the
evening, and a part is kept for critical data.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from gateway.wire.batch import Priority
from gateway.wire.samples import Event, EventKind

DAY_NS = 86_400_000_000_000
Fraction = Annotated[float, Meta(ge=0, le=1)]

#: Level n is entered when this share of the released bytes is spent.
_THRESHOLDS = (0.80, 0.88, 0.93, 0.97, 1.0)
_HYSTERESIS = 0.05
_REMEMBERED_DAYS = 4


class BudgetConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a day may cost. ``bytes_per_day`` 0 means no budget.

    ``pacing`` 0 releases the whole day at once, 1 releases it evenly over the day after ``head_start`` of it.
    """

    bytes_per_day: Annotated[int, Meta(ge=0)] = 0
    critical_reserve: Fraction = 0.1
    pacing: Fraction = 0.7
    head_start: Fraction = 0.2


class BudgetState(msgspec.Struct, array_like=True):
    """What must survive a restart; the owner stores it with its other state."""

    day: int = -1  # days since the epoch, UTC
    spent_bytes: int = 0  # of normal and bulk
    critical_bytes: int = 0
    level: int = 0
    refused_items: int = 0  # since the ledger began
    seen_days: tuple[int, ...] = ()  # the latest days counted on


class BudgetKeeper:
    """Keeps the count of one vehicle.

    Args:
        state: of an earlier run, or None.
    """

    def __init__(self, config: BudgetConfig, state: BudgetState | None = None) -> None:
        self.config = config
        self.state = state or BudgetState()
        self._events: list[Event] = []

    def spent(self, priority: Priority, size_bytes: int, now_ns: int) -> int:
        """Count bytes; returns the level that follows.

        Raises:
            ValueError: negative size.
        """
        if size_bytes < 0:
            raise ValueError("negative size")
        self._turn_day(now_ns)
        if priority == Priority.CRITICAL:
            self.state.critical_bytes += size_bytes
        else:
            self.state.spent_bytes += size_bytes
        return self.level(now_ns)

    def refused(self, items: int) -> None:
        """Count items that were not collected because of the budget."""
        self.state.refused_items += items

    def level(self, now_ns: int) -> int:
        """The degradation level now; a change of it leaves an event."""
        self._turn_day(now_ns)
        level = self._wanted(now_ns)
        if level != self.state.level:
            self._events.append(
                Event(
                    now_ns,
                    EventKind.BUDGET,
                    "budget",
                    f"level {level}, was {self.state.level}; {self.total_bytes} of {self.config.bytes_per_day} B spent",
                )
            )
            self.state.level = level
        return level

    @property
    def total_bytes(self) -> int:
        """Spent this day, all priorities."""
        return self.state.spent_bytes + self.state.critical_bytes

    def released_bytes(self, now_ns: int) -> int:
        """How many bytes all but the reserve may have cost by now."""
        config = self.config
        usable = config.bytes_per_day * (1 - config.critical_reserve)
        elapsed = (now_ns % DAY_NS) / DAY_NS
        paced = config.head_start + (1 - config.head_start) * elapsed
        return int(usable * ((1 - config.pacing) + config.pacing * paced))

    def next_change_ns(self, now_ns: int) -> int | None:
        """When to ask ``level`` again although nothing is spent; None while there is no shortage."""
        if not self.config.bytes_per_day or not self.state.level:
            return None
        return min(now_ns + 60_000_000_000, (now_ns // DAY_NS + 1) * DAY_NS)

    def drain_events(self) -> tuple[Event, ...]:
        """The level changes since the last call."""
        events, self._events = tuple(self._events), []
        return events

    def _wanted(self, now_ns: int) -> int:
        budget = self.config.bytes_per_day
        if not budget:
            return 0
        if self.total_bytes >= budget:
            return len(_THRESHOLDS) + 1
        # Critical data first uses its reserve; what it takes beyond that is missing to the others.
        reserve = budget * self.config.critical_reserve
        used = self.state.spent_bytes + max(0.0, self.state.critical_bytes - reserve)
        share = used / max(1, self.released_bytes(now_ns))
        rising = sum(share >= threshold for threshold in _THRESHOLDS)
        falling = sum(share >= threshold - _HYSTERESIS for threshold in _THRESHOLDS)
        before = min(self.state.level, len(_THRESHOLDS))
        return rising if rising >= before else min(before, falling)

    def _turn_day(self, now_ns: int) -> None:
        """A new day starts a new count. A clock set back, or back to a day already counted on, keeps the count: an
        ECU that boots in 1970 until it hears the time gets no second budget by it."""
        state, day = self.state, now_ns // DAY_NS
        if day == state.day:
            return
        if day > state.day and day not in state.seen_days:
            state.spent_bytes = state.critical_bytes = 0
        state.day = day
        state.seen_days = (*(d for d in state.seen_days if d != day), day)[-_REMEMBERED_DAYS:]

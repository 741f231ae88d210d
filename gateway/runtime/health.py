"""Who is well, and since when nothing moved. The watchdog is fed from this, not from a timer that always fires."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class ComponentHealth(Enum):
    """The state of one component."""

    STARTING = "starting"
    OK = "ok"
    DEGRADED = "degraded"  # it works on, with less; the detail says what
    FAILED = "failed"


@dataclass(slots=True)
class _Entry:
    state: ComponentHealth
    detail: str
    beat_ns: int
    limit_ns: int | None


class HealthBoard:
    """Components write their state and beat; status and watchdog read. Times are monotonic nanoseconds."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    def register(self, name: str, now_ns: int, *, limit_s: float | None) -> None:
        """Add a component. With a limit it must beat at least that often, or the whole counts as stuck."""
        limit_ns = None if limit_s is None else int(limit_s * 1e9)
        self._entries[name] = _Entry(ComponentHealth.STARTING, "", now_ns, limit_ns)

    def report(self, name: str, state: ComponentHealth, detail: str = "") -> bool:
        """Set a component's state; True when that changed something worth a log line."""
        entry = self._entries[name]
        changed = (entry.state, entry.detail) != (state, detail)
        entry.state, entry.detail = state, detail
        return changed

    def beat(self, name: str, now_ns: int) -> None:
        """The component made progress."""
        self._entries[name].beat_ns = now_ns

    def stuck(self, now_ns: int) -> list[str]:
        """Components whose last beat is older than their limit."""
        return [n for n, e in self._entries.items() if e.limit_ns is not None and now_ns - e.beat_ns > e.limit_ns]

    def is_alive(self, now_ns: int) -> bool:
        """Whether the service manager should hear that all is well: nobody failed, nobody stuck."""
        return not self.stuck(now_ns) and all(e.state is not ComponentHealth.FAILED for e in self._entries.values())

    def summary(self) -> dict[str, str]:
        """Component -> ``ok`` or ``degraded: why``."""
        return {n: e.state.value + (f": {e.detail}" if e.detail else "") for n, e in sorted(self._entries.items())}

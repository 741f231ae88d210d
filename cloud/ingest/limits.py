"""Token buckets: how much one caller may do. Pure; time is an argument."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass


@dataclass(slots=True)
class TokenBucket:
    """``rate_per_s`` tokens a second, at most ``burst``; starts full."""

    rate_per_s: float
    burst: float
    tokens: float
    at_ns: int

    @staticmethod
    def full(rate_per_s: float, burst: float, now_ns: int) -> TokenBucket:
        """A bucket as a new caller gets it."""
        return TokenBucket(rate_per_s, burst, burst, now_ns)

    def refill(self, now_ns: int) -> None:
        """Bring the level up to ``now_ns`` (monotonic); a step back is ignored."""
        if now_ns > self.at_ns:
            self.tokens = min(self.burst, self.tokens + (now_ns - self.at_ns) * 1e-9 * self.rate_per_s)
            self.at_ns = now_ns

    def wait_s(self, amount: float, now_ns: int) -> float:
        """0 when ``amount`` can be taken now, else the time until it can; more than the burst needs a full bucket."""
        self.refill(now_ns)
        short = min(amount, self.burst) - self.tokens
        return max(0.0, short / self.rate_per_s)

    def take(self, amount: float, now_ns: int) -> None:
        """Take without asking; the level may become negative, which later callers wait for."""
        self.refill(now_ns)
        self.tokens -= amount


class Buckets:
    """A bucket per key, at most ``capacity`` of them; the longest unused is forgotten (and would start full)."""

    def __init__(self, rate_per_s: float, burst: float, *, capacity: int = 100_000) -> None:
        self._rate_per_s, self._burst, self._capacity = rate_per_s, burst, capacity
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def of(self, key: str, now_ns: int) -> TokenBucket:
        """The bucket of ``key``."""
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = TokenBucket.full(self._rate_per_s, self._burst, now_ns)
            if len(self._buckets) > self._capacity:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        return bucket

    def try_take(self, key: str, now_ns: int, amount: float = 1.0) -> float:
        """Take ``amount`` when it is there; 0 on success, else the seconds to wait (nothing was taken)."""
        bucket = self.of(key, now_ns)
        wait_s = bucket.wait_s(amount, now_ns)
        if wait_s <= 0.0:
            bucket.take(amount, now_ns)
        return wait_s

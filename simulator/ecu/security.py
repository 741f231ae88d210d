"""Service 0x27: seed and key, attempts and lockout that survive a loss of power."""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from simulator.ecu.base import BaseService
from simulator.ecu.context import EcuContext
from simulator.ecu.description import DescriptionError, EcuDescription, SecurityDescription
from simulator.ecu.keys import ALGORITHMS, SeedSource
from simulator.ecu.service import Access, Call, Nrc, Refusal, SubFunction


class SecurityAccess(BaseService):
    """0x27.

    A wrong key counts; with the last attempt (0x36) a delay begins during which seeds are refused (0x37). After it one
    more attempt is given. A reset starts the delay anew if there were wrong keys, and a power-on delay in any case. A
    seed is good for one key; a new seed replaces it. Levels that are unlocked give a seed of zeros.
    """

    SID = 0x27
    MIN_LENGTH = 2

    def __init__(self, context: EcuContext, description: EcuDescription) -> None:
        """Raises ``DescriptionError`` for an unknown algorithm or a constant it cannot use."""
        super().__init__(context, description)
        self._levels = {level.level: level for level in description.security}
        for level in description.security:
            try:
                ALGORITHMS[level.algorithm](bytes(level.seed_bytes), bytes.fromhex(level.constant))
            except (KeyError, ValueError) as error:
                raise DescriptionError(f"{description.name}: security {level.level}: {error!r}") from None
        self._seeds = {n: SeedSource(context.random, level.seed_bytes) for n, level in self._levels.items()}
        self._constant_seed = {n: bytes(range(1, level.seed_bytes + 1)) for n, level in self._levels.items()}
        self._offered: tuple[int, bytes] | None = None
        self._delay_until_s: dict[int, float] = {}
        self._was_up = False

    def subfunctions(self) -> Mapping[int, SubFunction]:
        """See ``Service``: a pair for each level."""
        out = {}
        for n, level in self._levels.items():
            access = Access(sessions=frozenset(level.sessions))
            out[n] = SubFunction(access=access)
            out[n + 1] = SubFunction(access=access)
        return dict(sorted(out.items()))

    def attempts(self, level: int) -> int:
        """Wrong keys so far."""
        return int(self.context.nv.get(f"security.{level}.attempts", 0))

    def _set_attempts(self, level: int, count: int) -> None:
        self.context.nv.set(f"security.{level}.attempts", count)
        self.context.nv.save()  # at once: pulling the plug gives no fresh attempts

    def _delayed(self, level: SecurityDescription, now_s: float) -> bool:
        until_s = self._delay_until_s.get(level.level)
        if until_s is None:
            return False
        if now_s < until_s:
            return True
        del self._delay_until_s[level.level]
        if self.attempts(level.level) >= level.attempts:
            self._set_attempts(level.level, level.attempts - 1)
        return False

    def handle(self, call: Call) -> bytes:
        """See ``Service``."""
        assert call.sub is not None
        if call.sub in self._levels:
            return self._seed(self._levels[call.sub], call)
        return self._key(self._levels[call.sub - 1], call)

    def _seed(self, level: SecurityDescription, call: Call) -> bytes:
        if call.data:
            raise Refusal(Nrc.INCORRECT_LENGTH)
        if call.unlocked == level.level:
            self._offered = None
            return bytes([level.level]) + bytes(level.seed_bytes)
        if self._delayed(level, call.now_s):
            raise Refusal(Nrc.DELAY_NOT_EXPIRED)
        quirk = self.context.quirks.constant_seed
        seed = self._constant_seed[level.level] if quirk else self._seeds[level.level].next()
        self._offered = (level.level, seed)
        return bytes([level.level]) + seed

    def _key(self, level: SecurityDescription, call: Call) -> bytes:
        if self._offered is None or self._offered[0] != level.level:
            raise Refusal(Nrc.REQUEST_SEQUENCE_ERROR)
        right = ALGORITHMS[level.algorithm](self._offered[1], bytes.fromhex(level.constant))
        if len(call.data) != len(right):
            raise Refusal(Nrc.INCORRECT_LENGTH)
        self._offered = None
        if hmac.compare_digest(right, call.data):
            self._set_attempts(level.level, 0)
            self.context.unlocked = level.level
            return bytes([level.level + 1])
        count = self.attempts(level.level) + 1
        self._set_attempts(level.level, count)
        if count >= level.attempts:
            self._delay_until_s[level.level] = call.now_s + level.delay_s
            raise Refusal(Nrc.EXCEEDED_ATTEMPTS)
        raise Refusal(Nrc.INVALID_KEY)

    def session_changed(self, session: int, now_s: float) -> None:
        """See ``Service``: seeds are void."""
        self._offered = None

    def reset(self, now_s: float) -> None:
        """See ``Service``."""
        self._offered = None
        for n, level in self._levels.items():
            wait_s = level.delay_s if self.attempts(n) else 0.0
            if self._was_up:
                wait_s = max(wait_s, level.boot_delay_s)
            if wait_s:
                self._delay_until_s[n] = now_s + wait_s
        self._was_up = True

    def describe(self) -> Mapping[str, object]:
        """See ``Service``. The constants are no secret: the vehicle is a toy."""
        return {
            "levels": {
                f"{n:02X}": {
                    "name": level.name, "seed_bytes": level.seed_bytes, "algorithm": level.algorithm,
                    "constant": level.constant, "attempts": level.attempts, "delay_s": level.delay_s,
                    "boot_delay_s": level.boot_delay_s, "sessions": list(level.sessions),
                }
                for n, level in self._levels.items()
            }
        }  # fmt: skip

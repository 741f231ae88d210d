"""Secure time: what expiry is checked against (T1, T2, T4).

The best known time is, in this order:

1. attested by the Director's time key in this run, carried on by the monotonic clock, while it is young enough;
2. the latest of: attested time carried on, the highest time ever attested (the floor), the time the software was built,
   and the machine's clock.

So a clock that stands at 1970 after the battery was lost neither bricks (nothing waits for it to be right) nor opens
(metadata that had expired by the highest attested time stays expired). A clock far ahead makes metadata look expired
until time is attested, and leaves no trace: only attested time enters the floor. Time goes down only when the time keys
that attested it are none any more, which is how a fleet recovers from a compromised time key.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

import msgspec
from tuf.api.metadata import Root

from gateway.runtime.clock import Clock
from gateway.update.model import AttackError
from gateway.uptane.floor import FloorRecord
from gateway.wire.signing import Key, SignatureError, key_from_tuf, verify_threshold
from gateway.wire.uptane import ROOT_TIME_FIELD, TIME_DOMAIN, Signed, SignedTime, TimeRequest

NONCE_BYTES = 32
SECOND_NS = 1_000_000_000
#: An answer that took longer says too little about now: who holds it back would hold back the time.
MAX_ROUND_TRIP_NS = 60 * SECOND_NS
#: Nobody attests a time after the year 2200.
MAX_TIME_NS = 7_258_118_400 * SECOND_NS
_TIME = msgspec.json.Decoder(SignedTime)


class _TimeRole(msgspec.Struct, frozen=True):
    """``ROOT_TIME_FIELD``."""

    keyids: tuple[str, ...]
    threshold: int


def time_keys(root: Root) -> tuple[list[Key], int]:
    """The keys that attest time, and how many must; none, and 0, where the Director has none.

    Raises:
        AttackError: the field is malformed (signed by the Root keys, but of no use).
    """
    field = root.unrecognized_fields.get(ROOT_TIME_FIELD)
    if field is None:
        return [], 0
    try:
        role = msgspec.convert(field, _TimeRole)
        if role.threshold < 1:
            raise ValueError(f"a threshold of {role.threshold}")
        found = [root.keys[key_id] for key_id in role.keyids if key_id in root.keys]
        keys = [(key.keyid, key_from_tuf(key.scheme, str(key.keyval.get("public", "")))) for key in found]
    except (msgspec.ValidationError, SignatureError, ValueError) as error:
        raise AttackError("freeze", "T1", f"director: the time keys in root {root.version}: {error}") from error
    return [Key(name, key.method, key.public) for name, key in keys], role.threshold


class SecureTime:
    """The best known time. Not for several threads at once."""

    def __init__(
        self,
        clock: Clock,
        *,
        build_time_ns: int = 0,
        max_age_ns: int = 7 * 86_400 * SECOND_NS,
        nonce: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """``max_age_ns``: how long attested time is preferred to a machine's clock that is ahead of it."""
        self._clock, self._build_time_ns, self._max_age_ns, self._nonce = clock, build_time_ns, max_age_ns, nonce
        self._asked: tuple[TimeRequest, int] | None = None
        self._came_ns = 0
        self._anchor: tuple[int, int] | None = None  # attested, monotonic when it came

    def request(self) -> TimeRequest:
        """A question with a nonce of its own; the answer must come for this one."""
        made = TimeRequest(nonce=self._nonce(NONCE_BYTES))
        self._asked = (made, self._clock.monotonic_ns())
        return made

    def received(self) -> bool:
        """Note that the answer has come, before anything else is done. False: it took too long to mean anything."""
        self._came_ns = self._clock.monotonic_ns()
        return self._asked is not None and self._came_ns - self._asked[1] <= MAX_ROUND_TRIP_NS

    def accept(self, answer: Signed, vehicle: str, root: Root, floor: FloorRecord) -> None:
        """Take attested time, after ``received`` said that it is in time.

        Args:
            answer: as it came.
            vehicle: ours.
            root: the newest trusted Root of the Director.
            floor: its time is raised.

        Raises:
            AttackError: not signed by the time keys, or an answer to another question (an old one: freeze).
        """
        asked, self._asked = self._asked, None
        keys, threshold = time_keys(root)
        if not keys or asked is None:
            return
        try:
            payload = verify_threshold(answer, TIME_DOMAIN, keys, threshold)
            told = _TIME.decode(payload)
        except (SignatureError, msgspec.DecodeError) as error:
            raise AttackError("freeze", "T1", f"the attested time: {error}") from error
        if told.nonce != asked[0].nonce or told.vehicle != vehicle:
            raise AttackError("freeze", "T1", "the attested time answers another question")
        if not 0 < told.time_ns <= MAX_TIME_NS:
            raise AttackError("freeze", "T1", f"the attested time is {told.time_ns} ns")
        self._anchor = (max(told.time_ns, floor.time_ns), self._came_ns)
        if told.time_ns >= floor.time_ns:
            floor.time_ns = told.time_ns
            known = {key.key_id for key in keys}
            floor.time_signers = tuple(sorted(known & {signature.key_id for signature in answer.signatures}))

    def forget_outdated(self, root: Root, floor: FloorRecord) -> bool:
        """CR5 for the time: what keys attested that are no time keys any more does not bind. Whether it was so."""
        if not floor.time_ns or root.unrecognized_fields.get(ROOT_TIME_FIELD) is None:
            return False
        keys, threshold = time_keys(root)
        if len({key.key_id for key in keys} & set(floor.time_signers)) >= threshold:
            return False
        floor.time_ns, floor.time_signers, self._anchor = 0, (), None
        return True

    @property
    def is_attested(self) -> bool:
        """Whether time was attested in this run and is still young."""
        return self._anchor is not None and self._clock.monotonic_ns() - self._anchor[1] <= self._max_age_ns

    def now_ns(self, floor: FloorRecord) -> int:
        """The best known time; never before the floor."""
        carried_ns = 0
        if self._anchor is not None:
            carried_ns = self._anchor[0] + self._clock.monotonic_ns() - self._anchor[1]
        known_ns = max(carried_ns, floor.time_ns, self._build_time_ns)
        return known_ns if self.is_attested else max(known_ns, self._clock.utc_ns())

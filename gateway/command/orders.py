"""Which orders this vehicle obeys: the rules, without I/O or clock.

An order is obeyed once, if all of this holds: it is not too large, signed by the key got at enrolment, addressed to
this vehicle, of a kind known here, not from the future, not expired, not longer-lived than allowed, and its id was
never seen. What is remembered goes to disk *before* the order is carried out, so that a crash can lose an order but
never repeat one.

Time. The vehicle's clock may be wrong, and someone may set it back to revive an order that was held back. So the time
to judge by is the latest of: the clock, the newest time the cloud has signed or said over its TLS connection (the
*floor*, on disk), and that time moved on by the monotonic clock. What the vehicle's own clock says is never kept: a
clock that once jumped ahead would otherwise deafen the vehicle for ever.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from enum import StrEnum

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from gateway.errors import PeerError
from gateway.wire.orders import DOMAIN, MAX_ID_CHARS, MAX_LIFE_S, MAX_ORDER_BYTES, Order, SignedOrder, key_id_of

SECOND_NS = 1_000_000_000


class Refusal(StrEnum):
    """Why an order is not obeyed."""

    OVERSIZE = "oversize"
    NO_KEY = "no_key"  # this vehicle was never given one
    UNKNOWN_KEY = "unknown_key"
    BAD_SIGNATURE = "bad_signature"
    MALFORMED = "malformed"
    OTHER_VEHICLE = "other_vehicle"
    UNKNOWN_KIND = "unknown_kind"
    FUTURE = "future"
    EXPIRED = "expired"
    TOO_LONG_LIVED = "too_long_lived"
    REPLAYED = "replayed"
    TOO_MANY = "too_many"  # nothing more can be remembered


class OrderRefusedError(PeerError):
    """The order is not obeyed."""

    def __init__(self, refusal: Refusal, detail: str) -> None:
        super().__init__(detail)
        self.refusal = refusal


class Remembered(msgspec.Struct, frozen=True):
    """An order that was obeyed, until it cannot come back."""

    expires_ns: int
    is_done: bool = False


class Memory(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What must survive: every order that may come again, and the newest time the cloud vouched for."""

    floor_ns: int = 0
    not_before_ns: int = 0  # what was issued before may have been obeyed: that memory was lost
    is_lost: bool = False  # it was lost, and the cloud has not told the time since
    orders: dict[str, Remembered] = {}


class OrderRules(msgspec.Struct, frozen=True, kw_only=True):
    """Limits."""

    skew_ns: int = 300 * SECOND_NS  # how far the cloud's clock may be ahead of ours
    max_life_ns: int = MAX_LIFE_S * SECOND_NS
    max_remembered: int = 4096


class OrderGate:
    """Decides on orders. ``memory`` is to be made durable after ``remember`` and before the order is carried out."""

    def __init__(
        self, vehicle: str, key: bytes, memory: Memory, kinds: Collection[str], rules: OrderRules | None = None
    ) -> None:
        """``key`` is the raw public key, empty for none.

        Raises:
            ValueError: not an Ed25519 key.
        """
        self._vehicle, self._kinds, self._rules = vehicle, frozenset(kinds), rules or OrderRules()
        self._orders = dict(memory.orders)
        self._floor_ns, self._not_before_ns, self._is_lost = memory.floor_ns, memory.not_before_ns, memory.is_lost
        self._heard_ns = -1  # monotonic, when the floor was heard in this process
        self.set_key(key)

    def set_key(self, key: bytes) -> None:
        """Obey this key from now on. Raises ValueError as the constructor."""
        self._key = Ed25519PublicKey.from_public_bytes(key) if key else None
        self._key_id = key_id_of(key) if key else ""

    @property
    def memory(self) -> Memory:
        """What is to be kept."""
        return Memory(
            floor_ns=self._floor_ns, not_before_ns=self._not_before_ns, is_lost=self._is_lost, orders=dict(self._orders)
        )

    def heard(self, cloud_ns: int, monotonic_ns: int) -> None:
        """The cloud has told its time, over the connection it is known by."""
        if cloud_ns >= self._floor_ns:
            self._floor_ns, self._heard_ns = cloud_ns, monotonic_ns
        if self._is_lost:
            self._not_before_ns, self._is_lost = self._floor_ns, False

    def now_ns(self, clock_ns: int, monotonic_ns: int) -> int:
        """The time to judge by (UTC)."""
        since_ns = monotonic_ns - self._heard_ns if self._heard_ns >= 0 else 0
        return max(clock_ns, self._floor_ns + since_ns)

    def judge(self, signed: SignedOrder, clock_ns: int, monotonic_ns: int) -> Order:
        """The order, if it is to be obeyed.

        Raises:
            OrderRefusedError: it is not.
        """
        order = self._verify(signed)
        if order.vehicle != self._vehicle:
            raise OrderRefusedError(Refusal.OTHER_VEHICLE, "the order is for another vehicle")
        if order.kind not in self._kinds:
            raise OrderRefusedError(Refusal.UNKNOWN_KIND, f"orders of kind {order.kind[:40]!r} are not known here")
        if order.id in self._orders:
            raise OrderRefusedError(Refusal.REPLAYED, "the order was taken before")
        if self._is_lost or order.issued_ns <= self._not_before_ns:
            raise OrderRefusedError(Refusal.REPLAYED, "the memory of orders was lost after this one was issued")
        self._check_times(order, clock_ns, monotonic_ns)
        self._forget()
        if len(self._orders) >= self._rules.max_remembered:
            raise OrderRefusedError(Refusal.TOO_MANY, f"{len(self._orders)} orders are remembered, no more can be")
        return order

    def _verify(self, signed: SignedOrder) -> Order:
        if len(signed.payload) > MAX_ORDER_BYTES:
            size = len(signed.payload)
            raise OrderRefusedError(Refusal.OVERSIZE, f"{size} bytes, at most {MAX_ORDER_BYTES} are taken")
        if self._key is None:
            raise OrderRefusedError(Refusal.NO_KEY, "this vehicle was never given the key for orders")
        if signed.key_id != self._key_id:
            raise OrderRefusedError(Refusal.UNKNOWN_KEY, f"signed with key {signed.key_id[:16]}, not {self._key_id}")
        try:
            self._key.verify(signed.signature, DOMAIN + signed.payload)
        except InvalidSignature:
            raise OrderRefusedError(Refusal.BAD_SIGNATURE, "the signature does not fit") from None
        try:
            order = msgspec.json.decode(signed.payload, type=Order)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise OrderRefusedError(Refusal.MALFORMED, str(error)[:200]) from error
        if order.id != signed.id or not 1 <= len(order.id) <= MAX_ID_CHARS:
            raise OrderRefusedError(Refusal.MALFORMED, "the id inside is another, or no id")
        return order

    def _check_times(self, order: Order, clock_ns: int, monotonic_ns: int) -> None:
        now_ns = self.now_ns(clock_ns, monotonic_ns)
        if order.issued_ns > now_ns + self._rules.skew_ns:
            ahead_s = (order.issued_ns - now_ns) // SECOND_NS
            raise OrderRefusedError(Refusal.FUTURE, f"issued {ahead_s} s in the future of this vehicle")
        if order.expires_ns <= now_ns:
            late_s = (now_ns - order.expires_ns) // SECOND_NS
            raise OrderRefusedError(Refusal.EXPIRED, f"expired {late_s} s ago by the time known here")
        if order.expires_ns - order.issued_ns > self._rules.max_life_ns:
            raise OrderRefusedError(Refusal.TOO_LONG_LIVED, "the order lives longer than can be remembered")

    def _forget(self) -> None:
        """Orders that would be refused as expired, whatever becomes of the clock: the floor is past their end."""
        keep_ns = self._floor_ns - self._rules.skew_ns
        self._orders = {id_: r for id_, r in self._orders.items() if not r.is_done or r.expires_ns > keep_ns}

    def remember(self, order: Order) -> None:
        """The order was taken: never again."""
        self._orders[order.id] = Remembered(order.expires_ns)
        if order.issued_ns > self._floor_ns:
            self._floor_ns, self._heard_ns = order.issued_ns, -1

    def forget(self, order_id: str) -> None:
        """It could not be made durable, and was not carried out."""
        self._orders.pop(order_id, None)

    def finished(self, order_id: str) -> None:
        """Its result is in the outbox."""
        known = self._orders.get(order_id)
        if known is not None:
            self._orders[order_id] = Remembered(known.expires_ns, is_done=True)

    def is_known(self, order_id: str) -> bool:
        """Whether it was taken before."""
        return order_id in self._orders

    @property
    def unfinished(self) -> list[str]:
        """Orders taken without a result: after a start, those a crash interrupted."""
        return [id_ for id_, known in self._orders.items() if not known.is_done]


def digest_of(signed: SignedOrder) -> bytes:
    """Tells two messages of the same id apart."""
    return hashlib.sha256(b"%d\n%b%b" % (len(signed.payload), signed.payload, signed.signature)).digest()[:16]

"""A cloud's key, orders signed with it, a clock, a handler that remembers, and a sender that may fail."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.errors import PeerError, TransportError
from gateway.wire.diagnostics import DiagnosticResult, StepResult
from gateway.wire.orders import DOMAIN, Order, SignedOrder, key_id_of

SECOND_NS = 1_000_000_000
NOW_NS = 1_700_000_000 * SECOND_NS
HOUR_NS = 3600 * SECOND_NS
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))


def public_of(key: Ed25519PrivateKey) -> bytes:
    """The raw public key."""
    return key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def order(id_: str = "order-1", **changes: Any) -> Order:
    """An order for VIN1 that lives an hour."""
    values: dict[str, Any] = {
        "id": id_,
        "vehicle": "VIN1",
        "kind": "diagnostics",
        "issued_ns": NOW_NS,
        "expires_ns": NOW_NS + HOUR_NS,
        "body": msgspec.Raw(b"{}"),
    }
    return Order(**{**values, **changes})


def signed(wanted: Order | bytes, key: Ed25519PrivateKey = KEY, *, id_: str = "order-1") -> SignedOrder:
    """It signed; bytes are signed as they are."""
    payload = wanted if isinstance(wanted, bytes) else msgspec.json.encode(wanted)
    name = id_ if isinstance(wanted, bytes) else wanted.id
    return SignedOrder(id=name, key_id=key_id_of(public_of(key)), payload=payload, signature=key.sign(DOMAIN + payload))


class ManualClock:
    """Moves when told to; UTC may be set."""

    def __init__(self) -> None:
        self.utc, self.monotonic = NOW_NS, 5 * SECOND_NS

    def utc_ns(self) -> int:
        """UTC."""
        return self.utc

    def monotonic_ns(self) -> int:
        """Monotonic."""
        return self.monotonic

    def advance_s(self, seconds: float) -> None:
        """Both forward."""
        self.utc += int(seconds * SECOND_NS)
        self.monotonic += int(seconds * SECOND_NS)


class Handler:
    """Answers every order with one good step and remembers them."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.problem = ""

    def check(self, wanted: Order) -> None:
        """Refuse with ``problem``, if there is one."""
        if self.problem:
            raise PeerError(self.problem)

    async def execute(self, wanted: Order) -> tuple[StepResult, ...]:
        """Do it."""
        self.done.append(wanted.id)
        return (StepResult(step=0, ecu="battery", outcome="ok"),)


class Sender:
    """Takes results while it ``is_up``."""

    def __init__(self) -> None:
        self.is_up = True
        self.results: list[DiagnosticResult] = []

    async def send_result(self, result: DiagnosticResult) -> None:
        """Take or fail."""
        if not self.is_up:
            raise TransportError("no network")
        self.results.append(result)

    def states(self, order_id: str = "order-1") -> list[str]:
        """What the cloud was told of an order. A result that a stop kept from being put away comes twice."""
        return [state for state, _ in groupby(r.state for r in self.results if r.order == order_id)]

"""Orders: what the cloud asks one vehicle to do, signed so that nobody else can ask.

An order is JSON bytes with an Ed25519 signature over ``DOMAIN + payload``. The vehicle obeys it only if the signature
is of a key it got at enrolment, the order is addressed to it, not yet expired, not issued in its future, and its id was
never seen before. The key travels in ``EnrolReply``/``RenewReply``.
"""

from __future__ import annotations

import hashlib

import msgspec

#: Put before the payload when signing, so that a signature means nothing elsewhere.
DOMAIN = b"outrider order 1\n"
MAX_ORDER_BYTES = 64 * 1024
#: No order may live longer: the vehicle must remember each until its end.
MAX_LIFE_S = 31 * 24 * 3600
#: Length bound of an order's id.
MAX_ID_CHARS = 64


def key_id_of(public_key: bytes) -> str:
    """How an order names the raw Ed25519 public key that verifies it."""
    return hashlib.sha256(public_key).hexdigest()[:16]


class Order(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The payload once decoded. Unknown keys are refused: one that was meant to restrict must not be overlooked."""

    id: str  # unique for ever: the nonce
    vehicle: str
    kind: str  # "diagnostics" so far
    issued_ns: int
    expires_ns: int
    body: msgspec.Raw  # what ``kind`` says


class SignedOrder(msgspec.Struct, frozen=True, kw_only=True):
    """An order in transit. Bytes travel as base64 in JSON."""

    id: str  # the same as inside, to acknowledge it without decoding
    key_id: str  # first 16 hexadecimal digits of the SHA-256 of the raw public key
    payload: bytes
    signature: bytes

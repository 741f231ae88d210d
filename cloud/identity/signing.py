"""The cloud's key for orders: Ed25519, made once, never leaves the machine. Vehicles get the public half at enrolment.

The same order always has the same bytes and signature, so that an order sent twice is seen to be one.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.wire.orders import DOMAIN, Order, SignedOrder, key_id_of


class OrderSigner:
    """Signs orders."""

    def __init__(self, key_pem: bytes) -> None:
        """Load the private key.

        Raises:
            ValueError: not PEM, or not an Ed25519 key.
        """
        key = serialization.load_pem_private_key(key_pem, password=None)
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError("the key for orders is not an Ed25519 key")
        self._key = key
        public = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        self.public_hex = public.hex()
        self.key_id = key_id_of(public)

    def sign(self, order: Order) -> SignedOrder:
        """The order as it travels."""
        payload = msgspec.json.encode(order)
        return SignedOrder(id=order.id, key_id=self.key_id, payload=payload, signature=self._key.sign(DOMAIN + payload))


def new_order_key() -> bytes:
    """A private key as PEM."""
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def ensure_order_key(path: Path) -> bytes:
    """The key in the file, made first where there is none. Of two processes that make it at once, one wins.

    Raises:
        OSError: it can neither be read nor made.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        pass
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(new_order_key())
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink()
    return path.read_bytes()

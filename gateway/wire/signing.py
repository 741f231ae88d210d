"""Signatures of ECUs and of the time key: made and checked the same way at both ends.

A signature is over a *domain* (a line that says what is signed) and the exact payload bytes that travel, so that it
means nothing anywhere else. Keys are named as TUF names them, so that the same key may stand in TUF metadata, too. What
the payload says is not looked at here: who verifies decodes only what ``verify_signed`` gave back.

Two methods are known: Ed25519 (software keys) and ECDSA on P-256 (what tokens and secure elements offer).
"""

from __future__ import annotations

import binascii
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)

from gateway.wire.uptane import Signature, Signed

ED25519, ECDSA_P256 = "ed25519", "ecdsa-sha2-nistp256"
METHODS = (ED25519, ECDSA_P256)
#: Signatures looked at in one message; more are refused, so that checking them cannot be made expensive.
MAX_SIGNATURES = 16
_HASHES = {"sha256": hashlib.sha256, "sha512": hashlib.sha512}


class SignatureError(ValueError):
    """A signature, or the key it should be of, is not what it must be; the text says what is wrong."""


class PublicKey(Protocol):
    """A public key and its names; ``EcuKey``, an ``EcuSigner`` and the cloud's rows of ECUs are all of this form."""

    @property
    def key_id(self) -> str:
        """TUF key id."""

    @property
    def method(self) -> str:
        """One of ``METHODS``."""

    @property
    def public(self) -> bytes:
        """Raw Ed25519, or DER SubjectPublicKeyInfo for the others."""


@dataclass(frozen=True, slots=True)
class Key:
    """A public key by itself."""

    key_id: str
    method: str
    public: bytes


def _load(method: str, public: bytes) -> Ed25519PublicKey | EllipticCurvePublicKey:
    try:
        if method == ED25519:
            return Ed25519PublicKey.from_public_bytes(public)
        if method == ECDSA_P256:
            key = load_der_public_key(public)
            if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
                return key
            raise SignatureError("the key is not an EC key on P-256")
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SignatureError(f"no {method} public key: {error}") from error
    raise SignatureError(f"signature method {method[:40]!r} is not known")


def key_id_of(method: str, public: bytes) -> str:
    """The id TUF gives a key: SHA-256 of its canonical JSON.

    Raises:
        SignatureError: not a key of that method.
    """
    key = _load(method, public)
    if method == ED25519:
        key_type, text = "ed25519", public.hex()
    else:
        key_type, text = "ecdsa", key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    # Canonical JSON escapes quotes and backslashes only, of which there are none: the line ends of PEM stand as such.
    canonical = f'{{"keytype":"{key_type}","keyval":{{"public":"{text}"}},"scheme":"{method}"}}'
    return hashlib.sha256(canonical.encode()).hexdigest()


def key_of(method: str, public: bytes) -> Key:
    """The key with its id. Raises as ``key_id_of``."""
    return Key(key_id_of(method, public), method, public)


def key_from_tuf(scheme: str, public: str) -> Key:
    """A key as TUF metadata writes it (hexadecimal for Ed25519, PEM for EC). Raises as ``key_id_of``."""
    try:
        if scheme == ED25519:
            return key_of(scheme, bytes.fromhex(public))
        key = load_pem_public_key(public.encode())
    except (ValueError, binascii.Error, UnsupportedAlgorithm) as error:
        raise SignatureError(f"no {scheme[:40]} public key: {error}") from error
    return key_of(scheme, key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def check_key(key: PublicKey) -> None:
    """Make sure that a key told by someone else is one, and that its id is its own.

    Raises:
        SignatureError: it is not; a signature could be taken for another key's.
    """
    if key_id_of(key.method, key.public) != key.key_id:
        raise SignatureError(f"the key id {key.key_id[:16]} is not that of the key")


def public_of(private: Ed25519PrivateKey | EllipticCurvePrivateKey) -> Key:
    """The public half. Raises as ``key_id_of``: an EC key on another curve."""
    if isinstance(private, Ed25519PrivateKey):
        return key_of(ED25519, private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
    public = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return key_of(ECDSA_P256, public)


def signature_by(key: PublicKey, sign: Callable[[bytes], bytes], domain: bytes, payload: bytes) -> Signature:
    """The signature block of the standard (V1), whoever holds the private key.

    Args:
        key: the public half.
        sign: gives the signature over some bytes; DER for EC keys.
        domain: of ``gateway.wire.uptane``.
        payload: as it will travel.
    """
    value, digest = sign(domain + payload), hashlib.sha256(payload).digest()
    return Signature(key_id=key.key_id, method=key.method, value=value, hash_function="sha256", digest=digest)


def sign(private: Ed25519PrivateKey | EllipticCurvePrivateKey, domain: bytes, payload: bytes) -> Signature:
    """Sign with a key in memory. Raises as ``public_of``."""
    if isinstance(private, Ed25519PrivateKey):
        return signature_by(public_of(private), private.sign, domain, payload)
    return signature_by(public_of(private), lambda data: private.sign(data, ECDSA(hashes.SHA256())), domain, payload)


def _check(signature: Signature, domain: bytes, payload: bytes, key: PublicKey) -> None:
    if signature.method != key.method:
        raise SignatureError(f"signed by {signature.method[:40]!r}, but the key is for {key.method!r}")
    make = _HASHES.get(signature.hash_function)
    if make is None:
        raise SignatureError(f"hash function {signature.hash_function[:40]!r} is not known")
    if make(payload).digest() != signature.digest:
        raise SignatureError("the digest in the signature is not that of the payload")
    public = _load(key.method, key.public)
    try:
        if isinstance(public, Ed25519PublicKey):
            public.verify(signature.value, domain + payload)
        else:
            public.verify(signature.value, domain + payload, ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise SignatureError(f"the signature of key {key.key_id[:16]} does not fit") from None


def verify_signed(signed: Signed, domain: bytes, key: PublicKey) -> bytes:
    """The payload, if ``key`` has signed it for ``domain``.

    Signatures of other keys are not looked at; one key must not sign twice.

    Raises:
        SignatureError: it has not.
    """
    return verify_threshold(signed, domain, (key,), 1)


def verify_threshold(signed: Signed, domain: bytes, keys: Iterable[PublicKey], threshold: int) -> bytes:
    """The payload, if at least ``threshold`` different keys of ``keys`` have signed it for ``domain``.

    A key counts once however many names it has. One bad signature of a known key does no harm if enough good ones are
    there, as TUF has it.

    Raises:
        SignatureError: too few; the text says why for the first that failed.
        ValueError: a threshold below 1.
    """
    if threshold < 1:
        raise ValueError("a threshold is at least 1")
    if len(signed.signatures) > MAX_SIGNATURES:
        raise SignatureError(f"{len(signed.signatures)} signatures, at most {MAX_SIGNATURES} are taken")
    ids = [signature.key_id for signature in signed.signatures]
    if len(set(ids)) != len(ids):
        raise SignatureError("a key id stands in it twice")
    by_id = {key.key_id: key for key in keys}
    good: set[str] = set()
    reason = ""
    for signature in signed.signatures:
        key = by_id.get(signature.key_id)
        if key is None:
            continue
        try:
            _check(signature, domain, signed.payload, key)
            # By the key itself: an EC key can be written in more than one way.
            good.add(key.key_id if threshold == 1 else key_id_of(key.method, key.public))
        except SignatureError as error:
            reason = reason or str(error)
    if len(good) < threshold:
        names = ", ".join(id_[:16] for id_ in ids) or "nobody"
        why = reason or f"it is signed by {names}"
        raise SignatureError(f"{len(good)} of {threshold} needed signatures are good: {why}")
    return signed.payload

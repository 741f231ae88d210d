"""Signatures of ECUs and the time key: what is signed, by whom, and for what."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.signer._key import SSlibKey

from gateway.wire import signing
from gateway.wire.signing import Key, SignatureError, sign, verify_signed, verify_threshold
from gateway.wire.uptane import MANIFEST_DOMAIN, REPORT_DOMAIN, Signature, Signed

ED, EC = Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1())
PAYLOAD = b'{"ecu":"engine"}'


def signed_by(*keys: Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> Signed:
    return Signed(payload=PAYLOAD, signatures=tuple(sign(key, REPORT_DOMAIN, PAYLOAD) for key in keys))


@pytest.mark.parametrize("private", [ED, EC], ids=["ed25519", "p256"])
def test_what_was_signed_verifies_and_survives_json(private: Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> None:
    travelled = msgspec.json.decode(msgspec.json.encode(signed_by(private)), type=Signed)
    assert verify_signed(travelled, REPORT_DOMAIN, signing.public_of(private)) == PAYLOAD


@pytest.mark.parametrize("private", [ED, EC], ids=["ed25519", "p256"])
def test_key_ids_are_those_of_tuf(private: Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> None:
    theirs, ours = SSlibKey.from_crypto(private.public_key()), signing.public_of(private)
    assert (ours.key_id, ours.method) == (theirs.keyid, theirs.scheme)
    assert signing.key_from_tuf(theirs.scheme, theirs.keyval["public"]) == ours
    signing.check_key(ours)


def test_a_signature_for_another_domain_is_refused() -> None:
    with pytest.raises(SignatureError, match="does not fit"):
        verify_signed(signed_by(ED), MANIFEST_DOMAIN, signing.public_of(ED))


def test_another_key_a_changed_payload_and_a_changed_digest_are_refused() -> None:
    key, good = signing.public_of(ED), signed_by(ED)
    with pytest.raises(SignatureError, match="signed by"):
        verify_signed(signed_by(Ed25519PrivateKey.generate()), REPORT_DOMAIN, key)
    with pytest.raises(SignatureError, match="digest"):
        verify_signed(Signed(payload=PAYLOAD + b" ", signatures=good.signatures), REPORT_DOMAIN, key)
    for changed in (
        {"digest": b""},
        {"value": b""},
        {"value": bytes(64)},
        {"method": "ecdsa-sha2-nistp256"},
        {"hash_function": "md5"},
    ):
        bad = msgspec.structs.replace(good.signatures[0], **changed)
        with pytest.raises(SignatureError):
            verify_signed(Signed(payload=PAYLOAD, signatures=(bad,)), REPORT_DOMAIN, key)


def test_no_signature_the_same_one_twice_and_too_many_are_refused() -> None:
    key = signing.public_of(ED)
    one = signed_by(ED).signatures[0]
    others = tuple(msgspec.structs.replace(one, key_id=str(n)) for n in range(signing.MAX_SIGNATURES))
    for signatures in ((), (one, one), (*others, one)):
        with pytest.raises(SignatureError):
            verify_signed(Signed(payload=PAYLOAD, signatures=signatures), REPORT_DOMAIN, key)


def test_a_threshold_needs_that_many_different_keys() -> None:
    keys = (signing.public_of(ED), signing.public_of(EC))
    assert verify_threshold(signed_by(ED, EC), REPORT_DOMAIN, keys, 2) == PAYLOAD
    with pytest.raises(SignatureError, match="1 of 2"):
        verify_threshold(signed_by(ED), REPORT_DOMAIN, keys, 2)
    with pytest.raises(ValueError, match="at least 1"):
        verify_threshold(signed_by(ED), REPORT_DOMAIN, keys, 0)


def test_one_key_under_two_names_counts_once() -> None:
    """An EC point can be written compressed, too; a threshold of 2 must not be met by one private key."""
    plain = signing.public_of(EC)
    alias = Key("alias", plain.method, _compressed(plain.public))
    one = sign(EC, REPORT_DOMAIN, PAYLOAD)
    both = Signed(payload=PAYLOAD, signatures=(one, msgspec.structs.replace(one, key_id="alias")))
    with pytest.raises(SignatureError, match="1 of 2"):
        verify_threshold(both, REPORT_DOMAIN, (plain, alias), 2)


def _compressed(public: bytes) -> bytes:
    """DER of the same P-256 key with its point compressed."""
    point = EC.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    head = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200")
    assert public != head + point
    return head + point


def test_a_bad_signature_beside_enough_good_ones_does_no_harm() -> None:
    bad = msgspec.structs.replace(sign(EC, REPORT_DOMAIN, PAYLOAD), value=b"x")
    both = Signed(payload=PAYLOAD, signatures=(bad, sign(ED, REPORT_DOMAIN, PAYLOAD)))
    assert verify_threshold(both, REPORT_DOMAIN, (signing.public_of(EC), signing.public_of(ED)), 1) == PAYLOAD


@pytest.mark.parametrize(
    ("method", "public"),
    [
        ("ed25519", b""),
        ("ed25519", b"x" * 33),
        ("ecdsa-sha2-nistp256", b"x" * 32),
        ("rsa", b"x"),
        (
            "ecdsa-sha2-nistp256",
            ec.generate_private_key(ec.SECP384R1())
            .public_key()
            .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        ),
    ],
)
def test_what_is_no_key_of_its_method_is_refused(method: str, public: bytes) -> None:
    with pytest.raises(SignatureError):
        signing.key_id_of(method, public)


def test_a_key_under_a_foreign_id_is_refused() -> None:
    with pytest.raises(SignatureError, match="not that of the key"):
        signing.check_key(replace(signing.public_of(ED), key_id="0" * 64))


@given(st.binary(max_size=80), st.binary(max_size=80), st.sampled_from(["ed25519", "ecdsa-sha2-nistp256", "x"]))
def test_any_bytes_give_a_signature_error_and_nothing_else(value: bytes, public: bytes, method: str) -> None:
    digest = hashlib.sha256(PAYLOAD).digest()
    signature = Signature(key_id="k", method=method, value=value, digest=digest)
    with pytest.raises(SignatureError):
        verify_signed(Signed(payload=PAYLOAD, signatures=(signature,)), REPORT_DOMAIN, Key("k", method, public))

"""Keys and certificates for service 0x29. Everything is derived from the authority's name: a toy, anyone can sign.

Real ECUs hold the public key of a maker's authority; here the simulated maker, its testers and its ECUs are all made
from text, so that a bench needs no key files and every run agrees with every other.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

#: Organisational unit a tester's certificate must have to be let in.
SCOPE = "outrider diagnostics"
#: Validity around the time a certificate is made for; simulated time may lie in the past.
VALID = timedelta(days=3650)


def private_key(authority: str, owner: str) -> Ed25519PrivateKey:
    """The key of ``owner`` (``authority`` itself, ``tester``, ``ecu:motor``) in the world of an authority."""
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(f"{authority}/{owner}".encode()).digest())


def _name(common: str, unit: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, common), x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit)]
    )


def certificate(
    authority: str,
    owner: str,
    *,
    at: datetime | None = None,
    scope: str = SCOPE,
    signer: str | None = None,
    client: bool = True,
    valid: timedelta = VALID,
) -> bytes:
    """A certificate of ``owner`` in DER, signed by the authority; the other arguments make unusable ones for tests."""
    middle = at or datetime.now(UTC)
    usage = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
    made = (
        x509.CertificateBuilder()
        .subject_name(_name(owner, scope))
        .issuer_name(_name(authority, "authority"))
        .public_key(private_key(authority, owner).public_key())
        .serial_number(int.from_bytes(hashlib.sha256(f"{authority}/{owner}".encode()).digest()[:8], "big") | 1)
        .not_valid_before(middle - valid)
        .not_valid_after(middle + valid)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .sign(private_key(authority, signer or "authority"), None)
    )
    return made.public_bytes(Encoding.DER)

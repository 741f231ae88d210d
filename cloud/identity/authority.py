"""The internal CA: makes its own certificate, server certificates, and vehicle certificates from CSRs.

No clock, no files, no database: time and keys are arguments. A vehicle certificate names its vehicle in one URI SAN
(``urn:outrider:vehicle:<id>``) and is good for client authentication only; whatever the CSR asks for besides its
public key is ignored.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloud.errors import InvalidInput

URN = "urn:outrider:vehicle:"
VEHICLE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MAX_CSR_CHARS = 16_384
#: A vehicle's clock may be behind the cloud's when it first uses the certificate.
BACKDATED = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A certificate just signed."""

    serial: str  # hex, lower case
    pem: str
    not_before_ns: int
    not_after_ns: int


def check_vehicle_id(vehicle_id: str) -> str:
    """The id, when it can stand in a URL, a URN and a file name.

    Raises:
        InvalidInput: it cannot.
    """
    if not VEHICLE_ID.fullmatch(vehicle_id):
        raise InvalidInput(
            "a vehicle id has 1 to 64 of A-Z a-z 0-9 . _ - and starts with a letter or digit", where="vehicle"
        )
    return vehicle_id


def to_ns(moment: datetime) -> int:
    """UTC nanoseconds of an aware datetime with whole seconds."""
    return int(moment.timestamp()) * 1_000_000_000


def to_datetime(ns: int) -> datetime:
    """An aware datetime, whole seconds."""
    return datetime.fromtimestamp(ns // 1_000_000_000, UTC)


def serial_text(serial: int) -> str:
    """A serial number as the database and people see it."""
    return f"{serial:x}"


def new_key() -> ec.EllipticCurvePrivateKey:
    """A private key of the kind used everywhere here: EC P-256."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The unencrypted private key; the file's mode protects it."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def create_ca(name: str, *, now_ns: int, days: int = 3650) -> tuple[bytes, bytes]:
    """A new CA: ``(certificate PEM, key PEM)``."""
    key = new_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = to_datetime(now_ns)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(sign_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), key_pem(key)


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


class Authority:
    """Signs with the CA's key."""

    def __init__(self, certificate_pem: bytes, key_pem_bytes: bytes) -> None:
        """Load and check that key and certificate belong together.

        Raises:
            ValueError: not PEM, not an EC key, or the two do not match.
        """
        self.certificate = x509.load_pem_x509_certificate(certificate_pem)
        key = serialization.load_pem_private_key(key_pem_bytes, password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError("the CA's key is not an EC key")
        if key.public_key() != self.certificate.public_key():
            raise ValueError("the CA's key does not belong to its certificate")
        self._key = key
        self.pem = certificate_pem.decode("ascii")

    def _builder(
        self,
        subject: str,
        public_key: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey,
        now_ns: int,
        life: timedelta,
    ) -> x509.CertificateBuilder:
        now = to_datetime(now_ns)
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
            .issuer_name(self.certificate.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - BACKDATED)
            .not_valid_after(min(now + life, self.certificate.not_valid_after_utc))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(sign_certificates=False), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )

    def issue_server(self, hosts: Sequence[str], *, now_ns: int, days: int = 825) -> tuple[bytes, bytes]:
        """A server certificate for host names and addresses: ``(chain PEM, key PEM)``."""
        key = new_key()
        names: list[x509.GeneralName] = []
        for host in hosts:
            try:
                names.append(x509.IPAddress(ipaddress.ip_address(host)))
            except ValueError:
                names.append(x509.DNSName(host))
        certificate = (
            self._builder(hosts[0][:64], key.public_key(), now_ns, timedelta(days=days))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM) + self.pem.encode("ascii"), key_pem(key)

    def issue_vehicle(self, csr_pem: str, vehicle_id: str, *, now_ns: int, life_ns: int) -> Issued:
        """A client certificate for ``vehicle_id`` with the CSR's public key and nothing else of the CSR.

        Raises:
            InvalidInput: the CSR cannot be read, is not signed by its own key, or has a key kind we do not accept.
        """
        public_key = _csr_public_key(csr_pem)
        certificate = (
            self._builder(check_vehicle_id(vehicle_id), public_key, now_ns, timedelta(microseconds=life_ns // 1000))
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(URN + vehicle_id)]), critical=False
            )
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return Issued(
            serial=serial_text(certificate.serial_number),
            pem=certificate.public_bytes(serialization.Encoding.PEM).decode("ascii"),
            not_before_ns=to_ns(certificate.not_valid_before_utc),
            not_after_ns=to_ns(certificate.not_valid_after_utc),
        )


def _csr_public_key(csr_pem: str) -> ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey:
    if len(csr_pem) > MAX_CSR_CHARS:
        raise InvalidInput(f"the CSR is longer than {MAX_CSR_CHARS} characters", where="csr_pem")
    try:
        csr = x509.load_pem_x509_csr(csr_pem.encode("ascii"))
        signed = csr.is_signature_valid
        key = csr.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise InvalidInput(f"the CSR cannot be read ({error})", where="csr_pem") from error
    if not signed:
        raise InvalidInput("the CSR is not signed by its own key", where="csr_pem")
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise InvalidInput("the key must be EC P-256 or Ed25519", where="csr_pem")

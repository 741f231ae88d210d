"""The vehicle's identity: a key, a certificate, and whom it trusts.

The key and its certificate live in one file that is replaced atomically, so that a power cut leaves a pair that fits.
Files are the first key store; a token (PKCS#11) would sign the enrolment instead and is not built yet.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.errors import ConfigError, PeerError, TransportError
from gateway.files import replace_file
from gateway.wire.api import EnrolReply

CLIENT_FILE, CA_FILE, FACTS_FILE = "client.pem", "ca.pem", "identity.json"
VEHICLE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
RENEW_AFTER = 2 / 3  # of the certificate's life
URN = "urn:outrider:vehicle:"  # the certificate's alternative name is this and the vehicle's id


class Facts(msgspec.Struct, frozen=True):
    """What is not secret of an identity."""

    vehicle: str
    cloud_url: str
    order_key: str | None = None  # hexadecimal; "": the cloud has none; None: enrolled before there were any


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """A fresh private key and the request for a certificate over it."""

    key_pem: bytes
    csr_pem: str


def _order_key(text: str) -> str:
    """The key as told, checked.

    Raises:
        PeerError: no raw Ed25519 public key in hexadecimal.
    """
    if text and not re.fullmatch(r"[0-9a-f]{64}", text):
        raise PeerError("the cloud's key for orders is no Ed25519 public key")
    return text


def make_key_request(vehicle: str) -> KeyRequest:
    """A new P-256 key and its CSR. The cloud ignores the name inside; it goes by the token or the certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, vehicle)])
    csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return KeyRequest(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        csr.public_bytes(serialization.Encoding.PEM).decode(),
    )


def _replace(path: Path, content: bytes) -> None:
    """Write a file through a temporary one beside it, fsynced, readable by the owner only.

    Raises:
        TransportError: the disk refused; the file is as it was.
    """
    try:
        replace_file(path, content)
    except OSError as error:
        raise TransportError(f"{path}: {error.strerror or error}") from error


class Identity:
    """An identity directory. Nothing is cached: a renewed certificate is seen at the next call."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def exists(self) -> bool:
        """Whether the vehicle was enrolled."""
        return (self.directory / CLIENT_FILE).exists() and (self.directory / FACTS_FILE).exists()

    def facts(self) -> Facts:
        """Vehicle id and cloud address.

        Raises:
            ConfigError: not enrolled, or the file is damaged.
        """
        path = self.directory / FACTS_FILE
        try:
            return msgspec.json.decode(path.read_bytes(), type=Facts)
        except FileNotFoundError as error:
            raise ConfigError("not enrolled; run 'outrider gateway enrol'", path=str(self.directory)) from error
        except (OSError, msgspec.DecodeError) as error:
            raise ConfigError(str(error), path=str(path)) from error

    def store(self, vehicle: str, request: KeyRequest, reply: EnrolReply) -> None:
        """Keep what enrolment gave, after checking that it fits the key we asked for.

        Raises:
            PeerError: the certificate is not over our key, or not a certificate.
            TransportError: the disk refused.
        """
        self._check_fits(request, reply.certificate_pem, reply.ca_pem)
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        _replace(self.directory / CA_FILE, reply.ca_pem.encode())
        _replace(self.directory / CLIENT_FILE, request.key_pem + reply.certificate_pem.encode())
        facts = Facts(vehicle, reply.vehicle_url, _order_key(reply.order_key))
        _replace(self.directory / FACTS_FILE, msgspec.json.encode(facts))

    def renew(self, request: KeyRequest, certificate_pem: str, ca_pem: str, order_key: str = "") -> None:
        """Swap key and certificate for new ones; the trust anchor is renewed first, since it must fit both.

        Raises:
            PeerError: what the cloud sent would lock us out.
            TransportError: the disk refused.
        """
        self._check_fits(request, certificate_pem, ca_pem)
        facts = self.facts()
        renewed = msgspec.structs.replace(facts, order_key=_order_key(order_key) or facts.order_key or "")
        _replace(self.directory / CA_FILE, ca_pem.encode())
        _replace(self.directory / CLIENT_FILE, request.key_pem + certificate_pem.encode())
        if renewed != facts:
            _replace(self.directory / FACTS_FILE, msgspec.json.encode(renewed))

    def order_key(self) -> bytes:
        """The raw public key whose orders are obeyed; empty for none. Raises as ``facts``."""
        return bytes.fromhex(self.facts().order_key or "")

    @property
    def has_asked_for_order_key(self) -> bool:
        """False for an identity of before there were orders; its next renewal asks. Raises as ``facts``."""
        return self.facts().order_key is not None

    @staticmethod
    def _check_fits(request: KeyRequest, certificate_pem: str, ca_pem: str) -> None:
        try:
            certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
            x509.load_pem_x509_certificates(ca_pem.encode())
        except ValueError as error:
            raise PeerError(f"the cloud sent no certificate: {error}") from error
        csr = x509.load_pem_x509_csr(request.csr_pem.encode())
        if certificate.public_key() != csr.public_key():
            raise PeerError("the cloud's certificate is not over the key we sent")

    def certificate(self) -> x509.Certificate:
        """The present certificate.

        Raises:
            ConfigError: not enrolled, or the file is damaged.
        """
        path = self.directory / CLIENT_FILE
        try:
            return x509.load_pem_x509_certificate(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigError(str(error), path=str(path)) from error

    def stamp(self) -> tuple[int, int]:
        """Changes whenever key and certificate are replaced; zeros when there are none."""
        try:
            status = (self.directory / CLIENT_FILE).stat()
        except OSError:
            return 0, 0
        return status.st_mtime_ns, status.st_ino

    def certified_vehicle(self) -> str | None:
        """Whose certificate it is; None when it names nobody. Raises as ``certificate``."""
        try:
            names = self.certificate().extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
            return None
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        return next((uri.removeprefix(URN) for uri in uris if uri.startswith(URN)), None)

    def expired_at(self, now_ns: int) -> datetime | None:
        """When the certificate ended, None while it is valid. Raises as ``certificate``."""
        end = self.certificate().not_valid_after_utc
        return end if datetime.fromtimestamp(now_ns / 1e9, UTC) >= end else None

    def needs_renewal(self, now_ns: int) -> bool:
        """Whether two thirds of the certificate's life have passed."""
        certificate = self.certificate()
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        return datetime.fromtimestamp(now_ns / 1e9, UTC) >= begin + (end - begin) * RENEW_AFTER

    def tls_context(self) -> ssl.SSLContext:
        """A client context that shows our certificate and trusts the fleet's CA alone.

        Raises:
            ConfigError: a file is missing or does not fit the other.
        """
        try:
            context = ssl.create_default_context(cafile=str(self.directory / CA_FILE))
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.load_cert_chain(str(self.directory / CLIENT_FILE))
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"identity unusable: {error}", path=str(self.directory)) from error
        return context

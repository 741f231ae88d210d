"""From a peer certificate to a vehicle. The only place where a vehicle's identity comes from.

TLS has checked chain, validity and purpose before; here the certificate is read and its register is asked. Nothing a
request says about a vehicle is looked at.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cryptography import x509

from cloud.errors import NotAllowed, NotAuthenticated, Unavailable
from cloud.identity.authority import URN, VEHICLE_ID, serial_text, to_ns

#: Where the TLS listener puts the certificate in the ASGI scope: ``scope["extensions"]["tls"][KEY]``, DER.
TLS_EXTENSION, CERTIFICATE_KEY = "tls", "client_cert_der"

_QUERY = (
    "SELECT c.revoked_ns, v.state FROM certificates c JOIN vehicles v ON v.id = c.vehicle_id"
    " WHERE c.serial = ? AND c.vehicle_id = ?"
)


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """What a vehicle's certificate says."""

    vehicle_id: str
    serial: str
    not_after_ns: int


@lru_cache(maxsize=8192)
def read_certificate(der: bytes) -> PeerCertificate:
    """Read a client certificate.

    Raises:
        NotAuthenticated: it names no vehicle, or more than one.
    """
    try:
        certificate = x509.load_der_x509_certificate(der)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension) as error:
        raise NotAuthenticated("the certificate names no vehicle") from error
    ids = [uri.removeprefix(URN) for uri in uris if uri.startswith(URN)]
    if len(ids) != 1 or not VEHICLE_ID.fullmatch(ids[0]):
        raise NotAuthenticated("the certificate names no vehicle")
    return PeerCertificate(ids[0], serial_text(certificate.serial_number), to_ns(certificate.not_valid_after_utc))


class CertificateRegister:
    """Asks the database, on each request, whether a certificate still counts.

    One indexed read on a connection of its own: tens of microseconds, never waits for a writer (WAL), and sees what
    any process has revoked. That is why it runs on the event loop.
    """

    def __init__(self) -> None:
        self._connection: sqlite3.Connection | None = None

    def open(self, connection: sqlite3.Connection) -> None:
        """Use ``connection``, which is used for nothing else."""
        self._connection = connection

    def close(self) -> None:
        """Close the connection; ``check`` refuses from now on."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def check(self, peer: PeerCertificate, now_ns: int) -> None:
        """Return when the certificate counts.

        Raises:
            Unavailable: the service is not running.
            NotAllowed: unknown, revoked, expired since the connection was made, or its vehicle is revoked.
        """
        if self._connection is None:
            raise Unavailable("the service is stopping")
        # fetchall, not fetchone: an unfinished statement would hold a snapshot and keep the WAL from being reset.
        rows = self._connection.execute(_QUERY, (peer.serial, peer.vehicle_id)).fetchall()
        if not rows:
            raise NotAllowed("this certificate is not registered here")
        revoked_ns, state = rows[0]
        if revoked_ns is not None:
            raise NotAllowed("this certificate is revoked")
        if state == "revoked":
            raise NotAllowed("this vehicle is revoked")
        if now_ns >= peer.not_after_ns:
            raise NotAllowed("this certificate has expired")

    def identify(self, scope: Any, now_ns: int) -> PeerCertificate:
        """The vehicle behind an ASGI scope.

        Raises:
            NotAuthenticated: no certificate, or one that names no vehicle.
            NotAllowed: see ``check``.
        """
        der = scope.get("extensions", {}).get(TLS_EXTENSION, {}).get(CERTIFICATE_KEY)
        if not der:
            raise NotAuthenticated("a client certificate is needed")
        peer = read_certificate(der)
        self.check(peer, now_ns)
        return peer

"""TLS for both ends of DoIP (ISO 13400-2:2019, port 3496)."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

from gateway.diag.config import DoipSection
from gateway.errors import ConfigError

HERE = Path()


def server_context(config: DoipSection, base: Path = HERE) -> ssl.SSLContext | None:
    """The node's TLS; None without a TLS port. With a client CA, testers must show a certificate of it.

    Files are looked for in ``base``, the configuration's folder.

    Raises:
        ConfigError: certificate or key cannot be used.
    """
    if config.tls_port is None:
        if config.require_tls:
            raise ConfigError("require_tls needs a tls_port", where="$.diagnostics.doip.require_tls")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(base / config.tls_certificate, base / config.tls_key if config.tls_key else None)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ConfigError(f"{config.tls_certificate!r}: {error}", where="$.diagnostics.doip.tls_certificate") from error
    if config.tls_client_ca:
        try:
            context.load_verify_locations(base / config.tls_client_ca)
        except OSError as error:
            raise ConfigError(f"{config.tls_client_ca!r}: {error}", where="$.diagnostics.doip.tls_client_ca") from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(ca: str | None = None, certificate: str = "", key: str = "") -> ssl.SSLContext:
    """A tester's TLS. Nodes are known by their CA, not by a host name; without a CA any certificate is taken.

    Raises:
        ConfigError: a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED if ca else ssl.CERT_NONE
    try:
        if ca:
            context.load_verify_locations(ca)
        if certificate:
            context.load_cert_chain(certificate, key or None)
    except (OSError, ValueError) as error:
        raise ConfigError(f"TLS files: {error}", path=ca or certificate) from error
    return context


def peer_name(transport: asyncio.BaseTransport) -> str | None:
    """The common name (or whole subject) of a verified peer certificate; None without one."""
    certificate = transport.get_extra_info("peercert")
    if not certificate:
        return None
    subject = [pair for group in certificate.get("subject", ()) for pair in group]
    names = [value for key, value in subject if key == "commonName"]
    return names[0] if names else ", ".join(f"{k}={v}" for k, v in subject)

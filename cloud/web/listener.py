"""TLS listeners: uvicorn protocols that hand the peer's certificate to the application.

uvicorn can require client certificates but does not tell the application whose it was. These subclasses wrap the
application per connection and put the DER certificate into the scope's TLS extension; a request cannot influence it.
"""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from cloud.errors import ConfigError
from cloud.identity.peer import CERTIFICATE_KEY, TLS_EXTENSION


class _WithCertificate:
    """An application that finds the certificate of its connection in the scope."""

    def __init__(self, app: Any, der: bytes) -> None:
        self._app, self._der = app, der

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        scope.setdefault("extensions", {})[TLS_EXTENSION] = {CERTIFICATE_KEY: self._der}
        await self._app(scope, receive, send)


def _peer_certificate(transport: asyncio.BaseTransport) -> bytes:
    tls = transport.get_extra_info("ssl_object")
    return (tls.getpeercert(binary_form=True) or b"") if tls is not None else b""


class PatientHttpProtocol(HttpToolsProtocol):
    """HTTP/1.1 with bounded patience: a connection that has not finished its request's head within ``head_s`` (twice
    that at most), or its body within ``body_s``, is closed. uvicorn alone waits for ever."""

    head_s = 15.0
    body_s = 60.0
    _handle: asyncio.TimerHandle | None = None
    _seen: object = None  # what the last look found unfinished, and when that began
    _since_s = 0.0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._look_again()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._handle is not None:
            self._handle.cancel()
        super().connection_lost(exc)

    def _look_again(self) -> None:
        self._handle = self.loop.call_later(self.head_s, self._look)

    def _look(self) -> None:
        if self.transport.is_closing() or self.transport.get_protocol() is not self:  # a WebSocket by now
            return
        cycle, now_s = self.cycle, self.loop.time()
        in_head = (cycle is None or cycle.response_complete) and self.timeout_keep_alive_task is None
        in_body = cycle is not None and not cycle.response_complete and cycle.more_body
        seen = (cycle, in_head) if in_head or in_body else None
        if seen is None or seen != self._seen:
            self._seen, self._since_s = seen, now_s
        if self._seen is not None and now_s - self._since_s >= (0.9 * self.head_s if in_head else self.body_s):
            self.transport.close()
            return
        self._look_again()


class CertificateHttpProtocol(PatientHttpProtocol):
    """HTTP/1.1 with the peer certificate in the scope. Bodies have their own bound, ``ingest.body_timeout_s``."""

    body_s = float("inf")

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.app = _WithCertificate(self.app, _peer_certificate(transport))


class CertificateWebSocketProtocol(WebSocketsSansIOProtocol):
    """WebSocket with the peer certificate in the scope."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.app = _WithCertificate(self.app, _peer_certificate(transport))


def vehicle_tls_context(certificate: Path, key: Path, ca: Path) -> ssl.SSLContext:
    """TLS 1.2 or later; a client certificate of ``ca`` is required.

    Raises:
        ConfigError: a file is missing, damaged, or key and certificate do not match.
    """
    context = _server_context(certificate, key)
    try:
        context.load_verify_locations(cafile=str(ca))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{ca}: {error}") from error
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


def operator_tls_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.2 or later, no client certificates. Raises as ``vehicle_tls_context``."""
    return _server_context(certificate, key)


def _server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(str(certificate), str(key))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{certificate} or {key}: {error}") from error
    return context

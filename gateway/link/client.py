"""The cloud's vehicle interface over HTTPS, as answers a core can act on. One place knows httpx."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

import anyio
import httpx
import msgspec

from gateway.errors import ConfigError, GatewayError, PeerError, TransportError
from gateway.link.identity import Identity
from gateway.wire import api, uptane
from gateway.wire.diagnostics import RESULTS, DiagnosticResult

ANSWER_MAX_BYTES = 4 * 1024 * 1024
WHOLE_REQUEST_TIMEOUTS = 20  # timeouts a request may last that makes a little progress now and then
STREAM_HEADER, SEQUENCE_HEADER, ITEMS_HEADER = "Outrider-Stream", "Outrider-Sequence", "Outrider-Items"
T = TypeVar("T")


class Refusal(Enum):
    """Why a request was not done, by what helps."""

    LATER = "later"  # overloaded, rate limit, or down: try again
    IDENTITY = "identity"  # certificate unknown, revoked or expired: a person must act
    TOO_LARGE = "too_large"  # this batch will never be taken by a cloud with that limit
    OTHER = "other"  # an answer we do not understand: try again, rarely


@dataclass(eq=False)
class RefusedError(GatewayError):
    """The cloud answered, but not with what was asked for."""

    refusal: Refusal
    status: int
    detail: str
    retry_after_s: float = 0.0

    def __str__(self) -> str:
        return f"cloud answered {self.status}: {self.detail}"


def classify(status: int, retry_after: str, body: bytes) -> RefusedError:
    """What an answer other than 2xx means."""
    try:
        detail = str(msgspec.json.decode(body, type=dict[str, object]).get("detail", ""))[:300]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        detail = ""
    try:
        retry_after_s = min(max(0.0, float(retry_after)), 3600.0)
    except ValueError:
        retry_after_s = 0.0
    if status in (401, 403):
        refusal = Refusal.IDENTITY
    elif status == 413:
        refusal = Refusal.TOO_LARGE
    elif status in (408, 425, 429) or status >= 500:
        refusal = Refusal.LATER
    else:
        refusal = Refusal.OTHER
    return RefusedError(refusal, status, detail or httpx.codes.get_reason_phrase(status), retry_after_s)


def _is_certificate_error(error: BaseException) -> bool:
    """Whether a connection failed because the other side did not like our certificate, or we not theirs."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLError) and "CERTIFICATE" in str(seen).upper():
            return True
        seen = seen.__cause__ or seen.__context__
    return False


@dataclass(eq=False, slots=True)
class _Connections:
    """A pool under one certificate, and how many requests are under way in it."""

    http: httpx.AsyncClient
    stamp: tuple[int, int]
    users: int = 0


@dataclass(frozen=True, slots=True)
class Download:
    """An answer whose body is read as it comes."""

    status: int
    headers: Mapping[str, str]  # names in any case
    #: Raises ``TransportError`` when the connection breaks. Never unpacked: these are the bytes on the wire.
    chunks: AsyncGenerator[bytes, None]

    def refusal(self) -> RefusedError:
        """What an answer other than 2xx means, its body left unread."""
        return classify(self.status, self.headers.get("Retry-After", ""), b"")


def _translated(error: Exception, what: str) -> GatewayError:
    """A failure of the connection in our terms."""
    if _is_certificate_error(error):
        return RefusedError(Refusal.IDENTITY, 0, f"TLS: {error}")
    return TransportError(f"{what}: {error or type(error).__name__}")


async def _chunks(response: httpx.Response, what: str) -> AsyncGenerator[bytes, None]:
    try:
        async for chunk in response.aiter_raw():
            yield chunk
    except (httpx.HTTPError, httpx.StreamError, ssl.SSLError, OSError) as error:
        raise _translated(error, what) from error


class CloudClient:
    """Requests under the vehicle's certificate. A certificate replaced on disk is used from the next request on."""

    def __init__(self, identity: Identity, base_url: str, timeout_s: float, vehicle: str | None = None) -> None:
        """Read the identity.

        Args:
            identity: key and certificate.
            base_url: of the cloud's vehicle port.
            timeout_s: without any progress.
            vehicle: whose certificate it must be.

        Raises:
            ConfigError: the identity is unusable or another vehicle's.
        """
        self._identity, self.base_url, self._timeout_s = identity, base_url.rstrip("/"), timeout_s
        self._vehicle = vehicle
        self.renewed = anyio.Event()  # replaced at each change of the certificate; wait on the present one
        self._now = self._connect()

    def _connect(self) -> _Connections:
        stamp = self._identity.stamp()
        owner = self._identity.certified_vehicle() if self._vehicle is not None else None
        if owner is not None and owner != self._vehicle:
            where = str(self._identity.directory)
            raise ConfigError(f"the certificate is {owner!r}'s, not {self._vehicle!r}'s", path=where)
        http = httpx.AsyncClient(
            base_url=self.base_url,
            verify=self._identity.tls_context(),
            timeout=self._timeout_s,
            limits=httpx.Limits(max_connections=8, keepalive_expiry=60),
            headers={"Accept-Encoding": "identity"},
            follow_redirects=False,
            trust_env=False,
        )
        return _Connections(http, stamp)

    async def refresh(self) -> bool:
        """Take up a certificate that was replaced on disk; True when one was.

        Requests under way end under the old one.

        Raises:
            RefusedError: the identity has become unusable or another vehicle's; nothing is sent under it.
        """
        old = self._now
        stamp = self._identity.stamp()
        if stamp == old.stamp:
            return False
        try:
            self._now = self._connect()
        except ConfigError as error:
            raise RefusedError(Refusal.IDENTITY, 0, str(error)) from error
        self.renewed.set()
        self.renewed = anyio.Event()
        if not old.users:
            await old.http.aclose()
        return True

    async def aclose(self) -> None:
        """Close the connections; nothing is under way any more."""
        await self._now.http.aclose()

    def tls_context(self) -> ssl.SSLContext:
        """A context under the same identity, for the WebSocket."""
        return self._identity.tls_context()

    async def send_batch(self, content: bytes, *, stream: str, sequence: int, items: int) -> api.BatchAck:
        """Upload one batch; returns when the cloud holds it durably.

        What the batch is, is told in headers, too: a cloud that cannot read it can then keep it as a dead letter in
        its place.

        Raises:
            TransportError, RefusedError, PeerError: it does not; the batch stays ours.
        """
        claim = {STREAM_HEADER: stream, SEQUENCE_HEADER: str(sequence), ITEMS_HEADER: str(items)}
        return await self._ask("POST", api.BATCHES, content, api.BATCH_MEDIA_TYPE, api.BatchAck, claim)

    async def send_manifest(self, manifest_hash: str, content: bytes) -> None:
        """Give the cloud the manifest our batches name. Raises as ``send_batch``."""
        headers = {"Content-Type": api.MANIFEST_MEDIA_TYPE}
        await self._request("PUT", f"{api.MANIFESTS}/{manifest_hash}", content, headers)

    async def check_in(self, message: api.CheckIn) -> api.CheckInReply:
        """Report and hear what the cloud wants. Raises as ``send_batch``."""
        return await self._ask("POST", api.CHECK_IN, msgspec.json.encode(message), "application/json", api.CheckInReply)

    async def send_result(self, result: DiagnosticResult) -> None:
        """Deliver what came of an order. Raises as ``send_batch``."""
        await self._request("POST", RESULTS, msgspec.json.encode(result), {"Content-Type": "application/json"})

    async def renew(self, message: api.RenewRequest) -> api.RenewReply:
        """Ask for a new certificate. Raises as ``send_batch``."""
        return await self._ask(
            "POST", api.CERTIFICATE, msgspec.json.encode(message), "application/json", api.RenewReply
        )

    async def send_vehicle_manifest(self, signed: uptane.Signed) -> None:
        """Deliver a vehicle version manifest. Raises as ``send_batch``; refused with status 422: dropped, and why."""
        await self._post(uptane.MANIFEST, signed)

    async def send_inventory(self, inventory: uptane.Inventory) -> None:
        """Tell the ECUs and their keys. Raises as ``send_batch``; status 409: an operator must agree first."""
        await self._post(uptane.INVENTORY, inventory)

    async def send_update_report(self, report: uptane.UpdateReport) -> None:
        """Tell how an update goes. Raises as ``send_batch``."""
        await self._post(uptane.REPORT, report)

    async def ask_time(self, request: uptane.TimeRequest) -> uptane.Signed:
        """The cloud's time, signed over our nonce; to be verified. Raises as ``send_batch``."""
        content = msgspec.json.encode(request)
        return await self._ask("POST", uptane.TIME, content, "application/json", uptane.Signed)

    async def _post(self, path: str, message: msgspec.Struct) -> None:
        await self._request("POST", path, msgspec.json.encode(message), {"Content-Type": "application/json"})

    @contextlib.asynccontextmanager
    async def download(self, path: str, headers: Mapping[str, str]) -> AsyncIterator[Download]:
        """GET something large: the answer's head, and its body as it comes, whatever its status.

        Nothing bounds the size or the time of the whole: that is the caller's, who knows what it asked for. Redirects
        are not followed.

        Raises:
            TransportError, RefusedError: no answer.
        """
        await self.refresh()
        what = f"GET {path}"
        async with self._use() as http:
            try:
                response = await http.send(http.build_request("GET", path, headers=headers), stream=True)
            except (httpx.HTTPError, httpx.StreamError, ssl.SSLError, OSError) as error:
                raise _translated(error, what) from error
            chunks = _chunks(response, what)
            try:
                yield Download(response.status_code, response.headers, chunks)
            finally:
                with anyio.CancelScope(shield=True), contextlib.suppress(httpx.HTTPError, OSError):
                    await chunks.aclose()
                    await response.aclose()

    async def _ask(
        self,
        method: str,
        path: str,
        content: bytes,
        media_type: str,
        answer: type[T],
        headers: Mapping[str, str] | None = None,
    ) -> T:
        body = await self._request(method, path, content, {"Content-Type": media_type, **(headers or {})})
        try:
            return msgspec.json.decode(body, type=answer)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise PeerError(f"{path}: the cloud's answer is not understood: {error}") from error

    @contextlib.asynccontextmanager
    async def _use(self) -> AsyncIterator[httpx.AsyncClient]:
        """The connections of now, kept open for so long though the certificate be replaced meanwhile."""
        used = self._now
        used.users += 1
        try:
            yield used.http
        finally:
            used.users -= 1
            if used is not self._now and not used.users:
                with anyio.CancelScope(shield=True):
                    await used.http.aclose()

    async def _request(self, method: str, path: str, content: bytes, headers: Mapping[str, str]) -> bytes:
        await self.refresh()
        async with self._use() as http:
            try:
                with anyio.fail_after(self._timeout_s * WHOLE_REQUEST_TIMEOUTS):
                    return await self._exchange(http, method, path, content, headers)
            except (httpx.HTTPError, httpx.StreamError, ssl.SSLError, OSError) as error:  # TimeoutError is an OSError
                raise _translated(error, f"{method} {path}") from error

    @staticmethod
    async def _exchange(
        http: httpx.AsyncClient, method: str, path: str, content: bytes, headers: Mapping[str, str]
    ) -> bytes:
        """One request; the answer as it comes, never unpacked: a few bytes of gzip could become very many."""
        async with http.stream(method, path, content=content, headers=headers) as response:
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > ANSWER_MAX_BYTES:
                    raise PeerError(f"{path}: answer larger than {ANSWER_MAX_BYTES} bytes")
            if not response.is_success:
                raise classify(response.status_code, response.headers.get("Retry-After", ""), bytes(body))
            return bytes(body)


async def enrol(cloud_url: str, request: api.EnrolRequest, *, ca_file: str | None, timeout_s: float) -> api.EnrolReply:
    """Trade a one-time token for a certificate on the operator port, which knows no client certificates.

    Raises:
        TransportError, RefusedError, PeerError: no certificate.
    """
    verify: ssl.SSLContext | bool = ssl.create_default_context(cafile=ca_file) if ca_file else True
    try:
        async with httpx.AsyncClient(verify=verify, timeout=timeout_s, trust_env=False) as http:
            response = await http.post(
                cloud_url.rstrip("/") + api.ENROL,
                content=msgspec.json.encode(request),
                headers={"Content-Type": "application/json"},
            )
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise TransportError(f"{cloud_url}: {error or type(error).__name__}") from error
    if not response.is_success:
        raise classify(response.status_code, response.headers.get("Retry-After", ""), response.content)
    try:
        return msgspec.json.decode(response.content, type=api.EnrolReply)
    except msgspec.DecodeError as error:
        raise PeerError(f"{cloud_url}: the answer is not understood: {error}") from error

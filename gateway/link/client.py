"""The cloud's vehicle interface over HTTPS, as answers a core can act on. One place knows httpx."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

import httpx
import msgspec

from gateway.errors import GatewayError, PeerError, TransportError
from gateway.link.identity import Identity
from gateway.wire import api

ANSWER_MAX_BYTES = 4 * 1024 * 1024
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
        detail = str(msgspec.json.decode(body, type=dict[str, msgspec.Raw | object]).get("detail", ""))[:300]
    except (msgspec.DecodeError, UnicodeDecodeError):
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


class CloudClient:
    """Requests under the vehicle's certificate. ``reload`` takes up a renewed one."""

    def __init__(self, identity: Identity, base_url: str, timeout_s: float) -> None:
        self._identity, self.base_url, self._timeout_s = identity, base_url.rstrip("/"), timeout_s
        self._http = self._connect()
        self._retired: list[httpx.AsyncClient] = []

    def _connect(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self.base_url,
            verify=self._identity.tls_context(),
            timeout=self._timeout_s,
            limits=httpx.Limits(max_connections=8, keepalive_expiry=120),
            trust_env=False,
        )

    async def reload(self) -> None:
        """Use the identity's present certificate for further requests; those under way end on the old one."""
        fresh = self._connect()
        await self._close_retired()
        self._retired.append(self._http)
        self._http = fresh

    async def _close_retired(self) -> None:
        while self._retired:
            await self._retired.pop().aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._close_retired()
        await self._http.aclose()

    def tls_context(self) -> ssl.SSLContext:
        """A context under the same identity, for the WebSocket."""
        return self._identity.tls_context()

    async def send_batch(self, content: bytes) -> api.BatchAck:
        """Upload one batch; returns when the cloud holds it durably.

        Raises:
            TransportError, RefusedError, PeerError: it does not; the batch stays ours.
        """
        return await self._ask("POST", api.BATCHES, content, api.BATCH_MEDIA_TYPE, api.BatchAck)

    async def send_manifest(self, manifest_hash: str, content: bytes) -> None:
        """Give the cloud the manifest our batches name. Raises as ``send_batch``."""
        await self._request("PUT", f"{api.MANIFESTS}/{manifest_hash}", content, api.MANIFEST_MEDIA_TYPE)

    async def check_in(self, message: api.CheckIn) -> api.CheckInReply:
        """Report and hear what the cloud wants. Raises as ``send_batch``."""
        return await self._ask("POST", api.CHECK_IN, msgspec.json.encode(message), "application/json", api.CheckInReply)

    async def renew(self, message: api.RenewRequest) -> api.RenewReply:
        """Ask for a new certificate. Raises as ``send_batch``."""
        return await self._ask(
            "POST", api.CERTIFICATE, msgspec.json.encode(message), "application/json", api.RenewReply
        )

    async def _ask(self, method: str, path: str, content: bytes, media_type: str, answer: type[T]) -> T:
        body = await self._request(method, path, content, media_type)
        try:
            return msgspec.json.decode(body, type=answer)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise PeerError(f"{path}: the cloud's answer is not understood: {error}") from error

    async def _request(self, method: str, path: str, content: bytes, media_type: str) -> bytes:
        headers = {"Content-Type": media_type}
        try:
            async with self._http.stream(method, path, content=content, headers=headers) as response:
                body = bytearray()
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > ANSWER_MAX_BYTES:
                        raise PeerError(f"{path}: answer larger than {ANSWER_MAX_BYTES} bytes")
                if not response.is_success:
                    raise classify(response.status_code, response.headers.get("Retry-After", ""), bytes(body))
                return bytes(body)
        except (httpx.HTTPError, httpx.StreamError, ssl.SSLError, OSError) as error:
            if _is_certificate_error(error):
                raise RefusedError(Refusal.IDENTITY, 0, f"TLS: {error}") from error
            raise TransportError(f"{method} {path}: {error or type(error).__name__}") from error


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

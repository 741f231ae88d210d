"""``Fetcher`` and ``TimeSource`` over the cloud's vehicle port: bounded, watched, resumed.

What a server may do to us and what it gets: more bytes than agreed is *endless data*; too few per second is *slow
retrieval*; a redirect, a packed body, the wrong range or a file of another length is refused without reading it. A
connection that breaks is taken up where it broke, with pauses that grow, until too many in a row brought nothing.
"""

from __future__ import annotations

import random
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from urllib.parse import quote

import anyio

from gateway.errors import PeerError, TransportError
from gateway.link.backoff import Backoff
from gateway.link.client import CloudClient, Download, Refusal, RefusedError
from gateway.runtime.clock import Clock, SystemClock
from gateway.update.model import AttackError
from gateway.uptane.fetch import (
    ContentChangedError,
    FetchLimits,
    SpeedWatch,
    check_metadata_name,
    endless,
    size_rule,
    slow,
    wire_name,
)
from gateway.wire import uptane
from gateway.wire.uptane import FileFacts

_FOLDERS = {"director": uptane.DIRECTOR, "image": uptane.IMAGE}
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_MAX_ETAGS = 64


class _FinalError(TransportError):
    """An answer that asking again at once will not change."""


class _LaterError(TransportError):
    """Not now; the server may have said when."""

    def __init__(self, message: str, after_s: float) -> None:
        super().__init__(message)
        self.after_s = after_s


class CloudFetcher:
    """Fetches under the vehicle's certificate. One download at a time, or several: they share nothing but ETags."""

    def __init__(
        self,
        client: CloudClient,
        limits: FetchLimits | None = None,
        *,
        clock: Clock | None = None,
        sleep: Callable[[float], Awaitable[object]] = anyio.sleep,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """Make a fetcher.

        Args:
            client: the link.
            limits: of size and patience.
            clock: measures waiting.
            sleep: pauses between connections.
            draw: a number in [0, 1) for their jitter.
        """
        self._client, self._limits = client, limits or FetchLimits()
        self._clock, self._sleep, self._draw = clock or SystemClock(), sleep, draw
        self._etags: dict[str, str] = {}

    async def metadata(self, repository: str, name: str, max_bytes: int) -> bytes | None:
        """See ``Fetcher``. A name that is not there (404) is None; every other refusal is an error."""
        check_metadata_name(repository, name)
        path, rule, body = f"{_FOLDERS[repository]}/{quote(name, safe='%')}", size_rule(name), bytearray()
        watch = SpeedWatch(self._limits)
        async with self._get(path, {}, watch) as answer:
            if answer.status == 404:
                return None
            _check_success(answer, path, (200,))
            declared = _length(answer.headers)
            if declared is not None and declared > max_bytes:
                raise endless(f"{path}: {declared} bytes, at most {max_bytes} are taken", rule)
            async for chunk in self._watched(answer.chunks, watch, path):
                body += chunk
                if len(body) > max_bytes:
                    raise endless(f"{path}: more than {max_bytes} bytes", rule)
        return bytes(body)

    async def attested_time(self, request: uptane.TimeRequest) -> uptane.Signed:
        """See ``TimeSource``."""
        try:
            with anyio.move_on_after(self._limits.slow_s):
                return await self._client.ask_time(request)
        except (RefusedError, PeerError) as error:
            raise TransportError(f"POST {uptane.TIME}: {error}") from error
        raise slow(f"POST {uptane.TIME}: no whole answer within {self._limits.slow_s:.0f} s")

    async def target(self, file: FileFacts, offset: int) -> AsyncGenerator[bytes, None]:
        """See ``Fetcher``. Ends only after the last byte of the image.

        Raises:
            ContentChangedError: what came before ``offset``, or before a break, was of another file.
        """
        path = f"{uptane.TARGETS}/{quote(wire_name(file), safe='/')}"
        backoff = Backoff(self._limits.backoff_first_s, self._limits.backoff_max_s, self._draw)
        watch, place, gained = SpeedWatch(self._limits), offset, 0
        while place < file.length:
            after_s, failure = 0.0, TransportError(f"GET {path}: ended after {place} of {file.length} bytes")
            try:
                async with aclosing(self._stretch(path, file, place, watch)) as chunks:
                    async for chunk in chunks:
                        place, gained = place + len(chunk), gained + len(chunk)
                        if gained >= self._limits.progress_bytes:
                            backoff.succeeded()
                            gained = 0
                        yield chunk
            except (_FinalError, ContentChangedError):
                raise
            except TransportError as error:
                failure, after_s = error, error.after_s if isinstance(error, _LaterError) else 0.0
            if place < file.length:
                pause_s = backoff.failed(after_s)
                if backoff.failures > self._limits.max_failures:
                    raise failure
                await self._sleep(pause_s)

    async def _stretch(self, path: str, file: FileFacts, place: int, watch: SpeedWatch) -> AsyncGenerator[bytes, None]:
        """What one connection gives from ``place`` on; checked not to be more than there is."""
        known = self._etags.get(path, "")
        headers = {"Range": f"bytes={place}-"} if place else {}
        if place and known:
            headers["If-Range"] = known
        async with self._get(path, headers, watch) as answer:
            _check_success(answer, path, (200, 206) if place else (200,))
            self._check_same(path, answer.headers.get("ETag", ""), known if place else "")
            skip = place if answer.status == 200 else 0  # a server that knows no ranges tells it all again
            _check_extent(answer, path, file, place)
            left = file.length - place
            async for chunk in self._watched(answer.chunks, watch, path):
                if skip:
                    chunk, skip = chunk[skip:], max(0, skip - len(chunk))
                if len(chunk) > left:
                    raise endless(f"{path}: more than the {file.length} bytes of the image", "V4")
                left -= len(chunk)
                if chunk:
                    yield chunk

    def _check_same(self, path: str, etag: str, known: str) -> None:
        """Note which file it is, and notice when it became another."""
        if etag.startswith('"'):  # weak ones do not promise the same bytes
            while len(self._etags) >= _MAX_ETAGS and path not in self._etags:
                del self._etags[next(iter(self._etags))]
            self._etags[path] = etag
        if known and etag and etag != known:
            raise ContentChangedError(f"GET {path}: the file was replaced on the server meanwhile")

    @asynccontextmanager
    async def _get(self, path: str, headers: Mapping[str, str], watch: SpeedWatch) -> AsyncIterator[Download]:
        """An answer's head, in time."""
        async with AsyncExitStack() as stack:
            begun_ns, answer = self._clock.monotonic_ns(), None
            with anyio.move_on_after(self._limits.slow_s):
                try:
                    answer = await stack.enter_async_context(self._client.download(path, headers))
                except RefusedError as error:
                    raise _FinalError(f"GET {path}: {error}") from error
            if answer is None:
                raise slow(f"GET {path}: no answer within {self._limits.slow_s:.0f} s")
            watch.heard(0, self._clock.monotonic_ns() - begun_ns, path)
            yield answer

    async def _watched(
        self, chunks: AsyncGenerator[bytes, None], watch: SpeedWatch, what: str
    ) -> AsyncGenerator[bytes, None]:
        """The same, unless they come too slowly."""
        while True:
            begun_ns, chunk = self._clock.monotonic_ns(), None
            try:
                with anyio.move_on_after(self._limits.slow_s):
                    chunk = await anext(chunks, b"")
            finally:  # a connection that breaks after a long wait was waited for, too
                watch.heard(len(chunk or b""), self._clock.monotonic_ns() - begun_ns, what)
            if chunk is None:
                raise slow(f"{what}: nothing came for {self._limits.slow_s:.0f} s")
            if not chunk:
                return
            yield chunk


def _length(headers: Mapping[str, str]) -> int | None:
    """What the answer says of its body's length."""
    text = headers.get("Content-Length", "")
    return int(text) if re.fullmatch(r"\d{1,18}", text) else None


def _check_success(answer: Download, path: str, allowed: tuple[int, ...]) -> None:
    if answer.status not in allowed:
        refusal = answer.refusal()
        if refusal.refusal is Refusal.LATER:
            raise _LaterError(f"GET {path}: {refusal}", refusal.retry_after_s)
        raise _FinalError(f"GET {path}: {refusal}")
    packed = answer.headers.get("Content-Encoding", "identity").strip().lower()
    if packed not in ("", "identity"):
        raise _FinalError(f"GET {path}: the answer is packed with {packed[:40]!r}, which was not asked for")


def _check_extent(answer: Download, path: str, file: FileFacts, place: int) -> None:
    """The answer is of a file of our length, and begins where we asked."""
    declared, expected = _length(answer.headers), file.length
    if answer.status == 206:
        match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", "").strip())
        if match is None or int(match[1]) != place:
            raise _FinalError(f"GET {path}: asked from byte {place}, got another range")
        total = None if match[3] == "*" else int(match[3])
        if total is not None and total != file.length:
            raise _wrong_length(path, total, file.length)
        expected = file.length - place
    if declared is None or declared == expected:
        return
    if answer.status == 206 and declared < expected:
        return  # a part of what was asked; the rest is asked for next
    raise _wrong_length(path, declared, expected)


def _wrong_length(path: str, told: int, expected: int) -> AttackError:
    if told > expected:
        return endless(f"GET {path}: {told} bytes instead of {expected}", "V4")
    return AttackError("arbitrary software", "V4", f"GET {path}: {told} bytes instead of {expected}")

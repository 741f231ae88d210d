"""A server on loopback that behaves as badly as a test likes, and a client that believes itself enrolled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from gateway.link.client import CloudClient
from gateway.link.identity import Identity, make_key_request
from gateway.uptane.fetch import FetchLimits
from gateway.uptane.fetch_cloud import CloudFetcher
from gateway.wire.api import EnrolReply
from tests.cloud.support import make_pki

DAY_NS, SECOND_NS = 86_400_000_000_000, 1_000_000_000


@dataclass(frozen=True)
class Request:
    """What the server was asked."""

    method: str
    path: str  # as on the wire
    headers: dict[str, str]  # lower-case names

    @property
    def start(self) -> int:
        """Where the asked range begins; 0 for the whole."""
        return int(self.headers.get("range", "bytes=0-").removeprefix("bytes=").rstrip("-"))


Behave = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Mirror:
    """Answers by ``behave``; the connection is closed after each answer."""

    behave: Behave
    requests: list[Request] = field(default_factory=list)
    url: str = ""
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        task = asyncio.create_task(self._serve(reader, writer))
        self.tasks.add(task)
        await asyncio.wait([task])
        writer.transport.abort() if task.cancelled() else writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            method, path, _ = head[0].split(" ")
            told = dict(line.split(": ", 1) for line in head[1:] if ": " in line)
            self.requests.append(Request(method, path, {name.lower(): value for name, value in told.items()}))
            await self.behave(self.requests[-1], writer)
            await writer.drain()


@asynccontextmanager
async def mirror(behave: Behave) -> AsyncIterator[Mirror]:
    """Serve while the block lasts."""
    made = Mirror(behave)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()
        for task in made.tasks:
            task.cancel()
        while any(not task.done() for task in made.tasks):
            await asyncio.wait(made.tasks)
        await asyncio.sleep(0)  # connections are closed by those who waited for the tasks


def head(status: str, *headers: str) -> bytes:
    """The beginning of an answer."""
    return "\r\n".join([f"HTTP/1.1 {status}", "Connection: close", *headers, "", ""]).encode()


def whole(body: bytes, status: str = "200 OK", *headers: str) -> Behave:
    """An honest answer, the same to every question."""

    async def behave(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(head(status, f"Content-Length: {len(body)}", *headers) + body)

    return behave


def ranged(body: bytes, *, breaks: list[int] | None = None, etag: str = '"1"') -> Behave:
    """An honest server of one image; ``breaks``: how many bytes the first connections give before they die."""
    left = list(breaks or [])

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        start = request.start
        rest = body[start:]
        lines = [f"Content-Length: {len(rest)}", f"ETag: {etag}"]
        if start:
            lines.append(f"Content-Range: bytes {start}-{len(body) - 1}/{len(body)}")
        writer.write(head("206 Partial Content" if start else "200 OK", *lines))
        writer.write(rest[: left.pop(0)] if left else rest)

    return behave


def enrolled(directory: Path) -> Path:
    """An identity that nobody asks for over plain HTTP."""
    authority = make_pki(directory)
    request = make_key_request("VIN1")
    issued = authority.issue_vehicle(request.csr_pem, "VIN1", now_ns=time.time_ns(), life_ns=DAY_NS)
    Identity(directory / "identity").store("VIN1", request, EnrolReply(issued.pem, authority.pem, "http://127.0.0.1:1"))
    return directory / "identity"


class TickingClock:
    """Each look at it finds so many seconds gone by."""

    def __init__(self, step_s: float = 0.0) -> None:
        self.step_ns, self._now_ns = int(step_s * SECOND_NS), 0

    def utc_ns(self) -> int:
        """See ``Clock``."""
        return self._now_ns

    def monotonic_ns(self) -> int:
        """See ``Clock``."""
        self._now_ns += self.step_ns
        return self._now_ns


@dataclass
class Rig:
    """A fetcher over a mirror, with its pauses noted and not made."""

    fetcher: CloudFetcher
    mirror: Mirror
    client: CloudClient
    pauses: list[float]


@asynccontextmanager
async def fetching(
    behave: Behave,
    identity: Path,
    *,
    limits: FetchLimits | None = None,
    step_s: float = 0.0,
    timeout_s: float = 10.0,
) -> AsyncIterator[Rig]:
    """A rig while the block lasts."""
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    async with mirror(behave) as served:
        client = CloudClient(Identity(identity), served.url, timeout_s)
        fetcher = CloudFetcher(
            client, limits or FetchLimits(), clock=TickingClock(step_s), sleep=pause, draw=lambda: 0.5
        )
        try:
            yield Rig(fetcher, served, client, pauses)
        finally:
            await client.aclose()

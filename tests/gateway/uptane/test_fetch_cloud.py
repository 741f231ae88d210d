"""Fetching from a cloud, and from whatever may stand in its place."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import msgspec
import pytest

from gateway.errors import TransportError
from gateway.update.model import AttackError
from gateway.uptane.fetch import ContentChangedError, FetchLimits
from gateway.uptane.fetch_cloud import CloudFetcher
from gateway.wire.uptane import FileFacts, Signature, Signed, TimeRequest
from tests.gateway.uptane.fetch_server import Behave, Request, fetching, head, ranged, whole

pytestmark = pytest.mark.anyio
IMAGE = bytes(range(256)) * 1024
PATIENT = FetchLimits(progress_bytes=1000, max_failures=3)


def facts(content: bytes = IMAGE, filename: str = "motor/fw.bin") -> FileFacts:
    return FileFacts(filename=filename, length=len(content), hashes={"sha256": hashlib.sha256(content).hexdigest()})


async def taken(fetcher: CloudFetcher, file: FileFacts, offset: int = 0) -> bytes:
    async with aclosing(fetcher.target(file, offset)) as chunks:
        return b"".join([chunk async for chunk in chunks])


def raw(*pieces: bytes) -> Behave:
    """Exactly these bytes, one after the other, each by itself."""

    async def behave(_: Request, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)

    return behave


def endless(status_line: str = "200 OK", *headers: str) -> Behave:
    """A body without an end."""

    async def behave(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(head(status_line, *headers))
        while True:
            writer.write(b" " * 65536)
            await writer.drain()

    return behave


async def dripping(_: Request, writer: asyncio.StreamWriter) -> None:
    """Byte by byte, each in a packet of its own."""
    writer.write(head("200 OK", f"Content-Length: {len(IMAGE)}"))
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.002)


# metadata


async def test_metadata_comes_whole_and_a_name_that_is_not_there_is_none(identity: Path) -> None:
    async with fetching(whole(b'{"signed":1}'), identity) as rig:
        assert await rig.fetcher.metadata("director", "3.root.json", 100) == b'{"signed":1}'
        assert await rig.fetcher.metadata("image", "3.supplier%2Fbrakes.json", 100) == b'{"signed":1}'
        rig.mirror.behave = whole(b"no", "404 Not Found")
        assert await rig.fetcher.metadata("image", "4.root.json", 100) is None
        assert [request.path for request in rig.mirror.requests] == [
            "/v1/uptane/director/3.root.json",
            "/v1/uptane/image/3.supplier%2Fbrakes.json",
            "/v1/uptane/image/4.root.json",
        ]


@pytest.mark.parametrize(
    ("name", "rule"),
    [("7.root.json", "CR1"), ("timestamp.json", "CT1"), ("7.snapshot.json", "CS1"), ("7.targets.json", "CG1")],
)
async def test_cr1_metadata_of_more_than_its_limit_is_endless_data(name: str, rule: str, identity: Path) -> None:
    """Also CT1, CS1, CG1; whether the length is told or not, and without reading it to an end that never comes."""
    for behave in (endless(), endless("200 OK", "Content-Length: 99999999"), whole(b"x" * 1001)):
        async with fetching(behave, identity) as rig:
            with pytest.raises(AttackError) as caught:
                await rig.fetcher.metadata("image", name, 1000)
        assert (caught.value.attack, caught.value.rule) == ("endless data", rule)


@pytest.mark.parametrize(
    "behave",
    [
        whole(b"", "302 Found", "Location: http://127.0.0.1:1/"),
        whole(b"", "307 Temporary Redirect", "Location: /v1/uptane/image/other.json"),
        whole(gzip.compress(b"{}"), "200 OK", "Content-Encoding: gzip"),
        whole(b"", "206 Partial Content"),
        whole(b"", "403 Forbidden"),
        whole(b"", "500 Oops"),
        whole(b"", "503 Busy", "Retry-After: 7"),
        raw(b"SSH-2.0-OpenSSH\r\n\r\n"),
        raw(head("200 OK", "Content-Length: 10") + b"half"),
        raw(),
    ],
)
async def test_an_answer_that_is_no_metadata_is_none_and_never_content(behave: Behave, identity: Path) -> None:
    async with fetching(behave, identity) as rig:
        with pytest.raises(TransportError):
            await rig.fetcher.metadata("image", "timestamp.json", 1000)
        assert len(rig.mirror.requests) == 1


async def test_r4_a_role_name_that_leaves_its_folder_is_never_asked_for(identity: Path) -> None:
    async with fetching(whole(b"{}"), identity) as rig:
        for name in ("../x.json", "a/b.json", "x", ".json", "a\n.json", "é.json", "9" * 300 + ".json"):
            with pytest.raises(AttackError):
                await rig.fetcher.metadata("image", name, 1000)
        with pytest.raises(ValueError, match="repository"):
            await rig.fetcher.metadata("targets", "x.json", 1000)
        assert not rig.mirror.requests


# speed


@pytest.mark.parametrize("step_s", [1.0, 29.0])
async def test_v8_one_byte_at_a_time_is_slow_retrieval(step_s: float, identity: Path) -> None:
    """1 byte/s, and 1 byte per 29 s, which never trips a timeout of 30 s."""
    async with fetching(dripping, identity, step_s=step_s) as rig:
        for fetch in (taken(rig.fetcher, facts()), rig.fetcher.metadata("image", "3.root.json", 512_000)):
            with pytest.raises(AttackError) as caught:
                await fetch
            assert (caught.value.attack, caught.value.rule) == ("slow retrieval", "V8")


async def test_v8_a_slow_disk_of_our_own_is_no_attack(identity: Path) -> None:
    """Time between two reads is ours, not the server's."""
    async with fetching(ranged(IMAGE), identity, limits=FetchLimits(slow_s=1.0, min_bytes_per_s=1e6)) as rig:
        async with aclosing(rig.fetcher.target(facts(), 0)) as chunks:
            got = bytearray()
            async for chunk in chunks:
                got += chunk
                rig.fetcher._clock._now_ns += 3_600_000_000_000  # type: ignore[attr-defined]  # an hour per chunk
        assert got == IMAGE


async def test_v8_a_head_that_never_ends_is_slow_retrieval(identity: Path) -> None:
    async def behave(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"X: y\r\n")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with fetching(behave, identity, limits=FetchLimits(slow_s=0.2)) as rig:
        with pytest.raises(AttackError, match="slow retrieval"):
            await rig.fetcher.metadata("director", "timestamp.json", 1000)
        with pytest.raises(AttackError, match="slow retrieval"):
            await rig.fetcher.attested_time(TimeRequest(b"n" * 32))


async def test_v8_a_server_that_falls_silent_again_and_again_is_slow_retrieval(identity: Path) -> None:
    """Each connection dies by its timeout; the waiting adds up over connections."""

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        await ranged(IMAGE, breaks=[1])(request, writer)
        await writer.drain()
        await asyncio.sleep(60)

    async with fetching(behave, identity, step_s=25.0, timeout_s=0.05, limits=FetchLimits(max_failures=50)) as rig:
        with pytest.raises(AttackError, match="slow retrieval"):
            await taken(rig.fetcher, facts())


# images


async def test_v4_an_image_is_asked_for_by_its_hash_and_comes_from_any_byte(identity: Path) -> None:
    async with fetching(ranged(IMAGE), identity) as rig:
        assert await taken(rig.fetcher, facts()) == IMAGE
        assert await taken(rig.fetcher, facts(), 1000) == IMAGE[1000:]
        assert await taken(rig.fetcher, facts(), len(IMAGE)) == b""
        first, second = rig.mirror.requests
        assert first.path == f"/v1/uptane/targets/motor/{hashlib.sha256(IMAGE).hexdigest()}.fw.bin"
        assert "range" not in first.headers
        assert (second.headers["range"], second.headers["if-range"]) == ("bytes=1000-", '"1"')
        assert second.headers["accept-encoding"] == "identity"


async def test_r4_names_with_odd_characters_arrive_as_they_are(identity: Path) -> None:
    digest = hashlib.sha256(IMAGE).hexdigest()
    async with fetching(ranged(IMAGE), identity) as rig:
        assert await taken(rig.fetcher, facts(filename="a b/ü%2F?#.bin")) == IMAGE
        assert rig.mirror.requests[0].path == f"/v1/uptane/targets/a%20b/{digest}.%C3%BC%252F%3F%23.bin"


@pytest.mark.parametrize("filename", ["../x", "/x", "a//b", "a/..", "a\\b", "", "a\x00b", "x" * 500])
async def test_r4_a_name_that_leaves_its_folder_is_refused(filename: str, identity: Path) -> None:
    async with fetching(ranged(IMAGE), identity) as rig:
        with pytest.raises(AttackError):
            await taken(rig.fetcher, facts(filename=filename))
        assert not rig.mirror.requests


async def test_broken_connections_are_taken_up_where_they_broke(identity: Path) -> None:
    breaks = [5000, 0, 0, 3000, 1, 0, 100_000, 1200]
    async with fetching(ranged(IMAGE, breaks=breaks), identity, limits=PATIENT) as rig:
        assert await taken(rig.fetcher, facts()) == IMAGE
        starts = [request.start for request in rig.mirror.requests]
        assert starts == [0, 5000, 5000, 5000, 8000, 8001, 8001, 108_001, 109_201]
        assert rig.pauses[0] < rig.pauses[1] < rig.pauses[2] > rig.pauses[3]  # they grow until something came


async def test_connections_that_bring_nothing_come_to_an_end(identity: Path) -> None:
    async with fetching(ranged(IMAGE, breaks=[1] * 1000), identity, limits=PATIENT) as rig:
        with pytest.raises(TransportError):
            await taken(rig.fetcher, facts())
        assert len(rig.mirror.requests) == PATIENT.max_failures + 1


async def test_a_body_that_ends_early_without_an_error_is_a_broken_one(identity: Path) -> None:
    cuts = iter([1000, 2000, len(IMAGE)])

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        """Neither a length nor chunks: the end is where the connection ends."""
        end = next(cuts)
        part = f"Content-Range: bytes {request.start}-{end - 1}/{len(IMAGE)}"
        writer.write(head("206 Partial Content", part) if request.start else head("200 OK"))
        writer.write(IMAGE[request.start : end])

    async with fetching(behave, identity, limits=PATIENT) as rig:
        assert await taken(rig.fetcher, facts()) == IMAGE


async def test_a_busy_server_is_asked_again_when_it_said(identity: Path) -> None:
    answers = iter([whole(b"", "503 Busy", "Retry-After: 300"), ranged(IMAGE)])

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        await next(answers)(request, writer)

    async with fetching(behave, identity) as rig:
        assert await taken(rig.fetcher, facts()) == IMAGE
        assert rig.pauses == [300.0]


async def test_a_server_that_knows_no_ranges_writes_nothing_twice(identity: Path) -> None:
    breaks = iter([70_000, 100_000, len(IMAGE)])

    async def behave(_: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(head("200 OK", f"Content-Length: {len(IMAGE)}") + IMAGE[: next(breaks)])

    async with fetching(behave, identity) as rig:
        assert await taken(rig.fetcher, facts()) == IMAGE
        assert len(rig.mirror.requests) == 3


async def test_a_file_replaced_between_two_ranges_is_told(identity: Path) -> None:
    other = IMAGE[::-1]

    def full(request: Request) -> bytes:
        return head("200 OK", f"Content-Length: {len(other)}", 'ETag: "2"') + other

    def part(request: Request) -> bytes:
        rest = other[request.start :]
        told = f"Content-Range: bytes {request.start}-{len(other) - 1}/{len(other)}"
        return head("206 Partial Content", f"Content-Length: {len(rest)}", told, 'ETag: "2"') + rest

    for answer in (full, part):
        first = ranged(IMAGE, breaks=[1000])

        async def behave(
            request: Request,
            writer: asyncio.StreamWriter,
            first: Behave = first,
            answer: Callable[[Request], bytes] = answer,
        ) -> None:
            if request.start:
                writer.write(answer(request))
            else:
                await first(request, writer)

        async with fetching(behave, identity) as rig:
            with pytest.raises(ContentChangedError):
                await taken(rig.fetcher, facts())


def _part(told: str, body: bytes = IMAGE[1000:], *more: str) -> Behave:
    return whole(body, "206 Partial Content", told, *more)


END = len(IMAGE) - 1
WRONG_PARTS = {
    "no range told": whole(IMAGE[1000:], "206 Partial Content"),
    "another start": _part(f"Content-Range: bytes 0-{END}/{len(IMAGE)}", IMAGE),
    "nonsense": _part("Content-Range: bytes */*"),
    "several": whole(b"--x", "206 Partial Content", "Content-Type: multipart/byteranges; boundary=x"),
    "not satisfiable": whole(b"", "416 Range Not Satisfiable", "Content-Range: bytes */10"),
    "packed": _part(f"Content-Range: bytes 1000-{END}/{len(IMAGE)}", IMAGE[1000:], "Content-Encoding: gzip"),
    "gone": whole(b"", "404 Not Found"),
    "a redirect": whole(b"", "302 Found", "Location: http://127.0.0.1:1/"),
}


@pytest.mark.parametrize("wrong", WRONG_PARTS)
async def test_a_wrong_part_is_refused_and_not_asked_for_again_at_once(wrong: str, identity: Path) -> None:
    async with fetching(WRONG_PARTS[wrong], identity) as rig:
        with pytest.raises(TransportError):
            await taken(rig.fetcher, facts(), 1000)
        assert len(rig.mirror.requests) == 1


@pytest.mark.parametrize(
    ("behave", "offset", "attack"),
    [
        (endless(), 0, "endless data"),
        (endless("206 Partial Content", f"Content-Range: bytes 1000-{END}/{len(IMAGE)}"), 1000, "endless data"),
        (whole(IMAGE + b"x"), 0, "endless data"),
        (whole(IMAGE[:-1]), 0, "arbitrary software"),
        (_part(f"Content-Range: bytes 1000-{END + 1}/{len(IMAGE) + 1}"), 1000, "endless data"),
        (_part(f"Content-Range: bytes 1000-{END - 1}/{len(IMAGE) - 1}"), 1000, "arbitrary software"),
        (_part(f"Content-Range: bytes 1000-{END}/{len(IMAGE)}", IMAGE[1000:] + b"x"), 1000, "endless data"),
    ],
)
async def test_v4_an_image_of_another_length_is_refused(
    behave: Behave, offset: int, attack: str, identity: Path
) -> None:
    async with fetching(behave, identity) as rig:
        with pytest.raises(AttackError) as caught:
            await taken(rig.fetcher, facts(), offset)
        assert (caught.value.attack, caught.value.rule) == (attack, "V4")


async def test_v4_never_more_bytes_than_the_length_come_through(identity: Path) -> None:
    async with fetching(endless(), identity) as rig:
        got = 0
        with pytest.raises(AttackError):
            async with aclosing(rig.fetcher.target(facts(), 0)) as chunks:
                async for chunk in chunks:
                    got += len(chunk)
        assert got <= len(IMAGE)


async def test_a_fetch_that_is_given_up_leaves_nothing_open(identity: Path) -> None:
    async with fetching(endless("200 OK", f"Content-Length: {10**9}"), identity) as rig:
        async with aclosing(rig.fetcher.target(msgspec.structs.replace(facts(), length=10**9), 0)) as chunks:
            assert await anext(chunks)
            assert rig.client._now.users == 1
        assert rig.client._now.users == 0


async def test_a_certificate_replaced_in_the_middle_does_not_break_a_download(identity: Path) -> None:
    async with fetching(ranged(IMAGE), identity) as rig:
        async with aclosing(rig.fetcher.target(facts(), 0)) as chunks:
            got = bytearray(await anext(chunks))
            pem = identity / "client.pem"
            pem.write_bytes(pem.read_bytes())  # the same, but newer
            assert await rig.client.refresh()
            async for chunk in chunks:
                got += chunk
        assert got == IMAGE


async def test_v2_attested_time_is_asked_for_and_handed_on_as_it_came(identity: Path) -> None:
    answer = Signed(payload=b"t", signatures=(Signature(key_id="k", method="ed25519", value=b"v"),))
    async with fetching(whole(msgspec.json.encode(answer)), identity) as rig:
        assert await rig.fetcher.attested_time(TimeRequest(b"n" * 32)) == answer
        for behave in (whole(b"{}"), whole(b"", "404 Not Found"), raw()):
            rig.mirror.behave = behave
            with pytest.raises(TransportError):
                await rig.fetcher.attested_time(TimeRequest(b"n" * 32))

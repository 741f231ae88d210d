"""Downloads and uploads against an ECU that keeps count, and loses things."""

from __future__ import annotations

from collections.abc import Collection

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import TransportError
from gateway.uds.client import UdsClient
from gateway.uds.errors import MalformedAnswer, NegativeResponse, TransferError
from gateway.uds.timing import Timing
from gateway.uds.transfer import Resume, TransferBroken, download, upload

from .support import Answers, EcuInMemory, run

TIMING = Timing(latency_ms=0, transfer_ms=0)


class Loader:
    """Memory behind 34-37 by the book: counter from 1, wrapping FF to 00, a repeated block not written again."""

    def __init__(
        self, max_block: int = 10, *, lose_request: Collection[int] = (), lose_answer: Collection[int] = ()
    ) -> None:
        self.max_block, self.lose_request, self.lose_answer = max_block, lose_request, lose_answer
        self.memory = bytearray()
        self.expected = 1
        self.last: int | None = None
        self.size = 0
        self.seen = 0
        self.is_open = False
        self.exits = 0
        self.nrc: dict[int, int] = {}

    def __call__(self, request: bytes) -> Answers:
        if request[0] == 0x34:
            self.size = int.from_bytes(request[7:11], "big")
            self.memory.clear()
            self.expected, self.last, self.is_open = 1, None, True
            return [(1, bytes([0x74, 0x20]) + self.max_block.to_bytes(2, "big"))]
        if request[0] == 0x37:
            self.exits += 1
            done = self.is_open and len(self.memory) == self.size
            return [(1, b"\x77\xca\xfe" if done else b"\x7f\x37\x24")]
        self.seen += 1
        if self.seen in self.lose_request:
            return []
        answer = self.block(request)
        return [] if self.seen in self.lose_answer else [(1, answer)]

    def block(self, request: bytes) -> bytes:
        counter = request[1]
        if self.seen in self.nrc:
            return bytes([0x7F, 0x36, self.nrc[self.seen]])
        if len(request) > self.max_block:
            return b"\x7f\x36\x13"
        if counter == self.last:
            return bytes([0x76, counter])
        if counter != self.expected:
            return b"\x7f\x36\x73"
        self.memory += request[2:]
        if len(self.memory) > self.size:
            return b"\x7f\x36\x71"
        self.last, self.expected = counter, (counter + 1) & 0xFF
        return bytes([0x76, counter])


def client_of(loader: Loader, max_pdu_bytes: int = 4095) -> UdsClient:
    return UdsClient(EcuInMemory(loader, max_pdu_bytes=max_pdu_bytes), timing=TIMING)


def test_blocks_are_as_long_as_the_ecu_takes_and_the_counter_wraps() -> None:
    loader, content = Loader(10), bytes(range(256)) * 17
    progress: list[tuple[int, int]] = []

    async def scenario() -> tuple[int, bytes]:
        done = await download(client_of(loader), 0x8000, content, on_progress=lambda at, of: progress.append((at, of)))
        return done.blocks, done.record

    assert run(scenario) == (544, b"\xca\xfe")
    assert loader.memory == content
    assert progress[0] == (8, len(content))
    assert progress[-1] == (len(content), len(content))


@pytest.mark.parametrize(("max_pdu_bytes", "own", "blocks"), [(11, None, 10), (4095, 7, 18)])
def test_blocks_are_no_longer_than_the_channel_or_we_want(max_pdu_bytes: int, own: int | None, blocks: int) -> None:
    async def scenario() -> int:
        client = client_of(Loader(4000), max_pdu_bytes)
        return (await download(client, 0, bytes(90), max_block_bytes=own)).blocks

    assert run(scenario) == blocks


@pytest.mark.parametrize("kind", ["lose_request", "lose_answer"])
def test_a_lost_block_is_sent_again_and_written_once(kind: str) -> None:
    lost = {1, 4, 5, 9}
    loader = Loader(10, lose_request=lost) if kind == "lose_request" else Loader(10, lose_answer=lost)
    content = bytes(range(100))

    async def scenario() -> int:
        return (await download(client_of(loader), 0, content)).repeated

    assert run(scenario) == 4
    assert loader.memory == content


def test_a_wrong_counter_is_tried_again() -> None:
    loader = Loader(10)
    loader.nrc = {2: 0x73}

    async def scenario() -> int:
        return (await download(client_of(loader), 0, bytes(100))).repeated

    assert run(scenario) == 1


def test_a_broken_download_resumes_where_it_was() -> None:
    loader, content = Loader(10, lose_request=set(range(5, 9))), bytes(range(100))

    async def scenario() -> tuple[Resume, int]:
        client = client_of(loader)
        with pytest.raises(TransferBroken) as caught:
            await download(client, 0, content)
        done = await download(client, 0, content, resume=caught.value.resume)
        return caught.value.resume, done.blocks

    assert run(scenario) == (Resume(offset=32, counter=5, max_block_bytes=10), 9)
    assert loader.memory == content


@pytest.mark.parametrize("nrc", [0x24, 0x31, 0x70, 0x71, 0x72, 0x92, 0x93])
def test_a_refused_block_ends_the_download_at_once(nrc: int) -> None:
    loader = Loader(10)
    loader.nrc = {3: nrc}

    async def scenario() -> tuple[int, NegativeResponse]:
        with pytest.raises(TransferBroken) as caught:
            await download(client_of(loader), 0, bytes(100))
        assert isinstance(caught.value.__cause__, NegativeResponse)
        return caught.value.offset, caught.value.__cause__

    offset, refusal = run(scenario)
    assert (offset, refusal.nrc, loader.seen) == (16, nrc, 3)


@pytest.mark.parametrize("limit", [0, 1, 2])
def test_an_ecu_that_takes_no_data_is_refused(limit: int) -> None:
    async def scenario() -> None:
        with pytest.raises((TransferError, MalformedAnswer), match="carries no data"):
            await download(client_of(Loader(limit)), 0, b"x")

    run(scenario)


def test_nothing_to_send_is_a_transfer_of_no_blocks() -> None:
    loader = Loader()

    async def scenario() -> int:
        return (await download(client_of(loader), 0, b"")).blocks

    assert run(scenario) == 0
    assert loader.exits == 1


@settings(max_examples=40, deadline=None)
@given(
    content=st.binary(min_size=1, max_size=300),
    max_block=st.integers(3, 40),
    lost=st.sets(st.integers(1, 60), max_size=12),
    answers_lost=st.sets(st.integers(1, 60), max_size=12),
)
def test_whatever_is_lost_the_memory_is_right_or_the_caller_knows(
    content: bytes, max_block: int, lost: set[int], answers_lost: set[int]
) -> None:
    loader = Loader(max_block, lose_request=lost, lose_answer=answers_lost)

    async def scenario() -> None:
        client, resume = client_of(loader), None
        for _ in range(20):
            try:
                await download(client, 0, content, resume=resume)
            except TransferBroken as broken:
                resume = broken.resume
            else:
                return
            assert bytes(loader.memory[: resume.offset]) == content[: resume.offset]
        raise AssertionError("never done")

    run(scenario)
    assert loader.memory == content


def _uploader(content: bytes, block: int, lose: int = 0) -> EcuInMemory:
    seen = 0

    def behave(request: bytes) -> Answers:
        nonlocal seen
        if request[0] == 0x35:
            return [(1, b"\x75\x10" + bytes([block + 2]))]
        if request[0] == 0x37:
            return [(1, b"\x77")]
        seen += 1
        if seen == lose:
            return []
        at = ((request[1] - 1) & 0xFF) * block
        return [(1, bytes([0x76, request[1]]) + content[at : at + block])]

    return EcuInMemory(behave)


def test_upload_collects_the_blocks_and_repeats_a_lost_one() -> None:
    content = bytes(range(100))

    async def scenario() -> bytes:
        return await upload(UdsClient(_uploader(content, 30, lose=2), timing=TIMING), 0x1000, 100)

    assert run(scenario) == content


@pytest.mark.parametrize("size", [95, 130])
def test_upload_of_more_or_less_than_there_is(size: int) -> None:
    async def scenario() -> int:
        with pytest.raises(TransferError) as caught:
            await upload(UdsClient(_uploader(bytes(100), 30), timing=TIMING), 0x1000, size)
        return caught.value.offset

    assert run(scenario) == (90 if size == 95 else 100)


def test_upload_that_breaks_tells_where() -> None:
    def behave(request: bytes) -> Answers:
        return [(1, b"\x75\x10\x0a")] if request[0] == 0x35 else []

    async def scenario() -> TransferError:
        with pytest.raises(TransferError) as caught:
            await upload(UdsClient(EcuInMemory(behave), timing=TIMING), 0, 10)
        return caught.value

    error = run(scenario)
    assert error.offset == 0
    assert isinstance(error.__cause__, TransportError)

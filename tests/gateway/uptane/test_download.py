"""Verified files on the vehicle's disk: whole or not there, over power cuts, full disks and bad servers."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import AsyncGenerator, Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.lowlevel
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import TransportError
from gateway.update.blocking import in_place
from gateway.update.model import AttackError, InstallError
from gateway.uptane.download import pieces
from gateway.uptane.download_store import KEPT_FILE, DownloadStore
from gateway.uptane.fetch import ContentChangedError
from gateway.wire.uptane import FileFacts
from tests.crash.disk import CrashFiles, crash_states

pytestmark = pytest.mark.anyio
FOLDER = Path("/data/store")
IMAGE = bytes(range(251)) * 40
OTHER = IMAGE[::-1]


def facts(content: bytes = IMAGE, filename: str = "fw.bin") -> FileFacts:
    hashes = {name: hashlib.new(name, content).hexdigest() for name in ("sha256", "sha512")}
    return FileFacts(filename=filename, length=len(content), hashes=hashes)


@dataclass
class Source:
    """A ``Fetcher`` of one content; ``faults`` happen once each, when so many bytes were given in all."""

    content: bytes = IMAGE
    chunk_bytes: int = 700
    faults: dict[int, Exception] = field(default_factory=dict)
    offsets: list[int] = field(default_factory=list)
    given: int = 0
    on_chunk: Callable[[], None] = lambda: None
    is_closed: bool = False

    async def metadata(self, repository: str, name: str, max_bytes: int) -> bytes | None:
        """Not here."""
        raise NotImplementedError

    async def target(self, file: FileFacts, offset: int) -> AsyncGenerator[bytes, None]:
        """See ``Fetcher``."""
        self.offsets.append(offset)
        self.is_closed = False
        try:
            for start in range(offset, len(self.content), self.chunk_bytes):
                for at in sorted(self.faults):
                    if self.given >= at:
                        raise self.faults.pop(at)
                chunk = self.content[start : start + self.chunk_bytes]
                self.given += len(chunk)
                self.on_chunk()
                yield chunk
        finally:
            self.is_closed = True


def store(disk: CrashFiles, **options: int) -> DownloadStore:
    sizes = {"keep_free_bytes": 0, "checkpoint_bytes": 2000, "piece_bytes": 1000} | options
    return DownloadStore(FOLDER, disk, offload=in_place, **sizes)


def silent(done: int, total: int) -> None:
    """Nobody looks."""
    del done, total


def content_of(made: DownloadStore, file: FileFacts) -> bytes:
    with closing(made.open(file)) as opened:
        return opened.read_at(0, opened.size() + 1)


def names(disk: CrashFiles) -> set[str]:
    return {name.rpartition(".")[2] for name in disk.list(FOLDER)}


# content


async def test_v4_a_file_is_there_when_every_hash_and_the_length_are_right() -> None:
    disk, source, told = CrashFiles(), Source(), list[tuple[int, int]]()
    made = store(disk)
    with pytest.raises(InstallError, match="not fetched"):
        made.open(facts())
    await made.fetch(facts(), source, lambda done, total: told.append((done, total)))
    assert content_of(made, facts()) == IMAGE
    assert told[0] == (0, len(IMAGE))
    assert told[-1] == (len(IMAGE), len(IMAGE))
    assert told == sorted(told)
    assert names(disk) == {"image"}
    await made.fetch(facts(), source, silent)
    await store(disk).fetch(facts(), source, silent)
    assert source.offsets == [0]


@pytest.mark.parametrize("wrong", ["sha256", "sha512"])
async def test_v4_one_wrong_hash_of_several_refuses_the_file(wrong: str) -> None:
    file = msgspec.structs.replace(facts(), hashes=facts().hashes | {wrong: "0" * len(facts().hashes[wrong])})
    disk = CrashFiles()
    made = store(disk)
    with pytest.raises(AttackError, match=wrong) as caught:
        await made.fetch(file, Source(), silent)
    assert (caught.value.attack, caught.value.rule) == ("arbitrary software", "V4")
    with pytest.raises(InstallError):
        made.open(file)
    assert not disk.list(FOLDER)


@pytest.mark.parametrize(
    ("content", "error"), [(IMAGE + b"x", AttackError), (IMAGE[:-1], TransportError), (OTHER, AttackError)]
)
async def test_v4_more_less_or_other_bytes_are_no_file(content: bytes, error: type[Exception]) -> None:
    disk = CrashFiles()
    with pytest.raises(error):
        await store(disk).fetch(facts(), Source(content), silent)
    assert "image" not in names(disk)


async def test_v4_a_hash_that_is_not_known_is_refused_before_anything_is_fetched() -> None:
    source = Source()
    file = msgspec.structs.replace(facts(), hashes=facts().hashes | {"whirlpool": "0" * 128})
    with pytest.raises(AttackError, match="cannot be checked"):
        await store(CrashFiles()).fetch(file, source, silent)
    assert not source.offsets


async def test_v4_the_same_sha256_with_another_second_hash_is_not_the_same_file() -> None:
    disk, source = CrashFiles(), Source()
    made = store(disk)
    await made.fetch(facts(), source, silent)
    file = msgspec.structs.replace(facts(), hashes=facts().hashes | {"sha512": "0" * 128})
    with pytest.raises(InstallError):
        made.open(file)
    with pytest.raises(AttackError):
        await made.fetch(file, source, silent)


async def test_a_stored_file_that_rots_is_fetched_again_after_a_restart() -> None:
    disk, source = CrashFiles(), Source()
    await store(disk).fetch(facts(), source, silent)
    path = FOLDER / f"{facts().hashes['sha256']}.image"
    disk.add_file(path, IMAGE[:-1] + b"?")
    made = store(disk)
    await made.fetch(facts(), source, silent)
    assert content_of(made, facts()) == IMAGE
    assert source.offsets == [0, 0]


async def test_a_file_of_no_bytes_and_one_above_the_limit() -> None:
    made = store(CrashFiles(), max_file_bytes=1000)
    await made.fetch(facts(b""), Source(b""), silent)
    assert content_of(made, facts(b"")) == b""
    with pytest.raises(InstallError, match="at most 1000"):
        await made.fetch(facts(), Source(), silent)


async def test_a_disk_that_gives_back_something_else_is_seen() -> None:
    disk = CrashFiles()
    source = Source()

    def spoil() -> None:
        part = FOLDER / f"{facts().hashes['sha256']}.part"
        if source.given == len(IMAGE):
            disk.names[part].content[0] ^= 1

    source.on_chunk = spoil
    with pytest.raises(TransportError, match="give back"):
        await store(disk).fetch(facts(), source, silent)
    assert "image" not in names(disk)
    source.on_chunk = lambda: None
    await store(disk).fetch(facts(), source, silent)


# going on


async def test_a_broken_download_goes_on_where_it_broke_also_after_a_restart() -> None:
    disk = CrashFiles()
    source = Source(faults={3000: TransportError("gone"), 6000: AttackError("slow retrieval", "V8", "slow")})
    made = store(disk)
    for error in (TransportError, AttackError):
        with pytest.raises(error):
            await made.fetch(facts(), source, silent)
        assert source.is_closed
        made = store(disk)
    await made.fetch(facts(), source, silent)
    assert content_of(made, facts()) == IMAGE
    assert source.offsets[0] == 0 < source.offsets[1] < source.offsets[2]
    assert source.given < len(IMAGE) + 2 * 1000 + 2 * source.chunk_bytes  # at most a piece is lost each time


async def test_a_cancelled_download_keeps_what_it_has() -> None:
    disk, source = CrashFiles(), Source()
    made = store(disk)
    with anyio.CancelScope() as scope:

        def stop(done: int, total: int) -> None:
            if done > total // 2:
                scope.cancel()

        await made.fetch(facts(), Pausing(source), stop)
    assert scope.cancelled_caught
    await made.fetch(facts(), source, silent)
    assert source.offsets[1] >= len(IMAGE) // 2
    assert content_of(made, facts()) == IMAGE


@dataclass
class Pausing:
    """The same fetcher, with a point to be cancelled at before each chunk."""

    source: Source

    async def metadata(self, repository: str, name: str, max_bytes: int) -> bytes | None:
        """Not here."""
        raise NotImplementedError

    async def target(self, file: FileFacts, offset: int) -> AsyncGenerator[bytes, None]:
        """See ``Fetcher``."""
        async for chunk in self.source.target(file, offset):
            await anyio.lowlevel.checkpoint()
            yield chunk


async def test_a_file_replaced_on_the_server_is_begun_again_and_not_for_ever() -> None:
    changed = ContentChangedError("another")
    disk, source = CrashFiles(), Source(faults={3000: changed})
    made = store(disk)
    await made.fetch(facts(), source, silent)
    assert source.offsets == [0, 0]
    assert content_of(made, facts()) == IMAGE
    again = Source(faults={n: ContentChangedError("another") for n in range(1, 10)})
    with pytest.raises(ContentChangedError):
        await store(CrashFiles()).fetch(facts(), again, silent)
    assert len(again.offsets) == 3


async def test_a_first_part_that_was_of_another_file_costs_a_new_beginning_not_an_accusation() -> None:
    disk, source = CrashFiles(), Source(OTHER, faults={5000: TransportError("gone")})
    with pytest.raises(TransportError):
        await store(disk).fetch(facts(), source, silent)
    honest = Source()
    made = store(disk)
    await made.fetch(facts(), honest, silent)
    assert honest.offsets[0] > 0
    assert honest.offsets[1] == 0
    assert content_of(made, facts()) == IMAGE


@pytest.mark.parametrize("record", [b"", b"{}", b'{"length":10040,"offset":-1}', b'{"length":1,"offset":1}', b"\xff"])
async def test_a_damaged_record_of_progress_costs_a_new_beginning(record: bytes) -> None:
    disk, source = CrashFiles(), Source(faults={5000: TransportError("gone")})
    with pytest.raises(TransportError):
        await store(disk).fetch(facts(), source, silent)
    disk.add_file(FOLDER / f"{facts().hashes['sha256']}.progress", record)
    made = store(disk)
    await made.fetch(facts(), source, silent)
    assert source.offsets == [0, 0]
    assert content_of(made, facts()) == IMAGE


def test_a_power_cut_anywhere_leaves_a_download_that_ends_well() -> None:
    """Whatever a cut leaves of the disk, the file is whole or not there, and the next fetch makes it whole."""
    disk = CrashFiles()
    start = disk.snapshot()
    broken, fine = Source(faults={3000: TransportError("gone")}), {"checkpoint_bytes": 1000, "piece_bytes": 500}

    async def first() -> None:
        with pytest.raises(TransportError):
            await store(disk, **fine).fetch(facts(), broken, silent)
        await store(disk, **fine).fetch(facts(), broken, silent)

    anyio.run(first)
    record = FOLDER / f"{facts().hashes['sha256']}.progress"
    cuts, reused = 0, 0
    for state in crash_states(start, disk.log, random_per_cut=6):
        source, made = Source(), store(state.files)
        promised = 0
        if state.files.exists(record) and state.files.exists(record.with_suffix(".part")):
            promised = msgspec.json.decode(state.files.read(record))["offset"]
        anyio.run(made.fetch, facts(), source, silent)
        assert content_of(made, facts()) == IMAGE, state.what
        assert names(state.files) == {"image"}
        assert source.offsets in ([], [promised]), state.what  # nothing that was surely there is fetched again
        cuts, reused = cuts + 1, reused + (source.offsets != [0])
    assert cuts > 100
    assert reused > cuts // 2


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(1, 12_000), max_size=5),
    st.integers(100, 3000),
    st.integers(100, 3000),
    st.integers(1, 5000),
)
def test_any_breaks_any_sizes_give_the_same_file(breaks: list[int], chunk: int, piece: int, checkpoint: int) -> None:
    disk = CrashFiles()
    source = Source(chunk_bytes=chunk, faults={at: TransportError("gone") for at in breaks})

    async def work() -> bytes:
        for _ in range(len(breaks) + 1):
            made = store(disk, piece_bytes=piece, checkpoint_bytes=checkpoint)
            try:
                await made.fetch(facts(), source, silent)
                return content_of(made, facts())
            except TransportError:
                continue
        raise AssertionError("more errors than breaks")

    assert anyio.run(work) == IMAGE


async def test_two_who_want_the_same_file_fetch_it_once() -> None:
    source = Source()
    made = store(CrashFiles())
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(made.fetch, facts(), Pausing(source), silent)
    assert source.offsets == [0]


# room


async def test_without_room_nothing_is_fetched_and_the_message_says_how_much_is_needed() -> None:
    source = Source()
    disk = CrashFiles(capacity_bytes=len(IMAGE) + 499)
    with pytest.raises(InstallError, match=rf"{len(IMAGE)} bytes are needed and 500 must stay free, but 10539 are"):
        await store(disk, keep_free_bytes=500).fetch(facts(), source, silent)
    assert not source.offsets
    assert not disk.list(FOLDER)


@pytest.mark.parametrize("keep_free", [0, 500])
async def test_a_disk_that_fills_up_meanwhile_gets_its_room_back(keep_free: int) -> None:
    disk, source = CrashFiles(capacity_bytes=20_000), Source()

    def fill() -> None:
        if source.given > 4000:
            disk.add_file(Path("/data/log"), bytes(20_000 - 5500))

    source.on_chunk = fill
    with pytest.raises(InstallError, match="no room"):
        await store(disk, keep_free_bytes=keep_free).fetch(facts(), source, silent)
    assert not disk.list(FOLDER)
    disk.remove(Path("/data/log"))
    source.on_chunk = lambda: None
    await store(disk).fetch(facts(), source, silent)


async def test_a_broken_disk_is_no_full_one() -> None:
    disk, source = CrashFiles(), Source()

    def breaks() -> None:
        disk.broken[FOLDER / f"{facts().hashes['sha256']}.part"] = errno.EIO

    source.on_chunk = breaks
    with pytest.raises(TransportError):
        await store(disk).fetch(facts(), source, silent)


async def test_what_is_kept_is_never_removed_for_room_and_the_rest_is() -> None:
    files = [bytes([n]) * 3000 for n in range(4)]
    disk = CrashFiles(capacity_bytes=11_000)
    made = store(disk)
    for content in files[:3]:
        await made.fetch(facts(content), Source(content), silent)
    with pytest.raises(InstallError):  # nothing was said of what is needed: everything is
        await made.fetch(facts(files[3]), Source(files[3]), silent)
    made.keep([facts(files[0]), facts(files[2]), facts(files[3])])
    made = store(disk)  # that is remembered
    await made.fetch(facts(files[3]), Source(files[3]), silent)
    for n in (0, 2, 3):
        await made.fetch(facts(files[n]), Source(b"never asked"), silent)
        assert content_of(made, facts(files[n])) == files[n]
    with pytest.raises(InstallError):
        await made.fetch(facts(IMAGE), Source(), silent)
    assert len([name for name in disk.list(FOLDER) if name.endswith(".image")]) == 3


async def test_broken_downloads_go_before_whole_files() -> None:
    disk = CrashFiles(capacity_bytes=30_000)
    made = store(disk)
    await made.fetch(facts(b"whole" * 100), Source(b"whole" * 100), silent)
    with pytest.raises(TransportError):
        await made.fetch(facts(OTHER), Source(OTHER, faults={9000: TransportError("gone")}), silent)
    made.keep([])
    big = bytes(22_000)
    await made.fetch(facts(big), Source(big), silent)
    assert content_of(made, facts(b"whole" * 100)) == b"whole" * 100
    assert made.clean() > 0
    assert disk.list(FOLDER) == [KEPT_FILE]


async def test_a_damaged_list_of_what_is_kept_keeps_everything() -> None:
    disk = CrashFiles()
    made = store(disk)
    await made.fetch(facts(), Source(), silent)
    disk.add_file(FOLDER / KEPT_FILE, b"?")
    assert made.clean() == 0
    assert content_of(made, facts()) == IMAGE


async def test_foreign_files_in_the_folder_are_left_alone() -> None:
    disk = CrashFiles()
    disk.add_file(FOLDER / "notes.txt", b"mine")
    made = store(disk)
    await made.fetch(facts(), Source(), silent)
    made.keep([])
    made.clean()
    assert disk.list(FOLDER) == [KEPT_FILE, "notes.txt"]
    made.forget(facts())


# pieces


@given(st.integers(0, len(IMAGE)), st.integers(50, 3000), st.integers(50, 3000))
@settings(max_examples=20, deadline=None)
def test_pieces_have_their_places_without_gaps(offset: int, chunk: int, size: int) -> None:
    async def work() -> list[tuple[int, bytes]]:
        return [piece async for piece in pieces(Source(chunk_bytes=chunk), facts(), offset, size)]

    place = offset
    got = anyio.run(work)
    for at, data in got:
        assert at == place
        assert data == IMAGE[at : at + size]
        place += len(data)
    assert place == len(IMAGE)
    assert all(len(data) == size for _, data in got[:-1])

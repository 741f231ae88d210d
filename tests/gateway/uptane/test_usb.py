"""Bundles in a directory: the same limits, and no way out of it."""

from __future__ import annotations

import hashlib
import os
import shutil
from contextlib import aclosing
from pathlib import Path

import pytest

from gateway.errors import TransportError
from gateway.update.model import AttackError
from gateway.uptane.fetch import FetchLimits
from gateway.uptane.usb import DirectoryFetcher
from gateway.wire.uptane import FileFacts
from tests.gateway.uptane.fetch_server import TickingClock

pytestmark = pytest.mark.anyio
IMAGE = bytes(range(256)) * 3000


def facts(content: bytes = IMAGE, filename: str = "motor/fw.bin") -> FileFacts:
    return FileFacts(filename=filename, length=len(content), hashes={"sha256": hashlib.sha256(content).hexdigest()})


@pytest.fixture
def stick(tmp_path: Path) -> Path:
    made = tmp_path / "stick"
    for folder in ("director", "image", "targets/motor"):
        (made / folder).mkdir(parents=True)
    (made / "director/timestamp.json").write_bytes(b"director")
    (made / "image/timestamp.json").write_bytes(b"image")
    (made / "image/3.supplier%2Fbrakes.json").write_bytes(b"delegated")
    (made / f"targets/motor/{hashlib.sha256(IMAGE).hexdigest()}.fw.bin").write_bytes(IMAGE)
    return made


def image_path(stick: Path) -> Path:
    return next((stick / "targets/motor").iterdir())


async def taken(fetcher: DirectoryFetcher, file: FileFacts, offset: int = 0) -> bytes:
    async with aclosing(fetcher.target(file, offset)) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def test_a_bundle_gives_what_the_cloud_would(stick: Path) -> None:
    fetcher = DirectoryFetcher(stick, "VIN1")
    assert fetcher.is_there()
    assert await fetcher.metadata("director", "timestamp.json", 100) == b"director"
    assert await fetcher.metadata("image", "timestamp.json", 100) == b"image"
    assert await fetcher.metadata("image", "3.supplier%2Fbrakes.json", 100) == b"delegated"
    assert await fetcher.metadata("image", "2.root.json", 100) is None
    assert await taken(fetcher, facts()) == IMAGE
    assert await taken(fetcher, facts(), 700_001) == IMAGE[700_001:]


async def test_a_stick_for_several_vehicles_gives_each_its_own_and_mixes_nothing(stick: Path) -> None:
    (stick / "director/VIN2").mkdir()
    (stick / "director/VIN2/timestamp.json").write_bytes(b"of VIN2")
    (stick / "director/2.root.json").write_bytes(b"of nobody")
    second = DirectoryFetcher(stick, "VIN2")
    assert await second.metadata("director", "timestamp.json", 100) == b"of VIN2"
    assert await second.metadata("director", "2.root.json", 100) is None
    assert await DirectoryFetcher(stick, "VIN1").metadata("director", "timestamp.json", 100) == b"director"


async def test_a_pulled_stick_is_an_error_and_never_a_missing_file(stick: Path) -> None:
    """ "There is no newer root" must not be what a pulled stick says."""
    fetcher = DirectoryFetcher(stick, "VIN1")
    async with aclosing(fetcher.target(facts(), 0)) as chunks:
        await anext(chunks)
        shutil.rmtree(stick)
        with pytest.raises(TransportError):
            await anext(chunks)
    with pytest.raises(TransportError, match="no bundle"):
        await fetcher.metadata("image", "2.root.json", 100)
    assert not fetcher.is_there()
    stick.mkdir()  # an empty one, or the bare mount point
    for repository in ("director", "image"):
        with pytest.raises(TransportError, match="no bundle"):
            await fetcher.metadata(repository, "2.root.json", 100)
    assert not fetcher.is_there()


async def test_no_file_stays_open_between_two_reads(stick: Path) -> None:
    """Or nobody could unmount the stick."""
    before = len(os.listdir("/proc/self/fd"))
    async with aclosing(DirectoryFetcher(stick, "VIN1").target(facts(), 0)) as chunks:
        await anext(chunks)
        assert len(os.listdir("/proc/self/fd")) == before


async def test_r4_links_pipes_and_folders_are_not_followed(stick: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_bytes(b"secret")
    (stick / "image/1.root.json").symlink_to(secret)
    (stick / "image/2.root.json").symlink_to("timestamp.json")
    os.mkfifo(stick / "image/3.root.json")
    (stick / "image/4.root.json").mkdir()
    fetcher = DirectoryFetcher(stick, "VIN1")
    for version in range(1, 5):
        with pytest.raises(AttackError) as caught:
            await fetcher.metadata("image", f"{version}.root.json", 1000)
        assert caught.value.rule == "R4"
    path = image_path(stick)
    shutil.move(stick / "targets/motor", tmp_path / "motor")
    (stick / "targets/motor").symlink_to(tmp_path / "motor")
    with pytest.raises(AttackError):
        await taken(fetcher, facts())
    assert (tmp_path / "motor" / path.name).exists()


@pytest.mark.parametrize("filename", ["../secret", "/etc/passwd", "a/../../b", "a//b"])
async def test_r4_names_do_not_leave_the_directory(filename: str, stick: Path) -> None:
    with pytest.raises(AttackError):
        await taken(DirectoryFetcher(stick, "VIN1"), facts(filename=filename))
    with pytest.raises(AttackError):
        await DirectoryFetcher(stick, "VIN1").metadata("image", filename + ".json", 100)
    for vehicle in ("..", ".", "", "a/b"):
        with pytest.raises(ValueError, match="no vehicle"):
            DirectoryFetcher(stick, vehicle)


async def test_cr1_a_huge_file_is_endless_data_and_not_read(stick: Path) -> None:
    with (stick / "image/9.root.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(AttackError) as caught:
        await DirectoryFetcher(stick, "VIN1").metadata("image", "9.root.json", 512_000)
    assert (caught.value.attack, caught.value.rule) == ("endless data", "CR1")
    exact = DirectoryFetcher(stick, "VIN1")
    assert await exact.metadata("image", "timestamp.json", len(b"image")) == b"image"
    with pytest.raises(AttackError):
        await exact.metadata("image", "timestamp.json", len(b"image") - 1)


async def test_v4_an_image_of_another_length_is_refused(stick: Path) -> None:
    path = image_path(stick)
    for content, attack in ((IMAGE + b"x", "endless data"), (IMAGE[:-1], "arbitrary software")):
        path.write_bytes(content)
        with pytest.raises(AttackError) as caught:
            await taken(DirectoryFetcher(stick, "VIN1"), facts())
        assert (caught.value.attack, caught.value.rule) == (attack, "V4")
    path.unlink()
    with pytest.raises(TransportError, match="no such file"):
        await taken(DirectoryFetcher(stick, "VIN1"), facts())


async def test_v8_a_stick_that_crawls_is_given_up(stick: Path) -> None:
    fetcher = DirectoryFetcher(stick, "VIN1", FetchLimits(slow_s=60, min_bytes_per_s=5000), clock=TickingClock(61))
    with pytest.raises(AttackError, match="slow retrieval"):
        await fetcher.metadata("image", "timestamp.json", 1000)


async def test_v8_a_stick_that_hangs_is_given_up(stick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dying stick keeps a read for minutes; a pipe nobody writes to stands in for it."""
    reader, writer = os.pipe()
    monkeypatch.setattr("gateway.uptane.usb.os.pread", lambda handle, length, offset: os.read(reader, length))
    try:
        with pytest.raises(AttackError, match="slow retrieval"):
            await DirectoryFetcher(stick, "VIN1", FetchLimits(slow_s=0.05)).metadata("image", "timestamp.json", 1000)
    finally:
        os.write(writer, b"x")  # let the thread go
        os.close(writer)


async def test_a_read_error_is_told(stick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(handle: int, length: int, offset: int) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("gateway.uptane.usb.os.pread", fails)
    with pytest.raises(TransportError, match="Input/output error"):
        await DirectoryFetcher(stick, "VIN1").metadata("image", "timestamp.json", 1000)


async def test_a_file_that_shrinks_while_it_is_read_is_told(stick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.uptane.usb.os.pread", lambda handle, length, offset: b"")
    with pytest.raises(TransportError, match="changed"):
        await DirectoryFetcher(stick, "VIN1").metadata("image", "timestamp.json", 1000)
    with pytest.raises(TransportError, match="ended"):
        await taken(DirectoryFetcher(stick, "VIN1"), facts())

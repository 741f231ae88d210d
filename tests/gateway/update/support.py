"""What the installer's tests share: a disk with two slots, images of real bytes, and where they come from."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from bootctl.file import FileStore
from bootctl.files import BlockFile, Files, replace_content
from bootctl.model import BootState, Slot
from bootctl.store import StoredBootControl
from gateway.errors import ConfigError, TransportError
from gateway.update.blocking import in_place
from gateway.update.model import InstallError, VerifiedTarget
from gateway.update.ports import Fetcher, Progress
from gateway.update.slot import SlotInstaller
from gateway.update.sources import DeltaOpener
from gateway.wire.uptane import DeltaOffer, FileFacts, MustMatch
from tests.crash.disk import CrashFiles

DATA = Path("/data/update")
BOOT_FILE = Path("/boot/state.json")
DEVICES = {"A": Path("/dev/slot-a"), "B": Path("/dev/slot-b")}
SLOT_BYTES = 64 * 1024
SEGMENT_BYTES = 8192
GATEWAY = "gateway"


def image_bytes(seed: int, length: int = 40_000) -> bytes:
    """Content that differs everywhere from that of any other seed."""
    return random.Random(seed).randbytes(length)


def facts(name: str, content: bytes) -> FileFacts:
    """A file as metadata tells it."""
    hashes = {n: hashlib.new(n, content).hexdigest() for n in ("sha256", "sha512")}
    return FileFacts(filename=name, length=len(content), hashes=hashes)


def rootfs(content: bytes, version: str, *, counter: int = 1, deltas: tuple[DeltaOffer, ...] = ()) -> VerifiedTarget:
    """A root file system for the gateway."""
    return VerifiedTarget(
        ecu=GATEWAY,
        hardware_id="board",
        image=facts(f"rootfs-{version}.img", content),
        must_match=MustMatch(hardware_ids=("board",), release_counter=counter, kind="rootfs", version=version),
        deltas=deltas,
    )


class Source:
    """A ``Fetcher`` over contents by file name, with faults."""

    def __init__(self, contents: Iterable[tuple[FileFacts, bytes]] = (), chunk: int = 3000) -> None:
        self.contents = {file.filename: content for file, content in contents}
        self.chunk = chunk
        self.sent = 0  # bytes
        self.offsets: list[int] = []
        self.breaks_after: int | None = None  # bytes in all; then the connection is gone until this is None again

    def add(self, target: VerifiedTarget, content: bytes) -> None:
        """Have the image of a target."""
        self.contents[target.image.filename] = content

    async def metadata(self, repository: str, name: str, max_bytes: int) -> bytes | None:
        """Not here: the verifier of these tests needs none."""
        raise TransportError(f"no {repository}/{name} of at most {max_bytes}")

    async def target(self, file: FileFacts, offset: int) -> AsyncIterator[bytes]:
        """See ``Fetcher``."""
        self.offsets.append(offset)
        if file.filename not in self.contents:
            raise TransportError(f"{file.filename}: not there")
        content = self.contents[file.filename]
        while offset < len(content):
            piece = content[offset : offset + self.chunk]
            if self.breaks_after is not None and self.sent + len(piece) > self.breaks_after:
                raise TransportError("the connection is gone")
            yield piece
            offset, self.sent = offset + len(piece), self.sent + len(piece)


class Devices:
    """``SlotDevices`` of the model disk."""

    def path(self, slot: str) -> Path:
        """See ``SlotDevices``."""
        if slot not in DEVICES:
            raise ConfigError(f"no device for slot {slot!r}")
        return DEVICES[slot]


class Shelf:
    """A ``TargetStore`` on the model disk: one file per hash, whole or not there."""

    def __init__(self, files: Files, directory: Path = DATA / "store") -> None:
        self.files, self.directory = files, directory

    async def fetch(self, file: FileFacts, fetcher: Fetcher, progress: Progress) -> None:
        """See ``TargetStore``."""
        path = self.directory / file.hashes["sha256"]
        if self.files.exists(path):
            return
        content = bytearray()
        async for piece in fetcher.target(file, 0):
            content += piece
            progress(len(content), file.length)
        if any(hashlib.new(n, content).hexdigest() != value for n, value in file.hashes.items()):
            raise InstallError(f"{file.filename}: not what was verified")
        try:
            replace_content(self.files, path, bytes(content))
        except OSError as error:
            raise InstallError(f"{file.filename}: {error.strerror}") from error

    def open(self, file: FileFacts) -> BlockFile:
        """See ``TargetStore``."""
        try:
            return self.files.open(self.directory / file.hashes["sha256"])
        except OSError as error:
            raise InstallError(f"{file.filename}: {error.strerror}") from error


def fresh_disk(*, running: bytes = b"", slot_bytes: int = SLOT_BYTES) -> CrashFiles:
    """Two slots, both good; ``running`` is in A."""
    disk = CrashFiles()
    disk.add_device(DEVICES["A"], slot_bytes, running)
    disk.add_device(DEVICES["B"], slot_bytes, image_bytes(99, slot_bytes))
    disk.make_directory(DATA)
    good = (Slot("A", 2, 3, True), Slot("B", 1, 3, True))
    FileStore(BOOT_FILE, tuple(DEVICES), "A", disk).save(BootState(good, "A"))
    disk.log.clear()
    return disk


def no_progress(done: int, total: int) -> None:
    """Nobody looks."""
    del done, total


class XorDelta:
    """A delta that a test can make: the target, exclusive-or the base, less its trailing zeros."""

    segment_bytes = 2 * SEGMENT_BYTES

    def __init__(self, container: BlockFile, base: BlockFile, offer: DeltaOffer) -> None:
        self._base, self._offer = base, offer
        head, _, self._patch = container.read_at(0, container.size()).partition(b"\n")
        sha256, length = head.decode().split()
        self.target_sha256, self.target_length = sha256, int(length)

    def check_base(self) -> None:
        """See ``OpenDelta``."""
        base = self._base.read_at(0, self._offer.base_length)
        if hashlib.sha256(base).hexdigest() != self._offer.base_sha256:
            raise InstallError("another base")

    def segment(self, index: int) -> bytes:
        """See ``OpenDelta``."""
        start = index * self.segment_bytes
        end = min(start + self.segment_bytes, self.target_length)
        base = self._base.read_at(start, end - start).ljust(end - start, b"\0")
        patch = self._patch[start:end].ljust(end - start, b"\0")
        return bytes(a ^ b for a, b in zip(base, patch, strict=True))


open_xor: DeltaOpener = XorDelta


def xor_delta(base: bytes, target: bytes) -> tuple[DeltaOffer, bytes]:
    """A delta and its content."""
    padded = base.ljust(len(target), b"\0")
    patch = bytes(a ^ b for a, b in zip(padded, target, strict=False)).rstrip(b"\0")
    content = f"{hashlib.sha256(target).hexdigest()} {len(target)}\n".encode() + patch
    file = facts(f"deltas/{hashlib.sha256(content).hexdigest()[:8]}", content)
    return DeltaOffer(base_sha256=hashlib.sha256(base).hexdigest(), base_length=len(base), delta=file), content


def boot_control(disk: Files, current: str = "A") -> StoredBootControl:
    """The boot loader's state, by the file back end on the model disk; ``current``: "" for what booted last."""
    return StoredBootControl(FileStore(BOOT_FILE, tuple(DEVICES), current, disk))


def slot_installer(
    disk: Files, current: str = "A", *, store: Shelf | None = None, open_delta: DeltaOpener | None = None
) -> SlotInstaller:
    """The installer on the model disk."""
    return SlotInstaller(
        ecu=GATEWAY,
        boot=boot_control(disk, current),
        devices=Devices(),
        files=disk,
        directory=DATA,
        segment_bytes=SEGMENT_BYTES,
        store=store,
        open_delta=open_delta,
        offload=in_place,
    )

"""A car of three small ECUs in memory, under a clock that jumps, and a gateway that can be cut and started again."""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import anyio
import msgspec

from bootctl.files import BlockFile
from gateway.errors import TransportError
from gateway.uds.client import UdsClient
from gateway.uds.timing import Timing
from gateway.update.config import FlashingSection, UpdateEcu
from gateway.update.ecu import EcuInstaller
from gateway.update.ecu_model import EcuRecord, SetJournal
from gateway.update.ecu_set import EcuSet
from gateway.update.ecu_store import EcuStore
from gateway.update.model import InstallError, VerifiedTarget
from gateway.update.ports import Fetcher, Progress
from gateway.wire.uptane import FileFacts, InstalledImage, MustMatch
from simulator.ecu.description import parse_description
from simulator.ecu.flash_faults import FlashFaults
from simulator.ecu.flash_image import make_image
from simulator.ecu.flash_store import Verdict
from simulator.ecu.flash_unit import flash_unit
from simulator.ecu.keys import aes_cmac
from simulator.ecu.server import EcuServer
from tests.crash.disk import CrashFiles
from tests.gateway.uds.support import EcuInMemory, run
from tests.simulator.ecu.support import Bench

T = TypeVar("T")

DIRECTORY = Path("/data/ecus")
NAMES = ("motor", "gearbox", "brakes")
SECRET = bytes(range(16))
PAYLOAD_BYTES = 1500
OLD, NEW = "01.00.00", "02.00.00"
TOML = """
name = "{name}"
title = "Small"
node = "VCU"
logical_address = {number}
transport = {{ bus = "powertrain", request_id = 0x7E{number}, response_id = 0x7E{answers} }}
timing = {{ boot_s = 1.0 }}
sessions = [
  {{ id = 1, name = "default" }}, {{ id = 3, name = "extended" }},
  {{ id = 2, name = "programming", reached_from = [2, 3], standstill = true }},
]
services = [
  {{ sid = 0x10 }}, {{ sid = 0x11 }}, {{ sid = 0x22 }}, {{ sid = 0x27, access = {{ sessions = [2] }} }},
  {{ sid = 0x28, access = {{ sessions = [3] }} }}, {{ sid = 0x31 }}, {{ sid = 0x3E }},
  {{ sid = 0x85, access = {{ sessions = [3] }} }},
  {{ sid = 0x34, access = {{ sessions = [2], security = 17 }} }},
  {{ sid = 0x36, access = {{ sessions = [2], security = 17 }} }},
  {{ sid = 0x37, access = {{ sessions = [2], security = 17 }} }},
]
dids = [
  {{ id = 0xF188, name = "part", fields = [{{ bytes = 10, encoding = "ascii", value = "FACTORY-SW" }}] }},
  {{ id = 0xF189, name = "version", fields = [{{ bytes = 8, encoding = "ascii", value = "01.00.00" }}] }},
  {{ id = 0xF18C, name = "no", in_boot = true, fields = [{{ bytes = 6, encoding = "ascii", value = "SN-{number}" }}] }},
  {{ id = 0xF191, name = "hw", in_boot = true, fields = [{{ bytes = 10, encoding = "ascii", value = "HW-{name}" }}] }},
]
routines = [
  {{ id = 0xFF00, name = "erase", effect = "erase", option_bytes = 9, in_boot = true, access.sessions = [2] }},
  {{ id = 0x0202, name = "check", effect = "check_memory", has_results = true, in_boot = true, access.sessions = [2] }},
  {{ id = 0xFF01, name = "fit", effect = "dependencies", in_boot = true, access.sessions = [2] }},
  {{ id = 0x0203, name = "ready", effect = "preconditions" }},
]
[[security]]
level = 0x11
name = "programming"
seed_bytes = 16
algorithm = "aes_cmac"
constant = "{secret}"
sessions = [2]
[memory]
regions = [{{ name = "application", start = 0x400000, bytes = 8192 }}]
[flash]
regions = ["application"]
hardware_id = "HW-{name}"
sector_bytes = 512
max_block_bytes = 130
erase_ms_per_sector = 20
"""


class CarEcu(EcuInMemory):
    """One ECU; it lives as long as the car, whatever becomes of the gateway."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(lambda request: ())
        self.name = name
        toml = TOML.format(name=name, number=number, answers=number + 8, secret=SECRET.hex())
        self.bench = Bench(parse_description(toml, "test"), seed=number, now_s=anyio.current_time())
        self.server: EcuServer = self.bench.server
        self.is_cut_off = False  # the gateway has lost its power: nothing of it gets out any more
        self.on_request: Callable[[bytes], None] = lambda pdu: None

    async def send(self, pdu: bytes) -> None:
        if self.is_cut_off:
            raise TransportError("the gateway has no power")
        self.on_request(pdu)
        await super().send(pdu)
        for out in self.server.receive(pdu, functional=False, now_s=anyio.current_time()):
            self.later(0, out.pdu)

    async def aclose(self) -> None:
        """The ECU outlives whoever speaks to it."""

    def poll(self) -> None:
        self.bench.vehicle.now_s = anyio.current_time()
        for out in self.server.poll(anyio.current_time()):
            self.later(0, out.pdu)

    @property
    def faults(self) -> FlashFaults:
        return flash_unit(self.server.context).faults

    def hardware(self, name: str) -> None:
        self.faults.hardware = name
        flash_unit(self.server.context).hardware_changed()

    def power(self, *, on: bool) -> None:
        (self.server.power_on if on else self.server.power_off)(anyio.current_time())

    def content(self) -> bytes:
        """What is programmed, as far as it is as long as our images."""
        store = flash_unit(self.server.context).store
        return bytes(self.server.context.memory.data(store.regions[0]))[: 256 + PAYLOAD_BYTES]

    def program(self, image: bytes) -> None:
        """As it left the factory."""
        store = flash_unit(self.server.context).store
        assert store.program(store.regions[0], 0x400000, image)
        assert store.check() == Verdict.GOOD

    @property
    def runs(self) -> str:
        """The version of the application that runs, "" in the boot loader."""
        if self.server.context.boot_mode or not self.server.is_running:
            return ""
        return (self.server.context.read_did(0xF189) or b"").decode().strip()


class MemoryShelf:
    """``TargetStore`` in memory that counts what it fetched."""

    def __init__(self, remote: Mapping[str, bytes]) -> None:
        self.remote, self.here = dict(remote), dict[str, bytes]()
        self.fetched: list[str] = []

    async def fetch(self, file: FileFacts, fetcher: Fetcher, progress: Progress) -> None:
        await anyio.lowlevel.checkpoint()
        if file.filename in self.here:
            return
        if file.filename not in self.remote:
            raise TransportError(f"{file.filename} is not to be had")
        self.here[file.filename] = self.remote[file.filename]
        self.fetched.append(file.filename)
        progress(file.length, file.length)

    def open(self, file: FileFacts) -> BlockFile:
        disk, path = CrashFiles(), Path("/") / file.filename
        if file.filename not in self.here:
            raise InstallError(f"{file.filename} is not here")
        disk.add_file(path, self.here[file.filename])
        return disk.open(path)


class _Key:
    def key(self, ecu: str, level: int, seed: bytes) -> bytes:
        return aes_cmac(seed, SECRET)


class NoFetcher:
    """Nothing is fetched through it: the shelf has its own way."""

    async def metadata(self, repository: str, name: str, max_bytes: int) -> bytes | None:
        return None

    async def target(self, file: FileFacts, offset: int) -> AsyncIterator[bytes]:
        yield b""


def payload(seed: int) -> bytes:
    return random.Random(seed).randbytes(PAYLOAD_BYTES)


def facts(name: str, content: bytes) -> FileFacts:
    hashes = {"sha256": hashlib.sha256(content).hexdigest(), "sha512": hashlib.sha512(content).hexdigest()}
    return FileFacts(filename=name, length=len(content), hashes=hashes)


class Gateway:
    """One life of the gateway: from a start to a cut. Another one begins with what is on the disk."""

    def __init__(self, car: Car, disk: CrashFiles, limits: FlashingSection | None = None, **changes: object) -> None:
        limits = limits or FlashingSection(pause_s=1.0, save_every_bytes=512)
        ecus = [
            UpdateEcu(name=name, hardware_id=f"HW-{name}", security_key_file="unused", reset_s=10.0) for name in NAMES
        ]
        self.disk, self.car = disk, car
        self.ecus = tuple(msgspec.structs.replace(ecu, **changes) for ecu in ecus)
        self.installer = EcuInstaller(
            self.ecus, links=car, images=car.shelf, store=EcuStore(DIRECTORY, disk), key=_Key(), limits=limits,
            factory=car.factory,
        )  # fmt: skip
        self.set = EcuSet(self.installer)
        self.told: list[tuple[str, str]] = []

    def tell(self, ecu: str, state: str, done: int, total: int) -> None:
        if not self.told or self.told[-1] != (ecu, state):
            self.told.append((ecu, state))

    async def update(self, targets: Sequence[VerifiedTarget]) -> None:
        """Prepare and install."""
        await self.set.prepare(targets, NoFetcher(), self.tell)
        await self.set.install(targets, NoFetcher(), self.tell)

    def journal(self) -> SetJournal | None:
        found = self.set.journals()
        return found[0] if found else None


class Car:
    """``EcuLinks`` to its ECUs, the images, and the ECUs themselves."""

    def __init__(self) -> None:
        self.ecus = {name: CarEcu(name, number) for number, name in enumerate(NAMES)}
        self.images = {
            (name, version): make_image(name, version, payload(number), hardware_id=f"HW-{name}", address=0x400000)
            for number, (name, version) in enumerate((n, v) for n in NAMES for v in (OLD, NEW, "03.00.00"))
        }
        self.shelf = MemoryShelf({f"{n}-{v}.img": content for (n, v), content in self.images.items()})
        self.factory: dict[str, InstalledImage] = {}
        self.closed_sessions: deque[str] = deque()

    @property
    def names(self) -> Sequence[str]:
        return NAMES

    @asynccontextmanager
    async def client(self, ecu: str) -> AsyncIterator[UdsClient]:
        channel = self.ecus[ecu]
        channel.drain()
        async with UdsClient(channel, timing=Timing(latency_ms=0, transfer_ms=0)) as client:
            yield client
        self.closed_sessions.append(ecu)

    def target(self, ecu: str, version: str = NEW, old: str | None = OLD, **changes: object) -> VerifiedTarget:
        made = VerifiedTarget(
            ecu=ecu, hardware_id=f"HW-{ecu}", image=self.file(ecu, version), must_match=self.must_match(ecu, version),
            fallback=None if old is None else self.file(ecu, old),
            fallback_must_match=None if old is None else self.must_match(ecu, old),
        )  # fmt: skip
        return msgspec.structs.replace(made, **changes)

    def targets(self, version: str = NEW, old: str = OLD) -> list[VerifiedTarget]:
        return [self.target(name, version, old) for name in NAMES]

    def file(self, ecu: str, version: str) -> FileFacts:
        return facts(f"{ecu}-{version}.img", self.images[ecu, version])

    @staticmethod
    def must_match(ecu: str, version: str, counter: int = 1) -> MustMatch:
        return MustMatch(hardware_ids=(f"HW-{ecu}",), release_counter=counter, kind="firmware", version=version)

    @property
    def versions(self) -> dict[str, str]:
        return {name: ecu.runs for name, ecu in self.ecus.items()}

    def cut_off(self, *, off: bool) -> None:
        """The gateway's power: what it would still send does not get out."""
        for ecu in self.ecus.values():
            ecu.is_cut_off = off

    def is_left_usable(self) -> bool:
        """No ECU is silenced, frozen or in a session that somebody forgot."""
        contexts = [ecu.server.context for ecu in self.ecus.values()]
        return all(c.session == 1 and not c.dtcs_frozen and c.silenced == (False, False) for c in contexts)

    async def live(self) -> None:
        while True:
            await anyio.sleep(0.01)
            for ecu in self.ecus.values():
                ecu.poll()


def in_car(work: Callable[[Car], Awaitable[T]]) -> T:
    """Run a story with a car whose time goes by."""

    async def story() -> T:
        async with anyio.create_task_group() as tasks:
            car = Car()
            tasks.start_soon(car.live)
            found = await work(car)
            tasks.cancel_scope.cancel()
        return found

    return run(story)


async def old_everywhere(car: Car, disk: CrashFiles) -> Gateway:
    """A gateway that knows the old images to be in all ECUs, where they are."""
    gateway = Gateway(car, disk)
    for name in NAMES:
        car.ecus[name].program(car.images[name, OLD])
        image = car.file(name, OLD)
        told = await gateway.installer.told(name)
        assert told is not None
        assert told.version == OLD
        record = InstalledImage(
            filename=image.filename, length=image.length, hashes=image.hashes, release_counter=1, version=OLD
        )
        gateway.installer.store.keep_record(name, EcuRecord(image=record, told=told))
    return gateway

"""A whole vehicle around the update engine: disk, boot loader, ECUs, cloud and clock, all of which behave.

``World`` is what survives a power cut (the model disk, the boot loader's state, what ECUs run) and what the cloud
wants. ``Run`` is one start of the gateway on it. Time is counted, never waited for.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC

import anyio
import anyio.lowlevel
import msgspec

from bootctl.file import FileStore
from bootctl.files import replace_content
from gateway.errors import TransportError
from gateway.link.backoff import Backoff
from gateway.update.blocking import in_place
from gateway.update.conditions import Conditions, Consent, ConsentDesk
from gateway.update.config import PayloadSection
from gateway.update.engine import EnginePorts, UpdateEngine
from gateway.update.health import HealthWatch
from gateway.update.journal import Journal
from gateway.update.model import AttackError, InstallError, VerifiedTarget, VerifiedUpdate
from gateway.update.payload import PayloadInstaller
from gateway.update.payload_trial import before_start
from gateway.update.plan import KnownEcu
from gateway.update.ports import Fetcher, SetProgress
from gateway.update.records import Record
from gateway.update.transitions import Limits
from gateway.wire.uptane import (
    DeltaOffer,
    FileFacts,
    InstalledImage,
    InstallPolicy,
    InstallSet,
    MustMatch,
    UpdateReport,
)
from tests.crash.disk import CrashFiles
from tests.gateway.update.support import (
    BOOT_FILE,
    DATA,
    DEVICES,
    GATEWAY,
    Shelf,
    Source,
    boot_control,
    facts,
    fresh_disk,
    image_bytes,
    open_xor,
    slot_installer,
)

BASE = DATA.parent / "gateway"
PAYLOAD = "schemes"
ECUS = ("brake", "motor")
KNOWN = {
    GATEWAY: KnownEcu("board", "rootfs"),
    PAYLOAD: KnownEcu("board", "scheme"),
    **{ecu: KnownEcu(f"{ecu}-unit", "firmware") for ecu in ECUS},
}
OLD = image_bytes(1)


def target(
    ecu: str,
    content: bytes,
    version: str,
    *,
    counter: int = 1,
    fallback: bytes = b"old",
    deltas: tuple[DeltaOffer, ...] = (),
) -> VerifiedTarget:
    """An image for any ECU of the vehicle, verified."""
    known = KNOWN[ecu]
    match = MustMatch(hardware_ids=(known.hardware_id,), release_counter=counter, kind=known.kind, version=version)
    is_firmware = known.kind == "firmware"
    return VerifiedTarget(
        ecu=ecu,
        hardware_id=known.hardware_id,
        image=facts(f"{ecu}-{version}.img", content),
        must_match=match,
        deltas=deltas,
        fallback=facts(f"{ecu}-old.img", fallback) if is_firmware else None,
        fallback_must_match=match if is_firmware else None,
    )


def update(
    assignment: str, *targets: VerifiedTarget, sets: Sequence[Sequence[str]] | None = None, **policy: object
) -> VerifiedUpdate:
    """What the Director wants; all in one set unless told."""
    groups = [[t.ecu for t in targets]] if sets is None else sets
    return VerifiedUpdate(
        assignment=assignment,
        targets=targets,
        sets=tuple(InstallSet(ecus=tuple(group)) for group in groups if group),
        policy=msgspec.convert(policy, InstallPolicy),
        director_version=1,
    )


class Ticking:
    """A clock that goes on by itself, a little with each question."""

    def __init__(self) -> None:
        self.utc, self.monotonic = 1_700_000_000_000_000_000, 0

    def utc_ns(self) -> int:
        """See ``Clock``."""
        return self.utc

    def monotonic_ns(self) -> int:
        """See ``Clock``."""
        self.monotonic += 1_000_000
        return self.monotonic

    def go_on(self, seconds: float) -> None:
        """Time passes."""
        self.utc += int(seconds * 1e9)
        self.monotonic += int(seconds * 1e9)


@dataclass
class Ecus:
    """``SetInstaller`` over ECUs that simply have an image: all or nothing, durable at once."""

    runs: dict[str, FileFacts] = field(default_factory=dict)
    before: dict[str, FileFacts] = field(default_factory=dict)
    refuse: set[str] = field(default_factory=set)  # image names
    stuck: set[str] = field(default_factory=set)  # ECUs that cannot be put back
    flashed: list[str] = field(default_factory=list)
    confirmed: list[str] = field(default_factory=list)

    async def prepare(self, targets: Sequence[VerifiedTarget], fetcher: Fetcher, progress: SetProgress) -> None:
        """See ``SetInstaller``."""
        for one in targets:
            content = b"".join([piece async for piece in fetcher.target(one.image, 0)])
            assert facts(one.image.filename, content) == one.image
            progress(one.ecu, "downloading", len(content), len(content))

    async def install(self, targets: Sequence[VerifiedTarget], fetcher: Fetcher, progress: SetProgress) -> None:
        """See ``SetInstaller``."""
        await anyio.lowlevel.checkpoint()
        for one in targets:
            if one.image.filename in self.refuse:
                self._put_back(targets)
                raise InstallError(f"{one.ecu} refuses {one.image.filename}")
            if self.runs.get(one.ecu) != one.image:
                if one.ecu not in self.before and one.ecu in self.runs:
                    self.before[one.ecu] = self.runs[one.ecu]
                self.runs[one.ecu] = one.image
                self.flashed.append(one.image.filename)
            progress(one.ecu, "installed", one.image.length, one.image.length)

    async def restore(self, targets: Sequence[VerifiedTarget], progress: SetProgress) -> None:
        """See ``SetInstaller``."""
        await anyio.lowlevel.checkpoint()
        if stuck := [t.ecu for t in targets if t.ecu in self.stuck]:
            raise InstallError(f"{', '.join(stuck)} does not come back")
        self._put_back(targets)

    def _put_back(self, targets: Sequence[VerifiedTarget]) -> None:
        for one in targets:
            if one.ecu in self.before:
                self.runs[one.ecu] = self.before.pop(one.ecu)
                self.flashed.append(self.runs[one.ecu].filename)

    async def installed(self, ecu: str) -> InstalledImage | None:
        """See ``SetInstaller``."""
        await anyio.lowlevel.checkpoint()
        image = self.runs.get(ecu)
        return (
            None if image is None else InstalledImage(filename=image.filename, length=image.length, hashes=image.hashes)
        )

    def confirm(self, targets: Sequence[VerifiedTarget]) -> None:
        """See ``SetInstaller``."""
        for one in targets:
            self.before.pop(one.ecu, None)
            self.confirmed.append(one.ecu)


class World:
    """See the module."""

    def __init__(self, disk: CrashFiles | None = None) -> None:
        self.disk = disk or fresh_disk(running=OLD)
        self.disk.make_directory(BASE)
        self.clock = Ticking()
        self.source = Source()
        self.ecus = Ecus(runs={ecu: facts(f"{ecu}-old.img", b"old") for ecu in ECUS})
        self.sick: set[str] = set()  # images with which the vehicle is not healthy
        self.dead: set[str] = set()  # images that do not come up at all
        self.missing = ""  # of the vehicle's conditions
        self.link = "wifi"
        self.wanted: VerifiedUpdate | None = None
        self.reports: list[UpdateReport] = []
        self.attacks: list[AttackError] = []
        self.boots = 0  # of the kernel
        self.starts = 0  # of the gateway
        self.limits = Limits()
        self.links = "any"

    @property
    def counters(self) -> dict[str, int]:
        """Release counters that the vehicle must not go below; on the disk."""
        path = DATA / "counters.json"
        return msgspec.json.decode(self.disk.read(path), type=dict[str, int]) if self.disk.exists(path) else {}

    def raise_counters(self, counters: dict[str, int]) -> None:
        """As the verifier's floor does."""
        highest = {ecu: max(counter, self.counters.get(ecu, 0)) for ecu, counter in counters.items()}
        replace_content(self.disk, DATA / "counters.json", msgspec.json.encode({**self.counters, **highest}))

    def offer(self, wanted: VerifiedUpdate, *contents: bytes) -> VerifiedUpdate:
        """The cloud wants this; the contents are those of its targets, in order."""
        for one, content in zip(wanted.targets, contents, strict=True):
            self.source.add(one, content)
        self.wanted = wanted
        return wanted

    def boot(self) -> Run:
        """Power on: the boot loader chooses until something comes up."""
        for _ in range(20):
            slot = FileStore(BOOT_FILE, tuple(DEVICES), "", self.disk).boot()
            assert slot is not None, "nothing boots"
            self.boots += 1
            self.clock.monotonic = 0
            if self.image_in(slot) not in self.dead:
                return self.start(slot)
        raise AssertionError("nothing comes up")

    def start(self, slot: str) -> Run:
        """The gateway starts, in the same boot."""
        self.starts += 1
        before_start(BASE / "schemes.toml", self.disk)
        return Run(self, slot)

    def image_in(self, slot: str) -> str:
        """Which content a slot has, by its first bytes."""
        return self.disk.open(DEVICES[slot]).read_at(0, 16).hex()

    def runs_image(self, slot: str, content: bytes) -> bool:
        """Whether a slot begins with exactly this."""
        return self.disk.open(DEVICES[slot]).read_at(0, len(content)) == content


@dataclass
class Left:
    """Why the gateway ended."""

    kind: str  # "reboot", "restart", "rest", "wait"
    detail: str = ""


class Run:
    """One start of the gateway."""

    def __init__(self, world: World, slot: str) -> None:
        self.world, self.slot = world, slot
        self.left: Left | None = None
        disk, clock = world.disk, world.clock
        self.health = HealthWatch([_Healthy(world, slot)], within_s=60, steady_s=5, clock=clock)
        self.payloads = PayloadInstaller(
            (PayloadSection(name=PAYLOAD, kind="scheme", path="schemes.toml"),),
            base=BASE,
            checks={"scheme": _check_scheme},
            store=Shelf(disk),
            files=disk,
            directory=DATA,
            offload=in_place,
        )
        self.installer = slot_installer(disk, slot, store=Shelf(disk), open_delta=open_xor)
        self.engine = UpdateEngine(
            EnginePorts(
                clock=clock,
                record=Record(disk, DATA / "journal.json", Journal),
                known=KNOWN,
                conditions=Conditions(
                    vehicle=[_Parked(world)],
                    consent=ConsentDesk(Record(disk, DATA / "consent.json", Consent)),
                    zone=UTC,
                    link=lambda: world.link,
                    links=world.links,
                ),
                health=self.health,
                rebooter=self,
                reporter=self,
                fetcher=lambda: world.source,
                floor=lambda ecu: world.counters.get(ecu, 0),
                raise_counters=world.raise_counters,
                backoff=Backoff(1.0, 60.0, lambda: 0.5),
                boot_id=f"boot-{world.boots}",
                run_id=f"run-{world.starts}",
                boot=boot_control(disk, slot),
                slot=self.installer,
                ecus=world.ecus,
                ecu_image=world.ecus.installed,
                payloads=self.payloads,
                on_attack=self._on_attack,
                limits=world.limits,
                offload=in_place,
            )
        )
        if world.wanted is not None:
            self.engine.want(world.wanted)

    async def reboot(self, reason: str) -> None:
        """See ``Rebooter``."""
        await anyio.lowlevel.checkpoint()
        self.left = Left("reboot", reason)

    async def restart(self, reason: str) -> None:
        """See ``Rebooter``."""
        await anyio.lowlevel.checkpoint()
        self.left = Left("restart", reason)

    def tell(self, report: UpdateReport) -> None:
        """See ``UpdateReporter``."""
        self.world.reports.append(report)

    def _on_attack(self, error: AttackError, ecus: Collection[str]) -> None:
        assert ecus
        self.world.attacks.append(error)

    async def _until_it_leaves(self, steps: int) -> Left:
        for _ in range(steps):
            pause_s = await self.engine.step()
            if self.left is not None:
                return self.left
            if pause_s >= 60.0:
                return Left("rest")
            if pause_s == 5.0 and self.engine.waits_for:
                return Left("wait", self.engine.waits_for)
            self.world.clock.go_on(pause_s)
        raise AssertionError(f"no end: {self.engine.journal.stage}, {self.engine.waits_for}")

    def go(self, steps: int = 500) -> Left:
        """On until it reboots, restarts, waits for a condition, or has nothing to do."""
        return anyio.run(self._until_it_leaves, steps)

    @property
    def end(self) -> str:
        """How the last update ended."""
        return self.engine.journal.end


def drive(world: World, run: Run | None = None, boots: int = 20) -> Run:
    """On, through reboots and restarts, until there is nothing to do or a condition is missing."""
    run = run or world.boot()
    for _ in range(boots):
        left = run.go()
        if left.kind not in ("reboot", "restart"):
            return run
        run = world.boot() if left.kind == "reboot" else world.start(run.slot)
    raise AssertionError("it reboots for ever")


class _Healthy:
    name = "vehicle"

    def __init__(self, world: World, slot: str) -> None:
        self._world, self._slot = world, slot

    async def check(self) -> str:
        await anyio.lowlevel.checkpoint()
        bad = [name for name in self._world.sick if name == self._world.image_in(self._slot)]
        scheme = BASE / "schemes.toml"
        if self._world.disk.exists(scheme) and self._world.disk.read(scheme) in (s.encode() for s in self._world.sick):
            bad.append("scheme")
        return "not well" if bad else ""


class _Parked:
    name = "parked"

    def __init__(self, world: World) -> None:
        self._world = world

    def missing(self, now_ns: int) -> str:
        del now_ns
        return self._world.missing


def _check_scheme(content: bytes) -> None:
    if content.startswith(b"bad"):
        raise InstallError("not a scheme")


__all__ = ["OLD", "TransportError", "World", "drive", "target", "update"]

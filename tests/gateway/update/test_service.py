"""The component: the standard's cycle in its order, what a failure does, sticks, hints, reports."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping

import anyio
import anyio.lowlevel
import msgspec
import pytest

from gateway.errors import GatewayError, PeerError, TransportError
from gateway.link.backoff import Backoff
from gateway.runtime import HealthBoard
from gateway.update.fetchers import Fetchers
from gateway.update.journal import Stage
from gateway.update.model import AttackError, VerifiedUpdate
from gateway.update.ports import Fetcher
from gateway.update.reporting import MAX_WAITING, ReportSender
from gateway.update.service import UpdateService
from gateway.wire.uptane import FileFacts, InstalledImage, UpdateReport
from tests.gateway.update.support import GATEWAY, Source, facts, image_bytes
from tests.gateway.update.world import KNOWN, PAYLOAD, Run, World, target, update

NEW = image_bytes(2)


class Cloud:
    """Verifier and manifest port at once: notes what was asked of it, in order."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.asked: list[str] = []
        self.manifests: list[tuple[Mapping[str, InstalledImage | None], Mapping[str, str]]] = []
        self.fails: GatewayError | None = None
        self.drops: GatewayError | None = None
        self.kept: VerifiedUpdate | None = None

    async def refresh(self, fetcher: Fetcher) -> VerifiedUpdate:
        await anyio.lowlevel.checkpoint()
        self.asked.append("stick" if isinstance(fetcher, Stick) else "refresh")
        if self.fails is not None:
            raise self.fails
        return self.world.wanted or VerifiedUpdate()

    def known(self) -> VerifiedUpdate | None:
        return self.kept

    async def send(self, ecus: Mapping[str, InstalledImage | None], details: Mapping[str, str]) -> None:
        await anyio.lowlevel.checkpoint()
        self.asked.append("manifest")
        if self.drops is not None:
            raise self.drops
        self.manifests.append((ecus, details))


class Stick(Source):
    """A stick's fetcher."""


class Rig:
    def __init__(self, *, online: bool = True, stick: Callable[[], Fetcher | None] = lambda: None) -> None:
        self.world = World()
        self.run = Run(self.world, "A")
        self.cloud = Cloud(self.world)
        self.health = HealthBoard()
        self.attacks: list[AttackError] = []
        self.service = UpdateService(
            engine=self.run.engine,
            verifier=self.cloud,
            fetchers=Fetchers(self.world.source if online else None, stick),
            manifests=self.cloud,
            primary=GATEWAY,
            known=KNOWN,
            backoff=Backoff(1.0, 60.0, lambda: 0.5),
            clock=self.world.clock,
            health=self.health,
            poll_s=3600.0,
            on_attack=self.attacks.append,
        )
        self.health.register("update", 0, limit_s=None)

    def cycle(self) -> float:
        return anyio.run(self.service._cycle)


def test_v1_the_manifest_is_sent_before_anything_is_fetched() -> None:
    rig = Rig()
    assert rig.cycle() == 3600.0
    assert rig.cloud.asked == ["manifest", "refresh"]
    images, details = rig.cloud.manifests[0]
    assert set(images) == set(KNOWN)
    assert images[PAYLOAD] is None
    assert not details
    assert rig.health.summary()["update"] == "ok"
    assert anyio.run(rig.service.answers)


def test_f12_an_attack_is_noted_and_told() -> None:
    rig = Rig()
    rig.cloud.fails = AttackError("rollback", "CT3", "timestamp.json: version 4 after 5")
    assert rig.cycle() < 60
    assert [error.attack for error in rig.attacks] == ["rollback"]
    assert rig.cloud.asked == ["manifest", "refresh", "manifest"]
    assert "rollback attack" in rig.health.summary()["update"]
    rig.cloud.fails = None
    assert rig.cycle() == 3600.0, "the next one may succeed (F13)"
    assert rig.health.summary()["update"] == "ok"


def test_f13_a_dropped_manifest_does_not_keep_it_from_updates() -> None:
    rig = Rig()
    rig.cloud.drops = PeerError("422: counter used before")
    assert rig.cycle() == 3600.0
    assert rig.cloud.asked == ["manifest", "refresh"]
    assert "counter" in str(rig.service.statistics()["manifest_error"])


def test_no_answer_is_tried_again_with_growing_pauses() -> None:
    rig = Rig()
    rig.cloud.fails = TransportError("no answer")
    first, second, third = rig.cycle(), rig.cycle(), rig.cycle()
    assert first < second < third
    assert not rig.service.has_answered


def test_n9_a_failed_update_is_told_in_the_manifest() -> None:
    rig = Rig()
    rig.world.offer(update("one", target(PAYLOAD, b"bad scheme", "2")), b"bad scheme")
    rig.cycle()
    rig.run.go()
    assert rig.run.end == "failed"
    rig.cycle()
    assert rig.cloud.manifests[-1][1] == {PAYLOAD: "failed: not a scheme"}
    assert rig.run.engine.journal.is_told
    rig.cycle()
    assert rig.cloud.manifests[-1][1] == {}, "once"


def test_a_stick_is_looked_at_once_and_works_without_a_cloud() -> None:
    stick: list[Fetcher] = []
    rig = Rig(online=False, stick=lambda: stick[0] if stick else None)
    rig.cycle()
    assert rig.cloud.asked == []
    stick.append(Stick())
    assert rig.service._has_new_stick()
    rig.cycle()
    rig.cycle()
    assert rig.cloud.asked == ["stick"]
    assert not rig.service._has_new_stick()
    assert not rig.service.has_answered, "a stick is not the cloud"
    stick.clear()
    assert not rig.service._has_new_stick()
    stick.append(Stick())
    assert rig.service._has_new_stick()


def test_it_runs_as_a_component_and_tells_how_it_ended() -> None:
    """An update that cannot be loaded: begun, failed and told, with no more than two cycles."""
    rig = Rig()
    rig.world.offer(update("one", target(PAYLOAD, b"new scheme", "2", counter=0)), b"new scheme")
    rig.world.raise_counters({PAYLOAD: 5})

    async def play() -> None:
        async with anyio.create_task_group() as tg:
            await tg.start(lambda *, task_status: rig.service.run(task_status=task_status))
            with anyio.fail_after(20):
                while not (rig.run.end == "failed" and rig.run.engine.journal.is_told):
                    await anyio.lowlevel.checkpoint()
            tg.cancel_scope.cancel()

    anyio.run(play)
    assert "N4" in rig.cloud.manifests[-1][1][GATEWAY]
    assert rig.cloud.asked[:3] == ["manifest", "refresh", "manifest"]


def test_what_was_verified_in_an_earlier_run_is_known_without_network() -> None:
    rig = Rig()
    rig.cloud.fails = TransportError("no answer")
    rig.cloud.kept = update("one", target(PAYLOAD, b"new scheme", "2"))

    async def play() -> None:
        async with anyio.create_task_group() as tg:
            await tg.start(lambda *, task_status: rig.service.run(task_status=task_status))
            tg.cancel_scope.cancel()

    anyio.run(play)
    assert rig.run.engine.wanted == rig.cloud.kept


def test_a_hint_counts_once() -> None:
    rig = Rig()
    rig.service.hint("a")
    assert rig.service._due.is_set()
    rig.service._due = anyio.Event()
    rig.service.hint("a")
    rig.service.hint("")
    assert not rig.service._due.is_set()
    rig.service.hint("b")
    assert rig.service._due.is_set()


def test_the_status_tells_what_is_waited_for() -> None:
    rig = Rig()
    rig.world.offer(update("one", target(PAYLOAD, b"new scheme", "2"), needs_consent=True), b"new scheme")
    rig.cycle()
    rig.run.go()
    status = rig.service.statistics()
    assert status["stage"] == "ready"
    assert status["waits_for"] == "consent"
    assert status["needs_consent"] is True

    async def consent() -> None:
        await rig.service.give_consent("one", "driver")

    anyio.run(consent)
    assert rig.run.go().kind == "restart"


# where images come from

IMAGE = facts("rootfs.img", NEW)


def read(fetchers: Fetchers, offset: int = 0) -> bytes:
    async def all_of_it() -> bytes:
        return b"".join([piece async for piece in fetchers.target(IMAGE, offset)])

    return anyio.run(all_of_it)


def test_a_stick_that_is_pulled_in_the_middle_is_replaced_by_the_cloud() -> None:
    stick, cloud = Stick([(IMAGE, NEW)]), Source([(IMAGE, NEW)])
    stick.breaks_after = 10_000
    assert read(Fetchers(cloud, lambda: stick), 5000) == NEW[5000:]
    assert stick.sent + cloud.sent == len(NEW) - 5000


def test_a_stick_that_holds_half_a_file_is_replaced_by_the_cloud() -> None:
    stick, cloud = Stick([(IMAGE, NEW[:7000])]), Source([(IMAGE, NEW)])
    assert read(Fetchers(cloud, lambda: stick)) == NEW


def test_with_neither_it_is_a_matter_of_transport() -> None:
    with pytest.raises(TransportError):
        read(Fetchers(None))
    with pytest.raises(TransportError):
        read(Fetchers(Source(), lambda: Stick()))


def test_an_attack_by_the_stick_is_an_attack() -> None:
    class Evil(Source):
        async def target(self, file: FileFacts, offset: int) -> AsyncIterator[bytes]:
            await anyio.lowlevel.checkpoint()
            yield b""
            raise AttackError("endless data", "N6", f"{file.filename} at {offset}")

    with pytest.raises(AttackError):
        read(Fetchers(Source([(IMAGE, NEW)]), Evil))


# reports


def report(assignment: str, percent: float) -> UpdateReport:
    return UpdateReport(assignment=assignment, state="installing", at_ns=0, percent=percent)


def test_the_newest_report_of_each_assignment_is_kept() -> None:
    posted: list[UpdateReport] = []
    failures = [TransportError("no answer"), PeerError("404")]

    async def post(one: UpdateReport) -> None:
        await anyio.lowlevel.checkpoint()
        if failures:
            raise failures.pop(0)
        posted.append(one)

    sender = ReportSender(post, Backoff(0.0, 0.0, lambda: 0.5))
    for percent in range(5):
        sender.tell(report("one", percent))
    sender.tell(report("two", 1))
    sender.tell(report("three", 1))

    async def play() -> None:
        async with anyio.create_task_group() as tg:
            await tg.start(lambda *, task_status: sender.run(task_status=task_status))
            with anyio.fail_after(20):
                while len(posted) < 2:
                    await anyio.lowlevel.checkpoint()
            tg.cancel_scope.cancel()

    anyio.run(play)
    assert [(one.assignment, one.percent) for one in posted] == [("two", 1), ("three", 1)]
    assert (sender.replaced, sender.refused) == (4, 1)


def test_reports_that_wait_are_bounded() -> None:
    async def post(one: UpdateReport) -> None:
        raise TransportError(one.assignment)

    sender = ReportSender(post, Backoff(0.0, 0.0, lambda: 0.5))
    for number in range(100):
        sender.tell(report(str(number), 0))
    assert len(sender._waiting) == MAX_WAITING
    assert sender.replaced == 100 - MAX_WAITING


@pytest.mark.parametrize("stage", [Stage.INSTALL, Stage.SWITCH, Stage.TRIAL, Stage.FALLBACK, Stage.RESTORE])
def test_what_has_yet_to_prove_itself_is_not_told_as_running(stage: Stage) -> None:
    """The Director would take a manifest with the new image for the success of an update that may be given up."""
    rig = Rig()
    rig.run.engine.journal = msgspec.structs.replace(rig.run.engine.journal, stage=stage)
    rig.cycle()
    assert rig.cloud.asked == ["refresh"]
    rig.run.engine.journal = msgspec.structs.replace(rig.run.engine.journal, stage=Stage.ENDED)
    rig.cycle()
    assert rig.cloud.asked == ["refresh", "manifest", "refresh"]

"""The shell around the fault memory: stored before told, told again after a cut, and alive without a disk."""

from __future__ import annotations

import asyncio
import errno
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import msgspec
import pytest

from gateway.diag.config import VehicleStateSection
from gateway.diag.vehicle_state import VehicleState
from gateway.dtc.component import DtcComponent, open_store
from gateway.dtc.model import TestResult
from gateway.dtc.monitors import MonitorEngine
from gateway.dtc.rulefile import parse_rules_file
from gateway.dtc.rules import resolve_rules
from gateway.dtc.store import MemoryStore
from gateway.errors import NotNowError, TransportError
from gateway.runtime import ChannelClosed, HealthBoard
from gateway.wire.batch import Priority
from gateway.wire.dtc import DtcReport
from gateway.wire.samples import Event, EventKind
from tests.gateway.dtc.drive import FakeClock
from tests.gateway.dtc.test_monitors import MANIFEST
from tests.gateway.spool.disks import MemoryDisk

A, B = 0x056200, 0xC10087
RULES = """
[defaults]
confirm_cycles = 1
debounce = { kind = "none" }
snapshot = ["X"]
[[monitor]]
dtc = "P0562"
kind = "range"
signal = "X"
max = 5.0
text = "X is too high."
severity = "immediate"
[[monitor]]
dtc = "U0100-87"
kind = "missing"
message = "Safe"
"""


class Box:
    """An outlet that keeps what it gets, and looks at the disk at that moment."""

    def __init__(self, disk: MemoryDisk) -> None:
        self.disk = disk
        self.reports: list[DtcReport] = []
        self.stored: list[dict[int, int]] = []
        self.is_closed = self.holds = False

    async def emit(self, priority: Priority, *events: Event) -> None:
        assert priority is Priority.CRITICAL
        if self.is_closed:
            raise ChannelClosed
        if self.holds:
            await anyio.sleep_forever()
        image = MemoryStore(self.disk.after_power_cut(random.Random(1))).load().image
        for event in events:
            assert (event.kind, event.source) == (EventKind.DTC, "gateway")
            self.reports.append(msgspec.json.decode(event.detail, type=DtcReport))
            self.stored.append({s.code: s.status for s in image.states} if image else {})

    def told(self) -> list[tuple[int, str, int | None, int]]:
        found = [(r.code, r.change, r.previous, r.status) for r in self.reports]
        self.reports.clear()
        return found


class Rig:
    def __init__(self, disk: MemoryDisk | None = None, *, repeat_s: float = 10.0, in_ram: bool = False) -> None:
        self.disk = disk or MemoryDisk()
        self.clock, self.health, self.box = FakeClock(), HealthBoard(), Box(self.disk)
        state = VehicleState(VehicleStateSection(), MANIFEST, self.clock)
        self.engine = MonitorEngine(resolve_rules(parse_rules_file(RULES), MANIFEST), MANIFEST, state)
        self.component = DtcComponent(
            engine=self.engine,
            store=None if in_ram else MemoryStore(self.disk),
            outlet=self.box,
            clock=self.clock,
            health=self.health,
            flush_s=3600,
            repeat_s=repeat_s,
        )
        self.memory = self.engine.memory

    def fail(self, code: int) -> None:
        self.memory.report(code, TestResult.FAILED, 0)

    def heal(self, code: int) -> None:
        self.memory.report(code, TestResult.PASSED, 0)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Rig]:
        async with anyio.create_task_group() as group:
            await group.start(self.component.run)
            await anyio.lowlevel.checkpoint()
            await self.component.flush()
            yield self
            group.cancel_scope.cancel()


def test_a_change_is_stored_before_it_is_told() -> None:
    async def main() -> None:
        async with Rig().running() as rig:
            rig.fail(A)
            await rig.component.flush()
            [report] = rig.box.reports
            assert (report.change, report.previous, report.status) == ("new", 0x50, 0x2F)
            assert (report.severity, report.text, report.occurrences) == (0x80, "X is too high.", 1)
            assert [s.record for s in report.snapshots] == [1, 2]
            assert report.snapshots[0].values[0].name == "a.Fast.X"
            assert report.snapshots[0].values[0].value == "unknown"
            assert rig.box.stored[0][A] == 0x2F

    asyncio.run(main())


def test_only_stored_bits_are_worth_a_report() -> None:
    async def main() -> None:
        async with Rig().running() as rig:
            rig.heal(A)
            await rig.component.flush()
            rig.engine.end()
            rig.engine.begin()
            await rig.component.flush()
            assert rig.box.told() == []

    asyncio.run(main())


def test_a_flapping_dtc_is_merged_and_counted() -> None:
    async def main() -> None:
        async with Rig(repeat_s=10).running() as rig:
            for _ in range(20):
                rig.fail(A)
                await rig.component.flush()
                rig.heal(A)
                await rig.component.flush()
            assert rig.box.told() == [(A, "new", 0x50, 0x2F)]
            rig.clock.now_ns += 10 * 10**9
            await rig.component.flush()
            assert rig.box.told() == [(A, "changed", 0x2F, 0x2E)]
            assert rig.component.statistics().merged == 38

    asyncio.run(main())


def test_a_clear_is_told_at_once_with_who_did_it() -> None:
    async def main() -> None:
        async with Rig().running() as rig:
            rig.fail(A)
            await rig.component.flush()
            rig.memory.clear(by="doip 0x0e80")
            await rig.component.flush()
            assert rig.box.reports[-1].by == "doip 0x0e80"
            assert rig.box.told()[1:] == [(A, "cleared", 0x2F, 0x50)]

    asyncio.run(main())


def test_a_restart_goes_on_and_tells_all_that_is_stored() -> None:
    async def main() -> None:
        first = Rig()
        async with first.running() as rig:
            rig.fail(A)
            await rig.component.flush()
        again = Rig(first.disk.after_power_cut(random.Random(2)))
        async with again.running() as rig:
            assert rig.memory.cycles == 2
            assert rig.box.told()[0] == (A, "present", None, 0x6D)

    asyncio.run(main())


def test_a_power_cut_between_storing_and_telling_is_made_good() -> None:
    async def main() -> None:
        rig = Rig()
        async with rig.running():
            rig.fail(A)
            await rig.component.persist()
            cut = rig.disk.after_power_cut(random.Random(3))
        async with Rig(cut).running() as again:
            assert [r.change for r in again.box.reports] == ["present"]

    asyncio.run(main())


def test_at_a_stop_everything_is_stored_and_told() -> None:
    async def main() -> None:
        async with Rig().running() as rig:
            rig.fail(A)
            await rig.component.flush()
            rig.heal(A)
            rig.fail(B)
        assert [(r.code, r.status) for r in rig.box.reports] == [(A, 0x2F), (A, 0x2E), (B, 0x2F)]
        image = MemoryStore(rig.disk.after_power_cut(random.Random(4))).load().image
        assert image is not None
        assert not image.is_cycle_running
        assert not rig.disk.is_open

    asyncio.run(main())


def test_a_failing_disk_degrades_and_recovers() -> None:
    async def main() -> None:
        async with Rig().running() as rig:
            rig.disk.failures["sync"] = (0, errno.EIO)
            rig.fail(A)
            with pytest.raises(TransportError, match="not saved"):
                await rig.component.persist()
            rig.disk.failures["open"] = (0, errno.ENOSPC)
            await rig.component.flush()
            assert rig.box.told() == [(A, "new", 0x50, 0x2F)], "reported all the same"
            assert rig.health.summary()["dtc"].startswith("degraded: fault memory not saved")
            await rig.component.flush()
            assert rig.health.summary()["dtc"] == "ok"
            image = MemoryStore(rig.disk.after_power_cut(random.Random(5))).load().image
            assert image is not None
            assert {s.code: s.status for s in image.states}[A] == 0x2F
            assert rig.component.statistics().save_failures == 2

    asyncio.run(main())


def test_an_unreadable_disk_does_not_keep_the_gateway_from_starting() -> None:
    async def main() -> None:
        disk = MemoryDisk()
        async with Rig(disk).running():
            pass
        disk.failures["read"] = (0, errno.EIO)
        async with Rig(disk.after_kill()).running() as rig:
            rig.fail(A)
            await rig.component.flush()
            assert rig.box.told()

    asyncio.run(main())


def test_an_outlet_that_was_closed_stops_the_reports_and_nothing_else() -> None:
    async def main() -> None:
        async with Rig().running() as rig:
            rig.box.is_closed = True
            for _ in range(2):
                rig.fail(A)
                await rig.component.flush()
                rig.memory.clear()
            assert rig.box.told() == []
            await rig.component.persist()
            image = MemoryStore(rig.disk.after_power_cut(random.Random(6))).load().image
            assert image is not None
            assert {s.code: s.status for s in image.states}[A] == 0x50

    asyncio.run(main())


def test_a_report_under_way_when_stopped_is_told_once_more() -> None:
    async def main() -> None:
        rig = Rig()
        async with rig.running():
            rig.box.holds = True
            rig.fail(A)
            with anyio.move_on_after(0.01):
                await rig.component.flush()
            rig.box.holds = False
        assert [(r.code, r.change) for r in rig.box.reports] == [(A, "new")]

    asyncio.run(main())


def test_without_a_disk_it_works_in_memory() -> None:
    async def main() -> None:
        async with Rig(in_ram=True).running() as rig:
            rig.fail(A)
            await rig.component.flush()
            assert len(rig.box.reports) == 1
            await rig.component.persist()
            assert rig.disk.names() == []

    asyncio.run(main())


def test_before_it_is_loaded_nothing_can_be_made_durable() -> None:
    async def main() -> None:
        with pytest.raises(NotNowError):
            await Rig().component.persist()

    asyncio.run(main())


def test_dtcs_that_have_no_rule_any_more_are_counted_and_dropped() -> None:
    async def main() -> None:
        disk = MemoryDisk()
        async with Rig(disk).running() as rig:
            rig.fail(B)
        global RULES
        kept, RULES = RULES, RULES[: RULES.rindex("[[monitor]]")]
        try:
            async with Rig(disk.after_kill()).running() as rig:
                assert rig.component.statistics().lost_definitions == 1
            image = MemoryStore(disk.after_kill()).load().image
            assert image is not None
            assert [s.code for s in image.states] == [A]
        finally:
            RULES = kept

    asyncio.run(main())


def test_ticks_are_passed_on() -> None:
    async def main() -> None:
        rig, ticks = Rig(), list[int]()
        rig.component.on_tick(ticks.append)
        async with rig.running():
            pass
        assert ticks

    asyncio.run(main())


def test_a_directory_in_use_is_a_clear_error(tmp_path: Path) -> None:
    store = open_store(tmp_path / "dtc")
    with pytest.raises(TransportError, match="in use by another process"):
        open_store(tmp_path / "dtc")
    store.close()
    open_store(tmp_path / "dtc").close()
    (tmp_path / "file").write_text("")
    with pytest.raises(TransportError, match="fault memory"):
        open_store(tmp_path / "file")

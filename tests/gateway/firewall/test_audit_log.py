"""What the firewall decides ends up in the log and on its way to the cloud, once, condensed, over failures."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from gateway.diag.config import EcuConfig, FirewallSection
from gateway.diag.router import names_of
from gateway.errors import ConfigError, TransportError
from gateway.firewall.audit import Record
from gateway.firewall.audit_log import LOCKOUTS, MAX_WAITING, AuditLog
from gateway.firewall.audit_store import AuditStore, read_records, verify
from gateway.firewall.condense import MAX_KINDS, WINDOW_NS, Condenser
from gateway.firewall.core import AuditEntry, Firewall
from gateway.firewall.setup import open_firewall
from gateway.firewall.state import VehicleFacts
from gateway.runtime import SystemClock
from gateway.wire.batch import Priority
from gateway.wire.samples import Event, EventKind
from tests.gateway.firewall.support import MOTOR, OTHER, WORKSHOP

ECUS = [EcuConfig(name="motor", bus="a", logical_address=MOTOR, request_id=0x7E0, response_id=0x7E8)]


class Uplink:
    """Takes events as the collector's channel does."""

    def __init__(self) -> None:
        self.calls: list[tuple[Priority, tuple[Event, ...]]] = []
        self.is_open = anyio.Event()

    async def emit(self, priority: Priority, *events: Event) -> None:
        await self.is_open.wait()
        self.calls.append((priority, events))

    @property
    def details(self) -> list[dict[str, object]]:
        return [json.loads(event.detail) for _, events in self.calls for event in events]


class Bench:
    def __init__(self, base: Path, *, is_open: bool = True) -> None:
        self.base, self.uplink, self.vehicle = base, Uplink(), VehicleFacts(speed_kmh=40.0)
        (base / "identity").mkdir(exist_ok=True)
        if is_open:
            self.uplink.is_open.set()
        self.firewall: Firewall
        self.log: AuditLog
        self.firewall, self.log = open_firewall(
            FirewallSection(),
            base,
            names=names_of(ECUS),
            identity=base / "identity",
            vehicle=lambda _: self.vehicle,
            clock=SystemClock(),
            emit=self.uplink.emit,
        )

    def ask(self, request: str) -> None:
        self.firewall.judge(WORKSHOP, MOTOR, bytes.fromhex(request), is_functional=False, now_ns=self.now_ns)

    def answer(self, pdu: str) -> None:
        self.firewall.answered(WORKSHOP, MOTOR, bytes.fromhex(pdu), now_ns=self.now_ns)

    @property
    def now_ns(self) -> int:
        return SystemClock().monotonic_ns()

    def records(self) -> list[Record]:
        return [record for record in read_records(self.base / "audit") if record.kind != "file"]

    async def until_written(self, count: int) -> None:
        async with asyncio.timeout(10):
            while self.log.statistics().written < count:  # noqa: ASYNC110  # what is waited for tells nobody
                await anyio.sleep(0.002)


@asynccontextmanager
async def logging(base: Path, *, is_open: bool = True) -> AsyncIterator[Bench]:
    bench = Bench(base, is_open=is_open)
    async with anyio.create_task_group() as tg:
        await tg.start(bench.log.run)
        yield bench
        tg.cancel_scope.cancel()


def test_refusals_writes_sessions_and_unlocks_are_recorded_and_go_up(tmp_path: Path) -> None:
    async def main() -> Bench:
        async with logging(tmp_path) as bench:
            bench.ask("22F190")
            bench.ask("2EF19041")
            bench.vehicle = VehicleFacts(is_standing=True)
            bench.ask("1003")
            bench.answer("5003003201F4")
            bench.ask("2701")
            bench.answer("6701AABB")
            bench.ask("2702C0FFEE")
            bench.answer("6702")
            bench.ask("2EF19041")
            bench.answer("6EF190")
            await bench.until_written(6)
            return bench

    bench = asyncio.run(main())
    records = bench.records()
    assert [r.kind for r in records] == ["refuse", "session", "write", "write", "unlock", "write"]
    assert (records[0].port, records[0].tester, records[0].target, records[0].nrc) == ("doip", 0x0E80, MOTOR, 0x22)
    assert records[0].rule == "no writing while moving"
    assert "c0ffee" not in (tmp_path / "audit" / "audit-00000001.jsonl").read_text()  # keys are nobody's business
    assert [d["number"] for d in bench.uplink.details] == [r.number for r in records]
    assert {event.kind for _, events in bench.uplink.calls for event in events} == {EventKind.AUDIT}
    assert {priority for priority, _ in bench.uplink.calls} == {Priority.NORMAL}
    key = bytes.fromhex((tmp_path / "identity" / "audit.key").read_text())
    assert verify(tmp_path / "audit", key).is_sound


def test_a_flood_of_refusals_is_a_few_records_with_a_count(tmp_path: Path) -> None:
    async def main() -> Bench:
        async with logging(tmp_path) as bench:
            for i in range(20_000):
                bench.ask(f"2E{i & 0xFFFF:04X}41")
            return bench

    bench = asyncio.run(main())
    records = bench.records()
    assert sum(r.count for r in records) == 20_000
    assert len(records) < 10


def test_while_the_way_up_is_blocked_the_log_is_written_and_copies_wait(tmp_path: Path) -> None:
    async def main() -> Bench:
        async with logging(tmp_path, is_open=False) as bench:
            bench.ask("2EF19041")
            await bench.until_written(1)
            bench.ask("14FFFFFF")
            await bench.until_written(2)
            assert bench.uplink.calls == []
            bench.uplink.is_open.set()
            async with asyncio.timeout(5):
                while len(bench.uplink.details) < 2:  # noqa: ASYNC110  # what is waited for tells nobody
                    await anyio.sleep(0.002)
            return bench

    assert [d["number"] for d in asyncio.run(main()).uplink.details] == [2, 3]


def test_more_than_can_be_kept_is_counted_and_told(tmp_path: Path) -> None:
    async def main() -> Bench:
        bench = Bench(tmp_path)
        for i in range(MAX_WAITING + 100):  # nobody writes yet
            bench.log._queue([Record(number=0, at_ns=i, kind="write")])
        async with anyio.create_task_group() as tg:
            await tg.start(bench.log.run)
            await bench.until_written(MAX_WAITING + 1)
            tg.cancel_scope.cancel()
        return bench

    bench = asyncio.run(main())
    lost = [r for r in bench.records() if r.kind == "lost"]
    assert sum(r.count for r in lost) == bench.log.statistics().lost > 0


def test_a_lockout_survives_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        async with logging(tmp_path) as bench:
            bench.vehicle = VehicleFacts(is_standing=True)
            bench.ask("1003")
            bench.answer("5003003201F4")
            for _ in range(3):
                bench.ask("27021122")
                bench.answer("7F2735")
            await bench.until_written(3)

    asyncio.run(main())
    bench = Bench(tmp_path)
    assert bench.firewall.guard.must_wait(("doip", 0x0E80, ""), MOTOR, bench.now_ns)
    assert not bench.firewall.guard.must_wait(("doip", 0x0E81, ""), MOTOR, bench.now_ns)
    (tmp_path / "audit" / LOCKOUTS).write_bytes(b"\xff{")
    damaged = Bench(tmp_path)
    assert LOCKOUTS in damaged.log.statistics().damage


def test_a_log_that_cannot_be_opened_is_tried_again_and_stops_nothing(tmp_path: Path) -> None:
    holder = AuditStore(tmp_path / "audit", max_bytes=1 << 20, key=b"", now_ns=1)

    async def main() -> Bench:
        async with logging(tmp_path) as bench:
            holder.close()
            bench.ask("2EF19041")
            await bench.until_written(1)
            return bench

    assert asyncio.run(main()).records()[-1].kind == "refuse"


def test_a_write_that_fails_is_done_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: AuditStore, records: object) -> list[Record]:
        raise TransportError("No space left on device")

    async def main() -> Bench:
        async with logging(tmp_path) as bench:
            with monkeypatch.context() as patched:
                patched.setattr(AuditStore, "append", full)
                bench.ask("2EF19041")
                assert not await bench.log._write_once()
            bench.ask("14FFFFFF")
            return bench

    bench = asyncio.run(main())
    assert [r.request[:2] for r in bench.records()] == ["2e", "14"]


def test_a_policy_with_a_mistake_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text(
        'version = 1\n[[rules]]\nname = "a"\naction = "drop"\n[[rules]]\nname = "b"\naction = "allow"\n'
    )
    with pytest.raises(ConfigError, match="rule 'b' never applies"):
        open_firewall(
            FirewallSection(policy="policy.toml"), tmp_path, names={}, identity=None,
            vehicle=lambda _: VehicleFacts(), clock=SystemClock(),
        )  # fmt: skip


# condensing


def entry(number: int = 0, *, kind: str = "refuse", sid: int = 0x2E) -> AuditEntry:
    request = f"{sid:02x}{number:04x}"
    return AuditEntry(kind=kind, tester=WORKSHOP, target=MOTOR, sid=sid, request=request, rule="rule")


def test_alike_are_counted_until_their_time_is_over() -> None:
    condenser = Condenser()
    assert [r.count for r in condenser.add(entry(1), 1000)] == [1]
    assert condenser.add(entry(2), 2000) == []
    assert condenser.add(entry(3), 3000) == []
    assert condenser.due(WINDOW_NS) == []
    [record] = condenser.due(1000 + WINDOW_NS)
    assert (record.count, record.at_ns, record.until_ns, record.request) == (2, 1000, 3000, "2e0003")
    assert condenser.flush() == []


def test_different_services_testers_and_allowed_requests_are_kept_apart() -> None:
    condenser = Condenser()
    others = [entry(), entry(sid=0x14), entry(0x100, kind="write"), entry(0x200, kind="write")]
    others.append(AuditEntry(kind="refuse", tester=OTHER, target=MOTOR, sid=0x2E, rule="rule"))
    assert [len(condenser.add(other, 1)) for other in others] == [1] * 5


def test_a_clock_that_jumps_back_closes_windows() -> None:
    condenser = Condenser()
    condenser.add(entry(), 5 * WINDOW_NS)
    condenser.add(entry(), 5 * WINDOW_NS + 1)
    assert [r.count for r in condenser.due(0)] == [1]


def test_condensing_is_bounded_and_loses_no_count() -> None:
    condenser = Condenser()
    written = [r for i in range(3 * MAX_KINDS) for _ in range(2) for r in condenser.add(entry(i, kind="write"), 1)]
    assert len(condenser._windows) <= MAX_KINDS
    assert sum(r.count for r in [*written, *condenser.flush()]) == 6 * MAX_KINDS


def test_the_blocks_of_a_download_are_one_record_each_ten_seconds() -> None:
    condenser = Condenser()
    written = [r for i in range(5000) for r in condenser.add(entry(i, kind="write", sid=0x36), 1 + i * 10_000_000)]
    assert len(written) <= 11
    assert sum(r.count for r in [*written, *condenser.flush()]) == 5000


@pytest.mark.parametrize("kind", ["refuse", "write"])
def test_requests_that_are_never_alike_do_not_wash_the_log_out(kind: str) -> None:
    """An hour of different requests, from ever new addresses."""
    condenser = Condenser()
    count = written = total = 0
    for second in range(0, 3600, 60):
        for i in range(300):
            tester = type(WORKSHOP)(port="doip", address=i)
            other = AuditEntry(kind=kind, tester=tester, target=i % 7, sid=i % 64, request=f"{i % 64:02x}{i:04x}00")
            records = condenser.add(other, (second * 1000 + 3 * i) * 1_000_000)
            written, count, total = written + len(records), count + sum(r.count for r in records), total + 1
    count += sum(r.count for r in condenser.flush())
    assert count == total
    assert written < (1500 if kind == "refuse" else 6000)

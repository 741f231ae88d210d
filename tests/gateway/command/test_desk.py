"""From the link to the ECUs and back: each order once, each result until the cloud has it, whatever stops between."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import msgspec
import pytest

from gateway.command.desk import INTERRUPTED, MAX_OFFERED, OrderDesk
from gateway.command.orders import Memory, Remembered
from gateway.command.store import MAX_WAITING, MEMORY_FILE, OrderStore, encode_result
from gateway.errors import TransportError
from gateway.link.backoff import Backoff
from gateway.link.client import Refusal as CloudRefusal
from gateway.link.client import RefusedError
from gateway.runtime import HealthBoard
from gateway.wire.diagnostics import MAX_RESULT_BYTES, DiagnosticResult, StepResult
from gateway.wire.orders import Order, SignedOrder
from tests.gateway.command.support import (
    HOUR_NS,
    KEY,
    NOW_NS,
    OTHER_KEY,
    Handler,
    ManualClock,
    Sender,
    order,
    public_of,
    signed,
)
from tests.support import ROOT


class Bench:
    """A desk with everything around it in memory but its files."""

    def __init__(self, directory: Path) -> None:
        self.store, self.handler, self.sender, self.clock = OrderStore(directory), Handler(), Sender(), ManualClock()
        self.key = public_of(KEY)
        self.health = HealthBoard()
        self.desk = OrderDesk(
            vehicle="VIN1",
            key=lambda: self.key,
            store=self.store,
            handlers={"diagnostics": self.handler},
            sender=self.sender,
            backoff=Backoff(0.001, 0.002, lambda: 0.5),
            clock=self.clock,
            health=self.health,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tg:
            await tg.start(lambda task_status: self.desk.run(task_status=task_status))
            yield
            tg.cancel_scope.cancel()

    def offer(self, *orders: SignedOrder) -> None:
        self.desk.offer(orders, NOW_NS)

    async def told(self, *states: str, order_id: str = "order-1") -> None:
        await until(lambda: self.sender.states(order_id) == list(states))


async def until(is_true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while True:
            if is_true():
                return
            await anyio.sleep(0.002)


def run(directory: Path, test: Callable[[Bench], object]) -> Bench:
    bench = Bench(directory)

    async def main() -> None:
        async with bench.running():
            await test(bench)  # type: ignore[misc]  # tests are coroutine functions

    asyncio.run(main())
    return bench


def test_an_order_is_accepted_carried_out_and_answered(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.offer(signed(order()))
        await bench.told("accepted", "running", "done")
        assert bench.sender.results[-1].results == (StepResult(step=0, ecu="battery", outcome="ok"),)
        await until(lambda: bench.store.waiting() == [])

    bench = run(tmp_path, test)
    assert bench.handler.done == ["order-1"]
    assert bench.store.load().orders["order-1"].is_done


def test_an_order_that_is_offered_again_and_again_is_carried_out_once(tmp_path: Path) -> None:
    """By push and by poll, before, while and after it is done."""

    async def test(bench: Bench) -> None:
        bench.sender.is_up = False
        for _ in range(3):
            bench.offer(signed(order()), signed(order()))
            await until(lambda: bench.handler.done == ["order-1"])
        bench.sender.is_up = True
        await bench.told("accepted", "running", "done")

    assert run(tmp_path, test).handler.done == ["order-1"]


def test_a_cloud_that_has_forgotten_the_result_is_told_once_that_it_was_done(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.offer(signed(order()))
        await bench.told("accepted", "running", "done")
        await until(lambda: bench.store.waiting() == [])
        for _ in range(3):
            bench.offer(signed(order()))
        await bench.told("accepted", "running", "done", "refused")
        bench.offer(signed(order("order-2")))
        await bench.told("accepted", "running", "done", order_id="order-2")
        assert bench.sender.states() == ["accepted", "running", "done", "refused"]
        assert bench.sender.results[3].detail.startswith("replayed")

    assert run(tmp_path, test).handler.done == ["order-1", "order-2"]


def test_a_refused_order_is_told_with_the_reason_and_only_once(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        forged = msgspec.structs.replace(signed(order(), OTHER_KEY), key_id=signed(order()).key_id)
        for _ in range(3):
            bench.offer(forged, signed(order("order-2", vehicle="VIN2")))
        await bench.told("refused")
        await bench.told("refused", order_id="order-2")
        bench.offer(signed(order("order-3")))
        await bench.told("accepted", "running", "done", order_id="order-3")
        assert [r.detail.split(":")[0] for r in bench.sender.results[:2]] == ["bad_signature", "other_vehicle"]
        assert len(bench.sender.results) == 5

    assert run(tmp_path, test).handler.done == ["order-3"]


def test_an_order_the_handler_cannot_do_is_refused_and_not_remembered(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.handler.problem = "no such step"
        bench.offer(signed(order()))
        await bench.told("refused")
        assert bench.sender.results[0].detail == "malformed: no such step"

    assert run(tmp_path, test).store.load().orders == {}


def test_a_new_key_counts_from_the_next_order_on(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.key = public_of(OTHER_KEY)
        bench.offer(signed(order(), OTHER_KEY))
        await bench.told("accepted", "running", "done")

    run(tmp_path, test)


def test_what_cannot_be_kept_on_disk_is_not_carried_out_and_taken_when_offered_again(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        save = bench.store.save

        def fail(memory: Memory) -> None:
            raise TransportError("disk full")

        bench.store.save = fail  # type: ignore[method-assign]  # the disk, not the thing under test
        bench.offer(signed(order()))
        await until(lambda: "disk full" in bench.health.summary()["orders"])
        assert bench.handler.done == []
        assert bench.sender.results == []
        bench.store.save = save  # type: ignore[method-assign]  # the disk again
        bench.offer(signed(order()))
        await bench.told("accepted", "running", "done")

    run(tmp_path, test)


def test_an_order_that_expires_in_the_queue_is_not_carried_out(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        release = anyio.Event()
        quick = bench.handler.execute

        async def slow(wanted: Order) -> tuple[StepResult, ...]:
            await release.wait()
            return await quick(wanted)

        bench.handler.execute = slow  # type: ignore[method-assign]  # a slow ECU
        bench.offer(signed(order()), signed(order("order-2")))
        await bench.told("accepted", order_id="order-2")
        bench.clock.utc += HOUR_NS
        release.set()
        await bench.told("accepted", "done", order_id="order-2")
        assert "expired" in bench.sender.results[-1].detail

    assert run(tmp_path, test).handler.done == ["order-1"]


def test_a_handler_that_fails_unforeseen_is_a_result_and_the_next_order_is_done(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        quick = bench.handler.execute

        async def broken(wanted: Order) -> tuple[StepResult, ...]:
            if wanted.id == "order-1":
                raise ZeroDivisionError("oops")
            return await quick(wanted)

        bench.handler.execute = broken  # type: ignore[method-assign]  # a mistake in a handler
        bench.offer(signed(order()), signed(order("order-2")))
        await bench.told("accepted", "running", "done", order_id="order-2")
        (failed,) = [r for r in bench.sender.results if r.order == "order-1" and r.state == "done"]
        assert (failed.detail, failed.results) == ("failed: oops", ())

    run(tmp_path, test)


def test_results_wait_on_disk_over_a_restart_until_the_cloud_takes_them(tmp_path: Path) -> None:
    async def offline(bench: Bench) -> None:
        bench.sender.is_up = False
        bench.offer(signed(order()))
        await until(lambda: len(bench.store.waiting()) == 3)

    async def online(bench: Bench) -> None:
        await bench.told("accepted", "running", "done")
        bench.offer(signed(order()))
        await until(lambda: bench.desk.replayed == 1)

    run(tmp_path, offline)
    assert run(tmp_path, online).handler.done == []


@pytest.mark.parametrize("status", [400, 404, 413])
def test_a_result_the_cloud_will_never_take_holds_up_no_other(tmp_path: Path, status: int) -> None:
    async def test(bench: Bench) -> None:
        plain = bench.sender.send_result

        async def picky(result: DiagnosticResult) -> None:
            if result.order == "order-1":
                raise RefusedError(CloudRefusal.TOO_LARGE if status == 413 else CloudRefusal.OTHER, status, "no")
            await plain(result)

        bench.sender.send_result = picky  # type: ignore[method-assign]  # a cloud that forgot the order
        bench.offer(signed(order()), signed(order("order-2")))
        await bench.told("accepted", "running", "done", order_id="order-2")
        await until(lambda: bench.store.waiting() == [])

    run(tmp_path, test)


def test_a_flood_of_orders_is_bounded(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        bench.offer(*(signed(order(f"o{i}")) for i in range(3 * MAX_OFFERED)))
        assert bench.desk.dropped == 2 * MAX_OFFERED
        await until(lambda: len(bench.handler.done) == MAX_OFFERED)

    run(tmp_path, test)


def test_an_order_interrupted_by_a_crash_is_answered_and_not_carried_out_again(tmp_path: Path) -> None:
    OrderStore(tmp_path).save(Memory(floor_ns=NOW_NS, orders={"order-1": Remembered(NOW_NS + HOUR_NS)}))

    async def test(bench: Bench) -> None:
        await bench.told("done")
        assert bench.sender.results[0].detail == INTERRUPTED
        bench.offer(signed(order()))
        await until(lambda: bench.desk.replayed == 1)

    bench = run(tmp_path, test)
    assert bench.handler.done == []
    assert bench.store.load().orders["order-1"].is_done


def test_after_the_desk_itself_was_restarted_no_order_is_both_interrupted_and_carried_out(tmp_path: Path) -> None:
    bench = Bench(tmp_path)

    async def never(wanted: Order) -> tuple[StepResult, ...]:
        await anyio.sleep_forever()
        return ()

    async def main() -> None:
        quick, bench.handler.execute = bench.handler.execute, never  # type: ignore[method-assign]  # a slow ECU
        async with bench.running():
            bench.offer(signed(order()), signed(order("order-2")))
            await bench.told("accepted", order_id="order-2")
        bench.handler.execute = quick  # type: ignore[method-assign]  # quick again
        async with bench.running():
            await bench.told("accepted", "running", "done")
            await bench.told("accepted", "done", order_id="order-2")
            bench.offer(signed(order("order-3")))
            await bench.told("accepted", "running", "done", order_id="order-3")

    asyncio.run(main())
    assert bench.handler.done == ["order-3"]


def test_a_damaged_memory_is_put_aside_and_no_old_order_is_obeyed(tmp_path: Path) -> None:
    (tmp_path / MEMORY_FILE).write_bytes(b'{"floor_ns":1,"orders":{"order-1":')

    async def test(bench: Bench) -> None:
        bench.offer(signed(order()))
        await bench.told("refused")
        fresh = order("fresh", issued_ns=NOW_NS + 1)
        bench.offer(signed(fresh))
        await bench.told("accepted", "running", "done", order_id="fresh")

    assert run(tmp_path, test).handler.done == ["fresh"]
    assert (tmp_path / "orders.damaged").exists()


CHILD = """
import asyncio, sys
from pathlib import Path
from tests.gateway.command.test_desk import Bench
from tests.gateway.command.support import order, signed, NOW_NS
directory, log, number = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
bench = Bench(directory)
bench.sender.is_up = False
quick = bench.handler.execute
async def execute(wanted):
    with log.open("a") as file:
        file.write(wanted.id + "\\n")
    return await quick(wanted)
bench.handler.execute = execute
async def main():
    async with bench.running():
        print("up", flush=True)
        while True:
            bench.offer(*(signed(order(f"o{i}")) for i in range(number, number + 60)))
            await asyncio.sleep(0.001)
asyncio.run(main())
"""


def test_kill_9_at_any_moment_repeats_no_order(tmp_path: Path) -> None:
    """A process that is offered the same orders again and again, killed and started several times."""
    log, state = tmp_path / "done", tmp_path / "state"
    for lines in (2, 9, 17):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(state), str(log), "0"], cwd=ROOT, stdout=subprocess.PIPE
        )
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"up\n"
            asyncio.run(until(lambda lines=lines: log.exists() and log.read_text().count("\n") >= lines))  # type: ignore[misc]  # a lambda with a default
        finally:
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
            if child.stdout is not None:
                child.stdout.close()
    done = log.read_text().split()
    assert len(done) == len(set(done)) >= 17
    kept = json.loads((state / MEMORY_FILE).read_text())["orders"]
    assert set(done) <= set(kept)


def test_the_outbox_is_bounded_and_loses_the_oldest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.command.store.MAX_WAITING", 3)
    store = OrderStore(tmp_path)
    results = [DiagnosticResult(order=f"o{i}", state="done", at_ns=i) for i in range(5)]
    assert [store.put(r) for r in results] == [True, True, True, False, False]
    assert [store.read(p) for p in store.waiting()] == results[2:]
    (tmp_path / "outbox" / "0000000000000009.json").write_bytes(b"{damaged")
    assert store.read(store.waiting()[-1]) is None
    assert len(store.waiting()) == 3
    assert MAX_WAITING > 3


def test_a_result_too_large_to_travel_says_so() -> None:
    rows = tuple(
        StepResult(step=0, ecu=f"e{i}", outcome="ok", data=bytes(4096), values={"x": "y" * 200}) for i in range(2000)
    )
    content = encode_result(DiagnosticResult(order="o", state="done", at_ns=0, results=rows))
    lean = msgspec.json.decode(content, type=DiagnosticResult)
    assert len(content) <= MAX_RESULT_BYTES
    assert "too large" in lean.detail
    assert 0 < len(lean.results) < 2000

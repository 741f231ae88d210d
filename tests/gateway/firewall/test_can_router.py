"""The CAN firewall between buses in memory: what passes, what is refused, what is reported."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
import numpy as np
import pytest

from dbc.frames import FrameBatch
from gateway.can.link import CanFrame, CanLink
from gateway.can.link_memory import MemoryBus
from gateway.errors import ConfigError
from gateway.firewall.can_origin import OriginWatch
from gateway.firewall.can_router import CanRouter
from gateway.firewall.can_rules import IdRange, Origin, Route, RoutingSection, RoutingTable
from gateway.runtime import HealthBoard, SystemClock
from gateway.wire.batch import Priority
from gateway.wire.samples import Event, EventKind

pytestmark = pytest.mark.anyio
TABLE = RoutingTable(
    routes=(
        Route(name="free", source="a", to=("b", "c"), ids=(IdRange(False, 0x100, 0x10F),)),
        Route(name="limited", source="a", to=("b",), ids=(IdRange(False, 0x200, 0x200),), max_rate_hz=10.0, burst=5),
        Route(name="back", source="b", to=("a",), ids=(IdRange(True, 0x18FEF100, 0x18FEF100),), lengths=(8, 8)),
    )
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Rig:
    """Three buses with a node on each that hears everything, and the router between them."""

    def __init__(self) -> None:
        self.buses = {name: MemoryBus() for name in "abc"}
        self.nodes = {name: bus.link("node") for name, bus in self.buses.items()}
        self.heard: dict[str, list[CanFrame]] = {name: [] for name in self.buses}
        self.events: list[Event] = []
        for name, node in self.nodes.items():
            node.hear(None, lambda frame, name=name: self.heard[name].append(frame._replace(timestamp_ns=0)))  # type: ignore[misc]  # a default binds the loop's value

    def open(self, name: str) -> CanLink:
        return self.buses[name].link("router")

    async def emit(self, priority: Priority, event: Event) -> None:
        assert priority is Priority.NORMAL
        self.events.append(event)

    async def until(self, holds: Callable[[], bool]) -> None:
        with anyio.fail_after(10):
            while not holds():
                await anyio.lowlevel.checkpoint()


@asynccontextmanager
async def routing(
    rig: Rig, table: RoutingTable = TABLE, origins: OriginWatch | None = None
) -> AsyncIterator[CanRouter]:
    router = CanRouter(
        table=table,
        config=RoutingSection(report_s=0.1, mute_s=0.2),
        links=rig.open,
        interfaces={},
        emit=rig.emit,
        health=HealthBoard(),
        clock=SystemClock(),
        origins=origins,
    )
    async with anyio.create_task_group() as tg:
        await tg.start(lambda *, task_status: router.run(task_status=task_status))
        yield router
        tg.cancel_scope.cancel()


async def test_frames_pass_by_their_routes_and_nothing_else_does() -> None:
    rig = Rig()
    async with routing(rig) as router:
        frames = [CanFrame(0x100, b"x"), CanFrame(0x101, bytes(64), fd=True, brs=True), CanFrame(0x111, b"no")]
        for frame in frames:
            rig.nodes["a"].send(frame)
        rig.nodes["b"].send(CanFrame(0x18FEF100, bytes(8), extended=True))
        rig.nodes["c"].send(CanFrame(0x100, b"from c"))
        await rig.until(lambda: len(rig.heard["b"]) >= 2 and len(rig.heard["c"]) >= 2 and bool(rig.heard["a"]))
        assert rig.heard["b"] == rig.heard["c"] == frames[:2]
        assert rig.heard["a"] == [CanFrame(0x18FEF100, bytes(8), extended=True)]
        assert router.statistics()["free"].forwarded == 2
        assert router.in_kernel() == frozenset()


async def test_refused_frames_are_counted_and_reported_with_rule_and_identifier() -> None:
    rig = Rig()
    async with routing(rig) as router:
        for n in range(100):
            rig.nodes["a"].send(CanFrame(0x200, bytes([n])))
        rig.nodes["b"].send(CanFrame(0x18FEF100, b"short", extended=True))
        await rig.until(lambda: len({e.source for e in rig.events}) == 2)
        counts = router.statistics()["limited"]
        assert counts.heard == 100 == counts.forwarded + counts.refused_rate
        assert len(rig.heard["b"]) == counts.forwarded < 20
        details = {e.source: e.detail for e in rig.events if e.kind is EventKind.INTRUSION}
        assert details["a"].startswith("rate 'limited': 200 x")
        assert details["b"] == "length 'back': 18FEF100 x1"


async def test_a_flooding_identifier_is_not_heard_for_a_while_and_then_again() -> None:
    rig = Rig()
    async with routing(rig) as router:
        for n in range(1000):
            rig.nodes["a"].send(CanFrame(0x200, n.to_bytes(2, "big")))
        await rig.until(lambda: router.statistics()["limited"].muted == 1)
        heard = router.statistics()["limited"].heard
        for _ in range(50):
            rig.nodes["a"].send(CanFrame(0x200, b"muted"))
        rig.nodes["a"].send(CanFrame(0x100, b"next"))
        await rig.until(lambda: CanFrame(0x100, b"next") in rig.heard["b"])
        assert router.statistics()["limited"].heard == heard
        rig.heard["b"].clear()

        def is_back() -> bool:
            rig.nodes["a"].send(CanFrame(0x200, b"again"))
            return CanFrame(0x200, b"again") in rig.heard["b"]

        await rig.until(is_back)


async def test_a_bus_that_is_down_loses_frames_that_are_counted() -> None:
    rig = Rig()
    async with routing(rig) as router:
        rig.buses["b"].is_down = True
        rig.nodes["a"].send(CanFrame(0x100, b"x"))
        await rig.until(lambda: bool(rig.heard["c"]))
        assert router.statistics()["free"].congested == 1
        rig.buses["b"].is_down = False
        rig.nodes["a"].send(CanFrame(0x100, b"y"))
        await rig.until(lambda: bool(rig.heard["b"]))


async def test_a_busy_bus_gets_its_frames_a_little_later() -> None:
    rig = Rig()
    async with routing(rig) as router:
        rig.buses["b"].max_queued = 3
        sent = [CanFrame(0x100, bytes([n])) for n in range(40)]
        for frame in sent:
            rig.nodes["a"].send(frame)
        await rig.until(lambda: len(rig.heard["b"]) == 40)
        assert rig.heard["b"] == sent
        assert router.statistics()["free"].congested == 0


async def test_kernel_always_refuses_to_start_without_can_gw() -> None:
    rig = Rig()
    router = CanRouter(
        table=TABLE, config=RoutingSection(kernel="always"), links=rig.open, interfaces={}, emit=rig.emit,
        health=HealthBoard(), clock=SystemClock(),
    )  # fmt: skip
    with pytest.raises(ConfigError, match="can-gw"):
        await router.run(task_status=anyio.TASK_STATUS_IGNORED)


def batch(bus: int, *ids: int) -> FrameBatch:
    frames = FrameBatch.empty(len(ids))
    frames.bus[:] = bus
    frames.can_id[:] = ids
    return frames


def test_an_identifier_of_another_bus_is_a_masquerade_unless_a_route_brought_it() -> None:
    table = RoutingTable(
        routes=TABLE.routes, origins=(Origin(name="a's", bus="a", ids=(IdRange(False, 0x100, 0x1FF),)),)
    )
    watch = OriginWatch(table, "abcd")
    watch.observe(batch(0, 0x100, 0x150), 0)
    watch.observe(batch(1, 0x100, 0x300), 0)  # a route leads to b
    watch.observe(batch(3, 0x100, 0x100, 0x150, 0x200), 0)
    assert [(r.bus, r.rule, r.can_id, r.count) for r in watch.take()] == [
        ("d", "a's", 0x100, 2),
        ("d", "a's", 0x150, 1),
    ]
    assert watch.take() == []
    assert {(n, False) for n in (0x100, 0x1FF)} <= set(watch.wanted()["d"])


async def test_masquerades_are_reported() -> None:
    rig = Rig()
    table = RoutingTable(origins=(Origin(name="a's", bus="a", ids=(IdRange(False, 0x100, 0x100),)),))
    watch = OriginWatch(table, "abc")
    async with routing(rig, table, watch):
        watch.observe(batch(2, *np.repeat(0x100, 5).tolist()), 0)
        await rig.until(lambda: bool(rig.events))
        assert (rig.events[0].source, rig.events[0].detail) == ("c", 'origin "a\'s": 100 x5')

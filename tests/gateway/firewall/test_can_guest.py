"""Routes between real interfaces under floods, in user space and in the kernel."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from gateway.can.link import CanFrame
from gateway.can.link_socketcan import SocketCanLink
from gateway.firewall.can_gw import KernelGateway
from gateway.firewall.can_router import CanRouter
from gateway.firewall.can_rules import IdRange, Route, RoutingSection, RoutingTable
from gateway.runtime import HealthBoard, SystemClock
from gateway.wire.batch import Priority
from gateway.wire.samples import Event

pytestmark = [pytest.mark.guest, pytest.mark.anyio]
INTERFACES = {"a": "vcan0", "b": "vcan1"}
FREE = Route(
    name="free", source="a", to=("b",), ids=(IdRange(False, 0x100, 0x10B), IdRange(True, 0x18FEF100, 0x18FEF100))
)
LIMITED = Route(name="limited", source="a", to=("b",), ids=(IdRange(False, 0x200, 0x200),), max_rate_hz=50.0, burst=10)
LAST = CanFrame(0x10B, b"the last")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Listener:
    """Everything that arrives on the second bus."""

    def __init__(self) -> None:
        self.link = SocketCanLink("vcan1")
        self.frames: list[CanFrame] = []
        self.link.hear(None, lambda frame: self.frames.append(frame._replace(timestamp_ns=0)))

    async def until_last(self, *sources: SocketCanLink) -> None:
        """Until ``LAST`` came through; it is sent again and again, since a full queue may lose it."""
        with anyio.fail_after(60):
            while LAST not in self.frames:
                for source in sources:
                    source.send(LAST)
                await anyio.sleep(0.01)


@asynccontextmanager
async def routing(kernel: str, *routes: Route) -> AsyncIterator[CanRouter]:
    async def emit(priority: Priority, event: Event) -> None:
        assert event.source == "a"

    router = CanRouter(
        table=RoutingTable(routes=routes),
        config=RoutingSection(kernel=kernel, mute_s=0),
        links=lambda bus: SocketCanLink(INTERFACES[bus]),
        interfaces=INTERFACES,
        emit=emit,
        health=HealthBoard(),
        clock=SystemClock(),
    )
    async with anyio.create_task_group() as tg:
        await tg.start(lambda *, task_status: router.run(task_status=task_status))
        yield router
        tg.cancel_scope.cancel()


async def flood(identifier: str, count: int) -> None:
    """can-utils' generator, as fast as the interface takes frames."""
    line = ["cangen", "vcan0", "-g", "0", "-n", str(count), "-I", identifier, "-L", "8", "-p", "10"]
    await anyio.run_process(line)


@pytest.mark.parametrize("kernel", ["never", "auto"])
async def test_only_routed_identifiers_reach_the_other_bus_whatever_floods(kernel: str) -> None:
    listener, source = Listener(), SocketCanLink("vcan0")
    async with routing(kernel, FREE, LIMITED) as router:
        assert router.in_kernel() == ({"free"} if kernel == "auto" else set())
        await flood("000", 3000)  # the highest priority, routed nowhere
        await flood("200", 3000)  # limited
        source.send(CanFrame(0x100, bytes(48), fd=True, brs=True))
        source.send(CanFrame(0x18FEF100, b"29 bit", extended=True))
        source.send(CanFrame(0x10C, b"beside"))
        await listener.until_last(source)
        counts = router.statistics()
    ids = [frame.can_id for frame in listener.frames]
    assert set(ids) <= {0x100, 0x18FEF100, 0x200, LAST.can_id}
    assert CanFrame(0x100, bytes(48), fd=True, brs=True) in listener.frames
    assert CanFrame(0x18FEF100, b"29 bit", extended=True) in listener.frames
    limited = counts["limited"]
    assert limited.heard == limited.forwarded + limited.refused_rate
    assert limited.refused_rate > 1000
    assert ids.count(0x200) == limited.forwarded - limited.congested
    passed = ids.count(0x100) + ids.count(0x18FEF100) + ids.count(LAST.can_id)
    free = counts["free"]
    assert passed == (free.kernel_handled if kernel == "auto" else free.forwarded)
    await listener.link.aclose()
    await source.aclose()


async def test_jobs_of_a_killed_gateway_are_replaced_and_an_orderly_stop_leaves_none() -> None:
    stale = ["cangw", "-A", "-s", "vcan0", "-d", "vcan1", "-e", "-f", "300:7FF"]
    await anyio.run_process(stale)
    kernel = KernelGateway()
    assert len(kernel.jobs()) == 1
    async with routing("always", FREE):
        masks = [job.job.mask & 0x7FF for job in kernel.jobs() if not job.job.can_id >> 31]
        assert sorted(masks) == [0x7F8, 0x7F8, 0x7FC, 0x7FC]  # 100-107, 108-10B; classic and FD
        assert all(job.job.can_id & 0x7FF != 0x300 for job in kernel.jobs())
    assert kernel.jobs() == []
    kernel.close()

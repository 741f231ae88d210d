"""Components start sinks first, stop sources first, and one failure stops the rest in order."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import TaskStatus

from gateway.runtime import Channel, ChannelClosed, OnFull, run_all
from gateway.runtime import component as component_module


class Source:
    name, drain_s, optional = "source", 0.0, False

    def __init__(self, out: Channel[int], story: list[str], fail_at: int | None = None) -> None:
        self.out, self.story, self.fail_at = out, story, fail_at

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        task_status.started()
        self.story.append("source up")
        try:
            for i in range(1_000_000):
                if i == self.fail_at:
                    raise OSError("bus gone")
                await self.out.send(i)
                await anyio.lowlevel.checkpoint()
        finally:
            self.story.append("source down")
            self.out.close()


class Sink:
    name, drain_s, optional = "sink", 5.0, False

    def __init__(self, inlet: Channel[int], story: list[str]) -> None:
        self.inlet, self.story, self.got = inlet, story, 0

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        task_status.started()
        self.story.append("sink up")
        try:
            while True:
                await self.inlet.receive()
                self.got += 1
        except ChannelClosed:
            self.story.append("sink down")


def test_stop_drains_what_sources_had_handed_over() -> None:
    async def scenario() -> None:
        channel: Channel[int] = Channel("c", 8, OnFull.WAIT)
        story: list[str] = []
        sink, stop = Sink(channel, story), anyio.Event()

        async def stop_later() -> None:
            while sink.got < 20:
                await anyio.lowlevel.checkpoint()
            stop.set()

        async with anyio.create_task_group() as tg:
            tg.start_soon(stop_later)
            await run_all([sink, Source(channel, story)], stop)
        assert story == ["sink up", "source up", "source down", "sink down"]
        assert sink.got == channel.statistics().sent

    anyio.run(scenario)


def test_failed_source_stops_the_whole_in_order_and_is_reported() -> None:
    async def scenario() -> None:
        channel: Channel[int] = Channel("c", 8, OnFull.WAIT)
        story: list[str] = []
        sink = Sink(channel, story)
        with pytest.raises(ExceptionGroup) as caught:
            await run_all([sink, Source(channel, story, fail_at=10)], anyio.Event())
        assert caught.group_contains(OSError, match="bus gone")
        assert story[-1] == "sink down"
        assert sink.got == 10

    anyio.run(scenario)


def test_stop_that_comes_while_starting_still_ends_sinks_by_their_sources() -> None:
    """Else a sink would wait out its whole drain time for a source that was never started."""

    async def scenario() -> list[str]:
        channel: Channel[int] = Channel("c", 8, OnFull.WAIT)
        story: list[str] = []
        stop = anyio.Event()
        stop.set()
        await run_all([Sink(channel, story), Source(channel, story)], stop)
        return story

    assert anyio.run(scenario) == ["sink up", "source up", "source down", "sink down"]


def test_component_that_fails_to_start_is_reported() -> None:
    class Broken:
        name, drain_s, optional = "broken", 0.0, False

        async def run(self, *, task_status: TaskStatus[None]) -> None:
            raise OSError("no such device")

    async def scenario() -> None:
        with pytest.raises(ExceptionGroup) as caught:
            await run_all([Broken()], anyio.Event())
        assert caught.group_contains(OSError, match="no such device")

    anyio.run(scenario)


def test_optional_component_is_restarted_and_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(component_module, "RESTART_FIRST_S", 0.001)

    class Flaky:
        name, drain_s, optional = "flaky", 0.0, True
        starts = 0

        def __init__(self, stop: anyio.Event) -> None:
            self.stop = stop

        async def run(self, *, task_status: TaskStatus[None]) -> None:
            task_status.started()
            self.starts += 1
            if self.starts == 3:
                self.stop.set()
                await anyio.sleep_forever()
            raise ValueError("no model")

    async def scenario() -> int:
        stop = anyio.Event()
        flaky = Flaky(stop)
        await run_all([flaky], stop)
        return flaky.starts

    assert anyio.run(scenario) == 3

"""What software on trial must show, and for how long."""

from __future__ import annotations

import sys

import anyio
import anyio.lowlevel
import pytest

from gateway.errors import TransportError
from gateway.runtime import ComponentHealth, HealthBoard
from gateway.update.health import AnswerCheck, BusCheck, CommandCheck, ComponentsCheck, HealthCore, HealthWatch
from tests.gateway.update.world import Ticking

S = 1_000_000_000


def test_it_must_be_well_for_some_time() -> None:
    core = HealthCore(60, 10)
    assert not core.feed(0, 1 * S, "").is_over
    assert not core.feed(0, 10 * S, "").is_over
    verdict = core.feed(0, 11 * S, "")
    assert verdict.is_over
    assert not verdict.missing


def test_a_relapse_starts_the_time_anew() -> None:
    core = HealthCore(60, 10)
    core.feed(0, 1 * S, "")
    core.feed(0, 9 * S, "bus")
    core.feed(0, 10 * S, "")
    assert not core.feed(0, 19 * S, "").is_over
    assert core.feed(0, 20 * S, "").is_over


def test_the_time_for_it_ends() -> None:
    core = HealthCore(60, 10)
    assert not core.feed(0, 59 * S, "bus").is_over
    verdict = core.feed(0, 60 * S, "bus")
    assert verdict.is_over
    assert verdict.missing == "bus"


def test_what_became_well_at_the_last_moment_gets_its_steady_time_and_no_more() -> None:
    core = HealthCore(60, 10)
    assert not core.feed(0, 59 * S, "").is_over
    assert core.feed(0, 69 * S, "") == core.feed(0, 69 * S, "")
    assert not core.feed(0, 69 * S, "").missing
    flapping = HealthCore(60, 10)
    for second in range(59, 70):
        verdict = flapping.feed(0, second * S, "" if second % 2 else "bus")
        if verdict.is_over:
            break
    assert verdict.is_over
    assert verdict.missing


class Fails:
    name = "ecu brake"

    async def check(self) -> str:
        await anyio.lowlevel.checkpoint()
        raise TransportError("bus off")


def test_a_check_that_fails_is_not_well() -> None:
    watch = HealthWatch([Fails()], within_s=60, steady_s=0, clock=Ticking())
    verdict = anyio.run(watch.look, 0, "and this")
    assert verdict.missing == "and this; ecu brake: bus off"


def test_buses_need_frames() -> None:
    silent: dict[str, float | None] = {"can0": None}
    check = BusCheck("can0", silent.get)
    assert anyio.run(check.check) == "no frame yet"
    silent["can0"] = 60.0
    assert "60 s" in anyio.run(check.check)
    silent["can0"] = 0.1
    assert anyio.run(check.check) == ""


@pytest.mark.parametrize("answers", [True, False])
def test_somebody_answers(answers: bool) -> None:
    async def ask() -> bool:
        await anyio.lowlevel.checkpoint()
        return answers

    assert (anyio.run(AnswerCheck("cloud", ask).check) == "") is answers


def test_no_component_may_have_failed() -> None:
    board, clock = HealthBoard(), Ticking()
    board.register("reader", 0, limit_s=10)
    board.register("update", 0, limit_s=None)
    check = ComponentsCheck(board, clock, ignored=("update",))
    assert "reader starting" in anyio.run(check.check)
    board.report("reader", ComponentHealth.DEGRADED, "one bus is off")
    board.report("update", ComponentHealth.FAILED, "no cloud")
    assert anyio.run(check.check) == ""
    clock.go_on(60)
    assert "reader is stuck" in anyio.run(check.check)
    board.beat("reader", clock.monotonic_ns())
    board.report("reader", ComponentHealth.FAILED, "gone")
    assert "reader failed: gone" in anyio.run(check.check)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("pass", ""),
        ("print('no GPS'); print('more'); raise SystemExit(3)", "no GPS"),
        ("raise SystemExit(3)", "ended with status 3"),
        ("print('much'); print('x' * 1_000_000); raise SystemExit(1)", "much"),
    ],
)
def test_the_integrators_command(script: str, said: str) -> None:
    text = anyio.run(CommandCheck([sys.executable, "-c", script]).check)
    assert text.endswith(said)
    assert bool(text) is bool(said)


def test_a_command_that_hangs_is_killed() -> None:
    script = "import time; time.sleep(1000)"
    text = anyio.run(CommandCheck([sys.executable, "-c", script], timeout_s=0.2).check)
    assert "status -9" in text


def test_a_command_that_is_not_there_is_told() -> None:
    assert "No such file" in anyio.run(CommandCheck(["/nothing/here"]).check)

"""Any order of requests, answers, silences, failures and departures leaves a router that serves the next tester."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.diag.ports import TargetBusyError, TooLongError, UnreachableError
from gateway.diag.router_model import RouterLimits
from gateway.diag.router_session import Session
from gateway.errors import TransportError
from gateway.firewall.state import VehicleFacts
from gateway.uds.channel import ChannelClosedError
from tests.gateway.diag.router_bench import (
    ALL,
    BATTERY,
    GATEWAY,
    GEARBOX,
    MOTOR,
    OTHER,
    POLLER,
    WORKSHOP,
    Bench,
    ask,
    routing,
    until,
)
from tests.support import LONG

QUICK = RouterLimits(
    busy_after_ms=2, p2_margin_ms=0, housekeeping_ms=2, reopen_first_ms=1, reopen_max_ms=2, accept_within_ms=5,
    max_queued=3, functional_ms=5, late_after_ms=5, inbox_pdus=8,
)  # fmt: skip
REQUESTS = ["22F190", "1003", "1083", "1001", "1002", "3E00", "3E80", "2701", "27021122", "2EF19041", "3101FF00", "",
            "34004411112222333344445555", "3601AA", "37", "FF", "7F", "2A0101", "14FFFFFF", "1101"]  # fmt: skip
SPOKEN = [
    "7F2278",
    "7F1078",
    "62F190",
    "5003003201F4",
    "5001",
    "7F2735",
    "6702",
    "74",
    "00",
    "C6",
    "7F",
    "6A",
    "7F2221",
]
STEP = st.tuples(st.integers(0, 9), st.integers(0, 3), st.integers(0, 30))


async def do(bench: Bench, sessions: list[Session], step: tuple[int, int, int]) -> None:
    what, who, which = step
    tester = (WORKSHOP, OTHER, POLLER, WORKSHOP)[who]
    session = sessions[who]
    target = (MOTOR, GEARBOX, BATTERY, GATEWAY, ALL)[which % 5]
    ecu = list(bench.ecus.values())[which % 3]
    if what <= 3:
        with suppress(UnreachableError, TargetBusyError, TooLongError):
            await session.send(target, bytes.fromhex(REQUESTS[which % len(REQUESTS)]))
    elif what == 4:
        ecu.say(SPOKEN[which % len(SPOKEN)])
    elif what == 5:
        ecu.script = (ecu.obey, lambda pdu: [], lambda pdu: [bytes([0x7F, pdu[0], 0x78])])[which % 3]
    elif what == 6:
        ecu.say(TransportError("timeout_cr") if which % 2 else ChannelClosedError("gone"))
    elif what == 7:
        ecu.is_down = not ecu.is_down
    elif what == 8:
        await session.aclose()
        sessions[who] = bench.session(tester)
    else:
        bench.vehicle = VehicleFacts(is_standing=bool(which % 2))
    await anyio.sleep(0.003 if which % 7 == 0 else 0)


async def campaign(steps: list[tuple[int, int, int]]) -> None:
    async with routing(QUICK) as bench:
        sessions: list[Session] = [bench.session(t) for t in (WORKSHOP, OTHER, POLLER, WORKSHOP)]
        for step in steps:
            await do(bench, sessions, step)
        for session in sessions:
            await session.aclose()
        for ecu in bench.ecus.values():
            ecu.is_down, ecu.script = False, ecu.obey
            while not ecu._said.empty():
                ecu._said.get_nowait()
        await anyio.sleep(0.02)  # what was heard before is worked through
        await until(lambda: all(t.is_reachable for t in bench.router.statistics().targets.values()))
        await until(lambda: not bench.firewall.statistics().holds)
        bench.vehicle = VehicleFacts(is_standing=True)
        await until(lambda: not any(t.is_busy or t.queue for t in bench.router._targets.values()))
        fresh = bench.session(OTHER)
        for target in (MOTOR, GEARBOX, BATTERY, GATEWAY):
            assert (await ask(fresh, target, "2EF19041")).startswith("6EF190")
        assert bench.router.statistics().sessions == 1


@pytest.mark.timeout(1800 if LONG else 120)
@settings(max_examples=400 if LONG else 25, deadline=None)
@given(steps=st.lists(STEP, max_size=40))
def test_any_order_leaves_a_router_that_serves_the_next_tester(steps: list[tuple[int, int, int]]) -> None:
    asyncio.run(campaign(steps))


@pytest.mark.timeout(1800 if LONG else 120)
@pytest.mark.parametrize("seed", range(20 if LONG else 2))
def test_a_long_day(seed: int) -> None:
    chance = random.Random(seed)
    asyncio.run(campaign([(chance.randrange(10), chance.randrange(4), chance.randrange(31)) for _ in range(1000)]))

"""An interface that goes down and comes back: the other buses go on, and so does its own ECU afterwards."""

from __future__ import annotations

import subprocess

import pytest

from tests.chain.diagnostics.car import Car, channel_of
from tests.chain.diagnostics.testers import by_doip, reads

pytestmark = [pytest.mark.guest, pytest.mark.slow, pytest.mark.timeout(300)]


def test_a_bus_that_is_off_comes_back(workshop: Car) -> None:
    def set_link(state: str) -> None:
        subprocess.run(["ip", "link", "set", channel_of("auxiliary"), state], check=True)

    set_link("down")
    try:
        with by_doip("telematics", 0x0E91) as tester:
            assert not reads(tester)
        with by_doip("motor", 0x0E93) as other:
            assert reads(other)
    finally:
        set_link("up")
    with by_doip("telematics", 0x0E92) as tester:
        workshop.simulator.wait("the bus", lambda: reads(tester), 60)

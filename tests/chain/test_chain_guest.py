"""Simulator → vcan → gateway → cloud, with kills and cuts: every frame and every item has a place, exactly."""

from __future__ import annotations

from pathlib import Path

import pytest

from outrider.demo.result import Outcome
from tests.chain.rig import rig

pytestmark = [pytest.mark.guest, pytest.mark.slow, pytest.mark.timeout(400)]


def check_everything_has_a_place(outcome: Outcome) -> None:
    """The identities hold, every frame sent was received or counted as lost, every stored item is in the cloud."""
    assert outcome.ledger.unexplained == 0
    assert {bus.bus: bus.received for bus in outcome.ledger.buses} == dict(outcome.sent)
    stored = sum(s.stored for s in outcome.ledger.streams)
    assert stored == sum(s.acknowledged for s in outcome.ledger.streams) == outcome.cloud_items
    assert outcome.cloud_items > 0


def test_gateway_killed_in_the_drive_loses_what_it_counts_and_no_more(tmp_path: Path) -> None:
    with rig(tmp_path) as chain:
        vehicle = chain.vehicle(chain.vcan_buses())
        vehicle.start()
        simulator = chain.drive(16)
        for kill in range(2):
            chain.wait_for_frames(vehicle, 3000 * (kill + 1))
            chain.kill(vehicle.process)
            vehicle.start()
        assert simulator.wait(180) == 0
        outcome = chain.finish(vehicle, chain.sent())
        check_everything_has_a_place(outcome)
        assert outcome.ledger.crashes == 2
        lost = sum(bus.lost for bus in outcome.ledger.buses)
        assert 0 < lost < sum(outcome.sent.values())


def test_network_cuts_and_a_killed_cloud_delay_and_lose_nothing(tmp_path: Path) -> None:
    """Every batch is held once, although some were stored and never answered."""
    with rig(tmp_path) as chain:
        vehicle = chain.vehicle(chain.vcan_buses())
        vehicle.start()
        simulator = chain.drive(16)
        for cut in range(2):
            chain.wait_for_frames(vehicle, 2000 + 3000 * cut)
            chain.proxy.cut()
            chain.wait_for_frames(vehicle, 3500 + 3000 * cut)
            chain.proxy.mend()
        chain.wait_for_frames(vehicle, 8000)
        chain.kill(chain.cloud.process)
        chain.wait_for_frames(vehicle, 10_000)
        chain.cloud.start()
        assert simulator.wait(180) == 0
        outcome = chain.finish(vehicle, chain.sent())
        check_everything_has_a_place(outcome)
        assert outcome.complaints() == []

"""The vehicle's frames seen by the project's own receiving side, which was written apart from it."""

from __future__ import annotations

import numpy as np
import pytest

from dbc.decode import Decoder, FrameStatus
from dbc.encode import Encoder
from dbc.integrity import Verifier, rules_of
from dbc.manifest import Manifest
from simulator.actuation import command_payload
from simulator.faults import parse_fault
from simulator.plan import cyclic_messages
from tests.simulator.conftest import MakeSimulation

SECOND = 1_000_000_000


def test_every_frame_is_decoded_whole_the_wildcard_sender_included(simulate: MakeSimulation) -> None:
    simulation = simulate("motorway")
    frames = simulation.advance(3 * SECOND)
    decoded = Decoder(simulation.manifest).decode(frames)
    assert set(decoded.status.tolist()) == {FrameStatus.DECODED}
    tire = next(i for i, m in enumerate(simulation.manifest.messages) if m.name == "TIRE")
    assert np.count_nonzero(decoded.message == tire) == 12
    sent = {s for i in cyclic_messages(simulation.manifest) for s in _signals(simulation.manifest, i)}
    assert set(decoded.signal.tolist()) == sent, "each signal of each cyclic message appears within three seconds"


def _signals(manifest: Manifest, message: int) -> range:
    first = manifest.first_signal[message]
    count = len(manifest.messages[message].signals)
    return range(first, first + count)


def test_an_unhurt_vehicle_has_no_wrong_checksum_and_no_counter_jump(simulate: MakeSimulation) -> None:
    simulation = simulate("city")
    decoder, verifier = Decoder(simulation.manifest), Verifier(rules_of(simulation.manifest))
    judged = 0
    for _ in range(30):
        frames = simulation.advance(100_000_000)
        message = decoder.decode(frames).message
        verdict = verifier.check(frames, message)
        assert verdict.checksum_ok.all()
        assert verdict.counter_ok.all()
        judged += len(frames)
    assert judged == 3 * 1916


@pytest.mark.parametrize(
    ("fault", "checksums", "counters"),
    [
        ("bad_checksum:powertrain.InverterStatus@1+1", 100, 1),  # counting goes on unseen: one jump after it
        ("counter_frozen:battery.PackStatus@1+1", 0, 101),  # 100 that stand, one that jumps when it lets go
        ("missing:chassis.VehicleDynamics@1+0.5", 0, 1),
    ],
)
def test_faults_are_found_by_the_receivers_rules(
    simulate: MakeSimulation, fault: str, checksums: int, counters: int
) -> None:
    simulation = simulate("city")
    simulation.faults.add(parse_fault(fault))
    frames = simulation.advance(3 * SECOND)
    verdict = Verifier(rules_of(simulation.manifest)).check(frames, Decoder(simulation.manifest).decode(frames).message)
    assert np.count_nonzero(~verdict.checksum_ok) == checksums
    assert np.count_nonzero(~verdict.counter_ok) == counters


def test_a_command_of_the_projects_encoder_is_a_sound_one(simulate: MakeSimulation) -> None:
    simulation = simulate("parked")
    message = next(m for m in simulation.manifest.messages if m.name == "ClimateCommand")
    values = {"ClimateRequest": 1, "ClimateSetpoint": 22.5, "ClimateDuration": 10}
    payload = bytearray(Encoder(simulation.manifest).encode("ClimateCommand", {**values, "Counter": 4}))
    assert bytes(payload)[1:] == command_payload(message, values, 4)[1:]

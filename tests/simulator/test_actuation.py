"""Actuator messages act, and the status signals on the bus prove it; what is unsound or unsafe changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from simulator.actuation import command_payload
from simulator.buses import BODY
from simulator.generator import Simulation
from simulator.model.body import ACTUATORS, Alarm, Result
from tests.simulator.conftest import MakeSimulation
from tests.simulator.support import database, decoded

SECOND = 1_000_000_000
PARKED = """
name = "parked"
[[phases]]
activity = "park"
duration_s = 1000
"""


@pytest.fixture
def parked(simulate: MakeSimulation) -> Simulation:
    simulation = simulate(PARKED)
    simulation.advance(SECOND)
    return simulation


def send(simulation: Simulation, name: str, counter: int = 1, **values: float) -> Result | None:
    message = next(m for m in simulation.manifest.messages if m.name == name)
    return simulation.actuators.receive(BODY, message.can_id, command_payload(message, values, counter))


def last(simulation: Simulation, name: str, seconds: float = 1.0) -> dict[str, Any]:
    frames = simulation.advance(round(seconds * 100) * 10_000_000)
    return dict(list(decoded(frames, f"body.{name}"))[-1][1])


def test_a_command_as_the_dbc_says_it_is_understood(parked: Simulation) -> None:
    """The payload made by cantools, so that our own encoder cannot hide a misreading."""
    ours = next(m for m in parked.manifest.messages if m.name == "LockCommand")
    values = {"Checksum": 0, "Counter": 3, "LockRequest": 2, "LockScope": 0}
    theirs = bytearray(database("body").encode_message("LockCommand", values))
    expected = command_payload(ours, {"LockRequest": 2, "LockScope": 0}, 3)
    assert theirs[1:] == expected[1:]
    assert parked.actuators.receive(BODY, ours.can_id, expected) == Result.ACCEPTED


def test_unlock_and_lock(parked: Simulation) -> None:
    assert send(parked, "LockCommand", LockRequest=2, LockScope=0) == Result.ACCEPTED
    status = last(parked, "DoorStatus")
    assert {status[f"Lock{door}"] for door in ("FrontLeft", "RearRight", "Tailgate")} == {0}
    assert (status["LockResult"], status["LockCommandsDone"]) == (1, 1)
    assert last(parked, "Alarm")["AlarmState"] == Alarm.DISARMED
    assert send(parked, "LockCommand", 2, LockRequest=1, LockScope=1) == Result.ACCEPTED
    status = last(parked, "DoorStatus")
    assert (status["LockFrontLeft"], status["LockFrontRight"]) == (1, 0)


def test_locks_take_their_time(parked: Simulation) -> None:
    send(parked, "LockCommand", LockRequest=2, LockScope=0)
    frames = parked.advance(SECOND)
    states = [values["LockFrontLeft"] for _, values in decoded(frames, "body.DoorStatus")]
    assert states[:2] == [2, 2]
    assert states[-1] == 0


def test_horn_sounds_for_as_long_as_asked(parked: Simulation) -> None:
    assert send(parked, "HornCommand", HornRequest=1, HornDuration=1.0) == Result.ACCEPTED
    frames = parked.advance(2 * SECOND)
    active = [values["HornActive"] for _, values in decoded(frames, "body.WiperHorn")]
    assert 9 <= sum(active) <= 11
    assert active[-1] == 0
    assert send(parked, "HornCommand", 2, HornRequest=1, HornDuration=0) == Result.REFUSED


def test_lights_flash_and_burn(parked: Simulation) -> None:
    assert send(parked, "LightCommand", LightRequest=1, LightDuration=3) == Result.ACCEPTED
    frames = parked.advance(3 * SECOND)
    lit = [values["IndicatorLeft"] for _, values in decoded(frames, "body.LightStatus")]
    assert {0, 1} == set(lit)
    assert send(parked, "LightCommand", 2, LightRequest=2, LightDuration=10) == Result.ACCEPTED
    assert last(parked, "LightStatus")["LowBeam"] == 1
    assert send(parked, "LightCommand", 3, LightRequest=3, LightDuration=0) == Result.ACCEPTED
    assert last(parked, "LightStatus")["LowBeam"] == 0
    assert send(parked, "LightCommand", 4, LightRequest=7, LightDuration=1) == Result.REFUSED


def test_climate_warms_the_parked_car_and_ends(parked: Simulation) -> None:
    assert send(parked, "ClimateCommand", ClimateRequest=1, ClimateSetpoint=24, ClimateDuration=1) == Result.ACCEPTED
    before = last(parked, "CabinEnvironment")["CabinTemperature"]
    status = last(parked, "ClimateStatus", 10)
    assert (status["ClimateOn"], status["SetpointLeft"]) == (1, 24)
    assert status["HeaterPower"] > 1000
    assert last(parked, "CabinEnvironment")["CabinTemperature"] > before + 0.2
    assert parked.vehicle.battery.current_a > 2
    parked.advance(50 * SECOND)
    assert last(parked, "ClimateStatus")["ClimateOn"] == 0
    assert send(parked, "ClimateCommand", 2, ClimateRequest=1, ClimateSetpoint=90, ClimateDuration=1) == Result.REFUSED


def test_valet_mode_holds_the_tailgate_and_the_speed(simulate: MakeSimulation) -> None:
    simulation = simulate("city")
    simulation.advance(SECOND)
    assert send(simulation, "ValetCommand", ValetRequest=1, ValetSpeedRequest=20) == Result.ACCEPTED
    status = last(simulation, "ValetStatus", 28)
    assert (status["ValetActive"], status["TailgateInhibited"], status["ValetSpeedLimit"]) == (1, 1, 20)
    assert status["ValetDistance"] > 0
    assert 5 < simulation.vehicle.drive.speed_m_s * 3.6 < 22
    assert send(simulation, "LockCommand", LockRequest=2, LockScope=2) == Result.REFUSED
    assert send(simulation, "ValetCommand", 2, ValetRequest=2) == Result.ACCEPTED
    assert last(simulation, "ValetStatus")["ValetActive"] == 0


def test_remote_start_needs_a_parked_closed_car(parked: Simulation, simulate: MakeSimulation) -> None:
    assert send(parked, "StartCommand", StartRequest=1, StartDuration=10) == Result.ACCEPTED
    status = last(parked, "RemoteStartStatus")
    assert (status["RemoteStartActive"], status["StartInhibit"]) == (1, 0)
    assert 590 < status["RemoteStartRemaining"] <= 600
    assert parked.vehicle.contactors
    assert not parked.vehicle.ready
    assert send(parked, "StartCommand", 2, StartRequest=2) == Result.ACCEPTED
    assert last(parked, "RemoteStartStatus")["RemoteStartActive"] == 0
    parked.vehicle.body.doors[2] = True
    assert send(parked, "StartCommand", 3, StartRequest=1, StartDuration=10) == Result.REFUSED
    assert last(parked, "RemoteStartStatus")["StartInhibit"] == 2
    moving = simulate("motorway")
    moving.advance(5 * SECOND)
    assert send(moving, "StartCommand", StartRequest=1, StartDuration=10) == Result.REFUSED
    assert last(moving, "RemoteStartStatus")["StartInhibit"] == 1


def test_a_moving_car_does_not_unlock(simulate: MakeSimulation) -> None:
    moving = simulate("motorway")
    moving.advance(10 * SECOND)
    assert moving.vehicle.drive.speed_m_s > 5
    assert send(moving, "LockCommand", LockRequest=2, LockScope=0) == Result.REFUSED
    status = last(moving, "DoorStatus")
    assert (status["LockFrontLeft"], status["LockResult"]) == (1, 2)


def test_a_wrong_checksum_a_seen_counter_and_a_short_frame_move_nothing(parked: Simulation) -> None:
    message = next(m for m in parked.manifest.messages if m.name == "LockCommand")
    payload = command_payload(message, {"LockRequest": 2, "LockScope": 0}, 5)
    bad = bytes([payload[0] ^ 1]) + payload[1:]
    assert parked.actuators.receive(BODY, message.can_id, bad) == Result.BAD_CHECKSUM
    assert parked.actuators.receive(BODY, message.can_id, payload[:3]) == Result.BAD_CHECKSUM
    assert last(parked, "DoorStatus")["LockResult"] == Result.BAD_CHECKSUM
    assert parked.vehicle.body.locks == [1] * 5
    assert parked.actuators.receive(BODY, message.can_id, payload) == Result.ACCEPTED
    assert parked.actuators.receive(BODY, message.can_id, payload) == Result.REPEATED
    assert (parked.actuators.accepted, parked.actuators.refused) == (1, 3)


def test_other_identifiers_and_buses_are_none_of_its_business(parked: Simulation) -> None:
    assert parked.actuators.receive(BODY, 0x5FF, bytes(4)) is None
    assert parked.actuators.receive(0, 0x600, bytes(4)) is None
    assert len(parked.actuators.identifiers[BODY]) == len(ACTUATORS)


@given(st.sampled_from(range(0x600, 0x606)), st.binary(max_size=8), st.booleans())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_frame_is_answered_and_the_car_goes_on(
    parked: Simulation, can_id: int, payload: bytes, sound: bool
) -> None:
    message = next(m for m in parked.manifest.messages if m.bus == BODY and m.can_id == can_id)
    if sound:
        raw = int.from_bytes(payload[:3].ljust(3, b"\0"), "little")
        values = {
            s.name: (raw >> (s.start - 8) & (1 << s.length) - 1) * s.scale for s in message.signals if s.start >= 8
        }
        counter = int(values.pop("Counter"))
        payload = command_payload(message, values, counter)
    assert parked.actuators.receive(BODY, can_id, payload) in set(Result)
    assert len(parked.advance(10_000_000)) > 10


def test_a_command_out_of_range_cannot_be_made(parked: Simulation) -> None:
    message = next(m for m in parked.manifest.messages if m.name == "HornCommand")
    with pytest.raises(ValueError, match="out of range"):
        command_payload(message, {"HornDuration": 100.0}, 1)
    with pytest.raises(ValueError, match="no signal 'Volume'"):
        command_payload(message, {"Volume": 1}, 1)

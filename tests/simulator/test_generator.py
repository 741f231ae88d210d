"""Frames over time: determinism, cycle times, order, and that nothing depends on how time is cut."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dbc.frames import FrameBatch
from simulator.buses import BUS_NAMES, BUSES
from simulator.load import frame_seconds
from simulator.plan import cyclic_messages
from simulator.sinks import LogSink
from tests.simulator.conftest import MakeSimulation
from tests.simulator.support import decoded, message_of

SECOND = 1_000_000_000


def content(frames: FrameBatch) -> bytes:
    columns = (frames.timestamp_ns, frames.bus, frames.can_id, frames.flags, frames.length, frames.data)
    return b"".join(np.ascontiguousarray(column).tobytes() for column in columns)


def recorded(simulate: MakeSimulation, path: Path, seconds: int, seed: int) -> bytes:
    simulation = simulate("fault", seed=seed)
    sink = LogSink(path, BUS_NAMES)
    for _ in range(seconds):
        sink.send(simulation.advance(SECOND))
    sink.close()
    return path.read_bytes()


def test_the_log_of_a_seed_is_the_same_to_the_byte(simulate: MakeSimulation, tmp_path: Path) -> None:
    one = recorded(simulate, tmp_path / "a.log", 3, 7)
    assert one == recorded(simulate, tmp_path / "b.log", 3, 7)
    assert one != recorded(simulate, tmp_path / "c.log", 3, 8)
    assert hashlib.sha256(one).hexdigest() != hashlib.sha256(b"").hexdigest()
    assert one.count(b"\n") == 3 * 1916


@given(st.lists(st.sampled_from([10, 20, 30, 70, 500]), min_size=1, max_size=12))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_frames_do_not_depend_on_how_time_is_cut(simulate: MakeSimulation, cuts: list[int]) -> None:
    text = """
name = "cut"
[[phases]]
activity = "drive"
on_the_road = true
duration_s = 100
[[faults]]
kind = "stuck"
target = "chassis.VehicleDynamics.YawRate"
at_s = 0.1
duration_s = 0.3
[[faults]]
kind = "flood"
target = "body"
at_s = 0.05
duration_s = 0.1
[[faults]]
kind = "bus_off"
target = "chassis"
at_s = 0.2
duration_s = 0.1
"""
    whole, pieces = simulate(text), simulate(text)
    at_once = whole.advance(sum(cuts) * 1_000_000)
    cut = FrameBatch.concatenate([pieces.advance(ms * 1_000_000) for ms in cuts])
    assert content(at_once) == content(cut)


def test_every_message_keeps_its_cycle_time_with_a_little_jitter(simulate: MakeSimulation) -> None:
    simulation = simulate("motorway")
    frames = simulation.advance(10 * SECOND)
    for number in cyclic_messages(simulation.manifest):
        message = simulation.manifest.messages[number]
        if message.name == "TIRE":
            continue
        mine = frames.timestamp_ns[(frames.bus == message.bus) & (frames.can_id == message.can_id)]
        assert len(mine) == pytest.approx(10_000 / (message.cycle_ms or 1), abs=1)
        gaps = np.diff(mine) / 1e6
        assert gaps == pytest.approx(message.cycle_ms, abs=1.2)
        assert len(gaps) < 5 or np.ptp(gaps) > 0, "jitter"


def test_frames_are_in_order_and_do_not_overlap_on_a_bus(simulate: MakeSimulation) -> None:
    frames = simulate("city").advance(2 * SECOND)
    assert np.all(np.diff(frames.timestamp_ns) >= 0)
    for index, bus in enumerate(BUSES):
        mine = frames.take(frames.bus == index)
        took = [
            frame_seconds(
                int(length),
                extended=index == 4,
                fd=bus.fd,
                bitrate_bps=bus.bitrate_bps,
                data_bitrate_bps=bus.data_bitrate_bps,
            )
            for length in mine.length
        ]
        gaps = np.diff(mine.timestamp_ns) / 1e9
        assert np.all(gaps >= np.array(took[:-1]) * 0.95), bus.name


def test_stamps_begin_at_the_epoch(simulate: MakeSimulation) -> None:
    simulation = simulate("city")
    frames = simulation.advance(SECOND)
    assert frames.timestamp_ns[0] >= simulation.epoch_ns
    assert frames.timestamp_ns[-1] < simulation.epoch_ns + SECOND
    unix = [values["UnixTime"] for _, values in decoded(frames, "chassis.GnssTime")]
    assert unix == [simulation.epoch_ns // SECOND]


def test_every_frame_is_known_to_cantools_and_every_message_is_sent(simulate: MakeSimulation) -> None:
    simulation = simulate("motorway")
    frames = simulation.advance(2 * SECOND)
    seen = set()
    for bus, can_id in sorted({(int(b), int(c)) for b, c in zip(frames.bus, frames.can_id, strict=True)}):
        seen.add(f"{BUS_NAMES[bus]}.{message_of(BUS_NAMES[bus], can_id).name}")
    messages = simulation.manifest.messages
    expected = {f"{BUS_NAMES[messages[i].bus]}.{messages[i].name}" for i in cyclic_messages(simulation.manifest)}
    assert seen == expected


def test_counters_count_each_frame(simulate: MakeSimulation) -> None:
    frames = simulate("city").advance(3 * SECOND)
    counters = [values["Counter"] for _, values in decoded(frames, "powertrain.InverterStatus")]
    assert len(counters) == 300
    assert all((b - a) % 16 == 1 for a, b in itertools.pairwise(counters))


def test_multiplexed_messages_send_each_part_in_turn(simulate: MakeSimulation) -> None:
    frames = simulate("city").advance(6 * SECOND)
    parts = [dict(values) for _, values in decoded(frames, "powertrain.VehicleIdentification")]
    vin = b"".join(int(parts[i][f"VinPart{i}"]).to_bytes(6, "big") for i in range(3))
    assert vin == b"0UTR1DER0NE000001 "
    pages = [(v["Page"], v.get("LifetimeItem"), v.get("HistogramKind")) for _, v in decoded(frames, "battery.Lifetime")]
    assert pages[:5] == [(0, 0, None), (0, 1, None), (1, None, 0), (1, None, 1), (2, None, None)]
    groups = [values["Group"] for _, values in decoded(frames, "battery.CellVoltages")]
    assert groups[:5] == [0, 1, 2, 3, 0]


def test_a_tire_message_for_any_sender_comes_from_the_tyre_monitor(simulate: MakeSimulation) -> None:
    frames = simulate("city").advance(3 * SECOND)
    locations = [values["TireLocation"] for _, values in decoded(frames, "auxiliary.TIRE")]
    assert locations[:4] == [0x00, 0x01, 0x10, 0x11]
    assert not np.any(frames.can_id == 0x18FEF4FE)


@pytest.mark.parametrize("duration", [0, -10_000_000, 5_000_000, 10_000_001])
def test_time_goes_in_steps_of_ten_milliseconds(simulate: MakeSimulation, duration: int) -> None:
    with pytest.raises(ValueError, match="multiple"):
        simulate("city").advance(duration)


def test_a_sleeping_bus_is_silent_and_the_others_are_not(simulate: MakeSimulation) -> None:
    simulation = simulate("parked")
    simulation.advance(20 * SECOND)
    frames = simulation.advance(SECOND)
    assert set(frames.bus.tolist()) == {BUS_NAMES.index("body")}

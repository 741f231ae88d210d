"""The flat encoder and the checksums against cantools, dbc.decode's neighbour dbc.integrity, and textbook vectors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dbc.manifest import Kind, Manifest, Signal
from simulator.encoder import FlatEncoder, expand
from simulator.generator import Simulation
from simulator.plan import FROM_CONSTANT, FROM_COUNTER, Plan, PlanError, build_plan, split
from simulator.protection import CRCS
from tests.simulator.conftest import MakeSimulation
from tests.simulator.support import database


@pytest.fixture(scope="module")
def simulation(manifest: Manifest) -> Simulation:
    from simulator.scenario import load_scenario

    scenario = load_scenario("city")
    return Simulation(manifest, scenario, seed=1, epoch_ns=0)


def random_readings(plan: Plan, width: int, rows: int, seed: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Readings in which each column lies in the raw range of the signal that reads it, or a little outside."""
    rng = np.random.default_rng(seed)
    readings = np.zeros((rows, width))
    e = plan.entries
    for i in np.flatnonzero(e.column >= 0).tolist():
        low, high = e.lowest[i], e.highest[i]
        if e.kind[i] >= Kind.FLOAT32:
            readings[:, e.column[i]] = rng.normal(0, 1e3, rows)
        else:
            raw = rng.integers(int(low), int(high) + 1, rows, dtype=np.int64, endpoint=False)
            readings[:, e.column[i]] = raw * e.scale[i] + e.offset[i]
    return readings


@given(st.integers(0, 2**32), st.integers(1, 6))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_cantools_decodes_what_the_flat_encoder_packed(simulation: Simulation, seed: int, rows: int) -> None:
    """Every layout (multiplexed, FD, J1939, floats, both byte orders) at once, random raw values."""
    plan = simulation.plan
    width = 1 + int(plan.entries.column.max())
    readings = random_readings(plan, width, rows, seed)
    layout = np.tile(np.arange(len(plan.layouts.message)), rows)
    row = np.repeat(np.arange(rows), len(plan.layouts.message))
    counter = np.random.default_rng(seed).integers(0, 100_000, len(layout))
    encoder = FlatEncoder(plan)
    pairs, entry, begin = encoder.pairs(layout, row, readings)
    data = encoder.pack(layout, counter, pairs, entry, begin)
    for i in range(len(layout)):
        message = plan.manifest.messages[int(plan.layouts.message[layout[i]])]
        theirs = database(plan.manifest.buses[message.bus]).get_message_by_name(message.name)
        assert not data[i, message.length :].any()
        values = theirs.decode(data[i, : message.length].tobytes(), decode_choices=False, scaling=False)
        first, count = int(plan.layouts.first_entry[layout[i]]), int(plan.layouts.entries[layout[i]])
        assert len(values) == count
        for k in range(first, first + count):
            signal = plan.manifest.signals[int(plan.entries.signal[k])]
            column = int(plan.entries.column[k])
            if column == FROM_COUNTER:
                expected: float = int(counter[i]) % (1 << signal.length)
            elif column == FROM_CONSTANT:
                expected = int(plan.entries.constant[k])
            elif column < 0:
                expected = 0
            elif signal.kind == Kind.FLOAT32:
                expected = float(np.float32(readings[row[i], column]))
            elif signal.kind == Kind.FLOAT64:
                expected = float(readings[row[i], column])
            else:
                expected = round((readings[row[i], column] - signal.offset) / signal.scale)
            assert values[signal.name] == expected, f"{message.name}.{signal.name}"


def test_values_out_of_range_are_held_at_the_ends(simulation: Simulation) -> None:
    plan = simulation.plan
    encoder = FlatEncoder(plan)
    number = next(i for i, m in enumerate(plan.manifest.messages) if m.name == "VehicleMotion")
    layout = np.flatnonzero(plan.layouts.message == number)
    width = 1 + int(plan.entries.column.max())
    for value, speed, acceleration in ((1e9, 655.35, 32.767), (-1e9, 0.0, -32.768)):
        pairs, entry, begin = encoder.pairs(layout, np.zeros(1, np.int64), np.full((1, width), value))
        data = encoder.pack(layout, np.zeros(1, np.int64), pairs, entry, begin)
        values = database("powertrain").decode_message("VehicleMotion", data[0, :8].tobytes(), decode_choices=False)
        assert values["VehicleSpeed"] == pytest.approx(speed)
        assert values["Acceleration"] == pytest.approx(acceleration)


def test_a_signal_without_a_source_is_named(manifest: Manifest) -> None:
    with pytest.raises(PlanError, match=r"powertrain\.TorqueRequest\.DriveMode"):
        build_plan(manifest, {})


@given(st.integers(1, 64), st.integers(0, 447), st.booleans())
@settings(max_examples=200, deadline=None)
def test_split_covers_each_bit_once(length: int, at: int, big_endian: bool) -> None:
    start = 8 * (at // 8) + 7 - at % 8 if big_endian else at
    signal = Signal("s", start, length, big_endian, Kind.UNSIGNED, 1, 0, None, None, "", {}, False, ())
    pieces = split(signal)
    assert sum(count for _, _, count, _ in pieces) == length
    raw_bits = sorted(bit for _, right, count, _ in pieces for bit in range(right, right + count))
    assert raw_bits == list(range(length))
    assert all(left >= 0 and left + count <= 64 for _, _, count, left in pieces)


def test_expand_makes_runs() -> None:
    run, element, begin = expand(np.array([5, 9, 2]), np.array([2, 0, 3]))
    assert run.tolist() == [0, 0, 2, 2, 2]
    assert element.tolist() == [5, 6, 2, 3, 4]
    assert begin.tolist() == [0, 2, 2]


@pytest.mark.parametrize(("name", "check"), [("crc8-sae-j1850", 0x4B), ("crc8-autosar", 0xDF), ("crc16-ccitt", 0x29B1)])
def test_crc_of_the_usual_check_string(name: str, check: int) -> None:
    assert CRCS[name].of(b"123456789") == check


def test_checksums_of_a_run_are_those_of_the_definition(simulate: MakeSimulation) -> None:
    """Each protected frame of two seconds, recomputed byte by byte."""
    simulation = simulate("city")
    frames = simulation.advance(2_000_000_000)
    layouts = simulation.plan.layouts
    protected = 0
    for i in range(len(frames)):
        layout = np.flatnonzero((layouts.bus == frames.bus[i]) & (layouts.can_id == frames.can_id[i]))[0]
        message = simulation.manifest.messages[int(layouts.message[layout])]
        checksum = next((s for s in message.signals if s.role == "checksum"), None)
        if checksum is None:
            continue
        protected += 1
        payload = bytearray(frames.data[i, : message.length].tobytes())
        at, size = checksum.start // 8, checksum.length // 8
        found = int.from_bytes(payload[at : at + size], "little")
        payload[at : at + size] = bytes(size)
        data_id = message.checksum_data_id.to_bytes(2, "little") if message.checksum_data_id else b""
        content = bytes(payload) + data_id
        if message.checksum in CRCS:
            expected = CRCS[message.checksum].of(content)
        elif message.checksum == "xor8":
            expected = 0
            for byte in content:
                expected ^= byte
        else:
            expected = sum(content) % 256
        assert found == expected, message.name
    assert protected > 1000

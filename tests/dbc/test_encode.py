"""The rules of encoding; decode∘encode is the identity."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbc.decode import Decoder, SignalValueError, Values
from dbc.encode import Encoder, MessageEncoder
from dbc.frames import FrameBatch
from dbc.integrity import rule_of
from dbc.manifest import Kind, Manifest, MuxBranch, Signal
from tests.dbc.decode_support import frames, manifest, message, signal

ENGINE = manifest(
    message(
        "engine",
        0x100,
        signal("speed", 7, 16, big_endian=True, scale=0.25, unit="rpm", minimum=0.0, maximum=8000.0),
        signal("temperature", 16, 8, offset=-40.0, initial=60),
        signal("torque", 24, 12, kind=Kind.SIGNED, scale=0.5),
        signal("gear", 36, 4, labels={0: "park", 1: "drive"}),
    ),
    message("ratio", 0x101, signal("f32", 0, 32, kind=Kind.FLOAT32), signal("b", 32, 32, scale=2.0)),
    message("wide", 0x102, signal("u64", 0, 64)),
)


def decoded(layout: Manifest, number: int, payload: bytes) -> dict[str, int]:
    """Raw values by signal name."""
    can_id = layout.messages[number].can_id
    result = Decoder(layout).decode(frames((can_id, payload)))
    return {layout.signals[s].name: r for s, r in zip(result.signal.tolist(), result.raw.tolist(), strict=True)}


def test_physical_values_and_labels_become_bits() -> None:
    payload = Encoder(ENGINE).encode("engine", {"speed": 1000.25, "torque": -3.5, "gear": "drive"})
    assert decoded(ENGINE, 0, payload) == {"speed": 4001, "temperature": 60, "torque": -7, "gear": 1}


def test_a_message_is_named_with_or_without_its_bus_or_by_number() -> None:
    encoder = Encoder(ENGINE)
    assert encoder.encode("can0.engine", {}) == encoder.encode("engine", {}) == encoder.encode(0, {})


def test_a_name_that_two_buses_use_needs_its_bus() -> None:
    encoder = Encoder(
        manifest(message("m", 1, signal("a", 0, 8)), message("m", 2, signal("a", 8, 8), bus=1), buses=("x", "y"))
    )
    with pytest.raises(KeyError):
        encoder.encode("m", {"a": 1})
    assert encoder.encode("y.m", {"a": 1})[1] == 1


@pytest.mark.parametrize(
    ("name", "values", "text"),
    [
        ("engine", {"speed": 9000.0}, "speed: 9000.0 is outside 0.0 … 8000.0 rpm"),
        ("engine", {"temperature": 300}, "temperature: 300 is outside -40 … 215"),
        ("engine", {"torque": -1025}, "torque: -1025 is outside -1024.0 … 1023.5"),
        ("engine", {"gear": "reverse"}, "gear: no label 'reverse'"),
        ("engine", {"sped": 1}, "sped: no signal of message engine"),
        ("engine", {"torque": math.nan}, "torque: nan"),
        ("engine", {"torque": math.inf}, "torque: inf"),
        ("ratio", {"f32": 1e300}, "f32: 1e\\+300 is too large"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_name(name: str, values: dict[str, float | str], text: str) -> None:
    with pytest.raises(SignalValueError, match=text):
        Encoder(ENGINE).encode(name, values)


def test_the_declared_range_can_be_waived_but_not_the_bits() -> None:
    encoder = Encoder(ENGINE)
    assert decoded(ENGINE, 0, encoder.encode("engine", {"speed": 9000}, strict=False))["speed"] == 36000
    with pytest.raises(SignalValueError, match="speed"):
        encoder.encode("engine", {"speed": 20000}, strict=False)


def test_an_error_names_its_signal_as_an_attribute() -> None:
    with pytest.raises(SignalValueError) as caught:
        Encoder(ENGINE).encode("engine", {"speed": -1})
    assert caught.value.signal == "speed"


def test_a_signal_past_its_message_cannot_be_encoded_but_the_rest_can() -> None:
    layout = manifest(message("m", 1, signal("late", 56, 8), signal("a", 0, 8), length=4))
    assert Encoder(layout).encode("m", {"a": 7}) == b"\x07\0\0\0"
    with pytest.raises(SignalValueError, match="late: lies past the 4 bytes"):
        Encoder(layout).encode("m", {"late": 1})


MUX = manifest(
    message(
        "m",
        1,
        signal("sel", 0, 8, is_multiplexer=True, labels={1: "one"}),
        signal("a", 8, 8, mux=(MuxBranch(0, ((0, 0),)),)),
        signal("b", 8, 16, mux=(MuxBranch(0, ((1, 1), (5, 6))),)),
        signal("c", 24, 8, initial=9),
    )
)


def test_only_chosen_signals_are_written() -> None:
    encoder = Encoder(MUX)
    assert encoder.encode("m", {"sel": "one", "b": 0x1234}) == bytes([1, 0x34, 0x12, 9, 0, 0, 0, 0])
    with pytest.raises(SignalValueError, match="a: not present"):
        encoder.encode("m", {"sel": 1, "a": 5})


def test_columns_write_in_each_row_what_its_selector_chooses() -> None:
    data = Encoder(MUX).encode_columns("m", {"sel": np.array([0, 1, 2, 6]), "a": 0x11, "b": np.array([0x2222] * 4)})
    assert data[:, :4].tolist() == [[0, 0x11, 0, 9], [1, 0x22, 0x22, 9], [2, 0, 0, 9], [6, 0x22, 0x22, 9]]


def test_columns_may_be_written_into_wider_rows() -> None:
    batch = FrameBatch.empty(3)
    batch.data[:] = 0xFF
    Encoder(ENGINE).plan("engine").encode_into({"gear": np.array([1, 0, 1]), "temperature": 5}, batch.data)
    assert batch.data[:, 2].tolist() == [5, 5, 5]
    assert batch.data[:, 4].tolist() == [0x10, 0, 0x10]
    assert not batch.data[:, 8:].any()


def test_a_column_with_a_value_that_does_not_fit_is_refused_by_name() -> None:
    with pytest.raises(SignalValueError, match="gear: raw values 0 … 16 are outside 0 … 15"):
        Encoder(ENGINE).encode_columns("engine", {"gear": np.array([0, 16])})
    with pytest.raises(SignalValueError, match="torque"):
        Encoder(ENGINE).encode_columns("engine", {"torque": -2049})


def test_checksums_are_filled_in_unless_given() -> None:
    layout = manifest(
        message(
            "m",
            0x2C1,
            signal("a", 0, 32),
            signal("sum", 56, 8, role="checksum"),
            checksum="crc8-sae-j1850",
            checksum_data_id=7,
        )
    )
    encoder, rule = Encoder(layout), rule_of(layout, 0)
    assert rule is not None
    assert rule.verify(frames((0x2C1, encoder.encode("m", {"a": 123456})))).tolist() == [True]
    assert encoder.encode("m", {"a": 123456, "sum": 3})[7] == 3
    batch = FrameBatch.empty(5)
    batch.length[:] = 8
    batch.can_id[:] = 0x2C1
    encoder.plan("m").encode_into({"a": np.arange(5)}, batch.data)
    assert rule.verify(batch).all()
    assert batch.data[3, :8].tobytes() == encoder.encode("m", {"a": 3})


@st.composite
def layouts(draw: st.DrawFn) -> tuple[Manifest, list[tuple[str, int]]]:
    """A message of signals side by side in either byte order, and a raw value for each."""
    length = draw(st.sampled_from([1, 2, 8, 12, 64]))
    signals: list[Signal] = []
    values: list[tuple[str, int]] = []
    at = draw(st.integers(0, 7))
    while at < 8 * length and len(signals) < 12:
        big_endian = draw(st.booleans()) if at % 8 == 0 else False
        size = draw(st.integers(1, min(64, 8 * length - at)))
        kind = draw(st.sampled_from([Kind.UNSIGNED, Kind.SIGNED]))
        if size in (32, 64):
            kind = draw(st.sampled_from([kind, Kind.FLOAT32 if size == 32 else Kind.FLOAT64]))
        name = f"s{len(signals)}"
        signals.append(signal(name, at + 7 if big_endian else at, size, big_endian=big_endian, kind=kind))
        signed = kind == Kind.SIGNED or size == 64
        bounds = (-(1 << size - 1), (1 << size - 1) - 1) if signed else (0, (1 << size) - 1)
        values.append((name, draw(st.integers(*bounds))))
        at = (at + size + 7) // 8 * 8 if big_endian else at + size + draw(st.integers(0, 9))
    return manifest(message("m", 1, *signals, length=length, fd=length > 8)), values


@given(layouts())
def test_decoding_what_was_encoded_gives_the_values_back(case: tuple[Manifest, list[tuple[str, int]]]) -> None:
    layout, values = case
    plan = MessageEncoder(layout, 0)
    payload = plan.encode_raw(dict(values))
    assert decoded(layout, 0, payload) == dict(values)
    columns = plan.encode_columns({name: np.array([value, value]) for name, value in values}, 2)
    assert [bytes(row) for row in columns] == [payload, payload]


@given(
    scale=st.sampled_from([1.0, 0.1, -0.5, 3.0, 1e-7, 1e9]),
    offset=st.sampled_from([0.0, -40.0, 0.3, 1e6]),
    kind=st.sampled_from([Kind.UNSIGNED, Kind.SIGNED]),
    size=st.integers(1, 40),
    data=st.data(),
)
@settings(max_examples=200)
def test_the_raw_value_of_a_physical_value_is_the_one_it_came_from(
    scale: float, offset: float, kind: Kind, size: int, data: st.DataObject
) -> None:
    layout = manifest(message("m", 1, signal("s", 0, size, scale=scale, offset=offset, kind=kind)))
    values = Values(layout)
    low = -(1 << size - 1) if kind == Kind.SIGNED else 0
    raw = data.draw(st.integers(low, low + (1 << size) - 1))
    physical = values.physical(np.zeros(1, np.int32), np.array([raw]))
    assert values.raw(0, float(physical[0])) == raw
    assert values.raw(0, values.describe(0, raw).value) == raw
    assert values.describe(0, raw).value == pytest.approx(float(physical[0]), rel=1e-12, abs=1e-12)


def test_physical_values_of_every_kind() -> None:
    layout = manifest(
        message(
            "m",
            1,
            signal("u", 0, 8, scale=0.5, offset=1.0),
            signal("s", 0, 8, kind=Kind.SIGNED),
            signal("f", 0, 32, kind=Kind.FLOAT32, scale=2.0),
            signal("d", 0, 64, kind=Kind.FLOAT64),
            signal("w", 0, 64),
            length=64,
        )
    )
    values = Values(layout)
    raw = np.array([3, -3, 0xBFC00000, np.float64(-0.1).view(np.int64), -1], np.int64)
    found = values.physical(np.arange(5, dtype=np.int32), raw)
    assert found.tolist() == [2.5, -3.0, -3.0, -0.1, 2.0**64]
    described = [values.describe(i, int(r)).value for i, r in enumerate(raw)]
    assert described == [2.5, -3, -3.0, -0.1, (1 << 64) - 1]
    assert [type(v) for v in described] == [float, int, float, float, int]
    assert [values.raw(i, v) for i, v in enumerate(described)] == raw.tolist()


def test_labels_of_samples() -> None:
    values = Values(ENGINE)
    assert values.labels(np.array([3, 3, 0]), np.array([1, 7, 1])) == ["drive", "", ""]
    assert values.describe(3, 0) == (0, "", "park")
    assert values.raw(3, "drive") == 1

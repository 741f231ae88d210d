"""The rules of decoding, on layouts small enough to check by hand."""

from __future__ import annotations

import numpy as np
import pytest

from dbc.decode import Decoder, FrameStatus
from dbc.frames import ERROR, EXTENDED, FD, REMOTE, FrameBatch
from dbc.manifest import Kind, MuxBranch
from tests.dbc.decode_support import frames, manifest, message, samples, signal

U8 = signal("a", 0, 8)


def raws(decoder: Decoder, batch: FrameBatch) -> dict[str, int]:
    """Raw values by signal name, of a batch with one frame."""
    assert len(batch) == 1
    names = [s.name for s in decoder.manifest.signals]
    return {names[s]: raw for _, s, raw in samples(decoder.decode(batch))}


@pytest.mark.parametrize(
    ("layout", "payload", "raw"),
    [
        (signal("s", 0, 8), "7f00000000000000", 0x7F),
        (signal("s", 4, 12), "a0cb000000000000", 0xCBA),
        (signal("s", 0, 8, kind=Kind.SIGNED), "ff00000000000000", -1),
        (signal("s", 7, 16, big_endian=True), "1234000000000000", 0x1234),
        (signal("s", 3, 12, big_endian=True, kind=Kind.SIGNED), "0fff000000000000", -1),
        (signal("s", 0, 64), "ffffffffffffffff", -1),  # unsigned 64: the bit pattern
        (signal("s", 7, 64, big_endian=True), "8000000000000001", -(1 << 63) + 1),
        (signal("s", 0, 32, kind=Kind.FLOAT32), "0000c0bf00000000", 0xBFC00000),
        (signal("s", 7, 64, big_endian=True, kind=Kind.FLOAT64), "bff8000000000000", 0xBFF8 << 48),
        (signal("s", 1, 1), "0200000000000000", 1),
    ],
)
def test_a_raw_value_is_the_integer_of_its_bits(layout: object, payload: str, raw: int) -> None:
    decoder = Decoder(manifest(message("m", 1, layout)))  # type: ignore[arg-type]  # parametrised
    expected = raw - (1 << 64) if raw >= 1 << 63 else raw
    assert raws(decoder, frames((1, bytes.fromhex(payload)))) == {"s": expected}


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("kind", [Kind.UNSIGNED, Kind.SIGNED])
@pytest.mark.parametrize("first", [57, 60, 63, 121, 447])
@pytest.mark.parametrize("length", [8, 33, 57, 63, 64])
def test_a_signal_may_cross_words_and_span_nine_bytes(big_endian: bool, kind: Kind, first: int, length: int) -> None:
    """``first`` counts bits in the order of transmission of each byte order."""
    start = 8 * (first // 8) + 7 - first % 8 if big_endian else first
    layout = signal("s", start, length, big_endian=big_endian, kind=kind)
    value = 0xA5C3_96F0_1E2D_3B48 >> (64 - length) | 1 << (length - 1)
    number = value << (512 - first - length) if big_endian else value << first
    payload = number.to_bytes(64, "big" if big_endian else "little")
    decoder = Decoder(manifest(message("m", 1, layout, length=64, fd=True)))
    expected = value - (1 << length) if kind == Kind.SIGNED or length == 64 else value
    assert raws(decoder, frames((1, payload), flags=FD)) == {"s": expected}


def test_samples_come_by_frame_and_then_by_signal_number() -> None:
    decoder = Decoder(manifest(message("m", 1, U8, signal("b", 8, 8)), message("n", 2, signal("c", 0, 8))))
    decoded = decoder.decode(frames((2, b"\x09" * 8), (1, bytes(range(8))), (7, b"x"), (2, b"\x05" * 8)))
    assert samples(decoded) == [(0, 2, 9), (1, 0, 0), (1, 1, 1), (3, 2, 5)]
    assert decoded.message.tolist() == [1, 0, -1, 1]
    assert decoded.status.tolist() == [0, 0, FrameStatus.UNKNOWN_ID, 0]
    assert [a.dtype.name for a in (decoded.message, decoded.status, decoded.frame, decoded.signal, decoded.raw)] == [
        "int32",
        "uint8",
        "int32",
        "int32",
        "int64",
    ]


def test_an_empty_batch_gives_nothing() -> None:
    decoded = Decoder(manifest(message("m", 1, U8))).decode(FrameBatch.empty())
    assert (len(decoded), len(decoded.message), len(decoded.status)) == (0, 0, 0)


def test_a_manifest_without_messages_knows_no_frame() -> None:
    decoded = Decoder(manifest()).decode(frames((1, b"abc")))
    assert decoded.status.tolist() == [FrameStatus.UNKNOWN_ID]


def test_remote_and_error_frames_are_told_apart_and_hold_no_samples() -> None:
    rows = [(0, 0, 1, REMOTE, b""), (0, 0, 1, ERROR, bytes(8)), (0, 0, 1, 0, b"\x2a" * 8)]
    decoded = Decoder(manifest(message("m", 1, U8))).decode(FrameBatch.from_rows(rows))
    assert decoded.status.tolist() == [FrameStatus.REMOTE, FrameStatus.ERROR_FRAME, FrameStatus.DECODED]
    assert decoded.message.tolist() == [-1, -1, 0]
    assert samples(decoded) == [(2, 0, 42)]


def test_signals_past_the_received_length_are_absent() -> None:
    decoder = Decoder(manifest(message("m", 1, U8, signal("b", 4, 12), signal("c", 24, 8))))
    decoded = decoder.decode(frames((1, b"\x11\x22\x33\x44"), (1, b"\x11\x22"), (1, b"\x11"), (1, b""), (1, bytes(8))))
    assert [s for s in samples(decoded) if s[0] < 3] == [
        (0, 0, 17),
        (0, 1, 0x221),
        (0, 2, 0x44),
        (1, 0, 17),
        (1, 1, 0x221),
        (2, 0, 17),
    ]
    assert [FrameStatus(s).name for s in decoded.status] == ["DECODED", "PARTIAL", "PARTIAL", "SHORT", "DECODED"]


def test_a_signal_past_the_declared_length_is_decoded_when_the_frame_has_it() -> None:
    decoder = Decoder(manifest(message("m", 1, signal("late", 56, 8), length=4)))
    assert samples(decoder.decode(frames((1, bytes(7) + b"\x07")))) == [(0, 0, 7)]


def test_the_same_number_as_11_and_29_bits_are_two_messages() -> None:
    decoder = Decoder(manifest(message("s", 5, U8), message("x", 5, U8, extended=True)))
    rows = [(0, 0, 5, EXTENDED, b"\x01"), (0, 0, 5, 0, b"\x02"), (0, 0, 6, EXTENDED, b"\x03")]
    assert decoder.decode(FrameBatch.from_rows(rows)).message.tolist() == [1, 0, -1]


def test_the_same_identifier_on_two_buses_is_two_messages() -> None:
    buses = ("body", "chassis")
    decoder = Decoder(manifest(message("b", 5, U8), message("c", 5, U8, bus=1), buses=buses))
    rows = [(0, 1, 5, 0, b"\x01"), (0, 0, 5, 0, b"\x02"), (0, 2, 5, 0, b"\x03"), (0, 255, 5, 0, b"\x03")]
    assert decoder.decode(FrameBatch.from_rows(rows)).message.tolist() == [1, 0, -1, -1]


def test_an_identifier_of_more_than_11_bits_without_the_flag_is_unknown() -> None:
    decoder = Decoder(manifest(message("m", 1, U8)))
    assert decoder.decode(frames((1 + 2048, b"\x01"), (1, b"\x01"), (0xFFFFFFFF, b"\x01"))).message.tolist() == [
        -1,
        0,
        -1,
    ]


def pgn_decoder() -> Decoder:
    return Decoder(
        manifest(
            message("eec1_engine", 0x0CF00400, U8, extended=True, pgn=0xF004),
            message("eec1_any", 0x0CF004FE, U8, extended=True, pgn=0xF004),
            message("tsc1", 0x0C0000FE, U8, extended=True, pgn=0x0000),
            message("exact", 0x18F00405, U8, extended=True),
            message("not_j1939", 0x18FEF100, U8, extended=True),
        )
    )


@pytest.mark.parametrize(
    ("can_id", "name"),
    [
        (0x0CF00400, "eec1_engine"),
        (0x18F00400, "eec1_engine"),  # another priority
        (0x0CF00417, "eec1_any"),  # another sender
        (0x18F00405, "exact"),  # an exact identifier wins over the group
        (0x0C00_2103, "tsc1"),  # PDU1: the destination does not matter
        (0x0C00_FF03, "tsc1"),
        (0x18FEF101, None),  # not J1939: exact only
        (0x1CF00500, None),
        (0x0DF00400, None),  # the data page is part of the group
    ],
)
def test_j1939_groups_match_by_group_and_sender(can_id: int, name: str | None) -> None:
    decoder = pgn_decoder()
    number = int(decoder.decode(frames((can_id, bytes(8)), flags=EXTENDED)).message[0])
    assert (None if number < 0 else decoder.manifest.messages[number].name) == name


def simple_mux() -> Decoder:
    return Decoder(
        manifest(
            message(
                "m",
                1,
                signal("sel", 0, 4, is_multiplexer=True),
                signal("always", 4, 4),
                signal("zero", 8, 8, mux=(MuxBranch(0, ((0, 0),)),)),
                signal("low", 16, 8, mux=(MuxBranch(0, ((0, 1), (4, 5))),)),
                signal("one", 8, 16, mux=(MuxBranch(0, ((1, 1),)),)),
            )
        )
    )


@pytest.mark.parametrize(
    ("selector", "present"),
    [(0, {"zero", "low"}), (1, {"low", "one"}), (4, {"low"}), (5, {"low"}), (2, set()), (15, set())],
)
def test_a_selector_chooses_signals_and_an_unknown_value_keeps_the_rest(selector: int, present: set[str]) -> None:
    found = raws(simple_mux(), frames((1, bytes([0x70 | selector, 1, 2, 3, 4, 5, 6, 7]))))
    assert found.keys() == {"sel", "always"} | present
    assert (found["sel"], found["always"]) == (selector, 7)


def test_a_frame_without_its_selector_is_partial_at_best() -> None:
    decoder = Decoder(
        manifest(
            message(
                "m", 1, U8, signal("sel", 8, 8, is_multiplexer=True), signal("x", 0, 4, mux=(MuxBranch(1, ((0, 0),)),))
            )
        )
    )
    decoded = decoder.decode(frames((1, b"\x05"), (1, b"\x05\x00"), (1, b"\x05\x01"), (1, b"")))
    assert samples(decoded) == [(0, 0, 5), (1, 0, 5), (1, 1, 0), (1, 2, 5), (2, 0, 5), (2, 1, 1)]
    assert [FrameStatus(s).name for s in decoded.status] == ["PARTIAL", "DECODED", "DECODED", "SHORT"]


def cascade() -> Decoder:
    """``a`` chooses ``b`` or ``c``; ``b`` is a selector itself; ``d`` hangs on an independent selector ``e``."""
    outer, inner = MuxBranch(0, ((1, 2),)), MuxBranch(1, ((7, 7), (9, 10)))
    return Decoder(
        manifest(
            message(
                "m",
                1,
                signal("a", 0, 8, is_multiplexer=True),
                signal("b", 8, 8, is_multiplexer=True, mux=(outer,)),
                signal("deep", 16, 8, mux=(outer, inner)),
                signal("c", 8, 8, mux=(MuxBranch(0, ((3, 3),)),)),
                signal("e", 24, 8, is_multiplexer=True),
                signal("d", 32, 8, mux=(MuxBranch(4, ((1, 1),)),)),
            )
        )
    )


@pytest.mark.parametrize(
    ("payload", "present"),
    [
        (b"\x01\x07\x2a\x00\x63\x00\x00\x00", {"a", "b", "deep", "e"}),
        (b"\x02\x0a\x2a\x01\x63\x00\x00\x00", {"a", "b", "deep", "e", "d"}),
        (b"\x02\x08\x2a\x00\x63\x00\x00\x00", {"a", "b", "e"}),
        (b"\x03\x07\x2a\x01\x63\x00\x00\x00", {"a", "c", "e", "d"}),
        (b"\x00\x07\x2a\x02\x63\x00\x00\x00", {"a", "e"}),
    ],
)
def test_nested_and_independent_selectors(payload: bytes, present: set[str]) -> None:
    assert raws(cascade(), frames((1, payload))).keys() == present


def test_a_selector_too_wide_for_a_table_works_the_same() -> None:
    wide = Decoder(
        manifest(
            message(
                "m",
                1,
                signal("sel", 0, 32, is_multiplexer=True),
                signal("x", 32, 8, mux=(MuxBranch(0, ((100_000, 100_010), (1 << 31, 1 << 31))),)),
            )
        )
    )
    rows = [(1, v.to_bytes(4, "little") + b"\x09") for v in (99_999, 100_000, 100_010, 100_011, 1 << 31)]
    assert [s[0] for s in samples(wide.decode(frames(*rows))) if s[1] == 1] == [1, 2, 4]


def test_a_negative_selector_value_chooses() -> None:
    decoder = Decoder(
        manifest(
            message(
                "m",
                1,
                signal("sel", 0, 4, kind=Kind.SIGNED, is_multiplexer=True),
                signal("x", 8, 8, mux=(MuxBranch(0, ((-3, -2),)),)),
            )
        )
    )
    decoded = decoder.decode(frames(*[(1, bytes([v, 1])) for v in range(16)]))
    assert [f for f, s, _ in samples(decoded) if s == 1] == [13, 14]


def test_decoding_some_signals_equals_choosing_them_afterwards() -> None:
    rng = np.random.default_rng(7)
    full = cascade()
    batch = FrameBatch.from_rows(
        [(0, 0, 1, 0, bytes(rng.integers(0, 12, int(rng.integers(0, 9)), dtype=np.uint8))) for _ in range(400)]
    )
    everything = samples(full.decode(batch))
    for mask in range(1 << 6):
        wanted = {i for i in range(6) if mask >> i & 1}
        decoder = Decoder(full.manifest, wanted)
        assert samples(decoder.decode(batch)) == [s for s in everything if s[1] in wanted]


def test_a_frame_of_which_nothing_is_asked_is_decoded_and_empty() -> None:
    decoder = Decoder(manifest(message("m", 1, U8), message("n", 2, U8)), [1])
    decoded = decoder.decode(frames((1, b""), (2, b""), (2, b"\x01")))
    assert decoded.status.tolist() == [FrameStatus.DECODED, FrameStatus.SHORT, FrameStatus.DECODED]
    assert samples(decoded) == [(2, 1, 1)]


def test_a_signal_number_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="0 to 0"):
        Decoder(manifest(message("m", 1, U8)), [1])


def test_signals_that_cannot_be_decoded_are_told_and_cost_nothing_else() -> None:
    layout = manifest(
        message(
            "m",
            1,
            U8,
            signal("wide", 0, 65),
            signal("outside", 510, 8),
            signal("half", 0, 16, kind=Kind.FLOAT32),
            signal("child", 8, 8, mux=(MuxBranch(1, ((0, 0),)),)),
            signal("orphan", 8, 8, mux=(MuxBranch(9, ((0, 0),)),)),
            length=64,
        )
    )
    decoder = Decoder(layout)
    assert [number for number, _ in decoder.unsupported] == [1, 2, 3, 4, 5]
    assert samples(decoder.decode(frames((1, b"\x07" * 64), flags=FD))) == [(0, 0, 7)]


def test_a_batch_may_be_a_strided_view() -> None:
    rows = frames(*[(1, bytes([i])) for i in range(10)])
    decoder = Decoder(manifest(message("m", 1, U8)))
    assert [r for _, _, r in samples(decoder.decode(rows.take(slice(None, None, 3))))] == [0, 3, 6, 9]

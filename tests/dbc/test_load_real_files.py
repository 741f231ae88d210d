"""Every public DBC file loads as far as it is sound, and as cantools loads it where cantools does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cantools
import pytest

from dbc.load import LoadedDatabase, load_file
from dbc.load.model import DefectLog
from dbc.load.text import decode_text
from dbc.manifest import Kind, Message, MuxBranch, Signal
from tests.support import DBC_DIR

FILES = sorted(path.name for path in DBC_DIR.glob("*.dbc")) if DBC_DIR.is_dir() else ["(no data)"]
#: What cantools 45 cannot load.
CANTOOLS_REJECTS = {"kona_ev_pcan.dbc"}
#: Messages and signals that the rejected files state, counted by grep.
REJECTED_COUNTS = {"kona_ev_pcan.dbc": (107, 445)}

pytestmark = pytest.mark.data


@pytest.mark.parametrize("name", FILES)
def test_equals_cantools(data_dir: Path, name: str) -> None:
    """Identifiers, names, lengths, signal layouts, scaling, labels and multiplexing are the same."""
    path = data_dir / "can" / "dbc" / name
    if name in CANTOOLS_REJECTS:
        loaded = load_file(path)
        assert (len(loaded.messages), sum(len(m.signals) for m in loaded.messages)) == REJECTED_COUNTS[name]
        return
    text = decode_text(path.read_bytes(), DefectLog())
    theirs = cantools.database.can.Database(strict=False)
    theirs.add_dbc_string(text)
    ours = {(m.can_id, m.extended): m for m in load_file(path).messages}
    assert set(ours) == {(m.frame_id, m.is_extended_frame) for m in theirs.messages}
    for message in theirs.messages:
        assert_same_message(ours[message.frame_id, message.is_extended_frame], message)


def assert_same_message(ours: Message, theirs: Any) -> None:
    assert (ours.name, ours.length, ours.cycle_ms) == (theirs.name, theirs.length, theirs.cycle_time)
    assert ours.comment == (theirs.comment or "")
    assert ours.sender == (theirs.senders[0] if theirs.senders else "") or ours.sender == ""
    assert (ours.pgn is not None) == (theirs.protocol == "j1939")
    assert ours.fd or not theirs.is_fd
    by_name = {signal.name: signal for signal in theirs.signals}
    assert sorted(signal.name for signal in ours.signals) == sorted(by_name)
    for signal in ours.signals:
        assert_same_signal(ours, signal, by_name)


def assert_same_signal(message: Message, ours: Signal, by_name: dict[str, Any]) -> None:
    theirs = by_name[ours.name]
    assert (ours.start, ours.length) == (theirs.start, theirs.length)
    assert ours.big_endian == (theirs.byte_order == "big_endian")
    assert (ours.kind in (Kind.FLOAT32, Kind.FLOAT64)) == theirs.is_float
    assert theirs.is_float or (ours.kind is Kind.SIGNED) == theirs.is_signed
    assert (ours.scale, ours.offset) == (theirs.scale, theirs.offset)
    assert (ours.minimum, ours.maximum) == (theirs.minimum, theirs.maximum)
    assert (ours.unit, ours.comment) == (theirs.unit or "", theirs.comment or "")
    assert ours.labels == {int(k): str(v) for k, v in (theirs.choices or {}).items()}
    assert ours.is_multiplexer == theirs.is_multiplexer
    assert [(message.signals[b.selector].name, values_of(b)) for b in ours.mux] == list(chain_of(theirs, by_name))[::-1]
    assert ours.spn == (theirs.spn or None)


def values_of(branch: MuxBranch) -> set[int]:
    return {value for low, high in branch.ranges for value in range(low, high + 1)}


def chain_of(signal: Any, by_name: dict[str, Any]) -> Iterator[tuple[str, set[int]]]:
    """cantools' selector of a signal, that selector's selector, and so on.

    cantools names a selector that has a long name by its short one, which is the long one cut at 32 characters.
    """
    while signal.multiplexer_signal is not None and signal.multiplexer_ids:
        short = signal.multiplexer_signal
        selector = next(s for s in by_name.values() if s.name == short or (s.name[:32] == short and s.is_multiplexer))
        yield selector.name, set(signal.multiplexer_ids)
        signal = selector


def codes_of(database: LoadedDatabase) -> set[str]:
    return {defect.code for defect in database.defects}


def test_namespace_block_without_end_costs_nothing(data_dir: Path) -> None:
    """The Kona file, whose NS_ block makes other loaders give it up."""
    loaded = load_file(data_dir / "can" / "dbc" / "kona_ev_pcan.dbc")
    assert loaded.sound
    assert codes_of(loaded) == {"namespace_without_end"}
    vcu = next(m for m in loaded.messages if m.can_id == 265)
    assert [s.name for s in vcu.signals][:2] == ["ParkActuatorRequest", "Awake_Maybe"]


def test_signals_past_the_end_are_reported_and_kept(data_dir: Path) -> None:
    loaded = load_file(data_dir / "can" / "dbc" / "Model3CAN.dbc")
    assert loaded.sound
    reported = {(d.message, d.signal) for d in loaded.defects if d.code == "signal_past_end"}
    assert len(reported) == 6
    kept = {(m.name, s.name) for m in loaded.messages for s in m.signals}
    assert reported <= kept

"""The shipped DBCs: sound for our loader and for cantools, and as realistic as they claim."""

from __future__ import annotations

import re

import numpy as np
import pytest

from dbc.load import load_file
from dbc.manifest import Kind, Manifest
from simulator.buses import BUSES, BusDescription
from simulator.load import frame_seconds
from simulator.model.body import ACTUATORS
from simulator.plan import cyclic_messages
from tests.simulator.support import database


@pytest.mark.parametrize("bus", BUSES, ids=lambda bus: bus.name)
def test_loads_without_a_defect_in_our_loader(bus: BusDescription) -> None:
    assert load_file(bus.dbc).defects == ()


@pytest.mark.parametrize("bus", BUSES, ids=lambda bus: bus.name)
def test_loads_in_cantools_strict_with_units_comments_and_no_overlap(bus: BusDescription) -> None:
    loaded = database(bus.name)
    for message in loaded.messages:
        assert message.comment, message.name
        for signal in message.signals:
            assert signal.comment, f"{message.name}.{signal.name}"
            assert signal.is_float or signal.maximum is not None


def test_manifest_agrees_with_cantools_on_every_signal(manifest: Manifest) -> None:
    for message in manifest.messages:
        theirs = database(manifest.buses[message.bus]).get_message_by_name(message.name)
        assert (message.can_id, message.extended, message.fd) == (
            theirs.frame_id,
            theirs.is_extended_frame,
            theirs.is_fd,
        )
        assert message.length == theirs.length
        assert message.cycle_ms == (theirs.cycle_time or None)
        by_name = {s.name: s for s in theirs.signals}
        assert {s.name for s in message.signals} == set(by_name)
        for s in message.signals:
            other = by_name[s.name]
            assert (s.start, s.length, s.big_endian) == (other.start, other.length, other.byte_order == "big_endian")
            assert (s.scale, s.offset, s.unit or None) == (other.scale, other.offset, other.unit)
            assert s.is_multiplexer == other.is_multiplexer


def test_has_what_it_promises_to_exercise(manifest: Manifest) -> None:
    signals = manifest.signals
    assert {s.kind for s in signals} == set(Kind)
    assert {s.big_endian for s in signals} == {True, False}
    assert any(m.fd and m.length == 64 for m in manifest.messages)
    assert any(len(s.mux) >= 2 for s in signals), "cascaded multiplexing"
    assert {m.pgn for m in manifest.messages if m.pgn is not None} >= {0, 65265, 65217, 65268, 65226}
    assert {m.checksum for m in manifest.messages} >= {"crc8-autosar", "crc8-sae-j1850", "crc16-ccitt", "xor8", "sum8"}
    assert sum(s.spn is not None for s in signals) > 30
    assert any(s.labels for s in signals)
    assert any(s.initial for s in signals)
    assert {m.name for m in manifest.messages if any(s.role == "actuator" for s in m.signals)} == set(ACTUATORS)


def test_identifiers_and_names_are_unique_on_a_bus(manifest: Manifest) -> None:
    keys = [(m.bus, m.can_id, m.extended) for m in manifest.messages]
    names = [(m.bus, m.name) for m in manifest.messages]
    assert len(set(keys)) == len(keys)
    assert len(set(names)) == len(names)


def test_about_two_thousand_frames_a_second_and_no_bus_overloaded(manifest: Manifest) -> None:
    rate, share = 0.0, np.zeros(len(BUSES))
    for number in cyclic_messages(manifest):
        message = manifest.messages[number]
        bus = BUSES[message.bus]
        per_second = 1000 / (message.cycle_ms or 1)
        rate += per_second
        share[message.bus] += per_second * frame_seconds(
            message.length,
            extended=message.extended,
            fd=message.fd,
            bitrate_bps=bus.bitrate_bps,
            data_bitrate_bps=bus.data_bitrate_bps,
        )
    assert 1800 < rate < 2200
    assert share.max() < 0.4
    assert share.min() > 0.02


def test_file_names_no_one_else() -> None:
    for bus in BUSES:
        assert not re.search(r"tesla|hyundai|toyota|volkswagen|bmw", bus.dbc.read_text(encoding="utf-8"), re.IGNORECASE)

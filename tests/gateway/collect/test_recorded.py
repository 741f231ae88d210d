"""Schemes over recorded drives: sums, agreement between large and small batches, and between fast and plain ways."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from numpy.typing import NDArray

from dbc.decode import Decoder
from dbc.frames import FrameBatch
from dbc.load import compile_manifest
from dbc.logs import open_log
from dbc.manifest import Manifest
from gateway.collect import Names, Scheme, Selector, parse_scheme, pick, resolve

pytestmark = pytest.mark.data

RULES = {
    "every": "",
    "change": "on_change = true\n",
    "period": "min_period_ms = 100\n",
    "cycle": "min_period_ms = 20\n",
    "change and period": "on_change = true\nmin_period_ms = 50\nheartbeat_ms = 2000\n",
    "forced": "min_period_ms = 500\nforce_on_change = true\n",
    "dead band": "dead_band = 0.7\n",
}


@pytest.fixture(scope="module")
def drive(data_dir: Path) -> tuple[Manifest, FrameBatch]:
    """The Toyota log of 60 s and its manifest."""
    manifest, _ = compile_manifest({"can0": [data_dir / "can" / "dbc" / "toyota_new_mc_pt_generated.dbc"]}, name="rav4")
    with open_log(data_dir / "can" / "logs" / "rav4_2016_bus0_60s.log.xz") as log:
        return manifest, FrameBatch.concatenate(list(log))


def scheme(manifest: Manifest, body: str) -> Scheme:
    """A scheme of this drive."""
    return resolve(parse_scheme('id = "s"\nversion = 1\n' + body), Names(manifest))


def sent(manifest: Manifest, resolved: Scheme, frames: FrameBatch, size: int) -> tuple[NDArray[np.int64], int]:
    """(time, signal, raw) of all samples sent, sorted, and the frames accounted for."""
    selector = Selector(manifest, [resolved])
    rows, counted = [], 0
    for at in range(0, len(frames), size):
        part = frames.take(slice(at, at + size))
        result = selector.feed(part, int(part.timestamp_ns[-1]))
        counted += int(result.counts.sum())
        for block in result.blocks:
            s = block.samples
            rows.append(np.stack([s.row_timestamp_ns[s.row], s.signal.astype(np.int64), s.raw]))
    counted += int(selector.flush(0).counts.sum())
    table = np.concatenate(rows, axis=1) if rows else np.zeros((3, 0), np.int64)
    return table[:, np.lexsort(table[::-1])], counted


@pytest.mark.parametrize("rule", RULES)
def test_batches_and_shortcuts_do_not_matter(drive: tuple[Manifest, FrameBatch], rule: str) -> None:
    manifest, frames = drive
    frames = frames.take(slice(0, 9000))
    resolved = scheme(manifest, '[[signals]]\nname = "*"\n' + RULES[rule])
    large, counted = sent(manifest, resolved, frames, 2000)
    small, counted_small = sent(manifest, resolved, frames, 61)
    with patch.object(pick, "_FEW", 1 << 40):
        plain, _ = sent(manifest, resolved, frames, 500)
    assert counted == counted_small == 9000
    assert np.array_equal(large, small)
    assert np.array_equal(large, plain)
    assert large.shape[1] > 300


def test_every_sample_is_what_the_decoder_gives(drive: tuple[Manifest, FrameBatch]) -> None:
    manifest, frames = drive
    decoded = Decoder(manifest).decode(frames)
    table, counted = sent(manifest, scheme(manifest, '[[signals]]\nname = "*"\n'), frames, 1000)
    assert counted == len(frames) == 53_800
    assert table.shape[1] == len(decoded)


def test_a_period_of_the_cycle_time_keeps_the_rate(drive: tuple[Manifest, FrameBatch]) -> None:
    """Wheel speeds come every 12 ms, stamped up to 10 ms early or late; a period of 12 ms must not halve them."""
    manifest, frames = drive
    resolved = scheme(manifest, '[[signals]]\nname = "can0.WHEEL_SPEEDS.WHEEL_SPEED_FL"\nmin_period_ms = 12\n')
    table, _ = sent(manifest, resolved, frames, 1000)
    assert table.shape[1] > 0.8 * 4974


def test_checksums_of_a_real_car_hold(drive: tuple[Manifest, FrameBatch]) -> None:
    manifest, frames = drive
    body = (
        '[[signals]]\nname = "can0.STEER_TORQUE_SENSOR.STEER_TORQUE_EPS"\nvalidity = "require"\n'
        '[[integrity]]\nmessage = "STEER_TORQUE_SENSOR"\nchecksum = "toyota"\n'
    )
    table, _ = sent(manifest, scheme(manifest, body), frames, 1000)
    assert table.shape[1] == 3000
    damaged = frames.take(slice(None))
    damaged = FrameBatch(
        *(getattr(damaged, f).copy() for f in ("timestamp_ns", "bus", "can_id", "flags", "length", "data"))
    )
    hit = np.flatnonzero(damaged.can_id == 0x260)[::10]
    damaged.data[hit, 1] ^= 0x40
    table, counted = sent(manifest, scheme(manifest, body), damaged, 1000)
    assert table.shape[1] == 3000 - len(hit)
    assert counted == 53_800

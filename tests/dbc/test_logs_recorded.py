"""The recorded logs are read whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from dbc.logs import MAX_BATCH_FRAMES, open_log

pytestmark = pytest.mark.data


@pytest.mark.parametrize(
    ("name", "frames", "format_name", "buses"),
    [
        ("rav4_2016_bus0_60s.log.xz", 53_800, "candump", ("can0",)),
        ("rav4_2016_bus1_radar_60s.log.xz", 45_000, "candump", ("can1",)),
        ("thinkcity_candump.log", 12_974, "candump", ("vcan0",)),
        ("SYNTH_hyundai_canfd_40k.log.xz", 40_000, "candump", ("can0",)),
        ("kona_2019_pcan_ccan_gvret.csv.xz", 39_546, "gvret", ("0", "1")),
    ],
)
def test_every_frame_of_a_recorded_log_is_read(
    data_dir: Path, name: str, frames: int, format_name: str, buses: tuple[str, ...]
) -> None:
    with open_log(data_dir / "can" / "logs" / name) as log:
        sizes = [len(batch) for batch in log]
    assert (sum(sizes), log.report.frames) == (frames, frames)
    assert max(sizes) <= MAX_BATCH_FRAMES
    assert (log.format, log.buses) == (format_name, buses)
    assert (log.report.skipped_count, log.report.damage) == (0, "")

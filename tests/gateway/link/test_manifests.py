"""A manifest stays on the shelf as long as a batch may name it, whatever the disk does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.link.manifests import KEPT, KEPT_MAX, ManifestShelf


def shelf(directory: Path, n: int) -> ManifestShelf:
    return ManifestShelf(directory, f"{n:064x}", b"manifest %d" % n)


def started(directory: Path, n: int, *, is_drained: bool = True) -> ManifestShelf:
    made = shelf(directory, n)
    made.keep(is_drained=is_drained)
    path = directory / "manifests" / f"{n:064x}.manifest"
    os.utime(path, ns=(n, n))  # older starts lie further back
    return made


def test_former_manifest_is_still_here_after_a_restart_with_another(tmp_path: Path) -> None:
    started(tmp_path, 1)
    now = started(tmp_path, 2)
    assert now.content(f"{1:064x}") == b"manifest 1"
    assert now.content(f"{2:064x}") == b"manifest 2"
    assert now.content(f"{3:064x}") is None


def test_only_former_manifests_the_cloud_may_lack_are_offered_unasked(tmp_path: Path) -> None:
    started(tmp_path, 1).delivered(f"{1:064x}")
    started(tmp_path, 2)
    assert started(tmp_path, 3).undelivered() == [f"{2:064x}"]


def test_old_ones_go_when_nothing_waits_and_stay_while_batches_wait(tmp_path: Path) -> None:
    for n in range(1, KEPT + 6):
        last = started(tmp_path, n, is_drained=False)
    assert last.content(f"{1:064x}") is not None
    last = started(tmp_path, KEPT + 6)
    assert last.content(f"{1:064x}") is None
    assert last.content(f"{KEPT + 6:064x}") is not None
    assert len(list((tmp_path / "manifests").iterdir())) == KEPT
    assert KEPT < KEPT_MAX


def test_damaged_file_of_the_present_manifest_is_written_anew(tmp_path: Path) -> None:
    started(tmp_path, 1)
    path = tmp_path / "manifests" / f"{1:064x}.manifest"
    path.write_bytes(b"half")
    (tmp_path / "manifests" / "new-abc").write_bytes(b"left by a power cut")
    started(tmp_path, 1)
    assert path.read_bytes() == b"manifest 1"
    assert [p.name for p in (tmp_path / "manifests").iterdir()] == [path.name]


def test_disk_that_refuses_is_survived(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "manifests").write_text("a file where the folder should be")
    made = shelf(tmp_path, 1)
    made.keep(is_drained=True)
    assert made.content(f"{1:064x}") == b"manifest 1"
    assert made.content(f"{2:064x}") is None
    assert made.undelivered() == []
    made.delivered(f"{2:064x}")
    assert "manifest_not_kept" in caplog.text

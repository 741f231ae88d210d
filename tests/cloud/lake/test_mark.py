"""A lake is opened with its own database or not at all, and nothing is removed before that is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloud.errors import StorageError
from cloud.lake.mark import NAME
from tests.cloud.lake.support import T0_NS, rig

pytestmark = pytest.mark.anyio


async def _filled(folder: Path) -> set[Path]:
    async with rig(folder) as r:
        await r.store([(T0_NS, 0, 1, 0)])
        await r.compactor.compact(everything=True)
    return set((folder / "lake").rglob("*.parquet"))


async def test_a_lake_whose_database_was_made_anew_is_refused_and_untouched(tmp_path: Path) -> None:
    files = await _filled(tmp_path)
    for path in tmp_path.glob("cloud.db*"):
        path.unlink()
    with pytest.raises(StorageError, match="restore the database"):
        async with rig(tmp_path):
            raise AssertionError
    assert set((tmp_path / "lake").rglob("*.parquet")) == files != set()


async def test_a_lake_of_another_database_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        await _filled(tmp_path / name)
    (tmp_path / "a" / "lake").rename(tmp_path / "moved")
    (tmp_path / "b" / "lake").rename(tmp_path / "a" / "lake")
    with pytest.raises(StorageError, match="another database"):
        async with rig(tmp_path / "a"):
            raise AssertionError


async def test_a_lake_that_is_not_mounted_is_refused_until_the_operator_says_to_go_on(tmp_path: Path) -> None:
    await _filled(tmp_path)
    (tmp_path / "lake").rename(tmp_path / "away")
    with pytest.raises(StorageError, match="mounted") as refused:
        async with rig(tmp_path):
            raise AssertionError
    mark = (tmp_path / "away" / NAME).read_text().strip()
    assert mark in str(refused.value)
    (tmp_path / "lake" / NAME).write_text(mark)
    async with rig(tmp_path) as r:
        await r.store([(T0_NS, 0, 1, 0)], vehicle="CAR-2")
        assert (await r.compactor.compact(everything=True)).batches == 1

"""What docs/reference/lake-format.md says of the files is true: its example runs, its columns are the ones there."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from gateway.wire.frames import FrameBatch
from tests.cloud.lake.support import MS_NS, T0_NS, rig
from tests.support import ROOT

DOCUMENT = ROOT / "docs" / "reference" / "lake-format.md"


def example() -> str:
    """The document's Python example."""
    match = re.search(r"```python\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    assert match is not None
    return match[1]


def test_the_example_reads_a_signal_with_duckdb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fill() -> None:
        async with rig(tmp_path) as r:
            await r.store([(T0_NS, 0, 7, 0), (T0_NS + MS_NS, 0, 8, 0), (T0_NS, 1, 1, 0)])
            await r.compactor.compact(everything=True)

    asyncio.run(fill())
    (tmp_path / "state").mkdir()
    for path in tmp_path.glob("cloud.db*"):
        path.rename(tmp_path / "state" / path.name)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(example(), str(DOCUMENT), "exec"), names)
    names["cloud"].close()
    assert [(at.isoformat(timespec="milliseconds"), raw) for at, raw in names["rows"]] == [
        ("2025-10-09T08:53:20.000", 7),
        ("2025-10-09T08:53:20.001", 8),
    ]


def test_the_columns_are_the_documented_ones(tmp_path: Path) -> None:
    async def run() -> None:
        async with rig(tmp_path) as r:
            await r.store([(T0_NS, 0, 7, 0)], frames=FrameBatch.from_rows([(T0_NS, 0, 1, 0, b"x")]))
            await r.compactor.compact(everything=True)
            text = DOCUMENT.read_text("utf-8")
            for path in r.lake.root.rglob("*.parquet"):
                metadata = pq.read_metadata(path)
                for name in [*metadata.schema.names, *(key.decode() for key in metadata.metadata)]:
                    assert f"`{name}`" in text, name

    asyncio.run(run())

"""A batch that cannot be processed holds up nobody and ends as a dead letter; a full disk does not count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from cloud.lake.compactor import MAX_ATTEMPTS
from cloud.spool.model import BatchRow, BatchState, DeadLetterRow, StoredBatch
from tests.cloud.lake.support import MS_NS, T0_NS, Rig, rig

pytestmark = pytest.mark.anyio


def _spoil(r: Rig, monkeypatch: pytest.MonkeyPatch, poisoned: int, error: Exception) -> None:
    """Reading batch ``poisoned`` raises what nobody expects."""
    read = type(r.reader).read

    async def spoilt(self: Any, batch: StoredBatch, *, keep: bool = True) -> Any:
        if batch.id == poisoned:
            raise error
        return await read(self, batch, keep=keep)

    monkeypatch.setattr(type(r.reader), "read", spoilt)


async def _states(r: Rig) -> list[str]:
    async with r.database.read() as session:
        return list(await session.scalars(select(BatchRow.state).order_by(BatchRow.id)))


async def test_others_go_on_at_once_and_the_bad_one_becomes_a_dead_letter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with rig(tmp_path) as r:
        ids = [await r.store([(T0_NS + n * MS_NS, 0, n, 0)]) for n in range(4)]
        _spoil(r, monkeypatch, ids[1], ZeroDivisionError("nobody thought of it"))
        assert (await r.compactor.compact(everything=True)).batches == 3
        assert await _states(r) == [BatchState.COMPACTED, BatchState.STORED, BatchState.COMPACTED, BatchState.COMPACTED]
        for _ in range(MAX_ATTEMPTS):
            await r.compactor.compact(everything=True)
        assert (await _states(r))[1] == BatchState.DEAD
        async with r.database.read() as session:
            reasons = list(await session.scalars(select(DeadLetterRow.reason)))
        assert reasons == ["cannot be processed: ZeroDivisionError: nobody thought of it"]
        assert (r.compactor.statistics.dead_letters, r.compactor.statistics.batches) == (1, 3)
        assert len(await r.raw()) == 3


async def test_a_full_disk_is_not_the_batches_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with rig(tmp_path) as r:
        number = await r.store([(T0_NS, 0, 1, 0)])
        with monkeypatch.context() as patch:
            _spoil(r, patch, number, OSError(28, "No space left on device"))
            for _ in range(2 * MAX_ATTEMPTS):
                assert (await r.compactor.compact(everything=True)).failed == 1
        assert await _states(r) == [BatchState.STORED]
        assert (await r.compactor.compact(everything=True)).batches == 1

"""Old receipts go; what they answered is answered all the same."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from sqlalchemy import select, update

from cloud.clock import ManualClock
from cloud.ingest.receipts import prune_receipts
from cloud.spool.model import BatchRow, BatchState
from gateway.wire.api import SequenceRange
from gateway.wire.ledger import Ledger, StreamLedger
from tests.cloud.support import EPOCH_NS, Cloud, cloud_in, make_batch, make_check_in, make_manifest

pytestmark = pytest.mark.anyio
STREAM = "spool/normal"


def _ledger(acknowledged_sequence: int, items: int, evicted: int = 0) -> Ledger:
    stream = StreamLedger(
        stream=STREAM,
        stored=items + evicted,
        acknowledged=items,
        evicted=evicted,
        acknowledged_sequence=acknowledged_sequence,
    )
    return Ledger(at_ns=EPOCH_NS, selected_items=items + evicted, streams=(stream,))


async def _sequences(cloud: Cloud) -> list[int]:
    async with cloud.services.db.read() as session:
        return list(await session.scalars(select(BatchRow.sequence).order_by(BatchRow.sequence)))


async def _compacted(cloud: Cloud) -> None:
    async with cloud.services.db.write() as session:
        await session.execute(update(BatchRow).values(state=BatchState.COMPACTED, content=b""))


async def test_pruned_batches_stay_duplicates_and_the_accounting_stays_exact(tmp_path: Path) -> None:
    clock = ManualClock()
    async with cloud_in(tmp_path, clock, lake={"compact_interval_s": 3600.0}) as cloud:
        vehicle = await cloud.enrolled("VIN1")
        await vehicle.send_manifest(make_manifest())
        for sequence in (1, 2, 3, 4, 6, 7, 8, 9, 10):
            await vehicle.upload(make_batch(sequence))
        evicted = (SequenceRange(STREAM, 5, 5),)
        await vehicle.check_in(make_check_in(ledger=_ledger(9, 96, 12), evicted=evicted))
        await _compacted(cloud)
        before = await cloud.services.accounting.accounting("VIN1")
        assert await prune_receipts(cloud.services.db, clock.now_ns(), 30) == 0
        clock.advance_s(31 * 86_400)
        assert await prune_receipts(cloud.services.db, clock.now_ns(), 0) == 0
        assert await prune_receipts(cloud.services.db, clock.now_ns(), 30) == 5
        assert await _sequences(cloud) == [4, 6, 9, 10]  # beside the hole, and what is not told as acknowledged
        after = await cloud.services.accounting.accounting("VIN1")
        assert msgspec.to_builtins(after) == msgspec.to_builtins(before)
        assert after.gaps[0].items == 12
        again = await vehicle.upload(make_batch(2))
        assert (again.duplicate, again.contiguous) == (True, 10)
        late = await vehicle.upload(make_batch(5))
        assert not late.duplicate
        assert (await vehicle.upload(make_batch(5))).duplicate
        assert await _sequences(cloud) == [4, 5, 6, 9, 10]
        assert await prune_receipts(cloud.services.db, clock.now_ns(), 30) == 0

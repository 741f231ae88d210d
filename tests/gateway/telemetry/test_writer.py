"""What is handed to the writer is on disk when it ends, in batches no larger than allowed, or counted as refused."""

from __future__ import annotations

import errno
from functools import partial
from pathlib import Path

import anyio
import numpy as np
import pytest

from dbc.frames import FrameBatch
from gateway.collect.budget import BudgetConfig, BudgetKeeper
from gateway.runtime import Channel, HealthBoard, OnFull, SystemClock
from gateway.spool import Spool, SpoolLimits
from gateway.telemetry.batcher import Batcher, Piece
from gateway.telemetry.desk import SpoolDesk
from gateway.telemetry.ledger import LedgerKeeper
from gateway.telemetry.writer import Writer, halves, items_of
from gateway.wire.batch import Priority, UploadRule
from gateway.wire.codec import decode_batch
from gateway.wire.ledger import Ledger
from gateway.wire.samples import Event, EventKind, SampleBlock
from tests.gateway.manifests import MANIFEST
from tests.gateway.spool.disks import MemoryDisk

S = 1_000_000_000


def noisy_block(rows: int, seed: int = 1) -> SampleBlock:
    """Rows of noise, which no codec makes small."""
    random = np.random.default_rng(seed)
    return SampleBlock(
        np.arange(rows, dtype=np.int64) * 1_000_000,
        np.zeros(rows, np.int32),
        np.arange(rows, dtype=np.int32),
        np.zeros(rows, np.int32),
        random.integers(0, 2**62, rows, dtype=np.int64),
        np.zeros(rows, np.uint8),
    )


def piece(samples: SampleBlock, priority: Priority = Priority.NORMAL) -> Piece:
    return Piece(priority=priority, upload=UploadRule.ANY, resolution_ns=1_000_000, scheme=("s", 1), samples=samples)


def write(tmp_path: Path, pieces: list[Piece], *, max_batch_bytes: int = 1 << 20, max_bytes: int = 1 << 24) -> Ledger:
    """Run a writer over pieces until it ends; the spool stays on disk."""
    spool = Spool.open(tmp_path / "spool", SpoolLimits(max_bytes=max_bytes, segment_bytes=max_bytes // 8))
    return write_to(spool, pieces, HealthBoard(), max_batch_bytes=max_batch_bytes)


def write_to(spool: Spool, pieces: list[Piece], health: HealthBoard, *, max_batch_bytes: int = 1 << 20) -> Ledger:
    """Run a writer over pieces until it ends, and close the spool."""

    async def scenario() -> Ledger:
        desk = SpoolDesk(spool)
        keeper = LedgerKeeper([], None, 0, kernel_boot="b")
        channel: Channel[list[Piece]] = Channel("pieces", 1000, OnFull.WAIT)
        for each in pieces:
            keeper.select_items(each.items)
            await channel.send([each])
        channel.close()
        writer = Writer(
            inlet=channel,
            batcher=Batcher(dict.fromkeys(Priority, 60 * S), 100_000),
            desk=desk,
            keeper=keeper,
            budget=BudgetKeeper(BudgetConfig()),
            manifest_hash=MANIFEST.hash,
            health=health,
            clock=SystemClock(),
            max_batch_bytes=max_batch_bytes,
            checkpoint_s=1.0,
            drain_s=10.0,
        )
        async with anyio.create_task_group() as tg:
            await tg.start(partial(writer.run))
        ledger = keeper.ledger(1, await desk.totals())
        assert desk.is_finished
        await desk.close()
        return ledger

    return anyio.run(scenario)


def stored(tmp_path: Path, stream: str = "normal") -> list[bytes]:
    spool = Spool.open(tmp_path / "spool")
    found, sequence = [], spool.next_pending(stream, 0)
    while sequence is not None:
        content = spool.read(stream, sequence)
        assert content is not None
        found.append(content)
        sequence = spool.next_pending(stream, sequence)
    spool.close()
    return found


def test_everything_handed_over_is_on_disk_when_the_writer_ends(tmp_path: Path) -> None:
    ledger = write(tmp_path, [piece(noisy_block(100, seed)) for seed in range(5)])
    assert (ledger.unexplained, ledger.buffered_items, ledger.selected_items) == (0, 0, 500)
    (content,) = stored(tmp_path)
    batch = decode_batch(content)
    assert len(batch.samples) == 500
    assert batch.header.manifest_hash == MANIFEST.hash
    assert batch.header.schemes == (("s", 1),)


def test_batch_larger_than_allowed_is_stored_in_parts_that_join_to_the_same(tmp_path: Path) -> None:
    block = noisy_block(4000)
    ledger = write(tmp_path, [piece(block)], max_batch_bytes=8192)
    contents = stored(tmp_path)
    assert len(contents) > 3
    assert max(len(c) for c in contents) <= 8192
    joined = np.concatenate([decode_batch(c).samples.raw for c in contents])
    assert joined.tolist() == block.raw.tolist()
    headers = [decode_batch(c).header for c in contents]
    assert [h.sequence for h in headers] == list(range(1, len(contents) + 1))
    assert [h.items_before for h in headers] == np.cumsum([0, *(h.items for h in headers[:-1])]).tolist()
    assert ledger.unexplained == 0


def test_what_the_disk_takes_no_more_is_counted_as_refused(tmp_path: Path) -> None:
    """A critical batch larger than the whole spool cannot be stored; the next one can."""
    pieces = [piece(noisy_block(20_000), Priority.CRITICAL), piece(noisy_block(10), Priority.NORMAL)]
    ledger = write(tmp_path, pieces, max_bytes=65536)
    assert ledger.refused_items == 20_000
    assert ledger.unexplained == 0
    assert sum(s.stored for s in ledger.streams) == 10


def test_full_spool_evicts_the_oldest_and_counts_it(tmp_path: Path) -> None:
    pieces = [piece(noisy_block(100_000, seed)) for seed in range(4)]
    ledger = write(tmp_path, pieces, max_bytes=1 << 21)
    (normal,) = [s for s in ledger.streams if s.stream == "normal"]
    assert normal.evicted > 0
    assert normal.stored == 400_000 == normal.evicted + normal.pending + normal.acknowledged
    assert ledger.unexplained == 0


@pytest.mark.parametrize("rows", [0, 1, 2, 7])
@pytest.mark.parametrize("frames", [0, 1, 5])
@pytest.mark.parametrize("events", [0, 1, 4])
def test_halves_lose_nothing(rows: int, frames: int, events: int) -> None:
    whole = (
        noisy_block(rows),
        FrameBatch.empty(frames),
        tuple(Event(i, EventKind.TRIGGER, "s") for i in range(events)),
    )
    first, second = halves(whole)
    assert items_of(first) + items_of(second) == items_of(whole)
    assert SampleBlock.concatenate([first[0], second[0]]).raw.tolist() == whole[0].raw.tolist()
    assert first[2] + second[2] == whole[2]
    if max(rows, frames, events) > 1:
        assert items_of(second) < items_of(whole)


class MoodyDisk(MemoryDisk):
    """Refuses to make anything durable for a while."""

    refusals = 0

    def may_fail(self, operation: str) -> None:
        if operation == "sync" and self.refusals:
            self.refusals -= 1
            raise OSError(errno.EIO, "Input/output error")
        super().may_fail(operation)


def test_disk_that_refuses_a_checkpoint_does_not_end_the_gateway() -> None:
    disk = MoodyDisk()
    spool = Spool(disk, SpoolLimits())
    disk.refusals = 1  # the first checkpoint
    health = HealthBoard()
    ledger = write_to(spool, [piece(noisy_block(100, seed)) for seed in range(3)], health)
    assert disk.refusals == 0
    assert ledger.unexplained == 0
    assert sum(s.stored for s in ledger.streams) == 300
    assert health.summary()["writer"] == "ok"


def test_piece_with_more_items_than_a_batch_may_have_is_stored_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long pre-trigger window lets go of everything it held at once."""
    monkeypatch.setattr("gateway.telemetry.writer.MAX_ITEMS", 1000)
    ledger = write(tmp_path, [piece(noisy_block(2500))])
    contents = stored(tmp_path)
    assert [len(decode_batch(c).samples) for c in contents] == [625, 625, 625, 625]
    assert ledger.unexplained == 0

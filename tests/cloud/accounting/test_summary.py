"""The fleet list says of each vehicle what its own accounting says, and stays quick for many."""

from __future__ import annotations

from pathlib import Path
from random import Random

import msgspec
import pytest
from sqlalchemy import delete, event, insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from cloud.accounting.summary import summarise
from cloud.auth.audit import CLI
from cloud.ingest.model import CheckInRow, RangeRow, StreamRow
from cloud.registry.model import VehicleRow
from cloud.registry.vehicles import VehicleFilter
from cloud.spool.model import BatchRow
from gateway.wire.ledger import Ledger, StreamLedger
from tests.cloud.support import EPOCH_NS, Cloud, cloud_in, make_check_in

pytestmark = pytest.mark.anyio


def _stream_values(vehicle: str, stream: str, sequences: list[int], told: int) -> dict[str, object]:
    contiguous = next(n for n in range(100) if n + 1 not in sequences)
    plain = {c.name: 0 for c in StreamRow.__table__.columns}
    return {
        **plain,
        "vehicle_id": vehicle,
        "stream": stream,
        "contiguous": contiguous,
        "ahead": b"",
        "stored_batches": len(sequences),
        "stored_items": 10 * len(sequences),
        "acknowledged_told": told,
    }


def _batch_values(vehicle: str, stream: str, sequence: int) -> dict[str, object]:
    plain: dict[str, object] = {c.name: 0 for c in BatchRow.__table__.columns if c.name != "id"}
    texts = {"manifest_hash": "", "content": b"", "digest": b"", "state": "compacted"}
    return plain | texts | {"vehicle_id": vehicle, "stream": stream, "sequence": sequence, "items": 10}


def _check_in_values(vehicle: str, streams: dict[str, tuple[int, int]]) -> dict[str, object]:
    ledger = Ledger(
        at_ns=EPOCH_NS,
        selected_items=sum(items for items, _ in streams.values()),
        streams=tuple(
            StreamLedger(stream=name, stored=items, acknowledged=items, acknowledged_sequence=sequence)
            for name, (items, sequence) in streams.items()
        ),
    )
    return {
        "vehicle_id": vehicle,
        "received_ns": 1,
        "at_ns": 1,
        "boot_id": "b",
        "boots": 1,
        "count": 1,
        "stopping": False,
        "content": msgspec.json.encode(make_check_in(ledger=ledger)),
    }


async def _fill(cloud: Cloud, vehicle: str, random: Random) -> None:
    """Streams, receipts, explained ranges and a ledger that need not fit together."""
    told: dict[str, tuple[int, int]] = {}
    async with cloud.services.db.write() as session:
        for name in random.sample(["s1/n", "s1/c", "s2/n"], random.randint(0, 3)):
            sequences = sorted(random.sample(range(1, 13), random.randint(0, 8)))
            acknowledged = random.randint(0, 12)
            await session.execute(insert(StreamRow), [_stream_values(vehicle, name, sequences, acknowledged)])
            if sequences:
                await session.execute(insert(BatchRow), [_batch_values(vehicle, name, s) for s in sequences])
            for kind in random.sample(["evicted", "evicted", "lost"], random.randint(0, 3)):
                first = random.randint(1, 12)
                values = {"vehicle_id": vehicle, "stream": name, "kind": kind, "first": first, "told_ns": 1}
                last = random.randint(first, 12)
                await session.execute(sqlite_insert(RangeRow).values(**values, last=last).on_conflict_do_nothing())
            if random.random() < 0.7:
                short = random.choice([name, name.partition("/")[2], "unseen/x"])
                told[short] = (random.randint(0, 100), acknowledged)
        if random.random() < 0.8:
            await session.execute(insert(CheckInRow), [_check_in_values(vehicle, told)])


async def test_the_list_agrees_with_each_vehicles_accounting(tmp_path: Path) -> None:
    seen: set[tuple[bool | None, bool]] = set()
    async with cloud_in(tmp_path) as cloud:
        for vehicle in ("V1", "V2"):
            await cloud.services.vehicles.add(vehicle, CLI)
        for seed in range(40):
            async with cloud.services.db.write() as session:
                for table in (StreamRow, BatchRow, RangeRow, CheckInRow):
                    await session.execute(delete(table))
            for vehicle in ("V1", "V2"):
                await _fill(cloud, vehicle, Random(f"{seed} {vehicle}"))
            async with cloud.services.db.read() as session:
                summaries = await summarise(session, ["V1", "V2"])
            for vehicle, summary in summaries.items():
                whole = await cloud.services.accounting.accounting(vehicle)
                assert (summary.complete, summary.unexplained) == (whole.complete, whole.unexplained), seed
                seen.add((summary.complete, summary.unexplained > 0))
    assert {(None, False), (True, False), (False, True)} <= seen


async def test_a_page_of_vehicles_costs_a_few_statements(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        ids = [f"V{n:04d}" for n in range(120)]
        async with cloud.services.db.write() as session:
            plain = {"display_name": "", "notes": "", "state": "enrolled", "created_ns": 1, "revoked_reason": ""}
            await session.execute(insert(VehicleRow), [{**plain, "id": i} for i in ids])
            for i in ids:
                await session.execute(insert(StreamRow), [_stream_values(i, "s/n", [1, 2, 3], 2)])
                await session.execute(insert(BatchRow), [_batch_values(i, "s/n", s) for s in (1, 2, 3)])
                await session.execute(insert(CheckInRow), [_check_in_values(i, {"n": (20, 2)})])
        statements: list[str] = []
        event.listen(
            cloud.services.db.engine.sync_engine,
            "before_cursor_execute",
            lambda *args: statements.append(args[2]),
        )
        rows, total = await cloud.services.accounting.fleet_rows(VehicleFilter(), 500, 0)
        assert total == 120
        assert all(row.accounted and row.unexplained == 0 for row in rows)
        assert len(statements) < 60  # those of background tasks may be among them

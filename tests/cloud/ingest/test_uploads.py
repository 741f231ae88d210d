"""What the cloud answers to each kind of upload, and what it keeps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import pytest
import zstandard
from sqlalchemy import func, select

from cloud.clock import ManualClock
from cloud.history.telemetry import telemetry_of
from cloud.ingest.model import StreamRow
from cloud.spool.model import BatchRow, BatchState, DeadLetterRow
from gateway.wire.api import BATCHES, MANIFESTS, BatchAck, SequenceRange
from gateway.wire.codec import read_header
from gateway.wire.codec.container import _wrap
from tests.cloud.support import Cloud, cloud_in, make_batch, make_check_in, make_manifest

pytestmark = pytest.mark.anyio


async def letters(cloud: Cloud) -> list[DeadLetterRow]:
    async with cloud.services.db.read() as session:
        return list(await session.scalars(select(DeadLetterRow).order_by(DeadLetterRow.id)))


async def states(cloud: Cloud) -> dict[int, str]:
    async with cloud.services.db.read() as session:
        rows = await session.execute(select(BatchRow.sequence, BatchRow.state).order_by(BatchRow.sequence))
        return {row.sequence: row.state for row in rows}


async def stream_row(cloud: Cloud) -> StreamRow:
    async with cloud.services.db.read() as session:
        row = await session.get(StreamRow, ("VIN1", "spool/normal"))
        assert row is not None
        return row


async def test_same_batch_twice_is_a_duplicate_and_kept_once(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        vehicle = await cloud.enrolled()
        first, second = await vehicle.upload(make_batch(1)), await vehicle.upload(make_batch(1))
        assert (first.duplicate, second.duplicate) == (False, True)
        assert second.contiguous == 1
        row = await stream_row(cloud)
        assert (row.stored_batches, row.stored_items, row.duplicates) == (1, 12, 1)


async def test_other_content_under_a_known_sequence_is_a_conflict(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        vehicle = await cloud.enrolled()
        await vehicle.upload(make_batch(1))
        other = await vehicle.upload(make_batch(1, rows=5))
        assert other.dead_letter.startswith("conflict")
        (letter,) = await letters(cloud)
        assert letter.content == make_batch(1, rows=5)
        row = await stream_row(cloud)
        assert (row.stored_items, row.conflicts) == (12, 1)


async def test_out_of_order_batches_leave_a_gap_until_it_is_filled(tmp_path: Path) -> None:
    clock = ManualClock()
    async with cloud_in(tmp_path, clock) as cloud:
        vehicle = await cloud.enrolled()
        assert [(await vehicle.upload(make_batch(s))).contiguous for s in (1, 4, 2)] == [1, 1, 2]
        assert (await vehicle.check_in(make_check_in())).requests == ()  # too fresh to ask for
        clock.advance_s(3)
        reply = await vehicle.check_in(make_check_in())
        assert reply.requests == (SequenceRange("spool/normal", 3, 3),)
        assert (await vehicle.upload(make_batch(3))).contiguous == 4
        assert (await vehicle.check_in(make_check_in())).requests == ()


async def test_evicted_ranges_close_a_gap_and_are_confirmed(tmp_path: Path) -> None:
    clock = ManualClock()
    async with cloud_in(tmp_path, clock) as cloud:
        vehicle = await cloud.enrolled()
        await vehicle.upload(make_batch(4))
        clock.advance_s(3)
        told = SequenceRange("spool/normal", 1, 2)
        reply = await vehicle.check_in(make_check_in(evicted=(told,)))
        assert reply.evicted_known == (told,)
        assert reply.requests == ()  # the gap has moved; it is asked for after the grace
        clock.advance_s(3)
        reply = await vehicle.check_in(make_check_in())
        assert reply.requests == (SequenceRange("spool/normal", 3, 3),)


async def test_evicted_batch_that_comes_after_all_is_kept(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        vehicle = await cloud.enrolled()
        await vehicle.check_in(make_check_in(evicted=(SequenceRange("spool/normal", 1, 2),)))
        ack = await vehicle.upload(make_batch(2))
        assert (ack.duplicate, ack.dead_letter, ack.contiguous) == (False, "", 2)
        assert (await stream_row(cloud)).stored_items == 12


async def test_what_cannot_be_found_again_is_lost_and_no_longer_asked_for(tmp_path: Path) -> None:
    clock = ManualClock()
    async with cloud_in(tmp_path, clock) as cloud:
        vehicle = await cloud.enrolled()
        await vehicle.upload(make_batch(3))
        clock.advance_s(3)
        lost = SequenceRange("spool/normal", 1, 2)
        assert (await vehicle.check_in(make_check_in(not_found=(lost,)))).requests == ()
        operator = await cloud.logged_in("viewer")
        (gap,) = (await operator.get("/api/v1/vehicles/VIN1/gaps")).json()
        assert (gap["kind"], gap["first"], gap["last"], gap["items"]) == ("lost", 1, 2, 24)


async def test_a_replaced_spool_closes_all_gaps_of_the_old_one(tmp_path: Path) -> None:
    clock = ManualClock()
    async with cloud_in(tmp_path, clock) as cloud:
        vehicle = await cloud.enrolled()
        for sequence in (2, 5):
            await vehicle.upload(make_batch(sequence, stream="old/normal"))
        clock.advance_s(3)
        await vehicle.upload(make_batch(1, stream="new/normal"))
        reply = await vehicle.check_in(make_check_in())
        assert [(r.first, r.last) for r in reply.requests] == [(1, 1), (3, 4)]
        reply = await vehicle.check_in(make_check_in(not_found=(SequenceRange("old/normal", 1, 1),)))
        assert reply.requests == ()


async def test_batches_wait_for_their_manifest_and_go_on_when_it_comes(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        vehicle = await cloud.enrolled()
        assert (await vehicle.upload(make_batch(1))).needs_manifest
        assert (await vehicle.check_in(make_check_in())).needs_manifest
        assert await states(cloud) == {1: BatchState.WAITING_MANIFEST}
        await vehicle.send_manifest(make_manifest())
        assert await states(cloud) == {1: BatchState.STORED}
        assert not (await vehicle.upload(make_batch(2))).needs_manifest
        assert not (await vehicle.check_in(make_check_in())).needs_manifest


async def test_waiting_batches_are_bounded(tmp_path: Path) -> None:
    async with cloud_in(tmp_path, ingest={"max_waiting_per_vehicle": 2}) as cloud:
        vehicle = await cloud.enrolled()
        await vehicle.upload(make_batch(1))
        await vehicle.upload(make_batch(2))
        refused = await vehicle.http.post(BATCHES, content=make_batch(3))
        assert (refused.status_code, "retry-after" in refused.headers) == (503, True)
        await vehicle.send_manifest(make_manifest())
        await vehicle.upload(make_batch(3))


async def test_manifest_under_a_wrong_hash_is_refused(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        vehicle = await cloud.enrolled()
        for url_hash in ("0" * 64, "xyz", make_manifest().hash.hex().upper()):
            answer = await vehicle.http.put(f"{MANIFESTS}/{url_hash}", content=make_manifest().to_bytes())
            assert answer.status_code == 400
        damaged = await vehicle.http.put(f"{MANIFESTS}/{make_manifest().hash.hex()}", content=b"ORMF\x01nonsense")
        assert damaged.status_code == 400


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage", b"ORB", make_batch(1)[:20], b"ORB\x63" + make_batch(1)[4:], make_batch(1, stream="no-slash")],
    ids=["empty", "garbage", "magic-only", "cut-header", "unknown-format", "bad-stream"],
)
async def test_unreadable_header_becomes_a_dead_letter(tmp_path: Path, content: bytes) -> None:
    async with cloud_in(tmp_path) as cloud:
        vehicle = await cloud.enrolled()
        ack = await vehicle.upload(content)
        assert ack.dead_letter.startswith("unreadable")
        (letter,) = await letters(cloud)
        assert letter.content == content
        await vehicle.upload(content)
        assert [one.times_seen for one in await letters(cloud)] == [2]


async def test_unreadable_upload_with_a_claim_counts_its_sequence_as_held(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        vehicle = await cloud.enrolled()
        await vehicle.upload(make_batch(1))
        claim = {"outrider-stream": "spool/normal", "outrider-sequence": "2", "outrider-items": "12"}
        answer = await vehicle.http.post(BATCHES, content=b"garbage", headers=claim)
        ack = msgspec.json.decode(answer.content, type=BatchAck)
        assert (ack.stream, ack.sequence, ack.contiguous) == ("spool/normal", 2, 2)
        assert ack.dead_letter
        row = await stream_row(cloud)
        assert (row.stored_items, row.dead_items) == (24, 12)


async def test_dead_letters_are_bounded_and_drops_are_counted(tmp_path: Path) -> None:
    async with cloud_in(tmp_path, ingest={"max_dead_letters_per_vehicle": 3}) as cloud:
        vehicle = await cloud.enrolled()
        for number in range(5):
            await vehicle.upload(b"garbage %d" % number)
        assert [letter.content for letter in await letters(cloud)] == [b"garbage 2", b"garbage 3", b"garbage 4"]
        operator = await cloud.logged_in("viewer")
        page = (await operator.get("/api/v1/dead-letters")).json()
        assert (page["total"], page["dropped"], page["dropped_bytes"]) == (3, 2, 18)


async def test_body_that_cannot_be_decoded_is_acknowledged_then_moved_to_dead_letters(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        vehicle = await cloud.enrolled()
        await vehicle.send_manifest(make_manifest())
        bomb = _wrap(read_header(make_batch(1)), zstandard.compress(bytes(200 * 1024 * 1024)))
        assert len(bomb) < 100_000
        assert (await vehicle.upload(bomb)).dead_letter == ""
        assert (await vehicle.upload(make_batch(2))).contiguous == 2
        await telemetry_of(cloud.services).compactor.compact(everything=True)
        (letter,) = await letters(cloud)
        assert (letter.stream, letter.sequence, letter.content) == ("spool/normal", 1, bomb)
        assert (await stream_row(cloud)).dead_items == 12
        again = await vehicle.upload(bomb)
        assert again.duplicate
        assert again.dead_letter


async def test_replay_takes_a_dead_letter_as_if_it_had_just_come(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        vehicle = await cloud.enrolled()
        await vehicle.upload(make_batch(1))
        await vehicle.send_manifest(make_manifest())
        (stored,) = await cloud.services.spool.uncompacted(5)
        async with cloud.services.db.write() as session:
            assert await cloud.services.spool.move_to_dead_letters(session, stored, "a bug of ours")
        assert (await stream_row(cloud)).dead_items == 12
        operator = await cloud.logged_in("operator")
        (letter,) = (await operator.get("/api/v1/dead-letters")).json()["items"]
        replayed = await operator.post(f"/api/v1/dead-letters/{letter['id']}/replay")
        assert replayed.json() == {"outcome": "stored", "stream": "spool/normal", "sequence": 1}
        assert await letters(cloud) == []
        row = await stream_row(cloud)
        assert (row.stored_batches, row.stored_items, row.dead_batches, row.dead_items) == (1, 12, 0, 0)


async def test_replay_of_garbage_says_that_it_is_still_unreadable(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        vehicle = await cloud.enrolled()
        await vehicle.upload(b"garbage")
        operator = await cloud.logged_in("operator")
        (letter,) = (await operator.get("/api/v1/dead-letters")).json()["items"]
        answer = await operator.post(f"/api/v1/dead-letters/{letter['id']}/replay")
        assert answer.status_code == 400
        assert "still unreadable" in answer.json()["detail"]
        assert len(await letters(cloud)) == 1


async def test_a_batch_larger_than_allowed_is_refused_by_its_length_alone(tmp_path: Path) -> None:
    async with cloud_in(tmp_path, ingest={"max_batch_bytes": 1000}) as cloud:
        vehicle = await cloud.enrolled()
        answer = await vehicle.http.post(BATCHES, content=bytes(1001))
        assert (answer.status_code, answer.headers["content-type"]) == (413, "application/problem+json")
        assert (await vehicle.http.post(BATCHES, content=bytes(1000))).status_code == 200


async def test_a_body_longer_than_it_said_is_refused(tmp_path: Path) -> None:
    async def endless() -> AsyncIterator[bytes]:  # no Content-Length at all
        for _ in range(50):
            yield bytes(100)

    async with cloud_in(tmp_path, ingest={"max_batch_bytes": 1000}) as cloud:
        vehicle = await cloud.enrolled()
        answer = await vehicle.http.post(BATCHES, content=endless())
        assert answer.status_code == 413
        async with cloud.services.db.read() as session:
            assert await session.scalar(select(func.count()).select_from(BatchRow)) == 0


async def test_batch_rate_is_limited_per_vehicle(tmp_path: Path) -> None:
    clock = ManualClock()
    async with cloud_in(tmp_path, clock, ingest={"batches_per_s": 0.5, "batches_burst": 2}) as cloud:
        vehicle, other = await cloud.enrolled("VIN1"), await cloud.enrolled("VIN2")
        answers = [await vehicle.http.post(BATCHES, content=make_batch(s)) for s in (1, 2, 3)]
        assert [a.status_code for a in answers] == [200, 200, 429]
        assert int(answers[2].headers["retry-after"]) == 2
        await other.upload(make_batch(1))
        clock.advance_s(2)
        await vehicle.upload(make_batch(3))


async def test_byte_rate_is_limited_per_vehicle(tmp_path: Path) -> None:
    clock = ManualClock()
    size = len(make_batch(1))
    async with cloud_in(tmp_path, clock, ingest={"bytes_per_s": 10.0, "bytes_burst": size}) as cloud:
        vehicle = await cloud.enrolled()
        await vehicle.upload(make_batch(1))
        assert (await vehicle.http.post(BATCHES, content=make_batch(2))).status_code == 429
        clock.advance_s(1)
        await vehicle.upload(make_batch(2))


async def test_a_full_disk_is_answered_with_try_later(tmp_path: Path) -> None:
    async with cloud_in(tmp_path, storage={"min_free_bytes": 1 << 62}) as cloud:
        vehicle = await cloud.enrolled()
        answer = await vehicle.http.post(BATCHES, content=make_batch(1))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")
        assert (await cloud.operator.get("/health/ready")).status_code == 503


async def test_a_stream_torn_into_too_many_ranges_must_fill_its_gaps_first(tmp_path: Path) -> None:
    async with cloud_in(tmp_path, ingest={"max_ranges_per_stream": 3}) as cloud:
        vehicle = await cloud.enrolled()
        for sequence in (2, 4, 6):
            await vehicle.upload(make_batch(sequence))
        assert (await vehicle.http.post(BATCHES, content=make_batch(8))).status_code == 503
        await vehicle.upload(make_batch(3))
        await vehicle.upload(make_batch(8))


async def test_the_number_of_streams_is_bounded(tmp_path: Path) -> None:
    async with cloud_in(tmp_path, ingest={"max_streams_per_vehicle": 2}) as cloud:
        vehicle = await cloud.enrolled()
        for name in ("a/normal", "b/normal"):
            await vehicle.upload(make_batch(1, stream=name))
        assert (await vehicle.http.post(BATCHES, content=make_batch(1, stream="c/normal"))).status_code == 429


async def test_the_vehicle_in_the_certificate_is_the_only_one_that_counts(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        vehicle = await cloud.enrolled("VIN1")
        await cloud.enrolled("VIN2")
        headers = {"outrider-vehicle": "VIN2", "x-vehicle": "VIN2"}
        answer = await vehicle.http.post(f"{BATCHES}?vehicle=VIN2", content=make_batch(1), headers=headers)
        assert answer.status_code == 200
        async with cloud.services.db.read() as session:
            assert list(await session.scalars(select(BatchRow.vehicle_id))) == ["VIN1"]


async def test_many_uploads_share_few_transactions(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        vehicle = await cloud.enrolled()
        acks = await asyncio.gather(*(vehicle.upload(make_batch(s)) for s in range(1, 41)))
        assert sorted(a.sequence for a in acks) == list(range(1, 41))
        assert (await stream_row(cloud)).contiguous == 40
        assert cloud.services.writer.statistics.transactions < 40


async def test_an_error_of_ours_costs_one_upload_and_not_the_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cloud.ingest import writer

    honest = writer._Transaction.take

    def broken(self: writer._Transaction, upload: writer.Upload) -> writer.Outcome:
        if upload.header.sequence == 3:
            raise OverflowError("a number SQLite does not take")
        return honest(self, upload)

    monkeypatch.setattr(writer._Transaction, "take", broken)
    async with cloud_in(tmp_path) as cloud:
        vehicle = await cloud.enrolled()
        answers = await asyncio.gather(*(vehicle.http.post(BATCHES, content=make_batch(s)) for s in range(1, 6)))
        assert [a.status_code for a in answers] == [200, 200, 500, 200, 200]
        assert sorted(await states(cloud)) == [1, 2, 4, 5]


async def test_methods_other_than_post_are_refused(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        vehicle = await cloud.enrolled()
        answer: httpx.Response = await vehicle.http.get(BATCHES)
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")

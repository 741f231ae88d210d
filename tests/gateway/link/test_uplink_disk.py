"""A disk that fails to read delays the uplink and ends nothing; a damaged batch is counted and passed over."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.spool import SpoolError
from tests.chain.roadside import LinkedVehicle, until
from tests.gateway.link.answers import lying
from tests.gateway.link.test_hostile_answers import acknowledge, enrolled

pytestmark = pytest.mark.anyio


async def test_read_error_is_waited_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enrolled(tmp_path)
    async with lying(acknowledge) as liar:
        vehicle = LinkedVehicle(tmp_path, url=liar.url, parts=("uplink",))
        refusals = iter(range(6))
        read = vehicle.spool.read

        def moody(stream: str, sequence: int) -> bytes | None:
            if next(refusals, None) is not None:
                raise SpoolError("spool: Input/output error")
            return read(stream, sequence)

        monkeypatch.setattr(vehicle.spool, "read", moody)
        async with vehicle.running():
            await vehicle.store("normal", 5)
            await until("the trouble", lambda: "Input/output error" in vehicle.says("uplink"))
            await vehicle.delivered()
            await until("health", lambda: vehicle.says("uplink") == "ok")


async def test_batch_damaged_on_disk_is_evicted_and_the_others_arrive(tmp_path: Path) -> None:
    enrolled(tmp_path)
    async with lying(acknowledge) as liar:
        vehicle = LinkedVehicle(tmp_path, url=liar.url, parts=("uplink",))
        await vehicle.store("normal", 5, rows=100)
        await vehicle.desk.sync()
        (segment,) = (tmp_path / "spool").glob("normal-*")
        content = bytearray(segment.read_bytes())
        content[len(content) // 2] ^= 0xFF
        segment.write_bytes(content)
        async with vehicle.running():
            await vehicle.delivered()
            totals = (await vehicle.desk.totals())["normal"]
            assert (totals.acknowledged, totals.evicted) == (4 * 400, 400)
            assert vehicle.queue.under_way == 0

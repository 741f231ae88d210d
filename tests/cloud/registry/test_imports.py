"""Many vehicles at once, and the traits of one: all or nothing, and what is wrong is told."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.errors import InvalidInput
from cloud.registry.imports import check_lines, read_csv, read_json
from tests.cloud.support import cloud_in

IMPORT = "/api/v1/vehicles/import"
CSV = {"content-type": "text/csv; charset=utf-8"}


@pytest.mark.anyio
async def test_an_import_adds_new_vehicles_and_changes_known_ones(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        client = await cloud.logged_in("operator")
        body = {"id": "V1", "tags": ["old"], "traits": {"model": "van", "timezone": "Europe/Vienna"}}
        assert (await client.post("/api/v1/vehicles", json=body)).status_code == 201
        table = "id,tags,region,is_critical\nV1,pilot north,alps,\nV2,,south,yes\n"
        answer = await client.post(IMPORT, content=table, headers=CSV)
        assert answer.json() == {"added": 1, "changed": 1}
        first = (await client.get("/api/v1/vehicles/V1")).json()
        assert (first["model"], first["region"], first["tags"]) == ("van", "alps", ["north", "pilot"])
        assert (first["is_critical"], first["timezone"]) == (False, "Europe/Vienna")
        assert (await client.get("/api/v1/vehicles/V2")).json()["is_critical"] is True
        as_json = [{"id": "V2", "is_critical": False, "tags": []}, {"id": "V3", "usage": "taxi"}]
        assert (await client.post(IMPORT, json=as_json)).json() == {"added": 1, "changed": 1}
        assert (await client.get("/api/v1/vehicles/V3")).json()["usage"] == "taxi"
        assert (await (await cloud.logged_in("viewer")).post(IMPORT, json=as_json)).status_code == 403
        changed = await client.patch("/api/v1/vehicles/V3", json={"traits": {"timezone": "Mars/Base"}})
        assert (changed.status_code, "no IANA time zone" in changed.text) == (400, True)


WRONG = [
    ("vin,region\nV1,alps\n", "unknown columns"),
    ("id,region\nV1,alps,extra\n", "as many cells"),
    ("id,region\nV1\n", "as many cells"),
    ("id,is_critical\nV1,maybe\n", "yes or no"),
    ("id,timezone\nV9,Mars/Base\nV1,Europe/Vienna\n", "vehicle 1 ('V9')"),
    ("id,region\nV1,a\nV1,b\n", "named twice"),
    ("id,region\n,a\n", "vehicle 1 ('')"),
    ("id\n", "1 to 20000"),
    ('id\n"V1', "no CSV"),
]


@pytest.mark.anyio
async def test_one_wrong_line_and_nothing_is_imported(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        client = await cloud.logged_in("operator")
        for table, words in WRONG:
            answer = await client.post(IMPORT, content=table, headers=CSV)
            assert (answer.status_code, table) == (400, table)
            assert words in answer.text
        assert (await client.get("/api/v1/vehicles")).json()["total"] == 0


@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_nothing_but_our_error(content: bytes) -> None:
    readers: list[Any] = [read_csv, read_json]
    for reader in readers:
        with contextlib.suppress(InvalidInput):
            check_lines(reader(content))

"""An older database becomes a new one in one step or not at all."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy.engine import Connection

import cloud.app  # noqa: F401 - all tables
from cloud.db import Database
from cloud.errors import StorageError
from cloud.migrations import STEPS, schema_version

pytestmark = pytest.mark.anyio


def _old(path: Path) -> None:
    """A database as version 1 left it: no ``attempts``, ``receipts_through``, ``software``, traits."""
    connection = sqlite3.connect(path)
    connection.execute("DROP INDEX vehicles_by_enrolment")
    traits = [("vehicles", name) for name in ("model", "region", "usage", "is_critical", "timezone")]
    newer = [("batches", "attempts"), ("streams", "receipts_through"), ("check_ins", "software"), *traits]
    for table, column in newer:
        connection.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
    connection.execute("INSERT INTO streams VALUES ('V','s/n',7,x'',7,7,7,0,0,0,0,0,0,0,0)")
    for vehicle, content in (("V", b'{"software":"1.2.3"}'), ("W", b"{damaged")):
        connection.execute("INSERT INTO check_ins VALUES (?,1,1,'b',1,1,0,?)", (vehicle, content))
    connection.execute("PRAGMA user_version=1")
    connection.commit()
    connection.close()


def _state(path: Path) -> tuple[int, set[str]]:
    connection = sqlite3.connect(path)
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    columns = {row[1] for row in connection.execute("PRAGMA table_info(streams)")}
    connection.close()
    return version, columns


async def _open(path: Path, *more: object) -> list[str]:
    db = Database(path)
    try:
        return await db.open((*STEPS, *more))  # type: ignore[arg-type]  # tests hand over plain functions
    finally:
        await db.close()


async def test_a_new_database_needs_no_step_and_an_old_one_gets_all_and_keeps_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "cloud.db"
    assert await _open(path) == []
    _old(path)
    assert len(await _open(path)) == len(STEPS)
    assert await _open(path) == []
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT contiguous, receipts_through FROM streams").fetchall() == [(7, 0)]
    told = connection.execute("SELECT vehicle_id, software FROM check_ins ORDER BY vehicle_id").fetchall()
    assert told == [("V", "1.2.3"), ("W", "")]
    connection.close()
    assert _state(path)[0] == schema_version()


async def test_a_step_that_fails_leaves_the_old_database(tmp_path: Path) -> None:
    def broken(connection: Connection) -> None:
        connection.exec_driver_sql("CREATE TABLE half_done (x)")
        connection.exec_driver_sql("ALTER TABLE nothing ADD COLUMN x")

    path = tmp_path / "cloud.db"
    await _open(path)
    _old(path)
    with pytest.raises(StorageError, match="nothing"):
        await _open(path, broken)
    version, columns = _state(path)
    assert version == 1
    assert "receipts_through" not in columns
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT * FROM sqlite_master WHERE name='half_done'").fetchall() == []
    connection.close()


@pytest.mark.parametrize("version", [0, 99])
async def test_a_database_of_another_program_or_of_a_newer_version_is_refused(tmp_path: Path, version: int) -> None:
    path = tmp_path / "cloud.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE recipes (x)")
    connection.execute(f"PRAGMA user_version={version}")
    connection.commit()
    connection.close()
    with pytest.raises(StorageError):
        await _open(path)

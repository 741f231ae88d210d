"""Forward migrations of the cloud's database: ordered steps, each from one schema version to the next.

``Database.open`` runs what is missing, creates new tables and sets ``user_version``, all in one transaction: an upgrade
that fails or is cut short leaves the old database. Steps are never changed once released. A new table needs no step;
a new column, index or rule for existing rows does. There is no way back but a backup.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import inspect
from sqlalchemy.engine import Connection

from cloud.errors import StorageError

Step = Callable[[Connection], None]


def _count_attempts_and_prune_receipts(connection: Connection) -> None:
    """1 → 2: how often compaction failed for a batch, and up to where a stream's receipts were removed."""
    for table, column in (("batches", "attempts"), ("streams", "receipts_through")):
        connection.exec_driver_sql(f"ALTER TABLE {table} ADD COLUMN {column} BIGINT NOT NULL DEFAULT 0")


def _tell_software_of_check_ins(connection: Connection) -> None:
    """2 → 3: the software a vehicle last reported, as a column to select vehicles by."""
    connection.exec_driver_sql("ALTER TABLE check_ins ADD COLUMN software VARCHAR(100) NOT NULL DEFAULT ''")
    connection.exec_driver_sql(
        "UPDATE check_ins SET software = substr(coalesce(CAST(content AS TEXT) ->> '$.software', ''), 1, 100)"
        " WHERE json_valid(CAST(content AS TEXT))"
    )


def _give_vehicles_traits(connection: Connection) -> None:
    """3 → 4: model, region, usage, time zone and weight of a vehicle, and an index to find the newly enrolled."""
    for column in ("model", "region", "usage", "timezone"):
        connection.exec_driver_sql(f"ALTER TABLE vehicles ADD COLUMN {column} VARCHAR(64) NOT NULL DEFAULT ''")
    connection.exec_driver_sql("ALTER TABLE vehicles ADD COLUMN is_critical BOOLEAN NOT NULL DEFAULT 0")
    connection.exec_driver_sql("CREATE INDEX IF NOT EXISTS vehicles_by_enrolment ON vehicles (enrolled_ns)")


#: ``STEPS[n]`` leads from version ``n + 1`` to ``n + 2``.
STEPS: tuple[Step, ...] = (_count_attempts_and_prune_receipts, _tell_software_of_check_ins, _give_vehicles_traits)


def schema_version(steps: Sequence[Step] = STEPS) -> int:
    """The version this program works with."""
    return 1 + len(steps)


def migrate(connection: Connection, steps: Sequence[Step] = STEPS) -> list[str]:
    """Bring an open write transaction's database to the newest version, but for new tables.

    Returns:
        The names of the steps that ran; none for a new database.

    Raises:
        StorageError: the database belongs to another program.
    """
    version = int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())
    ran: list[str] = []
    if version == 0 and inspect(connection).get_table_names():
        raise StorageError("the database has tables, but not of this program")
    for step in steps[version - 1 :] if version else ():
        step(connection)
        ran.append(step.__name__.strip("_"))
    connection.exec_driver_sql(f"PRAGMA user_version={schema_version(steps)}")
    return ran

"""The cloud's database: one SQLite file in WAL mode behind async SQLAlchemy.

Readers never wait. Writers queue in this process on ``write_lock`` (fair, no polling) and take SQLite's write lock at
``BEGIN IMMEDIATE``, so a transaction never fails half-way because another writer came first. Keep write transactions
short: ingest waits for them. Nothing here knows any table; models derive from ``Base``.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import create_engine, event, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DatabaseError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Session

from cloud.errors import StorageError
from cloud.migrations import STEPS, Step, migrate, schema_version

PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON")


T = TypeVar("T")


class Base(DeclarativeBase):
    """Base of every table of the cloud."""


def connect(path: Path, *, busy_timeout_ms: int) -> sqlite3.Connection:
    """A plain connection with the same settings, for a thread that writes without SQLAlchemy."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    _set_pragmas(connection, busy_timeout_ms)
    return connection


def _set_pragmas(connection: Any, busy_timeout_ms: int) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={busy_timeout_ms}")
    for pragma in PRAGMAS:
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


class Database:
    """Sessions for reading and for writing.

    ``async with db.read() as session`` sees one consistent snapshot. ``async with db.write() as session`` commits when
    the block ends and rolls back when it raises; at most one such block runs at a time in the process.
    """

    def __init__(self, path: Path, *, busy_timeout_ms: int = 10_000) -> None:
        self.path = path
        self.busy_timeout_ms = busy_timeout_ms
        self.write_lock = asyncio.Lock()
        self.engine: AsyncEngine = create_async_engine(f"sqlite+aiosqlite:///{path}", pool_size=8, max_overflow=16)
        self._writer = self.engine.execution_options(outrider_write=True)

        self._threads = create_engine(f"sqlite:///{path}", pool_size=8, max_overflow=16)

        @event.listens_for(self._threads, "connect")
        @event.listens_for(self.engine.sync_engine, "connect")
        def _connected(connection: Any, _record: object) -> None:
            connection.isolation_level = None  # we say BEGIN ourselves; the driver's own BEGIN comes too late
            _set_pragmas(connection, busy_timeout_ms)

        @event.listens_for(self._threads, "begin")
        @event.listens_for(self.engine.sync_engine, "begin")
        def _begin(connection: Connection) -> None:
            write = connection.get_execution_options().get("outrider_write", False)
            connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    async def open(self, steps: Sequence[Step] = STEPS) -> list[str]:
        """Create what is missing and bring an older database up to date, in one transaction.

        Returns:
            The migration steps that ran.

        Raises:
            StorageError: the file is no database, cannot be written, or was made by a newer version.
        """
        try:
            async with self.engine.connect() as connection:
                version = (await connection.execute(text("PRAGMA user_version"))).scalar_one()
            if version > schema_version(steps):
                raise StorageError(f"{self.path}: schema version {version}, this program knows {schema_version(steps)}")
            async with self.write() as session:
                ran = await session.run_sync(lambda s: migrate(s.connection(), steps))
                await session.run_sync(lambda s: Base.metadata.create_all(s.connection()))
            return ran
        except DatabaseError as error:
            raise StorageError(f"{self.path}: {error.orig}") from error

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """A session that sees one snapshot; what it changes is rolled back."""
        async with AsyncSession(self.engine, expire_on_commit=False) as session:
            yield session

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        """The one writing session at a time; durable when the block has ended without an error."""
        async with self.write_lock, AsyncSession(self._writer, expire_on_commit=False) as session, session.begin():
            yield session

    async def read_in_thread(self, work: Callable[[Session], T]) -> T:
        """Like ``read``, for work of many small statements: all of it in one thread, without a hop for each."""
        return await asyncio.to_thread(self._work, work, False)

    async def write_in_thread(self, work: Callable[[Session], T]) -> T:
        """Like ``write``, the same way. ``work`` runs to its end even if its caller is cancelled."""
        async with self.write_lock:
            return await asyncio.to_thread(self._work, work, True)

    def _work(self, work: Callable[[Session], T], write: bool) -> T:
        engine = self._threads.execution_options(outrider_write=True) if write else self._threads
        with Session(engine, expire_on_commit=False) as session:
            done = work(session)
            if write:
                session.commit()
            return done

    async def close(self) -> None:
        """Close all connections."""
        await self.engine.dispose()
        self._threads.dispose()

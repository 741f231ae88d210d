"""Database and lake folder belong together: both carry the same mark, and a pair that does not match is not opened.

The lake removes files its database does not know, since they are what a crash left. With another database (one made
anew, another cloud's, an older name of the folder) that would be everything: so it is refused before.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from pathlib import Path

from sqlalchemy import func, select

from cloud.db import Database
from cloud.errors import StorageError
from cloud.lake.tables import FileRow, LakeMarkRow

NAME = "lake-id"


async def check_mark(database: Database, root: Path) -> None:
    """Compare, and mark a new pair.

    Raises:
        StorageError: they do not belong together; says what to do.
        OSError: the folder cannot be read or written.
    """
    found = await asyncio.to_thread(_read, root)
    async with database.read() as session:
        known = await session.scalar(select(LakeMarkRow.mark))
        files = await session.scalar(select(func.count()).select_from(FileRow)) or 0
    if known is None:
        if files == 0 and await asyncio.to_thread(_has_files, root):
            raise StorageError(
                f"{root} holds files, but the database {database.path} knows none: restore the database that belongs"
                " to them, or name another folder under storage.lake"
            )
        mark = found or secrets.token_hex(16)
        await asyncio.to_thread(_write, root, mark)
        async with database.write() as session:
            session.add(LakeMarkRow(id=1, mark=mark))
    elif found is None and files == 0:
        await asyncio.to_thread(_write, root, known)
    elif found is None:
        raise StorageError(
            f"{root} is not the lake of {database.path}, which has {files} files: is it mounted? To go on without"
            f" them, write {known} to {root / NAME}"
        )
    elif found != known:
        raise StorageError(f"{root} is the lake of another database than {database.path}")


def _read(root: Path) -> str | None:
    try:
        return (root / NAME).read_text("ascii").strip()
    except FileNotFoundError:
        return None


def _has_files(root: Path) -> bool:
    return next(root.rglob("*.parquet"), None) is not None


def _write(root: Path, mark: str) -> None:
    temporary = root / f"{NAME}.tmp"
    with temporary.open("w", encoding="ascii") as file:
        file.write(mark + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(root / NAME)

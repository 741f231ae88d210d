"""Words for codes: ours, and before them the texts an admin has loaded."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from sqlalchemy import delete, func, select
from sqlalchemy.dialects.sqlite import insert

from cloud.auth.audit import Actor, record
from cloud.clock import Clock
from cloud.db import Database
from cloud.diagnostics.model import FaultTextRow
from cloud.errors import InvalidInput
from gateway.wire.dtc_texts import Defect, DtcText, TextsError, describe_dtc, load_texts

ROWS_AT_ONCE = 500


class LoadedView(msgspec.Struct, frozen=True):
    """What became of an uploaded file."""

    stored: int
    bad: int  # lines left out, of which the first are in ``defects``
    replaced: int  # lines of the file that a later one of the same code overrode
    total: int  # texts there are now
    defects: list[Defect]


class FaultTexts:
    """The admin's texts, in memory; few thousand short strings at most times."""

    def __init__(self, db: Database, clock: Clock) -> None:
        self._db, self._clock = db, clock
        self._texts: dict[int, str] = {}

    async def open(self) -> None:
        """Read them from the database."""
        async with self._db.read() as session:
            rows = await session.execute(select(FaultTextRow.key, FaultTextRow.text))
            self._texts = {int(key): str(text) for key, text in rows}

    @property
    def texts(self) -> Mapping[int, str]:
        """All of them; see ``gateway.wire.dtc_texts.Texts``."""
        return self._texts

    def describe(self, code: int) -> DtcText:
        """A code in words."""
        return describe_dtc(code, self._texts)

    def matching(self, words: str, limit: int = 500) -> list[int]:
        """Loaded codes whose text has these words; ours are found by the caller."""
        needle = words.lower()
        return [key for key, text in self._texts.items() if needle in text.lower()][:limit]

    async def load(self, content: bytes, name: str, actor: Actor, *, replace: bool) -> LoadedView:
        """Add an admin's file; with ``replace`` all earlier texts go.

        Raises:
            InvalidInput: nothing in it can be used.
        """
        try:
            loaded = load_texts(content, name)
        except TextsError as error:
            raise InvalidInput(str(error), where="body") from error
        rows = [{"key": key, "text": text} for key, text in loaded.texts.items()]
        async with self._db.write() as session:
            if replace:
                await session.execute(delete(FaultTextRow))
            for start in range(0, len(rows), ROWS_AT_ONCE):
                statement = insert(FaultTextRow).values(rows[start : start + ROWS_AT_ONCE])
                await session.execute(
                    statement.on_conflict_do_update(index_elements=["key"], set_={"text": statement.excluded.text})
                )
            total = await session.scalar(select(func.count()).select_from(FaultTextRow)) or 0
            detail = f"{len(rows)} texts, {loaded.bad} lines left out" + (", replacing all" if replace else "")
            record(session, actor, self._clock.now_ns(), "faults.texts", name[:200] or "-", detail)
        await self.open()
        return LoadedView(len(rows), loaded.bad, loaded.replaced, total, list(loaded.defects))

    async def clear(self, actor: Actor) -> None:
        """Go back to our own words."""
        async with self._db.write() as session:
            await session.execute(delete(FaultTextRow))
            record(session, actor, self._clock.now_ns(), "faults.texts", "-", "all removed")
        await self.open()

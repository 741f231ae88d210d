"""Numbers for names: the lake's series and definitions, kept in the database and mirrored in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from cloud.db import Database
from cloud.lake.definitions import Definition, decode_definition, definitions_of
from cloud.lake.tables import DefinitionRow, SeriesRow
from gateway.wire.manifest import Manifest

MAX_MANIFESTS = 64  # translated manifests kept in memory


class ManifestSource(Protocol):
    """Where manifests come from."""

    async def get(self, manifest_hash: str) -> Manifest | None:
        """The manifest with that hash, or None when nobody has sent it yet."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Translation:
    """What a manifest's numbers mean in the lake: ``series[n]`` and ``definition[n]`` of signal number ``n``."""

    series: NDArray[np.int32]
    definition: NDArray[np.int32]
    buses: tuple[str, ...]


class Catalog:
    """Series and definitions by number and by name. Numbers are never reused or changed."""

    def __init__(self, database: Database, manifests: ManifestSource) -> None:
        self._database = database
        self._manifests = manifests
        self._translations: OrderedDict[str, Translation] = OrderedDict()
        self._definition_ids: dict[bytes, int] = {}
        self.definitions: dict[int, Definition] = {}
        self.series_of: dict[int, int] = {}  # definition → series
        self.names: dict[int, str] = {}  # series → name
        self.series: dict[str, int] = {}  # name → series

    async def load(self) -> None:
        """Read all numbers given so far; once, before use."""
        async with self._database.read() as session:
            for number, name in await session.execute(select(SeriesRow.id, SeriesRow.name)):
                self._add_series(number, name)
            for row in await session.scalars(select(DefinitionRow)):
                self._add_definition(row.id, row.series_id, decode_definition(row.content))

    def _add_series(self, number: int, name: str) -> None:
        self.names[number] = name
        self.series[name] = number

    def _add_definition(self, number: int, series: int, definition: Definition) -> None:
        self.definitions[number] = definition
        self.series_of[number] = series
        self._definition_ids[definition.digest] = number

    def newest_definition(self, series: int) -> Definition | None:
        """The definition of a series that was registered last."""
        numbers = [n for n, s in self.series_of.items() if s == series]
        return self.definitions[max(numbers)] if numbers else None

    async def translation(self, hash_hex: str) -> Translation | None:
        """The tables for the manifest with that hash; None when the manifest is not known yet."""
        known = self._translations.get(hash_hex)
        if known is not None:
            self._translations.move_to_end(hash_hex)
            return known
        manifest = await self._manifests.get(hash_hex)
        if manifest is None:
            return None
        definition = await self._number(definitions_of(manifest))
        series = np.array([self.series_of[int(n)] for n in definition], np.int32)
        translation = Translation(series, definition, manifest.buses)
        self._translations[hash_hex] = translation
        while len(self._translations) > MAX_MANIFESTS:
            self._translations.popitem(last=False)
        return translation

    async def _number(self, definitions: Sequence[Definition]) -> NDArray[np.int32]:
        """Numbers of the definitions; those not seen before get new ones, durably."""
        missing = {d.digest: d for d in definitions if d.digest not in self._definition_ids}
        if missing:
            added_series: list[SeriesRow] = []
            added: list[tuple[DefinitionRow, Definition]] = []
            async with self._database.write() as session:
                names = sorted({d.name for d in missing.values()} - self.series.keys())
                added_series = [SeriesRow(name=name) for name in names]
                session.add_all(added_series)
                await session.flush()
                numbers = self.series | {row.name: row.id for row in added_series}
                added = [
                    (DefinitionRow(series_id=numbers[d.name], digest=digest, content=d.encoded), d)
                    for digest, d in missing.items()
                ]
                session.add_all(row for row, _ in added)
            for series_row in added_series:
                self._add_series(series_row.id, series_row.name)
            for row, definition in added:
                self._add_definition(row.id, row.series_id, definition)
        return np.array([self._definition_ids[d.digest] for d in definitions], np.int32)

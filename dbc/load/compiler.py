"""Several databases on several buses to one manifest."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from dbc.load.files import load_file
from dbc.load.model import Defect, LoadedDatabase, defect
from dbc.load.names import unique_name
from dbc.manifest import FORMAT, Manifest, Message

MAX_BUSES = 256  # FrameBatch.bus is one byte
BUS_NAME = re.compile(r"[A-Za-z0-9_-]+")


def compile_manifest(
    buses: Mapping[str, Sequence[Path | str]], name: str = "vehicle"
) -> tuple[Manifest, tuple[LoadedDatabase, ...]]:
    """Load the files of each bus and compile them; the manifest and what each file gave, in the order given.

    The same files in the same order give the same bytes and hash, wherever they lie. Where two files of a bus define
    one identifier or name, the first file keeps it; the report of the later says so.

    Raises:
        OSError: a file cannot be read.
        ValueError: a bus name is no word of letters, digits, ``_`` and ``-``, or there are more than 256 buses.
    """
    return compile_databases({bus: [load_file(path) for path in paths] for bus, paths in buses.items()}, name)


def compile_databases(
    buses: Mapping[str, Sequence[LoadedDatabase]], name: str = "vehicle"
) -> tuple[Manifest, tuple[LoadedDatabase, ...]]:
    """``compile_manifest`` for what is loaded already."""
    if len(buses) > MAX_BUSES:
        raise ValueError(f"{len(buses)} buses, at most {MAX_BUSES}")
    for bus in buses:
        if not BUS_NAME.fullmatch(bus):
            raise ValueError(f"bus name {bus!r}: use letters, digits, _ and -")
    messages: list[Message] = []
    reports: list[LoadedDatabase] = []
    for index, (bus, databases) in enumerate(buses.items()):
        merge = _BusMerge(index, bus)
        reports.extend(merge.add(database) for database in databases)
        messages.extend(merge.messages)
    return Manifest(FORMAT, name, tuple(buses), tuple(messages)), tuple(reports)


class _BusMerge:
    """The messages of one bus, gathered file by file."""

    def __init__(self, index: int, bus: str) -> None:
        self._index = index
        self._bus = bus
        self.messages: list[Message] = []
        self._by_id: dict[tuple[int, bool], tuple[Message, str]] = {}
        self._names: set[str] = set()

    def add(self, database: LoadedDatabase) -> LoadedDatabase:
        """Take in one file; its report with the defects that only show beside the other files."""
        defects: list[Defect] = []
        for message in self._of_this_bus(database, defects):
            if self._is_new(message, database.path, defects):
                self._keep(message, database.path, defects)
        return replace(database, defects=database.defects + tuple(defects)) if defects else database

    def _of_this_bus(self, database: LoadedDatabase, defects: list[Defect]) -> list[Message]:
        if len(database.buses) <= 1:
            return list(database.messages)
        if self._bus in database.buses:
            wanted = database.buses.index(self._bus)
            return [message for message in database.messages if message.bus == wanted]
        text = f"the file has the buses {', '.join(database.buses)}, none called {self._bus}; all of them are put on it"
        defects.append(defect("unknown_bus", 0, text, ""))
        return list(database.messages)

    def _is_new(self, message: Message, path: str, defects: list[Defect]) -> bool:
        first = self._by_id.setdefault((message.can_id, message.extended), (message, path))
        if first[0] is message:
            return True
        if msgspec.structs.replace(message, bus=0) == msgspec.structs.replace(first[0], bus=0):
            text = f"{first[1]} has the very same message"
            defects.append(defect("repeated_message", 0, text, message.name))
        else:
            text = f"0x{message.can_id:X} is already that of {first[0].name} in {first[1]}; this one is dropped"
            defects.append(defect("duplicate_id", 0, text, message.name))
        return False

    def _keep(self, message: Message, path: str, defects: list[Defect]) -> None:
        name = unique_name(message.name, self._names, f"{message.can_id:X}")
        if name != message.name:
            text = f"another message on bus {self._bus} has this name; this one is called {name}"
            defects.append(defect("duplicate_message_name", 0, text, message.name))
        self._names.add(name)
        self.messages.append(msgspec.structs.replace(message, name=name, bus=self._index))

"""Reading database files of all formats."""

from __future__ import annotations

from pathlib import Path

from dbc.load.build import build_messages
from dbc.load.model import DefectLog, LoadedDatabase
from dbc.load.parser import parse_dbc
from dbc.load.text import decode_text
from dbc.manifest import MAGIC

#: Formats that cantools reads for us.
FOREIGN_FORMATS = ("kcd", "sym", "arxml")
MAX_FILE_BYTES = 256 * 1024 * 1024


def load_dbc(content: bytes, path: str = "") -> LoadedDatabase:
    """The sound part of a DBC file's content, and its defects. Never raises, whatever the bytes."""
    log = DefectLog()
    if content.startswith(MAGIC[:-1]):
        log.add("not_a_database", 0, "the file is a compiled manifest")
        return LoadedDatabase(path=path, format="dbc", defects=log.finish())
    parsed = parse_dbc(decode_text(content, log), log)
    messages = build_messages(parsed, log)
    if not messages:
        log.add("no_messages", 0, "the file has no message that could be used")
    return LoadedDatabase(path=path, format="dbc", version=parsed.version, messages=messages, defects=log.finish())


def load_file(path: Path | str) -> LoadedDatabase:
    """Load a database file by its suffix (``.kcd``, ``.sym``, ``.arxml``; anything else is read as DBC).

    What is wrong with the content is in the result's ``defects``.

    Raises:
        OSError: the file cannot be read.
    """
    file = Path(path)
    if file.stat().st_size > MAX_FILE_BYTES:
        log = DefectLog()
        log.add("file_too_large", 0, f"the file has more than {MAX_FILE_BYTES} bytes and was not read")
        return LoadedDatabase(path=str(path), format=_format_of(file), defects=log.finish())
    content = file.read_bytes()
    if _format_of(file) == "dbc":
        return load_dbc(content, str(path))
    try:  # here, so that DBC files load where cantools is not installed
        from dbc.load.foreign import load_foreign
    except ModuleNotFoundError as error:
        log = DefectLog()
        log.add("unreadable", 0, f"reading {_format_of(file)} files needs the Python package {error.name}")
        return LoadedDatabase(path=str(path), format=_format_of(file), defects=log.finish())
    return load_foreign(content, _format_of(file), str(path))


def _format_of(file: Path) -> str:
    suffix = file.suffix.lower().removeprefix(".")
    return suffix if suffix in FOREIGN_FORMATS else "dbc"

"""Defect reports as text for people and as plain data for machines."""

from __future__ import annotations

from collections.abc import Iterator

from dbc.load.codes import Severity
from dbc.load.model import Defect, LoadedDatabase

Json = dict[str, object]


def counts(database: LoadedDatabase) -> str:
    """``2 errors, 1 warning, 0 notes``."""
    return ", ".join(_count(database.count(severity), severity.value) for severity in Severity)


def summary(database: LoadedDatabase) -> str:
    """One line about a file."""
    signals = sum(len(message.signals) for message in database.messages)
    content = f"{_count(len(database.messages), 'message')}, {_count(signals, 'signal')}"
    return f"{database.path}: {content}; {counts(database)}"


def lines(database: LoadedDatabase, at_least: Severity = Severity.NOTE) -> Iterator[str]:
    """Aligned lines, one for each defect that is at least so severe."""
    order = list(Severity)
    shown = [defect for defect in database.defects if order.index(defect.severity) <= order.index(at_least)]
    width = max((len(defect.code) for defect in shown), default=0)
    for defect in shown:
        line = str(defect.line) if defect.line else "-"
        where = ".".join(part for part in (defect.message, defect.signal) if part)
        text = f"{where}: {defect.text}" if where else defect.text
        yield f"{line:>7}  {defect.severity.value:<7}  {defect.code:<{width}}  {text}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def as_json(database: LoadedDatabase) -> Json:
    """The report as ``--json`` prints it; docs/reference/dbc-defects.md describes the keys."""
    return {
        "path": database.path,
        "format": database.format,
        "version": database.version,
        "messages": len(database.messages),
        "signals": sum(len(message.signals) for message in database.messages),
        "errors": database.count(Severity.ERROR),
        "warnings": database.count(Severity.WARNING),
        "notes": database.count(Severity.NOTE),
        "defects": [_defect(defect) for defect in database.defects],
    }


def _defect(defect: Defect) -> Json:
    return {
        "severity": defect.severity.value,
        "line": defect.line,
        "message": defect.message,
        "signal": defect.signal,
        "code": defect.code,
        "text": defect.text,
    }

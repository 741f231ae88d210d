"""Statements that describe a message or signal which the file does not have."""

from __future__ import annotations

from collections.abc import Iterator

from dbc.load.model import DefectLog
from dbc.load.parsed import Parsed
from dbc.load.parser import EXTENDED_BIT


def report_unused(parsed: Parsed, log: DefectLog) -> None:
    """One defect for each such statement; what belongs to a signal that was dropped is not mentioned again."""
    names: dict[int, str] = {}
    stated: set[tuple[int, str]] = set()
    for raw in parsed.messages:
        names.setdefault(raw.key, raw.name)
        stated.update((raw.key, signal.name) for signal in raw.signals)
    for code, what, line, key, signal in _references(parsed):
        if key in parsed.skipped_ids or (key, signal) in stated or (not signal and key in names):
            continue
        if key in names:
            text = f"{what} describes {signal}, which the message does not have"
        else:
            text = f"{what} describes message {_shown(key)}, which the file does not have"
        log.add(code, line, text, names.get(key, ""), signal)


def _references(parsed: Parsed) -> Iterator[tuple[str, str, int, int, str]]:
    """(defect code, statement, line, message key, signal) of every reference."""
    for (key, signal), labels in parsed.labels.items():
        yield "unused_labels", "VAL_", labels.line, key, signal
    for (key, signal), (line, _) in parsed.value_types.items():
        yield "unused_value_type", "SIG_VALTYPE_", line, key, signal
    for (key, signal), values in parsed.mux_values.items():
        yield "unused_mux_values", "SG_MUL_VAL_", values[0].line, key, signal
    for key, (line, _) in parsed.message_comments.items():
        yield "unused_comment", "CM_", line, key, ""
    for (key, signal), (line, _) in parsed.signal_comments.items():
        yield "unused_comment", "CM_", line, key, signal
    for key, by_name in parsed.message_attributes.items():
        for name, (line, _) in by_name.items():
            yield "unused_attribute", f'BA_ "{name}"', line, key, ""
    for (key, signal), by_name in parsed.signal_attributes.items():
        for name, (line, _) in by_name.items():
            yield "unused_attribute", f'BA_ "{name}"', line, key, signal


def _shown(key: int) -> str:
    return f"0x{key & ~EXTENDED_BIT:X}" + (" (extended)" if key & EXTENDED_BIT else "")

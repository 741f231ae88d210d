"""The statements of a DBC file as they stand, before references between them are resolved.

Messages and signals are referred to by the identifier and name that the file uses; keys have bit 31 set for extended
identifiers even where the file forgot it. Positions are 1-based lines.
"""

from __future__ import annotations

from dataclasses import dataclass, field

AttributeValue = int | float | str
SignalKey = tuple[int, str]


@dataclass(slots=True)
class RawSignal:
    """An ``SG_`` statement. ``mark`` is "", "M", "m<n>" or "m<n>M"."""

    line: int
    name: str
    mark: str
    start: int
    length: int
    big_endian: bool
    signed: bool
    scale: float
    offset: float
    minimum: float | None
    maximum: float | None
    unit: str


@dataclass(slots=True)
class RawMessage:
    """A ``BO_`` statement with its signals; ``dbc_id`` as written, ``key`` with the bit that refers to it."""

    line: int
    dbc_id: int
    key: int
    name: str
    length: int
    sender: str
    signals: list[RawSignal] = field(default_factory=list)


@dataclass(slots=True)
class Labels:
    """A ``VAL_`` statement: its pairs, or the name of the ``VAL_TABLE_`` it takes them from."""

    line: int
    pairs: list[tuple[int, str]]
    table: str = ""


@dataclass(slots=True)
class MuxValues:
    """An ``SG_MUL_VAL_`` statement: when ``selector`` lies in one of the inclusive ``ranges`` the signal is there."""

    line: int
    selector: str
    ranges: list[tuple[int, int]]


@dataclass(slots=True)
class AttributeDefinition:
    """A ``BA_DEF_`` statement; ``choices`` are those of an ENUM."""

    type_name: str
    choices: list[str]


@dataclass(slots=True)
class Parsed:
    """A whole file. Dictionaries hold the last statement where the file repeats one; values carry their line first."""

    version: str = ""
    nodes: list[str] = field(default_factory=list)
    messages: list[RawMessage] = field(default_factory=list)
    skipped_ids: set[int] = field(default_factory=set)  # pseudo messages, whose signals belong to no frame
    tables: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    labels: dict[SignalKey, Labels] = field(default_factory=dict)
    mux_values: dict[SignalKey, list[MuxValues]] = field(default_factory=dict)
    value_types: dict[SignalKey, tuple[int, int]] = field(default_factory=dict)
    message_comments: dict[int, tuple[int, str]] = field(default_factory=dict)
    signal_comments: dict[SignalKey, tuple[int, str]] = field(default_factory=dict)
    definitions: dict[str, AttributeDefinition] = field(default_factory=dict)
    defaults: dict[str, AttributeValue] = field(default_factory=dict)
    database_attributes: dict[str, AttributeValue] = field(default_factory=dict)
    node_attributes: dict[tuple[str, str], AttributeValue] = field(default_factory=dict)
    message_attributes: dict[int, dict[str, tuple[int, AttributeValue]]] = field(default_factory=dict)
    signal_attributes: dict[SignalKey, dict[str, tuple[int, AttributeValue]]] = field(default_factory=dict)

"""Messages of a manifest laid out for a reader, and as plain data."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

import msgspec

from dbc.load.layout import last_byte
from dbc.load.report import Json
from dbc.manifest import Kind, Manifest, Message, MuxBranch, Signal


def select(manifest: Manifest, wanted: str) -> list[Message]:
    """Messages whose name, ``bus.name`` or identifier (``0x1F0``) is ``wanted``; names may have ``*`` and ``?``."""
    try:
        identifier = int(wanted, 0) if wanted[:1].isdigit() else None
    except ValueError:  # a name that begins with a digit
        identifier = None
    return [
        message
        for message in manifest.messages
        if fnmatchcase(message.name, wanted)
        or fnmatchcase(f"{manifest.buses[message.bus]}.{message.name}", wanted)
        or message.can_id == identifier
    ]


def message_table(manifest: Manifest) -> Iterator[str]:
    """One line per message."""
    rows = [("BUS", "ID", "MESSAGE", "BYTES", "CYCLE", "SIGNALS", "SENDER", "")]
    for message in manifest.messages:
        cycle = f"{message.cycle_ms} ms" if message.cycle_ms else "-"
        bus, extra = manifest.buses[message.bus], ", ".join(_extras(message))
        count = str(len(message.signals))
        rows.append((bus, identifier(message), message.name, str(message.length), cycle, count, message.sender, extra))
    yield from _aligned(rows, right={1, 3, 4, 5})


def message_layout(manifest: Manifest, message: Message) -> Iterator[str]:
    """A message with all its signals: place, scaling, range, unit, labels, and the tree of multiplexing."""
    cycle = f", every {message.cycle_ms} ms" if message.cycle_ms else ""
    sender = f", from {message.sender}" if message.sender else ""
    extras = "".join(f", {extra}" for extra in _extras(message))
    bus = manifest.buses[message.bus]
    yield f"{message.name}  {identifier(message)} on {bus}, {message.length} bytes{cycle}{sender}{extras}"
    if message.comment:
        yield f"  {_one_line(message.comment)}"
    rows: list[tuple[str, ...]] = [("  SIGNAL", "START|BITS", "BYTES", "ORDER", "KIND", "VALUE", "RANGE", "UNIT")]
    notes: dict[int, list[str]] = {}
    for depth, item in _tree(message):
        indent = "  " * (depth + 1)
        if isinstance(item, str):
            notes.setdefault(len(rows) - 1, []).append(f"{indent}{item}")
            continue
        rows.append((indent + item.name, *_columns(item)))
        notes[len(rows) - 1] = [f"{indent}    {line}" for line in _details(item)]
    for number, line in enumerate(_aligned(rows, right={1})):
        yield line
        yield from notes.get(number, [])


def message_json(manifest: Manifest, message: Message) -> Json:
    """A message as ``--json`` prints it; docs/reference/manifest-format.md describes the keys."""
    content = msgspec.structs.asdict(message)
    content["bus"] = manifest.buses[message.bus]
    content["signals"] = [_signal_json(message, signal) for signal in message.signals]
    return content


def identifier(message: Message) -> str:
    """``0x1F0``, or eight digits when it is extended."""
    return f"0x{message.can_id:08X}" if message.extended else f"0x{message.can_id:03X}"


def _signal_json(message: Message, signal: Signal) -> Json:
    content = msgspec.structs.asdict(signal)
    content["kind"] = signal.kind.name.lower()
    content["labels"] = {str(value): text for value, text in signal.labels.items()}
    content["mux"] = [
        {"selector": message.signals[branch.selector].name, "ranges": [list(r) for r in branch.ranges]}
        for branch in signal.mux
    ]
    return content


def _extras(message: Message) -> Iterator[str]:
    if message.fd:
        yield "CAN FD"
    if message.pgn is not None:
        yield f"J1939 PGN {message.pgn} (0x{message.pgn:X})"
    if message.checksum:
        yield f"checksum {message.checksum}"


def _tree(message: Message) -> Iterator[tuple[int, Signal | str]]:
    """(depth, signal or heading): what every frame has first, then each selector followed by what depends on it."""
    groups: dict[tuple[MuxBranch, ...], list[int]] = {}
    for i, signal in enumerate(message.signals):
        groups.setdefault(signal.mux, []).append(i)

    def branch(conditions: tuple[MuxBranch, ...], depth: int) -> Iterator[tuple[int, Signal | str]]:
        for i in sorted(groups.pop(conditions, []), key=lambda i: message.signals[i].is_multiplexer):
            yield depth, message.signals[i]
            below = [mux for mux in groups if len(mux) == len(conditions) + 1 and mux[:-1] == conditions]
            for mux in sorted((mux for mux in below if mux[-1].selector == i), key=lambda mux: mux[-1].ranges):
                if mux in groups:
                    yield depth + 1, f"when {message.signals[i].name} = {_ranges(mux[-1])}"
                    yield from branch(mux, depth + 2)

    yield from branch((), 0)
    while groups:  # conditions that are no tree, which only manifests made elsewhere have
        yield from branch(next(iter(groups)), 1)


def _ranges(branch: MuxBranch) -> str:
    return ", ".join(str(low) if low == high else f"{low}..{high}" for low, high in branch.ranges)


def _columns(signal: Signal) -> tuple[str, ...]:
    first = signal.start >> 3
    last = last_byte(signal.start, signal.length, signal.big_endian)
    order = "-" if first == last and not signal.big_endian else "big" if signal.big_endian else "little"
    low, high = signal.minimum, signal.maximum
    limits = "" if low is None or high is None else f"{_number(low)}..{_number(high)}"
    scaling = "raw" if signal.scale == 1 else f"raw * {_number(signal.scale)}"
    if signal.offset:
        scaling += f" {'-' if signal.offset < 0 else '+'} {_number(abs(signal.offset))}"
    place = str(first) if first == last else f"{first}-{last}"
    return f"{signal.start}|{signal.length}", place, order, signal.kind.name.lower(), scaling, limits, signal.unit


def _details(signal: Signal) -> Iterator[str]:
    facts = [signal.role] if signal.role else []
    if signal.is_multiplexer:
        facts.append("multiplexor")
    if signal.spn is not None:
        facts.append(f"SPN {signal.spn}")
    if signal.initial is not None:
        facts.append(f"starts at {_raw(signal, signal.initial)}")
    if facts:
        yield f"({', '.join(facts)})"
    if signal.comment:
        yield _one_line(signal.comment)
    if signal.labels:
        yield ", ".join(f"{_raw(signal, value)} = {text}" for value, text in sorted(signal.labels.items()))


def _raw(signal: Signal, value: int) -> str:
    """A raw value as its file wrote it."""
    bits = value & 0xFFFFFFFFFFFFFFFF
    if signal.kind is Kind.FLOAT32:
        return _number(struct.unpack("<f", struct.pack("<I", bits & 0xFFFFFFFF))[0])
    if signal.kind is Kind.FLOAT64:
        return _number(struct.unpack("<d", struct.pack("<Q", bits))[0])
    return str(bits if signal.kind is Kind.UNSIGNED and signal.length == 64 else value)


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _aligned(rows: Sequence[tuple[str, ...]], right: set[int]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        yield "  ".join(cells).rstrip()

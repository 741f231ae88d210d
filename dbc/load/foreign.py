"""KCD, SYM and ARXML files, read by cantools and turned into our messages.

cantools reads such a file whole or not at all; where it does not, its reason is the report, and the messages it objects
to are left out where that helps. Its exceptions are many and undocumented, and it is the only judge of these formats
here, so all of them become defects.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cantools

from dbc.load.build import MAX_LENGTH, MAX_SIGNAL_BITS
from dbc.load.j1939 import pgn_of
from dbc.load.layout import last_byte, overlaps
from dbc.load.model import DefectLog, LoadedDatabase, quote
from dbc.load.names import clean_name, unique_name
from dbc.load.raw_values import as_int64, raw_value
from dbc.load.salvage import bad_pieces, take_apart
from dbc.manifest import Kind, Message, MuxBranch, Signal


def load_foreign(content: bytes, file_format: str, path: str) -> LoadedDatabase:
    """What cantools makes of a file; never raises for what is in it."""
    log = DefectLog()
    database = _read_or_reason(content, file_format)
    if isinstance(database, str):
        log.add("unreadable", 0, f"cantools cannot read the file: {database}")
        database = _without_bad_messages(content, file_format, log)
        if database is None:
            return LoadedDatabase(path=path, format=file_format, defects=log.finish())
    buses = tuple(sorted({_bus_name(message) for message in database.messages})) or ("",)
    messages = _messages(database.messages, buses, log)
    if not messages:
        log.add("no_messages", 0, "the file has no message that could be used")
    return LoadedDatabase(
        path=path,
        format=file_format,
        version=str(database.version or ""),
        buses=buses,
        messages=messages,
        defects=log.finish(),
    )


def _without_bad_messages(content: bytes, file_format: str, log: DefectLog) -> Any:
    """The database without the messages that cantools objects to; None when nothing helps."""
    pieces = take_apart(content, file_format)
    if pieces is None:
        return None
    bad = bad_pieces(pieces, lambda part: not isinstance(_read_or_reason(part, file_format), str))
    if bad is None or len(bad) == len(pieces.names):
        return None
    for number in bad:
        log.add("unreadable", 0, "left out, so that the rest of the file can be read", pieces.names[number])
    return _read(pieces.with_only([i for i in range(len(pieces.names)) if i not in bad]), file_format)


def _read_or_reason(content: bytes, file_format: str) -> Any:
    """The database, or as a string why there is none."""
    try:
        return _read(content, file_format)
    except Exception as error:  # whatever a parser of a stranger's file comes up with; see the module's docstring
        return quote(f"{type(error).__name__}: {error}")


def _read(content: bytes, file_format: str) -> Any:  # Any: cantools' types are not checked here
    """Through a file, as cantools chooses encodings by it."""
    with tempfile.TemporaryDirectory(prefix="outrider-dbc-") as folder:
        file = Path(folder) / f"database.{file_format}"
        file.write_bytes(content)
        return cantools.database.load_file(file, database_format=file_format, strict=False)


def _bus_name(message: Any) -> str:
    return str(message.bus_name or "")


def _messages(loaded: Sequence[Any], buses: tuple[str, ...], log: DefectLog) -> tuple[Message, ...]:
    built: list[Message] = []
    ids: dict[tuple[int, int, bool], str] = {}
    names: dict[int, set[str]] = {}
    for message in loaded:
        bus = buses.index(_bus_name(message))
        key = bus, message.frame_id, bool(message.is_extended_frame)
        if key in ids:
            text = f"0x{message.frame_id:X} is already that of {ids[key]}; the later message is dropped"
            log.add("duplicate_id", 0, text, message.name)
            continue
        ids[key] = message.name
        taken = names.setdefault(bus, set())
        wanted = clean_name(message.name, 0, log)
        name = unique_name(wanted, taken, f"{message.frame_id:X}")
        if name != wanted:
            text = f"a message of this name came before; this one is called {name}"
            log.add("duplicate_message_name", 0, text, wanted)
        taken.add(name)
        built.append(_message(message, bus, name, log))
    return tuple(built)


def _message(message: Any, bus: int, name: str, log: DefectLog) -> Message:
    j1939 = message.protocol == "j1939" and bool(message.is_extended_frame)
    if message.length > MAX_LENGTH:
        text = f"{message.length} bytes do not fit into a frame; cut to {MAX_LENGTH}"
        log.add("bad_length", 0, text, name)
    length = min(int(message.length), MAX_LENGTH)
    return Message(
        name=name,
        bus=bus,
        can_id=int(message.frame_id),
        extended=bool(message.is_extended_frame),
        fd=bool(message.is_fd) or (length > 8 and not j1939),
        length=length,
        cycle_ms=int(message.cycle_time) if message.cycle_time else None,
        pgn=pgn_of(message.frame_id) if j1939 else None,
        sender=str(message.senders[0]) if message.senders else "",
        comment=str(message.comment or ""),
        signals=_signals(message, name, length, log),
    )


def _signals(message: Any, name: str, length: int, log: DefectLog) -> tuple[Signal, ...]:
    kept = [signal for signal in message.signals if _fits(signal, name, log)]
    by_name = {signal.name: signal for signal in kept}
    index = {signal.name: i for i, signal in reversed(list(enumerate(kept)))}
    names: set[str] = set()
    built: list[Signal] = []
    for signal in kept:
        wanted = clean_name(signal.name, 0, log, name)
        unique = unique_name(wanted, names, "2")
        if unique != wanted:
            text = f"the message has a signal of this name already; this one is called {unique}"
            log.add("duplicate_signal_name", 0, text, name, wanted)
        names.add(unique)
        mux = tuple(reversed(list(_conditions(signal, by_name, index))))
        built.append(_signal(signal, unique, mux, name, log))
    for signal in built:
        end = last_byte(signal.start, signal.length, signal.big_endian)
        if end >= length:
            text = f"reaches into byte {end}, but the message has {length}; only longer frames carry it"
            log.add("signal_past_end", 0, text, name, signal.name)
    for earlier, later in overlaps(built):
        log.add("overlapping_signals", 0, f"shares bits with {built[earlier].name}", name, built[later].name)
    return tuple(built)


def _fits(signal: Any, message: str, log: DefectLog) -> bool:
    """Whether a signal can be kept; a defect says why not."""
    if not 1 <= signal.length <= MAX_SIGNAL_BITS or (signal.is_float and signal.length not in (32, 64)):
        code = "zero_length" if not signal.length else "bad_float_length" if signal.is_float else "signal_too_long"
        log.add(code, 0, f"{signal.length} bits; the signal is dropped", message, signal.name)
        return False
    if last_byte(signal.start, signal.length, signal.byte_order == "big_endian") >= MAX_LENGTH:
        log.add("signal_out_of_frame", 0, "lies outside of any frame; the signal is dropped", message, signal.name)
        return False
    return True


def _conditions(signal: Any, by_name: dict[str, Any], index: dict[str, int]) -> Iterator[MuxBranch]:
    """From the signal's own selector up."""
    seen: set[str] = set()
    while signal.multiplexer_signal in by_name and signal.multiplexer_ids and signal.name not in seen:
        seen.add(signal.name)
        values = sorted(signal.multiplexer_ids)
        yield MuxBranch(index[signal.multiplexer_signal], tuple(_runs(values)))
        signal = by_name[signal.multiplexer_signal]


def _runs(values: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Inclusive ranges that cover sorted, distinct integers."""
    first = last = values[0]
    for value in values[1:]:
        if value > last + 1:
            yield first, last
            first = value
        last = value
    yield first, last


def _signal(signal: Any, name: str, mux: tuple[MuxBranch, ...], message: str, log: DefectLog) -> Signal:
    length = int(signal.length)
    if signal.is_float:
        kind = Kind.FLOAT64 if length == 64 else Kind.FLOAT32
    else:
        kind = Kind.SIGNED if signal.is_signed else Kind.UNSIGNED
    scale, offset = float(signal.scale), float(signal.offset)
    if scale == 0:
        log.add("zero_scale", 0, "a factor of 0 makes every value the same; read as 1", message, name)
        scale = 1.0
    labels: dict[int, str] = {}
    for number, text in (signal.choices or {}).items():
        value = raw_value(number, kind, length)
        if value is None:
            log.add("label_out_of_range", 0, f"the signal cannot hold the labelled {number}", message, name)
            value = as_int64(number)
        labels[value] = str(text)
    initial = signal.raw_initial
    return Signal(
        name=name,
        start=int(signal.start),
        length=length,
        big_endian=signal.byte_order == "big_endian",
        kind=kind,
        scale=scale,
        offset=offset,
        minimum=None if signal.minimum is None else float(signal.minimum),
        maximum=None if signal.maximum is None else float(signal.maximum),
        unit=str(signal.unit or ""),
        labels=labels,
        is_multiplexer=bool(signal.is_multiplexer),
        mux=mux,
        comment=str(signal.comment or ""),
        initial=None if initial is None else raw_value(initial, kind, length),
        spn=int(signal.spn) if signal.spn else None,
    )

"""From the statements of a DBC file to messages: references resolved, everything checked against everything."""

from __future__ import annotations

from collections import Counter

from dbc.load.attributes import Attributes, whole_number
from dbc.load.j1939 import pgn_of
from dbc.load.layout import last_byte, overlaps
from dbc.load.model import DefectLog
from dbc.load.mux import resolve_mux
from dbc.load.names import clean_name, unique_name
from dbc.load.parsed import Labels, Parsed, RawMessage, RawSignal
from dbc.load.parser import EXTENDED_BIT, MAX_STANDARD_ID
from dbc.load.raw_values import as_int64, raw_value
from dbc.load.references import report_unused
from dbc.manifest import Kind, Message, MuxBranch, Signal

MAX_EXTENDED_ID = 0x1FFFFFFF
MAX_SIGNAL_BITS = 64
MAX_LENGTH = 64
CLASSIC_LENGTH = 8
#: Nobody: what editors write where a message has no sender.
NO_NODE = "Vector__XXX"
ROLES = ("counter", "checksum", "actuator")


def build_messages(parsed: Parsed, log: DefectLog) -> tuple[Message, ...]:
    """All sound messages in file order, on bus 0; defects go to ``log``."""
    builder = _Builder(parsed, log)
    messages = [message for raw in parsed.messages if (message := builder.message(raw)) is not None]
    report_unused(parsed, log)
    return tuple(messages)


class _Builder:
    def __init__(self, parsed: Parsed, log: DefectLog) -> None:
        self._parsed = parsed
        self._log = log
        self._attributes = Attributes(parsed, log)
        protocol = self._attributes.of_database("ProtocolType")
        self._j1939 = isinstance(protocol, str) and protocol.upper() == "J1939"
        self._ids: dict[tuple[int, bool], RawMessage] = {}
        self._names: set[str] = set()
        self._unknown_nodes: set[str] = set()

    # Messages

    def message(self, raw: RawMessage) -> Message | None:
        """The message, or None when it cannot be kept."""
        identifier = self._identifier(raw)
        if identifier is None:
            return None
        can_id, extended = identifier
        frame_format = self._attributes.frame_format(raw.key)
        pgn = self._pgn(raw, can_id, extended, frame_format)
        fd = frame_format.endswith("_FD") or (raw.length > CLASSIC_LENGTH and pgn is None)
        length = self._length(raw, frame_format, pgn)
        comment = self._parsed.message_comments.get(raw.key, (0, ""))[1]
        checksum = self._attributes.of_message(raw.key, "OutriderChecksum")
        return Message(
            name=self._message_name(raw, can_id),
            bus=0,
            can_id=can_id,
            extended=extended,
            fd=fd,
            length=length,
            cycle_ms=self._cycle_ms(raw),
            pgn=pgn,
            sender=self._sender(raw),
            comment=comment,
            signals=self._signals(raw, length),
            checksum=checksum if isinstance(checksum, str) else "",
            checksum_data_id=self._attributes.integer_of_message(raw.key, "OutriderChecksumDataId"),
        )

    def _identifier(self, raw: RawMessage) -> tuple[int, bool] | None:
        extended = bool(raw.dbc_id & EXTENDED_BIT)
        can_id = raw.dbc_id & ~EXTENDED_BIT
        if raw.dbc_id >= EXTENDED_BIT << 1 or can_id > MAX_EXTENDED_ID:
            self._log.add("bad_id", raw.line, f"{raw.dbc_id} is no CAN identifier; the message is dropped", raw.name)
            return None
        if not extended and can_id > MAX_STANDARD_ID:
            text = f"0x{can_id:X} needs 29 bits, but bit 31, which says so, is not set; read as extended"
            self._log.add("extended_bit_missing", raw.line, text, raw.name)
            extended = True
        first = self._ids.setdefault((can_id, extended), raw)
        if first is not raw:
            text = f"0x{can_id:X} is already that of {first.name} in line {first.line}; the later message is dropped"
            self._log.add("duplicate_id", raw.line, text, raw.name)
            return None
        return can_id, extended

    def _message_name(self, raw: RawMessage, can_id: int) -> str:
        long_name = self._attributes.of_message(raw.key, "SystemMessageLongSymbol", use_default=False)
        wanted = clean_name(str(long_name) if long_name else raw.name, raw.line, self._log)
        name = unique_name(wanted, self._names, f"{can_id:X}")
        if name != wanted:
            text = f"a message of this name came before; this one is called {name}"
            self._log.add("duplicate_message_name", raw.line, text, wanted)
        self._names.add(name)
        return name

    def _length(self, raw: RawMessage, frame_format: str, pgn: int | None) -> int:
        if raw.length > CLASSIC_LENGTH and pgn is not None:
            text = f"{raw.length} bytes travel in several J1939 frames, which are not put together"
            self._log.add("j1939_transport", raw.line, text, raw.name)
        elif raw.length > MAX_LENGTH:
            text = f"{raw.length} bytes do not fit into a frame; cut to {MAX_LENGTH}"
            self._log.add("bad_length", raw.line, text, raw.name)
        elif raw.length > CLASSIC_LENGTH and frame_format and not frame_format.endswith("_FD"):
            text = f"{raw.length} bytes need CAN FD, but VFrameFormat says {frame_format}; read as FD"
            self._log.add("fd_format_missing", raw.line, text, raw.name)
        return min(raw.length, MAX_LENGTH)

    def _pgn(self, raw: RawMessage, can_id: int, extended: bool, frame_format: str) -> int | None:
        if frame_format != "J1939PG" and not (self._j1939 and not frame_format and extended):
            return None
        if not extended:
            text = "J1939 has extended identifiers only; the message is matched by its identifier"
            self._log.add("j1939_standard_id", raw.line, text, raw.name)
            return None
        return pgn_of(can_id)

    def _cycle_ms(self, raw: RawMessage) -> int | None:
        return self._attributes.integer_of_message(raw.key, "GenMsgCycleTime") or None

    def _sender(self, raw: RawMessage) -> str:
        if raw.sender == NO_NODE or not raw.sender:
            return ""
        nodes = self._parsed.nodes
        if nodes and raw.sender not in nodes and raw.sender not in self._unknown_nodes:
            self._unknown_nodes.add(raw.sender)
            self._log.add("unknown_node", raw.line, f"BU_ does not name the sender {raw.sender}", raw.name)
        return self._attributes.node_name(raw.sender)

    # Signals

    def _signals(self, raw: RawMessage, length: int) -> tuple[Signal, ...]:
        kinds: list[Kind] = []
        kept: list[RawSignal] = []
        for signal in raw.signals:
            kind = self._kind(raw, signal)
            if kind is not None:
                kept.append(signal)
                kinds.append(kind)
        conditions = resolve_mux(raw, kept, self._parsed, self._log)
        selectors = {branch.selector for mux in conditions for branch in mux}
        names: set[str] = set()
        counts = Counter(signal.name for signal in kept)
        built = []
        for i, signal in enumerate(kept):
            name = self._signal_name(raw, signal, names, counts)
            is_multiplexer = signal.mark.endswith("M") or i in selectors
            built.append(self._signal(raw, signal, name, kinds[i], is_multiplexer, conditions[i]))
        self._check_layout(raw, kept, built, length)
        return tuple(built)

    def _kind(self, raw: RawMessage, signal: RawSignal) -> Kind | None:
        """How to read the raw value; None when the signal is dropped."""
        if not 1 <= signal.length <= MAX_SIGNAL_BITS:
            code = "signal_too_long" if signal.length else "zero_length"
            text = f"{signal.length} bits; a signal has 1 to {MAX_SIGNAL_BITS}. It is dropped"
            self._log.add(code, signal.line, text, raw.name, signal.name)
            return None
        if signal.start >= 8 * MAX_LENGTH or last_byte(signal.start, signal.length, signal.big_endian) >= MAX_LENGTH:
            text = f"bit {signal.start} with {signal.length} bits lies outside of any frame; the signal is dropped"
            self._log.add("signal_out_of_frame", signal.line, text, raw.name, signal.name)
            return None
        line, stated = self._parsed.value_types.get((raw.key, signal.name), (0, 0))
        if stated in (1, 2):
            if signal.length not in (32, 64):
                text = f"a float of {signal.length} bits cannot be read; the signal is dropped"
                self._log.add("bad_float_length", line, text, raw.name, signal.name)
                return None
            if (stated == 2) != (signal.length == 64):
                text = f"SIG_VALTYPE_ {stated} does not go with {signal.length} bits; the length decides"
                self._log.add("float_length_mismatch", line, text, raw.name, signal.name)
            return Kind.FLOAT64 if signal.length == 64 else Kind.FLOAT32
        return Kind.SIGNED if signal.signed else Kind.UNSIGNED

    def _signal_name(self, raw: RawMessage, signal: RawSignal, names: set[str], counts: Counter[str]) -> str:
        long_name = None
        if counts[signal.name] == 1:
            key = raw.key, signal.name
            long_name = self._attributes.of_signal(key, "SystemSignalLongSymbol", use_default=False)
        wanted = clean_name(str(long_name) if long_name else signal.name, signal.line, self._log, raw.name)
        name = unique_name(wanted, names, "2")
        if name != wanted:
            text = f"the message has a signal of this name already; this one is called {name}"
            self._log.add("duplicate_signal_name", signal.line, text, raw.name, signal.name)
        names.add(name)
        return name

    def _signal(
        self,
        raw: RawMessage,
        signal: RawSignal,
        name: str,
        kind: Kind,
        is_multiplexer: bool,
        mux: tuple[MuxBranch, ...],
    ) -> Signal:
        key = raw.key, signal.name
        return Signal(
            name=name,
            start=signal.start,
            length=signal.length,
            big_endian=signal.big_endian,
            kind=kind,
            scale=signal.scale,
            offset=signal.offset,
            minimum=signal.minimum,
            maximum=signal.maximum,
            unit=signal.unit,
            labels=self._labels(raw, signal, kind),
            is_multiplexer=is_multiplexer,
            mux=mux,
            comment=self._parsed.signal_comments.get(key, (0, ""))[1],
            role=self._role(raw, signal),
            initial=self._initial(raw, signal, kind),
            spn=self._attributes.integer_of_signal(key, "SPN") or None,
        )

    def _labels(self, raw: RawMessage, signal: RawSignal, kind: Kind) -> dict[int, str]:
        stated = self._parsed.labels.get((raw.key, signal.name))
        if stated is None:
            return {}
        labels: dict[int, str] = {}
        misfits = []
        for number, text in self._pairs(raw, signal, stated):
            value = raw_value(number, kind, signal.length)
            if value is None:
                misfits.append(number)
                value = as_int64(number)
            if labels.setdefault(value, text) != text:
                note = f"VAL_ gives {number} two texts; the later is used"
                self._log.add("duplicate_label", stated.line, note, raw.name, signal.name)
                labels[value] = text
        if misfits:
            shown = ", ".join(map(str, misfits[:5])) + (" …" if len(misfits) > 5 else "")
            note = f"the signal cannot hold these values of VAL_: {shown}"
            self._log.add("label_out_of_range", stated.line, note, raw.name, signal.name)
        return labels

    def _pairs(self, raw: RawMessage, signal: RawSignal, stated: Labels) -> list[tuple[int, str]]:
        if not stated.table:
            return stated.pairs
        table = self._parsed.tables.get(stated.table)
        if table is None:
            text = f"VAL_ names the table {stated.table}, which no VAL_TABLE_ defines"
            self._log.add("unknown_table", stated.line, text, raw.name, signal.name)
        return table or []

    def _role(self, raw: RawMessage, signal: RawSignal) -> str:
        value = self._attributes.of_signal((raw.key, signal.name), "OutriderRole")
        if value in (None, "none", ""):
            return ""
        if value in ROLES:
            return str(value)
        text = f"OutriderRole is {value!r}, none of {', '.join(ROLES)}"
        self._log.add("bad_attribute", signal.line, text, raw.name, signal.name)
        return ""

    def _initial(self, raw: RawMessage, signal: RawSignal, kind: Kind) -> int | None:
        key = raw.key, signal.name
        value = self._attributes.of_signal(key, "GenSigStartValue", use_default=False)
        if value in (None, ""):
            return None
        number = value if isinstance(value, float) else whole_number(value)
        initial = None if number is None else raw_value(number, kind, signal.length)
        if initial is None:
            text = f"the signal cannot hold GenSigStartValue {value!r}"
            self._log.add("bad_initial_value", signal.line, text, raw.name, signal.name)
        return initial

    def _check_layout(self, raw: RawMessage, kept: list[RawSignal], built: list[Signal], length: int) -> None:
        for stated, signal in zip(kept, built, strict=True):
            end = last_byte(signal.start, signal.length, signal.big_endian)
            if end >= length:
                text = f"reaches into byte {end}, but the message has {length}; only longer frames carry it"
                self._log.add("signal_past_end", stated.line, text, raw.name, signal.name)
        for earlier, later in overlaps(built):
            text = f"shares bits with {built[earlier].name}"
            self._log.add("overlapping_signals", kept[later].line, text, raw.name, built[later].name)

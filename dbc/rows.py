"""Decoded samples as rows for people and other programs: aligned text, CSV, JSON lines, Parquet.

Columns, in every form: timestamp, bus, id, message, signal, raw, value, unit, label. Rows are written batch by batch;
memory does not grow with the log.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

from dbc.decode import Decoded
from dbc.decode.values import Values, describe
from dbc.frames import EXTENDED, FrameBatch
from dbc.manifest import Kind, Manifest, Signal

COLUMNS = ("timestamp", "bus", "id", "message", "signal", "raw", "value", "unit", "label")
_MAX_REMEMBERED = 100_000
_ROW_GROUP = 128 * 1024
_WIDEST_NAME = 40


class RowWriter(Protocol):
    """Takes batches of samples; ``close`` completes the output."""

    def write(self, frames: FrameBatch, decoded: Decoded, buses: Sequence[str]) -> None:
        """Append the samples of a batch; ``buses`` are the names for ``frames.bus``."""
        ...

    def close(self) -> None:
        """Write what is held back."""
        ...


class Cells(NamedTuple):
    """What one raw value of one signal shows: the last four columns and the integer as people write it."""

    raw: int
    value: str
    unit: str
    label: str


def time_text(timestamp_ns: int) -> str:
    """Seconds with six decimals, nine when the time is finer than a microsecond."""
    seconds, rest = divmod(timestamp_ns, 1_000_000_000)
    micros, nanos = divmod(rest, 1000)
    return f"{seconds}.{micros:06d}{nanos:03d}" if nanos else f"{seconds}.{micros:06d}"


def id_text(can_id: int, flags: int) -> str:
    """Three hexadecimal digits, eight for 29-bit identifiers."""
    return f"{can_id:08X}" if flags & EXTENDED else f"{can_id:03X}"


def cells_of(signal: Signal, raw: int) -> Cells:
    """The texts of a raw value. Numbers have at most 15 significant digits, whole ones all of theirs."""
    value, unit, label = describe(signal, raw)
    shown = raw & (1 << 64) - 1 if signal.kind != Kind.SIGNED else raw
    return Cells(shown, str(value) if isinstance(value, int) else f"{value:.15g}", unit, label)


class _TextWriter:
    """Lines made of a part per frame and a part per value; both repeat, and values are remembered."""

    def __init__(self, file: IO[str], manifest: Manifest) -> None:
        self._file = file
        self._signals = manifest.signals
        self._messages = manifest.messages
        self._remembered: dict[tuple[int, int], str] = {}

    def write(self, frames: FrameBatch, decoded: Decoded, buses: Sequence[str]) -> None:
        lines: list[str] = []
        last, head = -1, ""
        remembered = self._remembered
        samples = zip(decoded.frame.tolist(), decoded.signal.tolist(), decoded.raw.tolist(), strict=True)
        for frame, signal, raw in samples:
            if frame != last:
                last = frame
                head = self.frame_part(
                    time_text(int(frames.timestamp_ns[frame])),
                    buses[frames.bus[frame]],
                    id_text(int(frames.can_id[frame]), int(frames.flags[frame])),
                    self._messages[decoded.message[frame]].name,
                )
            tail = remembered.get((signal, raw))
            if tail is None:
                if len(remembered) >= _MAX_REMEMBERED:
                    remembered.clear()
                layout = self._signals[signal]
                tail = remembered[signal, raw] = self.value_part(layout.name, cells_of(layout, raw))
            lines.append(head + tail)
        self._file.write("".join(lines))

    def close(self) -> None:
        self._file.flush()

    def frame_part(self, time: str, bus: str, identifier: str, message: str) -> str:
        raise NotImplementedError

    def value_part(self, signal: str, cells: Cells) -> str:
        raise NotImplementedError


class CsvWriter(_TextWriter):
    """Comma-separated values with a header line, quoted as RFC 4180 says."""

    def __init__(self, file: IO[str], manifest: Manifest) -> None:
        super().__init__(file, manifest)
        file.write(",".join(COLUMNS) + "\n")

    def frame_part(self, time: str, bus: str, identifier: str, message: str) -> str:
        return f"{time},{_quoted(bus)},{identifier},{_quoted(message)},"

    def value_part(self, signal: str, cells: Cells) -> str:
        return f"{_quoted(signal)},{cells.raw},{cells.value},{_quoted(cells.unit)},{_quoted(cells.label)}\n"


class JsonWriter(_TextWriter):
    """One JSON object a line. Values that JSON has no number for (NaN, infinities) are null."""

    def frame_part(self, time: str, bus: str, identifier: str, message: str) -> str:
        fields = json.dumps({"bus": bus, "id": identifier, "message": message}, ensure_ascii=False)
        return f'{{"timestamp": {time}, {fields[1:-1]}, '

    def value_part(self, signal: str, cells: Cells) -> str:
        fields: dict[str, object] = {"signal": signal, "raw": cells.raw}
        whole = cells.value.lstrip("-").isdigit()
        number = int(cells.value) if whole else float(cells.value)
        fields["value"] = number if whole or math.isfinite(number) else None
        fields |= {"unit": cells.unit, "label": cells.label}
        return json.dumps(fields, ensure_ascii=False)[1:] + "\n"


class TableWriter(_TextWriter):
    """Aligned columns. Names longer than the column push the rest of their line."""

    def __init__(self, file: IO[str], manifest: Manifest, signals: Sequence[int]) -> None:
        super().__init__(file, manifest)
        owners = {manifest.signal_message[s] for s in signals}
        self._message_width = _width(["message", *(manifest.messages[m].name for m in owners)])
        self._signal_width = _width(["signal", *(manifest.signals[s].name for s in signals)])
        head = self.frame_part("timestamp", "bus", "id", "message")
        file.write(head + f"{'signal':<{self._signal_width}} {'raw':>12} {'value':>14} {'unit':<8} label\n")

    def frame_part(self, time: str, bus: str, identifier: str, message: str) -> str:
        return f"{time:<17} {bus:<8} {identifier:>8} {_plain(message):<{self._message_width}} "

    def value_part(self, signal: str, cells: Cells) -> str:
        unit = f"{_plain(cells.unit):<8} {_plain(cells.label)}"
        return f"{_plain(signal):<{self._signal_width}} {cells.raw:>12} {cells.value:>14} {unit}".rstrip() + "\n"


class ParquetWriter:
    """A Parquet file, zstd-compressed: timestamp in UTC ns, raw as int64 (unsigned 64 bits and floats as bit pattern).

    Raises:
        ModuleNotFoundError: pyarrow is not installed.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self._arrow: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
        arrow = self._arrow
        text = arrow.string()
        types = (arrow.timestamp("ns", "UTC"), *[text] * 4, arrow.int64(), arrow.float64(), *[text] * 2)
        self._schema = arrow.schema(list(zip(COLUMNS, types, strict=True)))
        self._file = parquet.ParquetWriter(path, self._schema, compression="zstd")
        self._manifest = manifest
        self._values = Values(manifest)
        self._signals = arrow.array([s.name for s in manifest.signals], arrow.string())
        self._units = arrow.array([s.unit for s in manifest.signals], arrow.string())
        self._messages = arrow.array([m.name for m in manifest.messages], arrow.string())
        self._held: list[Any] = []
        self._held_rows = 0

    def write(self, frames: FrameBatch, decoded: Decoded, buses: Sequence[str]) -> None:
        arrow = self._arrow
        frame, signal = decoded.frame, decoded.signal
        identifiers = [id_text(i, f) for i, f in zip(frames.can_id.tolist(), frames.flags.tolist(), strict=True)]
        columns = [
            arrow.array(frames.timestamp_ns[frame], arrow.timestamp("ns", "UTC")),
            arrow.array(list(buses), arrow.string()).take(arrow.array(frames.bus[frame])),
            arrow.array(identifiers, arrow.string()).take(arrow.array(frame)),
            self._messages.take(arrow.array(decoded.message[frame])),
            self._signals.take(arrow.array(signal)),
            arrow.array(decoded.raw),
            arrow.array(self._values.physical(signal, decoded.raw)),
            self._units.take(arrow.array(signal)),
            arrow.array(self._values.labels(signal, decoded.raw), arrow.string()),
        ]
        self._held.append(arrow.record_batch(columns, schema=self._schema))
        self._held_rows += len(decoded)
        if self._held_rows >= _ROW_GROUP:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._file.close()

    def _flush(self) -> None:
        if self._held:
            self._file.write_table(self._arrow.Table.from_batches(self._held, self._schema))
        self._held, self._held_rows = [], 0


#: Text forms by name; ``table`` also needs the signals.
TEXT_WRITERS: dict[str, Callable[[IO[str], Manifest], RowWriter]] = {"csv": CsvWriter, "json": JsonWriter}


def _quoted(text: str) -> str:
    if any(c in text for c in ',"\r\n'):
        return '"' + text.replace('"', '""') + '"'
    return text


def _plain(text: str) -> str:
    """The text without characters that would break a line or steer a terminal."""
    return "".join(c if c.isprintable() else "�" for c in text)


def _width(names: Sequence[str]) -> int:
    return min(max(map(len, names)), _WIDEST_NAME)

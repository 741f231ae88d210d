"""Bytes of an identifier as named values with units, and values as bytes. No I/O."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Encoding = Literal["uint", "int", "float32", "float64", "ascii", "hex", "bcd"]


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """A part of an identifier's data: ``physical = raw * scale + offset``; ``values`` names single raw values."""

    bytes: Annotated[int, Meta(ge=1, le=1 << 20)]
    name: str = ""
    encoding: Encoding = "uint"
    scale: float = 1.0
    offset: float = 0.0
    unit: str = ""
    values: dict[str, str] = {}
    minimum: float | None = None
    maximum: float | None = None


class Value(msgspec.Struct, frozen=True, kw_only=True):
    """A field with its content; ``label`` where the raw value has a name."""

    name: str
    value: float | int | str
    unit: str = ""
    label: str = ""

    @property
    def text(self) -> str:
        """For people."""
        shown = self.value if isinstance(self.value, str) else format_number(self.value)
        words = f"{shown} {self.unit}".rstrip()
        return f"{self.label} ({shown})" if self.label else words


def format_number(value: float) -> str:
    """Short, without the noise of binary fractions."""
    return str(value) if isinstance(value, int) else f"{value:.12g}"


def _rounded(value: float) -> float | int:
    clean = float(f"{value:.12g}")
    return int(clean) if clean.is_integer() and abs(clean) < 1 << 53 else clean


def text_or_hex(data: bytes) -> str:
    """Text where all is printable (trailing zeros and 0xFF cut), else hexadecimal."""
    body = data.rstrip(b"\x00\xff").strip()
    if data and not data.strip(b" "):
        return "(blank)"
    if body and all(0x20 <= byte < 0x7F for byte in body):
        return body.decode("ascii")
    return data.hex(" ").upper()


def _decode_field(field: Field, raw: bytes) -> Value:
    value: float | int | str
    if field.encoding == "ascii":
        value = text_or_hex(raw)
    elif field.encoding == "hex":
        value = raw.hex(" ").upper()
    elif field.encoding == "bcd":
        value = raw.hex()
    elif field.encoding in ("float32", "float64"):
        if len(raw) != (4 if field.encoding == "float32" else 8):
            value = raw.hex(" ").upper()
        else:
            [number] = struct.unpack(">f" if field.encoding == "float32" else ">d", raw)
            value = float(f"{number:.7g}") if field.encoding == "float32" else number
    else:
        number = int.from_bytes(raw, "big", signed=field.encoding == "int")
        label = field.values.get(str(number), "")
        if field.scale.is_integer() and field.offset.is_integer():
            value = number * int(field.scale) + int(field.offset)  # exact, however many bytes
        else:
            value = _rounded(number * field.scale + field.offset)
        return Value(name=field.name, value=value, unit=field.unit, label=label)
    return Value(name=field.name, value=value, unit=field.unit)


def decode(fields: Sequence[Field], data: bytes) -> tuple[Value, ...]:
    """The values of all fields; what the fields do not cover, or lack, is told in hexadecimal."""
    if not fields:
        return (Value(name="", value=text_or_hex(data)),) if data else ()
    found: list[Value] = []
    at = 0
    for field in fields:
        raw = data[at : at + field.bytes]
        at += field.bytes
        if len(raw) < field.bytes:
            found.append(Value(name=field.name or "short", value=raw.hex(" ").upper() or "(nothing)"))
            return tuple(found)
        found.append(_decode_field(field, raw))
    if at < len(data):
        found.append(Value(name="rest", value=data[at:].hex(" ").upper()))
    return tuple(found)


_WHOLE = re.compile(r"[+-]?(0[xX][0-9a-fA-F]+|0[bB][01]+|0|[1-9][0-9]{0,30})")


def _encode_field(field: Field, text: str) -> bytes:
    name = field.name or "value"
    if field.encoding == "ascii":
        try:
            raw = text.encode("ascii")
        except UnicodeEncodeError as error:
            raise ValueError(f"{name}: {text!r} is not ASCII") from error
        if len(raw) > field.bytes:
            raise ValueError(f"{name}: {text!r} is longer than {field.bytes} characters")
        return raw.ljust(field.bytes, b" ")
    if field.encoding in ("hex", "bcd"):
        raw = parse_hex(text)
        if len(raw) != field.bytes:
            raise ValueError(f"{name}: {len(raw)} bytes, must be {field.bytes}")
        if field.encoding == "bcd" and not raw.hex().isdecimal():
            raise ValueError(f"{name}: {text!r} are not decimal digits")
        return raw
    by_label = {label.lower(): raw for raw, label in field.values.items()}
    if text.lower() in by_label:
        return int(by_label[text.lower()], 0).to_bytes(field.bytes, "big", signed=field.encoding == "int")
    try:
        value: float | int = int(text, 0) if _WHOLE.fullmatch(text) else float(text)
    except ValueError as error:
        words = f"; one of {', '.join(field.values.values())}" if field.values else ""
        raise ValueError(f"{name}: {text!r} is no number{words}") from error
    return _encode_number(field, name, value)


def _encode_number(field: Field, name: str, value: float | int) -> bytes:
    if value != value or value in (float("inf"), float("-inf")):
        raise ValueError(f"{name}: {value} is no value")
    unit = f" {field.unit}" if field.unit else ""
    for limit, is_beyond, words in (
        (field.minimum, field.minimum is not None and value < field.minimum, "below"),
        (field.maximum, field.maximum is not None and value > field.maximum, "above"),
    ):
        if limit is not None and is_beyond:
            raise ValueError(f"{name}: {format_number(value)}{unit} is {words} {format_number(limit)}{unit}")
    if field.encoding in ("float32", "float64"):
        try:
            return struct.pack(">f" if field.encoding == "float32" else ">d", value)
        except OverflowError as error:
            raise ValueError(f"{name}: {format_number(value)} is too large") from error
    if isinstance(value, int) and field.scale == 1 and field.offset.is_integer():
        raw = value - int(field.offset)
    else:
        raw = round((value - field.offset) / field.scale)
    try:
        return raw.to_bytes(field.bytes, "big", signed=field.encoding == "int")
    except OverflowError as error:
        low, high = limits(field)
        raise ValueError(
            f"{name}: {format_number(value)}{unit} is not within {format_number(low)} to {format_number(high)}{unit}"
        ) from error


def limits(field: Field) -> tuple[float, float]:
    """The lowest and highest physical value of a number."""
    bits = 8 * field.bytes
    raw = (-(1 << bits - 1), (1 << bits - 1) - 1) if field.encoding == "int" else (0, (1 << bits) - 1)
    ends = sorted(_rounded(number * field.scale + field.offset) for number in raw)
    low = ends[0] if field.minimum is None else max(ends[0], field.minimum)
    high = ends[1] if field.maximum is None else min(ends[1], field.maximum)
    return low, high


def encode(fields: Sequence[Field], words: Sequence[str], length: int | None = None) -> bytes:
    """From one word per field, or ``name=word`` for each; ``hex:…`` alone gives the bytes as they are.

    Raises:
        ValueError: a word that is no value of its field, a field without a word, or bytes of another length.
    """
    if len(words) == 1 and words[0].lower().startswith("hex:"):
        raw = parse_hex(words[0][4:])
    elif not fields:
        raw = parse_hex(" ".join(words))
    else:
        raw = b"".join(_encode_field(f, word) for f, word in zip(fields, _in_order(fields, words), strict=True))
    if length is not None and len(raw) != length:
        raise ValueError(f"{len(raw)} bytes, must be {length}")
    return raw


def _in_order(fields: Sequence[Field], words: Sequence[str]) -> list[str]:
    names = [field.name.lower() for field in fields]
    if all("=" in word and word.split("=", 1)[0].strip().lower() in names for word in words) and words:
        given = {word.split("=", 1)[0].strip().lower(): word.split("=", 1)[1] for word in words}
        if missing := [field.name for field in fields if field.name.lower() not in given]:
            raise ValueError(f"no value for {', '.join(missing)}")
        return [given[name] for name in names]
    if len(words) != len(fields):
        what = ", ".join(field.name or "value" for field in fields)
        raise ValueError(f"{len(words)} values for {len(fields)} fields ({what})")
    return list(words)


def parse_hex(text: str) -> bytes:
    """``22 F1 90``, ``22F190``, ``0x22 0xf1`` or ``22:f1:90``.

    Raises:
        ValueError: something else.
    """
    words = text.replace(":", " ").replace(",", " ").replace("_", " ").split()
    digits = [word[2:] if word.lower().startswith("0x") else word for word in words]
    try:
        if any(len(word) == 1 for word in digits) and len(digits) > 1:
            digits = [word.rjust(2, "0") for word in digits]
        return bytes.fromhex("".join(digits))
    except ValueError as error:
        raise ValueError(f"{text!r} are no hexadecimal bytes") from error


def as_json(values: Sequence[Value]) -> list[Mapping[str, object]]:
    """For ``--json``."""
    out: list[Mapping[str, object]] = []
    for value in values:
        entry: dict[str, object] = {"name": value.name, "value": value.value, "unit": value.unit}
        if value.label:
            entry["label"] = value.label
        out.append(entry)
    return out


def as_text(values: Sequence[Value]) -> str:
    """For people, in one line."""
    return ", ".join(f"{v.name} {v.text}" if v.name and len(values) > 1 else v.text for v in values)

"""One ``SG_`` statement: well-formed, or read piece by piece when it is not.

A repair never guesses what decides a value: a signal whose layout or scale cannot be read is dropped.
"""

from __future__ import annotations

import math
import re

from dbc.load import grammar
from dbc.load.model import DefectLog, quote
from dbc.load.parsed import RawSignal

#: More than any identifier, start bit or length needs; keeps ``int`` away from absurdly long digits.
_MAX_DIGITS = 9


def read_signal(match: re.Match[str], line: int, message: str, log: DefectLog) -> RawSignal | None:
    """A statement that ``grammar.SIGNAL`` matched; None when a number is out of all bounds."""
    name, mark, start, length, order, sign, scale, offset, low, high, unit = match.groups()
    return _make(name, mark or "", (start, length, order, sign), (scale, offset), (low, high), unit, line, message, log)


def read_loose_signal(text: str, line: int, message: str, log: DefectLog) -> RawSignal | None:
    """A statement that is not well-formed; None, with the reason logged, when it cannot be saved."""
    head = grammar.SIGNAL_HEAD.match(text)
    if not head:
        log.add("malformed_signal", line, f"SG_ wants a name and a colon: {quote(text)}", message)
        return None
    name, mark, rest = head.group(1), head.group(2) or "", head.group(3)
    if mark == "m":
        log.add("mark_without_number", line, "marked m without a number", message, name)
        mark = ""
    if mark and not re.fullmatch(r"M|m\d{1,9}M?", mark):
        log.add("malformed_signal", line, f"{quote(mark)} is no multiplexing mark", message, name)
        return None
    layout = grammar.SIGNAL_LAYOUT.match(rest)
    if not layout:
        log.add("malformed_signal", line, f"no start|length@order and sign in: {quote(rest)}", message, name)
        return None
    scale = grammar.SIGNAL_SCALE.search(rest)
    if not scale:
        log.add("bad_scale", line, f"no (factor,offset) of two numbers in: {quote(rest)}", message, name)
        return None
    limits = grammar.SIGNAL_RANGE.search(rest, scale.end())
    if not limits:
        log.add("bad_range", line, f"no [minimum|maximum] of two numbers in: {quote(rest)}", message, name)
    unit = grammar.QUOTED.search(rest, scale.end())
    if not unit:
        log.add("missing_unit", line, f"no unit in quotes in: {quote(rest)}", message, name)
    start, length, order, sign = layout.groups()
    if sign is None:
        log.add("missing_sign", line, "neither + nor - after the byte order; read as unsigned", message, name)
    if limits and unit and sign:
        log.add("irregular_signal", line, f"not quite an SG_ statement: {quote(text)}", message, name)
    range_texts = (limits.group(1), limits.group(2)) if limits else ("0", "0")
    layout_texts = (start, length, order, sign or "+")
    unit_text = unit.group(1) if unit else ""
    return _make(name, mark, layout_texts, (scale.group(1), scale.group(2)), range_texts, unit_text, line, message, log)


def _make(
    name: str,
    mark: str,
    layout: tuple[str, str, str, str],
    scaling: tuple[str, str],
    limits: tuple[str, str],
    unit: str,
    line: int,
    message: str,
    log: DefectLog,
) -> RawSignal | None:
    start, length, order, sign = layout
    if len(start) > _MAX_DIGITS or len(length) > _MAX_DIGITS or len(mark) > _MAX_DIGITS:
        log.add("malformed_signal", line, "a bit position or length has too many digits", message, name)
        return None
    scale, offset = float(scaling[0]), float(scaling[1])
    if not (math.isfinite(scale) and math.isfinite(offset)):
        log.add("bad_scale", line, f"factor {scaling[0]} or offset {scaling[1]} is no finite number", message, name)
        return None
    if any(number.lstrip("+-").startswith(".") for number in (*scaling, *limits)):
        log.add(
            "number_without_leading_digit", line, "a number such as .25 has no digit before its point", message, name
        )
    if scale == 0:
        log.add("zero_scale", line, "a factor of 0 makes every value the same; read as 1", message, name)
        scale = 1.0
    minimum, maximum = _limits(limits, line, message, name, log)
    big_endian, signed = order == "0", sign == "-"
    return RawSignal(
        line, name, mark, int(start), int(length), big_endian, signed, scale, offset, minimum, maximum,
        unit.replace('\\"', '"'),
    )  # fmt: skip


def _limits(
    limits: tuple[str, str], line: int, message: str, name: str, log: DefectLog
) -> tuple[float | None, float | None]:
    minimum, maximum = float(limits[0]), float(limits[1])
    if minimum == maximum == 0:  # the way DBC editors write "no range"
        return None, None
    if not (math.isfinite(minimum) and math.isfinite(maximum)) or minimum > maximum:
        text = f"the range {limits[0]} to {limits[1]} is empty or not finite; it is left out"
        log.add("bad_range", line, text, message, name)
        return None, None
    return minimum, maximum

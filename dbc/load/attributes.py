"""What the attributes of a DBC file say: values through their definitions and defaults, and the frame formats."""

from __future__ import annotations

import math

from dbc.load.model import DefectLog
from dbc.load.parsed import AttributeValue, Parsed, SignalKey

#: Vector's frame formats, for files that define VFrameFormat as a number.
_FRAME_FORMATS = {0: "StandardCAN", 1: "ExtendedCAN", 3: "J1939PG", 14: "StandardCAN_FD", 15: "ExtendedCAN_FD"}


class Attributes:
    """Attribute look-up over one parsed file."""

    def __init__(self, parsed: Parsed, log: DefectLog) -> None:
        self._parsed = parsed
        self._log = log

    def of_message(self, key: int, name: str, use_default: bool = True) -> AttributeValue | None:
        """The value for a message, else the default, else None."""
        stated = self._parsed.message_attributes.get(key, {}).get(name)
        return self._resolve(name, stated, use_default)

    def of_signal(self, key: SignalKey, name: str, use_default: bool = True) -> AttributeValue | None:
        """The value for a signal, else the default, else None."""
        stated = self._parsed.signal_attributes.get(key, {}).get(name)
        return self._resolve(name, stated, use_default)

    def of_database(self, name: str) -> AttributeValue | None:
        """The value for the whole file, else the default, else None."""
        value = self._parsed.database_attributes.get(name)
        return self._resolve(name, None if value is None else (0, value), True)

    def integer_of_message(self, key: int, name: str) -> int:
        """A non-negative integer attribute of a message; 0 when absent or no such number."""
        stated = self._parsed.message_attributes.get(key, {}).get(name)
        return self._non_negative(name, stated, self.of_message(key, name))

    def integer_of_signal(self, key: SignalKey, name: str) -> int:
        """A non-negative integer attribute of a signal; 0 when absent or no such number."""
        stated = self._parsed.signal_attributes.get(key, {}).get(name)
        return self._non_negative(name, stated, self.of_signal(key, name))

    def frame_format(self, key: int) -> str:
        """VFrameFormat of a message as its name, "" where the file does not use the attribute."""
        value = self.of_message(key, "VFrameFormat")
        if isinstance(value, int | float):
            return _FRAME_FORMATS.get(int(value), "")
        return value or ""

    def node_name(self, node: str) -> str:
        """The long name of a node where it has one."""
        return str(self._parsed.node_attributes.get((node, "SystemNodeLongSymbol"), node))

    def _resolve(
        self, name: str, stated: tuple[int, AttributeValue] | None, use_default: bool
    ) -> AttributeValue | None:
        if stated is None:
            default = self._parsed.defaults.get(name) if use_default else None
            if default is None:
                return None
            stated = 0, default
        line, value = stated
        definition = self._parsed.definitions.get(name)
        if definition is None or definition.type_name != "ENUM" or isinstance(value, str):
            return value
        index = int(value)
        if 0 <= index < len(definition.choices):
            return definition.choices[index]
        if name == "VFrameFormat" and index in _FRAME_FORMATS:
            return _FRAME_FORMATS[index]
        self._log.add("bad_attribute", line, f"{name} has no choice number {index}")
        return None

    def _non_negative(self, name: str, stated: tuple[int, AttributeValue] | None, value: AttributeValue | None) -> int:
        number = whole_number(value)
        if number is not None and 0 <= number < 1 << 32:
            return number
        if stated is not None and value not in (None, ""):
            self._log.add("bad_attribute", stated[0], f"{name} is {value!r}, no whole number from 0 to 4294967295")
        return 0


def whole_number(value: AttributeValue | None) -> int | None:
    """The value as an integer if it is one, however written."""
    if isinstance(value, str):
        try:
            value = float(value) if len(value) <= 30 else math.nan
        except ValueError:
            return None
    if value is None or isinstance(value, int):
        return value
    return int(value) if math.isfinite(value) and value == int(value) else None

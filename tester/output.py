"""Tables for people, JSON for machines, errors for both."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TextIO

from gateway.errors import GatewayError
from gateway.uds.errors import MalformedAnswer, NegativeResponse, NoAnswer, PendingTooLong, UnexpectedAnswer
from tester.errors import TesterError

EX_OK, EX_UNAVAILABLE, EX_IOERR, EX_PROTOCOL, EX_NOPERM, EX_CONFIG = 0, 69, 74, 76, 77, 78


def printable(text: str) -> str:
    """What an ECU or a file said, without control characters that a terminal would obey."""
    return "".join(c if c.isprintable() else "·" for c in text)


def table(rows: Sequence[Sequence[object]], heading: Sequence[str] = (), *, indent: int = 0) -> str:
    """Aligned columns, the last as wide as it likes."""
    lines = [[printable(str(cell)) for cell in row] for row in ([heading, *rows] if heading else rows)]
    if not lines:
        return ""
    columns = max(len(line) for line in lines)
    widths = [max((len(line[i]) for line in lines if i < len(line)), default=0) for i in range(columns)]
    return "\n".join(
        (" " * indent + "  ".join(cell.ljust(widths[i]) for i, cell in enumerate(line))).rstrip() for line in lines
    )


def say(text: str, file: TextIO | None = None) -> None:
    """To standard output (or ``file``), at once."""
    print(text, file=file or sys.stdout, flush=True)


def note(text: str) -> None:
    """To standard error."""
    print(text, file=sys.stderr, flush=True)


def say_json(content: object, *, is_line: bool = False) -> None:
    """One JSON document, or one line of a stream of them."""
    say(json.dumps(content, ensure_ascii=False, indent=None if is_line else 1))


def error_json(error: Exception) -> dict[str, object]:
    """``{"kind", "text"}`` and the facts."""
    entry: dict[str, object] = {"kind": error_kind(error), "text": str(error)}
    if isinstance(error, NegativeResponse):
        entry |= {"service": f"{error.sid:02X}", "nrc": f"{error.nrc:02X}", "name": error.name}
    return entry


def error_kind(error: Exception) -> str:
    """A stable word for what happened."""
    if isinstance(error, NegativeResponse):
        return "negative_response"
    if isinstance(error, NoAnswer | PendingTooLong):
        return "no_answer"
    if isinstance(error, MalformedAnswer | UnexpectedAnswer):
        return "malformed_answer"
    if isinstance(error, TesterError):
        return error.kind
    words = {"ActivationRefusedError": "activation_refused", "DiagnosticNackError": "no_answer",
             "IsoTpError": "transport", "ConfigError": "config"}  # fmt: skip
    return words.get(type(error).__name__, "transport" if isinstance(error, GatewayError) else "value")


_STATUS: Mapping[str, int] = {
    "negative_response": EX_PROTOCOL,
    "malformed_answer": EX_PROTOCOL,
    "no_answer": EX_UNAVAILABLE,
    "activation_refused": EX_NOPERM,
    "config": EX_CONFIG,
    "transport": EX_IOERR,
    "value": 64,
}


def exit_status(error: Exception) -> int:
    """What a command that ended with this error exits with."""
    return error.status if isinstance(error, TesterError) else _STATUS[error_kind(error)]

"""What loading gives: messages, and a list of everything in the file that is not in them or not as it should be."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from dbc.load.codes import SEVERITIES, Severity
from dbc.manifest import Message

#: A file of nothing but defects is described by this many of one kind; the rest are counted.
MAX_DEFECTS_PER_CODE = 500
#: How much of an offending line a report quotes, in characters.
MAX_QUOTE = 120


@dataclass(frozen=True, slots=True)
class Defect:
    """One finding about a file.

    Attributes:
        severity: What it cost.
        line: 1-based line in the file, 0 where the finding has no line.
        message: Name of the message it concerns, "" when none.
        signal: Name of the signal it concerns, "" when none.
        code: Stable snake_case name, listed in docs/reference/dbc-defects.md.
        text: One sentence for a person.
    """

    severity: Severity
    line: int
    message: str
    signal: str
    code: str
    text: str


def defect(code: str, line: int, text: str, message: str = "", signal: str = "") -> Defect:
    """A defect with the severity of its code."""
    return Defect(SEVERITIES[code], line, message, signal, code, text)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedDatabase:
    """The sound part of one file, and its defects.

    Attributes:
        path: As the caller gave it.
        format: "dbc", "kcd", "sym" or "arxml".
        version: The file's own version text.
        buses: Names of the buses that the file itself tells apart; one entry, often "", when it does not.
        messages: In file order; ``Message.bus`` is an index into ``buses``.
        defects: In order of lines.
    """

    path: str
    format: str
    version: str = ""
    buses: tuple[str, ...] = ("",)
    messages: tuple[Message, ...] = ()
    defects: tuple[Defect, ...] = ()

    def count(self, severity: Severity) -> int:
        """How many defects have this severity."""
        return sum(found.severity is severity for found in self.defects)

    @property
    def sound(self) -> bool:
        """Whether all that the file states is in the result."""
        return self.count(Severity.ERROR) == 0


@dataclass(slots=True)
class DefectLog:
    """Collects defects while a file is read; bounded however bad the file is."""

    _found: list[Defect] = field(default_factory=list)
    _per_code: Counter[str] = field(default_factory=Counter)

    def add(self, code: str, line: int, text: str, message: str = "", signal: str = "") -> None:
        """One finding; the code, one of ``dbc.load.codes``, decides its severity."""
        self._per_code[code] += 1
        if self._per_code[code] <= MAX_DEFECTS_PER_CODE:
            self._found.append(defect(code, line, text, message, signal))

    def finish(self) -> tuple[Defect, ...]:
        """All defects by line; kinds that were cut short end with a note that counts the rest."""
        found = sorted(self._found, key=lambda found: found.line)
        for code, count in sorted(self._per_code.items()):
            if count > MAX_DEFECTS_PER_CODE:
                text = f"{count - MAX_DEFECTS_PER_CODE} more of {code} are not listed"
                found.append(defect("defects_omitted", 0, text))
        return tuple(found)


def quote(text: str) -> str:
    """The first line of ``text`` for a report, cut at ``MAX_QUOTE``, unprintable characters escaped."""
    line = text.strip().split("\n", 1)[0].rstrip()
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in line)
    return shown if len(shown) <= MAX_QUOTE else shown[: MAX_QUOTE - 1] + "…"

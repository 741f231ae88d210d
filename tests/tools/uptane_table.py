"""Which test shows which line of the Uptane standard: ``python -m tests.tools.uptane_table`` writes the table.

A test belongs to the lines that its name begins with: ``test_cs5_cs6_hold_when_…`` to CS5 and CS6. Names are read from
the source, not by running pytest.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from tests.support import ROOT

RULES = ROOT / "docs" / "reference" / "uptane-rules.toml"
TABLE = ROOT / "docs" / "reference" / "uptane-tests.md"
#: Where tests of updates are; elsewhere such a beginning means something else (P2 of ISO 14229).
FOLDERS = ("chain/updates", "cloud/updates", "gateway/update", "gateway/uptane", "gateway/wire")
_FUNCTION = re.compile(r"^ *(?:async )?def (test_\w+)\(", re.MULTILINE)
_ID = re.compile(r"([a-z]{1,2}[0-9]{1,2})_")
HEAD = """# Uptane: which test shows which line

Made by `python -m tests.tools.uptane_table`; do not edit. The lines are those of [uptane.md](uptane.md).
"""


def load_rules() -> tuple[list[tuple[str, dict[str, str]]], dict[str, str]]:
    """Groups of lines (name, text by id), and reasons of lines without a test."""
    with RULES.open("rb") as file:
        content = tomllib.load(file)
    groups = [(group.pop("name"), group) for group in content["group"]]
    return groups, content["reasons"]


def ids_of(name: str) -> list[str]:
    """The lines that a test's name begins with, whether they exist or not."""
    rest, found = name.removeprefix("test_"), []
    while match := _ID.match(rest):
        found.append(match[1].upper())
        rest = rest[match.end() :]
    return found


def functions_in(folder: Path) -> Iterator[tuple[Path, str]]:
    """All test functions below a folder, sorted by file."""
    for path in sorted(folder.rglob("test_*.py")):
        for name in _FUNCTION.findall(path.read_text(encoding="utf-8")):
            yield path, name


def lines_with_tests() -> dict[str, list[tuple[Path, str]]]:
    """Tests of each line."""
    groups, _ = load_rules()
    made: dict[str, list[tuple[Path, str]]] = {rule: [] for _, rules in groups for rule in rules}
    for folder in FOLDERS:
        for path, name in functions_in(ROOT / "tests" / folder):
            for rule in ids_of(name):
                if rule in made:
                    made[rule].append((path.relative_to(ROOT), name))
    return made


def table() -> str:
    """The page."""
    groups, reasons = load_rules()
    tests = lines_with_tests()
    lines = [HEAD]
    for name, rules in groups:
        lines += [f"## {name}", "", "| line | what it asks | shown by |", "|---|---|---|"]
        for rule, text in rules.items():
            lines.append(f"| {rule} | {text} | {_shown(tests[rule], reasons.get(rule, ''))} |")
        lines.append("")
    return "\n".join(lines)


def _shown(tests: list[tuple[Path, str]], reason: str) -> str:
    if not tests:
        return f"*{reason}*" if reason else "**nothing yet**"
    by_file: dict[Path, list[str]] = {}
    for path, name in tests:
        by_file.setdefault(path, []).append(name)
    parts = [
        f"[{path.name}](../../{path.as_posix()}): " + ", ".join(f"`{name}`" for name in sorted(names))
        for path, names in sorted(by_file.items())
    ]
    return "<br>".join(parts)


def main() -> int:
    """Write the table; name lines that have neither test nor reason."""
    TABLE.write_text(table(), encoding="utf-8")
    _, reasons = load_rules()
    missing = [rule for rule, tests in lines_with_tests().items() if not tests and rule not in reasons]
    if missing:
        print("no test, no reason: " + ", ".join(missing), file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())

"""docs/reference/uptane-tests.md: every line of the standard has a test or says why not, and the page is up to date."""

from __future__ import annotations

import re

from tests.support import ROOT
from tests.tools.uptane_table import TABLE, ids_of, lines_with_tests, load_rules, table


def test_every_line_has_a_test_or_a_reason() -> None:
    _, reasons = load_rules()
    missing = [rule for rule, tests in lines_with_tests().items() if not tests and rule not in reasons]
    assert not missing
    assert not [rule for rule in reasons if rule not in lines_with_tests()]


def test_the_table_is_up_to_date() -> None:
    assert TABLE.read_text(encoding="utf-8") == table(), "run: python -m tests.tools.uptane_table"


def test_rules_in_errors_are_lines_of_the_table() -> None:
    known = set(lines_with_tests())
    found: set[str] = set()
    for path in (ROOT / "gateway" / "uptane").glob("*.py"):
        found |= set(re.findall(r'"((?:R|T|F|CR|CT|CS|CG|RD|PV|N|V)[0-9]{1,2})"', path.read_text(encoding="utf-8")))
    assert found
    assert found <= known


def test_names_of_tests_begin_with_their_lines() -> None:
    assert ids_of("test_cs5_cs6_hold_when_lost") == ["CS5", "CS6"]
    assert ids_of("test_r13_p1_both") == ["R13", "P1"]
    assert ids_of("test_keys_of_others") == []

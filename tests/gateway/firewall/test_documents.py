"""The documents name every key of a policy, with its default, and their examples are sound."""

from __future__ import annotations

import re

import msgspec
import pytest

from gateway.firewall.check import check
from gateway.firewall.policy import LockSection, Policy, Rule, SecurityAccessSection, default_policy_text, parse_policy
from gateway.firewall.rules import compile_policy
from gateway.firewall.services import OPAQUE, READING, WRITING
from tests.support import ROOT

REFERENCE = (ROOT / "docs" / "reference" / "firewall-policy.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "integrator" / "diagnostic-firewall.md").read_text(encoding="utf-8")


def rows() -> dict[str, str]:
    return dict(re.findall(r"^\| `([\w.]+)` \|([^|]*)\|", REFERENCE, re.M))


@pytest.mark.parametrize(
    ("section", "prefix"),
    [(LockSection, "lock."), (SecurityAccessSection, "security_access."), (Rule, ""), (Policy, "")],
)
def test_every_key_is_in_the_reference_with_its_default(section: type[msgspec.Struct], prefix: str) -> None:
    documented = rows()
    for field in msgspec.structs.fields(section):
        if field.name in ("rules", "lock", "security_access"):
            continue
        assert prefix + field.name in documented, field.name
        told = documented[prefix + field.name].strip().strip("`").strip('"')
        if isinstance(field.default, int | float) and not isinstance(field.default, bool):
            assert float(int(told, 0) if told.startswith("0x") else float(told)) == field.default, field.name


def test_the_groups_of_services_are_as_documented() -> None:
    for name, services in (("reading", READING), ("writing", WRITING - OPAQUE)):
        [row] = re.findall(rf'^\| `"{name}"` \| (.*) \|$', REFERENCE, re.M)
        told: set[int] = set()
        text = re.sub(r"\([^)]*\)", "", row)
        for first, last in re.findall(r"\b([0-9A-F]{2})(?: to ([0-9A-F]{2}))?\b", text):
            told.update(range(int(first, 16), int(last or first, 16) + 1))
        assert told == services


def test_the_example_rule_is_sound_before_the_built_in_ones() -> None:
    [rule] = [block for block in re.findall(r"```toml\n(.*?)```", GUIDE, re.S) if "[[rules]]" in block]
    head, first, rest = default_policy_text().partition("# What nobody can judge.")
    policy = parse_policy(head + rule + first + rest)
    assert policy.rules[0].name == "test bench writes parameters up to 20 km/h"
    assert check(compile_policy(policy, {"motor": 0x1010, "battery": 0x1020})) == []

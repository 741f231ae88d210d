"""How a policy file is read, what its keys mean, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.diag import ports
from gateway.errors import ConfigError
from gateway.firewall.check import allowed_while_moving, check
from gateway.firewall.policy import default_policy, load_policy, parse_policy
from gateway.firewall.ports import Verdict
from gateway.firewall.request import parse
from gateway.firewall.rules import compile_policy
from gateway.firewall.services import NAMES, WITH_SUBFUNCTION
from gateway.firewall.state import VehicleFacts
from tests.gateway.firewall.support import (
    BATTERY,
    CLOUD,
    MOTOR,
    MOVING,
    OBD,
    OTHER,
    STANDING,
    UNKNOWN,
    WORKSHOP,
    Bench,
)
from tests.gateway.firewall.support import (
    NAMES as TARGETS,
)


def one_rule(text: str, **more: object) -> Bench:
    """Only what the rule allows passes."""
    rule = f'version = 1\n[[rules]]\nname = "it"\naction = "allow"\n{text}\n'
    return Bench(rule, vehicle=more.get("vehicle", STANDING))  # type: ignore[arg-type]  # VehicleFacts


def problems(text: str) -> list[str]:
    return check(compile_policy(parse_policy("version = 1\n" + text), TARGETS))


# what the keys mean


@pytest.mark.parametrize(
    ("keys", "fits", "not_"),
    [
        ("services = [0x22]", ["22F190"], ["190201", "2EF19041"]),
        ('services = ["0x19-0x22"]', ["22F190", "190201"], ["2EF19041"]),
        ('services = ["reading"]', ["22F190", "1003", "0100", "2C01F300F1900101"], ["1002", "04", "2EF19041"]),
        ('services = ["writing"]', ["1002", "04", "2EF19041", "3101FF00"], ["1003", "22F190"]),
        ("services = [0x19]\nsub_functions = [2, 6]", ["190201", "198201", "190601"], ["190101", "191201"]),
        ('dids = ["0xF180-0xF19F"]', ["22F190", "22F180F19F", "2EF19041", "24F190"], ["22F1A0", "22F190F1A0", "3E00"]),
        ("services = [0x31]\nroutines = [0x0203]", ["31010203", "31030203AA"], ["31010204"]),
        ('memory = ["0x1000-0x1FFF"]', ["2312100010", "3D12100001AA", "340012100010"], ["23120FFF10", "23221FFF0002"]),
        ("session = [3]", [], ["22F190"]),
        ("unlocked = false", ["22F190"], []),
        ("unlocked = true", [], ["22F190"]),
        ("functional = true", [], ["22F190"]),
        ("functional = false", ["22F190"], []),
        ("services = [0xBA]", ["BA01"], ["22F190", "BB01"]),
        ("services = [0x84]", ["840102"], ["22F190"]),
        ("", ["22F190", "2EF19041"], ["BA01", "840102"]),
    ],
)
def test_keys_of_a_request(keys: str, fits: list[str], not_: list[str]) -> None:
    for request in fits:
        assert one_rule(keys).allows(request), request
    for request in not_:
        assert not one_rule(keys).allows(request), request


@pytest.mark.parametrize(
    ("keys", "fits", "not_"),
    [
        ('ports = ["obd"]', [OBD], [WORKSHOP, CLOUD]),
        ('ports = ["obd", "doip"]', [OBD, WORKSHOP], [CLOUD]),
        ('testers = ["0x0E80-0x0E8F"]', [WORKSHOP, OTHER], [OBD]),
        ("testers = [0x0E81]", [OTHER], [WORKSHOP]),
        ('tester_names = ["operator"]', [CLOUD], [WORKSHOP]),
        ('tester_names = ["oper*"]', [CLOUD], [WORKSHOP]),
        ("secure = true", [CLOUD], [WORKSHOP]),
        ("secure = false", [WORKSHOP], [CLOUD]),
    ],
)
def test_keys_of_a_tester(keys: str, fits: list[ports.Tester], not_: list[ports.Tester]) -> None:
    for tester in fits:
        assert one_rule(keys).allows("22F190", by=tester)
    for tester in not_:
        assert not one_rule(keys).allows("22F190", by=tester)


def test_targets_by_name_and_by_address() -> None:
    for keys in ('targets = ["motor"]', "targets = [0x1010]", 'targets = ["0x1000-0x101F"]'):
        assert one_rule(keys).allows("22F190", to=MOTOR)
        assert not one_rule(keys).allows("22F190", to=BATTERY)


@pytest.mark.parametrize(
    ("keys", "fits", "not_"),
    [
        ("", [STANDING], [MOVING, UNKNOWN]),
        ('vehicle = "any"', [STANDING, MOVING, UNKNOWN], []),
        ('vehicle = "moving"', [MOVING, UNKNOWN], [STANDING]),
        ('vehicle = "any"\nbelow_kmh = 10', [STANDING], [MOVING, UNKNOWN]),
        ("min_voltage_v = 12.0", [STANDING], [VehicleFacts(is_standing=True), VehicleFacts(voltage_v=13.0)]),
    ],
)
def test_keys_of_the_vehicle_when_writing(keys: str, fits: list[VehicleFacts], not_: list[VehicleFacts]) -> None:
    for vehicle in fits:
        assert one_rule(keys, vehicle=vehicle).allows("2EF19041")
    for vehicle in not_:
        assert not one_rule(keys, vehicle=vehicle).allows("2EF19041")


def test_the_first_rule_that_fits_decides_and_each_item_is_judged() -> None:
    bench = Bench(
        """
        version = 1
        default_nrc = 0x31
        [[rules]]
        name = "secret"
        dids = [0xF1A0]
        action = "refuse"
        nrc = 0x33
        [[rules]]
        name = "silent"
        dids = [0xF1A1]
        action = "drop"
        [[rules]]
        name = "rest"
        dids = ["0xF100-0xF1FF"]
        action = "allow"
        """
    )
    assert bench.nrc("22F190F1A0") == 0x33
    assert bench.ask("22F1A1").verdict is Verdict.DROP
    assert bench.nrc("22F190") == 0
    assert bench.nrc("22E000") == 0x31
    assert bench.records[-1].rule == "default"


@settings(max_examples=200, deadline=None)
@given(data=st.data(), pdu=st.binary(min_size=1, max_size=12))
def test_no_policy_allows_writing_while_moving_without_saying_so(data: st.DataObject, pdu: bytes) -> None:
    sids = st.one_of(st.sampled_from(sorted(NAMES)), st.sampled_from(["reading", "writing", "0x10-0x3E"]))
    rules = []
    for i in range(data.draw(st.integers(1, 4))):
        services = data.draw(st.lists(sids, max_size=3))
        keys = data.draw(st.sampled_from(["", 'ports = ["doip"]', "unlocked = false", 'testers = ["0-0xFFFF"]']))
        shown = ", ".join(f'"{s}"' if isinstance(s, str) else str(s) for s in services)
        rules.append(f'[[rules]]\nname = "{i}"\nservices = [{shown}]\n{keys}\naction = "allow"\n')
    bench = Bench("version = 1\n" + "".join(rules), vehicle=data.draw(st.sampled_from([MOVING, UNKNOWN])))
    if data.draw(st.booleans()):
        pdu = bytes([data.draw(st.sampled_from(sorted(WITH_SUBFUNCTION)))]) + pdu
    request = parse(pdu)
    if request.is_writing or any(item.is_writing for item in request.items):
        assert not bench.allows(pdu)


# what is wrong with a file


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("rules = []", "version"),
        ('version = 1\n[[rules]]\nname = "a"\naction = "permit"', "$.rules[0].action"),
        ('version = 1\n[[rules]]\nname = "a"\naction = "allow"\nservice = [1]', "service"),
        ('version = 1\n[[rules]]\nname = "a"\naction = "allow"\nservices = ["0x22-0x19"]', "$.rules[0].services"),
        ('version = 1\n[[rules]]\nname = "a"\naction = "allow"\nservices = ["read"]', "$.rules[0].services"),
        ('version = 1\n[[rules]]\nname = "a"\naction = "allow"\nservices = [0x62]', "an answer, not a service"),
        ('version = 1\n[[rules]]\nname = "a"\naction = "allow"\ndids = [0x10000]', "$.rules[0].dids"),
        ('version = 1\n[[rules]]\nname = "a"\naction = "allow"\ndids = [-1]', "$.rules[0].dids"),
        ('version = 1\n[[rules]]\nname = "a"\naction = "allow"\ntargets = ["engine"]', "no target is called 'engine'"),
        ('version = 1\n[[rules]]\nname = ""\naction = "allow"', "name of its own"),
        ('version = 1\n[[rules]]\nname = "a"\naction = "allow"\n[[rules]]\nname = "a"\naction = "drop"', "$.rules[1]"),
        ("version = 2\nrules = []", "$.version"),
        ("version = ", "Invalid value"),
        ("version = 1\nrules = []\n[lock]\nscope = 'town'", "$.lock.scope"),
        ("version = 1\nrules = []\n[security_access]\nmax_failed_keys = 0", "$.security_access.max_failed_keys"),
    ],
)
def test_a_mistake_in_the_file_is_told_with_its_place(text: str, where: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        compile_policy(load_policy(path), TARGETS, path=str(path))
    assert where in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        load_policy(tmp_path / "nowhere.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary\.toml"):
        load_policy(tmp_path / "binary.toml")


# rules that never apply

ALL = '[[rules]]\nname = "all"\naction = "allow"\nvehicle = "any"\n'
READ = '[[rules]]\nname = "read"\naction = "allow"\nservices = [0x22]\ndids = ["0xF180-0xF19F"]\n'


def test_a_rule_behind_a_wider_one_is_reported() -> None:
    assert problems(ALL + READ) == ["rule 'read' never applies: covered by 'all'"]
    assert problems(READ + ALL) == []


def test_a_wider_rule_with_a_condition_covers_nothing() -> None:
    for condition in ('ports = ["obd"]', "secure = true", "unlocked = true", "session = [3]", "min_voltage_v = 9.0"):
        assert problems(ALL + condition + "\n" + READ) == []


def test_writing_at_standstill_does_not_cover_writing_while_moving() -> None:
    first = '[[rules]]\nname = "standing"\naction = "allow"\nservices = ["writing"]\n'
    second = '[[rules]]\nname = "moving"\naction = "refuse"\nservices = ["writing"]\n'
    assert problems(first + second) == []
    assert problems(second + first) == ["rule 'standing' never applies: covered by 'moving'"]


def test_several_rules_together_can_cover_one() -> None:
    first = '[[rules]]\nname = "r"\naction = "allow"\nservices = ["reading"]\nvehicle = "any"\n'
    second = '[[rules]]\nname = "w"\naction = "allow"\nservices = ["writing"]\nvehicle = "any"\n'
    third = '[[rules]]\nname = "both"\naction = "refuse"\nservices = [0x22, 0x2E]\n'
    assert problems(first + second + third) == ["rule 'both' never applies: covered by 'r' and 'w'"]


def test_the_built_in_policy_is_sound_and_writes_only_at_standstill() -> None:
    compiled = compile_policy(default_policy(), {})
    assert check(compiled) == []
    assert allowed_while_moving(compiled) == []
    assert [rule.name for rule in allowed_while_moving(compile_policy(parse_policy("version = 1\n" + ALL), {}))] == [
        "all"
    ]

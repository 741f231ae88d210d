"""Scripts: what they mean, what is told of wrong ones, and a run against a simulated ECU."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.uds.client import KeyFunction, UdsClient
from simulator.ecu.keys import ALGORITHMS
from tester.script import Pattern, ScriptError, Step, count_steps, parse_expectation, parse_script
from tester.script_cli import writing_steps
from tester.script_run import ScriptReport, ScriptRun, junit
from tests.gateway.uds.test_with_ecus import SimulatedEcu, on


def results(text: str, *, keep_going: bool = False) -> ScriptReport:
    async def work(client: UdsClient, ecu: SimulatedEcu) -> ScriptReport:
        async def client_of(_name: str) -> UdsClient:
            return client

        def key_of(_name: str, level: int) -> KeyFunction:
            about = next(s for s in ecu.server.description.security if s.level == level)
            return lambda _level, seed: ALGORITHMS[about.algorithm](seed, bytes.fromhex(about.constant))

        return await ScriptRun(client_of, key_of, keep_going=keep_going).run(parse_script(text), "t")

    return on("motor", work)


def test_a_tour_passes() -> None:
    report = results(
        """
        ecu motor
        name identification
        send 22 F190
        expect 62 F190 "0UTR1" *      # the VIN
        save vin 3 5
        set did F190
        send 22 $did
        expect 62 $did $vin *
        send 22 FFFF
        expect nrc 31
        send 3E 80
        expect silence
        session 03
        unlock 01
        repeat 3
          send 3E00
        end
        retry 30 0.1
        send 31 03 0200               # the self test has not run
        expect nrc *
        """
    )
    assert report.failed == 0, report.results
    assert len(report.results) == 10
    assert report.results[0].name == "identification"


def test_what_is_not_as_expected_ends_the_run_unless_told() -> None:
    text = "ecu motor\nsend 22 F190\nexpect 62 F190 41\nsend 22 FFFF\nsend 22 F190\nexpect silence\n"
    stopped = results(text)
    assert (stopped.failed, len(stopped.results)) == (1, 1)
    whole = results(text, keep_going=True)
    assert [result.passed for result in whole.results] == [False, False, False]
    assert "request out of range" in whole.results[1].problem
    tree = ElementTree.fromstring(junit(whole))
    assert (tree.get("tests"), tree.get("failures")) == ("3", "3")
    assert len(tree.findall(".//failure")) == 3


def test_retry_asks_as_often_as_told() -> None:
    report = results("ecu motor\nretry 3 0.5\nsend 22 FFFF\nexpect 62 FFFF *\n")
    assert report.failed == 1
    assert 1.0 <= report.results[0].seconds < 2


def test_every_wrong_line_is_told_at_once() -> None:
    with pytest.raises(ScriptError) as caught:
        parse_script("sendd 22\nsend 2\nexpect * 22\nexpect nrc 999\nwait x\nrepeat 0\nend\nsave 1x 0\nrepeat 2\n")
    told = str(caught.value).splitlines()
    assert [int(line.split(":")[0].removeprefix("line ")) for line in told] == [1, 2, 3, 4, 5, 6, 7, 8, 9]


def test_an_expectation_belongs_to_a_request() -> None:
    with pytest.raises(ScriptError, match="line 3: expect without"):
        parse_script("send 3E00\nexpect 7E *\nexpect 7E *\n")


def test_too_many_steps_are_refused() -> None:
    with pytest.raises(ScriptError, match="more than"):
        parse_script("repeat 1000\nrepeat 1000\nsend 3E00\nend\nend\n")
    with pytest.raises(ScriptError, match="no steps"):
        parse_script("# nothing\n")


@pytest.mark.parametrize(
    ("pattern", "answer", "fits"),
    [
        ("62 F190 *", "62F19041", True),
        ("62 F190 *", "62F190", True),
        ("62 F190", "62F19041", False),
        ("62 ???? 41", "62F19041", True),
        ('62 F190 "A"', "62F19041", True),
        ("62F191 *", "62F19041", False),
    ],
)
def test_patterns(pattern: str, answer: str, fits: bool) -> None:
    [_, step] = parse_script(f"send 22\nexpect {pattern}")
    expectation = parse_expectation(step.words)
    assert isinstance(expectation, Pattern)
    assert expectation.matches(bytes.fromhex(answer)) is fits


def test_what_may_change_something_is_known_before_it_runs() -> None:
    steps = parse_script("send 22 F190\nrepeat 2\nsend 2E 0300 01\nend\nsend $x\nunlock 01\nsend 10 03\n")
    assert [step.line for step in writing_steps(steps)] == [3, 5, 6]
    assert count_steps(steps) == 6


@given(st.text(max_size=80))
def test_any_text_is_a_script_or_refused(text: str) -> None:
    try:
        found: tuple[Step, ...] | None = parse_script(text)
    except ScriptError:
        found = None
    assert found is None or found


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    from tester.errors import FileError
    from tester.script_cli import load_script

    for content, words in ((b"\xff", "UTF-8"), (b"what", "line 1")):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(FileError, match=words):
            load_script(tmp_path / "x")
    with pytest.raises(FileError):
        load_script(tmp_path / "none")

"""The guest runs the suite's guest tests, and its runner never mistakes a dead guest for a passed test."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.support import ROOT
from tests.vcan import guest
from tests.vcan.plugin import KNOWN_GUEST_TESTS, Outcome

TIMEOUT_S = float(os.environ.get("OUTRIDER_GUEST_TIMEOUT_S", "1500"))


def guest_test_files(mark: str) -> list[str]:
    """Test files that mention the mark: collecting the others in the guest would only cost time."""
    found = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        if path != Path(__file__).resolve() and f"mark.{mark}" in path.read_text():
            found.append(str(path.relative_to(ROOT)))
    return found


def counts(outcome: Outcome) -> bool:
    """The phase that tells a test's outcome: its call, or whatever else did not pass."""
    return outcome.when == "call" or outcome.outcome != "passed"


@contextlib.contextmanager
def telling(report: Path, mark: str) -> Iterator[None]:
    """Print each outcome as the guest reports it."""
    over = threading.Event()

    def follow() -> None:
        with report.open("rb") as file:
            rest = b""
            last = False
            while not last:
                last = over.wait(0.5)
                *lines, rest = (rest + file.read()).split(b"\n")
                for line in lines:
                    outcome = msgspec.json.decode(line, type=Outcome)
                    if counts(outcome):
                        took = f"{outcome.duration_s:.2f} s"
                        print(f"\n  [{mark}] {outcome.outcome.upper():7} {outcome.nodeid} ({took})", end="", flush=True)

    follower = threading.Thread(target=follow)
    follower.start()
    try:
        yield
    finally:
        over.set()
        follower.join()
        print()


@pytest.mark.guest
@pytest.mark.timeout(TIMEOUT_S + 60)
def test_suite_in_vcan_guest(request: pytest.FixtureRequest, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Every test marked ``guest`` passes in one guest, started here. Deselected where vcan exists already."""
    run_suite("guest", "auto", request, tmp_path, capfd)


@pytest.mark.timeout(TIMEOUT_S + 60)
def test_suite_in_qemu_guest(request: pytest.FixtureRequest, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Every test marked ``kernel_isotp`` passes in one emulated machine. Deselected where the kernel has ISO-TP."""
    run_suite("kernel_isotp", "qemu", request, tmp_path, capfd)


@pytest.mark.timeout(TIMEOUT_S + 60)
def test_suite_in_namespace(request: pytest.FixtureRequest, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Every test marked ``car`` passes in a network namespace of its own."""
    run_suite("car", "lo", request, tmp_path, capfd)


def run_suite(
    mark: str, place: str, request: pytest.FixtureRequest, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Run all tests of a mark in one guest and believe only what it reported of each."""
    if os.environ.get("OUTRIDER_GUEST") != "1":
        pytest.skip("set OUTRIDER_GUEST=1 to start guests")
    files = guest_test_files(mark)
    assert files, f"no test is marked {mark}"
    report = tmp_path / "outcomes.jsonl"
    report.touch()
    # Only the plugins these tests use: importing the others costs a slow machine a minute.
    plugins = [part for name in ("pytest_timeout", "anyio", "_hypothesis_pytestplugin") for part in ("-p", name)]
    command = [sys.executable, "-m", "pytest", "-m", mark, *plugins, "-p", "no:cacheprovider", *files]
    output = io.BytesIO()
    failure = ""
    with capfd.disabled(), telling(report, mark):
        try:
            status = guest.run_command(
                command,
                place=place,
                timeout_s=TIMEOUT_S,
                memory_mib=2048 if place == "qemu" else 1024,
                extra_environment=[f"OUTRIDER_GUEST_REPORT={report}", "PYTEST_DISABLE_PLUGIN_AUTOLOAD=1"],
                stdout=output,
                stderr=output,
            )
        except guest.GuestError as error:
            status, failure = error.status, str(error)
    outcomes = [msgspec.json.decode(line, type=Outcome) for line in report.read_bytes().splitlines()]
    ran = [o for o in outcomes if counts(o)]
    text = output.getvalue().decode(errors="replace")
    last = outcomes[-1].nodeid if outcomes else "none"
    assert not failure, f"{failure}\nlast test heard of: {last}\n{text[-6000:]}"
    bad = [o for o in ran if o.outcome == "failed"]
    assert status == 0, f"guest's pytest exited with {status}; failed: {[o.nodeid for o in bad]}\n{text[-20000:]}"
    assert not bad
    assert any(o.when == "call" and o.outcome == "passed" for o in ran), f"the guest ran no test\n{text[-6000:]}"
    known = request.config.stash.get(KNOWN_GUEST_TESTS, {}).get(mark, [])
    missing = set(known) - {o.nodeid for o in outcomes}
    assert not missing, f"collected on the host but not run in the guest: {sorted(missing)}"

"""The runner tells truthfully how a command ended; a guest that hangs or dies never looks like a success."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.vcan import guest

RUN = str(ROOT / "tests" / "vcan" / "run")

needs_guest = pytest.mark.skipif(os.environ.get("OUTRIDER_GUEST") != "1", reason="set OUTRIDER_GUEST=1 to boot guests")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The runner as a user calls it."""
    return subprocess.run([RUN, *arguments], capture_output=True, text=True, check=False, timeout=100, cwd=ROOT)


@needs_guest
@pytest.mark.slow
def test_output_status_directory_and_variables_pass_through() -> None:
    """Both streams arrive apart and whole, the status is the command's, and it sees our folder and variables."""
    script = 'pwd; echo "$OUTRIDER_X $MINE"; ls /sys/class/net | grep -c vcan; seq 20000; echo oops >&2; exit 7'
    result = run("--env", "OUTRIDER_X=a b", "--env", "MINE=c'd", "--", "bash", "-c", script)
    assert result.returncode == 7, result
    assert result.stderr == "oops\n"
    assert result.stdout.splitlines() == [str(ROOT), "a b c'd", "6", *(str(n) for n in range(1, 20001))]


@needs_guest
@pytest.mark.slow
def test_a_hanging_command_is_killed_and_told() -> None:
    """A guest that does not finish in time ends with 124, and nothing of it stays."""
    result = run("--timeout", "6", "--", "sleep", "1000")
    assert result.returncode == guest.EX_TIMEOUT
    assert "did not finish within 6 s" in result.stderr


@needs_guest
@pytest.mark.slow
def test_a_dying_guest_is_an_error() -> None:
    """A kernel that stops without a status ends with 70 and its console's last words."""
    if guest.uml_kernel() is None:
        pytest.skip("no User-Mode Linux here")
    result = run("--uml", "--", "bash", "-c", "echo c >/proc/sysrq-trigger; sleep 100")
    assert result.returncode == guest.EX_SOFTWARE
    assert "died without an exit status" in result.stderr
    assert "Call Trace" in result.stderr


@needs_guest
@pytest.mark.slow
def test_a_killed_runner_leaves_no_guest_behind(tmp_path: Path) -> None:
    """kill -9 of the runner ends the guest too: its folder goes only after its processes were killed."""
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    script = f"touch {tmp_path}/started; while :; do sleep 0.1; done"
    with subprocess.Popen([RUN, "--", "bash", "-c", script], env=environment, cwd=ROOT) as runner:
        while not (tmp_path / "started").exists():
            assert runner.poll() is None
        runner.send_signal(signal.SIGKILL)
    while any(tmp_path.glob("vcan-*")):
        os.sched_yield()


def test_a_wrong_place_is_told() -> None:
    """Asking for interfaces that are not there names what is missing."""
    result = run("--host", "--", "true")
    if guest.have_interfaces():
        assert result.returncode == 0
        return
    assert result.returncode == guest.EX_UNAVAILABLE
    assert "not all up" in result.stderr


def test_no_command_without_a_terminal_is_a_usage_error() -> None:
    """CI cannot use the shell; it gets an error instead of a hang."""
    result = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "vcan" / "guest.py")],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == guest.EX_USAGE
    assert "a command is needed" in result.stderr

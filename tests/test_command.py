"""The ``outrider`` command itself: version, help, wrong words, and output that goes nowhere."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from outrider import __version__
from outrider.cli import GROUPS, build_parser, main
from tests.support import ROOT


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"outrider {__version__}\n"


@pytest.mark.parametrize("words", [[], ["bogus"], ["gateway"], ["dbc", "bogus"], ["--bogus"]])
def test_wrong_words_get_usage_and_status_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("usage: outrider")


def test_unknown_group_is_told_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bogus"])
    err = capsys.readouterr().err
    assert all(group in err for group in GROUPS)


def outrider(shell: str) -> subprocess.CompletedProcess[str]:
    """A shell line in which ``outrider`` is this checkout's."""
    script = f'outrider() {{ "{sys.executable}" -m outrider "$@"; }}; set -o pipefail; {shell}'
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)


DBC = "simulator/data/outrider_one_powertrain.dbc"


@pytest.mark.parametrize("words", [f"dbc show {DBC}", f"dbc check {DBC}", "sim list", "--help"])
def test_output_nobody_reads_is_no_error(words: str) -> None:
    done = outrider(f"outrider {words} | true")
    assert done.stderr == ""
    assert done.returncode == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("words", [f"dbc show {DBC}", f"dbc check {DBC}", "sim list"])
def test_output_on_a_full_disk_is_told(words: str) -> None:
    done = outrider(f"outrider {words} > /dev/full")
    assert done.returncode == os.EX_IOERR
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_closed_output_is_no_error() -> None:
    assert outrider(f"outrider dbc check {DBC} >&-").returncode == 0


def commands_of(group: str) -> set[str]:
    """The verbs a group offers."""
    parser = build_parser([group])
    groups = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    verbs = [a for a in groups.choices[group]._actions if isinstance(a, argparse._SubParsersAction)]
    return set(verbs[0].choices) if verbs else set()


@pytest.mark.parametrize("group", list(GROUPS))
def test_readme_lists_every_command(group: str) -> None:
    line = re.search(rf"^outrider {group}\b *(.*)$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)
    assert line
    assert set(filter(None, line[1].split(" | "))) == commands_of(group)


def without_rights() -> list[str]:
    """What root puts before a command so that permissions count."""
    if os.geteuid() != 0:
        return []
    prefix = ["setpriv", "--reuid", "65534", "--clear-groups"]
    if shutil.which("setpriv") is None or subprocess.run([*prefix, sys.executable, "-c", ""], check=False).returncode:
        pytest.skip("root cannot give its rights up here")
    return prefix


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (f"dbc decode {{}}/x.log --dbc {DBC}", os.EX_NOINPUT),
        ("dbc decode /dev/null --dbc {}/x.dbc", os.EX_NOINPUT),
        ("dbc check {}/x.dbc", os.EX_NOINPUT),
        (f"dbc compile --dbc a={DBC} --out {{}}/m", os.EX_CANTCREAT),
        ("scheme check {}/x.toml --manifest {}/m", os.EX_NOINPUT),
        ("gateway check-config --config {}/gateway.toml", os.EX_CONFIG),
        ("gateway status --socket {}/gateway.sock", os.EX_UNAVAILABLE),
        ("sim run --duration 1 --log {}/x.log", os.EX_CANTCREAT),
        ("sim run --duration 1 --scenario {}/x.toml", os.EX_DATAERR),
        ("sim replay {}/x.log", os.EX_NOINPUT),
    ],
)
def test_folder_without_permission_is_told(tmp_path: Path, words: str, status: int) -> None:
    tmp_path.chmod(0)
    line = f"{sys.executable} -m outrider {words.format(tmp_path, tmp_path)}"
    done = subprocess.run(
        [*without_rights(), *line.split()], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )
    tmp_path.chmod(0o700)
    assert "Traceback" not in done.stderr
    assert str(tmp_path) in done.stderr
    assert done.returncode == status

"""The shell examples of the documents work, word for word, in a folder with small stand-in files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import ROOT

DOCS = ROOT / "docs"
#: What a stranger's machine may lack (interfaces, nc), takes too long, or shows syntax and not a command.
NOT_RUN = re.compile(r"^ip link|^sudo |--interface socketcan|vcan|\bnc -U|^outrider sim run --interface")

STAND_IN_DBC = """VERSION ""
BU_: ECU
BO_ 256 Engine: 8 ECU
 SG_ Speed : 0|16@1+ (0.25,0) [0|8000] "rpm" ECU
 SG_ Gear : 16|4@1+ (1,0) [0|15] "" ECU
VAL_ 256 Gear 0 "park" 1 "drive" ;
"""


def blocks(document: str) -> list[tuple[str, str]]:
    """Language and content of the fenced blocks of a document, in order."""
    text = (DOCS / document).read_text(encoding="utf-8")
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)


def commands(document: str) -> list[str]:
    """The blocks of shell commands, without the lines that are not run here."""
    found = []
    for language, content in blocks(document):
        if language in ("", "sh") and re.match(r"(outrider|cat >|echo) ", content):
            lines = [line for line in content.replace("\\\n", " ").splitlines() if not NOT_RUN.search(line)]
            if lines:
                found.append("\n".join(lines))
    return found


Shell = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Runs bash in a folder that has the stand-in files, with ``outrider`` of this checkout."""
    for number, name in enumerate(("my", "powertrain", "tester", "radar")):
        (tmp_path / f"{name}.dbc").write_text(STAND_IN_DBC.replace("256", str(256 + number)))
    frames = [f"(1700000000.{i:02}0000) can0 100#{i:02X}000{i % 2}\n" for i in range(50)]
    (tmp_path / "my.log").write_text("".join(frames))
    (tmp_path / "drive.log.xz").symlink_to(tmp_path / "drive.log")  # the content tells the format
    (tmp_path / "drive.log").write_text((tmp_path / "my.log").read_text())
    (tmp_path / "simulator").symlink_to(ROOT / "simulator")
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "outrider").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m outrider "$@"\n')
    (binaries / "outrider").chmod(0o755)
    environment = {**os.environ, "PATH": f"{binaries}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}

    def run(script: str) -> subprocess.CompletedProcess[str]:
        words = ["bash", "-euo", "pipefail", "-c", script]
        return subprocess.run(
            words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    return run


def all_work(shell: Shell, document: str) -> list[str]:
    """Run each block; what they printed."""
    examples = commands(document)
    assert examples, "no example found"
    printed = []
    for example in examples:
        done = shell(example)
        assert done.returncode == 0, f"{example}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        printed.append(done.stdout)
    return printed


def test_integrators_first_success(shell: Shell, tmp_path: Path) -> None:
    [printed] = all_work(shell, "integrator/README.md")
    assert "gateway.toml: sound" in printed
    assert list((tmp_path / "spool").glob("normal-*.seg"))


def test_writing_a_scheme(shell: Shell, tmp_path: Path) -> None:
    """The two schemes of the document are the ones its commands name."""
    schemes = [content for language, content in blocks("integrator/write-a-scheme.md") if language == "toml"]
    for scheme in schemes:
        name = re.search(r'^id = "(.*)"', scheme)
        assert name
        (tmp_path / f"{name[1]}.toml").write_text(scheme)
    printed = all_work(shell, "integrator/write-a-scheme.md")
    assert any("drive-basics 1: ok" in text for text in printed)
    assert any("per day" in text for text in printed)
    assert any("VehicleSpeed" in text for text in printed)


@pytest.mark.parametrize(
    "document",
    ["bench-technician/README.md", "bench-technician/decode-a-log.md", "bench-technician/simulator.md"],
)
def test_bench_technicians_examples(shell: Shell, document: str) -> None:
    assert any(all_work(shell, document))


def test_toml_examples_of_the_integrators_are_sound(tmp_path: Path) -> None:
    """Every ``[[buses]]`` in CAN interfaces, put into a configuration."""
    from gateway.config import load_config

    found = 0
    for language, content in blocks("integrator/can-interfaces.md"):
        if language == "toml":
            found += 1
            rest = 'vehicle = "A"\n' + content + '\n[collect]\nmanifest = "m"\nschemes = ["s"]\n'
            (tmp_path / "gateway.toml").write_text(rest)
            assert load_config(tmp_path / "gateway.toml").buses[0].name == "powertrain"
    assert found >= 3


def test_links_between_documents_lead_somewhere() -> None:
    broken = []
    documents = [*DOCS.rglob("*.md"), *ROOT.glob("*.md"), *(ROOT / "bootctl").glob("*.md")]
    for document in documents:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8")):
            if "://" not in target and not (document.parent / target).exists():
                broken.append(f"{document.relative_to(ROOT)}: {target}")
    assert not broken

"""The house keeps its own rules: imports, names, locks, commands, documents."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from outrider.cli import GROUPS, build_parser
from tests.support import ROOT

OURS = {"outrider", "gateway", "bootctl", "dbc", "cloud", "simulator"}


def tracked(*patterns: str) -> list[Path]:
    listing = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listing.stdout.split() if (ROOT / name).exists()]


def test_no_locked_dependency_brings_one_of_our_import_names() -> None:
    names = re.findall(r"^([a-z0-9._-]+)==", (ROOT / "requirements" / "dev.txt").read_text(), re.MULTILINE)
    assert len(names) > 30
    assert not OURS & set(names)


@pytest.mark.parametrize("name", ["vehicle", "all", "dev"])
def test_every_locked_dependency_carries_hashes_and_no_index(name: str) -> None:
    lock = (ROOT / "requirements" / f"{name}.txt").read_text()
    pinned = re.split(r"^(?=[a-z0-9])", lock, flags=re.MULTILINE)[1:]
    assert pinned
    assert [p.split("==")[0] for p in pinned if "--hash=sha256:" not in p] == []
    assert "index-url" not in lock
    assert "://" not in lock


@pytest.mark.parametrize("group", [g for g in GROUPS if g != "demo"])
def test_every_command_is_in_a_document(group: str) -> None:
    """A command that no document names does not exist for its users."""
    documents = "\n".join(p.read_text() for p in tracked("*.md"))
    parser = build_parser([group])
    groups = next(a for a in parser._actions if a.dest == "group")
    assert isinstance(groups.choices, dict)
    commands = next(a for a in groups.choices[group]._actions if isinstance(a.choices, dict))
    assert commands.choices
    missing = [c for c in commands.choices if f"outrider {group} {c}" not in documents]
    assert missing == []


def test_gateway_imports_with_workstation_and_cloud_packages_hidden() -> None:
    """What an ECU gets: no cantools, pyarrow, litestar, and python-can only where a bus needs it."""
    hidden = ["cantools", "pyarrow", "pandas", "litestar", "sqlalchemy", "duckdb", "uvicorn", "can", "msgpack"]
    code = (
        "import sys\n"
        f"for name in {hidden!r}: sys.modules[name] = None\n"
        "import gateway.app, gateway.cli, gateway.collect.cli, dbc.decode\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_links_between_documents_lead_somewhere() -> None:
    broken = []
    for document in tracked("*.md"):
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text()):
            if "://" not in target and not target.startswith("mailto:") and not (document.parent / target).exists():
                broken.append(f"{document.relative_to(ROOT)}: {target}")
    assert broken == []


def test_every_decision_is_listed() -> None:
    listed = (ROOT / "docs" / "adr" / "README.md").read_text()
    records = [p.name for p in (ROOT / "docs" / "adr").glob("[0-9]*.md")]
    assert records
    assert [name for name in records if f"({name})" not in listed] == []


def test_no_registry_host_and_no_path_of_a_machine_in_any_file() -> None:
    forbidden = re.compile(
        "|".join(
            ["py" + r"pi\.org", "python" + "hosted", "npm" + r"js\.", "deb" + r"\.debian", "/" + "work/", "/ro" + "ot/"]
        )
    )
    found = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):
            continue
        found += [f"{path.relative_to(ROOT)}: {m.group()}" for m in forbidden.finditer(text)]
    assert found == []

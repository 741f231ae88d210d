"""The machine's parts, and what is acted once for all tests."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from tests.boot import scenario
from tests.boot.parts import MissingError, Parts, prepare
from tests.boot.writelog import Write, read_log


@pytest.fixture(scope="session")
def parts() -> Parts:
    """Files of Debian's arm64 packages; tests are skipped where they or the tools cannot be had."""
    try:
        return prepare()
    except MissingError as missing:
        pytest.skip(f"{missing} (make apt-test)")


@pytest.fixture(scope="session")
def life(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> tuple[scenario.Seen, list[Write]]:
    """One life of a board and its writes; acted by the first of parallel test processes that needs it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "boot"
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        told = folder / "seen.json"
        if not told.exists():
            made = scenario.act(folder, parts).to_json()
            _forget(folder)
            told.write_text(made)
    return scenario.Seen.from_json(told.read_text()), read_log(folder / "writes.log")


def _forget(folder: Path) -> None:
    """Images are big and no longer needed."""
    for image in (*folder.glob("*.img"), *folder.glob("*.ext4")):
        image.unlink()

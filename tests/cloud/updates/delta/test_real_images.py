"""Root file systems before and after a security update, built from Debian packages, through the real applier.

``OUTRIDER_LONG=1`` takes the large pair (17 packages, 245 MB, erofs and ext4); figures of both are in docs/bench.md.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cloud.updates.delta.build import DeltaFacts, Image, build_delta
from tests.cloud.updates.delta import debian
from tests.support import LONG, ROOT

#: Of the uncompressed image: the project's budget for a security update.
BUDGET = 0.02
LIMIT_MIB = 64


def facts_of(path: Path) -> Image:
    with path.open("rb") as file:
        return Image(path=path, length=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())


def through_a_vehicle(pair: debian.Pair, folder: Path) -> DeltaFacts:
    """Build, apply in a process of its own onto a file, compare byte for byte."""
    base, target = facts_of(pair.base), facts_of(pair.target)
    facts = build_delta(base, target, folder / "it.delta")
    out = folder / "out"
    command = [
        sys.executable,
        "-m",
        "tests.gateway.delta.apply_process",
        str(folder / "it.delta"),
        str(base.path),
        str(out),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["peak_mib"] <= LIMIT_MIB
    assert facts_of(out).sha256 == target.sha256
    return facts


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("pack", [debian.erofs, debian.ext4] if LONG else [debian.erofs])
def test_a_security_update_is_within_the_budget(tmp_path: Path, pack: Callable[[Path, Path], None]) -> None:
    update, rest = (debian.LARGE_UPDATE, debian.LARGE_REST) if LONG else (debian.SMALL_UPDATE, debian.SMALL_REST)
    try:
        pair = debian.update_pair(tmp_path, update, rest, pack)
    except debian.NotAvailable as error:
        pytest.skip(str(error))
    facts = through_a_vehicle(pair, tmp_path)
    assert facts.length <= BUDGET * facts.target_length

"""Deltas of real images: size and time against bsdiff, zstd with the old image, and the full image; memory of applying.

Images are made of Debian packages (``tests/cloud/updates/delta/debian.py``): a small one with 6 updated packages, a
gateway's with 17, and the file-system modules of two kernels. bsdiff over a whole file takes 17 times its size in
memory, and minutes, so it runs on the small images only. zstd runs as its command with one thread.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bsdiff4.core

from cloud.updates.delta.build import DeltaFacts, Image, build_delta
from tests.cloud.updates.delta import debian
from tests.gateway.delta.test_memory import synthetic
from tests.support import ROOT

BUDGET = 0.02
LIMIT_MIB = 64.0
SIZES_MIB = (16, 128, 1024)
MB = 1e6

Row = dict[str, Any]


def run() -> list[Row]:
    """The measurements; a row that says so where there is no mirror for the packages."""
    with tempfile.TemporaryDirectory() as folder:
        return [*_pairs(Path(folder)), *_memory(Path(folder))]


def _pairs(folder: Path) -> list[Row]:
    makers: dict[str, tuple[Callable[[Path], debian.Pair], bool]] = {
        "small update": (lambda p: debian.update_pair(p, debian.SMALL_UPDATE, debian.SMALL_REST), True),
        "17-package update": (lambda p: debian.update_pair(p, debian.LARGE_UPDATE, debian.LARGE_REST), False),
        "kernel fs modules": (lambda p: debian.kernel_pair(p, ("fs",)), True),
    }
    rows: list[Row] = []
    for name, (make, with_bsdiff) in makers.items():
        place = folder / name.replace(" ", "-")
        place.mkdir()
        try:
            rows += _compare(name, make(place), place, with_bsdiff)
        except debian.NotAvailable as error:
            rows.append({"name": f"{name}: skipped, {error}", "value": 0})
        shutil.rmtree(place)
    return rows


def _image(path: Path) -> Image:
    with path.open("rb") as file:
        return Image(path=path, length=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())


def _compare(name: str, pair: debian.Pair, folder: Path, with_bsdiff: bool) -> list[Row]:
    base, target = _image(pair.base), _image(pair.target)
    started = time.process_time()
    facts = build_delta(base, target, folder / "it.delta", useful_part=9.0)
    build_s = time.process_time() - started
    rows = [_size_row(name, facts)]
    rows.append(_row(f"{name}: build", build_s, "CPU s"))
    rows += _against(name, "zstd -19 --patch-from", facts, build_s, *_zstd(pair, folder, f"--patch-from={pair.base}"))
    rows += _against(name, "full image, zstd -19", facts, build_s, *_zstd(pair, folder))
    told = json.loads(_applied(folder / "it.delta", pair.base))
    rows.append(
        _row(f"{name}: apply, peak RSS", told["peak_mib"], "MiB", budget="≤ 64", met=told["peak_mib"] <= LIMIT_MIB)
    )
    rows.append(_row(f"{name}: apply without base check", target.length / MB / told["apply_s"], "MB/CPU s"))
    if with_bsdiff:
        size, made_s, patched_s = _bsdiff(pair)
        rows += _against(name, "bsdiff4 + gzip, whole file", facts, build_s, size, made_s)
        peer = f"bsdiff4, whole file in memory: {patched_s:.2f}"
        rows.append(_row(f"{name}: apply", told["apply_s"], "CPU s", peer=peer, ratio=patched_s / told["apply_s"]))
    return rows


def _size_row(name: str, facts: DeltaFacts) -> Row:
    """The share of the image; the budget is for updates, new kernels differ everywhere."""
    part = facts.length / facts.target_length
    image = f"image of {facts.target_length / MB:,.0f} MB"
    row = _row(f"{name}: delta", 100 * part, "% of the image", peer=image)
    return row | {"budget": "≤ 2 %", "met": part <= BUDGET} if "update" in name else row


def _against(name: str, peer: str, facts: DeltaFacts, build_s: float, size: int, seconds: float) -> list[Row]:
    told = f"{peer}: {size / MB:.3f} MB"
    return [
        _row(f"{name}: size", facts.length / MB, "MB", peer=told, ratio=size / facts.length),
        _row(f"{name}: time", build_s, "CPU s", peer=f"{peer}: {seconds:.0f}", ratio=seconds / build_s),
    ]


def _row(name: str, value: float, unit: str, **more: Any) -> Row:
    return {"name": name, "value": value, "unit": unit} | more


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _zstd(pair: debian.Pair, folder: Path, *options: str) -> tuple[int, float]:
    """(bytes, CPU seconds) of the zstd command at level 19 with a window over the whole image."""
    out, before = folder / "out.zst", _children_s()
    command = ["zstd", "-q", "-f", "-19", "--long=28", "--single-thread", *options, str(pair.target), "-o", str(out)]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    return out.stat().st_size, _children_s() - before


def _bsdiff(pair: debian.Pair) -> tuple[int, float, float]:
    """(bytes, CPU seconds to make, CPU seconds to apply) of bsdiff over the whole file, compressed with gzip -9."""
    old, new = pair.base.read_bytes(), pair.target.read_bytes()
    started = time.process_time()
    control, difference, extra = bsdiff4.core.diff(old, new)
    packed = [gzip.compress(part, 9) for part in (control, difference, extra)]
    made_s = time.process_time() - started
    started = time.process_time()
    parts = [gzip.decompress(part) for part in packed]
    made = bsdiff4.core.patch(old, len(new), parts[0], parts[1], parts[2])
    if hashlib.sha256(made).digest() != hashlib.sha256(new).digest():
        raise ValueError("bsdiff4 did not give the image back")
    return sum(map(len, packed)), made_s, time.process_time() - started


def _applied(delta: Path, base: Path) -> str:
    command = [sys.executable, "-m", "tests.gateway.delta.apply_process", str(delta), str(base)]
    variables = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=variables, check=True, capture_output=True, text=True).stdout


def _memory(folder: Path) -> list[Row]:
    rows = []
    for mebibytes in SIZES_MIB:
        place = folder / str(mebibytes)
        place.mkdir()
        told = json.loads(_applied(*synthetic(place, mebibytes)))
        peak = told["peak_mib"]
        rows.append(_row(f"apply, {mebibytes} MiB: peak RSS", peak, "MiB", budget="≤ 64", met=peak <= LIMIT_MIB))
        shutil.rmtree(place)
    return rows

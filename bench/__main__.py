"""``python -m bench [NAME …]``: every figure in one run, each as a ratio to a named peer or against its budget.

Each module offers ``run() -> list[Row]``. What needs a real CAN socket runs in the vcan guest (``tests/vcan/run``).
Absolute times belong to this machine only; the ratios are what counts.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
#: name -> what it measures
MODULES = {
    "decode": "decode against cantools",
    "codec": "bytes per sample and encode time against JSON and Parquet",
    "receive": "receive + decode + select against python-can + cantools, host stand-in and vcan guest",
    "gateway": "memory and start of the gateway process",
    "ingest": "durable batches per second against a do-nothing endpoint",
    "delta": "deltas of real images against bsdiff, zstd and the full image; memory of applying",
    "lake": "bytes per sample in the lake, query times",
    "campaigns": "a campaign over a million vehicles: time of each step, and how it grows",
    "director": "manifests checked and metadata sets made per second",
    "diagnostics": "flash, reads and idle cost of the gateway among simulated ECUs and testers, in the vcan guest",
    "uds": "UDS reads, downloads and idle sessions against udsoncan + can-isotp, in memory and in the vcan guest",
    "isotp": "ISO-TP against can-isotp in memory and in the vcan guest, against the kernel's in the QEMU guest",
}
GUEST_MODULES = ("receive", "isotp", "uds", "diagnostics")
#: Those that have something to compare with in the QEMU guest's kernel.
QEMU_MODULES = ("isotp",)
GUEST_TIMEOUT_S = 900

Row = dict[str, Any]


def run_here(name: str) -> list[Row]:
    """Run one module in a process of its own, so that no figure sees another's memory or caches."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory, "rows.json")
        code = f"import json,bench.{name} as m; json.dump(m.run(), open({str(out)!r}, 'w'))"
        subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
        return list(json.loads(out.read_text()))


def run_in_guest(name: str, *places: str) -> list[Row]:
    """Run one module in the vcan guest, or in the place that an option of ``tests/vcan/run`` names."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory, "rows.json")
        code = f"import json,bench.{name} as m; json.dump(m.run(), open({str(out)!r}, 'w'))"
        command = [str(ROOT / "tests" / "vcan" / "run"), *places, "--", sys.executable, "-c", code]
        subprocess.run(command, check=True, cwd=ROOT, timeout=GUEST_TIMEOUT_S)
        return list(json.loads(out.read_text()))


def _attempt(run: Callable[[str], list[Row]], name: str) -> list[Row]:
    """A module's rows; one that fails counts as a missed budget and does not keep the others from running."""
    try:
        return run(name)
    except (subprocess.SubprocessError, OSError, ValueError) as error:
        print(f"{name} failed: {error}", file=sys.stderr)
        return [{"name": f"{name}: failed", "value": 0, "met": False}]


def text(rows: Sequence[Row]) -> str:
    """Aligned rows: figure, value, peer, ratio, budget, met."""
    cells = [["figure", "value", "unit", "peer", "ratio", "budget", ""]]
    for row in rows:
        value, ratio = row.get("value"), row.get("ratio")
        met = row.get("met")
        cells.append(
            [
                str(row["name"]),
                f"{value:,.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else f"{value:,}",
                str(row.get("unit", "")),
                str(row.get("peer") or ""),
                f"{ratio:.2f}×" if isinstance(ratio, int | float) else "",
                str(row.get("budget") or ""),
                "" if met is None else ("met" if met else "MISSED"),
            ]
        )
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    right = {1, 4}
    return "\n".join(
        "  ".join(c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in cells
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the modules named, or all; exit status 1 when a budget is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(f"{n} ({t})" for n, t in MODULES.items()))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, too")
    parser.add_argument("--no-guest", action="store_true", help="leave out what needs the vcan guest")
    arguments = parser.parse_args(argv)
    unknown = set(arguments.names) - set(MODULES)
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    rows: list[Row] = []
    for name in arguments.names or MODULES:
        importlib.import_module(f"bench.{name}")
        print(f"\n{name}: {MODULES[name]}", flush=True)
        found = _attempt(run_here, name)
        if name in GUEST_MODULES and not arguments.no_guest:
            found += _attempt(run_in_guest, name)
        if name in QEMU_MODULES and not arguments.no_guest and shutil.which("qemu-system-x86_64"):
            found += _attempt(lambda name: run_in_guest(name, "--qemu"), name)
        print(text(found), flush=True)
        rows += found
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2))
    missed = [str(row["name"]) for row in rows if row.get("met") is False]
    print(f"\n{len(rows)} figures, {len(missed)} budgets missed" + "".join(f"\n  {name}" for name in missed))
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Applies a delta in a process of its own: ``python -m tests.gateway.delta.apply_process DELTA BASE [OUT]``.

Prints one JSON object: the largest resident memory (MiB), bytes made, and seconds of CPU for base check and segments.
It imports what a vehicle would and nothing else.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from bootctl.files import RealFiles
from gateway.delta import DeltaFile


def peak_mib() -> float:
    """The largest resident set of this process; not ``getrusage``, which knows the parent's too."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def main(delta: str, base: str, out: str = "") -> None:
    """Apply and tell."""
    files = RealFiles()
    container, old = files.open(Path(delta)), files.open(Path(base))
    new = files.open(Path(out), create=True) if out else None
    file = DeltaFile.open(container.read_at, container.size())
    begun_s = time.process_time()
    file.check_base(old)
    checked_s = time.process_time()
    made = 0
    for offset, content in file.segments(old):
        made += len(content)
        if new is not None:
            new.write_at(offset, content)
    told = {
        "peak_mib": peak_mib(),
        "bytes": made,
        "check_s": checked_s - begun_s,
        "apply_s": time.process_time() - checked_s,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])

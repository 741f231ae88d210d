"""Memory and start of the gateway process: RSS with a manifest of 2,000 signals, CPU to the first stored sample."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from dbc.frames import FrameBatch
from dbc.logs.write import CandumpWriter
from dbc.manifest import FORMAT, Kind, Manifest, Message, Signal

SIGNALS, PER_MESSAGE = 2000, 8
RSS_BUDGET_MIB, CPU_BUDGET_S = 96, 1.0
LIMIT_S = 60.0

CONFIG = """
vehicle = "BENCH"
[[buses]]
name = "can0"
interface = "replay"
channel = "drive.log"
[collect]
manifest = "vehicle.manifest"
schemes = ["all.toml"]
[telemetry]
normal_period_s = 0.5
"""
#: An image has byte code for every module, and neither click nor rich, which httpx imports where they are installed.
AS_ON_AN_ECU = "import sys; sys.modules['click'] = sys.modules['rich'] = None; from outrider.cli import main; main()"
SCHEME = 'id = "all"\nversion = 1\n[[signals]]\nname = "*"\non_change = true\n'


def _manifest() -> Manifest:
    def signal(number: int) -> Signal:
        return Signal(
            name=f"Signal{number}",
            start=number % PER_MESSAGE * 8,
            length=8,
            big_endian=False,
            kind=Kind.UNSIGNED,
            scale=0.5,
            offset=-40.0,
            minimum=None,
            maximum=None,
            unit="degC",
            labels={0: "off", 1: "on", 255: "invalid"},
            is_multiplexer=False,
            mux=(),
        )

    messages = tuple(
        Message(
            name=f"Message{m}",
            bus=0,
            can_id=0x100 + m,
            extended=False,
            fd=False,
            length=8,
            cycle_ms=100,
            pgn=None,
            sender="",
            comment="",
            signals=tuple(signal(m * PER_MESSAGE + i) for i in range(PER_MESSAGE)),
        )
        for m in range(SIGNALS // PER_MESSAGE)
    )
    return Manifest(format=FORMAT, name="bench", buses=("can0",), messages=messages)


def _log(path: Path, seconds: int) -> None:
    """Each message every 100 ms, with payloads that walk."""
    random = np.random.default_rng(1)
    messages = SIGNALS // PER_MESSAGE
    count = messages * 10 * seconds
    frames = FrameBatch.empty(count)
    frames.timestamp_ns[:] = 1_700_000_000_000_000_000 + np.arange(count) * (10**8 // messages)
    frames.can_id[:] = 0x100 + np.arange(count) % messages
    frames.length[:] = 8
    steps = random.integers(-1, 2, (10 * seconds, messages, 8))
    frames.data[:, :8] = (128 + np.cumsum(steps, axis=0)).astype(np.uint8).reshape(count, 8)
    with CandumpWriter(path, ("can0",)) as writer:
        writer.write(frames)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory_mib(pid: int, key: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no {key} of process {pid}")


def _measure(directory: Path) -> tuple[float, float, float]:
    """CPU seconds to the first stored batch; RSS then and after ten seconds of traffic, MiB."""
    command = [sys.executable, "-c", AS_ON_AN_ECU, "gateway", "run", "--config", str(directory / "gateway.toml")]
    root = Path(__file__).resolve().parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONPYCACHEPREFIX": str(directory / "pyc")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log, env=environment, cwd=directory)
    try:
        deadline = time.monotonic() + LIMIT_S
        while not any(directory.glob("spool/normal-*.seg")):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((directory / "log").read_text())
            time.sleep(0.005)
        cpu_s = _cpu_s(process.pid)
        time.sleep(10)
        return cpu_s, _memory_mib(process.pid, "VmRSS"), _memory_mib(process.pid, "VmHWM")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def run() -> list[dict[str, Any]]:
    """The two budgets, and the peak."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "vehicle.manifest").write_bytes(_manifest().to_bytes())
        (directory / "all.toml").write_text(SCHEME)
        (directory / "gateway.toml").write_text(CONFIG)
        _log(directory / "drive.log", 20)
        _measure(directory)  # warm the file cache and the byte code
        shutil.rmtree(directory / "spool")
        cpu_s, rss_mib, peak_mib = _measure(directory)
    what = f"gateway, {SIGNALS} signals, {SIGNALS // PER_MESSAGE * 10} frames/s"
    return [
        {
            "name": f"{what}: RSS",
            "value": round(rss_mib, 1),
            "unit": "MiB",
            "peer": "",
            "ratio": None,
            "budget": f"≤ {RSS_BUDGET_MIB}",
            "met": rss_mib <= RSS_BUDGET_MIB,
        },
        {"name": f"{what}: peak RSS", "value": round(peak_mib, 1), "unit": "MiB", "peer": "", "ratio": None},
        {
            "name": "gateway: CPU from start to first stored batch",
            "value": round(cpu_s, 2),
            "unit": "s",
            "peer": "",
            "ratio": None,
            "budget": f"≤ {CPU_BUDGET_S}",
            "met": cpu_s <= CPU_BUDGET_S,
        },
    ]

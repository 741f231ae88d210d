"""The demo's buses work on a machine with no network at all: a laptop in a workshop, a container in CI."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from tests.support import ROOT

CODE = """
import anyio
from dbc.frames import FrameBatch
from gateway.can.config import BusConfig
from gateway.can.opening import open_source
from simulator.ports import open_port

async def main():
    source = open_source([BusConfig(name="body", interface="udp_multicast", channel="239.74.163.4:43119")])
    await source.receive()
    port = open_port("udp_multicast", "239.74.163.4:43119", listen=[0x123])
    port.send(FrameBatch.from_rows([(1, 0, 0x123, 0, b"hello")]))
    with anyio.fail_after(10):
        while not len(frames := await source.receive()):
            pass
    print(port.sent, len(frames), bytes(frames.data[0, :5]), port.receive())
    port.close()
    await source.aclose()

anyio.run(main)
"""


@pytest.mark.skipif(not shutil.which("unshare") or os.geteuid() != 0, reason="needs root and unshare (util-linux)")
def test_multicast_buses_work_with_nothing_but_loopback() -> None:
    script = f"ip link set lo up && exec {sys.executable} -c '{CODE}'"
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("[")[0].strip() == "1 1 b'hello'"
    assert "291" in done.stdout  # the sender hears the bus, too

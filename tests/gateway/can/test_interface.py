"""What an interface counts."""

from __future__ import annotations

import os
from pathlib import Path

from gateway.can.interface import ReceiveCounter


def test_the_count_is_the_interfaces() -> None:
    """It grows with loopback traffic as the kernel's own file says, through one open file."""
    counter = ReceiveCounter("lo")
    before = int(Path("/sys/class/net/lo/statistics/rx_packets").read_text())
    assert (counter.read() or 0) >= before
    assert (counter.read() or 0) >= before
    counter.close()
    counter.close()


def test_no_interface_is_no_count() -> None:
    """Nothing to read is None, and leaves no file open."""
    opened = len(os.listdir("/proc/self/fd"))
    assert ReceiveCounter("vcan-none").read() is None
    assert len(os.listdir("/proc/self/fd")) == opened

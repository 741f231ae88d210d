"""What a network interface counts by itself, read often and cheaply."""

from __future__ import annotations

import contextlib
import os


class ReceiveCounter:
    """The frames an interface has received, as it counts them (``/sys/class/net/NAME/statistics/rx_packets``).

    The file stays open: reading it costs one system call. A new interface of the same name is found by itself.
    """

    def __init__(self, channel: str) -> None:
        self._path = f"/sys/class/net/{channel}/statistics/rx_packets"
        self._fd = -1

    def read(self) -> int | None:
        """The count at this moment; None where there is no such interface or it does not tell."""
        for _ in range(2):  # the second time with the file of an interface made anew
            try:
                if self._fd < 0:
                    self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
                return int(os.pread(self._fd, 32, 0))
            except (OSError, ValueError):
                self.close()
        return None

    def close(self) -> None:
        """Idempotent; ``read`` opens it again."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                os.close(self._fd)
            self._fd = -1

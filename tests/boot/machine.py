"""A machine in QEMU, spoken to over its serial line.

Always ``-accel tcg``: a machine that has /dev/kvm does not thereby have one that works. Time inside counts instructions
(``-icount``) and jumps while nothing is to do, so that no watchdog fires because the host is busy, and one that must
fire is not waited for.
"""

from __future__ import annotations

import os
import re
import select
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from tests.boot.parts import LOADER

#: How long one step may take on a machine under load.
PATIENCE_S = 240.0


class Machine:
    """Runs from ``__enter__`` to ``__exit__``; ``log`` is all it said."""

    def __init__(self, flash: Path, disk: Path, *, write_log: Path | None = None, options: Sequence[str] = ()) -> None:
        self.log = ""
        self._seen = 0
        drive = ["-blockdev", f"driver=file,node-name=f0,filename={disk}"]
        if write_log is not None:
            drive += ["-blockdev", f"driver=file,node-name=l0,filename={write_log}"]
            drive += ["-blockdev", "driver=blklogwrites,node-name=d0,file=f0,log=l0"]
        self._command = [
            "qemu-system-aarch64", "-accel", "tcg", "-icount", "shift=1,sleep=off", "-M", "virt", "-cpu", "cortex-a53",
            "-m", "256", "-bios", str(LOADER), "-drive", f"if=pflash,index=1,format=raw,file={flash}", *drive,
            "-device", f"virtio-blk-pci,drive={'d0' if write_log else 'f0'}", "-device", "i6300esb",
            "-nic", "none", "-display", "none", "-monitor", "none", "-serial", "stdio", *options,
        ]  # fmt: skip

    def __enter__(self) -> Machine:
        """Power on."""
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._to, self._from = self._process.stdin, self._process.stdout
        os.set_blocking(self._from.fileno(), False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Power off."""
        self._process.kill()
        self._process.wait()
        self._to.close()
        self._from.close()

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Read on until a line of the pattern comes; what came before it is not looked at again.

        Raises:
            AssertionError: it did not come, or the machine ended; with the end of the log.
        """
        deadline = time.monotonic() + PATIENCE_S
        wanted = re.compile(pattern, re.MULTILINE)
        while not (found := wanted.search(self.log, self._seen)):
            left = deadline - time.monotonic()
            assert left > 0, f"no {pattern!r} within {PATIENCE_S:.0f} s after:\n{self.log[-2000:]}"
            if select.select([self._from], [], [], left)[0]:
                piece = os.read(self._from.fileno(), 65536)
                assert piece, f"the machine ended before {pattern!r}:\n{self.log[-2000:]}"
                self.log += piece.decode("utf-8", "replace").replace("\r", "")
        self._seen = found.end()
        return found

    def wait_for_guest(self) -> str:
        """Until a slot's system is up; its name."""
        return self.wait_for(r"^GUEST slot (\w+) ready\n")[1]

    def send(self, line: str) -> None:
        """A line for the guest's shell."""
        self._to.write(line.encode() + b"\n")
        self._to.flush()

    def ask(self, line: str) -> str:
        """Run a line in the guest's shell; its output. Raises ``AssertionError`` when it fails."""
        start = self._seen
        self.send(line)
        done = self.wait_for(r"^GUEST answered (\d+)\n")
        said = self.log[start : done.start()]
        assert done[1] == "0", f"{line}: {said}"
        return said

    def variables(self, config: str = "fw_env") -> dict[str, str]:
        """What U-Boot's own tool in the guest reads."""
        lines = self.ask(f"fw_printenv -c /etc/{config}.config").splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def set_variables(self, variables: dict[str, str], config: str = "fw_env") -> None:
        """Write with U-Boot's own tool in the guest: one write for all; "" removes."""
        script = "\\n".join(f"{name}={value}" for name, value in variables.items())
        self.ask(f"printf '{script}\\n' > /script; fw_setenv -c /etc/{config}.config -s /script")

"""Files of Debian's arm64 packages for a machine in QEMU: kernel, busybox, U-Boot's tools.

Fetched once, never installed: they come through ``apt-get download`` with lists of its own, so that this machine's
architecture and its package lists stay as they are.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("busybox-static", "libubootenv-tool", "libubootenv0.1", "libc6", "zlib1g")
KERNEL = "linux-image-cloud-arm64"
INSTALL = (
    "Debian: apt-get install qemu-system-arm u-boot-qemu u-boot-tools device-tree-compiler libubootenv-tool fdisk "
    "e2fsprogs busybox-static"
)
TOOLS = ("qemu-system-aarch64", "mkenvimage", "mkimage", "dtc", "fw_printenv", "sfdisk", "mke2fs", "busybox")
LOADER = Path("/usr/lib/u-boot/qemu_arm64/u-boot.bin")
_VERSION = "1"  # of the cache's layout


class MissingError(Exception):
    """The machine cannot be had here; the text says what is missing."""


@dataclass(frozen=True)
class Parts:
    """What was unpacked."""

    root: Path

    @property
    def kernel(self) -> Path:
        """An arm64 Image, not compressed."""
        return next(self.root.glob("boot/vmlinuz-*"))

    @property
    def modules(self) -> Path:
        """The folder of kernel modules."""
        return next(self.root.glob("lib/modules/*/kernel"))


def prepare() -> Parts:
    """The parts, from the cache or fetched now (some seconds).

    Raises:
        MissingError: a tool is not installed, or the packages cannot be had.
    """
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [tool for tool in TOOLS if shutil.which(tool, path=path) is None]
    if missing or not LOADER.exists():
        raise MissingError(f"no {', '.join(missing) or LOADER} ({INSTALL})")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "outrider" / "boot-qemu"
    base.mkdir(parents=True, exist_ok=True)
    with open(base / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        root = base / f"root-{_VERSION}"
        if not root.is_dir():
            with tempfile.TemporaryDirectory(dir=base) as folder:
                _fetch(Path(folder))
                (Path(folder) / "root").rename(root)
    return Parts(root)


def _fetch(folder: Path) -> None:
    for name in ("lists/partial", "cache/archives/partial", "packages", "root"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "",
        "Dir::State": folder,
        "Dir::State::lists": folder / "lists",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder / "cache",
    }
    options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
    _run(["apt-get", *options, "-q", "update"], folder)
    depends = _run(["apt-cache", *options, "depends", KERNEL], folder)
    kernel = next((line.split()[-1] for line in depends.splitlines() if "Depends: linux-image" in line), "")
    if not kernel:
        raise MissingError(f"apt knows no {KERNEL}")
    _run(["apt-get", *options, "-q", "download", kernel, *PACKAGES], folder / "packages")
    for package in (folder / "packages").glob("*.deb"):
        _run(["dpkg-deb", "-x", str(package), str(folder / "root")], folder)


def _run(command: list[str], folder: Path) -> str:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingError(f"{command[0]}: {error}") from error
    if done.returncode:
        raise MissingError(f"{' '.join(command[:1] + command[-2:])}: {done.stderr.strip()[-300:]}")
    return done.stdout

"""The QEMU guest: Debian's own kernel, which has what User-Mode Linux lacks (kernel ISO-TP), emulated without KVM.

The kernel comes from its Debian package, unpacked into a cache and never installed; a small initramfs of busybox
and the modules mounts the host's file system by 9p and makes it the root. No root rights and no disk image.

Standard library only, for the same reason as ``guest``.
"""

from __future__ import annotations

import contextlib
import gzip
import lzma
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

#: In the order in which they must be loaded.
MODULES = (
    "can", "can-raw", "can-bcm", "can-isotp", "can-gw", "can-j1939", "can-dev", "vcan", "vxcan",
    "virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_console",
    "netfs", "fscache", "9pnet", "9pnet_virtio", "9p",
)  # fmt: skip
INSTALL = "Debian: apt-get install qemu-system-x86 busybox-static"

#: The initramfs's own process 1: modules, root by 9p, then tests/vcan/init-qemu.sh there.
_INIT = """\
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
for module in {modules}; do
    /bin/busybox insmod /modules/$module.ko || echo "no module $module"
done
/bin/busybox mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288,cache=loose root /host || \
    /bin/busybox poweroff -f
/bin/busybox mount --move /dev /host/dev
/bin/busybox umount /proc
exec /bin/busybox switch_root /host $OUTRIDER_INIT
"""


class QemuError(Exception):
    """The guest cannot be had here; the message says what is missing."""


@dataclass(frozen=True)
class Files:
    """What QEMU boots."""

    kernel: Path
    initramfs: Path


def emulator() -> str | None:
    """The emulator's path, or None."""
    return shutil.which("qemu-system-x86_64")


def prepare() -> Files:
    """The kernel and an initramfs, from the cache or made now (some seconds, and a download the first time).

    Raises:
        QemuError: something is missing that only its owner can install.
    """
    if emulator() is None:
        raise QemuError(f"no qemu-system-x86_64 ({INSTALL})")
    busybox = _busybox()
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "outrider" / "vcan-qemu"
    package = _kernel_package()
    cache = base / package
    files = Files(cache / "vmlinuz", cache / "initramfs.gz")
    if not (files.kernel.exists() and files.initramfs.exists()):
        base.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=base) as folder:
            made = Path(folder) / "made"
            made.mkdir()
            root = _unpacked(package, Path(folder))
            shutil.copy(next(root.glob("boot/vmlinuz-*")), made / "vmlinuz")
            (made / "initramfs.gz").write_bytes(gzip.compress(_initramfs(root, busybox), 1))
            shutil.rmtree(cache, ignore_errors=True)
            made.rename(cache)
    return files


def _busybox() -> Path:
    for name in ("/bin/busybox", "/usr/bin/busybox"):
        path = Path(name)
        if path.exists():
            linked = subprocess.run(["ldd", name], capture_output=True, text=True, check=False)
            if "not a dynamic executable" in linked.stdout + linked.stderr:
                return path
    raise QemuError(f"no static busybox ({INSTALL})")


def _kernel_package() -> str:
    """The kernel package that ``linux-image-amd64`` stands for; package lists are fetched where there are none."""
    found = _depends()
    if not found:
        prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
        with contextlib.suppress(OSError):
            subprocess.run([*prefix, "apt-get", "update", "-qq"], capture_output=True, check=False)
        found = _depends()
    if not found:
        raise QemuError("apt-cache knows no linux-image-amd64 (apt-get update?)")
    return found


def _depends() -> str:
    try:
        shown = subprocess.run(
            ["apt-cache", "depends", "linux-image-amd64"], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
    words = [line.split()[-1] for line in shown.splitlines() if "Depends:" in line]
    return next((word for word in words if word.startswith("linux-image-")), "")


def _unpacked(package: str, folder: Path) -> Path:
    """The package's files; nothing of the system changes."""
    got = subprocess.run(
        ["apt-get", "download", "-q", package], cwd=folder, capture_output=True, text=True, check=False
    )
    packages = list(folder.glob("*.deb"))
    if not packages:
        raise QemuError(f"apt-get download {package}: {got.stderr.strip()[-300:]}")
    root = folder / "package"
    subprocess.run(["dpkg-deb", "-x", str(packages[0]), str(root)], check=True)
    return root


def _initramfs(root: Path, busybox: Path) -> bytes:
    modules = {path.name.split(".ko")[0].replace("_", "-"): path for path in root.rglob("*.ko*")}
    archive = _Cpio()
    for name in ("bin", "modules", "host", "proc", "dev"):
        archive.add(name, b"", stat.S_IFDIR | 0o755)
    archive.add("bin/busybox", busybox.read_bytes(), stat.S_IFREG | 0o755)
    for name in MODULES:
        try:
            path = modules[name.replace("_", "-")]
        except KeyError:
            raise QemuError(f"the kernel package has no module {name}") from None
        content = path.read_bytes()
        if path.suffix == ".xz":
            content = lzma.decompress(content)
        archive.add(f"modules/{name}.ko", content, stat.S_IFREG | 0o644)
    archive.add("init", _INIT.format(modules=" ".join(MODULES)).encode(), stat.S_IFREG | 0o755)
    return archive.close()


class _Cpio:
    """A "newc" archive, as the kernel's initramfs wants it (Documentation/driver-api/early-userspace)."""

    def __init__(self) -> None:
        self._out = bytearray()
        self._inode = 0

    def add(self, name: str, content: bytes, mode: int) -> None:
        """Append one entry."""
        self._inode += 1
        path = name.encode() + b"\0"
        fields = (self._inode, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(path), 0)
        self._out += b"070701" + b"".join(b"%08X" % field for field in fields) + path
        self._pad()
        self._out += content
        self._pad()

    def close(self) -> bytes:
        """The whole archive."""
        self.add("TRAILER!!!", b"", 0)
        return bytes(self._out)

    def _pad(self) -> None:
        self._out += bytes(-len(self._out) % 4)


def command_line(
    files: Files, *, directory: Path, init: Path, memory_mib: int, console: Sequence[str], ports: Sequence[int]
) -> list[str]:
    """How QEMU is started.

    Args:
        files: from ``prepare``.
        directory: the job's folder, told to the guest.
        init: the script that becomes process 1 in the host's file system.
        memory_mib: of the guest.
        console: options that say where the serial line goes.
        ports: two file descriptors for standard output and error; none for a shell.
    """
    kernel_line = f"console=ttyS0 quiet panic=-1 OUTRIDER_JOB={directory} OUTRIDER_INIT={init}"
    line = [
        emulator() or "qemu-system-x86_64",
        "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", str(memory_mib),
        "-nodefaults", "-display", "none", "-no-reboot", "-nic", "none",
        "-kernel", str(files.kernel), "-initrd", str(files.initramfs), "-append", kernel_line,
        "-virtfs", "local,path=/,mount_tag=root,security_model=none,multidevs=remap",
        *console,
    ]  # fmt: skip
    if ports:
        line += ["-device", "virtio-serial-pci"]
    for number, (port, name) in enumerate(zip(ports, ("job-stdout", "job-stderr"), strict=False), 1):
        line += ["-add-fd", f"fd={port},set={number}"]
        line += ["-chardev", f"file,id=port{number},path=/dev/fdset/{number},append=on"]
        line += ["-device", f"virtserialport,chardev=port{number},name={name}"]
    return line

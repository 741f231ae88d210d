"""A disk and a flash with a U-Boot environment, made without root rights: slots A and B, each with a small Linux.

=============  ============================================================
sector 0x100   the selection script (bootctl/data/uboot.cmd) as an image
``STATE``      two copies of the boot state, raw
``STRESS``     two copies that only a test's writes touch
``SINGLE``     one copy, to show what two are for
partition 1-2  slots A and B (kernel and initramfs on ext4)
=============  ============================================================
"""

from __future__ import annotations

import gzip
import os
import shutil
import struct
import subprocess
from pathlib import Path

from tests.boot.parts import Parts
from tests.support import ROOT

SECTOR_BYTES = 512
COPY_BYTES = 0x4000
SCRIPT_SECTOR = 0x100
STATE, STRESS, SINGLE = (0x100000, 0x104000), (0x120000, 0x124000), (0x130000,)
FIRST_SLOT_MIB, SLOT_MIB = 8, 40
DATA = ROOT / "bootctl" / "data"

_MODULES = (
    "virtio/virtio_ring", "virtio/virtio", "virtio/virtio_pci_modern_dev", "virtio/virtio_pci_legacy_dev",
    "virtio/virtio_pci", "block/virtio_blk",
)  # fmt: skip

#: Where the board's watchdog is: PCI 0.2.0, an i6300ESB; U-Boot gave its registers this address (``pci bar`` shows it).
WATCHDOG_ADDRESS = 0x10008000
_UNLOCK = "mw.w 0x1000800c 80; mw.w 0x1000800c 86"

#: What the board's integrator adds to our script.
BOARD = {
    "bootdelay": "-2",
    "bootcmd": f"virtio scan; virtio read 0x43000000 {SCRIPT_SECTOR:#x} 0x20; source 0x43000000",
    "outrider_start": (
        "setenv part 9; test ${slot} = A && setenv part 1; test ${slot} = B && setenv part 2; "
        "load virtio 0:${part} 0x40400000 /Image && load virtio 0:${part} 0x46000000 /initrd && "
        "setenv bootargs console=ttyAMA0 quiet panic=-1 rauc.slot=${slot} && "
        "booti 0x40400000 0x46000000:${filesize} ${fdtcontroladdr}"
    ),
    # Two stages of 10 s, then reset.
    "outrider_watchdog": (
        f"pci bar 0.2.0; pci write.w 0.2.0 60 0; {_UNLOCK}; mw.l 0x10008000 2710; {_UNLOCK}; mw.l 0x10008004 2710; "
        "pci write.b 0.2.0 68 2; echo Outrider: watchdog armed"
    ),
    "ab_if": "virtio",
    "ab_1": hex(STATE[0] // SECTOR_BYTES),
    "ab_2": hex(STATE[1] // SECTOR_BYTES),
    "ab_cnt": hex(COPY_BYTES // SECTOR_BYTES),
    "ab_size": hex(COPY_BYTES),
    "ab_body": hex(COPY_BYTES - 5),
    "ab_crcd": hex(COPY_BYTES - 1),
    "ab_m1": "0x43100000",
    "ab_m2": "0x43110000",
    "ab_t": "0x43120000",
    "ab_vars": " ".join(["BOOT_ORDER", "BOOT_RESETS", *(f"BOOT_{s}_{w}" for s in "ABD" for w in ("LEFT", "GOOD"))]),
}


def run(*words: str | Path, text: str = "") -> str:
    """A tool's output. Raises ``AssertionError`` with what it said."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    done = subprocess.run(
        [str(word) for word in words], input=text, capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "PATH": path},
    )  # fmt: skip
    assert done.returncode == 0, f"{words[0]}: {done.stderr}"
    return done.stdout


def flash(folder: Path, variables: dict[str, str]) -> Path:
    """The machine's second flash with U-Boot's environment, which it reads there at its start."""
    text = "".join(f"{name}={value}\n" for name, value in variables.items())
    (folder / "env.txt").write_text(text)
    run("mkenvimage", "-s", "0x40000", "-o", folder / "flash.img", folder / "env.txt")
    os.truncate(folder / "flash.img", 64 * 1024 * 1024)
    return folder / "flash.img"


def board_variables() -> dict[str, str]:
    """The board's own and those of ``uboot-raw.env``."""
    lines = (DATA / "uboot-raw.env").read_text(encoding="utf-8").splitlines()
    ours = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return {**BOARD, **ours}


def initramfs(folder: Path, parts: Parts) -> Path:
    """busybox, U-Boot's tools with their libraries, the modules of a virtio disk, and the init script."""
    root, made = parts.root, folder / "initramfs"
    libraries = made / "lib" / "aarch64-linux-gnu"
    for name in ("bin", "lib/aarch64-linux-gnu", "modules", "proc", "sys", "dev", "etc"):
        (made / name).mkdir(parents=True, exist_ok=True)
    for source in (root / "bin" / "busybox", root / "usr/bin/fw_printenv", root / "usr/bin/fw_setenv"):
        shutil.copy2(source, made / "bin" / source.name)
    for name in ("libc.so.6", "libz.so.1", "libubootenv.so.0"):
        shutil.copy(next(root.glob(f"**/aarch64-linux-gnu/{name}")).resolve(), libraries / name)
    shutil.copy(root / "lib/aarch64-linux-gnu/ld-linux-aarch64.so.1", made / "lib")
    (made / "lib" / "ld-linux-aarch64.so.1").chmod(0o755)
    for module in _MODULES:
        shutil.copy(parts.modules / "drivers" / f"{module}.ko", made / "modules")
    shutil.copy(Path(__file__).with_name("guest-init.sh"), made / "init")
    (made / "init").chmod(0o755)
    for name, places in (("fw_env", STATE), ("stress", STRESS), ("single", SINGLE)):
        (made / "etc" / f"{name}.config").write_text("".join(f"/dev/vda {p:#x} {COPY_BYTES:#x}\n" for p in places))
    names = "\n".join(str(path.relative_to(made)) for path in sorted(made.rglob("*")))
    archive = subprocess.run(
        ["busybox", "cpio", "-o", "-H", "newc"], input=names.encode(), cwd=made, capture_output=True, check=True
    ).stdout
    (folder / "initrd").write_bytes(gzip.compress(archive, 1))
    return folder / "initrd"


def hanging_kernel() -> bytes:
    """An arm64 Image that does nothing for ever: ``wfi`` in a loop with all interrupts masked."""
    code = struct.pack("<II", 0x14000010, 0)  # b to 0x40, behind the header
    header = code + struct.pack("<QQQQQQ", 0, 0x1000, 0xA, 0, 0, 0) + b"ARMd" + bytes(4)
    loop = struct.pack("<III", 0xD5034FDF, 0xD503207F, 0x17FFFFFF)  # msr daifset, #15; wfi; b .-4
    return (header + loop).ljust(0x1000, b"\0")


def disk(folder: Path, parts: Parts) -> Path:
    """See the module. The boot state is empty, as on a new board."""
    image, first = folder / "disk.img", FIRST_SLOT_MIB
    with open(image, "wb") as file:
        file.truncate((first + 2 * SLOT_MIB) * 1024 * 1024)
    table = [f"start={at * 2048}, size={SLOT_MIB * 2048}, type=83" for at in (first, first + SLOT_MIB)]
    run("sfdisk", "-q", image, text="label: dos\n" + "\n".join(table) + "\n")
    content = {"Image": parts.kernel.read_bytes(), "initrd": initramfs(folder, parts).read_bytes()}
    put_slot(image, "A", content)
    put_slot(image, "B", content)
    run("mkimage", "-T", "script", "-A", "arm64", "-n", "slots", "-d", DATA / "uboot.cmd", folder / "boot.scr")
    write(image, SCRIPT_SECTOR * SECTOR_BYTES, (folder / "boot.scr").read_bytes())
    for places, words in ((STRESS, ("-r",)), (SINGLE, ())):
        (folder / "first.txt").write_text("number=none\n")
        run("mkenvimage", *words, "-s", hex(COPY_BYTES), "-o", folder / "first", folder / "first.txt")
        write(image, places[0], (folder / "first").read_bytes())
    return image


def put_slot(image: Path, slot: str, content: dict[str, bytes]) -> None:
    """Write a slot anew: an ext4 with these files."""
    folder = image.with_name(f"slot-{slot}")
    folder.mkdir(exist_ok=True)
    for name, data in content.items():
        (folder / name).write_bytes(data)
    made = folder.with_suffix(".ext4")
    with open(made, "wb") as file:
        file.truncate(SLOT_MIB * 1024 * 1024)
    run("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal,^metadata_csum,^64bit", "-d", folder, made)
    seek = FIRST_SLOT_MIB + SLOT_MIB * "AB".index(slot)
    run("dd", f"if={made}", f"of={image}", "bs=1M", f"seek={seek}", "conv=notrunc,sparse", "status=none")


def write(image: Path, offset: int, content: bytes) -> None:
    """Bytes into an image."""
    with open(image, "r+b") as file:
        file.seek(offset)
        file.write(content)


def read(image: Path, offset: int, length: int) -> bytes:
    """Bytes of an image."""
    with open(image, "rb") as file:
        file.seek(offset)
        return file.read(length)

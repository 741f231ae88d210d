"""The one place that knows all back ends."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from bootctl.current import running_slot
from bootctl.efi import EFIVARFS, EfiStore
from bootctl.errors import SetupError
from bootctl.file import FileStore
from bootctl.files import Files, RealFiles
from bootctl.grub import GrubStore
from bootctl.model import MAX_PRIORITY
from bootctl.store import Store, StoredBootControl
from bootctl.uboot import open_store

BACKENDS = ("uboot", "grub", "efi", "file")
#: Where the state is when nobody says so.
DEFAULT_CONFIG = {"uboot": "/etc/fw_env.config", "grub": "/boot/grub/grubenv", "efi": str(EFIVARFS)}

_NAME = re.compile(r"[A-Za-z0-9_]{1,32}")


def open_boot_control(
    backend: str,
    config: str,
    current: str,
    slots: Mapping[str, str] | Iterable[str],
    files: Files | None = None,
) -> StoredBootControl:
    """The state of this machine's boot loader.

    Args:
        backend: one of ``BACKENDS``.
        config: uboot: ``fw_env.config``; grub: the environment block; efi: where efivarfs is; file: the state. "": the
            usual place.
        current: the running slot; "": from the kernel's command line, and unknown where that does not tell.
        slots: names, or names with their devices.
        files: storage; the machine's own when None.

    Raises:
        BootControlError: the configuration is wrong, or a file of it cannot be read.
    """
    devices = dict(slots) if isinstance(slots, Mapping) else dict.fromkeys(slots, "")
    _check_names(devices)
    files = files or RealFiles()
    current = current or running_slot(devices)
    if current and current not in devices:
        raise SetupError(f"the running slot {current!r} is not one of {', '.join(devices)}")
    place = config or DEFAULT_CONFIG.get(backend, "")
    if backend in BACKENDS and not place:
        raise SetupError(f"the {backend} back end needs the path of its file")
    return StoredBootControl(_store(backend, Path(place), tuple(devices), current, files))


def _store(backend: str, path: Path, slots: tuple[str, ...], current: str, files: Files) -> Store:
    if backend == "uboot":
        return open_store(path, slots, current, files)
    if backend == "grub":
        return GrubStore(path, slots, current, files)
    if backend == "efi":
        return EfiStore(path, slots, current, files)
    if backend == "file":
        return FileStore(path, slots, current, files)
    raise SetupError(f"there is no back end {backend!r} ({', '.join(BACKENDS)})")


def _check_names(devices: Mapping[str, str]) -> None:
    if not 1 <= len(devices) <= MAX_PRIORITY:
        raise SetupError(f"{len(devices)} slots; want 1 to {MAX_PRIORITY}")
    for name in devices:
        if not _NAME.fullmatch(name):
            raise SetupError(f"slot name {name!r}: letters, digits and _ only, since it is part of variable names")

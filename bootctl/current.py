"""Which slot runs, from the kernel's command line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from bootctl.errors import StorageError

COMMAND_LINE = Path("/proc/cmdline")
#: What boot scripts pass. Both are understood; the first of them wins.
PARAMETERS = ("outrider.slot", "rauc.slot")

_BY = {"UUID": "by-uuid", "PARTUUID": "by-partuuid", "LABEL": "by-label", "PARTLABEL": "by-partlabel"}


def slot_of(command_line: str, devices: Mapping[str, str], *, device_root: Path = Path("/dev")) -> str:
    """The name of the running slot, "" when the command line does not tell.

    ``outrider.slot=A`` or ``rauc.slot=A``; else ``root=`` compared with the slots' devices, links followed. The last of
    a repeated parameter counts, as for the kernel.

    Args:
        command_line: the kernel's.
        devices: slot name -> block device.
        device_root: where ``disk/by-partuuid`` and so on are.
    """
    words = dict(word.partition("=")[::2] for word in command_line.split())
    for parameter in PARAMETERS:
        if words.get(parameter):
            return words[parameter].strip('"')
    root = words.get("root", "").strip('"')
    kind, _, value = root.partition("=")
    if kind in _BY and value:
        root = str(device_root / "disk" / _BY[kind] / value)
    if not root.startswith("/"):
        return ""
    real = os.path.realpath(root)
    return next((name for name, device in devices.items() if device and os.path.realpath(device) == real), "")


def running_slot(devices: Mapping[str, str], path: Path = COMMAND_LINE) -> str:
    """``slot_of`` this machine's kernel.

    Raises:
        StorageError: the command line cannot be read.
    """
    try:
        return slot_of(path.read_text(encoding="utf-8", errors="replace"), devices)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error

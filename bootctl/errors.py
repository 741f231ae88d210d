"""Who must act when the boot state cannot be read or changed; all are ``BootControlError``."""

from __future__ import annotations

from bootctl.model import BootControlError


class RefusedError(BootControlError):
    """The change makes no sense now, or would leave nothing that boots; nothing was changed."""


class StateError(BootControlError):
    """What is stored is not a boot state: no valid copy, wrong format. Unknown, which is not the same as bad."""


class StorageError(BootControlError):
    """The storage could not be read or written (missing, no permission, I/O error)."""


class SetupError(BootControlError):
    """The configuration is wrong: unknown back end, slot names, a file that is none of its kind."""

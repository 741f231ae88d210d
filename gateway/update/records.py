"""Small durable records of the updater: one JSON file each, replaced whole, read without trust."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from bootctl.files import Files, replace_content
from gateway.update.model import InstallError

log = logging.getLogger(__name__)

T = TypeVar("T", bound=msgspec.Struct)


class Record(Generic[T]):
    """One value in one file. A file that is damaged counts as one that is not there, and that is logged.

    After a power cut there is the value saved last or the one before; once ``save`` returns, it is the new one.
    """

    def __init__(self, files: Files, path: Path, kind: type[T]) -> None:
        self._files, self._kind, self.path = files, kind, path

    def load(self) -> T | None:
        """The value; None when there is none or it cannot be understood.

        Raises:
            InstallError: the disk does not answer; what is there may be whole, so nobody may act as if it were not.
        """
        try:
            content = self._files.read(self.path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InstallError(f"{self.path}: {error.strerror or error}") from error
        try:
            return msgspec.json.decode(content, type=self._kind)
        except msgspec.DecodeError as error:
            log.error("update_record_damaged", extra={"file": str(self.path), "error": str(error)})
            return None

    def save(self, value: T) -> None:
        """Make it the value. Raises ``InstallError``: not written, the old value stays."""
        try:
            replace_content(self._files, self.path, msgspec.json.encode(value))
        except OSError as error:
            raise InstallError(f"{self.path}: {error.strerror or error}") from error

    def remove(self) -> None:
        """No value any more, durably. Raises ``InstallError``."""
        try:
            if self._files.exists(self.path):
                self._files.remove(self.path)
                self._files.sync_directory(self.path.parent)
        except OSError as error:
            raise InstallError(f"{self.path}: {error.strerror or error}") from error

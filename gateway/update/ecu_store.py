"""The records of ``ecu_model`` on disk: small JSON files, each replaced whole and durable when a call returns."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import msgspec

from bootctl.files import Files, RealFiles, replace_content
from gateway.errors import TransportError
from gateway.update.ecu_model import EcuRecord, FlashProgress, SetJournal

log = logging.getLogger(__name__)

T = TypeVar("T")
_SET = "set-"


class EcuStore:
    """A folder of records. What cannot be understood counts as not there, which is the careful side, and is logged."""

    def __init__(self, directory: Path, files: Files | None = None) -> None:
        """Nothing is read or made yet."""
        self._directory, self._files = directory, files or RealFiles()

    def record(self, ecu: str) -> EcuRecord:
        """What is known of an ECU. Raises ``TransportError``: the disk cannot be read."""
        return self._load(self._name(ecu, "ecu"), EcuRecord) or EcuRecord()

    def has_record(self, ecu: str) -> bool:
        """Whether the ECU was ever written or recorded. Raises ``TransportError``."""
        return self._load(self._name(ecu, "ecu"), EcuRecord) is not None

    def keep_record(self, ecu: str, record: EcuRecord) -> None:
        """Raises ``TransportError``: not written."""
        self._keep(self._name(ecu, "ecu"), record)

    def progress(self, ecu: str) -> FlashProgress | None:
        """How far the download to an ECU came. Raises ``TransportError``."""
        return self._load(self._name(ecu, "flash"), FlashProgress)

    def keep_progress(self, ecu: str, progress: FlashProgress) -> None:
        """Raises ``TransportError``: not written."""
        self._keep(self._name(ecu, "flash"), progress)

    def forget_progress(self, ecu: str) -> None:
        """The download is done or begins again. Raises ``TransportError``."""
        self._remove(self._name(ecu, "flash"))

    def journals(self) -> list[SetJournal]:
        """Of all sets that are being changed, or were and are not confirmed. Raises ``TransportError``."""
        try:
            names = self._files.list(self._directory)
        except OSError as error:
            raise TransportError(f"{self._directory}: {error}") from error
        found = [self._load(name, SetJournal) for name in names if name.startswith(_SET)]
        return [journal for journal in found if journal is not None]

    def journal(self, identity: str) -> SetJournal | None:
        """Of one set. Raises ``TransportError``."""
        return self._load(f"{_SET}{identity}.json", SetJournal)

    def keep_journal(self, journal: SetJournal) -> None:
        """Raises ``TransportError``: not written."""
        self._keep(f"{_SET}{journal.id}.json", journal)

    def forget_journal(self, identity: str) -> None:
        """Raises ``TransportError``."""
        self._remove(f"{_SET}{identity}.json")

    @staticmethod
    def _name(ecu: str, kind: str) -> str:
        return f"{kind}-{quote(ecu, safe='')}.json"

    def _load(self, name: str, kind: type[T]) -> T | None:
        path = self._directory / name
        try:
            if not self._files.exists(path):
                return None
            return msgspec.json.decode(self._files.read(path), type=kind)
        except OSError as error:
            raise TransportError(f"{path}: {error}") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            log.error("ecu_record_damaged", extra={"path": str(path), "error": str(error)})
            return None

    def _keep(self, name: str, value: msgspec.Struct) -> None:
        path = self._directory / name
        try:
            replace_content(self._files, path, msgspec.json.encode(value))
        except OSError as error:
            raise TransportError(f"{path}: {error}") from error

    def _remove(self, name: str) -> None:
        path = self._directory / name
        try:
            if self._files.exists(path):
                self._files.remove(path)
                self._files.sync_directory(self._directory)
        except OSError as error:
            raise TransportError(f"{path}: {error}") from error

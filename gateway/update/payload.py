"""Installs what the gateway reads when it starts: manifests, schemes, models, configuration.

A payload is first loaded for trial, by the same code that would read it in earnest. Then the present content is kept
beside it, a mark says that the new one has to prove itself, and one rename puts it in place. It is used from the next
start on; ``payload_trial`` tells what happens when that start fails.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import msgspec

from bootctl.files import Files, replace_content
from gateway.update.blocking import Offload, in_thread
from gateway.update.config import PayloadSection
from gateway.update.model import AttackError, InstallError, VerifiedTarget
from gateway.update.payload_trial import PayloadTrial, content_hash, previous_path, put_back, trial_record
from gateway.update.ports import Fetcher, Progress, TargetStore
from gateway.update.records import Record
from gateway.update.slot_state import image_of
from gateway.update.slot_writer import check_hashes
from gateway.wire.uptane import InstalledImage

log = logging.getLogger(__name__)

MAX_BYTES = 64 * 1024 * 1024

#: Loads content as if for use; raises ``InstallError`` with what is wrong with it.
DryLoad = Callable[[bytes], None]


class PayloadTable(msgspec.Struct, frozen=True, kw_only=True):
    """What was installed last, by name; true as long as the file still has those hashes."""

    images: dict[str, InstalledImage] = {}
    before: dict[str, InstalledImage] = {}  # what lies in ``….previous``


class PayloadInstaller:
    """The ``Installer`` of all payloads.

    Args:
        sections: the payloads; paths relative to ``base``.
        checks: by kind, how to load for trial; a kind without one cannot be installed.
        directory: for the table of what is installed.
    """

    def __init__(
        self,
        sections: tuple[PayloadSection, ...],
        *,
        base: Path,
        checks: Mapping[str, DryLoad],
        store: TargetStore,
        files: Files,
        directory: Path,
        offload: Offload = in_thread,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._paths = {section.name: base / section.path for section in sections}
        self._checks, self._store, self._files, self._offload = checks, store, files, offload
        self._table, self._max_bytes = Record(files, directory / "payloads.json", PayloadTable), max_bytes

    @property
    def names(self) -> tuple[str, ...]:
        """All payloads."""
        return tuple(self._paths)

    async def prepare(self, target: VerifiedTarget, fetcher: Fetcher, progress: Progress) -> None:
        """See ``Installer``: fetched and loaded for trial."""
        self._path(target.ecu)
        check_hashes(target.image.hashes, target.image.filename)
        if target.image.length > self._max_bytes:
            raise InstallError(f"{target.image.filename}: {target.image.length} bytes, {self._max_bytes} at most")
        await self._store.fetch(target.image, fetcher, progress)
        await self._offload(lambda: self._checked(target))

    async def install(self, target: VerifiedTarget, fetcher: Fetcher, progress: Progress) -> None:
        """See ``Installer``: in place, used from the next start on."""
        await self.prepare(target, fetcher, progress)
        await self._offload(lambda: self._put_in_place(target))
        log.info("update_payload_installed", extra={"payload": target.ecu, "version": target.must_match.version})

    async def restore(self, target: VerifiedTarget) -> None:
        """See ``Installer``. Does nothing when something else than ``target`` is in place."""
        await self._offload(lambda: self._restore(target))

    async def installed(self, ecu: str) -> InstalledImage | None:
        """See ``Installer``: what is in the file now, which is what the next start reads."""
        return await self._offload(lambda: self._installed(ecu))

    def lost(self, targets: tuple[VerifiedTarget, ...]) -> str:
        """Whether one of these was put back before this start; "" or why. Blocks. Raises ``InstallError``."""
        for target in targets:
            if target.ecu in self._paths:
                trial = trial_record(self._files, self._paths[target.ecu]).load()
                if trial is not None and trial.lost and trial.sha256 == target.image.hashes["sha256"]:
                    return trial.lost
        return ""

    def confirm(self, targets: tuple[VerifiedTarget, ...]) -> None:
        """These have proved themselves: starts are counted no longer. Blocks. Raises ``InstallError``."""
        for target in targets:
            if target.ecu in self._paths:
                trial_record(self._files, self._paths[target.ecu]).remove()

    # how it is done

    def _path(self, name: str) -> Path:
        try:
            return self._paths[name]
        except KeyError:
            raise InstallError(f"there is no payload {name!r}") from None

    def _checked(self, target: VerifiedTarget) -> bytes:
        """The content, with every hash right and loaded for trial."""
        try:
            with closing(self._store.open(target.image)) as file:
                content = file.read_at(0, target.image.length + 1)
        except OSError as error:
            raise InstallError(f"{target.image.filename}: {error.strerror or error}") from error
        hashes = {name: hashlib.new(name, content).hexdigest() for name in target.image.hashes}
        if len(content) != target.image.length or hashes != dict(target.image.hashes):
            message = f"{target.image.filename}: not what both repositories signed"
            raise AttackError("arbitrary software", "N6", message)
        check = self._checks.get(target.must_match.kind)
        if check is None:
            raise InstallError(f"{target.must_match.kind}: nobody here can check such a payload")
        check(content)
        return content

    def _put_in_place(self, target: VerifiedTarget) -> None:
        path, name = self._path(target.ecu), target.ecu
        content, sha256 = self._checked(target), target.image.hashes["sha256"]
        if content_hash(self._files, path) == sha256:
            return
        table = self._table.load() or PayloadTable()
        now = self._installed(name)
        try:
            if now is not None:
                replace_content(self._files, previous_path(path), self._files.read(path))
            before = {**table.before, name: now} if now is not None else table.before
            self._table.save(PayloadTable(images={**table.images, name: image_of(target)}, before=before))
            trial_record(self._files, path).save(PayloadTrial(sha256=sha256, has_previous=now is not None))
            replace_content(self._files, path, content)
        except OSError as error:
            raise InstallError(f"{path}: {error.strerror or error}") from error

    def _restore(self, target: VerifiedTarget) -> None:
        path, sha256 = self._path(target.ecu), target.image.hashes["sha256"]
        record = trial_record(self._files, path)
        trial = record.load()
        if content_hash(self._files, path) == sha256:
            known = trial if trial is not None and trial.sha256 == sha256 else None
            has_previous = self._files.exists(previous_path(path)) if known is None else known.has_previous
            put_back(self._files, path, PayloadTrial(sha256=sha256, has_previous=has_previous))
        record.remove()

    def _installed(self, name: str) -> InstalledImage | None:
        path = self._path(name)
        sha256 = content_hash(self._files, path)
        if not sha256:
            return None
        table = self._table.load() or PayloadTable()
        for image in (table.images.get(name), table.before.get(name)):
            if image is not None and image.hashes.get("sha256") == sha256:
                return image
        return InstalledImage(filename="", length=self._files.size(path), hashes={"sha256": sha256})

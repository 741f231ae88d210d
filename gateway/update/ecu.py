"""The installer of ECU firmware: an image from the disk into an ECU over UDS, and what the ECU runs.

It stands for the ECUs as Uptane Secondaries with partial verification: what the Primary has fully verified is checked
once more against what is known here of the ECU, before its first byte is written (N1-N4, N6).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, closing

import anyio
import anyio.lowlevel
import msgspec

from gateway.errors import ConfigError, GatewayError, NotNowError, PeerError, TransportError
from gateway.uds.client import UdsClient
from gateway.uds.errors import NegativeResponse
from gateway.uds.names import Session
from gateway.update.config import FlashingSection, UpdateEcu
from gateway.update.ecu_flash import EcuFlasher, Job
from gateway.update.ecu_identity import NOT_NOW, read_told, require_conditions, require_hardware
from gateway.update.ecu_image import Content, read_image
from gateway.update.ecu_key import SeedKey
from gateway.update.ecu_links import EcuLinks
from gateway.update.ecu_model import EcuRecord, EcuRefusedError, NotYetError, Told
from gateway.update.ecu_ports import Offline, PartialCheck, Reservation
from gateway.update.ecu_quiet import quiet
from gateway.update.ecu_store import EcuStore
from gateway.update.model import AttackError, InstallError, VerifiedTarget
from gateway.update.ports import Fetcher, Progress, TargetStore
from gateway.wire.uptane import FileFacts, InstalledImage, MustMatch

log = logging.getLogger(__name__)

KIND = "firmware"
LEAVE_S = 3.0
_CHUNK_BYTES = 256 * 1024


class EcuInstaller:
    """Implements ``gateway.update.ports.Installer`` for the ECUs of ``[[update.ecus]]``. One call per ECU at a time."""

    def __init__(
        self,
        ecus: Sequence[UpdateEcu],
        *,
        links: EcuLinks,
        images: TargetStore,
        store: EcuStore,
        key: SeedKey,
        limits: FlashingSection | None = None,
        reservation: Reservation | None = None,
        factory: Mapping[str, InstalledImage] | None = None,
        partial_check: PartialCheck | None = None,
        fetcher: Callable[[], Fetcher] = Offline,
    ) -> None:
        """Nothing is read or sent yet.

        Args:
            ecus: of the configuration.
            links: access to the ECUs.
            images: verified files on this machine's disk.
            store: what is known of the ECUs.
            key: opens their programming sessions.
            limits: of trying again.
            reservation: keeps other testers away; None: there are none.
            factory: what ECUs ran when the vehicle was made.
            partial_check: asked before an image is prepared.
            fetcher: for an image that is lost from the disk when it is needed again.
        """
        self._ecus = {ecu.name: ecu for ecu in ecus}
        self._links, self._images, self.store, self._key = links, images, store, key
        self.limits = limits or FlashingSection()
        self._reservation, self._factory = reservation, dict(factory or {})
        self._partial_check, self._fetcher = partial_check, fetcher

    @property
    def names(self) -> Sequence[str]:
        """ECUs that can be updated."""
        return tuple(self._ecus)

    def about(self, ecu: str) -> UpdateEcu:
        """The ECU's configuration. Raises ``InstallError``: it is none of ours (N1)."""
        try:
            return self._ecus[ecu]
        except KeyError:
            raise InstallError(f"there is no ECU {ecu!r} to be updated here (N1)") from None

    # what a Secondary checks

    def check(self, target: VerifiedTarget) -> None:
        """The image is for this ECU, and no step back; of its way back likewise.

        Raises:
            AttackError: it is not (N2, N3, N4).
            InstallError: no such ECU (N1).
        """
        self.check_image(target.ecu, target.image, target.must_match)
        if target.hardware_id != self.about(target.ecu).hardware_id:
            raise _mismatch("N2", target.ecu, f"the target is for hardware {target.hardware_id!r}")
        if target.fallback is not None:
            self.check_image(target.ecu, target.fallback, target.fallback_must_match or target.must_match)

    def check_image(self, ecu: str, image: FileFacts, must_match: MustMatch) -> None:
        """One image. Raises as ``check``."""
        about = self.about(ecu)
        if must_match.kind != KIND:
            raise _mismatch("N3", ecu, f"{image.filename} is a {must_match.kind}, not firmware")
        if about.hardware_id not in must_match.hardware_ids:
            made_for = ", ".join(must_match.hardware_ids)
            raise _mismatch("N2", ecu, f"{image.filename} is for hardware {made_for}, it has {about.hardware_id}")
        if "sha256" not in image.hashes or image.length <= 0:
            raise _mismatch("N6", ecu, f"{image.filename} has no SHA-256 or no length")
        floor = self.store.record(ecu).floor
        if must_match.release_counter < floor:
            message = f"{ecu}: {image.filename} has release counter {must_match.release_counter}, below {floor}"
            raise AttackError("rollback", "N4", message)

    # Installer

    async def prepare(self, target: VerifiedTarget, fetcher: Fetcher, progress: Progress) -> None:
        """See ``Installer``: the image and the one to go back to are here, whole, verified and understood."""
        self.check(target)
        if self._partial_check is not None:
            self._partial_check(target)
        self._require_key(target.ecu)
        wanted = [target.image] if target.fallback is None else [target.image, target.fallback]
        total, before = sum(file.length for file in wanted), 0
        for file in wanted:
            done = before

            def tell(got: int, _: int, done: int = done) -> None:
                progress(done + got, total)

            await self._images.fetch(file, fetcher, tell)
            with closing(self._images.open(file)) as content:
                read_image(content, self.about(target.ecu).load_address)
            before += file.length
        progress(total, total)

    def _require_key(self, ecu: str) -> None:
        """A key can be made: better known now than at the second ECU of a set."""
        level = self.about(ecu).security_level
        if level:
            try:
                self._key.key(ecu, level, bytes(16))
            except ConfigError as error:
                raise EcuRefusedError(f"{ecu}: {error}") from error

    async def install(self, target: VerifiedTarget, fetcher: Fetcher, progress: Progress) -> None:
        """See ``Installer``. Puts nothing back by itself: ``restore``, or an ``EcuSet``, does."""
        self.check(target)
        await self.flash(target.ecu, target.image, target.must_match, progress=progress)

    async def restore(self, target: VerifiedTarget) -> None:
        """See ``Installer``: writes the image to go back to, unless the ECU runs it."""
        if target.fallback is None:
            raise InstallError(f"{target.ecu}: there is no image to go back to")
        await self.flash(target.ecu, target.fallback, target.fallback_must_match or target.must_match)

    async def installed(self, ecu: str) -> InstalledImage | None:
        """See ``Installer``: an image where the ECU still tells what it told right after it was installed.

        An ECU that tells something else (a workshop was at it, another ECU was fitted) gets an image without name and
        hashes, with the version it tells.
        """
        told = await self.told(ecu)
        if told is None:
            return None
        image = self._image_of(ecu, told)
        return image or InstalledImage(filename="", length=0, hashes={}, version=told.version)

    def confirm(self, ecu: str) -> None:
        """The update is final: what the ECU runs is from now on the least it may get (N4).

        Raises:
            TransportError: not written.
        """
        record = self.store.record(ecu)
        if record.image is not None and record.image.release_counter > record.floor:
            self.store.keep_record(ecu, msgspec.structs.replace(record, floor=record.image.release_counter))

    # what sets need

    async def told(self, ecu: str) -> Told | None:
        """What the ECU says of itself; None: it does not answer."""
        about = self.about(ecu)
        try:
            async with self._links.client(ecu) as client:
                return await read_told(client, about)
        except (GatewayError, ValueError) as error:
            log.info("ecu_not_read", extra={"ecu": ecu, "why": str(error)})
            return None

    def _image_of(self, ecu: str, told: Told) -> InstalledImage | None:
        """The image that is proved by what it tells."""
        if not told.version:  # its boot loader
            return None
        record = self.store.record(ecu)
        if record.image is not None and record.told == told:
            digest = record.image.hashes.get("sha256", "")
            return record.image if told.digest in ("", digest) else None
        made = self._factory.get(ecu)
        if made is None or self.store.has_record(ecu) or made.version != told.version:
            return None
        return made

    async def runs(self, ecu: str, image: FileFacts) -> bool:
        """Whether it is proved that the ECU runs this image."""
        told = await self.told(ecu)
        if told is None or not told.version:
            return False
        if told.digest:
            return told.digest == image.hashes["sha256"]
        found = self._image_of(ecu, told)
        return found is not None and found.hashes.get("sha256") == image.hashes["sha256"]

    async def probe(self, ecu: str) -> None:
        """Whether the ECU could be programmed now; changes nothing.

        Raises:
            EcuRefusedError: it is other hardware (N2).
            NotYetError: a condition is missing, or another tester is at it (N8).
            TransportError: it does not answer.
        """
        about = self.about(ecu)
        async with self._visited(ecu) as client:
            try:
                await require_hardware(client, about)
                await require_conditions(client, about)
            except NegativeResponse as refusal:
                kind = NotYetError if refusal.nrc in NOT_NOW else EcuRefusedError
                raise kind(f"{ecu}: {refusal}") from refusal

    @asynccontextmanager
    async def reserved(self, ecus: Collection[str], why: str) -> AsyncIterator[None]:
        """Other testers cannot write to these ECUs for as long as this lasts."""
        if self._reservation is None:
            yield
            return
        async with self._reservation.reserve(ecus, why):
            yield

    async def flash(
        self,
        ecu: str,
        image: FileFacts,
        must_match: MustMatch,
        *,
        before_write: Callable[[], None] = lambda: None,
        progress: Progress = lambda done, total: None,
    ) -> None:
        """Have the ECU run this image; nothing is written where it is proved that it does.

        ``before_write`` is called before the first change. Raises as ``Installer.install``, and ``NotYetError`` (a
        ``TransportError``) when it cannot be done now.
        """
        self.check_image(ecu, image, must_match)
        if await self.runs(ecu, image):
            progress(image.length, image.length)
            return
        await self._images.fetch(image, self._fetcher(), lambda done, total: None)
        with closing(self._images.open(image)) as content:
            await _require_hashes(content, image)  # once more, from the disk it will be read from (N6)
            told = await self._write(ecu, content, image, must_match, before_write, progress)
        self._remember(ecu, image, must_match, told)

    async def _write(
        self, ecu: str, content: Content, image: FileFacts, must_match: MustMatch, before_write: Callable[[], None],
        progress: Progress,
    ) -> Told:  # fmt: skip
        about = self.about(ecu)
        job = Job(
            ecu=about,
            parts=read_image(content, about.load_address),
            sha256=image.hashes["sha256"],
            version=must_match.version,
        )

        def touch() -> None:
            before_write()
            record = self.store.record(ecu)
            if record.image is not None or not self.store.has_record(ecu):
                self.store.keep_record(ecu, msgspec.structs.replace(record, image=None))

        log.info("ecu_flash_begins", extra={"ecu": ecu, "image": image.filename, "version": must_match.version})
        async with self._alone(ecu), self._visited(ecu) as client:
            flasher = EcuFlasher(
                client, job, key=self._key, store=self.store, limits=self.limits, before_write=touch,
                progress=progress,
            )  # fmt: skip
            return await flasher.run()

    def _remember(self, ecu: str, image: FileFacts, must_match: MustMatch, told: Told) -> None:
        installed = InstalledImage(
            filename=image.filename, length=image.length, hashes=image.hashes,
            release_counter=must_match.release_counter, version=must_match.version,
        )  # fmt: skip
        floor = self.store.record(ecu).floor
        self.store.keep_record(ecu, EcuRecord(image=installed, told=told, floor=floor))
        self.store.forget_progress(ecu)
        log.info("ecu_flash_done", extra={"ecu": ecu, "image": image.filename, "version": told.version})

    @asynccontextmanager
    async def _alone(self, ecu: str) -> AsyncIterator[None]:
        """Other testers kept away, other ECUs asked to take no notice."""
        others = [name for name in self._links.names if name != ecu]
        how = self.about(ecu).quiet
        async with self.reserved([ecu], f"{ecu} gets new software"), quiet(self._links, others, how):
            yield

    @asynccontextmanager
    async def _visited(self, ecu: str) -> AsyncIterator[UdsClient]:
        """A client that leaves the ECU in its default session, however it ends; errors are the port's."""
        try:
            async with self._links.client(ecu) as client:
                try:
                    yield client
                finally:
                    with anyio.CancelScope(shield=True), anyio.move_on_after(LEAVE_S):
                        await _leave(client)
        except NotNowError as error:
            raise NotYetError(f"{ecu}: {error}") from error
        except PeerError as error:
            raise TransportError(f"{ecu}: {error}") from error
        except ConfigError as error:
            raise EcuRefusedError(f"{ecu}: {error}") from error


async def _leave(client: UdsClient) -> None:
    """An ECU that does not answer leaves by its own timer."""
    if client.current_session != Session.DEFAULT:
        try:
            await client.session(Session.DEFAULT)
        except GatewayError as error:
            log.debug("ecu_session_left_open", extra={"ecu": client.name, "why": str(error)})


def _mismatch(rule: str, ecu: str, what: str) -> AttackError:
    return AttackError("arbitrary software", rule, f"{ecu}: {what}")


async def _require_hashes(content: Content, image: FileFacts) -> None:
    """All listed hashes and the length. Raises ``InstallError``: the disk holds something else by now."""
    try:
        digests = {name: hashlib.new(name) for name in image.hashes}
        size, at = content.size(), 0
        if size != image.length:
            raise InstallError(f"{image.filename} has {size} bytes on disk instead of {image.length} (N6)")
        while at < size:
            chunk = content.read_at(at, _CHUNK_BYTES)
            if not chunk:
                break
            for digest in digests.values():
                digest.update(chunk)
            at += len(chunk)
            await anyio.lowlevel.checkpoint()
    except OSError as error:
        raise InstallError(f"{image.filename} cannot be read: {error}") from error
    except ValueError as error:  # an algorithm nobody has
        raise InstallError(f"{image.filename}: {error}") from error
    for name, digest in digests.items():
        if digest.hexdigest() != image.hashes[name]:
            raise InstallError(f"{image.filename} on disk is not what was verified: its {name} is wrong (N6)")

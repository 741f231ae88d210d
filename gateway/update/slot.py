"""Installs a root file system into the slot that does not run.

The slot that runs is never touched. The other one is first made unbootable, then written, read back and noted; it
boots only after ``activate``, one atomic change of the boot loader's state. After a power cut at any point the same
call goes on and writes at most one segment again.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import msgspec

from bootctl.files import BlockFile, Files
from bootctl.model import DEFAULT_TRIES, BootControl, BootControlError, BootState
from gateway.errors import ConfigError, GatewayError, TransportError
from gateway.update.blocking import Offload, in_thread
from gateway.update.model import AttackError, InstallError, VerifiedTarget
from gateway.update.ports import Fetcher, Progress, SlotDevices, TargetStore
from gateway.update.slot_state import BootedCache, SlotContent, SlotProgress, SlotState, image_of
from gateway.update.slot_writer import ALGORITHMS, SlotWriter, check_hashes, hash_device, read_back
from gateway.update.sources import DeltaImage, DeltaOpener, FullImage, ImageSource
from gateway.wire.uptane import DeltaOffer, InstalledImage

log = logging.getLogger(__name__)


#: How often in a row a delta may be out of reach before the full image is taken.
DELTA_TRIES = 3


def _nothing(done: int) -> None:
    del done


def _silent(done: int, total: int) -> None:
    del done, total


class SlotInstaller:
    """The ``Installer`` of kind ``rootfs``.

    Args:
        ecu: the gateway's own identifier.
        directory: for the records, on the data partition.
        store: where deltas are kept; None: no deltas.
        open_delta: makes a delta usable; None: no deltas.
        segment_bytes: of progress while a full image is written.
        tries: how often a new slot may fail to boot.
        on_attack: notes an attack that did not stop the installation, since the full image could be taken instead.
    """

    def __init__(
        self,
        *,
        ecu: str,
        boot: BootControl,
        devices: SlotDevices,
        files: Files,
        directory: Path,
        segment_bytes: int,
        tries: int = DEFAULT_TRIES,
        store: TargetStore | None = None,
        open_delta: DeltaOpener | None = None,
        on_attack: Callable[[AttackError, Collection[str]], None] = lambda error, ecus: None,
        offload: Offload = in_thread,
    ) -> None:
        self.ecu, self._boot, self._devices, self._files = ecu, boot, devices, files
        self._segment_bytes, self._tries = segment_bytes, tries
        self._store, self._open_delta, self._offload = store, open_delta, offload
        self.state = SlotState(files, directory)
        self._booted: BootedCache | None = None
        self._on_attack, self._unreachable = on_attack, Counter[str]()
        #: Whether the image written last was made from a delta; None: nothing was written yet.
        self.used_delta: bool | None = None

    # the port

    async def prepare(self, target: VerifiedTarget, fetcher: Fetcher, progress: Progress) -> None:
        """Look whether it can be installed at all, and fetch a delta where one fits. See ``Installer``."""
        check_hashes(target.image.hashes, target.image.filename)
        state = await self._offload(self._read_boot)
        slot = await self._offload(lambda: self._slot_for(state, target))
        await self._offload(lambda: self._check_room(state, slot, target))
        offer = await self._delta_for(state, target)
        if offer is not None:
            await self._fetch_delta(offer, fetcher, progress, DELTA_TRIES)

    async def install(self, target: VerifiedTarget, fetcher: Fetcher, progress: Progress) -> None:
        """Fill the other slot, or find that it holds the image already. See ``Installer``; does not activate."""
        self.used_delta = None
        check_hashes(target.image.hashes, target.image.filename)
        state = await self._offload(self._read_boot)
        slot = await self._offload(lambda: self._slot_for(state, target))
        await self._offload(lambda: self._check_room(state, slot, target))
        if await self._offload(lambda: self._holds(slot, target)):
            log.info("update_slot_holds_the_image", extra={"slot": slot, "version": target.must_match.version})
            await self._offload(lambda: self._note_whole(slot, target))
            return
        spoilt = await self._offload(lambda: self._begin(slot, target))
        delta = None if spoilt else await self._delta_for(state, target)
        if delta is not None and not await self._fetch_delta(delta, fetcher, _silent, 1):
            delta = None
        async with self._opened(slot, target) as writer:
            if delta is not None:
                done = await self._try_delta(writer, state, target, delta, progress)
                if done:
                    await self._offload(lambda: self._note_whole(slot, target))
                    return
            await self._write_full(writer, target, fetcher, progress)
        await self._offload(lambda: self._note_whole(slot, target))

    async def restore(self, target: VerifiedTarget) -> None:
        """The slot that runs was never touched, so there is nothing to put back."""
        del target

    async def installed(self, ecu: str) -> InstalledImage | None:
        """What the running slot holds, read back once and remembered until its entry changes. See ``Installer``."""
        del ecu
        state = await self._offload(self._read_boot)
        slot = state.current
        content = (await self._offload(self.state.contents)).get(slot)
        cache = self._booted or await self._offload(self.state.booted)
        if cache is None or cache.slot != slot or cache.content != content:
            image = await self._offload(lambda: self._read_running(slot, content))
            cache = BootedCache(slot=slot, content=content, image=image)
            if content is not None and image == content.image:
                await self._offload(lambda: self.state.set_booted(cache))
        self._booted = cache
        return cache.image

    # for the state machine

    async def activate(self, target: VerifiedTarget) -> str:
        """Boot the slot that holds ``target`` next, on trial: one atomic change. The slot's name.

        Raises:
            InstallError: no other slot holds it whole, or the boot loader's state cannot be changed.
        """
        slot = await self._offload(lambda: self.slot_holding(target))
        if slot is None:
            raise InstallError(f"no slot holds {target.image.filename}")
        await self._offload(lambda: self._change_boot(lambda: self._boot.activate(slot, self._tries)))
        log.info("update_slot_activated", extra={"slot": slot, "version": target.must_match.version})
        return slot

    def slot_holding(self, target: VerifiedTarget) -> str | None:
        """The slot, not the running one, that is noted to hold exactly this image. Blocks. Raises ``InstallError``."""
        current = self._read_boot().current
        for name, content in self.state.contents().items():
            if name != current and content.is_whole and content.image.hashes == target.image.hashes:
                return name
        return None

    def forget_booted(self) -> None:
        """Read the running slot back again before the next answer."""
        self._booted = None

    # how it is done

    def _read_boot(self) -> BootState:
        try:
            return self._boot.read()
        except (BootControlError, OSError) as error:
            raise InstallError(f"the boot loader's state: {error}") from error

    def _change_boot(self, change: Callable[[], None]) -> None:
        try:
            change()
        except (BootControlError, OSError) as error:
            raise InstallError(f"the boot loader's state: {error}") from error

    def _slot_for(self, state: BootState, target: VerifiedTarget) -> str:
        """The slot to use: one that holds the image, one that was begun, else the one that matters least."""
        try:
            inactive = state.inactive.name
            if state.slot(state.current).is_on_trial:
                raise InstallError(f"slot {state.current} runs on trial; the other one is the way back")
        except BootControlError as error:
            raise InstallError(str(error)) from error
        others = [slot.name for slot in state.slots if slot.name != state.current]
        holding = self.slot_holding(target)
        begun = self.state.progress()
        for name in (holding, begun.slot if begun is not None else None):
            if name is not None and name in others:
                return name
        return inactive

    def _check_room(self, state: BootState, slot: str, target: VerifiedTarget) -> None:
        path = self._path(slot)
        if path.resolve() == self._path(state.current).resolve():
            raise InstallError(f"slot {slot} is on the device that runs ({path})")
        device = self._open(slot)
        try:
            room = device.size()
        except OSError as error:
            raise InstallError(f"slot {slot} ({path}): {error.strerror or error}") from error
        finally:
            device.close()
        if target.image.length < 1 or target.image.length > room:
            what = f"slot {slot} ({path}) has room for {room} bytes, the image has {target.image.length}"
            raise InstallError(what)

    def _path(self, slot: str) -> Path:
        try:
            return self._devices.path(slot)
        except ConfigError as error:
            raise InstallError(str(error)) from error

    def _open(self, slot: str, *, exclusive: bool = True) -> BlockFile:
        path = self._path(slot)
        try:
            return self._files.open(path, exclusive=exclusive)
        except OSError as error:
            raise InstallError(f"slot {slot} ({path}): {error.strerror or error}") from error

    def _holds(self, slot: str, target: VerifiedTarget) -> bool:
        """Whether a slot holds the image already; believed only after reading it."""
        content = self.state.contents().get(slot)
        if content is not None and not (content.is_whole and content.image.hashes == target.image.hashes):
            return False
        device = self._open(slot)
        try:
            return read_back(device, target.image.length, dict(target.image.hashes), f"slot {slot}", _nothing)
        except InstallError as error:  # it may still be written
            log.warning("update_slot_unreadable", extra={"slot": slot, "error": str(error)})
            return False
        finally:
            device.close()

    def _begin(self, slot: str, target: VerifiedTarget) -> bool:
        """Unbootable, noted as partial, progress of this image; whether its delta is known not to work."""
        self._change_boot(lambda: self._boot.mark_bad(slot))
        self.state.set_content(slot, SlotContent(is_whole=False, image=image_of(target)))
        fresh = SlotProgress(slot=slot, sha256=target.image.hashes["sha256"], length=target.image.length)
        known = self.state.progress()
        if known is None or (known.slot, known.sha256, known.length) != (fresh.slot, fresh.sha256, fresh.length):
            self.state.set_progress(fresh)
            return False
        return known.is_delta_spoilt

    @asynccontextmanager
    async def _opened(self, slot: str, target: VerifiedTarget) -> AsyncIterator[SlotWriter]:
        progress = await self._offload(self.state.progress)
        if progress is None:
            raise InstallError(f"slot {slot}: the progress record is gone")
        device = await self._offload(lambda: self._open(slot))
        with SlotWriter(device, self.state, progress, f"slot {slot} ({self._path(slot)})") as writer:
            yield writer

    async def _write_full(
        self, writer: SlotWriter, target: VerifiedTarget, fetcher: Fetcher, progress: Progress
    ) -> None:
        """The full image. What an earlier run or a delta left and is not right after all is written once more."""
        is_second = False
        while True:
            source = FullImage(fetcher, target.image, self._segment_bytes)
            if await self._write(writer, source, target, progress):
                self.used_delta = bool(self.used_delta)
                return
            came = writer.came_as()
            await self._offload(writer.begin_again)
            hashes = dict(target.image.hashes)
            if came is not None and any(came[name] != value for name, value in hashes.items()):
                message = f"{target.image.filename}: what came is not what both repositories signed"
                raise AttackError("arbitrary software", "N6", message)
            if came is not None or is_second:
                raise InstallError(f"slot {writer.progress.slot}: what was read back is not what was written")
            is_second = True

    async def _write(self, writer: SlotWriter, source: ImageSource, target: VerifiedTarget, told: Progress) -> bool:
        """Write what is missing from ``source``, and whether it is right when read back."""
        length = target.image.length
        offset = await self._offload(writer.start)
        told(offset, length)
        if offset < length:
            async with aclosing(source.from_byte(offset)) as pieces:
                async for place, piece in pieces:
                    await self._offload(lambda p=place, b=piece: writer.write(p, b))  # type: ignore[misc]  # bound now
                    told(writer.progress.done_bytes, length)
        await self._offload(writer.finish)
        return await self._offload(lambda: writer.read_back(dict(target.image.hashes), _nothing))

    async def _try_delta(
        self, writer: SlotWriter, state: BootState, target: VerifiedTarget, offer: DeltaOffer, told: Progress
    ) -> bool:
        """Write the slot from a delta; False (and it is noted, and logged) when only the full image will do."""
        try:
            async with self._delta_image(state, target, offer) as source:
                await source.check()
                self.used_delta = True
                if await self._write(writer, source, target, told):
                    return True
            raise InstallError("the result is not the image")
        except (InstallError, AttackError) as error:
            log.warning("update_delta_failed", extra={"file": offer.delta.filename, "error": str(error)})
        if writer.progress.done_bytes == target.image.length:
            await self._offload(writer.begin_again)
        await self._offload(writer.spoil_delta)
        self.used_delta = False
        return False

    @asynccontextmanager
    async def _delta_image(
        self, state: BootState, target: VerifiedTarget, offer: DeltaOffer
    ) -> AsyncIterator[DeltaImage]:
        if self._store is None or self._open_delta is None:
            raise InstallError("deltas are not understood here")
        store, open_delta = self._store, self._open_delta
        container = await self._offload(lambda: store.open(offer.delta))
        try:
            base = await self._offload(lambda: self._open(state.current, exclusive=False))
            try:
                delta = await self._offload(lambda: open_delta(container, base, offer))
                yield DeltaImage(delta, target.image, self._offload)
            except (OSError, ValueError) as error:
                raise InstallError(str(error)) from error
            except GatewayError as error:
                raise error if isinstance(error, InstallError | AttackError) else InstallError(str(error)) from error
            finally:
                base.close()
        finally:
            container.close()

    async def _fetch_delta(self, offer: DeltaOffer, fetcher: Fetcher, progress: Progress, tries: int) -> bool:
        """Have a delta's file here, at once when it is; False: the full image is the way that always works.

        Raises:
            TransportError: try again later; not after so many ``tries`` in a row.
        """
        if self._store is None:
            return False
        name = offer.delta.filename
        try:
            await self._store.fetch(offer.delta, fetcher, progress)
        except TransportError as error:
            self._unreachable[name] += 1
            if self._unreachable[name] < tries:
                raise
            log.warning("update_delta_unreachable", extra={"file": name, "error": str(error)})
        except (AttackError, InstallError) as error:
            log.warning("update_delta_unusable", extra={"file": name, "error": str(error)})
            if isinstance(error, AttackError):
                self._on_attack(error, (self.ecu,))
        else:
            del self._unreachable[name]
            return True
        return False

    async def _delta_for(self, state: BootState, target: VerifiedTarget) -> DeltaOffer | None:
        """The smallest delta that is made for what runs and is smaller than the image."""
        if self._store is None or self._open_delta is None or not target.deltas:
            return None
        content = (await self._offload(self.state.contents)).get(state.current)
        running = await self.installed(self.ecu) if content is not None else None
        fitting = [
            offer
            for offer in target.deltas
            if offer.delta.length < target.image.length
            and (running is None or running.hashes.get("sha256") == offer.base_sha256)
        ]
        return min(fitting, key=lambda offer: offer.delta.length, default=None)

    def _note_whole(self, slot: str, target: VerifiedTarget) -> None:
        self.state.set_content(slot, SlotContent(is_whole=True, image=image_of(target)))
        self.state.end_progress()

    def _read_running(self, slot: str, content: SlotContent | None) -> InstalledImage:
        """What the running slot's device holds. A slot filled by somebody else is read to its end."""
        device = self._open(slot, exclusive=False)
        try:
            length = content.image.length if content is not None else device.size()
            found = hash_device(device, length, list(ALGORITHMS), _nothing)
        except OSError as error:
            raise InstallError(f"slot {slot} cannot be read: {error.strerror or error}") from error
        finally:
            device.close()
        if content is not None and all(found[name] == value for name, value in content.image.hashes.items()):
            return content.image
        if content is not None:
            log.error("update_running_slot_changed", extra={"slot": slot, "noted": content.image.filename})
        return msgspec.structs.replace(_UNKNOWN, length=length, hashes=found)


_UNKNOWN = InstalledImage(filename="", length=0, hashes={})

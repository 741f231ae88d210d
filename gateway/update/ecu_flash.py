"""Writing one image into one ECU: sessions, unlocking, erasing, blocks, checks, reboot; again after a loss.

What makes it safe: an ECU starts no application that its own check did not find good, so every step may be repeated
and what interrupts (bus, power of either side, cancellation) costs time only. Going on in the middle is tried first; an
ECU that does not take that is erased and begun again. How far it came is kept on disk every so many bytes; the write
is short and is made in the loop, so that the record is never behind a block that was already reported.
"""

from __future__ import annotations

import contextlib
import logging
import zlib
from collections.abc import Callable

import anyio
import anyio.lowlevel
import msgspec

from gateway.errors import NotNowError, TransportError
from gateway.uds.client import UdsClient
from gateway.uds.errors import MalformedAnswer, NegativeResponse, UnexpectedAnswer
from gateway.uds.names import Nrc, Reset, Session
from gateway.update.config import FlashingSection, UpdateEcu
from gateway.update.ecu_identity import NOT_NOW, read_told, require_conditions, require_hardware
from gateway.update.ecu_image import Bytes, Part
from gateway.update.ecu_key import SeedKey
from gateway.update.ecu_model import EcuRefusedError, FlashProgress, NotYetError, Told
from gateway.update.ecu_store import EcuStore
from gateway.update.ports import Progress

log = logging.getLogger(__name__)

BOOT_POLL_S = 0.2
DELAY_PAUSE_S, MAX_DELAY_S = 1.0, 120.0
BLOCK_RETRIES = 3
PLAIN, ZLIB = 0x00, 0x10
_OVERHEAD_BYTES = 2  # SID and block counter
_CHUNK_BYTES = 64 * 1024
#: Refusals in the middle that say the ECU has rebooted, or that this block could not be written.
_AGAIN = frozenset({0x24, 0x33, 0x70, 0x71, 0x72, 0x73, 0x7E, 0x7F})
#: Of 0x34: not there, not that way.
_NOT_ON = frozenset({0x22, 0x24, 0x31, 0x70, 0x72})
#: What the result of the check means where the ECU follows our numbering; others are told by number.
VERDICTS = {
    1: "there is no image", 2: "made for another ECU", 3: "made for other hardware", 4: "not all parts are valid",
    5: "wrong checksum", 6: "wrong signature", 7: "made for another address, or too big",
    8: "application and data set do not fit",
}  # fmt: skip
_FINAL = frozenset({2, 3, 7, 8})  # of these: writing the same again changes nothing
_LOST = (TransportError, UnexpectedAnswer, MalformedAnswer)


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One image and the ECU it goes to."""

    ecu: UpdateEcu
    parts: tuple[Part, ...]
    sha256: str
    version: str  # "" where it is not known


class _CheckFailedError(EcuRefusedError):
    """The ECU's own check found what was written unfit, perhaps for a bit that fell over on its way."""


class EcuFlasher:
    """One job over one client."""

    def __init__(
        self,
        client: UdsClient,
        job: Job,
        *,
        key: SeedKey,
        store: EcuStore,
        limits: FlashingSection,
        before_write: Callable[[], None] = lambda: None,
        progress: Progress = lambda done, total: None,
    ) -> None:
        """``before_write`` is called once, before the first change to the ECU; what it raises ends the job."""
        self._client, self._job, self._ecu = client, job, job.ecu
        self._key, self._store, self._limits = key, store, limits
        self._before_write, self._progress = before_write, progress
        self._at = FlashProgress(sha256=job.sha256)
        self._saved = self._at
        self._is_writing = False
        self._has_restarted = False
        self.resumed = self.restarted = self.lost = 0

    async def run(self) -> Told:
        """All steps, to the ECU that runs the image and says so; returns what it tells.

        The record of the progress stays, for the caller to forget once what was told is durable.

        Raises:
            EcuRefusedError: the ECU does not take it.
            NotYetError: not now; when raised before ``before_write`` was called, nothing was changed.
            TransportError: lost more often than is tried.
            InstallError: the image cannot be read.
        """
        serial = await self._identify()
        self._at = self._saved = msgspec.structs.replace(self._at, serial=serial)
        found = self._store.progress(self._ecu.name)
        if found is not None and self._may_go_on(found, serial):
            self._at = self._saved = found
        await self._attempts()
        return await self._reboot()

    async def _identify(self) -> str:
        """Hardware and serial number, before anything else (N2)."""
        try:
            await require_hardware(self._client, self._ecu)
            return (await read_told(self._client, self._ecu)).serial
        except NotNowError as error:
            raise NotYetError(f"{self._ecu.name}: {error}") from error
        except (UnexpectedAnswer, MalformedAnswer) as error:
            raise TransportError(f"{self._ecu.name}: {error}") from error

    def _may_go_on(self, found: FlashProgress, serial: str) -> bool:
        if found.sha256 != self._job.sha256 or self._ecu.compress:
            return False
        if found.serial and serial and found.serial != serial:  # another ECU of the kind
            return False
        if not self._ecu.check_routine:  # nothing would prove what the parts add up to
            return False
        parts = self._job.parts
        if found.part == len(parts):
            return found.offset == 0
        return 0 <= found.part < len(parts) and 0 <= found.offset <= parts[found.part].length

    # The whole, again after a loss.

    async def _attempts(self) -> None:
        for left in range(self._limits.attempts - 1, -1, -1):
            try:
                await self._enter()
                await self._send_all()
                await self._check()
                return
            except NegativeResponse as refusal:
                if not self._is_writing and refusal.nrc in NOT_NOW:
                    raise NotYetError(f"{self._ecu.name}: {refusal}") from refusal
                if refusal.nrc not in _AGAIN | NOT_NOW:
                    raise EcuRefusedError(f"{self._ecu.name}: {refusal}") from refusal
                if not left:
                    kind = NotYetError if refusal.nrc in NOT_NOW else EcuRefusedError
                    raise kind(f"{self._ecu.name}: {refusal}") from refusal
                if refusal.nrc in (Nrc.PROGRAMMING_FAILURE, Nrc.TRANSFER_SUSPENDED, Nrc.WRONG_BLOCK_COUNTER):
                    self._begin_again(str(refusal))
                self._note_loss(str(refusal))
            except _CheckFailedError as error:
                if not left or self._has_restarted:
                    raise
                self._begin_again(str(error))
            except NotNowError as error:
                raise NotYetError(f"{self._ecu.name}: {error}") from error
            except NotYetError:
                raise
            except _LOST as error:
                if not left:
                    raise TransportError(f"{self._ecu.name}: {error}") from error
                self._note_loss(str(error))
                await self._wait_for_ecu()

    def _note_loss(self, why: str) -> None:
        self.lost += 1
        log.warning("ecu_lost", extra={"ecu": self._ecu.name, "why": why, "offset": self._at.offset})

    def _begin_again(self, why: str) -> None:
        """From erasing; at most once for content that was checked and found wrong."""
        self._has_restarted = True
        self.restarted += 1
        log.warning("ecu_flash_restarted", extra={"ecu": self._ecu.name, "why": why})
        self._move(part=0, offset=0, now=True)

    async def _wait_for_ecu(self) -> None:
        with anyio.move_on_after(self._ecu.reset_s):
            while True:
                try:
                    await self._client.tester_present()
                    return
                except NegativeResponse:
                    return  # it speaks
                except (*_LOST, NotNowError):
                    await anyio.sleep(BOOT_POLL_S)

    # Steps.

    async def _enter(self) -> None:
        """Extended session, conditions (N8), programming session, unlocked."""
        await require_conditions(self._client, self._ecu)
        await self._client.session(Session.PROGRAMMING)
        await self._unlock()

    async def _unlock(self) -> None:
        level = self._ecu.security_level
        if not level:
            return
        with anyio.move_on_after(MAX_DELAY_S):
            while True:
                try:
                    await self._client.security_access(level, lambda n, seed: self._key.key(self._ecu.name, n, seed))
                    return
                except NegativeResponse as refusal:
                    if refusal.nrc != Nrc.DELAY_NOT_EXPIRED:
                        raise
                    await anyio.sleep(DELAY_PAUSE_S)
        raise NotYetError(f"{self._ecu.name} gives no seed: its delay after wrong keys does not end")

    def _begin_writing(self) -> None:
        if not self._is_writing:
            self._before_write()
            self._is_writing = True

    async def _send_all(self) -> None:
        parts = self._job.parts
        while self._at.part < len(parts):
            part = parts[self._at.part]
            self._begin_writing()
            if not (self._at.offset and await self._go_on(part)):
                await self._begin(part)
            self._move(part=self._at.part + 1, offset=0, now=True)
        self._begin_writing()

    async def _begin(self, part: Part) -> None:
        """Erase, and send from the start."""
        self._move(part=self._at.part, offset=0, now=True)
        if self._ecu.erase_routine:
            area = part.address.to_bytes(4, "big") + part.length.to_bytes(4, "big")
            await self._client.start_routine(self._ecu.erase_routine, b"\x44" + area)
        if not self._ecu.compress:
            await self._send(part)
            return
        packed = await _packed(part)
        payload_bytes = await self._request(part.address, part.length, ZLIB)
        await self._send_blocks(packed, 0, payload_bytes, whole_bytes=part.length)

    async def _go_on(self, part: Part) -> bool:
        """Send the rest. Blocks after the last record may be in the ECU already, so later places are tried, too."""
        step = self._at.payload_bytes
        for number in range(self._limits.save_every_bytes // step + 2 if step else 1):
            offset = self._at.offset + number * step
            if offset >= part.length:
                return offset == part.length or self._at.offset == part.length
            try:
                payload_bytes = await self._request(part.address + offset, part.length - offset, PLAIN)
            except NegativeResponse as refusal:
                if refusal.nrc not in _NOT_ON:
                    raise
                continue
            self.resumed += 1
            await self._send_blocks(part, offset, payload_bytes)
            return True
        self.restarted += 1
        return False

    async def _send(self, part: Part) -> None:
        await self._send_blocks(part, 0, await self._request(part.address, part.length, PLAIN))

    async def _request(self, address: int, size: int, data_format: int) -> int:
        accepted = await self._client.request_download(address, size, data_format=data_format)
        own = self._ecu.max_block_bytes or accepted.max_block_bytes
        limit = min(accepted.max_block_bytes, self._client.max_pdu_bytes, own)
        if limit <= _OVERHEAD_BYTES:
            raise EcuRefusedError(f"{self._ecu.name}: blocks of {limit} bytes carry no data")
        return limit - _OVERHEAD_BYTES

    async def _send_blocks(self, part: Part, start: int, payload_bytes: int, *, whole_bytes: int = 0) -> None:
        """All from ``start``, counted from 1. ``whole_bytes``: the part is packed, and so long once unpacked."""
        offset, counter = start, 1
        while offset < part.length:
            block = part.read(offset, payload_bytes)
            await self._send_block(counter, block)
            offset, counter = offset + len(block), (counter + 1) & 0xFF
            if not whole_bytes:
                self._move(part=self._at.part, offset=offset, payload_bytes=payload_bytes)
            self._tell(offset * whole_bytes // part.length if whole_bytes else offset)
        await self._client.transfer_exit()

    async def _send_block(self, counter: int, block: bytes) -> None:
        """Until it is acknowledged. One that has arrived already is acknowledged without being written again."""
        for left in range(BLOCK_RETRIES, -1, -1):
            try:
                await self._client.transfer(counter, block)
                return
            except _LOST:
                if not left:
                    raise

    def _tell(self, offset: int) -> None:
        before = sum(part.length for part in self._job.parts[: self._at.part])
        self._progress(before + offset, sum(part.length for part in self._job.parts))

    def _move(self, *, part: int, offset: int, payload_bytes: int | None = None, now: bool = False) -> None:
        self._at = msgspec.structs.replace(
            self._at, part=part, offset=offset,
            payload_bytes=self._at.payload_bytes if payload_bytes is None else payload_bytes,
        )  # fmt: skip
        if now or self._at.offset - self._saved.offset >= self._limits.save_every_bytes:
            self._store.keep_progress(self._ecu.name, self._at)
            self._saved = self._at

    async def _check(self) -> None:
        """The ECU's own check of what was written, then whether its parts fit each other."""
        for routine, what in (
            (self._ecu.check_routine, "the ECU refuses the software"),
            (self._ecu.dependencies_routine, "dependencies"),
        ):
            verdict = await self._verdict(routine)
            if verdict:
                self._store.forget_progress(self._ecu.name)
                text = f"{self._ecu.name}: {what}: {VERDICTS.get(verdict, f'result {verdict:#04x}')}"
                raise EcuRefusedError(text) if verdict in _FINAL else _CheckFailedError(text)

    async def _verdict(self, routine: int | None) -> int:
        """0: good, or the ECU has no such routine. The last byte of its record is the result."""
        if not routine:
            return 0
        try:
            answer = await self._client.start_routine(routine)
        except NegativeResponse as refusal:
            if refusal.nrc in (0x11, 0x12, 0x31) and routine != self._ecu.check_routine:
                return 0
            raise
        return answer[-1] if answer else 0

    # The new software runs.

    async def _reboot(self) -> Told:
        with contextlib.suppress(*_LOST):  # some boot before they answer
            await self._client.reset(Reset.HARD)
        told = await self._come_back()
        wanted = self._job
        if self._ecu.version_is_release and wanted.version and told.version != wanted.version:
            raise EcuRefusedError(f"{self._ecu.name} tells version {told.version!r} instead of {wanted.version!r}")
        if told.digest and told.digest != wanted.sha256:
            raise EcuRefusedError(f"{self._ecu.name} tells another hash of its image: {told.digest}")
        return told

    async def _come_back(self) -> Told:
        """Ask until the application tells its version; a boot loader that stays does not know one."""
        speaks = False
        with anyio.move_on_after(self._ecu.reset_s):
            while True:
                await anyio.sleep(BOOT_POLL_S)
                try:
                    told = await read_told(self._client, self._ecu)
                except (*_LOST, NotNowError):
                    continue
                speaks = True
                if told.version:
                    return told
        if speaks:
            raise EcuRefusedError(f"{self._ecu.name} does not start the software: its boot loader stays")
        raise TransportError(f"{self._ecu.name} did not come back within {self._ecu.reset_s:g} s")


async def _packed(part: Part) -> Part:
    """The part as a zlib stream."""
    packer, out, at = zlib.compressobj(9), bytearray(), 0
    while at < part.length:
        chunk = part.read(at, _CHUNK_BYTES)
        out += packer.compress(chunk)
        at += len(chunk)
        await anyio.lowlevel.checkpoint()
    out += packer.flush()
    return Part(part.address, len(out), Bytes(bytes(out)))

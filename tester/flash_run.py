"""Carrying out a flash plan: sessions, unlocking, erasing, transferring, checking, rebooting; again after a loss.

What is safe about it: the ECU starts no application that its own check did not find good, and every step may be
repeated. So whatever interrupts (power, bus, the tester), the way back is to run the same command again. Going on in
the middle is tried first; an ECU that refuses is erased and begun again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import anyio
import msgspec

from gateway.errors import TransportError
from gateway.uds import transfer
from gateway.uds.client import KeyFunction, UdsClient
from gateway.uds.errors import MalformedAnswer, NegativeResponse, NoAnswer, UnexpectedAnswer
from gateway.uds.names import Nrc, Reset, Session
from tester.errors import OutcomeError
from tester.flash_plan import CHECK, DEPENDENCIES, ERASE, PLAIN, PRECONDITIONS, VERSION_DIDS, Part, Plan, Settings
from tester.flash_state import Progress, StateFile
from tester.values import text_or_hex

DELAY_PAUSE_S = 1.0
MAX_DELAY_S = 120.0
BOOT_POLL_S = 0.2
#: What result bytes of the check routine mean where the ECU is one of ours; others are told by number.
VERDICTS = {
    1: "there is no image", 2: "made for another ECU", 3: "made for other hardware", 4: "not all parts are valid",
    5: "wrong checksum", 6: "wrong signature", 7: "made for another address, or too big",
    8: "application and data set do not fit",
}  # fmt: skip
CONDITIONS = {1: "the vehicle moves", 2: "supply voltage too low", 3: "supply voltage too high"}
#: Refusals of an optional step that say "I do not have it".
_NOT_THERE = frozenset({0x11, 0x12, 0x13, 0x31, 0x7E, 0x7F, 0x33})
#: Refusals of 0x34 that mean "not there, not that way": begin the part again.
_NOT_ON = frozenset({0x22, 0x24, 0x31, 0x70, 0x72})


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """What is told while it runs. ``step`` is a stable word; ``done`` and ``total`` count bytes of all parts."""

    step: str
    text: str = ""
    done: int = 0
    total: int = 0


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """How it ended well."""

    ecu: str
    version: str  # as read back; empty where the ECU tells none
    was: str
    bytes: int
    seconds: float
    repeated_blocks: int
    resumed: int  # times a part was gone on with
    restarted: int  # times a part was begun again
    lost: int  # times the ECU was lost


class FlashError(OutcomeError):
    """The ECU took it not, for a reason that trying again does not change."""

    kind = "flash"


class Flasher:
    """One plan, one ECU."""

    def __init__(
        self,
        client: UdsClient,
        plan: Plan,
        key: KeyFunction | None,
        settings: Settings,
        *,
        state: StateFile | None = None,
        on_event: Callable[[Event], None] = lambda event: None,
    ) -> None:
        self._client, self._plan, self._key, self._settings = client, plan, key, settings
        self._state, self._tell = state, on_event
        self._at = Progress(ecu=plan.ecu, sha256=plan.sha256, serial=plan.serial)
        self._repeated = self._resumed = self._restarted = self._lost = 0
        self._checked_again = False

    async def run(self, *, restart: bool = False) -> Result:
        """All steps.

        Raises:
            FlashError: the ECU found the software unfit, or a condition is not met.
            GatewayError: refused, or lost more often than ``Settings.attempts``.
        """
        began_s = anyio.current_time()
        saved = None if restart or self._state is None else self._state.load(self._plan.serial)
        if saved is not None and self._fits(saved):
            self._at = saved
            self._event("resume", f"goes on after byte {self._before(saved.part) + saved.offset}")
        try:
            await self._attempts()
        finally:
            if self._state is not None and (self._at.offset or self._at.part):
                self._state.save(self._at, now=True)
        version = await self._reboot()
        if self._state is not None:
            self._state.forget()
        return Result(
            ecu=self._plan.ecu, version=version, was=self._plan.was, bytes=self._plan.total_bytes,
            seconds=round(anyio.current_time() - began_s, 3), repeated_blocks=self._repeated, resumed=self._resumed,
            restarted=self._restarted, lost=self._lost,
        )  # fmt: skip

    def _fits(self, saved: Progress) -> bool:
        parts = self._plan.parts
        if saved.part == len(parts):
            return saved.offset == 0
        return saved.part < len(parts) and saved.offset <= len(parts[saved.part].sent) and saved.data_format == PLAIN

    def _before(self, part: int) -> int:
        return sum(len(p.sent) for p in self._plan.parts[:part])

    def _event(self, step: str, text: str = "", done: int | None = None) -> None:
        at = self._before(self._at.part) + self._at.offset if done is None else done
        self._tell(Event(step=step, text=text, done=at, total=self._plan.total_bytes))

    # The whole, again after a loss.

    async def _attempts(self) -> None:
        for attempt in range(self._settings.attempts):
            try:
                await self._enter()
                await self._send_all()
                await self._check()
                return
            except (TransportError, UnexpectedAnswer, MalformedAnswer, transfer.TransferBroken) as error:
                if attempt + 1 == self._settings.attempts:
                    raise
                self._lost += 1
                self._event("lost", str(error))
                await self._wait_for_ecu()
            except NegativeResponse as refusal:  # rebooted in between: the session and the key are gone
                again = refusal.nrc in (Nrc.SERVICE_NOT_IN_SESSION, Nrc.SUBFUNCTION_NOT_IN_SESSION, 0x33, 0x24, 0x72)
                if attempt + 1 == self._settings.attempts or not again:
                    raise
                self._lost += 1
                self._event("lost", str(refusal))

    async def _wait_for_ecu(self) -> None:
        until_s = anyio.current_time() + self._settings.lost_s
        while True:
            try:
                await self._client.tester_present()
                return
            except NegativeResponse:
                return  # it speaks
            except (TransportError, UnexpectedAnswer, MalformedAnswer):
                if anyio.current_time() > until_s:
                    raise
                await anyio.sleep(BOOT_POLL_S)

    # Steps.

    async def _enter(self) -> None:
        """Extended session, preconditions, programming session, unlocked."""
        self._event("session", "extended")
        try:
            await self._client.session(Session.EXTENDED)
        except NegativeResponse as refusal:
            if refusal.nrc not in _NOT_THERE:
                raise
        await self._preconditions()
        self._event("session", "programming")
        await self._client.session(Session.PROGRAMMING)
        await self._unlock()

    async def _preconditions(self) -> None:
        try:
            answer = await self._client.start_routine(PRECONDITIONS)
        except NegativeResponse as refusal:
            if refusal.nrc in _NOT_THERE:
                return
            raise
        failed = [CONDITIONS.get(number, f"condition {number}") for number in answer[1:] if number]
        if failed:
            raise FlashError("the ECU cannot be programmed now: " + ", ".join(failed))
        self._event("preconditions", "met")

    async def _unlock(self) -> None:
        level = self._plan.level
        if level is None or self._key is None:
            return
        until_s = anyio.current_time() + MAX_DELAY_S
        while True:
            try:
                await self._client.security_access(level, self._key)
                break
            except NegativeResponse as refusal:
                if refusal.nrc != Nrc.DELAY_NOT_EXPIRED or anyio.current_time() > until_s:
                    raise
                self._event("unlock", "the ECU's delay is not over; waiting")
                await anyio.sleep(DELAY_PAUSE_S)
        self._event("unlock", f"level 0x{level:02X}")

    async def _send_all(self) -> None:
        parts = self._plan.parts
        while self._at.part < len(parts):
            part = parts[self._at.part]
            if not (self._at.offset and part.data_format == PLAIN and await self._go_on(part)):
                await self._begin(part)
            self._move(part=self._at.part + 1, offset=0)

    async def _begin(self, part: Part) -> None:
        """Erase and send from the start."""
        self._move(offset=0)
        area = part.address.to_bytes(4, "big") + len(part.segment.content).to_bytes(4, "big")
        self._event("erase", f"{len(part.segment.content)} bytes at {part.address:#010x}")
        await self._client.start_routine(ERASE, b"\x44" + area)
        self._event("transfer", part.region)
        await self._download(part, 0)

    async def _go_on(self, part: Part) -> bool:
        """Send the rest. The block whose answer was lost may be there already: then one block further."""
        for offset in (self._at.offset, self._at.offset + self._at.block_bytes):
            if not self._at.block_bytes or offset > len(part.sent):
                continue
            try:
                self._event("transfer", f"on from byte {offset}", self._before(self._at.part) + offset)
                if offset < len(part.sent):
                    await self._download(part, offset)
                self._resumed += 1
                return True
            except NegativeResponse as refusal:
                if refusal.nrc not in _NOT_ON:
                    raise
            except transfer.TransferBroken as broken:
                if not isinstance(broken.__cause__, NegativeResponse):
                    raise
        self._restarted += 1
        self._event("restart", "the ECU does not go on there; erasing again")
        return False

    async def _download(self, part: Part, start: int) -> None:
        content = part.sent[start:]
        last = 0

        def on_progress(done: int, total: int) -> None:
            nonlocal last
            size, last = done - last, done
            self._move(offset=start + done, block_bytes=max(self._at.block_bytes if last > size else 0, size))
            self._event("transfer", part.region)

        size = len(part.segment.content) - start if part.data_format == PLAIN else len(part.segment.content)
        finished = await _download(
            self._client, part.address + start, content, size, part.data_format, self._settings, on_progress
        )
        self._repeated += finished.repeated

    def _move(self, **changes: int) -> None:
        data_format = self._plan.parts[min(self._at.part, len(self._plan.parts) - 1)].data_format
        self._at = msgspec.structs.replace(self._at, data_format=data_format, **changes)
        if self._state is not None:
            self._state.save(self._at)

    async def _check(self) -> None:
        """The ECU's own check of what was written; content that was gone on with gets one more chance, whole."""
        self._event("verify", "check memory")
        verdict = await self._routine_verdict(CHECK)
        if verdict and (self._resumed or self._at.part == len(self._plan.parts)) and not self._checked_again:
            self._checked_again = True
            if self._resumed:
                self._restarted += 1
                self._event("restart", f"check: {VERDICTS.get(verdict, verdict)}; writing all of it again")
                self._move(part=0, offset=0)
                await self._send_all()
                verdict = await self._routine_verdict(CHECK)
        if verdict:
            self._forget()
            raise FlashError(f"the ECU refuses the software: {VERDICTS.get(verdict, f'result {verdict:#04x}')}")
        verdict = await self._routine_verdict(DEPENDENCIES)
        if verdict:
            self._forget()
            raise FlashError(f"dependencies: {VERDICTS.get(verdict, f'result {verdict:#04x}')}")

    def _forget(self) -> None:
        """What is in the ECU is whole and wrong: the next try begins with erasing."""
        self._at = msgspec.structs.replace(self._at, part=0, offset=0)
        if self._state is not None:
            self._state.forget()

    async def _routine_verdict(self, routine: int) -> int:
        """0: good, or the ECU has no such routine. The last byte of its record is the result."""
        try:
            answer = await self._client.start_routine(routine)
        except NegativeResponse as refusal:
            if refusal.nrc in _NOT_THERE and routine != CHECK:
                return 0
            if refusal.nrc in (0x11, 0x12, 0x31):
                self._event("verify", "the ECU has no routine to check memory")
                return 0
            raise
        return answer[-1] if answer else 0

    async def _reboot(self) -> str:
        """Reset, wait, read the version back; it must be that of the image where both are known."""
        if not self._settings.reset:
            return ""
        self._event("reset", "the ECU boots", self._plan.total_bytes)
        with contextlib.suppress(NoAnswer):  # some boot before they answer
            await self._client.reset(Reset.HARD)
        version = await self._version()
        self._event("verify", f"version {version}" if version else "the ECU tells no version", self._plan.total_bytes)
        if version and self._plan.version and not version.startswith(self._plan.version):
            raise FlashError(f"after the flash the ECU tells version {version}, not {self._plan.version}")
        return version

    async def _version(self) -> str:
        """Ask until the application answers; a boot loader that stays answers, but knows no version."""
        until_s = anyio.current_time() + self._settings.lost_s
        await anyio.sleep(BOOT_POLL_S)
        while True:
            await self._wait_for_ecu()
            for did in VERSION_DIDS:
                try:
                    return text_or_hex(await self._client.read_did(did))
                except NegativeResponse:
                    continue
                except (TransportError, UnexpectedAnswer, MalformedAnswer):
                    break
            else:
                return ""
            if anyio.current_time() > until_s:
                return ""


async def _download(
    client: UdsClient, address: int, content: bytes, size: int, data_format: int, settings: Settings,
    on_progress: transfer.Progress,
) -> transfer.Finished:  # fmt: skip
    """As ``transfer.download``, where the size announced may differ from what goes over the bus (compressed)."""
    accepted = await client.request_download(address, size, data_format=data_format)
    limit = min(accepted.max_block_bytes, client.max_pdu_bytes, settings.max_block_bytes or accepted.max_block_bytes)
    if limit <= 2:
        raise FlashError(f"blocks of {limit} bytes carry no data")
    resume = transfer.Resume(offset=0, counter=1, max_block_bytes=limit)
    return await transfer.download(
        client, address, content, on_progress=on_progress, resume=resume, retries=settings.retries
    )

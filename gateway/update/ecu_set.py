"""ECUs that change together or not at all: all new or all old, whenever the gateway or an ECU loses power.

The journal decides, and is durable before what it says is begun::

    installing --all ECUs run their new image, proved by reading--> installed
        |  an ECU refuses, or too many passes
        v
    restoring  --all that were touched run their old image--------> restored
        |  that failed too often in a row
        v
    broken     --tried again at the next start, or by the next update of these ECUs

Forward is tried as long as passes are left; the decision to go back is never taken back. An ECU is "touched" from just
before its first change until it was read to run one of the two images. The longest mix of versions is that of an ECU
that does not come back: then the set says so by name and version, and goes on trying within its bounds.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence

import anyio
import msgspec

from gateway.errors import GatewayError, NotNowError, TransportError
from gateway.update.ecu import EcuInstaller
from gateway.update.ecu_model import EcuRefusedError, SetJournal, SetMember, SetNotWholeError
from gateway.update.model import AttackError, InstallError, VerifiedTarget
from gateway.update.ports import Fetcher, SetProgress
from gateway.wire.uptane import FileFacts, InstalledImage

log = logging.getLogger(__name__)

RESERVED_FOR = "a set of ECUs gets new software"
UNFINISHED = ("installing", "restoring", "broken")


def _silent(ecu: str, state: str, done: int, total: int) -> None:
    """Nobody listens."""


class EcuSet:
    """Changes sets, one at a time. Made once; what it does survives restarts."""

    def __init__(self, installer: EcuInstaller) -> None:
        """The journal is the installer's store's."""
        self._installer, self._store, self._limits = installer, installer.store, installer.limits
        self._lock = anyio.Lock()

    # what the machine calls

    async def prepare(
        self, targets: Sequence[VerifiedTarget], fetcher: Fetcher, progress: SetProgress = _silent
    ) -> None:
        """Fetch and check everything, forward and back, before anything is written. Resumes.

        Raises:
            AttackError, TransportError: as ``Installer.prepare``.
            InstallError: likewise, or a set of several ECUs one of which would have no way back.
        """
        if not targets or len({target.ecu for target in targets}) != len(targets):
            raise InstallError("a set needs ECUs, each once")
        for target in targets:
            self._installer.check(target)
        if len(targets) > 1 and (stuck := [t.ecu for t in targets if t.fallback is None]):
            raise InstallError(f"the set could not be put back: there is no old image for {', '.join(stuck)}")
        for target in targets:

            def tell(done: int, total: int, ecu: str = target.ecu) -> None:
                progress(ecu, "downloading", done, total)

            await self._installer.prepare(target, fetcher, tell)
            progress(target.ecu, "pending", 0, target.image.length)

    async def install(
        self, targets: Sequence[VerifiedTarget], fetcher: Fetcher, progress: SetProgress = _silent
    ) -> None:
        """All of them, in the order given. After a cut the same call goes on, forward or back, as was decided.

        Returns when every ECU was read to run its new image. Needs no network after ``prepare``.

        Raises:
            AttackError, InstallError: it cannot be done; every ECU runs what it ran before.
            SetNotWholeError: it cannot be done, and not all could be put back: some ECU is told not to be whole.
            TransportError: not now, and nothing was changed; try again later.
        """
        async with self._lock, self._installer.reserved([target.ecu for target in targets], RESERVED_FOR):
            journal = self._store.journal(set_id(targets))
            if journal is None or journal.state == "restored":  # once more is a new try
                journal = await self._begin(targets, progress)
            elif journal.state == "installed":
                if not await self._is_contradicted(journal):
                    return
                journal = msgspec.structs.replace(journal, state="installing", passes=0)
            await self._go_on(journal, progress)

    async def restore(self, targets: Sequence[VerifiedTarget], progress: SetProgress = _silent) -> None:
        """Put the set back that ``install`` began or finished. Does nothing for a set that was never begun.

        Raises:
            SetNotWholeError: not all could be put back.
            TransportError: the disk does not answer.
        """
        async with self._lock, self._installer.reserved([target.ecu for target in targets], RESERVED_FOR):
            journal = self._store.journal(set_id(targets))
            if journal is not None and journal.state != "restored":
                await self._restore(journal, journal.reason or "it was called back", progress)

    async def recover(self, progress: SetProgress = _silent) -> None:
        """After a start of the gateway: go on with what the last one could not finish. Needs no network.

        Raises:
            InstallError, SetNotWholeError, TransportError: as ``install``, of the last set that failed.
        """
        failure: Exception | None = None
        async with self._lock:
            for journal in self._store.journals():
                if journal.state not in UNFINISHED:
                    continue
                try:
                    async with self._installer.reserved([m.ecu for m in journal.members], RESERVED_FOR):
                        await self._go_on(journal, progress)
                except GatewayError as error:
                    failure = error
        if failure is not None:
            raise failure

    async def installed(self, ecu: str) -> InstalledImage | None:
        """As ``EcuInstaller.installed``."""
        return await self._installer.installed(ecu)

    def confirm(self, targets: Sequence[VerifiedTarget]) -> None:
        """The whole update is final: the release counters of these ECUs rise, the way back is given up.

        ``targets`` may be those of several sets. Blocks for a moment.

        Raises:
            TransportError: not written; call it again.
        """
        final = [(target.ecu, target.image) for target in targets]
        for journal in self._store.journals():
            if journal.state == "installed" and all((m.ecu, m.image) in final for m in journal.members):
                for member in journal.members:
                    self._installer.confirm(member.ecu)
                self._store.forget_journal(journal.id)

    def journals(self) -> list[SetJournal]:
        """Sets begun and not confirmed, for the machine, people and status. Raises ``TransportError``."""
        return self._store.journals()

    def needed(self) -> list[FileFacts]:
        """Images that must stay on the disk, forward and back. Raises ``TransportError``."""
        members = [m for journal in self._store.journals() if journal.state != "restored" for m in journal.members]
        return [file for m in members for file in (m.image, m.fallback) if file is not None]

    async def _begin(self, targets: Sequence[VerifiedTarget], progress: SetProgress) -> SetJournal:
        """A journal of nothing done yet, after all that must hold before the first write does (N8)."""
        for target in targets:
            self._installer.check(target)
        wanted = SetJournal(id=set_id(targets), state="installing", members=tuple(map(_member, targets)))
        ecus = {target.ecu for target in targets}
        for other in self._store.journals():
            if other.id != wanted.id and ecus & {member.ecu for member in other.members}:
                await self._settle(other, ecus, progress)
        for target in targets:
            if not await self._installer.runs(target.ecu, target.image):
                await self._installer.probe(target.ecu)
        self._store.keep_journal(wanted)
        return wanted

    async def _settle(self, other: SetJournal, ecus: set[str], progress: SetProgress) -> None:
        """An unfinished set is put back before another one of its ECUs begins, unless all it touched is replaced."""
        touched = {member.ecu for member in other.members if member.stage in ("touched", "installed")}
        is_replaced = other.state == "broken" and touched <= ecus
        if other.state in UNFINISHED and touched and not is_replaced:
            await self._restore(other, other.reason or "another update takes its place", progress)
        self._store.forget_journal(other.id)

    async def _is_contradicted(self, journal: SetJournal) -> bool:
        """Whether an ECU of a finished set tells that it runs something else; one that is silent tells nothing."""
        for member in journal.members:
            if not await self._installer.runs(member.ecu, member.image) and await self._installer.told(member.ecu):
                return True
        return False

    # forward

    async def _go_on(self, journal: SetJournal, progress: SetProgress) -> None:
        if journal.state == "installing":
            await self._forward(journal, progress)
            return
        await self._restore(journal, journal.reason, progress)
        raise InstallError(journal.reason)

    async def _forward(self, journal: SetJournal, progress: SetProgress) -> None:
        while True:
            if journal.is_touched:
                if journal.passes >= self._limits.passes:
                    await self._give_up(journal, f"not done in {journal.passes} passes", progress)
                journal = msgspec.structs.replace(journal, passes=journal.passes + 1)
                self._store.keep_journal(journal)
            try:
                await self._pass(journal, progress)
            except (TransportError, NotNowError) as error:
                journal = self._current(journal)
                if not journal.is_touched:
                    self._store.forget_journal(journal.id)
                    raise
                log.warning("ecu_set_pass_failed", extra={"passes": journal.passes, "why": str(error)})
                if journal.passes < self._limits.passes:
                    await anyio.sleep(self._limits.pause_s)
                else:
                    await self._give_up(journal, str(error), progress, error)
            except GatewayError as error:
                journal = self._current(journal)
                if not journal.is_touched:
                    self._close(journal, "restored", str(error))
                    raise
                await self._give_up(journal, str(error), progress, error)
            else:
                self._close(self._current(journal), "installed", "")
                return

    def _current(self, journal: SetJournal) -> SetJournal:
        """The journal as the pass left it."""
        return self._store.journal(journal.id) or journal

    def _close(self, journal: SetJournal, state: str, reason: str) -> None:
        self._store.keep_journal(msgspec.structs.replace(journal, state=state, reason=reason))
        log.info("ecu_set_ended", extra={"state": state, "reason": reason})

    async def _pass(self, journal: SetJournal, progress: SetProgress) -> None:
        """Every ECU once; then all are read again, so that none was lost while others were written."""
        for member in journal.members:
            await self._install_one(journal.id, member, progress)
        for member in journal.members:
            if not await self._installer.runs(member.ecu, member.image):
                self._mark(journal.id, member.ecu, "touched", "does not tell its new software any more")
                raise TransportError(f"{member.ecu} does not tell its new software any more")

    async def _install_one(self, identity: str, member: SetMember, progress: SetProgress) -> None:
        ecu = member.ecu

        def tell(done: int, total: int) -> None:
            progress(ecu, "installing", done, total)

        def touch() -> None:
            self._mark(identity, ecu, "touched")

        try:
            await self._installer.flash(
                ecu, member.image, member.must_match, before_write=touch, progress=tell
            )  # an ECU that is proved to run it is left alone
        except GatewayError as error:
            progress(ecu, "failed", 0, member.image.length)
            if self._stage(identity, ecu) == "touched":
                self._mark(identity, ecu, "touched", str(error))
            raise
        if self._stage(identity, ecu) == "touched":
            self._mark(identity, ecu, "installed")
        progress(ecu, "installed", member.image.length, member.image.length)

    def _stage(self, identity: str, ecu: str) -> str:
        journal = self._store.journal(identity)
        return journal.member(ecu).stage if journal is not None else "untouched"

    def _mark(self, identity: str, ecu: str, stage: str, failure: str = "") -> None:
        journal = self._store.journal(identity)
        if journal is None:
            raise TransportError("the journal of the set is gone")
        passes = max(1, journal.passes)
        self._store.keep_journal(
            msgspec.structs.replace(journal.with_member(ecu, stage=stage, failure=failure), passes=passes)
        )

    # back

    async def _give_up(
        self, journal: SetJournal, why: str, progress: SetProgress, cause: Exception | None = None
    ) -> None:
        """Always raises: ``InstallError`` or ``AttackError`` once all is put back, else ``SetNotWholeError``."""
        await self._restore(self._current(journal), why, progress)
        if isinstance(cause, AttackError | InstallError):
            raise cause
        raise InstallError(f"{why}; every ECU runs what it ran before") from cause

    async def _restore(self, journal: SetJournal, reason: str, progress: SetProgress) -> None:
        journal = msgspec.structs.replace(journal, state="restoring", reason=reason)
        self._store.keep_journal(journal)
        log.warning("ecu_set_restoring", extra={"reason": reason, "restores": journal.restores})
        for number in range(self._limits.restores_in_a_row):
            if journal.restores >= self._limits.restores:
                break
            if number:
                await anyio.sleep(self._limits.pause_s)
            journal = msgspec.structs.replace(self._current(journal), restores=journal.restores + 1)
            self._store.keep_journal(journal)
            if await self._restore_all(journal, progress):
                self._close(self._current(journal), "restored", reason)
                return
        journal = self._current(journal)
        self._close(journal, "broken", reason)
        raise await self._not_whole(journal)

    async def _restore_all(self, journal: SetJournal, progress: SetProgress) -> bool:
        """The last that was changed first; one that fails does not keep the others from being put back."""
        is_whole = True
        for member in reversed(journal.members):
            if member.stage not in ("touched", "installed"):
                continue
            try:
                await self._restore_one(journal.id, member, progress)
            except GatewayError as error:
                is_whole = False
                self._mark(journal.id, member.ecu, "touched", str(error))
                progress(member.ecu, "failed", 0, member.image.length)
                log.error("ecu_not_restored", extra={"ecu": member.ecu, "why": str(error)})
        return is_whole

    async def _restore_one(self, identity: str, member: SetMember, progress: SetProgress) -> None:
        if member.fallback is None:
            raise EcuRefusedError(f"{member.ecu}: there is no old image to go back to")

        def tell(done: int, total: int) -> None:
            progress(member.ecu, "installing", done, total)

        must_match = member.fallback_must_match or member.must_match
        await self._installer.flash(member.ecu, member.fallback, must_match, progress=tell)
        self._mark(identity, member.ecu, "restored")
        progress(member.ecu, "restored", member.fallback.length, member.fallback.length)

    async def _not_whole(self, journal: SetJournal) -> SetNotWholeError:
        runs: dict[str, str] = {}
        for member in journal.members:
            told = await self._installer.told(member.ecu)
            runs[member.ecu] = "does not answer" if told is None else told.version or "stays in its boot loader"
        words = ", ".join(f"{ecu} {_at(text)}" for ecu, text in runs.items())
        return SetNotWholeError(f"set not whole: {words} ({journal.reason})", runs)


def _at(text: str) -> str:
    return text if text.startswith(("does not", "stays")) else f"at {text}"


def _member(target: VerifiedTarget) -> SetMember:
    return SetMember(
        ecu=target.ecu, image=target.image, must_match=target.must_match, fallback=target.fallback,
        fallback_must_match=target.fallback_must_match,
    )  # fmt: skip


def set_id(targets: Sequence[VerifiedTarget]) -> str:
    """The same for the same images in the same ECUs, in whatever order they are listed."""
    pairs = sorted((target.ecu, target.image.hashes.get("sha256", "")) for target in targets)
    return hashlib.sha256(msgspec.json.encode(pairs)).hexdigest()[:32]

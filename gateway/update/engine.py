"""Carries out what the state machine decides, one action at a time, and keeps the journal.

No rules are here: ``machine`` has them. What fails is told to the machine as a failure, or tried again later when only
the transport failed; an error nobody foresaw counts as a failure too, so that a bug in an installer ends an update
instead of repeating it for ever.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import anyio

from bootctl.model import BootControl, BootControlError, BootState
from gateway.errors import GatewayError, NotNowError, PeerError, TransportError
from gateway.link.backoff import Backoff
from gateway.runtime import Clock
from gateway.update import machine, transitions
from gateway.update.blocking import Offload, in_thread
from gateway.update.conditions import Conditions
from gateway.update.health import HealthWatch
from gateway.update.journal import CANCELLABLE, Journal, Stage
from gateway.update.machine import View, decide
from gateway.update.model import AttackError, InstallError, VerifiedTarget, VerifiedUpdate
from gateway.update.payload import PayloadInstaller
from gateway.update.plan import FIRMWARE, ROOTFS, KnownEcu, Step, check_update, files_of, update_key, without
from gateway.update.ports import Fetcher, Installer, Rebooter, SetInstaller, UpdateReporter
from gateway.update.progress import EcuMark, Meter, report_of
from gateway.update.records import Record
from gateway.update.slot import SlotInstaller
from gateway.update.transitions import Limits
from gateway.wire.uptane import FileFacts, InstalledImage, UpdateReport

log = logging.getLogger(__name__)

WAIT_S, WATCH_S, IDLE_S = 5.0, 1.0, 60.0
#: After so long a reboot that did not come is asked for again.
LEAVE_S = 300.0
#: A clock that goes so much differently from the monotonic one was set, and one before this was never set.
JUMP_NS = 3600 * 1_000_000_000
SANE_NS = 1_735_689_600 * 1_000_000_000  # 2025


@dataclass(kw_only=True)
class EnginePorts:
    """Everything the engine needs from around it.

    ``clock`` tells the UTC that windows and deadlines are kept by: attested time where there is one.
    ``raise_counters`` and ``floor`` are the verifier's (release counters by ECU); ``fetcher`` gives the one to use now;
    ``on_attack`` notes an attack for the next manifest; ``keep`` (blocking) tells the store which files an update needs
    until the next one begins. ``boot`` and ``slot`` are None where there are no slots.
    """

    clock: Clock
    record: Record[Journal]
    known: Mapping[str, KnownEcu]
    conditions: Conditions
    health: HealthWatch
    rebooter: Rebooter
    reporter: UpdateReporter
    fetcher: Callable[[], Fetcher]
    floor: Callable[[str], int]
    raise_counters: Callable[[dict[str, int]], None]
    backoff: Backoff
    boot_id: str
    run_id: str
    boot: BootControl | None = None
    slot: SlotInstaller | None = None
    ecus: SetInstaller | None = None
    ecu_image: Callable[[str], Awaitable[InstalledImage | None]] | None = None  # what an ECU runs, as ``Installer``
    payloads: PayloadInstaller | None = None
    on_attack: Callable[[AttackError, Collection[str]], None] = field(default=lambda error, ecus: None)
    keep: Callable[[Sequence[FileFacts]], None] = field(default=lambda files: None)
    limits: Limits = field(default_factory=Limits)
    report_s: float = 10.0
    offload: Offload = in_thread


class UpdateEngine:
    """The updater of one vehicle. ``step`` is called again and again, by one task."""

    def __init__(self, ports: EnginePorts) -> None:
        """Raises ``InstallError``: the journal cannot be read."""
        self._ports, self._offload, self._clock = ports, ports.offload, ports.clock
        self.journal = ports.record.load() or Journal()
        self.wanted: VerifiedUpdate | None = None
        self.waits_for = ""
        self._meter, self._marks = Meter(), dict[str, EcuMark]()
        self._cancelled_key = ""
        self._scope: anyio.CancelScope | None = None
        self._retry_ns = self._left_ns = self._reported_ns = 0
        self._has_resumed = False
        self._idle_boot: BootState | None = None
        self._looked: tuple[int, int] | None = None  # UTC and monotonic, at the step before
        self._can_roll_back = False

    # what others may do

    def want(self, update: VerifiedUpdate) -> None:
        """What was verified last. An installation that is not wanted any more is left where that is possible."""
        self.wanted = update
        if update_key(update) != self.journal.key and self._scope is not None:
            self._scope.cancel()

    def cancel(self) -> None:
        """A person here does not want it.

        Raises:
            NotNowError: there is nothing that could be cancelled.
        """
        if self.journal.stage not in CANCELLABLE:
            raise NotNowError("there is no update that could still be cancelled")
        self._cancelled_key = self.journal.key
        if self._scope is not None:
            self._scope.cancel()

    async def give_consent(self, assignment: str, by: str) -> None:
        """A person agrees to an update; durable when it returns.

        Raises:
            NotNowError: that is not the update that is waiting.
            InstallError: it could not be written.
        """
        waiting = self.journal.update.assignment if self.journal.is_open else ""
        give = partial(self._ports.conditions.consent.give, assignment, waiting, by, self._clock.utc_ns())
        await self._offload(give)
        log.info("update_consent_given", extra={"assignment": assignment, "by": by})

    async def told(self) -> None:
        """The cloud has taken a manifest made after the journal's last change."""
        if not self.journal.is_told:
            await self._save(transitions.told(self.journal))

    async def installed(self) -> dict[str, InstalledImage | None]:
        """What every ECU and payload runs, as far as it can be proved now; None: it does not answer."""
        found: dict[str, InstalledImage | None] = {}
        for name, ecu in self._ports.known.items():
            try:
                found[name] = await self._installed(name, ecu)
            except GatewayError as error:
                log.warning("update_installed_unknown", extra={"ecu": name, "error": str(error)})
                found[name] = None
        return found

    # one action

    async def step(self) -> float:
        """Do what is to be done now; seconds until it is worth to look again (0: at once)."""
        now_ns = self._clock.monotonic_ns()
        if now_ns < self._retry_ns:
            return (self._retry_ns - now_ns) / 1e9
        if self._left_ns and now_ns - self._left_ns < LEAVE_S * 1e9:
            return IDLE_S
        try:
            if not self._has_resumed:
                await self._save(transitions.resumed(self.journal, await self._offload(self._moved_bytes)))
                self._has_resumed = True
            await self._mind_the_clock()
            action = decide(self.journal, await self._view(), self._ports.limits)
            pause_s = await self._do(action)
        except (GatewayError, BootControlError, OSError) as error:
            log.warning("update_step_failed", extra={"stage": self.journal.stage, "error": str(error)})
            self.waits_for = str(error)
            pause_s = self._later()
        self._report(is_due=pause_s == 0)
        return pause_s

    async def _do(self, action: machine.Action) -> float:
        if not isinstance(action, machine.Wait):
            self.waits_for = ""
        match action:
            case machine.Rest():
                return IDLE_S
            case machine.Wait(detail):
                return self._wait(detail)
            case machine.Prepare(step) | machine.Install(step):
                return await self._carry_out(step, is_install=isinstance(action, machine.Install))
            case machine.Restore(step):
                return await self._restore(step)
            case machine.Start(is_reboot, reason):
                return await self._start(is_reboot, reason)
            case machine.Activate(target):
                return await self._activate(target)
            case machine.Begin(update):
                await self._begin(update)
            case _:
                await self._change(action)
        return 0.0

    async def _change(self, action: machine.Action) -> None:
        """Actions that are little more than their transition."""
        journal, now_ns = self.journal, self._clock.utc_ns()
        boot_id, monotonic_ns = self._ports.boot_id, self._clock.monotonic_ns()
        match action:
            case machine.Advance(to):
                await self._save(transitions.advanced(journal, to, now_ns))
            case machine.Stop(end, detail):
                log.warning("update_stopped", extra={"end": end, "reason": detail})
                await self._save(transitions.stopped(journal, end, detail, now_ns))
            case machine.Adopt():
                slot = (await self._offload(self._boot().read)).current
                log.warning("update_unexplained_trial", extra={"slot": slot})
                self._ports.health.reset()
                await self._save(transitions.adopted(journal, slot, boot_id, monotonic_ns, now_ns))
            case machine.Seen():
                self._ports.health.reset()
                if self._ports.slot is not None:
                    self._ports.slot.forget_booted()
                await self._save(transitions.trial_begun(journal, boot_id, monotonic_ns, now_ns))
            case machine.MarkGood():
                if self._ports.boot is not None and journal.trial.new_slot:
                    await self._offload(self._ports.boot.mark_good)
                log.info("update_good", extra={"slot": journal.trial.new_slot})
                await self._save(transitions.advanced(journal, Stage.CONFIRM, now_ns))
            case machine.GiveUp(reason):
                log.error("update_not_well", extra={"reason": reason})
                await self._save(transitions.given_up(journal, reason, now_ns), must=False)
            case machine.GoBack(slot):
                await self._offload(partial(self._boot().switch, slot))
            case machine.Bury(slot, reason):
                await self._bury(slot, reason)
            case machine.RaiseCounters(targets):
                await self._offload(partial(self._confirm, targets))
                await self._save(transitions.confirmed(self.journal, now_ns))
            case _:
                raise TypeError(f"nobody carries out {action}")

    async def _begin(self, update: VerifiedUpdate) -> None:
        journal, now_ns, key = self.journal, self._clock.utc_ns(), update_key(update)
        try:
            await self._offload(partial(check_update, update, self._ports.known, self._ports.floor))
        except InstallError as error:
            log.error("update_refused", extra={"assignment": update.assignment, "error": str(error)})
            await self._save(transitions.refused(journal, update, key, str(error), now_ns))
            return
        have = await self.installed()
        done = frozenset(t.ecu for t in update.targets if _is_there(have.get(t.ecu), t))
        log.info("update_begun", extra={"assignment": update.assignment, "ecus": len(update.targets) - len(done)})
        self._ports.backoff.succeeded()
        self._marks.clear()
        left = without(update, done)
        await self._offload(partial(self._ports.keep, files_of(left)))
        await self._save(transitions.begun(journal, left, key, now_ns))

    async def _carry_out(self, step: Step, *, is_install: bool) -> float:
        self._meter.begin(sum(target.image.length for target in step.targets))
        if is_install:
            await self._save(transitions.step_begun(self.journal, step))
        work = self._install if is_install else self._prepare
        try:
            with anyio.CancelScope() as scope:
                self._scope = scope if step.kind != FIRMWARE or not is_install else None
                await work(step)
        except (TransportError, NotNowError, PeerError) as error:
            log.info("update_tried_later", extra={"step": step.name, "error": str(error)})
            self.waits_for = str(error)
            return self._later()
        except AttackError as error:
            self._ports.on_attack(error, step.ecus)
            return await self._failed(step, str(error), attack=error.attack)
        except (GatewayError, BootControlError, OSError) as error:
            return await self._failed(step, str(error))
        except Exception as error:  # the supervision boundary of installers
            log.exception("update_step_crashed", extra={"step": step.name})
            return await self._failed(step, f"internal error: {type(error).__name__}")
        finally:
            self._scope = None
        if scope.cancelled_caught:
            return 0.0
        self._ports.backoff.succeeded()
        if is_install:
            used = self._ports.slot.used_delta if step.kind == ROOTFS and self._ports.slot is not None else None
            await self._save(transitions.step_done(self.journal, step, used))
        else:
            await self._save(transitions.prepared(self.journal, step))
        return 0.0

    async def _failed(self, step: Step, detail: str, *, attack: str = "") -> float:
        log.error("update_step_failed", extra={"step": step.name, "error": detail, "attack": attack})
        failed = transitions.step_failed(
            self.journal, step, detail, self._clock.utc_ns(), self._ports.limits, attack=attack
        )
        await self._save(failed)
        self._later()
        return 0.0

    async def _prepare(self, step: Step) -> None:
        fetcher = self._ports.fetcher()
        if step.kind == FIRMWARE:
            await self._ecus().prepare(step.targets, fetcher, self._set_progress)
            return
        target = step.targets[0]
        await self._installer(step.kind).prepare(target, fetcher, partial(self._progress, target.ecu, "downloading"))

    async def _install(self, step: Step) -> None:
        fetcher = self._ports.fetcher()
        if step.kind == FIRMWARE:
            await self._ecus().install(step.targets, fetcher, self._set_progress)
            return
        target = step.targets[0]
        await self._installer(step.kind).install(target, fetcher, partial(self._progress, target.ecu, "installing"))

    async def _restore(self, step: Step) -> float:
        try:
            if step.kind == FIRMWARE:
                await self._ecus().restore(step.targets, self._set_progress)
            else:
                await self._installer(step.kind).restore(step.targets[0])
        except (GatewayError, BootControlError, OSError) as error:
            log.error("update_restore_failed", extra={"step": step.name, "error": str(error)})
            await self._save(transitions.restore_failed(self.journal, step, str(error), self._ports.limits))
            return self._later()
        await self._save(transitions.restored(self.journal, step))
        return 0.0

    async def _activate(self, target: VerifiedTarget) -> float:
        slot = self._ports.slot
        if slot is None:
            raise InstallError("there are no slots")
        try:
            new = await self._offload(partial(slot.slot_holding, target))
            old = (await self._offload(self._boot().read)).current
            await self._save(transitions.slot_chosen(self.journal, (old, new or "")))
            await slot.activate(target)
        except (InstallError, BootControlError) as error:
            return await self._failed(Step(ROOTFS, (target,)), str(error))
        return 0.0

    async def _start(self, is_reboot: bool, reason: str) -> float:
        log.warning("update_reboots" if is_reboot else "update_restarts", extra={"reason": reason})
        if self.journal.is_open:
            asked = transitions.start_asked(self.journal, self._ports.boot_id, self._ports.run_id)
            await self._save(asked, must=False)
        else:
            await self._save(transitions.restarted(self.journal))
        self._report(is_due=True)
        rebooter = self._ports.rebooter
        await (rebooter.reboot if is_reboot else rebooter.restart)(reason)
        self._left_ns = self._clock.monotonic_ns()
        return IDLE_S

    async def _bury(self, slot: str, reason: str) -> None:
        try:
            await self._offload(partial(self._boot().mark_bad, slot))
        except BootControlError as error:  # refused: the loader will not take it before the running one
            log.error("update_slot_not_buried", extra={"slot": slot, "error": str(error)})
        log.error("update_rolled_back", extra={"slot": slot, "reason": reason})
        await self._save(transitions.buried(self.journal, reason, self._clock.utc_ns()))

    def _confirm(self, targets: Sequence[VerifiedTarget]) -> None:
        """The floor rises first: after that there is no way back, and nothing that would need one."""
        self._ports.raise_counters({t.ecu: t.must_match.release_counter for t in targets})
        firmware = [t for t in targets if t.must_match.kind == FIRMWARE]
        if firmware and self._ports.ecus is not None:
            self._ports.ecus.confirm(firmware)
        if self._ports.payloads is not None:
            self._ports.payloads.confirm(tuple(targets))

    # around it

    async def _view(self) -> View:
        journal, ports = self.journal, self._ports
        now_ns = self._clock.utc_ns()
        policy, assignment = journal.update.policy, journal.update.assignment
        is_started = journal.stage in (Stage.SWITCH, Stage.TRIAL)
        boot = await self._boot_state()
        health = machine.Health(False)
        if journal.stage is Stage.TRIAL:
            health = await ports.health.look(journal.trial.began_ns, await self._wrong_image(boot))
        holding = lost = None
        if journal.stage is Stage.SWITCH and ports.slot is not None and journal.rootfs is not None:
            holding = await self._offload(partial(ports.slot.slot_holding, journal.rootfs))
        if is_started and ports.payloads is not None:
            lost = await self._offload(partial(ports.payloads.lost, journal.targets))
        return View(
            now_ns=now_ns,
            boot_id=ports.boot_id,
            run_id=ports.run_id,
            wanted=self.wanted,
            boot=boot,
            holding=holding,
            link_missing=ports.conditions.link_missing(policy),
            policy_missing=ports.conditions.policy_missing(policy, assignment, now_ns),
            conditions_missing=ports.conditions.vehicle_missing(now_ns),
            is_late=ports.conditions.is_late(policy, now_ns),
            lost_payload=lost or "",
            health=health,
            is_cancelled=bool(journal.key) and self._cancelled_key == journal.key,
        )

    async def _mind_the_clock(self) -> None:
        """Waiting is timed by UTC, over restarts; a clock that is set must neither end it nor make it endless."""
        utc_ns, monotonic_ns = self._clock.utc_ns(), self._clock.monotonic_ns()
        before, self._looked = self._looked, (utc_ns, monotonic_ns)
        journal, jump_ns = self.journal, 0
        if not journal.is_open:
            return
        if before is not None and journal.since_ns <= before[0]:
            jump_ns = (utc_ns - before[0]) - (monotonic_ns - before[1])
        elif journal.since_ns < SANE_NS <= utc_ns or journal.since_ns > utc_ns + JUMP_NS:
            jump_ns = utc_ns - journal.since_ns
        if abs(jump_ns) > JUMP_NS:
            log.warning("update_clock_jumped", extra={"seconds": jump_ns // 1_000_000_000})
            await self._save(transitions.clock_jumped(journal, jump_ns))

    async def _boot_state(self) -> BootState | None:
        """Read for each decision while something is under way, once while nothing is."""
        if self._ports.boot is None:
            return None
        if not self.journal.is_open and self._idle_boot is not None:
            return self._idle_boot
        state = await self._offload(self._ports.boot.read)
        self._idle_boot = state if not self.journal.is_open else None
        others = [slot for slot in state.slots if slot.name != state.current]
        self._can_roll_back = any(slot.is_bootable and slot.successful for slot in others)
        return state

    def _moved_bytes(self) -> int:
        progress = self._ports.slot.state.progress() if self._ports.slot is not None else None
        return progress.done_bytes if progress is not None else 0

    async def _wrong_image(self, boot: BootState | None) -> str:
        """Whether the slot on trial holds what was verified: read from the disk, once in each trial."""
        target, slot = self.journal.rootfs, self._ports.slot
        if target is None or slot is None or boot is None or boot.current != self.journal.trial.new_slot:
            return ""
        image = await slot.installed(target.ecu)
        return "" if _is_there(image, target) else "the slot that runs does not hold the image"

    async def _installed(self, name: str, ecu: KnownEcu) -> InstalledImage | None:
        if ecu.kind == FIRMWARE:
            return await self._ports.ecu_image(name) if self._ports.ecu_image is not None else None
        return await self._installer(ecu.kind).installed(name)

    def _installer(self, kind: str) -> Installer:
        found: Installer | None = self._ports.slot if kind == ROOTFS else self._ports.payloads
        if found is None:
            raise InstallError(f"nothing here installs {kind}")
        return found

    def _ecus(self) -> SetInstaller:
        if self._ports.ecus is None:
            raise InstallError("no ECU is updated here")
        return self._ports.ecus

    def _boot(self) -> BootControl:
        if self._ports.boot is None:
            raise InstallError("there are no slots")
        return self._ports.boot

    async def _save(self, journal: Journal, *, must: bool = True) -> None:
        """Make a transition durable, then take it. Raises ``InstallError``: not taken, unless it ``must`` not wait."""
        if journal == self.journal:
            return
        try:
            await self._offload(partial(self._ports.record.save, journal))
        except InstallError as error:
            if must:
                raise
            log.error("update_journal_not_written", extra={"error": str(error)})
        if journal.stage is not self.journal.stage:
            log.info("update_stage", extra={"stage": journal.stage, "set": journal.set_index, "detail": journal.detail})
            self._left_ns = 0
            self._marks.clear()
        self.journal = journal

    def _wait(self, detail: str) -> float:
        if detail != self.waits_for:
            self.waits_for = detail
            self._reported_ns = 0
        return WATCH_S if self.journal.stage is Stage.TRIAL else WAIT_S

    def _later(self) -> float:
        pause_s = self._ports.backoff.failed()
        self._retry_ns = self._clock.monotonic_ns() + int(pause_s * 1e9)
        return pause_s

    def _progress(self, ecu: str, state: str, done: int, total: int) -> None:
        self._meter.move(self._clock.monotonic_ns(), done, total)
        self._marks[ecu] = EcuMark(state, 100.0 * done / total if total else 0.0)
        self._report()

    def _set_progress(self, ecu: str, state: str, done: int, total: int) -> None:
        self._progress(ecu, state, done, total)

    def _report(self, *, is_due: bool = False) -> None:
        """Tell the cloud: each change at once, progress now and then. Only updates of an assignment."""
        now_ns = self._clock.monotonic_ns()
        if not self.journal.update.assignment:
            return
        if not is_due and self._reported_ns and now_ns - self._reported_ns < self._ports.report_s * 1e9:
            return
        if not is_due and not self.journal.is_open and self._reported_ns:
            return
        self._reported_ns = now_ns
        self._ports.reporter.tell(self.report())

    def report(self) -> UpdateReport:
        """The update under way, or the last one, for people."""
        return report_of(
            self.journal,
            self._meter,
            self._marks,
            waits_for=self.waits_for,
            can_roll_back=self._can_roll_back,
            now_ns=self._clock.utc_ns(),
        )


def _is_there(image: InstalledImage | None, target: VerifiedTarget) -> bool:
    wanted = target.image.hashes
    if image is None or image.length != target.image.length or image.hashes.get("sha256") != wanted.get("sha256"):
        return False
    return all(wanted.get(name, value) == value for name, value in image.hashes.items())

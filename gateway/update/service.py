"""The updater as a component: looks for updates, lets the engine work, and tells the cloud what runs.

Two tasks share one engine. One goes through the standard's cycle: send the vehicle version manifest, verify what both
repositories say, tell the engine. It does so at the start, on a hint of the cloud, when a stick appears, when something
changed that the cloud has to know (also every failure), and from time to time. The other one lets the engine do step
after step. Everything comes in by the constructor; nothing here knows the network, UDS or the boot loader.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Protocol

import anyio
import anyio.lowlevel
import anyio.to_thread
import msgspec
from anyio.abc import TaskStatus

from gateway.errors import GatewayError, PeerError, TransportError
from gateway.link.backoff import Backoff
from gateway.runtime import Clock, ComponentHealth, HealthBoard
from gateway.update.engine import UpdateEngine
from gateway.update.fetchers import Fetchers
from gateway.update.journal import Stage
from gateway.update.model import AttackError
from gateway.update.plan import KnownEcu
from gateway.update.ports import Fetcher, Verifier
from gateway.wire.uptane import InstalledImage

log = logging.getLogger(__name__)

OFFLINE_LOOK_S = 10.0
#: While these last, what runs is not told: ECUs are being written, or what runs has yet to prove itself. A manifest on
#: trial would look like success to the Director, whatever comes of the trial.
_UNTOLD = (Stage.INSTALL, Stage.RESTORE, Stage.SWITCH, Stage.TRIAL, Stage.FALLBACK)


class ManifestPort(Protocol):
    """Builds, signs and sends the vehicle version manifest."""

    async def send(self, ecus: Mapping[str, InstalledImage | None], details: Mapping[str, str]) -> None:
        """Tell what runs; ``details`` are why installations failed, by ECU. Attacks are known to the builder.

        Args:
            ecus: by identifier; payloads under their names, too.
            details: as above.

        Raises:
            TransportError: not delivered; try again later.
            PeerError: the Director dropped it.
        """


class UpdateService:
    """A runtime ``Component``."""

    name, drain_s, optional = "update", 0.0, True

    def __init__(
        self,
        *,
        engine: UpdateEngine,
        verifier: Verifier,
        fetchers: Fetchers,
        manifests: ManifestPort,
        primary: str,
        known: Mapping[str, KnownEcu],
        backoff: Backoff,
        clock: Clock,
        health: HealthBoard,
        poll_s: float,
        on_attack: Callable[[AttackError], None] = lambda error: None,
    ) -> None:
        """Make the service.

        Args:
            engine: with ``fetchers`` as its fetcher.
            verifier: used by nobody else.
            fetchers: the cloud and a stick; offline updates are looked for when it has an ``offline``.
            manifests: where manifests go.
            primary: the gateway's own ECU identifier.
            known: as the engine's.
            backoff: between refreshes that fail.
            clock: for the status.
            health: ``update`` is registered there.
            poll_s: between cycles when nothing happens.
            on_attack: notes an attack on the Primary for the next manifest.
        """
        self.engine, self._verifier, self._fetchers, self._manifests = engine, verifier, fetchers, manifests
        self._primary, self._known = primary, known
        self._backoff, self._clock, self._health, self._poll_s = backoff, clock, health, poll_s
        self._on_attack = on_attack
        self._due, self._work = anyio.Event(), anyio.Event()
        self._mark = ""
        self._last: dict[str, object] = {}
        self.has_answered = False
        self._stick: Fetcher | None = None

    # what others may do

    def hint(self, mark: str) -> None:
        """The cloud's ``update_mark``: another one means that there is something new."""
        if mark and mark != self._mark:
            self._mark = mark
            self._due.set()

    def look_now(self) -> None:
        """A person wants to know now."""
        self._due.set()

    async def give_consent(self, assignment: str, by: str) -> None:
        """See ``UpdateEngine.give_consent``."""
        await self.engine.give_consent(assignment, by)
        self._work.set()

    def cancel(self) -> None:
        """See ``UpdateEngine.cancel``."""
        self.engine.cancel()
        self._work.set()

    async def answers(self) -> bool:
        """Whether the update service has answered since the start: a health check. Asks at once when it has not."""
        if not self.has_answered:
            self._due.set()
        return self.has_answered

    def statistics(self) -> dict[str, object]:
        """For the status socket."""
        journal = self.engine.journal
        return {
            "stage": str(journal.stage),
            "release": journal.update.release,
            "campaign": journal.update.campaign,
            "report": msgspec.to_builtins(self.engine.report()),
            "waits_for": self.engine.waits_for,
            "needs_consent": journal.update.policy.needs_consent,
            "slot": journal.trial.new_slot,
            "manifest_due": not journal.is_told,
            **self._last,
        }

    # the component

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Work until cancelled. What was under way goes on at the next start."""
        self._health.register(self.name, self._clock.monotonic_ns(), limit_s=None)
        known = await anyio.to_thread.run_sync(self._verifier.known)
        if known is not None:
            self.engine.want(known)
        async with anyio.create_task_group() as tg:
            tg.start_soon(self._look)
            task_status.started()
            await self._step()

    async def _step(self) -> None:
        while True:
            self._work = anyio.Event()
            was_told = self.engine.journal.is_told
            pause_s = await self.engine.step()
            if was_told and not self.engine.journal.is_told:
                self._due.set()
            if pause_s:
                with anyio.move_on_after(pause_s):
                    await self._work.wait()
            else:
                await anyio.lowlevel.checkpoint()

    async def _look(self) -> None:
        pause_s = 0.0
        while True:
            await self._wait(pause_s)
            self._due = anyio.Event()
            pause_s = await self._cycle()

    async def _wait(self, pause_s: float) -> None:
        """Until something is due. A hint ends the wait for the next poll, not a back-off after a failure."""
        if self._backoff.failures:
            await anyio.sleep(pause_s)
            return
        left_s = pause_s
        while left_s > 0:
            slice_s = min(left_s, OFFLINE_LOOK_S)
            with anyio.move_on_after(slice_s):
                await self._due.wait()
                return
            left_s -= slice_s
            if self._has_new_stick():
                return

    def _has_new_stick(self) -> bool:
        stick = self._fetchers.offline()
        is_new = stick is not None and self._stick is None
        if stick is None:
            self._stick = None
        return is_new

    async def _cycle(self) -> float:
        """Once through the standard's steps; seconds until the next time."""
        try:
            if (stick := self._fetchers.offline()) is not None and self._stick is None:
                self._stick = stick
                await self._refresh(stick, "stick")
            if self._fetchers.online is not None:
                await self._tell()
                await self._refresh(self._fetchers.online, "cloud")
        except AttackError as error:
            log.error("update_attack", extra={"attack": error.attack, "rule": error.rule, "error": error.message})
            self._on_attack(error)
            self._note(error)
            await self._tell_anyway()
            return self._backoff.failed()
        except GatewayError as error:
            self._note(error)
            return self._backoff.failed(30.0 if isinstance(error, PeerError) else 0.0)
        self._backoff.succeeded()
        self._health.report(self.name, ComponentHealth.OK)
        self._last.pop("error", None)
        return self._poll_s

    def _note(self, error: GatewayError) -> None:
        self._last["error"] = str(error)
        if self._health.report(self.name, ComponentHealth.DEGRADED, str(error)):
            log.warning("update_refresh_failed", extra={"error": str(error)})

    async def _refresh(self, fetcher: Fetcher, source: str) -> None:
        update = await self._verifier.refresh(fetcher)
        self.has_answered = self.has_answered or source == "cloud"
        self._last |= {"verified_ns": self._clock.utc_ns(), "verified_from": source, "version": update.director_version}
        self.engine.want(update)
        self._work.set()

    async def _tell(self) -> None:
        """The manifest. One that the Director drops does not keep us from looking for what would mend it (F13)."""
        journal = self.engine.journal
        if journal.stage in _UNTOLD:
            return
        details = {}
        if journal.end not in ("", "succeeded") and not journal.is_told:
            failed = journal.failed_ecu if journal.failed_ecu in self._known else self._primary
            details[failed] = f"{journal.end}: {journal.detail}"
        try:
            await self._manifests.send(await self.engine.installed(), details)
        except PeerError as error:
            log.error("update_manifest_dropped", extra={"error": str(error)})
            self._last["manifest_error"] = str(error)
            return
        self._last["manifest_ns"] = self._clock.utc_ns()
        self._last.pop("manifest_error", None)
        if journal is self.engine.journal:
            await self.engine.told()

    async def _tell_anyway(self) -> None:
        """After an attack: the cloud is to hear of it, if it still can (V8, N9)."""
        try:
            await self._tell()
        except (TransportError, PeerError) as error:
            log.info("update_manifest_later", extra={"error": str(error)})

"""``UptaneVerifier``: the ``Verifier`` port over the verifying core. Steps run in a worker thread."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, cast

import anyio
from anyio import to_thread

from bootctl.files import Files, RealFiles
from gateway.errors import ConfigError, GatewayError, TransportError
from gateway.runtime.clock import Clock, SystemClock
from gateway.update.model import AttackError, VerifiedUpdate
from gateway.update.ports import Fetcher, TimeSource
from gateway.uptane.core import Core
from gateway.uptane.lock import DirectoryLock
from gateway.uptane.partial import PartialBundle
from gateway.uptane.steps import Answer, AskTime, Step, Steps
from gateway.uptane.time import SecureTime

log = logging.getLogger(__name__)


class Lock(Protocol):
    """One verifier per directory."""

    def acquire(self) -> None:
        """Take it; having it is fine. Raises ``NotNowError``: another verifier has it."""

    def release(self) -> None:
        """Give it back; not having it is fine."""


class UptaneVerifier:
    """Uptane's full verification for a Primary. Safe to use from several tasks; ``close`` it at the end."""

    def __init__(
        self,
        *,
        vehicle: str,
        ecus: Mapping[str, str],
        primary: str,
        directory: Path,
        director_root: bytes,
        image_root: bytes,
        files: Files | None = None,
        clock: Clock | None = None,
        time_source: TimeSource | None = None,
        build_time_ns: int = 0,
        time_max_age_ns: int = 7 * 86_400_000_000_000,
        lock: Lock | None = None,
    ) -> None:
        """Takes the lock of ``directory`` and reads what is in it.

        Args:
            vehicle: the identifier that the Director's Targets must name.
            ecus: hardware id by identifier, of all ECUs that may be given images, ``primary`` and payloads included.
            primary: which of them this is.
            directory: for metadata, floor and lock; it must keep what is synced over a power cut.
            director_root: the Director's Root of the read-only image, where trust begins.
            image_root: the Image repository's.
            files: where ``directory`` is; the machine's by default.
            clock: the machine's by default.
            time_source: who attests the time; a fetcher that is one, too, is asked where this is None.
            build_time_ns: UTC; time is never taken to be before it. Best the newest file date of the image.
            time_max_age_ns: see ``SecureTime``.
            lock: ``directory / "lock"`` by default; none where ``files`` is no real file system.

        Raises:
            ConfigError: ``primary`` is none of ``ecus``, or a root is none.
            NotNowError: another verifier has the directory.
            TransportError: the disk does not answer.
        """
        if primary not in ecus:
            raise ConfigError(f"the Primary {primary!r} is none of the vehicle's ECUs")
        self._files = files or RealFiles()
        self._time_source = time_source
        self._lock = lock or (DirectoryLock(directory / "lock") if isinstance(self._files, RealFiles) else None)
        if self._lock is not None:
            self._lock.acquire()
        self._turn = anyio.Lock()
        self._time = SecureTime(clock or SystemClock(), build_time_ns=build_time_ns, max_age_ns=time_max_age_ns)
        try:
            self._core = Core(
                vehicle=vehicle,
                ecus=ecus,
                directory=directory,
                director_root=director_root,
                image_root=image_root,
                files=self._files,
                time=self._time,
            )
        except BaseException:
            self.close()
            raise
        self._last_attack: AttackError | None = None
        self._refreshes = self._refused = 0

    def close(self) -> None:
        """Give the directory back; nothing else may be called afterwards."""
        if self._lock is not None:
            self._lock.release()

    async def refresh(self, fetcher: Fetcher) -> VerifiedUpdate:
        """See ``gateway.update.ports.Verifier``. Cancelled, it leaves what a power cut would leave."""
        async with self._turn:
            self._refreshes += 1
            try:
                update = await self._run(self._core.refresh(), fetcher)
            except AttackError as error:
                self._refused += 1
                self._last_attack = error
                log.warning(
                    "uptane_refused", extra={"attack": error.attack, "rule": error.rule, "reason": error.message}
                )
                raise
            except OSError as error:
                raise TransportError(f"trusted metadata: {error}") from error
            self._last_attack = None
            return update

    async def _run(self, steps: Steps[VerifiedUpdate], fetcher: Fetcher) -> VerifiedUpdate:
        """Answer the core's questions until it is done."""
        answer: Answer = None
        failure: GatewayError | None = None
        try:
            while True:
                step = await to_thread.run_sync(_next, steps, answer, failure)
                if isinstance(step, _Done):
                    return step.update
                answer, failure = None, None
                try:
                    answer = await self._answer(step, fetcher)
                except GatewayError as error:
                    failure = error
        finally:
            with suppress(GatewayError, OSError):
                steps.close()

    async def _answer(self, step: Step, fetcher: Fetcher) -> Answer:
        if isinstance(step, AskTime):
            source = self._time_source
            if source is None and hasattr(fetcher, "attested_time"):
                source = cast(TimeSource, fetcher)
            return None if source is None else await source.attested_time(step.request)
        return await fetcher.metadata(step.repository, step.name, step.max_bytes)

    def known(self) -> VerifiedUpdate | None:
        """See ``gateway.update.ports.Verifier``."""
        return self._core.known()

    def raise_counters(self, counters: Mapping[str, int]) -> None:
        """From now on each ECU takes no image with a lower release counter; call it once what runs is good.

        Also to be called at every start with what runs: it brings back counters that a damaged floor has lost. Never
        lowers one. Blocking and short (a few syncs).

        Args:
            counters: release counter by ECU.

        Raises:
            ValueError: a counter is negative or too big.
            TransportError: the disk refused; try again.
        """
        self._core.floor.raise_counters(dict(counters))

    def counter(self, ecu: str) -> int:
        """The lowest release counter that an ECU still accepts."""
        return self._core.floor.record.counters.get(ecu, 0)

    def now_ns(self) -> int:
        """The best known time, for reports and windows."""
        return self._time.now_ns(self._core.floor.record)

    def attested_ns(self) -> int:
        """The highest time the Director has ever attested (UTC), 0 for none."""
        return self._core.floor.record.time_ns

    def partial_bundle(self) -> PartialBundle | None:
        """What a Secondary with partial verification needs (V6); None before the first refresh."""
        return self._core.partial_bundle()

    def statistics(self) -> dict[str, Any]:
        """For the status: what is trusted, and what was refused last."""
        record = self._core.floor.record
        last = self._last_attack
        return {
            "refreshes": self._refreshes,
            "refused": self._refused,
            "attack": last.attack if last else "",
            "rule": last.rule if last else "",
            "reason": last.message if last else "",
            "time_is_attested": self._time.is_attested,
            "attested_ns": record.time_ns,
            "floor_was_rebuilt": self._core.was_rebuilt,
            "release_counters": dict(record.counters),
            "versions": {
                name: {role: mark.version for role, mark in record.marks_of(name).marks.items()}
                for name in ("director", "image")
            },
        }


class _Done:
    """The core has finished."""

    def __init__(self, update: VerifiedUpdate) -> None:
        self.update = update


def _next(steps: Steps[VerifiedUpdate], answer: Answer, failure: GatewayError | None) -> Step | _Done:
    """One step, in a worker thread."""
    try:
        return steps.throw(failure) if failure is not None else steps.send(answer)
    except StopIteration as done:
        return _Done(done.value)

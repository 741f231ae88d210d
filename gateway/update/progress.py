"""How fast it goes and how long it will take, and the report made of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import msgspec

from gateway.update.journal import Journal, Stage
from gateway.update.model import VerifiedTarget
from gateway.update.plan import Step
from gateway.wire.uptane import EcuProgress, UpdateReport

WINDOW_NS = 30_000_000_000
MAX_DETAIL_CHARS = 1000

_STATES = {
    Stage.DOWNLOAD: "downloading",
    Stage.READY: "downloaded",
    Stage.INSTALL: "installing",
    Stage.SWITCH: "rebooting",
    Stage.TRIAL: "verifying",
    Stage.CONFIRM: "verifying",
    Stage.FALLBACK: "rebooting",
    Stage.RESTORE: "installing",
}
#: Stages in which missing something is worth the state "waiting".
_WAITING = (Stage.DOWNLOAD, Stage.READY, Stage.INSTALL)


class Meter:
    """Bytes of the step under way: done, in all, per second over the last half minute. Times are monotonic."""

    def __init__(self) -> None:
        self.done_bytes = self.total_bytes = 0
        self._seen: deque[tuple[int, int]] = deque()

    def begin(self, total_bytes: int) -> None:
        """Another step."""
        self.done_bytes, self.total_bytes = 0, total_bytes
        self._seen.clear()

    def move(self, now_ns: int, done_bytes: int, total_bytes: int) -> None:
        """So much is done now. What was there before the first call is not speed."""
        self.done_bytes, self.total_bytes = done_bytes, total_bytes
        if self._seen and done_bytes < self._seen[-1][1]:
            self._seen.clear()
        self._seen.append((now_ns, done_bytes))
        while len(self._seen) > 2 and now_ns - self._seen[0][0] > WINDOW_NS:
            self._seen.popleft()

    @property
    def bytes_per_s(self) -> float:
        """0 until it can be told."""
        if len(self._seen) < 2 or self._seen[-1][0] <= self._seen[0][0]:
            return 0.0
        (first_ns, first), (last_ns, last) = self._seen[0], self._seen[-1]
        return (last - first) * 1e9 / (last_ns - first_ns)

    @property
    def eta_s(self) -> float | None:
        """Of this step; None: nobody knows."""
        speed = self.bytes_per_s
        return (self.total_bytes - self.done_bytes) / speed if speed > 0 else None


class EcuMark(msgspec.Struct, frozen=True):
    """What was told of one ECU during the step under way."""

    state: str
    percent: float


def report_of(
    journal: Journal, meter: Meter, marks: Mapping[str, EcuMark], *, waits_for: str, can_roll_back: bool, now_ns: int
) -> UpdateReport:
    """What people see of an update."""
    state = journal.end if journal.stage is Stage.ENDED else _STATES.get(journal.stage, "waiting")
    if waits_for and journal.stage in _WAITING:
        state = "waiting"
    detail = "; ".join(text for text in (waits_for, journal.detail) if text)
    steps = journal.all_steps if journal.stage is Stage.DOWNLOAD else journal.steps
    return UpdateReport(
        assignment=journal.update.assignment,
        state=state,
        at_ns=now_ns,
        percent=100.0 if journal.stage is Stage.ENDED else _percent(journal, meter),
        bytes_done=meter.done_bytes,
        bytes_total=meter.total_bytes,
        bytes_per_s=meter.bytes_per_s,
        eta_s=meter.eta_s,
        detail=detail[:MAX_DETAIL_CHARS],
        attack=journal.attack,
        ecus=tuple(_of_ecu(journal, marks, step, target) for step in steps for target in step.targets),
        can_roll_back=can_roll_back,
        used_delta=journal.used_delta,
    )


def _percent(journal: Journal, meter: Meter) -> float:
    """Of downloading, or of the steps of the present set, by the length of images."""
    steps = journal.all_steps if journal.stage is Stage.DOWNLOAD else journal.steps
    if journal.stage not in (Stage.DOWNLOAD, Stage.INSTALL):
        return 0.0 if journal.stage in (Stage.READY, Stage.IDLE) else 100.0
    lengths = {step.name: sum(t.image.length for t in step.targets) for step in steps}
    total = sum(lengths.values())
    done = sum(length for name, length in lengths.items() if name in journal.done)
    running = next((length for name, length in lengths.items() if name not in journal.done), 0)
    share = meter.done_bytes / meter.total_bytes if meter.total_bytes else 0.0
    return min(100.0, 100.0 * (done + running * share) / total) if total else 0.0


def _of_ecu(journal: Journal, marks: Mapping[str, EcuMark], step: Step, target: VerifiedTarget) -> EcuProgress:
    ecu, version = target.ecu, target.must_match.version
    if journal.failed_ecu == ecu:
        return EcuProgress(ecu=ecu, state="failed", version=version)
    is_done = step.name in journal.done and journal.stage is not Stage.DOWNLOAD
    if is_done or (journal.stage is Stage.ENDED and journal.end == "succeeded"):
        return EcuProgress(ecu=ecu, state="installed", version=version, percent=100.0)
    mark = marks.get(ecu, EcuMark("pending", 0.0))
    return EcuProgress(ecu=ecu, state=mark.state, version=version, percent=mark.percent)

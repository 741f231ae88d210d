"""What an operator asks of a campaign: which vehicles, how fast, and when it must stop. Checked here, for form only."""

from __future__ import annotations

import math

import msgspec

from cloud.diagnostics.selection import Selection, check_selection
from cloud.errors import InvalidInput
from gateway.wire.uptane import InstallPolicy

STRATEGIES = ("immediate", "phased", "manual")
CRITICAL = ("exclude", "last")
ON_FAILURE = ("pause", "roll_back")
MAX_PHASES, MAX_CHOICES, MAX_NAME_CHARS, MAX_NOTES_CHARS = 20, 100, 100, 4000
MAX_RETRIES, MAX_PRIORITY = 5, 1000
MAX_S, MAX_DAYS, MAX_NS = 400 * 86_400, 4000.0, 1 << 62
DAY_S = 86_400


class VehicleFilter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Filters that must all hold; "" and empty mean any. Where several values are given, any of them will do."""

    vehicles: tuple[str, ...] = ()  # these
    search: str = ""  # part of id or display name
    tag: str = ""
    without_tags: tuple[str, ...] = ()  # vehicles that have none of these
    model: tuple[str, ...] = ()
    region: tuple[str, ...] = ()
    usage: tuple[str, ...] = ()
    software: str = ""  # as checked in; a trailing * stands for any ending
    image: str = ""  # version that some ECU runs; a trailing * stands for any ending
    hardware_id: str = ""  # of some ECU
    fault: str = ""  # has this code now, e.g. P0AA6 or P0AA6-16

    @property
    def is_everyone(self) -> bool:
        """Whether no filter is set."""
        return self == VehicleFilter()

    def plain(self) -> Selection:
        """The part that the selection of diagnostic jobs knows, too."""
        return Selection(
            vehicles=self.vehicles, search=self.search, tag=self.tag, software=self.software, fault=self.fault
        )


class PhasePlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A phase: up to where it goes, and what must be seen before the next one.

    It is passed when it has lasted ``min_duration_s``, at least ``min_reported`` vehicles and ``reported_share`` of the
    counted ones have reported after their boot, and ``success_rate`` of those run the new images. It fails when
    ``failure_count`` vehicles have failed, or ``failure_rate`` of the reported ones and at least ``failure_min``.
    """

    share: float | None = None  # of all vehicles of the campaign, earlier phases included
    vehicles: int | None = None  # or a number of vehicles, earlier phases included
    min_duration_s: int = DAY_S
    min_reported: int = 1
    reported_share: float = 0.8
    success_rate: float = 0.95
    failure_rate: float = 0.05
    failure_min: int = 3
    failure_count: int | None = None


class DtcGate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """New confirmed trouble codes of the updated vehicles, against those of the vehicles not yet updated.

    It trips when at least ``min_vehicles`` and ``rate`` of the updated vehicles have a code that was first seen after
    their update, and that happens ``factor`` times as often, per vehicle and day, as among the others. Where fewer than
    ``min_others`` others are left, the updated ones are compared with themselves before the campaign.
    """

    min_vehicles: int = 3
    rate: float = 0.02
    factor: float = 3.0
    min_others: int = 20


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A campaign as asked for. Times are UTC ns."""

    name: str
    release: int
    filter: VehicleFilter = VehicleFilter()
    everyone: bool = False  # an empty filter is the whole fleet, and that must be said
    critical: str = "exclude"  # critical vehicles: "exclude" or "last"
    notes: str = ""
    strategy: str = "phased"
    phases: tuple[PhasePlan, ...] = ()  # none: those of the strategy
    dtc_gate: DtcGate | None = DtcGate()
    on_failure: str = "pause"  # or "roll_back": withdraw the release, too, and go back
    offline_days: float = 14.0  # vehicles not heard from for longer count for no threshold
    vehicle_timeout_s: int = 7 * DAY_S  # one that has begun and is silent for so long has failed
    retries: int = 1  # further attempts for vehicles that failed without changing anything; after the last phase
    late_joiners: bool = False  # vehicles enrolled later that match join the last phase
    open_until_ns: int = 0  # it does not end before, so that vehicles can join
    priority: int = 0  # takes vehicles that wait for a campaign of lower priority
    starts_ns: int = 0  # not before
    rollback_release: int | None = None  # None: for each vehicle the release it came from
    seed: int | None = None  # of the draw; None: one is made
    policy: InstallPolicy = InstallPolicy()


def default_phases(strategy: str) -> tuple[PhasePlan, ...]:
    """1 → 10 → 50 → 100 %, or all at once."""
    if strategy == "immediate":
        return (PhasePlan(share=1.0, min_duration_s=0),)
    return tuple(PhasePlan(share=share) for share in (0.01, 0.1, 0.5, 1.0))


def phases_of(plan: Plan) -> tuple[PhasePlan, ...]:
    """The phases, given or default."""
    return plan.phases or default_phases(plan.strategy)


def last_positions(phases: tuple[PhasePlan, ...], total: int) -> list[int]:
    """The position of the last vehicle of each phase, when ``total`` vehicles are drawn. Shares round up."""
    last, positions = 0, []
    for phase in phases:
        wanted = phase.vehicles if phase.vehicles is not None else math.ceil(round((phase.share or 0.0) * total, 6))
        last = max(last, min(wanted, total))
        positions.append(last)
    if positions:
        positions[-1] = total
    return positions


def check_plan(plan: Plan) -> None:
    """Raises ``InvalidInput``, with the field, for what cannot be meant."""
    if not 1 <= len(plan.name.strip()) <= MAX_NAME_CHARS or not plan.name.isprintable():
        raise InvalidInput(f"1 to {MAX_NAME_CHARS} printable characters", where="name")
    if len(plan.notes) > MAX_NOTES_CHARS:
        raise InvalidInput(f"at most {MAX_NOTES_CHARS} characters", where="notes")
    _one_of(plan.strategy, STRATEGIES, "strategy")
    _one_of(plan.critical, CRITICAL, "critical")
    _one_of(plan.on_failure, ON_FAILURE, "on_failure")
    _check_filter(plan)
    _check_phases(plan)
    if plan.dtc_gate is not None:
        _between(plan.dtc_gate.min_vehicles, 1, 1 << 31, "dtc_gate.min_vehicles")
        _between(plan.dtc_gate.rate, 0.0, 1.0, "dtc_gate.rate")
        _between(plan.dtc_gate.factor, 1.0, 1e6, "dtc_gate.factor")
        _between(plan.dtc_gate.min_others, 1, 1 << 31, "dtc_gate.min_others")
    _between(plan.offline_days, 0.01, MAX_DAYS, "offline_days")
    _between(plan.vehicle_timeout_s, 60, MAX_S, "vehicle_timeout_s")
    _between(plan.retries, 0, MAX_RETRIES, "retries")
    _between(plan.priority, -MAX_PRIORITY, MAX_PRIORITY, "priority")
    _between(plan.release, 1, MAX_NS, "release")
    _between(plan.rollback_release or 1, 1, MAX_NS, "rollback_release")
    _between(plan.seed or 0, 0, (1 << 53) - 1, "seed")
    for name in ("starts_ns", "open_until_ns"):
        _between(getattr(plan, name), 0, MAX_NS, name)
    _check_policy(plan.policy)


def _check_filter(plan: Plan) -> None:
    if plan.filter.is_everyone and not plan.everyone:
        raise InvalidInput("an empty filter is the whole fleet; say so with everyone", where="filter")
    check_selection(plan.filter.plain())
    for name in ("without_tags", "model", "region", "usage"):
        choices = getattr(plan.filter, name)
        if len(choices) > MAX_CHOICES or any(len(choice) > 200 for choice in choices):
            raise InvalidInput(f"at most {MAX_CHOICES} values of at most 200 characters", where=f"filter.{name}")
    for name in ("image", "hardware_id"):
        if len(getattr(plan.filter, name)) > 200:
            raise InvalidInput("at most 200 characters", where=f"filter.{name}")


def _check_phases(plan: Plan) -> None:
    phases = phases_of(plan)
    _between(len(phases), 1, MAX_PHASES, "phases")
    if plan.strategy == "immediate" and len(phases) != 1:
        raise InvalidInput("an immediate campaign has one phase", where="phases")
    share, count = 0.0, 0
    for i, phase in enumerate(phases):
        where = f"phases[{i}]"
        if (phase.share is None) == (phase.vehicles is None):
            raise InvalidInput("either a share or a number of vehicles", where=where)
        if phase.share is not None:
            _between(phase.share, 1e-6, 1.0, f"{where}.share")
            if phase.share <= share:
                raise InvalidInput("each phase goes further than the one before", where=f"{where}.share")
            share = phase.share
        if phase.vehicles is not None:
            _between(phase.vehicles, 1, 1 << 31, f"{where}.vehicles")
            if phase.vehicles <= count:
                raise InvalidInput("each phase goes further than the one before", where=f"{where}.vehicles")
            count = phase.vehicles
        _check_gates(phase, where)
    if phases[-1].share != 1.0:
        raise InvalidInput("the last phase reaches everybody: share 1", where=f"phases[{len(phases) - 1}].share")


def _check_gates(phase: PhasePlan, where: str) -> None:
    _between(phase.min_duration_s, 0, MAX_S, f"{where}.min_duration_s")
    _between(phase.min_reported, 1, 1 << 31, f"{where}.min_reported")
    for name in ("reported_share", "success_rate"):
        _between(getattr(phase, name), 0.0, 1.0, f"{where}.{name}")
    _between(phase.failure_rate, 1e-6, 1.0, f"{where}.failure_rate")
    _between(phase.failure_min, 1, 1 << 31, f"{where}.failure_min")
    _between(phase.failure_count or 1, 1, 1 << 31, f"{where}.failure_count")
    if phase.failure_count == 0:
        raise InvalidInput("at least 1", where=f"{where}.failure_count")


def _check_policy(policy: InstallPolicy) -> None:
    window = (policy.window_start_min, policy.window_end_min)
    if (window[0] is None) != (window[1] is None):
        raise InvalidInput("a window has a start and an end", where="policy.window_start_min")
    for value in window:
        _between(value or 0, 0, 24 * 60 - 1, "policy.window_start_min")
    if window[0] is not None and window[0] == window[1]:
        raise InvalidInput("a window of no length", where="policy.window_end_min")
    if len(policy.window_days) > 7 or any(not 0 <= day <= 6 for day in policy.window_days):
        raise InvalidInput("days are 0 (Monday) to 6 (Sunday)", where="policy.window_days")
    for name in ("not_before_ns", "deadline_ns"):
        _between(getattr(policy, name), 0, MAX_NS, f"policy.{name}")
    if policy.deadline_ns and policy.deadline_ns <= policy.not_before_ns:
        raise InvalidInput("the deadline is before the begin", where="policy.deadline_ns")


def _one_of(value: str, choices: tuple[str, ...], where: str) -> None:
    if value not in choices:
        raise InvalidInput(f"one of {', '.join(choices)}", where=where)


def _between(value: float, low: float, high: float, where: str) -> None:
    if not math.isfinite(value) or not low <= value <= high:
        raise InvalidInput(f"from {low:g} to {high:g}", where=where)

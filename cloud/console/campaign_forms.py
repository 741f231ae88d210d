"""The form of a campaign: a plan as text fields, and back. No HTTP, no HTML."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

from cloud.campaigns.plan import DtcGate, PhasePlan, Plan, VehicleFilter, phases_of
from cloud.errors import InvalidInput
from gateway.wire.uptane import InstallPolicy

PHASE_ROWS = 8
HOUR_S = 3600
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_LISTS = ("vehicles", "without_tags", "model", "region", "usage")
_WORDS = ("search", "tag", "software", "image", "hardware_id", "fault")
Form = dict[str, str]


def empty_form() -> Form:
    """The fields of a new campaign: the defaults of a plan."""
    form = form_of(Plan(name="", release=0))
    return form | {"release": ""}


def read_plan(form: Form) -> Plan:
    """The plan that a form describes; ``check_plan`` has yet to see it.

    Raises:
        InvalidInput: a field that cannot be read, by its name.
    """
    strategy = form.get("strategy", "phased")
    return Plan(
        name=form.get("name", "").strip(),
        release=_whole(form, "release", 0),
        filter=_read_filter(form),
        everyone=form.get("everyone") == "yes",
        critical=form.get("critical", "exclude"),
        notes=form.get("notes", "").strip(),
        strategy=strategy,
        phases=() if strategy == "immediate" else _read_phases(form),
        dtc_gate=_read_dtc(form),
        on_failure=form.get("on_failure", "pause"),
        offline_days=_real(form, "offline_days", 14.0),
        vehicle_timeout_s=round(_real(form, "timeout_h", 168.0) * HOUR_S),
        retries=_whole(form, "retries", 0),
        late_joiners=form.get("late_joiners") == "yes",
        open_until_ns=_moment(form, "open_until"),
        priority=_whole(form, "priority", 0),
        starts_ns=_moment(form, "starts"),
        rollback_release=_whole(form, "rollback_release", 0) or None,
        seed=_whole(form, "seed", -1) if form.get("seed", "").strip() else None,
        policy=InstallPolicy(
            needs_consent=form.get("needs_consent") == "yes",
            is_critical=form.get("is_critical") == "yes",
            window_start_min=_minutes(form, "window_start"),
            window_end_min=_minutes(form, "window_end"),
            window_days=tuple(day for day in range(7) if form.get(f"day{day}") == "yes"),
            not_before_ns=_moment(form, "not_before"),
            deadline_ns=_moment(form, "deadline"),
        ),
    )


def form_of(plan: Plan) -> Form:
    """The fields that give this plan."""
    policy, gate = plan.policy, plan.dtc_gate or DtcGate()
    form = {
        "name": plan.name,
        "release": str(plan.release),
        "notes": plan.notes,
        "everyone": _tick(plan.everyone),
        "critical": plan.critical,
        "strategy": plan.strategy,
        "dtc": _tick(plan.dtc_gate is not None),
        "dtc_min_vehicles": str(gate.min_vehicles),
        "dtc_rate": _percent(gate.rate),
        "dtc_factor": f"{gate.factor:.12g}",
        "dtc_min_others": str(gate.min_others),
        "on_failure": plan.on_failure,
        "offline_days": f"{plan.offline_days:.12g}",
        "timeout_h": f"{plan.vehicle_timeout_s / HOUR_S:.12g}",
        "retries": str(plan.retries),
        "late_joiners": _tick(plan.late_joiners),
        "open_until": _field_of(plan.open_until_ns),
        "priority": str(plan.priority),
        "starts": _field_of(plan.starts_ns),
        "rollback_release": str(plan.rollback_release or ""),
        "seed": "" if plan.seed is None else str(plan.seed),
        "needs_consent": _tick(policy.needs_consent),
        "is_critical": _tick(policy.is_critical),
        "window_start": _clock_of(policy.window_start_min),
        "window_end": _clock_of(policy.window_end_min),
        "not_before": _field_of(policy.not_before_ns),
        "deadline": _field_of(policy.deadline_ns),
    }
    form |= {f"day{day}": _tick(day in policy.window_days) for day in range(7)}
    form |= {name: ", ".join(getattr(plan.filter, name)) for name in _LISTS}
    form |= {name: getattr(plan.filter, name) for name in _WORDS}
    # An immediate plan leaves the table alone: should it become a phased one, the usual phases are there.
    shown = phases_of(plan) if plan.strategy != "immediate" else phases_of(Plan(name="", release=0))
    for number, phase in enumerate(shown, 1):
        form |= _phase_fields(f"p{number}_", phase)
    return form


def rows_of(form: Form) -> int:
    """Rows of phases a form needs, with two to spare."""
    used = [n for n in range(1, 21) if form.get(f"p{n}_to", "").strip()]
    return min(20, max([*used, PHASE_ROWS - 4]) + 2)


def _phase_fields(key: str, phase: PhasePlan) -> Form:
    return {
        f"{key}to": str(phase.vehicles) if phase.share is None else _percent(phase.share),
        f"{key}unit": "vehicles" if phase.share is None else "percent",
        f"{key}hours": f"{phase.min_duration_s / HOUR_S:.12g}",
        f"{key}min_reported": str(phase.min_reported),
        f"{key}reported": _percent(phase.reported_share),
        f"{key}success": _percent(phase.success_rate),
        f"{key}failure": _percent(phase.failure_rate),
        f"{key}failure_min": str(phase.failure_min),
        f"{key}failure_count": "" if phase.failure_count is None else str(phase.failure_count),
    }


def _read_phases(form: Form) -> tuple[PhasePlan, ...]:
    phases = []
    for number in range(1, 21):
        key = f"p{number}_"
        if not form.get(f"{key}to", "").strip():
            continue
        in_vehicles = form.get(f"{key}unit") == "vehicles"
        usual = PhasePlan(share=1.0)
        count = form.get(f"{key}failure_count", "").strip()
        phases.append(
            PhasePlan(
                share=None if in_vehicles else _share(form, f"{key}to", 1.0),
                vehicles=_whole(form, f"{key}to", 0) if in_vehicles else None,
                min_duration_s=round(_real(form, f"{key}hours", 24.0) * HOUR_S),
                min_reported=_whole(form, f"{key}min_reported", usual.min_reported),
                reported_share=_share(form, f"{key}reported", usual.reported_share),
                success_rate=_share(form, f"{key}success", usual.success_rate),
                failure_rate=_share(form, f"{key}failure", usual.failure_rate),
                failure_min=_whole(form, f"{key}failure_min", usual.failure_min),
                failure_count=_whole(form, f"{key}failure_count", 0) if count else None,
            )
        )
    return tuple(phases)


def _read_dtc(form: Form) -> DtcGate | None:
    if form.get("dtc") != "yes":
        return None
    usual = DtcGate()
    return DtcGate(
        min_vehicles=_whole(form, "dtc_min_vehicles", usual.min_vehicles),
        rate=_share(form, "dtc_rate", usual.rate),
        factor=_real(form, "dtc_factor", usual.factor),
        min_others=_whole(form, "dtc_min_others", usual.min_others),
    )


def _read_filter(form: Form) -> VehicleFilter:
    vehicles, *rest = (_choices(form.get(name, ""), r"[\s,;]+" if name == "vehicles" else r"[,;]") for name in _LISTS)
    without_tags, model, region, usage = rest
    search, tag, software, image, hardware_id, fault = (form.get(name, "").strip() for name in _WORDS)
    return VehicleFilter(
        vehicles=vehicles,
        without_tags=without_tags,
        model=model,
        region=region,
        usage=usage,
        search=search,
        tag=tag,
        software=software,
        image=image,
        hardware_id=hardware_id,
        fault=fault,
    )


def _choices(text: str, between: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in re.split(between, text) if part.strip())


def _tick(value: bool) -> str:
    return "yes" if value else ""


def _percent(share: float) -> str:
    return f"{share * 100:.10g}"


def _whole(form: Form, name: str, usual: int) -> int:
    text = form.get(name, "").strip()
    if not text:
        return usual
    if not re.fullmatch(r"-?[0-9]{1,16}", text):
        raise InvalidInput("a whole number", where=name)
    return int(text)


def _real(form: Form, name: str, usual: float) -> float:
    text = form.get(name, "").strip().replace(",", ".")
    if not text:
        return usual
    try:
        value = float(text)
    except ValueError:
        raise InvalidInput("a number", where=name) from None
    if not math.isfinite(value) or abs(value) > 1e12:
        raise InvalidInput("a number", where=name)
    return value


def _share(form: Form, name: str, usual: float) -> float:
    return round(_real({name: form.get(name, "").replace("%", "")}, name, usual * 100) / 100, 12)


def _moment(form: Form, name: str) -> int:
    """A date and time in UTC, as ``datetime-local`` fields give it."""
    text = form.get(name, "").strip()
    if not text:
        return 0
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput("a date and time, e.g. 2030-01-31T06:00", where=name) from None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return int(moment.timestamp()) * 1_000_000_000


def _field_of(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M") if time_ns else ""


def _minutes(form: Form, name: str) -> int | None:
    text = form.get(name, "").strip()
    if not text:
        return None
    found = re.fullmatch(r"([01]?[0-9]|2[0-3]):([0-5][0-9])", text)
    if found is None:
        raise InvalidInput("a time of day, e.g. 22:30", where=name)
    return int(found[1]) * 60 + int(found[2])


def _clock_of(minutes: int | None) -> str:
    return "" if minutes is None else f"{minutes // 60:02}:{minutes % 60:02}"

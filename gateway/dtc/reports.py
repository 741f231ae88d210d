"""From the fault memory to what the cloud and the bench tool read: ``DtcReport``."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from gateway.dtc.memory import FaultMemory
from gateway.dtc.model import Change, Environment
from gateway.wire.dtc import DtcReport, Snapshot, SnapshotValue, Status
from gateway.wire.samples import Event, EventKind

ECU = "gateway"
FIRST, MOST_RECENT = 1, 2
#: Changes of these bits are reported; the others change with every operation cycle.
REPORTED = int(Status.TEST_FAILED | Status.PENDING | Status.CONFIRMED | Status.WARNING_INDICATOR)
_EVER = REPORTED | int(Status.FAILED_SINCE_CLEAR)


def report_of(memory: FaultMemory, code: int, *, change: str, previous: int | None, by: str = "") -> DtcReport:
    """All that is known of a DTC now."""
    state, definition = memory.states[code], memory.definitions[code]
    entry = state.entry
    report = DtcReport(
        ecu=ECU,
        code=code,
        status=state.status,
        previous=previous,
        change=change,
        severity=definition.severity,
        text=definition.text or definition.name,
        by=by,
    )
    if entry is None:
        return report
    return msgspec.structs.replace(
        report,
        occurrences=entry.occurrences,
        aging=entry.aging,
        odometer_km=entry.last.odometer_km,
        snapshots=(_snapshot(FIRST, entry.first), _snapshot(MOST_RECENT, entry.last)),
        extended={
            "failed_cycles": entry.failed_cycles,
            "cycles_since_first": entry.cycles_since_first,
            "cycles_since_last": entry.cycles_since_last,
            "max_fault_detection": state.max_fdc,
            **({} if entry.first.odometer_km is None else {"first_odometer_km": entry.first.odometer_km}),
        },
    )


def report_change(memory: FaultMemory, change: Change) -> DtcReport | None:
    """The report of a change; None when it is of no interest outside."""
    if change.kind == "cleared":
        if not change.previous & _EVER:
            return None
        return report_of(memory, change.code, change="cleared", previous=change.previous, by=change.by)
    if not (change.previous ^ change.status) & REPORTED:
        return None
    kind = "changed" if change.previous & _EVER else "new"
    return report_of(memory, change.code, change=kind, previous=change.previous)


def present_reports(memory: FaultMemory) -> list[DtcReport]:
    """The full list of what is stored, for a reader that may have missed changes."""
    return [
        report_of(memory, code, change="present", previous=None)
        for code, state in memory.states.items()
        if state.status & REPORTED
    ]


def events(reports: Iterable[DtcReport], at_ns: int) -> list[Event]:
    """Reports as events; ``at_ns`` is UTC."""
    return [Event(at_ns, EventKind.DTC, ECU, msgspec.json.encode(report).decode()) for report in reports]


def _snapshot(record: int, environment: Environment) -> Snapshot:
    values = tuple(
        SnapshotValue(name=v.name, value="unknown" if v.value is None else v.label or v.value, unit=v.unit)
        for v in environment.values
    )
    return Snapshot(record=record, at_ns=environment.at_ns, values=values)

"""From a vehicle's reports of trouble codes to fault memory and history: the rules, without I/O.

A report is applied once, whichever way it comes (as its batch arrives, or later out of the lake). The state of a fault
is that of the report with the newest time, in whatever order reports arrive. A time that cannot be (a clock that was
never set, or runs ahead) is replaced by the time of arrival, so that one wrong clock does not freeze a fault for ever.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from gateway.wire.dtc import DtcReport, Snapshot

MAX_DETAIL_CHARS = 64 * 1024
MAX_ECU_CHARS, MAX_TEXT_CHARS, MAX_BY_CHARS = 64, 400, 200
EARLIEST_NS = 1_577_836_800_000_000_000  # 2020-01-01
AHEAD_NS = 300_000_000_000
ABSENT = ("cleared", "gone")
CHANGES = ("new", "changed", "cleared", "gone", "present")
Key = tuple[str, int]  # ECU, code


class BadReport(ValueError):
    """The event is no report of a trouble code; the message says why."""


class Context(msgspec.Struct, frozen=True, omit_defaults=True):
    """What surrounded a change: snapshots and extended data."""

    snapshots: tuple[Snapshot, ...] = ()
    extended: dict[str, float | str] = {}


@dataclass(frozen=True, slots=True)
class Told:
    """One report, checked."""

    at_ns: int  # to go by
    has_clock: bool  # False: ``at_ns`` is the time of arrival
    digest: bytes
    report: DtcReport

    @property
    def key(self) -> Key:
        """Which fault."""
        return self.report.ecu, self.report.code

    @property
    def is_present(self) -> bool:
        """Whether the ECU holds it after this."""
        return self.report.change not in ABSENT

    @property
    def context(self) -> Context:
        """What surrounded it."""
        return Context(self.report.snapshots, self.report.extended)


@dataclass(slots=True)
class Known:
    """A fault's state."""

    status: int
    is_present: bool
    first_ns: int
    changed_ns: int
    newest: Told | None = None  # set when this fold changed the state
    context: Context | None = None  # likewise, when it brought one


@dataclass(slots=True)
class Plan:
    """What to write: rows of history, and the faults that are other than before."""

    changes: list[Told] = field(default_factory=list)
    faults: dict[Key, Known] = field(default_factory=dict)
    too_many: int = 0


def read_report(at_ns: int, source: str, detail: str, received_ns: int) -> Told:
    """Check one event of kind ``dtc``.

    Raises:
        BadReport: it is none.
    """
    if len(detail) > MAX_DETAIL_CHARS:
        raise BadReport(f"{len(detail)} characters, at most {MAX_DETAIL_CHARS}")
    try:
        report = msgspec.json.decode(detail, type=DtcReport)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise BadReport(str(error)) from error
    if not 0 <= report.code <= 0xFFFFFF or not 0 <= report.status <= 0xFF:
        raise BadReport(f"code {report.code} or status {report.status} out of range")
    if report.change not in CHANGES:
        raise BadReport(f"change {report.change[:40]!r}")
    if not 1 <= len(report.ecu) <= MAX_ECU_CHARS or not report.ecu.isprintable():
        raise BadReport("an ECU's name has 1 to 64 printable characters")
    numbers = (report.previous, report.severity, report.occurrences, report.aging)
    if any(n is not None and abs(n) >= 1 << 62 for n in numbers):
        raise BadReport("a number out of range")
    has_clock = EARLIEST_NS <= at_ns <= received_ns + AHEAD_NS
    digest = hashlib.sha256(f"{at_ns}\n{source[:400]}\n{detail}".encode("utf-8", "surrogatepass")).digest()[:16]
    return Told(at_ns if has_clock else received_ns, has_clock, digest, report)


def plan(known: Mapping[Key, Known], told: Iterable[Told], max_faults: int) -> Plan:
    """Fold reports nobody has folded yet into what is known."""
    result = Plan()
    count = len(known)
    ordered: Sequence[Told] = sorted(told, key=lambda t: t.at_ns)
    for one in ordered:
        state = result.faults.get(one.key) or known.get(one.key)
        if state is None and count >= max_faults:
            result.too_many += 1
            continue
        is_same = state is not None and state.is_present == one.is_present and state.status == one.report.status
        if one.report.change == "present" and state is not None and (is_same or not one.has_clock):
            continue
        result.changes.append(one)
        if state is None:
            count += 1
            fresh = Known(one.report.status, one.is_present, one.at_ns, one.at_ns, one, one.context)
            result.faults[one.key] = fresh
        elif one.at_ns >= state.changed_ns:
            context = one.context if one.context != Context() else state.context
            first_ns = min(state.first_ns, one.at_ns)
            result.faults[one.key] = Known(one.report.status, one.is_present, first_ns, one.at_ns, one, context)
        elif one.at_ns < state.first_ns:
            state = Known(state.status, state.is_present, one.at_ns, state.changed_ns, state.newest, state.context)
            result.faults[one.key] = state
    return result

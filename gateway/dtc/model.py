"""What a fault memory knows: definitions of DTCs, results of tests, what is stored of each. No I/O, no rules.

``DtcState`` and what it holds are the stored form: arrays in msgpack (see ``docs/reference/dtc-engine.md``).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, IntEnum
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

#: Groups of ClearDiagnosticInformation (ISO 14229-1, annex D.1).
ALL_GROUPS, EMISSIONS_GROUP = 0xFFFFFF, 0xFFFF33
#: Status once cleared: not tested since clear, not tested this cycle (ISO 14229-1, D.2).
CLEARED = 0x50
FDC_MAX, FDC_MIN = 127, -128

Steps = Annotated[int, Meta(ge=1, le=10_000)]
Cycles = Annotated[int, Meta(ge=1, le=255)]
Byte = Annotated[int, Meta(ge=0, le=0xFF)]


class TestResult(Enum):
    """What a monitor says. PREFAILED and PREPASSED are debounced, FAILED and PASSED are final, UNKNOWN is no test."""

    __test__ = False  # no test case of pytest's

    FAILED = "failed"
    PASSED = "passed"
    PREFAILED = "prefailed"
    PREPASSED = "prepassed"
    UNKNOWN = "unknown"


class Severity(IntEnum):
    """The severity bits of ISO 14229-1, D.3 (DTCSeverityMask bits 7-5)."""

    NONE = 0x00
    MAINTENANCE = 0x20
    NEXT_HALT = 0x40
    IMMEDIATE = 0x80


class Debounce(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From single results to a verdict (ISO 14229-1, D.4: the fault detection counter).

    ``counter``: PREFAILED adds ``step_up``, PREPASSED subtracts ``step_down``; at ``fail_after`` the test failed, at
    minus ``pass_after`` it passed. A counter on the wrong side of ``jump_up``/``jump_down`` goes there first; None: no
    jump. ``time``: failed after ``fail_ms`` of PREFAILED without a PREPASSED, and the reverse; UNKNOWN holds the time.
    ``none``: the first result decides.
    """

    kind: Literal["counter", "time", "none"] = "counter"
    fail_after: Steps = 3
    pass_after: Steps = 3
    step_up: Steps = 1
    step_down: Steps = 1
    jump_up: int | None = 0
    jump_down: int | None = None
    fail_ms: Annotated[int, Meta(ge=1, le=86_400_000)] = 1000
    pass_ms: Annotated[int, Meta(ge=1, le=86_400_000)] = 1000


class Definition(msgspec.Struct, frozen=True, kw_only=True):
    """One DTC and how it behaves.

    Attributes:
        code: 3 bytes, see ``gateway.wire.dtc``.
        priority: 1 is the most important; a full memory gives up the least important first.
        confirm_cycles: failing operation cycles until confirmed (1 or 2 in the standard).
        aging_cycles: warm-up cycles without a failure until a confirmed DTC is forgotten.
        aging_tested: only cycles in which the test ran to its end count for aging.
        healing_cycles: tested cycles without a failure until the lamp goes out.
        emissions: belongs to group 0xFFFF33 and leaves a permanent DTC (SAE J1979 service 0A).
        memory: None is the primary memory, a number a user-defined one (ISO 14229-1 MemorySelection).
    """

    code: int
    name: str = ""
    text: str = ""
    severity: int = Severity.NONE
    functional_unit: int = 0
    priority: int = 10
    lamp: bool = False
    confirm_cycles: int = 2
    aging_cycles: int = 40
    aging_tested: bool = True
    healing_cycles: int = 3
    emissions: bool = False
    memory: int | None = None
    debounce: Debounce = Debounce()


class FrozenValue(msgspec.Struct, frozen=True, array_like=True):
    """One value of a freeze frame; ``value`` is None where it was unknown."""

    name: str
    value: float | None
    unit: str = ""
    label: str = ""


class Environment(msgspec.Struct, frozen=True, array_like=True):
    """What was around a failure, captured by whoever runs the monitors."""

    at_ns: int  # UTC
    odometer_km: float | None = None
    values: tuple[FrozenValue, ...] = ()


class Entry(msgspec.Struct, array_like=True):
    """What long-term memory holds of a DTC besides its status.

    ``first`` is the environment at the first failure, ``last`` at the most recent one. Counters stop at 255.
    """

    first: Environment
    last: Environment
    last_order: int  # grows with every failure of any DTC: tells old from new where clocks may jump
    occurrences: int = 1
    failed_cycles: int = 1
    cycles_since_first: int = 0
    cycles_since_last: int = 0
    aging: int = 0


class DtcState(msgspec.Struct, array_like=True):
    """All that is kept of one DTC through power cuts."""

    code: int
    status: int = CLEARED
    trips: int = 0  # failing cycles in a row, as far as tested
    good_cycles: int = 0  # towards the lamp going out
    entry: Entry | None = None
    first_failed: int = 0  # order of the first failure since clear; 0: none. Likewise below
    last_failed: int = 0
    first_confirmed: int = 0
    last_confirmed: int = 0
    permanent: bool = False
    permanent_cleared: bool = False  # cleared while permanent: a test that passes ends it
    max_fdc: int = 0  # since clear
    aged: int = 0  # times it was forgotten by aging since clear


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """The status of a DTC became another. ``kind`` is "changed" or "cleared"; ``by`` tells who cleared."""

    code: int
    previous: int
    status: int
    kind: str = "changed"
    by: str = ""


#: Called at a failure for the values around it.
Capture = Callable[[Definition], Environment]

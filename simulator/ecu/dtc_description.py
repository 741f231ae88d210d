"""How a description file tells an ECU's trouble codes: what they are and which test finds them.

Unknown keys are refused: a misspelt condition must not become a test that never fails.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated

import msgspec

from gateway.wire.dtc import parse_dtc


class Severity(IntEnum):
    """Severity of a DTC, upper three bits of the byte of ISO 14229-1 annex D.3."""

    NONE = 0x00
    MAINTENANCE_ONLY = 0x20
    CHECK_AT_NEXT_HALT = 0x40
    CHECK_IMMEDIATELY = 0x80


SEVERITIES = {severity.name.lower(): severity for severity in Severity}
#: Functional group identifiers, ISO 14229-1 annex D.5.
EMISSIONS_GROUP, SAFETY_GROUP = 0x33, 0xD0
#: The record of conditions when a test failed first and last.
FIRST_SNAPSHOT, LAST_SNAPSHOT = 1, 2


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Condition(_Table, frozen=True):
    """What must hold: a signal's value is beyond a limit. All limits given must hold."""

    signal: str
    above: float | None = None
    below: float | None = None
    equals: float | None = None

    def holds(self, value: float) -> bool:
        """Whether ``value`` fulfils it."""
        return (
            (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
            and (self.equals is None or value == self.equals)
        )


class FaultTest(_Table, frozen=True):
    """One diagnostic test. Exactly one of ``signal``, ``frozen``, ``silent``, ``corrupt``, ``bus_off`` is given.

    - ``signal`` with ``above``/``below``/``equals`` (any of them: the test fails); with ``minus`` the difference's
      magnitude of the two signals is meant;
    - ``frozen``: a signal whose value does not change at all;
    - ``silent``: ``bus.Message`` that stopped coming; ``corrupt``: one with wrong checksum, counter or length;
    - ``bus_off``: a bus on which nothing can be sent any more.
    """

    signal: str = ""
    minus: str = ""
    above: float | None = None
    below: float | None = None
    equals: float | None = None
    frozen: str = ""
    silent: str = ""
    corrupt: str = ""
    bus_off: str = ""
    #: How long the condition must last until the test has failed, and be absent until it has passed.
    for_ms: float = 500.0
    heal_ms: float = 1000.0
    #: A silent message is one that has not come for so long; ``for_ms`` comes on top.
    timeout_ms: float = 2000.0
    #: The test only runs while all of these hold.
    when: tuple[Condition, ...] = ()

    def __post_init__(self) -> None:
        kinds = [k for k in ("signal", "frozen", "silent", "corrupt", "bus_off") if getattr(self, k)]
        if len(kinds) != 1:
            raise ValueError(f"a test needs one of signal, frozen, silent, corrupt, bus_off; got {kinds or 'none'}")
        limits = self.above is not None or self.below is not None or self.equals is not None
        if limits != bool(self.signal):
            raise ValueError("limits (above, below, equals) belong to a signal, and a signal needs one")
        if self.minus and not self.signal:
            raise ValueError("minus belongs to a signal")
        if self.for_ms <= 0 or self.heal_ms <= 0:
            raise ValueError("for_ms and heal_ms must be above 0")


class DtcDescription(_Table, frozen=True):
    """One trouble code of an ECU."""

    code: str
    text: str
    severity: str = "check_at_next_halt"
    #: DTC class of ISO 27145 (0: none of them), the lower five bits of the severity byte hold one bit of it.
    dtc_class: int = 0
    functional_unit: int = 0
    emissions: bool = False
    safety: bool = False
    #: Readiness group (19 56); None: in none.
    readiness: int | None = None
    lamp: bool = False
    confirm_cycles: int = 1
    heal_cycles: int = 3
    aging_cycles: int = 40
    #: Which is kept when the memory is full: lower numbers are more important.
    priority: int = 5
    #: DIDs of a snapshot; None: the ECU's usual ones.
    snapshot: tuple[int, ...] | None = None
    test: FaultTest | None = None

    def __post_init__(self) -> None:
        parse_dtc(self.code)
        if self.severity not in SEVERITIES:
            raise ValueError(f"severity {self.severity!r}: one of {', '.join(SEVERITIES)}")
        if not 0 <= self.dtc_class <= 4:
            raise ValueError("dtc_class: 0 to 4")
        if min(self.confirm_cycles, self.heal_cycles, self.aging_cycles) < 1 or self.aging_cycles > 255:
            raise ValueError("confirm_cycles, heal_cycles, aging_cycles: 1 to 255")
        if not 0 <= self.functional_unit <= 0xFF:
            raise ValueError("functional_unit: one byte")

    @property
    def number(self) -> int:
        """The three bytes."""
        return parse_dtc(self.code)

    @property
    def severity_byte(self) -> int:
        """Severity and class as sent."""
        return SEVERITIES[self.severity] | (1 << self.dtc_class)


class FaultMemoryDescription(_Table, frozen=True):
    """Sizes and extras of the fault memory."""

    capacity: int = 12
    snapshot: tuple[int, ...] = ()
    #: MemorySelection of the user-defined memory (19 17-19, 14 with a memory byte); 0: the ECU has none.
    user_memory: int = 0x10
    #: An operation cycle lasts while this holds; it counts as a warm-up cycle once the drive was ready for so long.
    cycle: Condition = Condition(signal="powertrain.VehicleState.PowerMode", above=1.5)
    warm_up: Condition = Condition(signal="powertrain.VehicleState.ReadyToDrive", above=0.5)
    warm_up_s: float = 60.0
    #: Tests begin so long after the operation cycle: other ECUs are still waking up.
    settle_s: float = 3.0

    def __post_init__(self) -> None:
        if not 1 <= self.capacity <= 254:
            raise ValueError("capacity: 1 to 254 entries")
        if not 0 <= self.user_memory <= 0xFF:
            raise ValueError("user_memory: one byte")


class ObdMonitor(_Table, frozen=True):
    """A test result of mode 06 for ``code``: monitor and test identifier, unit and scaling identifier, and limits."""

    mid: Annotated[int, msgspec.Meta(ge=1, le=0xFF)]
    tid: Annotated[int, msgspec.Meta(ge=1, le=0xFF)]
    scaling: Annotated[int, msgspec.Meta(ge=1, le=0xFE)]
    code: str
    signal: str
    minimum: float
    maximum: float
    factor: float = 1.0  # physical units per bit of the scaling identifier
    offset: float = 0.0

    @property
    def number(self) -> int:
        """The code's three bytes."""
        return parse_dtc(self.code)


class ObdDescription(_Table, frozen=True):
    """The legislated part (SAE J1979) of an emissions-related ECU."""

    name: str  # ECU name of 09 0A, such as "ECM-MotorControl"
    calibration_id: str = ""  # 09 04; empty: software number and version
    pids: tuple[int, ...] = ()
    monitors: tuple[ObdMonitor, ...] = ()

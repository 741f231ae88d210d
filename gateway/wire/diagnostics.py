"""Remote diagnostics: what an operator may ask of a vehicle, and what comes back.

Down: an ``Order`` of kind ``diagnostics`` whose body is a ``DiagnosticOrder``. Up: ``DiagnosticResult`` by
``POST /v1/diagnostics/results`` (204), sent again until accepted.
"""

from __future__ import annotations

import msgspec

RESULTS = "/v1/diagnostics/results"
MAX_RESULT_BYTES = 512 * 1024
MAX_STEPS = 64
MAX_STEP_DATA_BYTES = 1024
#: What only reads, and what changes something in the vehicle.
READING = ("read_dtcs", "read_did", "identify", "routine_result")
CHANGING = ("clear_dtcs", "start_routine", "stop_routine", "reset")
#: Steps that may name all ECUs at once ("*").
FOR_ALL_ECUS = ("read_dtcs", "clear_dtcs", "identify")
ALL_ECUS = "*"


class Step(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One thing to do on one ECU ("*": on every ECU, where ``do`` is read_dtcs, clear_dtcs or identify).

    ``do``: ``read_dtcs``, ``clear_dtcs``, ``read_did``, ``identify`` (F18x/F19x), ``start_routine``, ``stop_routine``,
    ``routine_result``, ``reset``. ``parameter`` is the DID or routine identifier, the group of DTCs (FFFFFF: all; the
    default), the status mask of read_dtcs (default AF), or the kind of reset (default 1, hard).
    """

    do: str
    ecu: str
    parameter: int | None = None
    data: bytes = b""  # routine option record


class DiagnosticOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The steps, done in order; a failing step does not stop the others unless ``stop_on_error``."""

    steps: tuple[Step, ...]
    stop_on_error: bool = False
    requested_by: str = ""  # the operator, for the vehicle's audit log


def step_problem(step: Step) -> str:
    """What is wrong with a step, "" when nothing is. Both ends ask this."""
    if step.do not in (*READING, *CHANGING):
        return f"no step is called {step.do[:40]!r}; there are {', '.join((*READING, *CHANGING))}"
    if not step.ecu or len(step.ecu) > 64:
        return "a step names an ECU with 1 to 64 characters"
    if step.ecu == ALL_ECUS and step.do not in FOR_ALL_ECUS:
        return f"{step.do} is for one ECU, not for all"
    if len(step.data) > MAX_STEP_DATA_BYTES:
        return f"at most {MAX_STEP_DATA_BYTES} bytes of data"
    limit = 0xFFFFFF if step.do == "clear_dtcs" else 0xFF if step.do in ("reset", "read_dtcs") else 0xFFFF
    if step.parameter is not None and not 0 <= step.parameter <= limit:
        return f"the parameter of {step.do} is 0 to {limit:#x}"
    if step.parameter is None and step.do in ("read_did", "start_routine", "stop_routine", "routine_result"):
        return f"{step.do} needs a parameter: the identifier"
    return ""


class StepResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one step on one ECU.

    ``outcome``: ``ok``, ``refused`` (the vehicle's policy; ``detail`` names the rule), ``negative`` (``nrc``),
    ``no_answer``, ``failed``.
    """

    step: int
    ecu: str
    outcome: str
    detail: str = ""
    nrc: int | None = None
    data: bytes = b""  # what the ECU answered after the echo of identifiers
    dtcs: tuple[tuple[int, int], ...] = ()  # (code, status)
    values: dict[str, str] = {}  # decoded, for people: name -> text with unit


class DiagnosticResult(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to one order. ``state``: ``accepted``, ``refused`` (with ``detail``), ``running``, ``done``."""

    order: str
    state: str
    at_ns: int
    detail: str = ""
    results: tuple[StepResult, ...] = ()

"""Remote diagnostics: what an operator may ask of a vehicle, and what comes back.

Down: an ``Order`` of kind ``diagnostics`` whose body is a ``DiagnosticOrder``. Up: ``DiagnosticResult`` by
``POST /v1/diagnostics/results`` (204), sent again until accepted.
"""

from __future__ import annotations

import msgspec

RESULTS = "/v1/diagnostics/results"
MAX_RESULT_BYTES = 512 * 1024


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to do on one ECU ("*": on every ECU, where ``do`` is read_dtcs, clear_dtcs or identify).

    ``do``: ``read_dtcs``, ``clear_dtcs``, ``read_did``, ``identify`` (F18x/F19x), ``start_routine``, ``stop_routine``,
    ``routine_result``, ``reset``. ``parameter`` is the DID or routine identifier, or the group of DTCs (FFFFFF: all).
    """

    do: str
    ecu: str
    parameter: int | None = None
    data: bytes = b""  # routine option record


class DiagnosticOrder(msgspec.Struct, frozen=True, kw_only=True):
    """The steps, done in order; a failing step does not stop the others unless ``stop_on_error``."""

    steps: tuple[Step, ...]
    stop_on_error: bool = False
    requested_by: str = ""  # the operator, for the vehicle's audit log


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

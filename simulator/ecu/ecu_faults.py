"""Control of an ECU's fault memory and boot loader from outside, for tests and demonstrations.

Requests of the control socket, each with ``ecu``: ``dtcs`` (what is stored), ``dtc_report`` (``code``, ``failed``: one
test result), ``dtc_force`` (``code``, ``failing``: hold a condition, null lets go), ``dtc_cycle`` (``count``,
``passing``: operation cycles that go by at once), ``flash`` (what is programmed), ``flash_fault`` (``set``: fields of
``FlashFaults``, what is to go wrong when it is programmed; answers all of them).
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.wire.dtc import format_dtc, parse_dtc
from simulator.ecu.context import EcuContext
from simulator.ecu.control import EcuAction
from simulator.ecu.dtc_memory import FaultMemory
from simulator.ecu.dtc_unit import FaultUnit, fault_unit
from simulator.ecu.flash_unit import flash_unit

MAX_CYCLES = 1000


def _code(unit: FaultUnit, request: dict[str, Any]) -> int:
    number = parse_dtc(str(request.get("code", "")))
    if number not in unit.memory.codes:
        raise ValueError(f"code: the ECU has no {format_dtc(number)}")
    return number


def _stored(memory: FaultMemory) -> list[dict[str, Any]]:
    return [
        {
            "code": format_dtc(number),
            "text": memory.codes[number].text,
            "status": state.status,
            "detection": int(state.detection),
            "occurrences": state.occurrences,
            "aging": state.aging,
            "permanent": state.permanent,
            "stored": number in memory.entries,
        }
        for number, state in memory.states.items()
    ]


def _dtcs(context: EcuContext, request: dict[str, Any], now_s: float) -> dict[str, Any]:
    unit = fault_unit(context)
    return {
        "dtcs": _stored(unit.memory),
        "frozen": context.dtcs_frozen,
        "in_cycle": unit.life.in_cycle,
        "cycles": unit.life.cycles,
        "displaced": unit.memory.displaced,
    }


def _report(context: EcuContext, request: dict[str, Any], now_s: float) -> dict[str, Any]:
    unit = fault_unit(context)
    number, failed = _code(unit, request), request.get("failed")
    if not isinstance(failed, bool):
        raise ValueError("failed: true or false")
    unit.report(number, failed=failed)
    return {"status": unit.memory.states[number].status}


def _force(context: EcuContext, request: dict[str, Any], now_s: float) -> dict[str, Any]:
    unit = fault_unit(context)
    number, failing = _code(unit, request), request.get("failing")
    if failing is not None and not isinstance(failing, bool):
        raise ValueError("failing: true, false or null")
    unit.force(number, failing)
    return {}


def _cycle(context: EcuContext, request: dict[str, Any], now_s: float) -> dict[str, Any]:
    unit = fault_unit(context)
    count, passing = request.get("count", 1), request.get("passing", False)
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MAX_CYCLES:
        raise ValueError(f"count: 1 to {MAX_CYCLES}")
    for _ in range(count):
        if passing:
            unit.pass_cycle()
        unit.begin_cycle()
    return {"cycles": unit.life.cycles}


def _flash(context: EcuContext, request: dict[str, Any], now_s: float) -> dict[str, Any]:
    if context.description.flash is None:
        raise ValueError("this ECU cannot be programmed")
    unit = flash_unit(context)
    regions = [
        {"name": r.name, "valid": unit.store.is_valid(r), "version": unit.store.version(r)} for r in unit.store.regions
    ]
    return {
        "boot_loader": context.boot_mode,
        "bootable": unit.store.is_bootable(),
        "transfer": unit.transfer is not None,
        "regions": regions,
        "files": unit.files.names,
    }


def _flash_fault(context: EcuContext, request: dict[str, Any], now_s: float) -> dict[str, Any]:
    if context.description.flash is None:
        raise ValueError("this ECU cannot be programmed")
    unit = flash_unit(context)
    changes = request.get("set", {})
    if not isinstance(changes, dict):
        raise ValueError("set: an object of faults")
    unit.faults.change(changes)
    unit.hardware_changed()
    faults: dict[str, Any] = msgspec.to_builtins(unit.faults)
    return {"faults": faults}


FAULT_ACTIONS: dict[str, EcuAction] = {
    "dtcs": _dtcs,
    "dtc_report": _report,
    "dtc_force": _force,
    "dtc_cycle": _cycle,
    "flash": _flash,
    "flash_fault": _flash_fault,
}

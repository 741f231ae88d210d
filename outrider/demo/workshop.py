"""The demo's visit to the workshop: a fault becomes a trouble code in the console, and is cleared from there."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from outrider.demo.processes import Child, DemoError, run, wait_until
from outrider.demo.stage import Cloud, Vehicle, free_port

#: What breaks, and what the ECU that notices calls it; and what is left for the visitor to find.
FAULT, ECU, CODE = "missing:battery.CellVoltages", "battery", "U1120-87"
LEFT = "coolant_pump"
SPEED, SECOND_SPEED = "powertrain.VehicleMotion.VehicleSpeed", "chassis.WheelSpeeds.WheelSpeedRearLeft"
PATIENCE_S = 60.0
DIAGNOSTIC_GROUP, DIAGNOSTIC_VCAN = "239.74.163.7", "vcan5"


def diagnostics_config(directory: Path, interface: str) -> tuple[str, int]:
    """The part of a gateway's configuration that knows the simulated ECUs, and the port testers come to by IP.

    Writes ``ecus.json`` beside it, the names of what the ECUs tell.
    """
    described = run("sim", "describe", "--json")
    (directory / "ecus.json").write_text(described)
    port = free_port(13400)
    channel = DIAGNOSTIC_VCAN if interface == "socketcan" else DIAGNOSTIC_GROUP
    lines = ["", "[diagnostics]", 'descriptions = "ecus.json"']
    for ecu in json.loads(described)["ecus"]:
        lines += ["", "[[diagnostics.ecus]]", *(f"{key} = {json.dumps(value)}" for key, value in _ecu(ecu).items())]
    sections: dict[str, dict[str, object]] = {
        "poll": {"period_s": 2.0, "first_s": 1.0},
        "doip": {"enabled": True, "port": port},
        "obd_port": {"enabled": True, "interface": interface, "channel": channel},
        "vehicle_state": {"speed_signal": SPEED, "second_speed_signal": SECOND_SPEED},
    }
    for name, values in sections.items():
        lines += ["", f"[diagnostics.{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    return "\n".join(lines) + "\n", port


def _ecu(described: Mapping[str, Any]) -> dict[str, object]:
    """One ECU's configuration from its description, whose identifiers are hexadecimal."""
    transport = described["transport"]
    found: dict[str, object] = {
        "name": described["ecu"],
        "bus": transport["bus"],
        "logical_address": int(described["logical_address"], 16),
        "addressing": transport["kind"],
        "tx_dl": transport["frame_bytes"],
        "p2_ms": described["timing"]["p2_ms"],
        "p2_star_ms": described["timing"]["p2_star_ms"],
    }
    if transport["functional_id"]:
        found["functional_id"] = int(transport["functional_id"], 16)
    request_id = int(transport["request_id"], 16)
    if transport["kind"] == "normal_fixed":
        found["target_address"] = request_id >> 8 & 0xFF
    else:
        found |= {"request_id": request_id, "response_id": int(transport["response_id"], 16)}
    if transport["kind"] == "extended":
        found["target_address"] = transport["target_address"]
    return found


def control(path: Path, **request: object) -> dict[str, Any]:
    """One request to a running simulator."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        connection.sendall(json.dumps(request).encode() + b"\n")
        answer: dict[str, Any] = json.loads(connection.makefile().readline())
    if not answer.get("ok"):
        raise DemoError(f"the simulator refused {request}: {answer.get('error')}")
    return answer


def visit(cloud: Cloud, vehicle: Vehicle, simulator: Child, socket_path: Path, say: Callable[[str], None]) -> None:
    """Break something, find it in the cloud, mend it, clear it from there.

    Raises:
        DemoError: something of this did not happen.
    """
    wait_until("the simulator's control socket", socket_path.exists, PATIENCE_S, simulator)
    faults = f"/api/v1/vehicles/{vehicle.name}/faults"
    say(f"   the message of the battery's cell voltages falls silent ({FAULT})")
    mended = control(socket_path, do="inject", fault=FAULT)["number"]
    control(socket_path, do="inject", fault=LEFT)
    found = _await_fault(cloud, faults, simulator, is_there=True)
    words = found["vehicle_text"] or found["text"]
    say(f"   {found['ecu']} tells {found['dtc']}: {words} ({', '.join(found['status_words'])})")
    for snapshot in found["snapshots"][:1]:
        values = [
            f"{v['name']} {_number(v['value'])}{' ' + v['unit'] if v['unit'] else ''}" for v in snapshot["values"]
        ]
        say(f"   its snapshot: {'; '.join(values[:4])}{'; …' if len(values) > 4 else ''}")
    say(f"   in the console: {cloud.url}/console/vehicles/{vehicle.name}/faults")
    control(socket_path, do="clear", number=mended)
    say("   mended; an operator clears the trouble code from the cloud, by a signed order")
    job = cloud.post(
        "/api/v1/diagnostics/jobs",
        {
            "title": "after the repair",
            "steps": [{"do": "clear_dtcs", "ecu": ECU}, {"do": "read_dtcs", "ecu": ECU}],
            "filter": {"vehicles": [vehicle.name]},
        },
    )["job"]
    wait_until("the end of the job", lambda: not cloud.get(f"/api/v1/diagnostics/jobs/{job['id']}")["open"], PATIENCE_S)
    (order,) = cloud.get(f"/api/v1/diagnostics/jobs/{job['id']}/orders")["items"]
    outcomes = [result["outcome"] for result in order["results"]]
    if order["state"] != "completed" or set(outcomes) != {"ok"}:
        raise DemoError(f"the job ended {order['state']}: {order['detail'] or outcomes}")
    _await_fault(cloud, faults, simulator, is_there=False)
    say(f"   cleared; who did it is in the vehicle's audit log and in the cloud's ({cloud.url}/console/audit)")
    say(f"   something else is broken, too: find it in {cloud.url}/console/faults")


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _await_fault(cloud: Cloud, path: str, simulator: Child, *, is_there: bool) -> dict[str, Any]:
    """The fault as the cloud shows it, once it does (with its snapshot), or once it no longer does."""
    found: list[dict[str, Any]] = []

    def look() -> bool:
        found[:] = [f for f in cloud.get(path, present="yes")["items"] if f["ecu"] == ECU and f["dtc"] == CODE]
        return bool(found and found[0]["snapshots"]) if is_there else not found

    what = f"{CODE} in the cloud" if is_there else f"the end of {CODE} in the cloud"
    wait_until(what, look, PATIENCE_S, simulator)
    return found[0] if found else {}

"""What an ECU answers, as data and as text: made from its services themselves, so that it cannot differ from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simulator.ecu.description import EcuDescription
from simulator.ecu.server import EcuServer
from simulator.ecu.service import Access
from simulator.ecu.services import build_server
from simulator.ecu.storage import NvStore
from simulator.ecu.transport import identifiers
from simulator.ecu.vehicle import FakeVehicle

NAMES = {
    0x10: "session control", 0x11: "reset", 0x14: "clear faults", 0x19: "read faults", 0x22: "read data",
    0x23: "read memory", 0x24: "read scaling", 0x27: "security access", 0x28: "communication control",
    0x29: "authentication", 0x2A: "periodic data", 0x2C: "define data", 0x2E: "write data", 0x2F: "input/output",
    0x31: "routines", 0x34: "request download", 0x35: "request upload", 0x36: "transfer data", 0x37: "transfer exit",
    0x38: "file transfer", 0x3D: "write memory", 0x3E: "tester present", 0x83: "timing", 0x84: "secured data",
    0x85: "fault memory on/off", 0x86: "response on event", 0x87: "link control",
}  # fmt: skip


def describe(description: EcuDescription) -> dict[str, Any]:
    """JSON types only; see docs/reference/ecu-description.md."""
    server = build_server(description, FakeVehicle(), NvStore(None, description.name), 0.0)
    transport, timing = description.transport, description.timing
    request, response, extended = identifiers(transport)
    width = 8 if extended else 3
    return {
        "ecu": description.name,
        "title": description.title,
        "logical_address": f"{description.logical_address:04X}",
        "transport": {
            "bus": transport.bus,
            "kind": transport.kind,
            "request_id": f"{request:0{width}X}",
            "response_id": f"{response:0{width}X}",
            "functional_id": f"{transport.functional_id:0{width}X}" if transport.functional_id else None,
            "target_address": transport.target_address if transport.kind == "extended" else None,
            "tester_address": transport.tester_address if transport.kind == "extended" else None,
            "fd": transport.fd,
            "frame_bytes": transport.frame_bytes,
            "max_length": transport.max_length,
        },
        "timing": {
            "p2_ms": timing.p2_ms, "p2_star_ms": timing.p2_star_ms, "s3_s": timing.s3_s, "boot_s": timing.boot_s,
        },
        "sessions": {
            f"{s.id:02X}": {
                "name": s.name,
                "reached_from": sorted(s.reached_from or description.session_ids),
                "standstill": s.standstill,
            }
            for s in description.sessions
        },
        "services": {f"{sid:02X}": _service(server, sid) for sid in sorted(server.services)},
        "dids": {f"{d.id:04X}": _did(server, d.id) for d in sorted(description.dids, key=lambda d: d.id)},
        "boot_loader": {
            "services": [f"{sid:02X}" for sid in description.boot.services if sid in server.services],
            "dids": [f"{d.id:04X}" for d in description.dids if d.in_boot],
            "routines": [f"{r.id:04X}" for r in description.routines if r.in_boot],
        },
        "unsupported": dict(description.unsupported),
    }  # fmt: skip


def _access(access: Access) -> dict[str, Any]:
    out: dict[str, Any] = {"sessions": sorted(access.sessions)}
    if access.security:
        out["security"] = access.security
    if access.authenticated:
        out["authenticated"] = True
    return out


def _service(server: EcuServer, sid: int) -> dict[str, Any]:
    service = server.services[sid]
    out: dict[str, Any] = {"name": NAMES.get(sid, f"service {sid:02X}"), **_access(service.access)}
    boots = server.description.boot_sessions if sid not in server.description.boot.services else frozenset()
    out["sessions"] = [session for session in out["sessions"] if session not in boots]
    table = service.subfunctions()
    if table is not None:
        out["subfunctions"] = {f"{n:02X}": _access(sub.access) for n, sub in sorted(table.items())}
    details = service.describe()
    if details:
        out["details"] = dict(details)
    return out


def _did(server: EcuServer, number: int) -> dict[str, Any]:
    did = server.context.dids.known[number]
    context = server.context
    fields = [
        {
            key: value
            for key, value in (
                ("name", part.name), ("bytes", part.bytes), ("encoding", part.encoding), ("scale", part.scale),
                ("offset", part.offset), ("unit", part.unit), ("values", part.values),
            )
            if value not in ("", {})
        }
        for part in did.fields
    ]  # fmt: skip
    out: dict[str, Any] = {"name": did.name, "bytes": did.length, "fields": fields, "in_boot": did.in_boot}
    for key, access in (("read", did.read), ("write", did.write), ("io", did.io.access if did.io else None)):
        if access is not None:
            out[key] = context.describe_access(access, in_boot=did.in_boot and key != "io")
    return out


def as_text(described: Mapping[str, Any]) -> str:
    """For people, aligned."""
    transport, timing = described["transport"], described["timing"]
    ids = f"{transport['request_id']} -> {transport['response_id']}"
    functional = f", all at {transport['functional_id']}" if transport["functional_id"] else ""
    lines = [
        f"{described['ecu']}: {described['title']}",
        f"  on {transport['bus']}, {transport['kind']} addressing {ids}{functional}; "
        f"DoIP {described['logical_address']}",
        f"  P2 {timing['p2_ms']} ms, P2* {timing['p2_star_ms']} ms, S3 {timing['s3_s']} s, "
        f"boots in {timing['boot_s']} s",
        "  sessions  " + ", ".join(f"{number} {s['name']}" for number, s in described["sessions"].items()),
        "  services",
    ]
    for sid, service in described["services"].items():
        where = ",".join(map(str, service["sessions"]))
        subs = " ".join(service.get("subfunctions", {}))
        lines.append(f"    {sid}  {service['name']:<22}sessions {where:<8} {subs}".rstrip())
    lines.append("  data")
    for number, did in described["dids"].items():
        how = " ".join(f"{key}{_short(did[key])}" for key in ("read", "write", "io") if key in did)
        lines.append(f"    {number}  {did['name']:<32}{did['bytes']:>5} B  {how}")
    routines = described["services"].get("31", {}).get("details", {}).get("routines", {})
    if routines:
        lines.append("  routines")
    for number, routine in routines.items():
        subs = ",".join(map(str, routine["subfunctions"]))
        lines.append(f"    {number}  {routine['name']:<32}sub {subs:<7} {_short(routine).strip()}")
    return "\n".join(lines)


def _short(access: Mapping[str, Any]) -> str:
    out = "(" + ",".join(map(str, access["sessions"]))
    if access.get("security"):
        out += f" level {access['security']}"
    if access.get("authenticated"):
        out += " authenticated"
    if access.get("standstill"):
        out += " standing"
    return out + ")"

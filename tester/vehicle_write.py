"""A vehicle as our own TOML, to be edited by hand and read back by ``vehicle_files``. No I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping

import msgspec

from gateway.diag.config import EcuConfig
from gateway.wire.dtc import format_dtc
from tester.values import Field
from tester.vehicle import Access, Did, Download, Ecu, Region, Routine, SecurityLevel, Vehicle

_HEX_KEYS = frozenset({"logical_address", "request_id", "response_id", "functional_id", "target_address",
                       "source_address", "address_extension", "padding"})  # fmt: skip


def _text(value: object, key: str = "") -> str:
    """A TOML value. JSON's strings are TOML's, but for DEL and what lies outside the basic plane."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and key in _HEX_KEYS:
        return f"0x{value:X}"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(k)} = {_text(v, k)}" for k, v in value.items()) + " }" if value else "{}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_text(item) for item in value) + "]"
    return repr(value)


def _key(key: str) -> str:
    return key if key.replace("_", "").isalnum() and key.isascii() else _text(key)


def _access(access: Access | None) -> dict[str, object] | None:
    if access is None:
        return None
    entry: dict[str, object] = {"sessions": list(access.sessions)}
    if access.security is not None:
        entry["security"] = access.security
    entry |= {key: True for key in ("authenticated", "standstill") if getattr(access, key)}
    return entry


def _field(field: Field) -> dict[str, object]:
    defaults = Field(bytes=1)
    whole = {key: getattr(field, key) for key in Field.__struct_fields__}
    return {key: value for key, value in whole.items() if key == "bytes" or value != getattr(defaults, key)}


def _did(did: Did) -> dict[str, object]:
    entry: dict[str, object] = {"name": did.name}
    if did.bytes is not None:
        entry["bytes"] = did.bytes
    if did.fields:
        entry["fields"] = [_field(field) for field in did.fields]
    if did.read != Access():
        entry["read"] = False if did.read is None else _access(did.read)
    return entry | {key: found for key in ("write", "io") if (found := _access(getattr(did, key))) is not None}


def _routine(routine: Routine) -> dict[str, object]:
    entry: dict[str, object] = {"name": routine.name, "actions": list(routine.actions)}
    if routine.option_bytes is not None:
        entry["option_bytes"] = routine.option_bytes
    if routine.duration_s:
        entry["duration_s"] = routine.duration_s
    return entry | (_access(routine.access) or {})


def _level(level: SecurityLevel) -> dict[str, object]:
    entry = {"name": level.name, "algorithm": level.algorithm, "constant": level.constant}
    return {k: v for k, v in entry.items() if v} | ({"sessions": list(level.sessions)} if level.sessions else {})


def _region(region: Region) -> dict[str, object]:
    entry: dict[str, object] = {"name": region.name, "start": f"{region.start:08X}", "bytes": region.bytes}
    return entry | {k: found for k in ("read", "write") if (found := _access(getattr(region, k))) is not None}


def _download(download: Download) -> dict[str, object]:
    entry: dict[str, object] = {
        "formats": [f"{f:02X}" for f in download.formats],
        "regions": [_region(region) for region in download.regions],
    }
    if download.block_bytes:
        entry["block_bytes"] = download.block_bytes
    if download.hardware_id:
        entry["hardware_id"] = download.hardware_id
    return entry | (_access(download.access) or {})


def _code(number: int) -> str:
    """A DTC, or one for any failure type."""
    return format_dtc(number) if number >= 0 else format_dtc((-1 - number) << 8).partition("-")[0]


def _table(title: str, rows: Mapping[str, object]) -> list[str]:
    return ["", f"[{title}]", *(f"{_key(key)} = {_text(value, key)}" for key, value in rows.items())] if rows else []


def _ecu(ecu: Ecu) -> list[str]:
    defaults = EcuConfig(name="", bus="", logical_address=1)
    link = {key: getattr(ecu.link, key) for key in EcuConfig.__struct_fields__}
    lines = ["", "[[ecus]]"]
    for key, value in link.items():
        if key in ("name", "bus", "logical_address") or value != getattr(defaults, key):
            lines.append(f"{key} = {_text(value, key)}")
    if ecu.title:
        lines.append(f"title = {_text(ecu.title)}")
    if ecu.boot_s is not None:
        lines.append(f"boot_s = {_text(ecu.boot_s)}")
    if ecu.services:
        lines.append(f"services = {_text([f'{sid:02X}' for sid in ecu.services])}")
    if ecu.memory:
        lines.append(f"memory = {_text([_region(region) for region in ecu.memory])}")
    lines += _table("ecus.sessions", {f"{n:02X}": name for n, name in ecu.sessions.items()})
    lines += _table("ecus.security", {f"{n:02X}": _level(level) for n, level in ecu.levels.items()})
    lines += _table("ecus.dids", {f"{n:04X}": _did(did) for n, did in ecu.dids.items()})
    lines += _table("ecus.routines", {f"{n:04X}": _routine(routine) for n, routine in ecu.routines.items()})
    lines += _table("ecus.dtcs", {_code(n): text for n, text in ecu.dtc_texts.items()})
    lines += _table("ecus.extended_records", {f"{n:02X}": name for n, name in ecu.extended_records.items()})
    if ecu.download is not None:
        lines += _table("ecus.download", _download(ecu.download))
    return lines


def to_toml(vehicle: Vehicle) -> str:
    """The whole vehicle; texts that all ECUs share go to each."""
    shared = dict(vehicle.dtc_texts)
    lines = [f"name = {_text(vehicle.name)}", f"functional_address = 0x{vehicle.functional_address:X}"]
    for ecu in vehicle.ecus:
        lines += _ecu(msgspec.structs.replace(ecu, dtc_texts={**shared, **ecu.dtc_texts}))
    return "\n".join(lines) + "\n"

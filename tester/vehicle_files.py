"""Vehicles from files: our own TOML, what ``outrider sim describe --json`` prints, and a gateway's configuration.

The same keys describe ECUs in all three: those of ``[[diagnostics.ecus]]`` say how to reach one, the others what it
answers. Everything that the tool does not know is refused in our own TOML and ignored in the other two.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from gateway.diag.config import EcuConfig
from gateway.wire.dtc import parse_dtc
from gateway.wire.dtc_texts import TextsError, any_failure, load_texts
from tester.errors import FileError
from tester.values import Field
from tester.vehicle import Access, Did, Download, Ecu, Region, Routine, SecurityLevel, Vehicle

MAX_FILE_BYTES = 64 * 1024 * 1024
_LINK_KEYS = frozenset(EcuConfig.__struct_fields__)
_OWN_KEYS = frozenset(
    {
        "title", "dids", "routines", "security", "sessions", "dtcs", "extended_records", "memory", "download", "boot_s",
        "services",
    }
)  # fmt: skip


def load_vehicle(path: Path) -> Vehicle:
    """Read a vehicle; the content tells which kind of file it is.

    Raises:
        FileError: missing, or wrong; the message names the key.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FileError(path, error.strerror or str(error), is_missing=True) from error
    if len(content) > MAX_FILE_BYTES:
        raise FileError(path, f"larger than {MAX_FILE_BYTES} bytes")
    try:
        data = _parse(content)
        if "diagnostics" in data:
            return _from_gateway(data, path)
        if _is_description(data):
            return _from_description(data, path.stem)
        return _from_own(data, path)
    except (ValueError, TypeError, KeyError, AttributeError, msgspec.DecodeError, RecursionError) as error:
        problem = f"key {error} is missing" if isinstance(error, KeyError) else str(error)
        raise FileError(path, f"no vehicle: {problem}") from error


def _parse(content: bytes) -> dict[str, Any]:
    data: object
    if content.lstrip()[:1] == b"{":
        data = msgspec.json.decode(content)
    else:
        try:
            data = tomllib.loads(content.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise ValueError(f"not UTF-8: {error.reason} at byte {error.start}") from error
    if not isinstance(data, dict):
        raise ValueError("neither a TOML file nor a JSON object")
    return data


def _is_description(data: Mapping[str, Any]) -> bool:
    ecus = data.get("ecus")
    return isinstance(ecus, list) and bool(ecus) and isinstance(ecus[0], dict) and "transport" in ecus[0]


def number(text: str | int, what: str = "number") -> int:
    """``F190``, ``0xF190`` (hexadecimal), or an integer of the file.

    Raises:
        ValueError: something else.
    """
    if isinstance(text, bool) or not isinstance(text, str | int):
        raise ValueError(f"{what} {text!r} is no number")
    if isinstance(text, int):
        return text
    if not re.fullmatch(r"(0[xX])?[0-9a-fA-F]{1,8}", text):
        raise ValueError(f"{what} {text!r} is no hexadecimal number")
    return int(text, 16)


def _access(data: Mapping[str, Any] | None) -> Access | None:
    if data is None:
        return None
    return Access(
        sessions=tuple(data.get("sessions", ())),
        security=data.get("security"),
        authenticated=bool(data.get("authenticated", False)),
        standstill=bool(data.get("standstill", False)),
    )


def _did(text: str, data: Mapping[str, Any], *, readable: bool = False) -> Did:
    """``readable``: what an absent ``read`` means; false always means that it is not."""
    reading = data.get("read", {} if readable else None)
    fields = tuple(msgspec.convert(field, Field, strict=False) for field in data.get("fields", ()))
    if "bytes" in data and not fields and "encoding" in data:  # a single field may be written in place
        keys = set(Field.__struct_fields__) - {"name"}
        fields = (msgspec.convert({k: v for k, v in data.items() if k in keys}, Field, strict=False),)
    length = data.get("bytes", sum(field.bytes for field in fields) or None)
    return Did(
        number=number(text, "identifier"), name=str(data.get("name", "")), bytes=length, fields=fields,
        read=_access(None if reading is False else reading),
        write=_access(data.get("write")), io=_access(data.get("io")),
    )  # fmt: skip


def _routine(text: str, data: Mapping[str, Any]) -> Routine:
    return Routine(
        number=number(text, "routine"), name=str(data.get("name", "")),
        actions=tuple(data.get("subfunctions", data.get("actions", (1, 2, 3)))),
        option_bytes=data.get("option_bytes"), duration_s=float(data.get("duration_s", 0.0)),
        access=_access(data),
    )  # fmt: skip


def _level(text: str, data: Mapping[str, Any]) -> SecurityLevel:
    return SecurityLevel(
        level=number(text, "security level"), name=str(data.get("name", "")),
        algorithm=str(data.get("algorithm", "")), constant=str(data.get("constant", "")),
        sessions=tuple(data.get("sessions", ())),
    )  # fmt: skip


def _region(data: Mapping[str, Any]) -> Region:
    return Region(
        name=str(data.get("name", "")), start=number(data["start"], "start"), bytes=int(data["bytes"]),
        read=_access(data.get("read")), write=_access(data.get("write")),
    )  # fmt: skip


def _download(data: Mapping[str, Any]) -> Download:
    details = data.get("details", data)
    return Download(
        regions=tuple(_region(region) for region in details.get("regions", ())),
        formats=tuple(number(f, "format") for f in details.get("formats", ("00",))),
        block_bytes=details.get("block_bytes"),
        hardware_id=str(details.get("hardware_id", "")),
        access=_access(data),
    )


def _codes(data: Mapping[str, str]) -> dict[int, str]:
    found: dict[int, str] = {}
    for code, text in data.items():
        parsed = parse_dtc(code)
        short = re.fullmatch(r"[PCBUpcbu][0-3][0-9A-Fa-f]{3}", code.strip())
        found[any_failure(parsed >> 8) if short else parsed] = str(text)
    return found


def _from_own(data: Mapping[str, Any], path: Path) -> Vehicle:
    if unknown := set(data) - {"name", "ecus", "dtc_texts", "functional_address"}:
        raise ValueError(f"unknown key {min(unknown)!r}")
    ecus = data.get("ecus")
    if not isinstance(ecus, list) or not ecus:
        raise ValueError("no [[ecus]]")
    texts: dict[int, str] = {}
    for name in data.get("dtc_texts", ()):
        file = path.parent / name
        try:
            texts.update(load_texts(file.read_bytes(), file.name).texts)
        except (OSError, TextsError) as error:
            raise ValueError(f"dtc_texts {name!r}: {error}") from error
    return Vehicle(
        name=str(data.get("name", path.stem)),
        ecus=_unique([_own_ecu(ecu, i) for i, ecu in enumerate(ecus)]),
        dtc_texts=texts,
        functional_address=number(data.get("functional_address", 0xE400), "functional_address"),
    )


def _own_ecu(data: Mapping[str, Any], index: int) -> Ecu:
    where = f"$.ecus[{index}]"
    if unknown := set(data) - _LINK_KEYS - _OWN_KEYS:
        raise ValueError(f"unknown key {min(unknown)!r} - at {where}")
    try:
        link = msgspec.convert(
            {"bus": "", "logical_address": 0x7000 + index, **{k: v for k, v in data.items() if k in _LINK_KEYS}},
            EcuConfig,
        )
        return Ecu(
            link=link,
            title=str(data.get("title", "")),
            dids=_keyed(_did(key, value, readable=True) for key, value in data.get("dids", {}).items()),
            routines=_keyed_routines(_routine(key, value) for key, value in data.get("routines", {}).items()),
            levels={level.level: level for level in (_level(k, v) for k, v in data.get("security", {}).items())},
            sessions={number(k, "session"): str(v) for k, v in data.get("sessions", {}).items()},
            dtc_texts=_codes(data.get("dtcs", {})),
            extended_records={number(k, "record"): str(v) for k, v in data.get("extended_records", {}).items()},
            memory=tuple(_region(region) for region in data.get("memory", ())),
            download=_download(data["download"]) if "download" in data else None,
            boot_s=data.get("boot_s"),
            services=tuple(number(s, "service") for s in data.get("services", ())),
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{error} - at {where}") from error


def _keyed(dids: Any) -> dict[int, Did]:
    return {did.number: did for did in dids}


def _keyed_routines(routines: Any) -> dict[int, Routine]:
    return {routine.number: routine for routine in routines}


def _unique(ecus: list[Ecu]) -> tuple[Ecu, ...]:
    seen: set[str] = set()
    for ecu in ecus:
        if ecu.name.lower() in seen:
            raise ValueError(f"two ECUs are called {ecu.name!r}")
        seen.add(ecu.name.lower())
    return tuple(ecus)


def _from_description(data: Mapping[str, Any], name: str) -> Vehicle:
    return Vehicle(name=name, ecus=_unique([_described(ecu) for ecu in data["ecus"]]))


def _described(data: Mapping[str, Any]) -> Ecu:
    services: Mapping[str, Any] = data.get("services", {})

    def details(sid: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = services.get(sid, {}).get("details", {})
        return found

    sessions = {number(k, "session"): str(v["name"]) for k, v in data.get("sessions", {}).items()}
    faults = details("19")
    memory = {r["name"]: _region(r) for sid in ("23", "3D") for r in details(sid).get("regions", ())}
    return Ecu(
        link=_described_link(data),
        title=str(data.get("title", "")),
        dids=_keyed(_did(key, value) for key, value in data.get("dids", {}).items()),
        routines=_keyed_routines(_routine(k, v) for k, v in details("31").get("routines", {}).items()),
        levels={level.level: level for level in (_level(k, v) for k, v in details("27").get("levels", {}).items())},
        sessions=sessions,
        dtc_texts=_codes(faults.get("codes", {})),
        extended_records={number(k, "record"): str(v) for k, v in faults.get("extended_records", {}).items()},
        memory=tuple(memory.values()),
        download=_download(services["34"]) if "34" in services else None,
        boot_s=data.get("timing", {}).get("boot_s"),
        services=tuple(number(sid, "service") for sid in services),
    )


def _described_link(data: Mapping[str, Any]) -> EcuConfig:
    transport, timing = data["transport"], data.get("timing", {})
    kind, request, response = transport["kind"], number(transport["request_id"]), number(transport["response_id"])
    is_fixed = kind == "normal_fixed"
    functional = transport.get("functional_id")
    return EcuConfig(
        name=str(data["ecu"]),
        bus=str(transport.get("bus", "")),
        logical_address=number(data["logical_address"]),
        addressing=kind,
        request_id=0 if is_fixed else request,
        response_id=0 if is_fixed else response,
        extended_id=not is_fixed and (request > 0x7FF or response > 0x7FF),
        target_address=request >> 8 & 0xFF if is_fixed else transport.get("target_address") or 0,
        source_address=request & 0xFF if is_fixed else transport.get("tester_address") or 0xF1,
        functional_id=number(functional) if functional else None,
        tx_dl=int(transport.get("frame_bytes", 8)),
        p2_ms=int(timing.get("p2_ms", 50)),
        p2_star_ms=int(timing.get("p2_star_ms", 5000)),
        emissions=functional is not None and number(functional) == 0x7DF and 0x7E0 <= request <= 0x7E3,
    )


def _from_gateway(data: Mapping[str, Any], path: Path) -> Vehicle:
    section = data["diagnostics"]
    links = [msgspec.convert(ecu, EcuConfig) for ecu in section.get("ecus", ())]
    if not links:
        raise ValueError("no [[diagnostics.ecus]] in this gateway configuration")
    described: dict[str, Ecu] = {}
    if section.get("descriptions"):
        file = path.parent / section["descriptions"]
        try:
            described = {ecu.name: ecu for ecu in _from_description(_parse(file.read_bytes()), file.stem).ecus}
        except OSError as error:
            raise ValueError(f"descriptions {section['descriptions']!r}: {error.strerror}") from error
    ecus = [
        msgspec.structs.replace(described[link.name], link=link) if link.name in described else Ecu(link=link)
        for link in links
    ]
    doip = section.get("doip", {})
    return Vehicle(
        name=str(data.get("vehicle", path.stem)),
        ecus=_unique([*ecus, _gateway_itself(doip.get("logical_address", 0x1001))]),
        functional_address=doip.get("functional_address", 0xE400),
    )


def _gateway_itself(logical_address: int) -> Ecu:
    """The gateway answers UDS by DoIP only."""
    link = EcuConfig(name="gateway", bus="(doip)", logical_address=logical_address)
    return Ecu(link=link, title="Gateway")

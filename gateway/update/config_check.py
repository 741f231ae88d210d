"""What is wrong with ``[update]``, before anything is opened."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from gateway.errors import ConfigError
from gateway.update.config import UpdateEcu, UpdateSection
from gateway.update.window import local_zone

#: Of ECUs and payloads, as they stand in metadata, file names and reports.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
BACKENDS = ("uboot", "grub", "efi", "file")
PAYLOAD_KINDS = ("manifest", "scheme", "model", "config")
QUIET = ("none", "dtc", "messages")


def check_update_section(section: UpdateSection, buses: Collection[str], ecus: Collection[str], path: str) -> None:
    """Check the section against itself, the buses and the ECUs of ``[diagnostics]``.

    Raises:
        ConfigError: with the file and the key that is wrong.
    """

    def wrong(message: str, where: str) -> ConfigError:
        return ConfigError(message, path=path, where=f"$.update.{where}")

    for key in ("primary", "hardware_id"):
        if not NAME.fullmatch(value := getattr(section, key)):
            raise wrong("is missing" if not value else "letters, digits, '.', '_' and '-' only, at most 64", key)
    for key in ("directory", "director_root", "image_root"):
        if not getattr(section, key):
            raise wrong("is missing", key)
    if section.links not in ("any", "wifi"):
        raise wrong("must be any or wifi", "links")
    if not section.reboot_command or not section.reboot_command[0]:
        raise wrong("is missing", "reboot_command")
    try:
        local_zone(section.timezone, section.utc_offset_min)
    except ConfigError as error:
        raise ConfigError(str(error).partition(" - at ")[0], path=path, where="$.update.timezone") from error
    for check in (_check_slots, _check_keys, _check_names, _check_conditions):
        if found := check(section):
            raise wrong(*found)
    for i, ecu in enumerate(section.ecus):
        if ecu.name not in ecus:
            raise wrong(f"no ECU {ecu.name!r} in [[diagnostics.ecus]]", f"ecus[{i}].name")
        if found := _check_ecu(ecu):
            raise wrong(found[0], f"ecus[{i}].{found[1]}")
    for key, names, known in (("buses", section.health.buses, buses), ("ecus", section.health.ecus, ecus)):
        for i, name in enumerate(names):
            if name not in known:
                raise wrong(f"there is no {name!r} ({', '.join(known)})", f"health.{key}[{i}]")
    if section.health.within_s <= section.health.steady_s:
        raise wrong("more than health.steady_s", "health.within_s")


def _check_slots(section: UpdateSection) -> tuple[str, str] | None:
    slots = section.slots
    if slots.backend not in BACKENDS:
        return f"must be one of {', '.join(BACKENDS)}", "slots.backend"
    if not slots.devices:
        return None
    if len(slots.devices) < 2:
        return "at least two slots, or none", "slots.devices"
    if len(set(slots.devices.values())) < len(slots.devices) or "" in slots.devices.values():
        return "each slot needs a device of its own", "slots.devices"
    if slots.current and slots.current not in slots.devices:
        return f"no slot {slots.current!r} ({', '.join(slots.devices)})", "slots.current"
    return None


def _check_keys(section: UpdateSection) -> tuple[str, str] | None:
    keys = section.keys
    if keys.backend not in ("file", "pkcs11"):
        return "must be file or pkcs11", "keys.backend"
    if keys.backend == "pkcs11":
        for key in ("module", "token", "pin_file"):
            if not getattr(keys, key):
                return "is missing", f"keys.{key}"
    return None


def _check_names(section: UpdateSection) -> tuple[str, str] | None:
    """ECUs and payloads share one name space: the Director's."""
    seen = {section.primary}
    entries = [(ecu.name, f"ecus[{i}].name") for i, ecu in enumerate(section.ecus)]
    entries += [(payload.name, f"payloads[{i}].name") for i, payload in enumerate(section.payloads)]
    for name, where in entries:
        if not NAME.fullmatch(name):
            return "letters, digits, '.', '_' and '-' only, at most 64", where
        if name in seen:
            return f"{name!r} is named already", where
        seen.add(name)
    paths: set[str] = set()
    for i, payload in enumerate(section.payloads):
        if payload.kind not in PAYLOAD_KINDS:
            return f"must be one of {', '.join(PAYLOAD_KINDS)}", f"payloads[{i}].kind"
        if not payload.path or payload.path in paths:
            return "each payload needs a path of its own", f"payloads[{i}].path"
        paths.add(payload.path)
    return None


def _check_conditions(section: UpdateSection) -> tuple[str, str] | None:
    names: Iterable[str] = [condition.name for condition in section.conditions]
    for i, condition in enumerate(section.conditions):
        if not condition.name or list(names).index(condition.name) != i:
            return "each condition needs a name of its own", f"conditions[{i}].name"
        if not condition.signal:
            return "is missing", f"conditions[{i}].signal"
        low, high = condition.at_least, condition.at_most
        if low is None and high is None:
            return "at_least or at_most is missing", f"conditions[{i}]"
        if low is not None and high is not None and not low <= high:
            return "at least at_least", f"conditions[{i}].at_most"
        if not 0 < condition.max_age_s <= 86_400:
            return "must be from 0 to 86400", f"conditions[{i}].max_age_s"
    return None


def _check_ecu(ecu: UpdateEcu) -> tuple[str, str] | None:
    if not NAME.fullmatch(ecu.hardware_id):
        return "letters, digits, '.', '_' and '-' only, at most 64", "hardware_id"
    words = (
        "hardware_did",
        "version_did",
        "serial_did",
        "digest_did",
        "preconditions_routine",
        "erase_routine",
        "check_routine",
        "dependencies_routine",
    )
    for key in words:
        value = getattr(ecu, key)
        if value is not None and not 0 <= value <= 0xFFFF:
            return "must be from 0 to 0xFFFF", key
    if ecu.security_level and not (1 <= ecu.security_level <= 0x41 and ecu.security_level % 2):
        return "must be odd, from 1 to 0x41, or 0 for none", "security_level"
    if ecu.load_address is not None and not 0 <= ecu.load_address < 1 << 40:
        return "must be from 0 to 2^40", "load_address"
    if not 0.1 <= ecu.reset_s <= 3600:
        return "must be from 0.1 to 3600", "reset_s"
    if ecu.max_block_bytes < 0:
        return "0 or more", "max_block_bytes"
    return (f"must be one of {', '.join(QUIET)}", "quiet") if ecu.quiet not in QUIET else None

"""The gateway's configuration: one TOML file, one frozen type, unknown keys refused, values only.

Paths are relative to the file's folder. Every limit in the code is a field here, with its unit in the name and a
default that suits a bench.
"""

from __future__ import annotations

import os
import re
import tomllib
from operator import attrgetter
from pathlib import Path

import msgspec

from gateway.can.config import MAX_BUSES, BusConfig, ReadConfig, ReplayConfig
from gateway.collect.budget import BudgetConfig
from gateway.collect.model import Limits
from gateway.diag.config import DiagnosticsSection
from gateway.errors import ConfigError
from gateway.firewall.can_rules import RoutingSection
from gateway.link.identity import VEHICLE_ID
from gateway.update.config import UpdateSection
from gateway.wire.api import MAX_BATCH_BYTES
from gateway.wire.codec import MAX_ITEMS


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Common rules of all sections."""


class CollectSection(_Section, frozen=True):
    """``[collect]``: what is collected."""

    manifest: str
    schemes: tuple[str, ...]


class SpoolSection(_Section, frozen=True):
    """``[spool]``: where batches wait."""

    directory: str = "spool"
    max_bytes: int = 512 * 1024 * 1024
    segment_bytes: int = 4 * 1024 * 1024


class TelemetrySection(_Section, frozen=True):
    """``[telemetry]``: how batches are cut."""

    critical_period_s: float = 2.0
    normal_period_s: float = 60.0
    bulk_period_s: float = 60.0
    max_batch_items: int = 250_000
    max_batch_bytes: int = MAX_BATCH_BYTES
    checkpoint_s: float = 2.0
    channel_depth: int = 64
    drain_s: float = 30.0


class LinkSection(_Section, frozen=True):
    """``[link]``: the way to the cloud. Without an identity directory the gateway only stores."""

    identity_directory: str | None = None
    url: str | None = None  # instead of the one enrolment gave
    timeout_s: float = 30.0
    window: int = 4
    backoff_first_s: float = 1.0
    backoff_max_s: float = 60.0
    check_in_s: float = 60.0
    drain_s: float = 10.0
    renewal_check_s: float = 3600.0
    kind_file: str | None = None  # a file holding "wifi" or "cellular", kept by the modem manager
    downlink: bool = True


class RuntimeSection(_Section, frozen=True):
    """``[runtime]``: the process."""

    status_socket: str | None = "gateway.sock"  # empty: none
    exit_when_replayed: bool = False  # stop once every replayed log has ended and all is uploaded


class Config(_Section, frozen=True):
    """The whole file."""

    vehicle: str
    buses: tuple[BusConfig, ...]
    collect: CollectSection
    limits: Limits = Limits()
    budget: BudgetConfig = BudgetConfig()
    read: ReadConfig = ReadConfig()
    replay: ReplayConfig = ReplayConfig()
    spool: SpoolSection = SpoolSection()
    telemetry: TelemetrySection = TelemetrySection()
    link: LinkSection = LinkSection()
    runtime: RuntimeSection = RuntimeSection()
    diagnostics: DiagnosticsSection = DiagnosticsSection()
    routing: RoutingSection = RoutingSection()
    update: UpdateSection = UpdateSection()


#: The smallest and largest value of each key, as ``section.key``. NaN is in no range.
_RANGES: dict[str, tuple[float, float]] = {
    **{f"limits.{name}": (1, 10**9) for name in Limits.__struct_fields__},
    "spool.max_bytes": (1, 2**50),
    "spool.segment_bytes": (1, 2**40),
    "telemetry.critical_period_s": (0.001, 86_400),
    "telemetry.normal_period_s": (0.001, 86_400),
    "telemetry.bulk_period_s": (0.001, 86_400),
    "telemetry.max_batch_items": (1, MAX_ITEMS),
    "telemetry.max_batch_bytes": (1, MAX_BATCH_BYTES),
    "telemetry.checkpoint_s": (0.001, 86_400),
    "telemetry.channel_depth": (1, 1_000_000),
    "telemetry.drain_s": (0, 86_400),
    "link.timeout_s": (0.001, 86_400),
    "link.window": (1, 1000),
    "link.backoff_first_s": (0.001, 86_400),
    "link.backoff_max_s": (0.001, 86_400),
    "link.check_in_s": (0.001, 86_400),
    "link.drain_s": (0, 86_400),
    "link.renewal_check_s": (0.001, 31_536_000),
    "diagnostics.poll.period_s": (0, 86_400),
    "diagnostics.poll.first_s": (0, 86_400),
    "diagnostics.vehicle_state.standstill_below": (0.001, 100),
    "update.poll_s": (1, 31_536_000),
    "update.report_s": (0.1, 86_400),
    "update.time_max_age_s": (60, 31_536_000),
    "update.min_bytes_per_s": (0, 1e9),
    "update.slow_s": (1, 86_400),
    "update.max_image_bytes": (1, 2**50),
    "update.keep_free_bytes": (0, 2**50),
    "update.segment_bytes": (4096, 64 * 1024 * 1024),
    "update.utc_offset_min": (-18 * 60, 18 * 60),
    "update.conditions_within_s": (1, 31_536_000),
    "update.attempts": (1, 100),
    "update.slots.tries": (1, 7),
    "update.health.within_s": (1, 86_400),
    "update.health.steady_s": (0, 86_400),
    "update.flashing.attempts": (1, 100),
    "update.flashing.passes": (1, 1000),
    "update.flashing.restores": (1, 1000),
    "update.flashing.restores_in_a_row": (1, 1000),
    "update.flashing.pause_s": (0, 86_400),
    "update.flashing.save_every_bytes": (256, 2**30),
}

ECU_NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")

#: The kernel's room for the path of a Unix socket, less its end.
MAX_SOCKET_PATH_BYTES = 107


def load_config(path: Path) -> Config:
    """Read and check a configuration file; files it names are not opened.

    Raises:
        ConfigError: with the file and the key that is wrong.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(error.strerror or str(error), path=str(path)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(error), path=str(path)) from error
    try:
        config = msgspec.convert(raw, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(str(error).replace("`", ""), path=str(path)) from error
    _check(config, str(path))
    return config


def _check(config: Config, path: str) -> None:
    if not VEHICLE_ID.fullmatch(config.vehicle):
        raise ConfigError("letters, digits, '.', '_' and '-' only, at most 64", path=path, where="$.vehicle")
    if not config.buses:
        raise ConfigError("at least one [[buses]] is needed", path=path, where="$.buses")
    if len(config.buses) > MAX_BUSES:
        raise ConfigError(f"at most {MAX_BUSES} buses", path=path, where="$.buses")
    names = [bus.name for bus in config.buses]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise ConfigError(f"bus {name!r} is named twice", path=path, where=f"$.buses[{i}].name")
    if not config.collect.schemes:
        raise ConfigError("at least one scheme is needed", path=path, where="$.collect.schemes")
    _check_ecus(config, names, path)
    for key, (smallest, largest) in _RANGES.items():
        if not smallest <= attrgetter(key)(config) <= largest:
            raise ConfigError(f"must be from {smallest} to {largest}", path=path, where=f"$.{key}")
    _check_update(config, names, path)
    if config.spool.max_bytes < 4 * config.spool.segment_bytes:
        raise ConfigError("at least four segments (spool.segment_bytes)", path=path, where="$.spool.max_bytes")
    if config.link.backoff_max_s < config.link.backoff_first_s:
        raise ConfigError("at least link.backoff_first_s", path=path, where="$.link.backoff_max_s")
    if config.link.url is not None and not re.fullmatch(r"https://[^/\s]+(/\S*)?", config.link.url):
        raise ConfigError("must be https://HOST or https://HOST:PORT", path=path, where="$.link.url")


def _check_update(config: Config, buses: list[str], path: str) -> None:
    """Loaded only where updates are wanted, or half a section says that they should be."""
    if config.update == UpdateSection():
        return
    from gateway.update.config_check import check_update_section

    check_update_section(config.update, buses, [ecu.name for ecu in config.diagnostics.ecus], path)


def _check_ecus(config: Config, buses: list[str], path: str) -> None:
    """Names and logical addresses are unique, buses exist, identifiers fit the addressing."""
    section = config.diagnostics
    own = {section.doip.logical_address: "the gateway", section.doip.functional_address: "the functional group"}
    if len(own) < 2:
        raise ConfigError("is also the gateway's", path=path, where="$.diagnostics.doip.functional_address")
    if section.ecus:
        from gateway.diag.addresses import address_of, settings_of  # brings ISO-TP along, which others need not load
    known: set[str] = {"gateway"}
    for i, ecu in enumerate(section.ecus):
        where = f"$.diagnostics.ecus[{i}]"
        if ecu.name in known:
            raise ConfigError(f"an ECU is already called {ecu.name!r}", path=path, where=f"{where}.name")
        if not ECU_NAME.fullmatch(ecu.name):
            raise ConfigError("letters, digits, '_' and '-' only, at most 32", path=path, where=f"{where}.name")
        known.add(ecu.name)
        if ecu.logical_address in own:
            taken = own[ecu.logical_address]
            raise ConfigError(f"is also that of {taken}", path=path, where=f"{where}.logical_address")
        own[ecu.logical_address] = ecu.name
        if ecu.bus not in buses:
            raise ConfigError(f"no bus {ecu.bus!r} ({', '.join(buses)})", path=path, where=f"{where}.bus")
        try:
            address_of(ecu, where=where)
            settings_of(ecu, where=where)
        except ConfigError as error:
            raise ConfigError(str(error).partition(" - at ")[0], path=path, where=where) from error
    if section.obd_port.enabled and not section.obd_port.channel:
        raise ConfigError("is missing", path=path, where="$.diagnostics.obd_port.channel")


def status_socket_path(config: Config, base: Path) -> Path | None:
    """Where the status socket is; None when there is none.

    Raises:
        ConfigError: no socket can have such a path.
    """
    if not config.runtime.status_socket:
        return None
    path = base / config.runtime.status_socket
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES or "\0" in str(path):
        message = f"{path}: longer than {MAX_SOCKET_PATH_BYTES} bytes, the longest path of a socket"
        raise ConfigError(message, where="$.runtime.status_socket")
    return path

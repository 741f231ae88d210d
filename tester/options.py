"""Arguments that all commands share, and where their defaults come from.

A connection is looked for in this order: ``--via``, the environment's ``OUTRIDER_UDS`` (several separated by blanks),
``via`` in the user's ``uds.toml``. A vehicle likewise: ``--vehicle``, ``OUTRIDER_UDS_VEHICLE``, ``vehicle`` in
``uds.toml``, else the generic one.
"""

from __future__ import annotations

import argparse
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from tester.connect import Waits
from tester.errors import FileError, UsageError
from tester.vehicle import Vehicle, generic_vehicle
from tester.vehicle_files import load_vehicle
from tester.via import Via, parse_via


class Defaults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``uds.toml``."""

    via: tuple[str, ...] = ()
    vehicle: str = ""
    p2_ms: int | None = None
    timeout_s: float | None = None
    latency_ms: int | None = None


def defaults_path(environment: Mapping[str, str] = os.environ) -> Path:
    """``$XDG_CONFIG_HOME/outrider/uds.toml``, usually ``~/.config/outrider/uds.toml``."""
    base = environment.get("XDG_CONFIG_HOME") or str(Path(environment.get("HOME", ".")) / ".config")
    return Path(base) / "outrider" / "uds.toml"


def load_defaults(environment: Mapping[str, str] = os.environ) -> Defaults:
    """The user's, the environment's before the file's.

    Raises:
        FileError: ``uds.toml`` is wrong.
    """
    path = defaults_path(environment)
    defaults = Defaults()
    try:
        defaults = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Defaults)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass
    except (OSError, ValueError) as error:  # tomllib's, msgspec's and UTF-8's errors are ValueErrors
        raise FileError(path, str(error)) from error
    if defaults.vehicle:
        vehicle = str(path.parent / Path(defaults.vehicle).expanduser())
        defaults = msgspec.structs.replace(defaults, vehicle=vehicle)
    if environment.get("OUTRIDER_UDS"):
        defaults = msgspec.structs.replace(defaults, via=tuple(environment["OUTRIDER_UDS"].split()))
    if environment.get("OUTRIDER_UDS_VEHICLE"):
        defaults = msgspec.structs.replace(defaults, vehicle=environment["OUTRIDER_UDS_VEHICLE"])
    return defaults


def positive_ms(text: str) -> int:
    """For argparse."""
    value = int(text)
    if not 1 <= value <= 3_600_000:
        raise argparse.ArgumentTypeError(f"{text}: 1 to 3600000 milliseconds")
    return value


def positive_s(text: str) -> float:
    """For argparse."""
    value = float(text)
    if not 0 < value <= 86_400:
        raise argparse.ArgumentTypeError(f"{text}: more than 0, at most 86400 seconds")
    return value


def hex_number(most: int) -> type:
    """A converter for argparse: hexadecimal, with or without 0x."""

    def convert(text: str) -> int:
        try:
            value = int(text, 16)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is no hexadecimal number") from error
        if not 0 <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not within 0 to {most:X}")
        return value

    return convert  # type: ignore[return-value]  # argparse takes any callable; its stub wants a type


def add_connection(parser: argparse.ArgumentParser, *, ecu: str = "several") -> None:
    """``--via`` and the rest. ``ecu``: "several" (default all), "one" (needed), or "none"."""
    group = parser.add_argument_group("connection")
    group.add_argument(
        "--via", action="append", metavar="[BUS=]INTERFACE:CHANNEL",
        help="where to connect: can:can0, udp_multicast:GROUP, doip:HOST[:PORT], doips:HOST, any interface of "
        "python-can; may be repeated with bus names (default: $OUTRIDER_UDS, else uds.toml)",
    )  # fmt: skip
    group.add_argument(
        "--vehicle", metavar="FILE",
        help="what the vehicle has: a vehicle TOML, the JSON of `outrider sim describe --json`, or a gateway.toml "
        "(default: $OUTRIDER_UDS_VEHICLE, uds.toml, else generic OBD addresses)",
    )  # fmt: skip
    if ecu == "several":
        group.add_argument("--ecu", action="append", metavar="NAME", help="only this ECU; may be repeated")
    elif ecu == "one":
        group.add_argument("--ecu", required=True, metavar="NAME", help="name, request identifier or DoIP address")
    group.add_argument("--p2", type=positive_ms, metavar="MS", help="wait so long for the first answer")
    group.add_argument("--timeout", type=positive_s, metavar="S", help="limit of one request with all its waiting")
    group.add_argument("--latency", type=positive_ms, metavar="MS", help="allowed for bus and routing on top of P2")
    group.add_argument("--trace", metavar="FILE", help="append every request and answer with its time (JSON lines)")
    parser.add_argument("--json", action="store_true", help="for machines")


def add_write(parser: argparse.ArgumentParser, *, dry_run: bool = True) -> None:
    """``--write`` and ``--dry-run``."""
    parser.add_argument("--write", action="store_true", help="really do it: nothing is changed without")
    if dry_run:
        parser.add_argument("--dry-run", action="store_true", help="only say what would be done")


def vehicle_of(args: argparse.Namespace, defaults: Defaults) -> Vehicle:
    """The vehicle asked for.

    Raises:
        FileError: it cannot be read.
    """
    name = args.vehicle or defaults.vehicle
    return load_vehicle(Path(name)) if name and name != "generic" else generic_vehicle()


def vias_of(args: argparse.Namespace, defaults: Defaults) -> list[Via]:
    """The connections asked for.

    Raises:
        UsageError: one that cannot be understood.
    """
    return [parse_via(text) for text in (args.via or defaults.via)]


def waits_of(args: argparse.Namespace, defaults: Defaults) -> Waits:
    """The patience asked for."""
    return Waits(
        p2_ms=args.p2 or defaults.p2_ms,
        timeout_s=args.timeout or defaults.timeout_s,
        latency_ms=args.latency or defaults.latency_ms,
    )


__all__ = [
    "Defaults", "UsageError", "add_connection", "add_write", "defaults_path", "hex_number", "load_defaults",
    "positive_ms", "positive_s", "vehicle_of", "vias_of", "waits_of",
]  # fmt: skip

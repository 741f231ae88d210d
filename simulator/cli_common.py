"""What the commands of ``outrider sim`` share."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from dbc.load import compile_manifest
from dbc.logs import LogError, MissingPackageError
from dbc.manifest import Manifest
from simulator.buses import BUS_NAMES, BUSES, find_bus
from simulator.ports import BusPort, PortError, open_port
from simulator.runner import Summary
from simulator.sinks import Sink


def vehicle_manifest() -> Manifest:
    """The manifest of the simulated vehicle, compiled from its DBCs."""
    return compile_manifest({bus.name: [bus.dbc] for bus in BUSES}, name="outrider-one")[0]


def fail(command: str, error: object, status: int) -> int:
    """Tell an error on stderr; returns ``status``."""
    if isinstance(error, OSError) and error.strerror:
        error = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    print(f"outrider sim {command}: {error}", file=sys.stderr)
    return status


def parse_buses(given: Sequence[str], interface: str | None) -> dict[str, tuple[str, str]]:
    """Bus name to (interface, channel) from ``--bus`` and ``--interface``.

    Raises:
        ValueError: not NAME=CHANNEL, a name twice, or an interface that has no default channels.
    """
    out: dict[str, tuple[str, str]] = {}
    for item in given:
        name, equals, channel = item.partition("=")
        if not equals or not name or not channel:
            raise ValueError(f"--bus {item!r}: expected NAME=CHANNEL")
        if name in out:
            raise ValueError(f"--bus {name}: given twice")
        out[name] = (interface or "socketcan", channel)
    if out or interface is None:
        return out
    if interface == "socketcan":
        return {bus.name: (interface, bus.vcan) for bus in BUSES}
    if interface == "udp_multicast":
        return {bus.name: (interface, bus.group) for bus in BUSES}
    raise ValueError(f"--interface {interface}: say --bus NAME=CHANNEL for each bus")


def open_ports(buses: dict[str, tuple[str, str]], listen: dict[str, list[int]]) -> dict[str, BusPort]:
    """Open all; what was opened is closed again if one fails.

    Raises:
        PortError: one cannot be opened.
    """
    ports: dict[str, BusPort] = {}
    try:
        for name, (interface, channel) in buses.items():
            fd = find_bus(name).fd if name in BUS_NAMES else True
            bitrate = find_bus(name).bitrate_bps if name in BUS_NAMES else 500_000
            ports[name] = open_port(interface, channel, listen=listen.get(name, []), fd=fd, bitrate_bps=bitrate)
    except PortError:
        for port in ports.values():
            port.close()
        raise
    return ports


def carry_out(command: str, work: Callable[[], Summary], sink: Sink, path: Path | None) -> int:
    """Do the work, close the sink whatever happens, print and write the summary; returns the exit status.

    Frames that could not be sent are an I/O error.
    """
    try:
        try:
            summary = work()
        finally:
            sink.close()
    except MissingPackageError as error:
        return fail(command, error, os.EX_UNAVAILABLE)
    except LogError as error:
        return fail(command, error, os.EX_DATAERR)
    except ValueError as error:
        return fail(command, error, os.EX_USAGE)
    except OSError as error:
        return fail(command, error, os.EX_IOERR)
    print(summary.as_text(), file=sys.stderr)
    if path is not None:
        try:
            summary.write(path)
        except OSError as error:
            return fail(command, error, os.EX_CANTCREAT)
    return os.EX_IOERR if summary.failed else os.EX_OK

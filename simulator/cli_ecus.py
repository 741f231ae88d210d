"""The ECUs on the command line: `outrider sim describe`, and their part of `outrider sim run`."""

from __future__ import annotations

import argparse
import importlib
import json
import os
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from simulator.cli_common import fail
from simulator.ecu.description import DescriptionError, EcuDescription, ecu_names, load_description
from simulator.generator import Simulation
from simulator.ports import MulticastPort
from simulator.sinks import BusSink, Sink, Tee

if TYPE_CHECKING:
    from simulator.ecu.host import EcuHost
    from simulator.ecu.vehicle import VehiclePort


def open_ecus(
    args: argparse.Namespace, simulation: Simulation, buses: dict[str, tuple[str, str]], sink: Sink
) -> EcuHost | None:
    """The ECUs asked for that are on the buses given, listening; None: there is none.

    Raises:
        DescriptionError: no such ECU, or a description that is wrong.
        PortError: a bus cannot be opened.
        OSError: the state folder cannot be used.
    """
    if not buses:
        return None
    host = importlib.import_module("simulator.ecu.host")  # loads can-isotp, which runs without ECUs need not have
    adapter = importlib.import_module("simulator.ecu.sim_vehicle")
    names = [n for n in host.chosen_ecus(args.ecus) if load_description(n).transport.bus in buses]
    if not names:
        return None

    def vehicle(descriptions: Collection[EcuDescription]) -> VehiclePort:
        network = [message for d in descriptions for message in d.network_messages]
        port: VehiclePort = adapter.SimulatedVehicle(simulation, network)
        return port

    ecus: EcuHost = host.EcuHost(names, vehicle, state=args.state)
    kernel = {"auto": None, "kernel": True, "library": False}[args.isotp]
    try:
        ecus.open(buses, kernel=kernel, ignore=_own_ports(sink))
    except OSError:
        ecus.close()
        raise
    return ecus


def _own_ports(sink: Sink) -> dict[str, int]:
    """UDP ports by bus that the simulation's own frames come from."""
    to_buses = sink.first if isinstance(sink, Tee) else sink
    if not isinstance(to_buses, BusSink):
        return {}
    return {
        to_buses.buses[bus]: port.sending_port
        for bus, port in to_buses.ports.items()
        if isinstance(port, MulticastPort)
    }


def add_describe(parser: argparse.ArgumentParser) -> None:
    """``outrider sim describe``."""
    parser.description = "Exactly what each simulated ECU answers: services by session, identifiers, security, timing."
    parser.add_argument("--ecu", metavar="NAME|FILE", help="only this one")
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.set_defaults(run=describe_command)


def describe_command(args: argparse.Namespace) -> int:
    """``outrider sim describe``."""
    describe = importlib.import_module("simulator.ecu.describe")
    try:
        found = [describe.describe(load_description(name)) for name in ([args.ecu] if args.ecu else ecu_names())]
    except DescriptionError as error:
        return fail("describe", error, os.EX_DATAERR)
    if args.json:
        print(json.dumps({"ecus": found}, indent=1))
        return os.EX_OK
    print("\n\n".join(describe.as_text(one) for one in found))
    return os.EX_OK


def describe_all() -> list[dict[str, Any]]:
    """All shipped ECUs, for tests and tools."""
    describe = importlib.import_module("simulator.ecu.describe")
    return [describe.describe(load_description(name)) for name in ecu_names()]

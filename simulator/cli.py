"""``outrider sim``: run the simulated vehicle, replay a log, load a bus. Argument parsing and exit statuses."""

from __future__ import annotations

import argparse
import contextlib
import os
import time
from pathlib import Path

from simulator.actuation import Actuators
from simulator.buses import BUS_NAMES, find_bus
from simulator.cli_common import carry_out, fail, open_ports, parse_buses, vehicle_manifest
from simulator.cli_ecus import add_describe, open_ecus
from simulator.cli_traffic import add_load, add_replay
from simulator.control import ControlServer
from simulator.ecu.flash_cli import add_image_command
from simulator.faults import FaultError, parse_fault
from simulator.generator import Simulation
from simulator.pacing import RealPacer
from simulator.ports import PortError
from simulator.runner import Runner, Summary
from simulator.scenario import Scenario, ScenarioError, list_scenarios, load_scenario
from simulator.sinks import BusSink, CountingSink, LogSink, Sink, Tee


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the commands of this group."""
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_run(commands.add_parser("run", help="simulate the Outrider One"))
    add_replay(commands.add_parser("replay", help="play a recorded log onto buses"))
    add_load(commands.add_parser("load", help="fill buses with numbered frames"))
    add_describe(commands.add_parser("describe", help="what the simulated ECUs answer"))
    add_image_command(commands)
    listing = commands.add_parser("list", help="the shipped scenarios")
    listing.set_defaults(run=list_command)
    manifest = commands.add_parser("manifest", help="write the simulated vehicle's manifest")
    manifest.add_argument("--out", type=Path, required=True, metavar="FILE")
    manifest.set_defaults(run=manifest_command)


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Without --bus, --interface or --log the frames are only counted. Speed 0 is as fast as it goes and the "
        "default where no bus is used; scenarios end by themselves, --duration overrules."
    )
    parser.add_argument("--scenario", default="city", metavar="NAME|FILE", help="see `outrider sim list`; default city")
    parser.add_argument(
        "--bus", action="append", default=[], metavar="NAME=CHANNEL",
        help="bus of the vehicle and where it goes, such as powertrain=vcan0; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--interface", metavar="NAME",
        help="socketcan (default with --bus), udp_multicast, or an interface of python-can; without --bus all buses",
    )  # fmt: skip
    parser.add_argument("--log", type=Path, metavar="FILE", help="record candump lines; .xz compresses")
    parser.add_argument("--seed", type=int, metavar="N", help="default: the scenario's")
    parser.add_argument("--speed", type=float, metavar="X", help="1 is real time, 0 as fast as it goes")
    parser.add_argument("--duration", type=float, metavar="SECONDS", help="of the vehicle's time")
    parser.add_argument(
        "--fault", action="append", default=[], metavar="KIND[:TARGET][@START[+DURATION]][=VALUE]",
        help="inject a fault, such as stuck:chassis.VehicleDynamics.YawRate@30+10=5; may be repeated",
    )  # fmt: skip
    parser.add_argument("--summary", type=Path, metavar="FILE", help="write what was sent as JSON")
    parser.add_argument("--control", type=Path, metavar="SOCKET", help="listen here for commands, a JSON object a line")
    parser.add_argument(
        "--ecus", default="all", metavar="all|none|NAME,…",
        help="ECUs that answer diagnostic requests on the buses given; see `outrider sim describe`; default all",
    )  # fmt: skip
    parser.add_argument("--state", type=Path, metavar="DIR", help="keep the ECUs' non-volatile memory here")
    parser.add_argument(
        "--isotp", choices=("auto", "kernel", "library"), default="auto",
        help="where ISO-TP is done; auto takes the kernel where it can",
    )  # fmt: skip
    parser.set_defaults(run=run_command)


def run_command(args: argparse.Namespace) -> int:
    """``outrider sim run``."""
    try:
        scenario = load_scenario(args.scenario)
        buses = parse_buses(args.bus, args.interface)
        for name in buses:
            find_bus(name)
        live = bool(buses)
        speed = args.speed if args.speed is not None else 1.0 if live else 0.0
        simulation = _simulation(args, scenario, live=live)
    except (ScenarioError, FaultError) as error:
        return fail("run", error, os.EX_DATAERR)
    except (ValueError, KeyError) as error:
        return fail("run", error.args[0] if error.args else error, os.EX_USAGE)
    try:
        sink = _sink(args, buses, simulation.actuators)
    except PortError as error:
        return fail("run", error.strerror, os.EX_UNAVAILABLE)
    except (OSError, ValueError) as error:
        return fail("run", error, os.EX_CANTCREAT)

    try:
        ecus = open_ecus(args, simulation, buses, sink)
    except PortError as error:
        sink.close()
        return fail("run", error.strerror, os.EX_UNAVAILABLE)
    except (OSError, ValueError) as error:
        sink.close()
        return fail("run", error, os.EX_DATAERR)

    def work() -> Summary:
        with RealPacer() as pacer, contextlib.closing(ecus) if ecus else contextlib.nullcontext():
            duration_s = scenario.duration_s if args.duration is None else args.duration
            runner = Runner(simulation, sink, pacer, speed=speed, duration_s=duration_s, ears=ecus)
            if ecus is not None:
                ecus.watch(pacer)
                pacer.timed = ecus
            with ControlServer(args.control, runner, pacer, ecus.actions() if ecus else None):
                return runner.run()

    return carry_out("run", work, sink, args.summary)


def _simulation(args: argparse.Namespace, scenario: Scenario, *, live: bool) -> Simulation:
    epoch_ns = time.time_ns() // 10**9 * 10**9 if live else scenario.epoch_ns
    seed = scenario.seed if args.seed is None else args.seed
    if not 0 <= seed <= 2**32:
        raise ValueError(f"--seed {seed}: 0 to {2**32}")
    simulation = Simulation(vehicle_manifest(), scenario, seed=seed, epoch_ns=epoch_ns)
    for text in args.fault:
        simulation.faults.add(parse_fault(text))
    return simulation


def _sink(args: argparse.Namespace, buses: dict[str, tuple[str, str]], actuators: Actuators) -> Sink:
    log = LogSink(args.log, BUS_NAMES) if args.log else None
    if not buses:
        return log or CountingSink(BUS_NAMES)
    listen = {BUS_NAMES[bus]: ids for bus, ids in actuators.identifiers.items()}
    to_buses = BusSink(BUS_NAMES, open_ports(buses, listen))
    return Tee(to_buses, log) if log else to_buses


def list_command(args: argparse.Namespace) -> int:
    """``outrider sim list``."""
    for scenario in list_scenarios():
        print(f"{scenario.name:<12}{scenario.duration_s:>7.0f} s  {scenario.description}")
    return os.EX_OK


def manifest_command(args: argparse.Namespace) -> int:
    """``outrider sim manifest``."""
    manifest = vehicle_manifest()
    try:
        args.out.write_bytes(manifest.to_bytes())
    except OSError as error:
        return fail("manifest", error, os.EX_CANTCREAT)
    print(f"{manifest.hash.hex()}  {len(manifest.messages)} messages, {len(manifest.signals)} signals")
    return os.EX_OK

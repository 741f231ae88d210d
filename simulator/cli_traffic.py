"""``outrider sim replay`` and ``outrider sim load``: traffic that is not the simulated vehicle's."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from simulator.cli_common import carry_out, fail, open_ports, parse_buses
from simulator.load import LoadSettings, frame_seconds, load, parse_ids
from simulator.pacing import RealPacer
from simulator.ports import PortError
from simulator.replay import replay
from simulator.runner import Summary
from simulator.sinks import BusSink, CountingSink, LogSink, Sink


def add_replay(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``replay``."""
    parser.description = "Play a candump, ASC, BLF or GVRET log. Without --bus the frames are only counted."
    parser.add_argument("log", metavar="LOG")
    parser.add_argument(
        "--bus", action="append", default=[], metavar="NAME=CHANNEL",
        help="bus in the log and where it goes, such as can0=vcan0; others are left out",
    )  # fmt: skip
    parser.add_argument("--interface", metavar="NAME", help="socketcan (default), udp_multicast, or one of python-can")
    parser.add_argument("--speed", type=float, metavar="X", help="1 is real time, 0 as fast as it goes")
    parser.add_argument("--loop", type=int, nargs="?", const=0, default=1, metavar="N", help="N times; bare: for ever")
    parser.add_argument("--summary", type=Path, metavar="FILE", help="write what was sent as JSON")
    parser.set_defaults(run=replay_command)


def replay_command(args: argparse.Namespace) -> int:
    """``outrider sim replay``."""
    try:
        buses = parse_buses(args.bus, args.interface if args.bus else None)
        if args.interface and not args.bus:
            raise ValueError("--interface: say --bus NAME=CHANNEL for the buses of the log")
    except ValueError as error:
        return fail("replay", error, os.EX_USAGE)
    if not os.path.isfile(args.log):
        return fail("replay", f"{args.log}: no such file", os.EX_NOINPUT)
    names = tuple(buses) or tuple(f"bus{i}" for i in range(256))
    try:
        sink: Sink = BusSink(names, open_ports(buses, {})) if buses else CountingSink(names)
    except PortError as error:
        return fail("replay", error.strerror, os.EX_UNAVAILABLE)
    speed = args.speed if args.speed is not None else 1.0 if buses else 0.0
    numbers = {name: i for i, name in enumerate(names)} if buses else None

    def work() -> Summary:
        with RealPacer() as pacer:
            summary = replay(args.log, numbers, sink, pacer, speed=speed, loops=args.loop)
        summary.buses = {name: count for name, count in summary.buses.items() if count.made or name in buses}
        if buses and summary.complete and not any(count.made for count in summary.buses.values()):
            raise ValueError(f"{args.log}: no frame of {', '.join(buses)}; nothing was sent")
        for name in (name for name in buses if not summary.buses[name].made):
            print(f"outrider sim replay: {args.log}: no frame of {name}", file=sys.stderr)
        if summary.skipped_lines:
            print(f"outrider sim replay: {summary.skipped_lines} lines of {args.log} were skipped", file=sys.stderr)
        return summary

    return carry_out("replay", work, sink, args.summary)


def add_load(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``load``."""
    parser.description = (
        "Send numbered frames on each --bus. --rate 0 sends as many as the bus takes. Without --bus they are only made "
        "and counted, or recorded by --log."
    )
    parser.add_argument("--bus", action="append", default=[], metavar="NAME=CHANNEL", help="such as body=vcan2")
    parser.add_argument("--interface", metavar="NAME", help="socketcan (default), udp_multicast, or one of python-can")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--rate", type=float, metavar="N", help="frames per second on each bus")
    how.add_argument("--percent", type=float, metavar="P", help="of what the bus can carry")
    parser.add_argument("--ids", default="100-13F", metavar="LIST", help="hexadecimal, such as 100-13F,7DF")
    parser.add_argument("--extended", action="store_true", help="29-bit identifiers")
    parser.add_argument("--fd", action="store_true", help="CAN FD frames")
    parser.add_argument("--length", type=int, default=8, metavar="BYTES")
    parser.add_argument("--bitrate", type=int, default=500_000, metavar="BPS", help="for --percent; default 500000")
    parser.add_argument("--data-bitrate", type=int, default=2_000_000, metavar="BPS", help="for --percent with --fd")
    parser.add_argument("--duration", type=float, default=10.0, metavar="SECONDS")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--log", type=Path, metavar="FILE", help="record candump lines instead of sending")
    parser.add_argument("--summary", type=Path, metavar="FILE", help="write what was sent as JSON")
    parser.set_defaults(run=load_command)


def load_command(args: argparse.Namespace) -> int:
    """``outrider sim load``."""
    try:
        buses = parse_buses(args.bus, args.interface)
        settings = LoadSettings(
            rate=_rate(args), ids=parse_ids(args.ids), extended=args.extended, fd=args.fd, length=args.length,
            seed=args.seed,
        )  # fmt: skip
        if buses and args.log:
            raise ValueError("--log records instead of sending: leave out --bus and --interface")
    except ValueError as error:
        return fail("load", error, os.EX_USAGE)
    names = tuple(buses) or ("can0",)
    sink: Sink
    try:
        if buses:
            sink = BusSink(names, open_ports(buses, {}))
        else:
            sink = LogSink(args.log, names) if args.log else CountingSink(names)
    except PortError as error:
        return fail("load", error.strerror, os.EX_UNAVAILABLE)
    except OSError as error:
        return fail("load", error, os.EX_CANTCREAT)

    def work() -> Summary:
        with RealPacer() as pacer:
            return load(settings, names, sink, pacer, duration_s=args.duration, paced=bool(buses))

    return carry_out("load", work, sink, args.summary)


def _rate(args: argparse.Namespace) -> float:
    if args.rate is not None:
        return float(args.rate)
    if not 0 < args.percent <= 200 or args.bitrate <= 0 or args.data_bitrate <= 0:
        raise ValueError("--percent is above 0 and at most 200, bit rates are positive")
    seconds = frame_seconds(
        args.length, extended=args.extended, fd=args.fd, bitrate_bps=args.bitrate, data_bitrate_bps=args.data_bitrate
    )
    return float(args.percent / 100 / seconds)

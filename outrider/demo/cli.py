"""``outrider demo``: arguments, the story it plays, and its exit status."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from importlib.resources import files
from pathlib import Path
from types import FrameType

import httpx

from dbc.logs import LogError, open_log
from outrider.demo.processes import Child, Children, DemoError, run
from outrider.demo.result import Outcome, outcome_of, report
from outrider.demo.rollout import Board, roll_out
from outrider.demo.stage import Bus, Cloud, Vehicle, data_directory, fresh_directory
from outrider.demo.workshop import control, diagnostics_config, visit
from simulator.buses import BUSES

RECORDED_LOG, RECORDED_DBC = "can/logs/rav4_2016_bus0_60s.log.xz", "can/dbc/toyota_new_mc_pt_generated.dbc"
SETTLE_S = 60.0
WORKSHOP_S = 300.0  # the visit ends it before


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the demo's options; it has no subcommands."""
    parser.add_argument("--headless", action="store_true", help="end by itself; status 0 only if nothing was lost")
    parser.add_argument("--log", type=Path, metavar="FILE", help="replay this log as the second vehicle")
    parser.add_argument(
        "--dbc", action="append", default=[], metavar="[BUS=]FILE", help="what decodes it; for every bus without BUS="
    )
    parser.add_argument("--seconds", type=float, metavar="N", help="how long the simulated vehicle drives (20, or 60)")
    parser.add_argument("--speed", type=float, metavar="X", help="speed of the replay (8, or 2; 0: full speed)")
    parser.add_argument("--scenario", default="city", help="what the simulated vehicle does (see: outrider sim list)")
    parser.add_argument("--dir", type=Path, default=Path("demo-data"), help="where everything is kept (%(default)s)")
    parser.add_argument("--port", type=int, default=8080, help="the console's port (%(default)s, or a free one)")
    parser.set_defaults(run=play)


def say(text: str = "") -> None:
    """Tell the visitor."""
    print(text, flush=True)


class _Interrupted(Exception):
    """Ctrl-C or SIGTERM."""


def _interrupt(signum: int, frame: FrameType | None) -> None:
    del frame
    signal.signal(signum, signal.SIG_IGN)
    raise _Interrupted


def play(arguments: argparse.Namespace) -> int:
    """Play the demo. 0: nothing lost; 1: something was; 69: it could not run; 130: interrupted."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _interrupt)
    try:
        return _play(arguments)
    except (DemoError, LogError, OSError, httpx.HTTPError) as error:
        print(f"outrider demo: {error}", file=sys.stderr)
        return os.EX_UNAVAILABLE
    except _Interrupted:
        say("\nStopped; nothing is left running.")
        return 130


def _play(arguments: argparse.Namespace) -> int:
    if bool(arguments.log) != bool(arguments.dbc):
        raise DemoError("--log and --dbc go together")
    for file in [arguments.log, *(Path(text.rpartition("=")[2]) for text in arguments.dbc)]:
        if file is not None and not file.is_file():
            raise DemoError(f"{file}: no such file")
    if arguments.log and next(iter(open_log(arguments.log)), None) is None:  # better now than after the first act
        raise DemoError(f"{arguments.log} has no frames")
    directory = fresh_directory(arguments.dir.resolve())
    say(f"Everything this demo makes is in {directory}; it listens on 127.0.0.1 only.")
    with Children(directory / "logs") as children:
        cloud = Cloud(directory / "cloud", children, port=arguments.port)
        try:
            return _story(arguments, directory, children, cloud)
        finally:
            say("Stopping…")
            cloud.close()


def _story(arguments: argparse.Namespace, directory: Path, children: Children, cloud: Cloud) -> int:
    say("\n1. The cloud: registry, ingestion, lake and console in one process")
    cloud.start()
    say(f"   console  {cloud.url}")
    say(f"   login    {cloud.admin} / {cloud.password}")
    outcomes = [_simulated(arguments, directory, children, cloud), _recorded(arguments, directory, children, cloud)]
    boards = _released(directory, children, cloud, count=2 if arguments.headless else 3)
    say("\nAccounting\n")
    say(report(outcomes))
    is_sound = not any(outcome.complaints() for outcome in outcomes)
    if not arguments.headless:
        say(f"\nThe console stays at {cloud.url} (login {cloud.admin} / {cloud.password}); Ctrl-C ends it.")
        while True:
            if cloud.process:
                cloud.process.check_alive()
            time.sleep(0.5)
    for board in boards:
        board.stop()
    return 0 if is_sound else 1


def _has_vcan() -> bool:
    return all(Path("/sys/class/net", bus.vcan).exists() for bus in BUSES)


def _interface() -> str:
    return "socketcan" if _has_vcan() else "udp_multicast"


def _simulated(arguments: argparse.Namespace, directory: Path, children: Children, cloud: Cloud) -> Outcome:
    seconds = arguments.seconds or (20.0 if arguments.headless else 60.0)
    interface = _interface()
    how = "vcan" if interface == "socketcan" else "multicast datagrams with hop limit 0, which stay on this machine"
    say(f"\n2. A simulated car, {seconds:.0f} s of '{arguments.scenario}' on {len(BUSES)} buses ({how})")
    buses = [
        Bus(name=b.name, dbc=b.dbc, interface=interface, channel=b.vcan if interface == "socketcan" else b.group)
        for b in BUSES
    ]
    vehicle = Vehicle("SIMULATED-1", directory / "simulated-1", children, buses)
    vehicle.directory.mkdir(parents=True, exist_ok=True)
    cloud.load_texts(Path(str(files("cloud.diagnostics") / "examples" / "outrider_one.json")))
    diagnostics, port = diagnostics_config(vehicle.directory, interface)
    vehicle.prepare(cloud, more=diagnostics)
    vehicle.start()
    sent: dict[str, int] = {}

    def simulate(scenario: str, duration_s: float, *more: str) -> Child:
        return children.start(
            "simulator",
            *("sim", "run", "--scenario", scenario, "--interface", interface, "--duration", str(duration_s)),
            *("--summary", str(vehicle.directory / "sent.json"), "--state", str(vehicle.directory / "ecus"), *more),
        )

    def count(simulator: Child) -> None:
        if simulator.wait(SETTLE_S):
            raise DemoError(f"the simulator failed; its log ends:\n{simulator.tail()}")
        for name, bus in json.loads((vehicle.directory / "sent.json").read_text())["buses"].items():
            sent[name] = sent.get(name, 0) + int(bus["sent"])

    driving = simulate(arguments.scenario, seconds)
    _watch(cloud, vehicle, driving, seconds + SETTLE_S)
    count(driving)
    say("\n3. In the workshop: the car stands with the ignition on, the gateway asks its ECUs for trouble codes")
    say(f"   testers come in by DoIP on 127.0.0.1:{port}, past the firewall, and by the connector's CAN bus")
    control_socket = vehicle.directory / "simulator.sock"
    standing = simulate("workshop", WORKSHOP_S, "--control", str(control_socket))
    visit(cloud, vehicle, standing, control_socket, say)
    control(control_socket, do="stop")
    count(standing)
    return _finish(cloud, vehicle, sent, has_ecus=True)


def _released(directory: Path, children: Children, cloud: Cloud, *, count: int) -> list[Board]:
    say(
        f"\n5. A release: two slots in each of {count} vehicles, two repositories that must agree, a campaign in phases"
    )
    bus, interface = next(bus for bus in BUSES if bus.name == "powertrain"), _interface()
    children.start("traffic", "sim", "run", "--scenario", "workshop", "--interface", interface, "--duration", "86400")
    channel = bus.vcan if interface == "socketcan" else bus.group
    heard = Bus(name=bus.name, dbc=bus.dbc, interface=interface, channel=channel)
    return roll_out(cloud, directory, children, heard, say, count=count)


def _recorded(arguments: argparse.Namespace, directory: Path, children: Children, cloud: Cloud) -> Outcome:
    log, dbc_files, what = _recording(arguments, directory)
    counts, duration_s = _count(log)
    speed = arguments.speed if arguments.speed is not None else (8.0 if arguments.headless else 2.0)
    rate = f"at {speed:g} times its speed" if speed else "as fast as possible"
    say(f"\n4. A second vehicle: {what}, replayed {rate}")
    buses = [
        Bus(name=_bus_name(name), dbc=_dbc_for(name, dbc_files), interface="replay", channel=str(log), log_bus=name)
        for name in counts
    ]
    vehicle = Vehicle("RECORDED-1", directory / "recorded-1", children, buses)
    # Replayed faster than driven, it ends now and not in the future.
    ahead_s = max(0.0, duration_s * (1 - 1 / speed) if speed else duration_s)
    vehicle.prepare(cloud, settings={"replay": {"begin_ago_s": ahead_s}}, speed=speed)
    vehicle.start()
    assert vehicle.process is not None
    _watch(cloud, vehicle, vehicle.process, 24 * 3600.0)
    return _finish(cloud, vehicle, {_bus_name(name): count for name, count in counts.items()})


def _recording(arguments: argparse.Namespace, directory: Path) -> tuple[Path, dict[str, Path], str]:
    """The log, bus -> DBC ("" for any bus), and what to call it."""
    if arguments.log:
        pairs = (text.rpartition("=") for text in arguments.dbc)
        return arguments.log.resolve(), {bus: Path(file).resolve() for bus, _, file in pairs}, str(arguments.log)
    recorded, dbc = data_directory() / RECORDED_LOG, data_directory() / RECORDED_DBC
    if recorded.exists() and dbc.exists():
        return recorded, {"": dbc}, "60 s of a 2016 Toyota RAV4 on a highway"
    log = directory / "motorway.log"
    say("   (no recorded drive on this machine: recording one from the simulator)")
    run("sim", "run", "--scenario", "motorway", "--duration", "60", "--log", str(log))
    return log, {bus.name: bus.dbc for bus in BUSES}, "60 s of the simulated car on a motorway"


def _bus_name(log_bus: str) -> str:
    """A bus name that a configuration accepts, made from what a log calls the bus."""
    return "".join(c if c.isalnum() or c in "_-" else "_" for c in log_bus) or "bus"


def _dbc_for(bus: str, files: dict[str, Path]) -> Path:
    found = files.get(bus) or files.get("")
    if found is None:
        raise DemoError(f"no --dbc for the log's bus {bus!r}; give --dbc {bus}=FILE")
    return found


def _count(log: Path) -> tuple[dict[str, int], float]:
    """Frames per bus of a log and the seconds it spans, from reading it once on its own."""
    counts: dict[str, int] = {}
    first_ns, last_ns = 0, 0
    reader = open_log(log)
    for batch in reader:
        if len(batch):
            first_ns, last_ns = first_ns or int(batch.timestamp_ns[0]), int(batch.timestamp_ns[-1])
        for index in set(batch.bus.tolist()):
            name = reader.buses[index]
            counts[name] = counts.get(name, 0) + int((batch.bus == index).sum())
    if not counts:
        raise DemoError(f"{log} has no frames")
    return counts, max(0.0, (last_ns - first_ns) / 1e9)


def _watch(cloud: Cloud, vehicle: Vehicle, driver: Child, limit_s: float) -> None:
    """Show progress until the driver (simulator or replaying gateway) has ended."""
    begin, is_terminal = time.monotonic(), sys.stdout.isatty()
    while driver.returncode is None and time.monotonic() - begin < limit_s:
        time.sleep(1.0 if is_terminal else 5.0)
        status = vehicle.status()
        if status is None:
            continue
        ledger = status.report.ledger
        received = sum(bus.received for bus in ledger.buses)
        acknowledged = sum(stream.acknowledged for stream in ledger.streams)
        elapsed_s = time.monotonic() - begin
        line = f"   {elapsed_s:4.0f} s  {received:9,} frames received  {acknowledged:10,} items in the cloud"
        print(f"\r{line}" if is_terminal else line, end="" if is_terminal else "\n", flush=True)
    if is_terminal:
        say()


def _finish(cloud: Cloud, vehicle: Vehicle, sent: dict[str, int], *, has_ecus: bool = False) -> Outcome:
    """Stop the gateway cleanly and ask the cloud for the accounting once it has the last report."""
    status = vehicle.stop()
    if status:
        assert vehicle.process is not None
        raise DemoError(f"the gateway of {vehicle.name} ended with status {status}:\n{vehicle.process.tail()}")
    return outcome_of(cloud, vehicle.name, sent, has_ecus=has_ecus)

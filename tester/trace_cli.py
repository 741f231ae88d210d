"""``outrider uds trace``: record buses, put diagnostic messages together, decode and convert logs."""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import anyio

from gateway.can.link import CanFrame
from gateway.can.link_open import open_link
from tester.connect import Bench
from tester.errors import FileError, UsageError
from tester.options import add_connection, load_defaults, positive_s, vehicle_of
from tester.output import note, printable, say, say_json
from tester.running import guarded, on_bench
from tester.trace_bus import BusListener, Message
from tester.trace_files import FrameWriter, open_writer, read_frames
from tester.trace_pdu import describe_pdu
from tester.vehicle import Vehicle
from tester.via import CanVia

_ARROWS = {"request": "->", "answer": "<-", "functional": "=>", "unsolicited": "<~", "stale": "<?"}


def add_trace_command(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``outrider uds trace``."""
    parser = subparsers.add_parser(
        "trace", help="record buses decoded; decode and convert logs",
        description="Listen to buses without sending anything and show diagnostic messages in words; decode and "
        "convert logs (candump, ASC, BLF, pcap, ...). Sessions of the other commands, DoIP's too, are recorded by "
        "their own --trace FILE, which `decode` reads as well.",
    )  # fmt: skip
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    record = verbs.add_parser("record", help="listen to buses, show and write what passes")
    record.add_argument("--out", type=Path, action="append", metavar="FILE", help=".log (candump), .asc or .pcap")
    record.add_argument("--duration", type=positive_s, metavar="S", help="stop by itself; else Ctrl-C")
    record.add_argument("--count", type=int, metavar="N", help="stop after so many messages")
    record.add_argument("--quiet", action="store_true", help="show nothing, only write")
    add_connection(record, ecu="none")
    record.set_defaults(run=on_bench(_record))
    decode = verbs.add_parser("decode", help="show a log's diagnostic messages in words")
    decode.add_argument("log", type=Path, metavar="LOG", help="a log of frames, or a file of --trace")
    decode.add_argument("--ecu", action="append", metavar="NAME", help="only this ECU; may be repeated")
    decode.add_argument("--bus", action="append", default=[], metavar="NAME=LOGNAME", help="a vehicle's bus in the log")
    decode.add_argument("--vehicle", metavar="FILE", help="names for identifiers; see the other commands")
    decode.add_argument("--json", action="store_true", help="JSON lines")
    decode.set_defaults(run=lambda args: guarded(args, lambda: _decode(args)))
    convert = verbs.add_parser("convert", help="write a log in another format")
    convert.add_argument("log", type=Path, metavar="LOG")
    convert.add_argument("out", type=Path, metavar="FILE", help=".log (candump), .asc or .pcap")
    convert.set_defaults(run=lambda args: guarded(args, lambda: _convert(args)))


def show(message: Message, *, as_json: bool) -> None:
    """One line."""
    if as_json:
        entry = {
            "at": f"{datetime.fromtimestamp(message.at_ns / 1e9, UTC):%Y-%m-%dT%H:%M:%S.%fZ}", "bus": message.bus,
            "id": f"{message.can_id:X}", "ecu": message.ecu, "direction": message.direction,
            "pdu": message.pdu.hex().upper(), "text": message.text,
        }  # fmt: skip
        say_json(entry | ({"problem": message.problem} if message.problem else {}), is_line=True)
        return
    at = datetime.fromtimestamp(message.at_ns / 1e9, UTC)
    arrow = _ARROWS.get(message.direction, "--")
    text = f"!! {message.problem}" if message.problem else message.text
    say(printable(f"{at:%H:%M:%S.%f} {message.bus:<10} {message.ecu:<10} {arrow} {text}"))


async def _record(args: argparse.Namespace, bench: Bench) -> int:
    vias = [via for via in bench.vias if isinstance(via, CanVia)]
    if not vias:
        raise UsageError("there are no frames to hear by DoIP; record a session by --trace FILE of its command")
    outs = args.out or []
    listener = BusListener(bench.vehicle.ecus)
    done, counts = anyio.Event(), Counter[str]()
    with ExitStack() as files:
        writers: list[FrameWriter] = []
        for out in outs:
            writer = open_writer(out)
            files.callback(writer.close)
            writers.append(writer)

        def handler(bus: str) -> Callable[[CanFrame], None]:
            def handle(frame: CanFrame) -> None:
                if not frame.timestamp_ns:
                    frame = frame._replace(timestamp_ns=time.time_ns())
                counts["frames"] += 1
                for writer in writers:
                    writer.write(bus, frame)
                for message in listener.frame(bus, frame):
                    counts["messages"] += 1
                    counts["problems"] += bool(message.problem)
                    if not args.quiet:
                        show(message, as_json=args.json)
                    if args.count and counts["messages"] >= args.count:
                        done.set()

            return handle

        links = []
        try:
            for via in vias:
                link = open_link(
                    via.interface, via.channel, fd=via.fd, own=True, bitrate_bps=via.bitrate_bps,
                    data_bitrate_bps=via.data_bitrate_bps, options=dict(via.options),
                )  # fmt: skip
                links.append(link)
                link.hear(None, handler(via.bus or via.channel))
            note(f"listening to {', '.join(via.name for via in vias)}; Ctrl-C ends")
            with anyio.move_on_after(args.duration):
                await done.wait()
        finally:
            with anyio.CancelScope(shield=True):
                for link in links:
                    await link.aclose()
            note(f"{counts['frames']} frames, {counts['messages']} messages, {counts['problems']} of them broken")
    return 0


def _decode(args: argparse.Namespace) -> int:
    vehicle = vehicle_of(args, load_defaults())
    names = {}
    for pair in args.bus:
        ours, equals, theirs = pair.partition("=")
        if not equals:
            raise UsageError(f"--bus {pair}: expected NAME=LOGNAME")
        names[theirs] = ours
    wanted = {name.lower() for name in args.ecu or ()}
    messages = (
        _session_messages(args.log, vehicle) if _is_session(args.log) else _log_messages(args.log, vehicle, names)
    )
    counts = Counter[str]()
    for message in messages:
        counts["messages"] += 1
        counts["problems"] += bool(message.problem)
        if not wanted or message.ecu.lower() in wanted or message.ecu == "*":
            show(message, as_json=args.json)
    note(f"{counts['messages']} messages, {counts['problems']} of them broken")
    return 0


def _log_messages(path: Path, vehicle: Vehicle, names: dict[str, str]) -> Iterator[Message]:
    listener = BusListener(vehicle.ecus)
    for bus, frame in read_frames(path):
        yield from listener.frame(names.get(bus, bus), frame)


def _is_session(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(6) == b'{"at":'
    except OSError as error:
        raise FileError(path, error.strerror or str(error), is_missing=True) from error


def read_session(path: Path, vehicle: Vehicle) -> list[Message]:
    """A file of ``--trace``; lines that are cut off or none are told as problems.

    Raises:
        FileError: it cannot be read.
    """
    try:
        return list(_session_messages(path, vehicle))
    except OSError as error:
        raise FileError(path, error.strerror or str(error), is_missing=True) from error


def _session_messages(path: Path, vehicle: Vehicle) -> Iterator[Message]:
    ecus = {ecu.name: ecu for ecu in vehicle.ecus}
    at_ns = 0
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            try:
                entry = json.loads(line)
                at_ns = round(datetime.fromisoformat(entry["at"].replace("Z", "+00:00")).timestamp() * 1e6) * 1000
                pdu, name, kind = bytes.fromhex(entry["pdu"]), str(entry["ecu"]), str(entry["kind"])
            except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
                problem = f"line {number}: {type(error).__name__}"
                yield Message(at_ns=at_ns, bus="", can_id=0, ecu="?", direction="?", problem=problem)
                continue
            yield Message(
                at_ns=at_ns, bus="", can_id=0, ecu=name, direction=kind, pdu=pdu,
                text=describe_pdu(pdu, ecus.get(name)),
            )  # fmt: skip


def _convert(args: argparse.Namespace) -> int:
    if args.out.exists() and args.out.samefile(args.log):
        raise UsageError("the log would be overwritten by itself")
    frames = read_frames(args.log)
    first = next(frames, None)
    if first is None:
        raise FileError(args.log, "no frames in it")
    writer, count = open_writer(args.out), 1
    try:
        writer.write(*first)
        for bus, frame in frames:
            writer.write(bus, frame)
            count += 1
    finally:
        writer.close()
    say(f"{count} frames written to {args.out}")
    return 0

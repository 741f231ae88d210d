"""``outrider uds live``: values as they change, as a table, a CSV file or JSON lines."""

from __future__ import annotations

import argparse
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import msgspec

from dbc.manifest import ManifestError, load_manifest
from gateway.uds.names import Session
from tester.access import Wanted, add_access, prepare, wanted_of
from tester.connect import Bench
from tester.did import parse_dids
from tester.errors import FileError, UsageError, missing_package
from tester.live import Board, CsvRecording
from tester.live_sources import RATES, SignalSource, hear_periodic, hear_uudt, poll_dids, poll_pids
from tester.options import add_connection, hex_number, positive_s
from tester.output import say, say_json, table
from tester.running import chosen, on_bench
from tester.vehicle import Ecu
from tester.via import CanVia


def add_live_command(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``outrider uds live``."""
    parser = subparsers.add_parser(
        "live", help="values as they change, with minimum, maximum and trend",
        description="Show identifiers, OBD values, periodic data and bus signals as they change. In the table: p "
        "pauses, r resets minimum and maximum, c records CSV, q quits. With --once, --count or --json no table.",
    )  # fmt: skip
    parser.add_argument("dids", nargs="*", metavar="DID", help="identifier, range, part of a name, or all")
    parser.add_argument("--pid", action="append", type=hex_number(0xFF), default=[], metavar="HEX", help="OBD value")
    parser.add_argument("--periodic", action="append", type=hex_number(0xF2FF), default=[], metavar="DID",
                        help="F2xx, sent by the ECU itself (0x2A)")  # fmt: skip
    parser.add_argument("--rate", choices=tuple(RATES), default="medium", help="of periodic data")
    parser.add_argument("--periodic-id", type=hex_number(0x1FFFFFFF), metavar="HEX", help="identifier it comes on")
    parser.add_argument("--manifest", type=Path, metavar="FILE", help="compiled DBC, for --signal")
    parser.add_argument("--signal", action="append", default=[], metavar="BUS.MESSAGE.SIGNAL", help="* and ? allowed")
    parser.add_argument("--interval", type=positive_s, default=0.5, metavar="S", help="between rounds; default 0.5")
    parser.add_argument("--once", action="store_true", help="one round, then stop")
    parser.add_argument("--count", type=int, metavar="N", help="stop after N rounds")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="record here; in the table, c begins (live.csv)")
    add_connection(parser)
    add_access(parser)
    parser.set_defaults(run=on_bench(_live))


Feed = Callable[[Callable[[], None]], Awaitable[None]]


async def _live(args: argparse.Namespace, bench: Bench) -> int:
    if not (args.dids or args.pid or args.periodic or args.signal):
        raise UsageError("nothing to show: name identifiers (e.g. F190, voltage, all), --pid, --periodic or --signal")
    if args.signal and args.manifest is None:
        raise UsageError("--signal needs --manifest FILE, which `outrider dbc compile` makes")
    board = Board()
    async with AsyncExitStack() as stack:
        feed = await _feed(args, bench, board, stack)
        if args.once or args.count or args.json:
            return await _headless(args, board, feed)
        return await _table(args, board, feed)


async def _feed(args: argparse.Namespace, bench: Bench, board: Board, stack: AsyncExitStack) -> Feed:
    """Everything that fills the board; what it opens is closed by ``stack``. Called with what to do each round."""
    polls: list[Callable[[], Coroutine[Any, Any, None]]] = []
    hears: list[Callable[[], Coroutine[Any, Any, None]]] = []
    ecus = await chosen(args, bench) if args.dids or args.pid or args.periodic else []
    for ecu in ecus:
        numbers = parse_dids(args.dids, ecu)
        client = await bench.client(ecu)
        wanted = wanted_of(args, ecu)
        if wanted != Wanted():
            await prepare(ecu, client, None, wanted)
        if numbers:
            polls.append(partial(poll_dids, board, ecu, client, numbers))
        if args.pid and (ecu.link.emissions or args.ecu):
            polls.append(partial(poll_pids, board, ecu, client, args.pid))
        if args.periodic:
            if client.current_session == Session.DEFAULT:
                await client.session(Session.EXTENDED)
            if args.periodic_id is not None:
                await _hear_uudt(args, bench, board, ecu, stack)
            hears.append(partial(hear_periodic, board, ecu, client, args.periodic, args.rate))
    if args.signal:
        await _hear_signals(args, bench, board, stack)
    if ecus and not polls and not hears:
        raise UsageError(f"no ECU here has {', '.join(args.dids)}")

    async def run(on_round: Callable[[], None]) -> None:
        async with anyio.create_task_group() as tasks:
            for hear in hears:
                tasks.start_soon(hear)
            while True:
                began_s = anyio.current_time()
                async with anyio.create_task_group() as round_:
                    for poll in polls:
                        round_.start_soon(poll)
                if not polls:
                    await anyio.sleep(args.interval)
                on_round()
                await anyio.sleep(max(0.0, args.interval - (anyio.current_time() - began_s)))

    return run


async def _hear_uudt(args: argparse.Namespace, bench: Bench, board: Board, ecu: Ecu, stack: AsyncExitStack) -> None:
    via = bench.via_of(ecu)
    if not isinstance(via, CanVia):
        raise UsageError("--periodic-id is for CAN; DoIP brings periodic data by itself")
    stack.callback(hear_uudt(board, ecu, args.periodic, await bench.link(via), args.periodic_id))


async def _hear_signals(args: argparse.Namespace, bench: Bench, board: Board, stack: AsyncExitStack) -> None:
    try:
        source = SignalSource(board, load_manifest(args.manifest), args.signal)
    except OSError as error:
        raise FileError(args.manifest, error.strerror or str(error), is_missing=True) from error
    except ManifestError as error:
        raise FileError(args.manifest, str(error)) from error
    for via in bench.vias:
        if isinstance(via, CanVia):
            stack.callback(source.hear(await bench.link(via), via.bus or via.channel))


class _Enough(Exception):
    """So many rounds were wanted."""


async def _headless(args: argparse.Namespace, board: Board, feed: Feed) -> int:
    left = 1 if args.once else args.count
    with OptionalRecording(args.csv) as recording:

        def on_round() -> None:
            nonlocal left
            if recording is not None:
                recording.write(board, time.time())
            if args.json:
                shown = [msgspec.to_builtins(row) for row in board.rows()]
                say_json({"at_s": round(time.time(), 3), "values": shown}, is_line=True)
            if left is not None:
                left -= 1
                if left <= 0:
                    raise _Enough

        try:
            await feed(on_round)
        except* _Enough:
            pass
    rows = list(board.rows())
    if not args.json:
        shown = [
            (r.source, r.name, r.text, r.unit, *("" if v is None else f"{v:.7g}" for v in (r.minimum, r.maximum)))
            for r in rows
        ]
        say(table(shown, ("SOURCE", "NAME", "VALUE", "UNIT", "MIN", "MAX")))
    return 0 if any(not row.problem for row in rows) else 69


class OptionalRecording:
    """A CSV recording where one is wanted."""

    def __init__(self, path: Path | None) -> None:
        self._recording = CsvRecording(path) if path is not None else None

    def __enter__(self) -> CsvRecording | None:
        return self._recording

    def __exit__(self, *_: object) -> None:
        if self._recording is not None:
            self._recording.__exit__(None, None, None)


async def _table(args: argparse.Namespace, board: Board, feed: Feed) -> int:
    try:
        from tester.live_app import LiveApp
    except ModuleNotFoundError as error:
        raise missing_package(str(error.name), "tester") from error
    app = LiveApp(board, lambda: feed(lambda: None), args.csv or Path("live.csv"))
    if args.csv:
        app.call_later(app.action_record)
    await app.run_async()
    if app.error is not None:
        raise app.error
    return 0

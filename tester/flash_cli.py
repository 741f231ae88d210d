"""``outrider uds flash``: look, plan, check, write, verify; go on after an interruption."""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from gateway.errors import GatewayError
from gateway.uds.client import UdsClient
from gateway.uds.errors import NegativeResponse
from tester.access import add_keys, level_number
from tester.connect import Bench
from tester.errors import FileError, OutcomeError, RefusedError, TesterError
from tester.flash_files import MAX_FILE_BYTES, Firmware, ImageFileError, read_firmware
from tester.flash_plan import (
    HARDWARE_DIDS,
    SERIAL_DID,
    SESSION_DID,
    VERSION_DIDS,
    Known,
    Plan,
    Settings,
    make_plan,
)
from tester.flash_run import Event, Flasher, Result
from tester.flash_state import StateFile, default_folder
from tester.keys import key_function
from tester.options import add_connection, add_write, positive_s
from tester.output import note, say, say_json, table
from tester.running import on_bench
from tester.values import Value, decode, text_or_hex
from tester.vehicle import Ecu
from tester.via import DoipVia

BAR_WIDTH = 30
STOPPED = 4  # the plan found a reason not to begin
#: To all, with the answers suppressed: extended session, freeze codes; and back.
QUIET, RELEASE = (b"\x10\x83", b"\x85\x82"), (b"\x85\x81", b"\x10\x81")
TESTER_PRESENT, KEEP_ALIVE_S = b"\x3e\x80", 2.0


def add_flash_command(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``outrider uds flash``."""
    parser = subparsers.add_parser(
        "flash", help="write software to an ECU",
        description="Write a signed image, Intel HEX, S-records or raw bytes (--address) to an ECU: shows the plan and "
        "what it checked, then, with --write, erases, transfers, has the ECU check it and reads the version back. "
        "Run the same command again after an interruption: it goes on where it stopped.",
    )  # fmt: skip
    parser.add_argument("file", type=Path, metavar="FILE", help="the software")
    parser.add_argument("--address", type=lambda t: int(t, 0), metavar="N", help="of a raw file, e.g. 0x400000")
    add_connection(parser, ecu="one")
    add_write(parser)
    parser.add_argument("--plan", action="store_true", dest="plan_only", help="same as --dry-run")
    group = parser.add_argument_group("programming")
    group.add_argument("--force", action="store_true", help="begin although a check says stop")
    group.add_argument("--restart", action="store_true", help="erase and begin again, whatever was there")
    group.add_argument("--compress", action="store_true", help="transfer compressed, where the ECU takes it")
    group.add_argument("--block", type=int, metavar="BYTES", help="longest block, below what the ECU takes")
    group.add_argument("--retries", type=int, default=3, metavar="N", help="of one block; default 3")
    group.add_argument("--attempts", type=int, default=3, metavar="N", help="when the ECU is lost; default 3")
    group.add_argument("--lost", type=positive_s, default=30.0, metavar="S", help="how long a lost ECU may be away")
    group.add_argument("--no-unlock", action="store_true", help="the ECU wants no security access")
    group.add_argument("--no-reset", action="store_true", help="leave the ECU in its boot loader at the end")
    group.add_argument("--no-quiet", action="store_true", help="do not silence the other ECUs meanwhile")
    group.add_argument("--state", type=Path, metavar="DIR", help="where to keep how far it came")
    keys = parser.add_argument_group("security (default: what the vehicle file says)")
    keys.add_argument("--level", metavar="HEX", help="security level for programming (the odd number); default 11")
    add_keys(keys)
    parser.set_defaults(run=on_bench(_flash))


def load_firmware(path: Path, address: int | None) -> Firmware:
    """The file, understood.

    Raises:
        FileError: missing, or not what it should be.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise FileError(path, f"larger than {MAX_FILE_BYTES} bytes")
        return read_firmware(path.read_bytes(), address=address, name=path.name)
    except OSError as error:
        raise FileError(path, error.strerror or str(error), is_missing=True) from error
    except ImageFileError as error:
        raise FileError(path, str(error)) from error


async def look(client: UdsClient, ecu: Ecu) -> Known:
    """What the plan wants to know, by reading only. An ECU that is silent is known by nothing."""
    dids: dict[int, str] = {}
    values: list[Value] = []
    for number in (SESSION_DID, *VERSION_DIDS, *HARDWARE_DIDS, SERIAL_DID):
        try:
            dids[number] = text_or_hex(await client.read_did(number))
        except NegativeResponse:
            continue
        except GatewayError:
            if not dids:
                return Known()
    for did in ecu.dids.values():
        is_wanted = did.name.lower() in ("supply voltage", "vehicle speed")
        if is_wanted and len(did.fields) == 1:
            try:
                values += decode(did.fields, await client.read_did(did.number))
            except GatewayError:
                continue
    return Known(dids=dids, values=tuple(values))


def show_plan(plan: Plan, name: str) -> None:
    """For people."""
    say(f"{name} to {plan.ecu}: {plan.total_bytes} bytes, about {plan.estimate_s:.0f} s")
    marks = {"ok": "ok", "warning": "warning", "stop": "STOP"}
    say(table([(marks[f.level], f.what, f.detail) for f in plan.findings], indent=2))
    steps = ["extended session, preconditions", "programming session"]
    if plan.level is not None:
        steps.append(f"unlock level 0x{plan.level:02X}")
    for part in plan.parts:
        packed = f" ({len(part.sent)} compressed)" if part.data_format else ""
        steps.append(
            f"erase and write {len(part.segment.content)} bytes{packed} at {part.address:#010x} {part.region}".rstrip()
        )
    steps += ["check memory and dependencies", "reset, read the version back"]
    say(table([(f"{i}.", step) for i, step in enumerate(steps, 1)], indent=2))


def plan_json(plan: Plan) -> dict[str, object]:
    """For machines."""
    return {
        "ecu": plan.ecu,
        "version": plan.version,
        "was": plan.was,
        "sha256": plan.sha256,
        "bytes": plan.total_bytes,
        "estimate_s": round(plan.estimate_s, 1),
        "level": plan.level,
        "parts": [
            {
                "address": part.address, "bytes": len(part.segment.content), "sent_bytes": len(part.sent),
                "region": part.region,
            }
            for part in plan.parts
        ],
        "findings": [{"level": f.level, "what": f.what, "detail": f.detail} for f in plan.findings],
    }  # fmt: skip


class Screen:
    """Progress: a bar on a terminal, lines elsewhere, JSON lines for machines."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json, self._is_terminal = as_json, sys.stderr.isatty() and not as_json
        self._began: tuple[float, int] | None = None
        self._shown_s = 0.0
        self._tenth = -1
        self._on_bar = False

    def __call__(self, event: Event) -> None:
        """Tell one event."""
        now_s = anyio.current_time()
        if event.step == "transfer" and event.done and self._began is None:
            self._began = (now_s, event.done)
        if event.step != "transfer":
            self._began = None
        rate, eta_s = self._rate(event, now_s)
        if self._as_json:
            if event.step != "transfer" or now_s - self._shown_s >= 0.2 or event.done == event.total:
                self._shown_s = now_s
                say_json(
                    {
                        "event": event.step, "text": event.text, "done": event.done, "total": event.total,
                        "bytes_per_s": rate, "eta_s": eta_s,
                    },
                    is_line=True,
                )  # fmt: skip
        elif event.step == "transfer":
            self._bar(event, now_s, rate, eta_s)
        else:
            self._end_bar()
            note(f"{event.step}: {event.text}" if event.text else event.step)

    def _rate(self, event: Event, now_s: float) -> tuple[int | None, int | None]:
        if self._began is None or now_s - self._began[0] < 0.2:
            return None, None
        rate = (event.done - self._began[1]) / (now_s - self._began[0])
        return round(rate), round((event.total - event.done) / rate) if rate > 0 else None

    def _bar(self, event: Event, now_s: float, rate: int | None, eta_s: int | None) -> None:
        share = event.done / event.total if event.total else 1.0
        words = f"{event.done}/{event.total} bytes" + (f", {rate} bytes/s" if rate is not None else "")
        words += f", {eta_s} s left" if eta_s is not None else ""
        if self._is_terminal:
            if now_s - self._shown_s < 0.1 and event.done < event.total:
                return
            self._shown_s, self._on_bar = now_s, True
            full = "#" * int(share * BAR_WIDTH)
            sys.stderr.write(f"\r[{full:<{BAR_WIDTH}}] {share * 100:5.1f} % {words}\x1b[K")
            sys.stderr.flush()
        elif int(share * 10) != self._tenth:
            self._tenth = int(share * 10)
            note(f"transfer: {share * 100:.0f} % {words}")

    def _end_bar(self) -> None:
        if self._on_bar:
            sys.stderr.write("\n")
            self._on_bar = False


async def _flash(args: argparse.Namespace, bench: Bench) -> int:
    firmware = load_firmware(args.file, args.address)
    ecu = bench.ecu(args.ecu)
    client = await bench.client(ecu)
    settings = Settings(
        level=level_number(args.level) if args.level else None,
        skip_unlock=args.no_unlock,
        compress=args.compress,
        max_block_bytes=args.block,
        retries=max(0, args.retries),
        attempts=max(1, args.attempts),
        lost_s=args.lost,
        reset=not args.no_reset,
    )
    known = await look(client, ecu)
    plan = make_plan(firmware, ecu, known, settings, via_doip=isinstance(bench.via_of(ecu), DoipVia))
    if args.json:
        say_json({"event": "plan", "plan": plan_json(plan)}, is_line=True)
    else:
        show_plan(plan, args.file.name)
    if args.dry_run or args.plan_only:
        return STOPPED if plan.stops else 0
    if plan.stops and not args.force:
        reasons = "; ".join(f"{f.what}: {f.detail}" for f in plan.stops)
        failure = OutcomeError(f"not begun: {reasons} (--force to begin all the same)")
        failure.status = STOPPED
        raise failure
    if not args.write:
        raise RefusedError("would do the above; add --write to do it")
    key = (
        None
        if plan.level is None
        else key_function(ecu, plan.level, algorithm=args.algorithm, constant=args.constant, key=args.key)
    )
    screen = Screen(as_json=args.json)
    state = StateFile(args.state or default_folder(), ecu.name, plan.sha256)
    flasher = Flasher(client, plan, key, settings, state=state, on_event=screen)
    try:
        async with contextlib.nullcontext() if args.no_quiet else quiet(bench):
            result = await flasher.run(restart=args.restart)
    except BaseException:
        _tell_how_to_go_on()
        raise
    _show_result(result, as_json=args.json)
    return 0


def _tell_how_to_go_on() -> None:
    note("\nThe flash is not complete. The ECU stays in its boot loader and takes software again; to go on:")
    note("  " + shlex.join(["outrider", *sys.argv[1:]]))


def _show_result(result: Result, *, as_json: bool) -> None:
    if as_json:
        content = {name: getattr(result, name) for name in result.__struct_fields__}
        say_json({"event": "done", "result": content}, is_line=True)
        return
    rate = result.bytes / result.seconds if result.seconds else 0
    say(f"{result.ecu}: {result.version or 'written'}" + (f", was {result.was}" if result.was else ""))
    say(f"  {result.bytes} bytes in {result.seconds:.1f} s ({rate:.0f} bytes/s)")
    if result.repeated_blocks:
        say(f"  {result.repeated_blocks} blocks were sent again")
    if result.lost or result.resumed or result.restarted:
        say(f"  the ECU was lost {result.lost} times; gone on {result.resumed}, begun again {result.restarted} times")


@asynccontextmanager
async def quiet(bench: Bench) -> AsyncIterator[None]:
    """The other ECUs set no codes about the one that is gone: extended session and 0x85 for all, kept alive.

    Nobody is asked to answer, and an ECU or a firewall that does not want it stops nothing.
    """

    async def keep() -> None:
        while True:
            await anyio.sleep(KEEP_ALIVE_S)
            await tell(TESTER_PRESENT)

    async def tell(*requests: bytes) -> None:
        for way in ways:
            with contextlib.suppress(GatewayError):
                for request in requests:
                    await way.send(request)

    ways = []
    for via in bench.vias:
        with contextlib.suppress(GatewayError, TesterError):  # nobody there hears functional requests
            ways.append(await bench.functional(via))
    await tell(*QUIET)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(keep)
            yield
            tasks.cancel_scope.cancel()
    except* Exception as group:
        raise group.exceptions[0] from None
    finally:
        with anyio.CancelScope(shield=True), anyio.move_on_after(KEEP_ALIVE_S):
            await tell(*RELEASE)

"""``outrider uds dtc list|show|clear|watch``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import anyio

from gateway.errors import GatewayError
from gateway.uds.client import UdsClient
from gateway.uds.codec.dtc import ALL_GROUPS
from gateway.wire.dtc import Status, format_dtc, parse_dtc
from gateway.wire.dtc_texts import STATUS_WORDS
from tester.connect import Bench
from tester.dtc import Details, Fault, Faults, faults_of_list, read_details, read_faults
from tester.errors import UsageError
from tester.options import add_connection, add_write, hex_number, positive_s
from tester.output import error_json, note, printable, say, say_json, table
from tester.running import Outcome, chosen, conclude, for_each, need_write, on_bench
from tester.values import as_text
from tester.vehicle import Ecu

#: failing, pending or confirmed: what a technician means by "the faults".
USUAL_MASK = int(Status.TEST_FAILED | Status.PENDING | Status.CONFIRMED)
GROUPS = {"all": ALL_GROUPS, "emissions": 0xFFFF33, "safety": 0xFFFFD0,
          "powertrain": 0x000000, "chassis": 0x400000, "body": 0x800000, "network": 0xC00000}  # fmt: skip


def add_dtc_command(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``outrider uds dtc``."""
    parser = subparsers.add_parser("dtc", help="trouble codes: list, show, clear, watch",
                                   description="The fault memories of the ECUs.")  # fmt: skip
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    one = verbs.add_parser("list", help="the codes of all ECUs, with status and text",
                           description="Codes that fail now, are pending or confirmed; of all ECUs or those named. "
                           "Exit status 0 also when there are codes.")  # fmt: skip
    _add_selection(one)
    which = one.add_mutually_exclusive_group()
    which.add_argument("--supported", action="store_true", help="every code the ECU can report (19 0A)")
    which.add_argument("--permanent", action="store_true", help="codes that survive clearing (19 15)")
    one.set_defaults(run=on_bench(_list))
    two = verbs.add_parser("show", help="one code, or all, with snapshots and extended data",
                           description="Everything an ECU tells about codes: each status bit, severity, snapshots with "
                           "names and units, counters.")  # fmt: skip
    two.add_argument("codes", nargs="*", metavar="CODE", help="P0A93-00, P0A93 or 0A9300 (default: all stored)")
    _add_selection(two)
    two.set_defaults(run=on_bench(_show))
    three = verbs.add_parser("clear", help="forget codes, with their snapshots",
                             description="Clear the fault memory (14): all codes, one group, or one code. What is "
                             "there is printed first; what is there afterwards, too.")  # fmt: skip
    three.add_argument("--group", metavar="NAME|CODE", default="all",
                       help=f"{', '.join(GROUPS)}, a code, or six hexadecimal digits (default all)")  # fmt: skip
    three.add_argument("--memory", type=hex_number(0xFF), metavar="HEX", help="of this user-defined memory")
    add_connection(three)
    add_write(three)
    three.set_defaults(run=on_bench(_clear))
    four = verbs.add_parser("watch", help="tell each change of a status as it happens",
                            description="Read the codes again and again and print what changed. Ends with Ctrl-C or "
                            "--duration. With --json one object a line.")  # fmt: skip
    _add_selection(four)
    four.add_argument("--interval", type=positive_s, default=1.0, metavar="S", help="between two readings (default 1)")
    four.add_argument("--duration", type=positive_s, metavar="S", help="end after this time")
    four.set_defaults(run=on_bench(_watch))


def _add_selection(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("which codes (default: failing, pending or confirmed)")
    group.add_argument("--mask", type=hex_number(0xFF), metavar="HEX", help="any with one of these status bits")
    group.add_argument("--failing", action="store_true", help="the test fails now (bit 0)")
    group.add_argument("--pending", action="store_true", help="bit 2")
    group.add_argument("--confirmed", action="store_true", help="bit 3")
    group.add_argument("--lamp", action="store_true", help="those that ask for the warning lamp (bit 7)")
    group.add_argument("--all", action="store_true", help="any status bit")
    group.add_argument("--memory", type=hex_number(0xFF), metavar="HEX", help="of this user-defined memory")
    add_connection(parser)


def mask_of(args: argparse.Namespace) -> int:
    """The status mask asked for."""
    if args.mask is not None:
        return int(args.mask)
    if args.all:
        return 0xFF
    bits = ((args.failing, Status.TEST_FAILED), (args.pending, Status.PENDING), (args.confirmed, Status.CONFIRMED),
            (args.lamp, Status.WARNING_INDICATOR))  # fmt: skip
    return sum(int(bit) for is_on, bit in bits if is_on) or USUAL_MASK


async def _list(args: argparse.Namespace, bench: Bench) -> int:
    async def read(ecu: Ecu, client: UdsClient) -> Faults:
        if args.supported:
            return faults_of_list(bench.vehicle, ecu, await client.supported_dtcs())
        if args.permanent:
            return faults_of_list(bench.vehicle, ecu, await client.permanent_dtcs())
        return await read_faults(bench.vehicle, ecu, client, mask_of(args), memory=args.memory)

    outcomes = await for_each(bench, await chosen(args, bench), read)
    if args.json:
        say_json({"ecus": [_faults_json(outcome) for outcome in outcomes]})
    else:
        _print_list(outcomes)
    return conclude(outcomes)


def _faults_json(outcome: Outcome[Faults]) -> dict[str, object]:
    if outcome.value is None:
        return {"ecu": outcome.ecu.name, "error": error_json(outcome.error or ValueError())}
    return {
        "ecu": outcome.ecu.name,
        "availability": f"{outcome.value.availability:02X}",
        "dtcs": [fault.as_json() for fault in outcome.value.faults],
    }


def _print_list(outcomes: Sequence[Outcome[Faults]]) -> None:
    rows = [
        (o.ecu.name, f.code, f"{f.status:02X}", status_summary(f.status), f.severity or "-", f.text)
        for o in outcomes
        for f in (o.value.faults if o.value else ())
    ]
    if rows:
        say(table(rows, ("ECU", "CODE", "ST", "STATUS", "SEVERITY", "TEXT")))
    clean = [o.ecu.name for o in outcomes if o.value is not None and not o.value.faults]
    if clean:
        say(f"no codes: {', '.join(clean)}")


def status_summary(status: int) -> str:
    """The four bits that matter, the others by their number in the ST column."""
    words = [word for bit, word, _ in STATUS_WORDS
             if status & bit & (USUAL_MASK | Status.WARNING_INDICATOR)]  # fmt: skip
    if not words and not status & Status.FAILED_SINCE_CLEAR:
        return "not tested" if status & Status.NOT_COMPLETED_SINCE_CLEAR else "passed"
    return ", ".join(words) or "stored"


def _parse_code(text: str) -> int:
    try:
        return parse_dtc(text)
    except ValueError as error:
        raise UsageError(str(error)) from error


async def _show(args: argparse.Namespace, bench: Bench) -> int:
    codes = [_parse_code(code) for code in args.codes]

    async def read(ecu: Ecu, client: UdsClient) -> list[Details]:
        numbers = codes or [
            f.number
            for f in (
                await read_faults(bench.vehicle, ecu, client, mask_of(args), memory=args.memory, severities=False)
            ).faults
        ]
        found = [await read_details(bench.vehicle, ecu, client, n, memory=args.memory) for n in numbers]
        return [details for details in found if details is not None]

    outcomes = await for_each(bench, await chosen(args, bench), read)
    if args.json:
        say_json(
            {
                "ecus": [
                    {"ecu": o.ecu.name, "error": error_json(o.error)}
                    if o.error
                    else {"ecu": o.ecu.name, "dtcs": [d.as_json() for d in o.value or ()]}
                    for o in outcomes
                ]
            }
        )
    else:
        say("\n\n".join(_details_text(o.ecu, d) for o in outcomes for d in o.value or ()) or "no codes")
    status = conclude(outcomes)
    known = {d.fault.number for o in outcomes for d in o.value or ()}
    if not status and (missing := [code for code in codes if code not in known]):
        raise UsageError(f"no ECU asked knows {', '.join(format_dtc(code) for code in missing)}")
    return status


def _details_text(ecu: Ecu, details: Details) -> str:
    fault = details.fault
    lines = [printable(f"{ecu.name}  {fault.code}  {fault.text}")]
    if fault.severity:
        lines.append(f"  severity  {fault.severity}")
    lines.append(f"  status    {fault.status:02X}")
    lines += [f"    {'x' if fault.status & bit else '-'} {word:<26} {text}" for bit, word, text in STATUS_WORDS]
    for snapshot in details.snapshots:
        lines.append(f"  snapshot {snapshot.record:02X}")
        lines.append(table([(f"{did:04X}", name, as_text(v)) for did, name, v in snapshot.items], indent=4))
        if snapshot.rest:
            lines.append(f"    and {snapshot.rest} (lengths unknown)")
    if details.records:
        lines.append("  counters")
        lines.append(table([(f"{r.record:02X}", r.name, r.text) for r in details.records], indent=4))
    if details.rest:
        lines.append(f"  extended data {details.rest}")
    return "\n".join(lines)


async def _clear(args: argparse.Namespace, bench: Bench) -> int:
    group = GROUPS[args.group.lower()] if args.group.lower() in GROUPS else _parse_code(args.group)
    ecus = await chosen(args, bench)

    async def read(ecu: Ecu, client: UdsClient) -> Faults:
        return await read_faults(bench.vehicle, ecu, client, USUAL_MASK, memory=args.memory, severities=False)

    before = await for_each(bench, ecus, read)
    if not args.json:
        _print_list(before)
    what = args.group.lower() if args.group.lower() in GROUPS else format_dtc(group)
    if not need_write(args, f"clear the codes ({what}) of {', '.join(ecu.name for ecu in ecus)}"):
        if args.json:
            say_json(
                {"group": f"{group:06X}", "dry_run": True, "before": [_faults_json(outcome) for outcome in before]}
            )
        return 0

    async def clear(ecu: Ecu, client: UdsClient) -> Faults:
        await client.clear(group, args.memory)
        return await read(ecu, client)

    after = await for_each(bench, ecus, clear)
    if args.json:
        say_json({"group": f"{group:06X}", "dry_run": False, "before": [_faults_json(outcome) for outcome in before],
                  "after": [_faults_json(outcome) for outcome in after]})  # fmt: skip
    else:
        for outcome in after:
            if outcome.value is not None:
                left = len(outcome.value.faults)
                say(f"{outcome.ecu.name}: cleared" + (f", {left} there again" if left else ""))
    return conclude(after)


async def _watch(args: argparse.Namespace, bench: Bench) -> int:
    ecus = await chosen(args, bench)
    last: dict[str, dict[int, Fault]] = {}
    silent: set[str] = set()

    async def read(ecu: Ecu, client: UdsClient) -> Faults:
        return await read_faults(bench.vehicle, ecu, client, 0xFF, memory=args.memory, severities=False)

    note(f"watching {', '.join(ecu.name for ecu in ecus)}; Ctrl-C ends")
    with anyio.move_on_after(args.duration):
        while True:
            for outcome in await for_each(bench, ecus, read):
                name = outcome.ecu.name
                if outcome.value is None:
                    if name not in silent:
                        _tell_silence(args, name, outcome.error)
                    silent.add(name)
                    continue
                silent.discard(name)
                now = {f.number: f for f in outcome.value.faults}
                for change in changes(last.get(name), now, mask_of(args)):
                    _tell_change(args, name, *change)
                last[name] = now
            await anyio.sleep(args.interval)
    return 0


def _tell_silence(args: argparse.Namespace, name: str, error: Exception | None) -> None:
    if args.json:
        say_json({"ecu": name, "error": error_json(error or GatewayError())}, is_line=True)
    else:
        note(f"{name}: {error}")


def changes(before: dict[int, Fault] | None, now: dict[int, Fault], mask: int) -> list[tuple[str, Fault, int | None]]:
    """(what happened, the fault, its status before) between two readings, of codes with a bit of the mask in either."""
    found: list[tuple[str, Fault, int | None]] = []
    for number, fault in now.items():
        old = before.get(number) if before is not None else None
        if before is None or old is None:
            if fault.status & mask:
                found.append(("present" if before is None else "new", fault, None))
        elif old.status != fault.status and (old.status | fault.status) & mask:
            word = "cleared" if not fault.status & mask else "new" if not old.status & mask else "changed"
            found.append((word, fault, old.status))
    for number, old in (before or {}).items():
        if number not in now and old.status & mask:
            found.append(("gone", old, old.status))
    return found


def _tell_change(args: argparse.Namespace, name: str, word: str, fault: Fault, before: int | None) -> None:
    if args.json:
        was = None if before is None else f"{before:02X}"
        say_json({"ecu": name, "change": word, "previous": was, **fault.as_json()}, is_line=True)
        return
    was = "" if before is None else f"{before:02X} -> "
    say(
        printable(
            f"{name}  {word:<8} {fault.code}  {was}{fault.status:02X} {status_summary(fault.status)}  {fault.text}"
        )
    )

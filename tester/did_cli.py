"""``outrider uds did read|write|dump|watch`` and ``outrider uds info``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import anyio
import msgspec

from gateway.uds.client import UdsClient
from gateway.uds.names import DID_NAMES
from tester.access import Wanted, add_access, plan, prepare, wanted_of
from tester.connect import Bench
from tester.did import Reading, form_of, one_did, parse_dids, read_all, values_of
from tester.errors import FileError, RefusedError, UsageError
from tester.options import add_connection, add_write, positive_s
from tester.output import error_json, exit_status, note, printable, say, say_json, table
from tester.running import Outcome, chosen, conclude, for_each, need_write, on_bench
from tester.values import as_json, as_text, encode
from tester.vehicle import Ecu

#: F180 to F19F, without the fingerprints that no ECU answers.
IDENTIFICATION = tuple(did for did in DID_NAMES if 0xF180 <= did <= 0xF19F)


def add_info_command(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``outrider uds info``."""
    parser = subparsers.add_parser("info", help="identification: VIN, part numbers, versions, serial number",
                                   description="Read F180 to F19F of each ECU and show those it has.")  # fmt: skip
    add_connection(parser)
    parser.set_defaults(run=on_bench(_info))


def add_did_command(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``outrider uds did``."""
    parser = subparsers.add_parser("did", help="data identifiers: read, write, dump, watch",
                                   description="Data by identifier, named as the vehicle file does.")  # fmt: skip
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    what = "F190, F180-F18F, all (of the vehicle file), or part of a name"
    one = verbs.add_parser("read", help="values of identifiers", description="Read identifiers of each chosen ECU.")
    one.add_argument("dids", nargs="+", metavar="DID", help=what)
    _add_reading(one)
    one.set_defaults(run=on_bench(_read))
    two = verbs.add_parser("write", help="write one identifier of one ECU",
                           description="Write the values of an identifier, in the units of the vehicle file, one word "
                           "per field or FIELD=VALUE for each; hex:BYTES as they are. The old value is shown first, "
                           "the new one is read back.")  # fmt: skip
    two.add_argument("did", metavar="DID", help="identifier or name")
    two.add_argument("values", nargs="+", metavar="VALUE", help="120, on, Limit=120, hex:0078")
    add_connection(two, ecu="one")
    add_access(two)
    add_write(two)
    two.set_defaults(run=on_bench(_write))
    three = verbs.add_parser("dump", help="all identifiers of a range, or those of the vehicle file",
                             description="Read everything: the vehicle file's identifiers, or --range. Those an ECU "
                             "does not have are left out.")  # fmt: skip
    three.add_argument("--range", action="append", metavar="FIRST-LAST", help="hexadecimal; may be repeated")
    three.add_argument("--out", metavar="FILE", help="write JSON there")
    _add_reading(three)
    three.set_defaults(run=on_bench(_dump))
    four = verbs.add_parser("watch", help="values again and again",
                            description="Read identifiers at an interval and print each change; with --json one "
                            "object a reading.")  # fmt: skip
    four.add_argument("dids", nargs="+", metavar="DID", help=what)
    four.add_argument("--interval", type=positive_s, default=1.0, metavar="S", help="between two readings (default 1)")
    four.add_argument("--count", type=int, default=0, metavar="N", help="end after so many readings")
    four.add_argument("--duration", type=positive_s, metavar="S", help="end after this time")
    _add_reading(four)
    four.set_defaults(run=on_bench(_watch))


def _add_reading(parser: argparse.ArgumentParser) -> None:
    add_connection(parser)
    add_access(parser)
    parser.add_argument("--write", action="store_true", help="needed with --unlock: a wrong key counts at the ECU")


def reading_wanted(args: argparse.Namespace, ecu: Ecu) -> Wanted:
    """Session and security for reading.

    Raises:
        RefusedError: ``--unlock`` without ``--write``.
    """
    wanted = wanted_of(args, ecu)
    if wanted.level is not None and not args.write:
        raise RefusedError(f"--unlock {args.unlock} sends a key, and a wrong one counts; add --write to do it")
    return wanted


async def _info(args: argparse.Namespace, bench: Bench) -> int:
    async def read(ecu: Ecu, client: UdsClient) -> list[Reading]:
        return [
            r for r in await read_all(ecu, client, IDENTIFICATION, Wanted(), skip_absent=True) if r.data is not None
        ]

    outcomes = await for_each(bench, await chosen(args, bench), read)
    _present(args, outcomes)
    return conclude(outcomes)


async def _read(args: argparse.Namespace, bench: Bench) -> int:
    ecus = await chosen(args, bench)
    numbers = {ecu.name: parse_dids(args.dids, ecu) for ecu in ecus}
    having = [ecu for ecu in ecus if numbers[ecu.name]]
    if not having:
        raise UsageError(f"no ECU has anything called {' '.join(args.dids)}; `outrider uds vehicle show` lists names")
    ranged = any("-" in word or word.lower() == "all" for word in args.dids)

    async def read(ecu: Ecu, client: UdsClient) -> list[Reading]:
        return await read_all(ecu, client, numbers[ecu.name], reading_wanted(args, ecu), skip_absent=ranged)

    outcomes = await for_each(bench, having, read)
    _present(args, outcomes)
    status = conclude(outcomes)
    refused = [r.error for o in outcomes for r in o.value or () if r.error is not None]
    answered = any(r.data is not None for o in outcomes for r in o.value or ())
    if status or not refused or (answered and ranged):
        return status
    return exit_status(refused[0]) if args.ecu or not answered else 0


def _present(args: argparse.Namespace, outcomes: Sequence[Outcome[list[Reading]]]) -> None:
    if args.json:
        say_json({"ecus": [readings_json(outcome) for outcome in outcomes]})
        return
    rows = []
    for outcome in outcomes:
        for reading in outcome.value or ():
            text = as_text(reading.values) if reading.data is not None else f"({reading.error})"
            rows.append((outcome.ecu.name, f"{reading.did.number:04X}", reading.did.name or "-", text))
    if rows:
        say(table(rows, ("ECU", "DID", "NAME", "VALUE")))


def readings_json(outcome: Outcome[list[Reading]]) -> dict[str, object]:
    """For machines."""
    if outcome.error is not None:
        return {"ecu": outcome.ecu.name, "error": error_json(outcome.error)}
    return {"ecu": outcome.ecu.name, "dids": [reading.as_json() for reading in outcome.value or ()]}


async def _write(args: argparse.Namespace, bench: Bench) -> int:
    [ecu] = await chosen(args, bench)
    did = one_did(args.did, ecu)
    try:
        content = encode(did.fields, args.values, did.bytes)
    except ValueError as error:
        raise UsageError(f"{did.number:04X} {did.name}: {error}\nexpected {form_of(did.fields)}") from error
    wanted = wanted_of(args, ecu)
    client = await bench.client(ecu)
    [before] = await read_all(ecu, client, [did.number], Wanted())
    name = f"{did.number:04X} {did.name}".rstrip()
    old = as_text(before.values) if before.data is not None else f"unknown ({before.error})"
    steps = plan(ecu, did.write, wanted)
    what = f"write {ecu.name} {name}: {old} -> {as_text(values_of(did, content))} ({content.hex(' ').upper()})"
    entry: dict[str, object] = {"ecu": ecu.name, "did": f"{did.number:04X}", "name": did.name,
                                "before": before.data.hex().upper() if before.data is not None else None,
                                "written": content.hex().upper()}  # fmt: skip
    if not need_write(args, what + (f" ({steps})" if steps else "")):
        if args.json:
            say_json({**entry, "dry_run": True})
        return 0
    await prepare(ecu, client, did.write, wanted)
    await client.write_did(did.number, content)
    [after] = await read_all(ecu, client, [did.number], Wanted())
    shown = as_text(after.values) if after.data is not None else "written (cannot be read)"
    if args.json:
        read_back = after.data.hex().upper() if after.data is not None else None
        say_json({**entry, "dry_run": False, "after": read_back, "values": as_json(after.values)})
    else:
        say(printable(f"{ecu.name}  {name}  {shown}"))
    if after.data is not None and after.data != content:
        note(f"{ecu.name}: {name} reads back as {after.data.hex(' ').upper()}")
        return 1
    return 0


async def _dump(args: argparse.Namespace, bench: Bench) -> int:
    ecus = await chosen(args, bench)
    if args.range and any("-" not in word for word in args.range):
        raise UsageError("--range is FIRST-LAST, e.g. 0100-01FF")

    async def read(ecu: Ecu, client: UdsClient) -> list[Reading]:
        numbers = parse_dids(args.range or (["all"] if ecu.dids else ["F180-F1FF", "0100-01FF"]), ecu)
        return await read_all(ecu, client, numbers, reading_wanted(args, ecu), skip_absent=True)

    outcomes = await for_each(bench, ecus, read)
    if args.out:
        content = msgspec.json.format(msgspec.json.encode({"ecus": [readings_json(o) for o in outcomes]}), indent=1)
        try:
            Path(args.out).write_bytes(content + b"\n")
        except OSError as error:
            failure = FileError(args.out, error.strerror or str(error))
            failure.status = 73
            raise failure from error
        note(f"{sum(len(o.value or ()) for o in outcomes)} identifiers in {args.out}")
    else:
        _present(args, outcomes)
    return conclude(outcomes)


async def _watch(args: argparse.Namespace, bench: Bench) -> int:
    ecus = await chosen(args, bench)
    numbers = {ecu.name: parse_dids(args.dids, ecu) for ecu in ecus}
    having = [ecu for ecu in ecus if numbers[ecu.name]]
    if not having:
        raise UsageError(f"no ECU has anything called {' '.join(args.dids)}")
    last: dict[tuple[str, int], str] = {}

    async def read(ecu: Ecu, client: UdsClient) -> list[Reading]:
        return await read_all(ecu, client, numbers[ecu.name], reading_wanted(args, ecu))

    with anyio.move_on_after(args.duration):
        done = 0
        while not args.count or done < args.count:
            outcomes = await for_each(bench, having, read)
            if args.json:
                say_json({"ecus": [readings_json(outcome) for outcome in outcomes]}, is_line=True)
            else:
                _print_changes(outcomes, last)
            done += 1
            if done != args.count:
                await anyio.sleep(args.interval)
    return 0


def _print_changes(outcomes: Sequence[Outcome[list[Reading]]], last: dict[tuple[str, int], str]) -> None:
    for outcome in outcomes:
        readings = outcome.value or ()
        lines = [((outcome.ecu.name, r.did.number), r.did.name, as_text(r.values) if r.data is not None
                  else f"({r.error})") for r in readings]  # fmt: skip
        if outcome.error is not None:
            lines = [((outcome.ecu.name, -1), "", f"({outcome.error})")]
        for key, name, text in lines:
            if last.get(key) != text:
                number = f"{key[1]:04X}" if key[1] >= 0 else "-"
                say(printable(f"{key[0]:<12}{number:<6}{name:<32}{text}"))
                last[key] = text

"""``outrider uds routine list|start|stop|result`` and ``outrider uds io``."""

from __future__ import annotations

import argparse
import re

import anyio

from gateway.uds.client import UdsClient
from gateway.uds.codec.data import IoControl
from gateway.uds.errors import NegativeResponse
from gateway.uds.names import ROUTINE_NAMES, Nrc
from tester.access import Wanted, add_access, plan, prepare, wanted_of
from tester.connect import Bench
from tester.control_cli import hold
from tester.did import form_of, one_did, values_of
from tester.errors import OutcomeError, UsageError
from tester.options import add_connection, add_write, positive_s
from tester.output import say, say_json, table
from tester.running import chosen, need_write, offline, on_bench
from tester.values import as_json, as_text, encode, parse_hex
from tester.vehicle import Access, Ecu, Routine, Vehicle

ACTIONS = {1: "start", 2: "stop", 3: "result"}
_NOT_YET = frozenset({Nrc.SEQUENCE_ERROR, Nrc.CONDITIONS_NOT_CORRECT, Nrc.BUSY})


def add_routine_command(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``outrider uds routine``."""
    parser = subparsers.add_parser("routine", help="routines: list, start, stop, result",
                                   description="Routines (31) of an ECU.")  # fmt: skip
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    one = verbs.add_parser("list", help="the routines of the vehicle file",
                           description="Routines of the vehicle file with what they need.")  # fmt: skip
    add_connection(one)
    one.set_defaults(run=offline(_list))
    two = verbs.add_parser("start", help="start a routine",
                           description="Start a routine; with --wait until its result is there.")  # fmt: skip
    _add_which(two)
    two.add_argument("--wait", nargs="?", type=positive_s, const=60.0, metavar="S",
                     help="ask for the result until it is there, at most so long (default 60)")  # fmt: skip
    two.set_defaults(run=on_bench(_start))
    three = verbs.add_parser("stop", help="stop a routine", description="Stop a routine.")
    _add_which(three)
    three.set_defaults(run=on_bench(_stop))
    four = verbs.add_parser("result", help="what came of a routine",
                            description="The result of a routine. An ECU forgets it when its session ends, so ask "
                            "with `start --wait` where that matters.")  # fmt: skip
    four.add_argument("routine", metavar="ROUTINE", help="FF00, or a name of the vehicle file")
    add_connection(four, ecu="one")
    add_access(four)
    four.set_defaults(run=on_bench(_result))


def _add_which(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("routine", metavar="ROUTINE", help="FF00, or a name of the vehicle file")
    parser.add_argument("option", nargs="*", metavar="HEX", help="routine control option record")
    add_connection(parser, ecu="one")
    add_access(parser)
    add_write(parser)


def find_routine(ecu: Ecu, word: str) -> Routine:
    """By number or name.

    Raises:
        UsageError: none, or several.
    """
    if re.fullmatch(r"(0[xX])?[0-9a-fA-F]{1,4}", word):
        return ecu.routine(int(word, 16))
    found = [r for r in ecu.routines.values() if r.name.lower() == word.lower()]
    found = found or [r for r in ecu.routines.values() if word.lower() in r.name.lower()]
    if not found:
        found = [Routine(number=n, name=name) for n, name in ROUTINE_NAMES.items() if word.lower() == name]
    if len(found) != 1:
        names = ", ".join(f"{r.number:04X} {r.name}" for r in found or ecu.routines.values()) or "none known"
        raise UsageError(f"{ecu.name}: {word!r} is not one routine; there are {names}")
    return found[0]


def _list(args: argparse.Namespace, vehicle: Vehicle) -> int:
    ecus = [vehicle.ecu(name) for name in args.ecu] if args.ecu else list(vehicle.ecus)
    if args.json:
        say_json({"ecus": [
            {"ecu": ecu.name, "routines": [
                {"routine": f"{r.number:04X}", "name": r.name, "actions": [ACTIONS.get(a, a) for a in r.actions],
                 "option_bytes": r.option_bytes, "duration_s": r.duration_s,
                 "sessions": list(r.access.sessions) if r.access else [],
                 "security": r.access.security if r.access else None} for r in ecu.routines.values()]}
            for ecu in ecus]})  # fmt: skip
        return 0
    rows = [
        (ecu.name, f"{r.number:04X}", r.name, " ".join(ACTIONS.get(a, str(a)) for a in r.actions),
         plan(ecu, r.access, Wanted()) or "-") for ecu in ecus for r in ecu.routines.values()
    ]  # fmt: skip
    say(table(rows, ("ECU", "ID", "NAME", "CAN", "NEEDS")) if rows else "the vehicle file has no routines")
    return 0


def _title(ecu: Ecu, routine: Routine) -> str:
    return f"{ecu.name} {routine.number:04X} {routine.name}".rstrip()


async def _ready(args: argparse.Namespace, bench: Bench, verb: str) -> tuple[Ecu, Routine, UdsClient, bytes] | None:
    [ecu] = await chosen(args, bench)
    routine = find_routine(ecu, args.routine)
    option = parse_hex(" ".join(getattr(args, "option", [])))
    wanted = wanted_of(args, ecu)
    if verb != "result":
        steps = plan(ecu, routine.access, wanted)
        what = f"{verb} routine {_title(ecu, routine)}" + (f" with {option.hex(' ').upper()}" if option else "")
        if not need_write(args, what + (f" ({steps})" if steps else "")):
            return None
    client = await bench.client(ecu)
    access = routine.access
    if verb == "result" and access is not None:
        access = Access(sessions=access.sessions)
    await prepare(ecu, client, access, wanted)
    return ecu, routine, client, option


def _show(args: argparse.Namespace, ecu: Ecu, routine: Routine, verb: str, record: bytes) -> None:
    if args.json:
        say_json({"ecu": ecu.name, "routine": f"{routine.number:04X}", "name": routine.name, "action": verb,
                  "record": record.hex().upper()})  # fmt: skip
    else:
        say(f"{_title(ecu, routine)}: {verb}  {record.hex(' ').upper() or 'done'}")


async def _start(args: argparse.Namespace, bench: Bench) -> int:
    ready = await _ready(args, bench, "start")
    if ready is None:
        return 0
    ecu, routine, client, option = ready
    record = await client.start_routine(routine.number, option)
    if args.wait is None:
        _show(args, ecu, routine, "start", record)
        return 0
    begin, last = anyio.current_time(), b""
    with anyio.move_on_after(args.wait):
        while True:
            result = await _result_now(client, routine)
            is_over = anyio.current_time() >= begin + routine.duration_s
            if is_over and result is not None and (result == last or not result):
                _show(args, ecu, routine, "result", result)
                return 0
            last = result or b""
            await anyio.sleep(0.2)
    raise OutcomeError(f"{_title(ecu, routine)}: no result within {args.wait:g} s")


async def _result_now(client: UdsClient, routine: Routine) -> bytes | None:
    """None: not there yet. What the bytes mean is the maker's, so a result counts when it no longer changes."""
    try:
        return await client.routine_result(routine.number)
    except NegativeResponse as refusal:
        if refusal.nrc not in _NOT_YET:
            raise
        return None


async def _stop(args: argparse.Namespace, bench: Bench) -> int:
    ready = await _ready(args, bench, "stop")
    if ready is not None:
        ecu, routine, client, option = ready
        _show(args, ecu, routine, "stop", await client.stop_routine(routine.number, option))
    return 0


async def _result(args: argparse.Namespace, bench: Bench) -> int:
    ready = await _ready(args, bench, "result")
    if ready is not None:
        ecu, routine, client, _ = ready
        _show(args, ecu, routine, "result", await client.routine_result(routine.number))
    return 0


def add_io_command(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``outrider uds io``."""
    parser = subparsers.add_parser(
        "io", help="take over an output, and give it back (2F)",
        description="Adjust, freeze or reset an output. Control is given back when the command ends, also by Ctrl-C: "
        "--hold tells how long to keep it (default: until Ctrl-C).",
    )  # fmt: skip
    parser.add_argument("did", metavar="DID", help="identifier or name")
    parser.add_argument("action", choices=("adjust", "freeze", "reset", "return"), help="return gives control back")
    parser.add_argument("values", nargs="*", metavar="VALUE", help="for adjust: as for `did write`")
    parser.add_argument(
        "--mask", default="", metavar="HEX", help="control enable mask, for identifiers of several outputs"
    )
    parser.add_argument("--hold", type=positive_s, default=float("inf"), metavar="S", help="give back after this time")
    add_connection(parser, ecu="one")
    add_access(parser)
    add_write(parser)
    parser.set_defaults(run=on_bench(_io))


_PARAMETERS = {"return": IoControl.RETURN_CONTROL, "reset": IoControl.RESET_TO_DEFAULT, "freeze": IoControl.FREEZE,
               "adjust": IoControl.ADJUST}  # fmt: skip


async def _io(args: argparse.Namespace, bench: Bench) -> int:
    [ecu] = await chosen(args, bench)
    did = one_did(args.did, ecu)
    if (args.action == "adjust") != bool(args.values):
        raise UsageError("adjust needs values, the others take none")
    try:
        state = encode(did.fields, args.values, did.bytes) if args.values else b""
        mask = parse_hex(args.mask)
    except ValueError as error:
        raise UsageError(f"{did.number:04X} {did.name}: {error}\nexpected {form_of(did.fields)}") from error
    wanted, name = wanted_of(args, ecu), f"{ecu.name} {did.number:04X} {did.name}".rstrip()
    steps = plan(ecu, did.io, wanted)
    to = f" to {as_text(values_of(did, state))}" if state else ""
    if not need_write(args, f"{args.action} {name}{to}" + (f" ({steps})" if steps else "")):
        return 0
    client = await bench.client(ecu)
    await prepare(ecu, client, did.io, wanted)
    if args.action != "return":
        bench.farewells.append(lambda: client.io_control(did.number, IoControl.RETURN_CONTROL))
    status = await client.io_control(did.number, _PARAMETERS[args.action], state, mask)
    values = values_of(did, status)
    if args.json:
        say_json({"ecu": ecu.name, "did": f"{did.number:04X}", "name": did.name, "action": args.action,
                  "status": status.hex().upper(), "values": as_json(values)})  # fmt: skip
    else:
        say(f"{name}: {args.action}  {as_text(values)}".rstrip())
    if args.action != "return":
        await hold(args.hold)
    return 0

"""``outrider uds session``, ``reset``, ``unlock`` and ``tester-present``."""

from __future__ import annotations

import argparse

import anyio

from gateway.uds.client import UdsClient
from gateway.uds.codec.control import SessionStarted
from gateway.uds.names import Reset, Session
from tester.access import (
    add_keys,
    enter,
    level_number,
    needs,
    session_number,
    unlock,
    wanted_of,
)
from tester.connect import Bench
from tester.discover import is_present
from tester.errors import NotThereError
from tester.options import add_connection, add_write, positive_s
from tester.output import error_json, note, say, say_json, table
from tester.running import chosen, conclude, for_each, need_write, on_bench
from tester.vehicle import Access, Ecu

RESETS = {"hard": Reset.HARD, "key": Reset.KEY_OFF_ON, "soft": Reset.SOFT,
          "rapid-on": Reset.ENABLE_RAPID_SHUTDOWN, "rapid-off": Reset.DISABLE_RAPID_SHUTDOWN}  # fmt: skip
BOOT_S = 20.0


def add_session_command(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``outrider uds session``."""
    parser = subparsers.add_parser(
        "session", help="enter a diagnostic session and hold it",
        description="Enter a session and tell its timing. With --hold it is kept alive until Ctrl-C or the time is "
        "over; without, the ECU is left in its default session at once. The programming session stops the application "
        "of most ECUs and needs --write.",
    )  # fmt: skip
    parser.add_argument("kind", metavar="NAME|HEX", help="default, programming, extended, safety, or 01 to 7F")
    parser.add_argument("--hold", nargs="?", type=positive_s, const=float("inf"), metavar="S",
                        help="keep it alive: so many seconds, or until Ctrl-C")  # fmt: skip
    add_connection(parser)
    add_write(parser)
    parser.set_defaults(run=on_bench(_session))


def add_reset_command(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``outrider uds reset``."""
    parser = subparsers.add_parser(
        "reset", help="reset an ECU and wait until it answers again",
        description="Reset the chosen ECUs (11) and wait until they answer again.",
    )  # fmt: skip
    parser.add_argument("kind", nargs="?", default="hard", choices=sorted(RESETS), help="default hard")
    parser.add_argument("--no-wait", action="store_true", help="do not wait until it answers again")
    add_connection(parser)
    add_write(parser)
    parser.set_defaults(run=on_bench(_reset))


def add_unlock_command(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``outrider uds unlock``."""
    parser = subparsers.add_parser(
        "unlock", help="open a security level (27)",
        description="Ask for the seed of a security level and send its key, by an algorithm of the vehicle file or of "
        "the arguments. The level closes when the session ends: use --hold, or --unlock of the command that needs it. "
        "A wrong key counts at the ECU, and several lock it for a time.",
    )  # fmt: skip
    parser.add_argument("level", metavar="LEVEL", help="odd and hexadecimal: 01, 03, 11")
    parser.add_argument("--session", metavar="NAME|HEX", help="default: what the vehicle file says, else extended")
    parser.add_argument("--seed-only", action="store_true", help="only show the seed; sends no key")
    parser.add_argument("--hold", nargs="?", type=positive_s, const=float("inf"), metavar="S",
                        help="keep it open: so many seconds, or until Ctrl-C")  # fmt: skip
    add_connection(parser, ecu="one")
    add_keys(parser.add_argument_group("how to make the key"))
    add_write(parser)
    parser.set_defaults(run=on_bench(_unlock))


def add_present_command(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``outrider uds tester-present``."""
    parser = subparsers.add_parser(
        "tester-present", help="ask each ECU whether it answers (3E)",
        description="Ask each chosen ECU whether it answers. Exit status 69 when one is silent.",
    )  # fmt: skip
    add_connection(parser)
    parser.set_defaults(run=on_bench(_present))


async def hold(seconds: float) -> None:
    """Let the clients keep their sessions alive for a time, or until Ctrl-C."""
    note("held; Ctrl-C ends" if seconds == float("inf") else f"held for {seconds:g} s")
    with anyio.move_on_after(seconds):
        await anyio.sleep_forever()


async def _session(args: argparse.Namespace, bench: Bench) -> int:
    ecus = await chosen(args, bench)
    kinds = {ecu.name: session_number(args.kind, ecu) for ecu in ecus}
    if Session.PROGRAMMING in kinds.values():
        names = ", ".join(name for name, kind in kinds.items() if kind == Session.PROGRAMMING)
        if not need_write(args, f"enter the programming session of {names}"):
            return 0
    elif args.dry_run:
        note(f"would enter session {args.kind} of {', '.join(kinds)}")
        return 0

    async def start(ecu: Ecu, client: UdsClient) -> SessionStarted:
        if kinds[ecu.name] == Session.PROGRAMMING:
            await enter(client, Session.EXTENDED)
        return await client.session(kinds[ecu.name])

    outcomes = await for_each(bench, ecus, start)
    if args.json:
        say_json({"ecus": [
            {"ecu": o.ecu.name, "error": error_json(o.error or NotThereError("silent"))} if o.value is None else
            {"ecu": o.ecu.name, "session": f"{o.value.session:02X}", "name": o.ecu.session_name(o.value.session),
             "p2_ms": o.value.p2_ms, "p2_star_ms": o.value.p2_star_ms} for o in outcomes]})  # fmt: skip
    else:
        rows = [
            (o.ecu.name, f"{o.value.session:02X} {o.ecu.session_name(o.value.session)}",
             f"P2 {o.value.p2_ms} ms, P2* {o.value.p2_star_ms} ms") for o in outcomes if o.value
        ]  # fmt: skip
        if rows:
            say(table(rows))
    if args.hold and any(o.value for o in outcomes):
        await hold(args.hold)
    return conclude(outcomes)


async def wait_until_present(client: UdsClient, limit_s: float) -> float | None:
    """Seconds until the ECU answers again; None: it does not."""
    begin = anyio.current_time()
    with anyio.move_on_after(limit_s):
        while True:
            if await is_present(client):
                return anyio.current_time() - begin
            await anyio.sleep(0.1)
    return None


async def _reset(args: argparse.Namespace, bench: Bench) -> int:
    ecus = await chosen(args, bench)
    if not need_write(args, f"reset ({args.kind}) {', '.join(ecu.name for ecu in ecus)}"):
        return 0
    kind = RESETS[args.kind]

    async def reset(ecu: Ecu, client: UdsClient) -> float | None:
        seconds = await client.reset(kind)
        if args.no_wait or kind not in (Reset.HARD, Reset.KEY_OFF_ON, Reset.SOFT):
            return 0.0 if seconds is None else float(seconds)
        begin = anyio.current_time()
        await anyio.sleep(min(ecu.boot_s or 0.3, 5.0))  # it may still answer a moment before it goes down
        waited = await wait_until_present(client, BOOT_S)
        if waited is None:
            raise NotThereError(f"does not answer {BOOT_S:g} s after its reset")
        return anyio.current_time() - begin

    outcomes = await for_each(bench, ecus, reset)
    if args.json:
        say_json({"reset": args.kind, "ecus": [
            {"ecu": o.ecu.name, "error": error_json(o.error)} if o.error else
            {"ecu": o.ecu.name, "back_after_s": None if args.no_wait else round(o.value or 0.0, 2)}
            for o in outcomes]})  # fmt: skip
    else:
        words = "reset" if args.no_wait else "is back"
        for outcome in outcomes:
            if outcome.error is None:
                say(f"{outcome.ecu.name}: {words}")
    return conclude(outcomes)


async def _unlock(args: argparse.Namespace, bench: Bench) -> int:
    [ecu] = await chosen(args, bench)
    level = level_number(args.level)
    wanted = wanted_of(args, ecu)
    session, _ = needs(ecu, Access(security=level), wanted)
    if not args.seed_only and not need_write(args, f"open security level {level:02X} of {ecu.name}"):
        return 0
    client = await bench.client(ecu)
    await enter(client, session)
    if args.seed_only:
        seed = await client.request_seed(level)
        if args.json:
            say_json({"ecu": ecu.name, "level": f"{level:02X}", "seed": seed.hex().upper(), "open": not any(seed)})
        else:
            say(f"{ecu.name}  level {level:02X}  " + (f"seed {seed.hex(' ').upper()}" if any(seed) else "open"))
    else:
        opened = await unlock(ecu, client, level, wanted)
        if args.json:
            say_json({"ecu": ecu.name, "level": f"{level:02X}", "open": True, "was_open": not opened})
        else:
            say(f"{ecu.name}  level {level:02X}  open")
    if args.hold:
        await hold(args.hold)
    return 0


async def _present(args: argparse.Namespace, bench: Bench) -> int:
    async def ask(_ecu: Ecu, client: UdsClient) -> bool:
        if not await is_present(client):
            raise NotThereError("does not answer")
        return True

    outcomes = await for_each(bench, await chosen(args, bench), ask)
    if args.json:
        say_json({"ecus": [{"ecu": o.ecu.name, "present": bool(o.value)} for o in outcomes]})
    else:
        say(table([(o.ecu.name, "present" if o.value else "silent") for o in outcomes]))
    return conclude(outcomes)

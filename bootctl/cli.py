"""``outrider boot``: which slot boots next, and the few ways to change it. Prints before it changes; idempotent."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bootctl import core
from bootctl.backends import BACKENDS, open_boot_control
from bootctl.errors import RefusedError, SetupError, StateError, StorageError
from bootctl.files import RealFiles
from bootctl.model import DEFAULT_TRIES, BootControlError
from bootctl.rauc import add_rauc_handler, handle
from bootctl.report import as_data, as_text, differences
from bootctl.store import Change, StoredBootControl

EX_DECLINED = 1
_STATUS = {RefusedError: os.EX_NOPERM, StateError: os.EX_DATAERR, SetupError: os.EX_CONFIG}


@dataclass(frozen=True, slots=True)
class _Slots:
    """What is needed to open the boot loader's state."""

    backend: str
    config: str
    current: str
    devices: dict[str, str]
    tries: int


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the group's commands."""
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    status = commands.add_parser("status", help="slots, their tries, which one runs and which boots next")
    _add_common(status)
    status.add_argument("--json", action="store_true")
    status.set_defaults(run=_told(_status))

    _add_change(commands, "mark-good", "the running slot has proved itself; its tries no longer count", _mark_good)
    _add_change(commands, "rollback", "boot the best other good slot next", _rollback)
    switch = _add_change(commands, "switch", "boot a good slot next", _switch)
    activate = _add_change(commands, "activate", "boot a slot next, on trial", _activate)
    bad = _add_change(commands, "mark-bad", "never boot a slot (before it is written)", _mark_bad)
    for command in (switch, activate, bad):
        command.add_argument("slot", metavar="SLOT")
    activate.add_argument(
        "--tries", type=int, metavar="N", help=f"boots it has to prove itself (default {DEFAULT_TRIES})"
    )

    play = commands.add_parser("play", help="a boot loader for benches: start a command for the slot that is chosen")
    play.add_argument("--config", required=True, metavar="FILE", help="the state, as of the file back end")
    play.add_argument("--slots", default="A,B", metavar="NAMES", help="names of the slots (%(default)s)")
    play.add_argument("--slot", action="append", default=[], metavar="NAME=COMMAND", help="another command for a slot")
    play.add_argument(
        "slot_command", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="$OUTRIDER_SLOT tells the slot"
    )
    play.set_defaults(run=_told(_play))

    rauc = commands.add_parser("rauc-handler", help="RAUC's custom boot loader back end")
    _add_common(rauc)
    add_rauc_handler(rauc)
    rauc.set_defaults(run=_told(_rauc))


def _play(args: argparse.Namespace) -> int:
    from bootctl.file import FileStore
    from bootctl.play import Board

    words = args.slot_command[1:] if args.slot_command[:1] == ["--"] else args.slot_command
    names = [name.strip() for name in args.slots.split(",")]
    commands = {name: words for name in names if words}
    for text in args.slot:
        name, _, command = text.partition("=")
        commands[name] = shlex.split(command)
    if missing := [name for name in names if not commands.get(name)]:
        raise SetupError(f"no command for slot {', '.join(missing)}")
    return Board(FileStore(Path(args.config), names, "", RealFiles()), commands).run()


def _add_change(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    text: str,
    change: Callable[[argparse.Namespace, StoredBootControl, int], Change],
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text)
    _add_common(command)
    command.add_argument("--dry-run", action="store_true", help="tell what would change; change nothing")
    command.add_argument("--yes", action="store_true", help="do not ask (asked only on a terminal)")
    command.add_argument("--json", action="store_true", help="the state before and after; implies --yes")
    command.set_defaults(run=_told(_change), change=change, verb=name)
    return command


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gateway-config", type=Path, metavar="FILE", help="take [update.slots] of this file")
    parser.add_argument("--backend", choices=BACKENDS)
    parser.add_argument("--config", metavar="PATH", help="fw_env.config, environment block, efivarfs or state file")
    parser.add_argument("--current", metavar="SLOT", help="the running slot (default: from the kernel's command line)")
    parser.add_argument("--slots", metavar="NAMES", help='names of the slots (default "A,B")')


def _told(command: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """``command`` with its errors on stderr and as exit status."""

    def run(args: argparse.Namespace) -> int:
        try:
            return command(args)
        except BootControlError as error:
            print(f"outrider boot {args.command}: {error}", file=sys.stderr)
            return _exit_status(error)

    return run


def _exit_status(error: BootControlError) -> int:
    cause = error.__cause__
    if isinstance(cause, FileNotFoundError):
        return os.EX_NOINPUT
    if isinstance(cause, PermissionError):
        return os.EX_NOPERM
    if isinstance(error, StorageError):
        return os.EX_IOERR
    return _STATUS.get(type(error), os.EX_USAGE)  # left: there is no such slot


def _open(args: argparse.Namespace) -> tuple[StoredBootControl, int]:
    wanted = _slots(args)
    control = open_boot_control(wanted.backend, wanted.config, wanted.current, wanted.devices)
    return control, wanted.tries


def _slots(args: argparse.Namespace) -> _Slots:
    """Options over the configuration file over defaults."""
    section = _section(args.gateway_config) if args.gateway_config else {}
    named = _text(section, "backend", "file" if section else "")
    backend = args.backend or named
    if not backend:
        raise SetupError("which boot loader? give --backend, or --gateway-config with [update.slots]")
    config = args.config or ""
    if not config and backend == named and (written := _text(section, "config")):
        config = str(args.gateway_config.absolute().parent / written)
    devices = section.get("devices", {})
    tries = section.get("tries", DEFAULT_TRIES)
    if not isinstance(devices, dict) or not all(isinstance(path, str) for path in devices.values()):
        raise SetupError("update.slots.devices: want names with paths")
    if type(tries) is not int:
        raise SetupError(f"update.slots.tries: {tries!r} is no number")
    names = [name.strip() for name in args.slots.split(",")] if args.slots else []
    chosen = {name: devices.get(name, "") for name in names} or devices or {"A": "", "B": ""}
    return _Slots(backend, config, args.current or _text(section, "current"), chosen, tries)


def _text(section: dict[str, object], key: str, default: str = "") -> str:
    value = section.get(key, default)
    if not isinstance(value, str):
        raise SetupError(f"update.slots.{key}: {value!r} is no text")
    return value


def _section(path: Path) -> dict[str, object]:
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SetupError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SetupError(f"{path}: {error}") from error
    update = found.get("update")
    section = update.get("slots") if isinstance(update, dict) else None
    if not isinstance(section, dict):
        raise SetupError(f"{path}: has no [update.slots]")
    return section


def _status(args: argparse.Namespace) -> int:
    control, _ = _open(args)
    state, notes = control.read(), control.store.notes()
    if args.json:
        print(json.dumps(as_data(control.name, state, notes), indent=2))
    else:
        print("\n".join(as_text(control.name, state, notes)))
    return os.EX_OK


def _change(args: argparse.Namespace) -> int:
    """Show, ask where a person sits at a terminal, change; nothing at all when it is so already."""
    control, tries = _open(args)
    rule = args.change(args, control, tries)
    before = control.read()
    after = rule(before)
    lines = differences(before, after)
    if not args.json:
        print("\n".join(lines) if lines else "nothing to change", flush=True)
    if lines and not args.dry_run:
        if not (args.yes or args.json or _agreed(args.verb)):
            print("nothing was changed", file=sys.stderr)
            return EX_DECLINED
        before, after = control.change(rule)
    if args.json:
        told = {"before": as_data(control.name, before), "after": as_data(control.name, after)}
        print(json.dumps({"changed": before != after and not args.dry_run, **told}, indent=2))
    return os.EX_OK


def _agreed(verb: str) -> bool:
    if not (sys.stdin and sys.stdin.isatty() and sys.stdout.isatty()):
        return True
    try:
        return input(f"{verb}: go on? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _mark_good(args: argparse.Namespace, control: StoredBootControl, tries: int) -> Change:
    return core.mark_good


def _rollback(args: argparse.Namespace, control: StoredBootControl, tries: int) -> Change:
    return core.rollback


def _switch(args: argparse.Namespace, control: StoredBootControl, tries: int) -> Change:
    return lambda state: core.switch(state, args.slot)


def _mark_bad(args: argparse.Namespace, control: StoredBootControl, tries: int) -> Change:
    return lambda state: core.mark_bad(state, args.slot)


def _activate(args: argparse.Namespace, control: StoredBootControl, tries: int) -> Change:
    return control.activation(args.slot, tries if args.tries is None else args.tries)


def _rauc(args: argparse.Namespace) -> int:
    control, tries = _open(args)
    answer = handle(control, args.request, args.values, tries)
    if answer:
        print(answer)
    return os.EX_OK

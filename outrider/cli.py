"""Dispatch of ``outrider GROUP COMMAND`` to the package that implements the group.

Only the named group is imported, so that ``outrider gateway run`` on an ECU never loads what only a workstation has.
A group's module offers ``add_commands(parser)`` (argparse) whose commands set ``run``, a function from the parsed
arguments to an exit status.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Sequence

from outrider import __version__

#: group -> (module, what it is for). The order is the order of the help text.
GROUPS: dict[str, tuple[str, str]] = {
    "demo": ("outrider.demo", "simulated vehicle, recorded drive, gateway and cloud on this machine"),
    "dbc": ("dbc.cli", "check, compile, show DBC files; decode logs with them"),
    "scheme": ("gateway.collect.cli", "check collection schemes; tell what they cost and select"),
    "gateway": ("gateway.cli", "the runtime in the vehicle"),
    "boot": ("bootctl.cli", "which system slot boots next, and whether the running one is good"),
    "cloud": ("cloud.cli", "the fleet service"),
    "uds": ("tester.cli", "talk to ECUs: read, clear, flash, record"),
    "sim": ("simulator.cli", "a simulated vehicle, log replay and bus load"),
}

#: Exit statuses, after sysexits.h; docs/reference/exit-status.md explains them.
EX_OK, EX_USAGE, EX_DATAERR, EX_NOINPUT, EX_UNAVAILABLE, EX_SOFTWARE = 0, 64, 65, 66, 69, 70
EX_CANTCREAT, EX_IOERR, EX_TEMPFAIL, EX_NOPERM, EX_CONFIG = 73, 74, 75, 77, 78

#: Import names of ours: one that is missing is a mistake, not an extra.
_OURS = frozenset({"outrider", "gateway", "bootctl", "dbc", "cloud", "simulator", "tester"})

#: What commands leave to ``main``: standard output that cannot take more.
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def build_parser(groups: Sequence[str]) -> argparse.ArgumentParser:
    """The parser with the named groups filled in and all others listed with their help only."""
    parser = argparse.ArgumentParser(prog="outrider", description="Vehicle gateway and fleet cloud.")
    parser.add_argument("--version", action="version", version=f"outrider {__version__}")
    subparsers = parser.add_subparsers(dest="group", metavar="GROUP", required=True)
    for name, (module, text) in GROUPS.items():
        group = subparsers.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if name in groups:
            importlib.import_module(module).add_commands(group)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status. A missing extra is answered with its name."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    named = next((word for word in arguments if not word.startswith("-")), "")
    try:
        return _run(named, arguments)
    except BrokenPipeError:
        _forget_output()
        return EX_OK
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        _forget_output()
        print(f"outrider {named}: standard output: {error.strerror}", file=sys.stderr)
        return EX_IOERR


def _run(named: str, arguments: Sequence[str]) -> int:
    try:
        parser = build_parser([named])
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in _OURS:
            raise
        print(f"outrider {named}: needs the Python package {error.name!r}, which is not installed", file=sys.stderr)
        return EX_UNAVAILABLE
    parsed = parser.parse_args(arguments)
    status = int(parsed.run(parsed))
    if sys.stdout is not None:
        sys.stdout.flush()  # here, where a closed pipe or a full disk still has an answer
    return status


def _forget_output() -> None:
    """Let the interpreter's last flush go nowhere, since it has failed already."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

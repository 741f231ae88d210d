"""``outrider gateway update``: what a person in the vehicle may do about updates."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway.errors import ConfigError, GatewayError, NotNowError
from gateway.update.control import ask


def add_update_commands(parser: argparse.ArgumentParser) -> None:
    """Add the commands of the group."""
    commands = parser.add_subparsers(dest="update_command", metavar="COMMAND", required=True)
    _add(commands, "status", "where the update is, and what it waits for", lambda arguments: {"do": "status"})
    _add(commands, "look", "look for updates now", lambda arguments: {"do": "look"})
    _add(commands, "cancel", "cancel the update that is under way, as long as nothing was started", _cancel)
    consent = _add(commands, "consent", "agree to the update that waits", _consent)
    consent.add_argument("--by", default="", metavar="NAME", help="who agrees, for the log")


def _add(
    commands: Any, name: str, text: str, request: Callable[[argparse.Namespace], dict[str, str]]
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text)
    source = command.add_mutually_exclusive_group()
    source.add_argument("--config", type=Path, default=Path("/etc/outrider/gateway.toml"), metavar="FILE")
    source.add_argument("--socket", type=Path, help="the gateway's update socket")
    command.add_argument("--json", action="store_true")
    command.set_defaults(run=_run, request=request)
    return command


def _cancel(arguments: argparse.Namespace) -> dict[str, str]:
    del arguments
    return {"do": "cancel"}


def _consent(arguments: argparse.Namespace) -> dict[str, str]:
    """Consent is to the update that waits now: whoever agrees has seen which one that is."""
    waiting = ask(_socket(arguments), do="status")
    report = waiting.get("report") or {}
    if not report.get("assignment"):
        raise NotNowError("no update is waiting")
    return {"do": "consent", "assignment": str(report["assignment"]), "by": arguments.by}


def _socket(arguments: argparse.Namespace) -> Path:
    if arguments.socket is not None:
        return Path(arguments.socket)
    from gateway.config import load_config

    section = load_config(arguments.config).update
    if not section.is_wanted or not section.control_socket:
        raise ConfigError("has no update.control_socket, or takes no updates", path=str(arguments.config))
    return Path(arguments.config).resolve().parent / section.control_socket


def _run(arguments: argparse.Namespace) -> int:
    try:
        status = ask(_socket(arguments), **arguments.request(arguments))
    except GatewayError as error:
        print(f"outrider gateway update: {error}", file=sys.stderr)
        return os.EX_CONFIG if isinstance(error, ConfigError) else os.EX_UNAVAILABLE
    print(json.dumps(status, indent=2) if arguments.json else _text(status))
    return os.EX_OK


def _text(status: dict[str, Any]) -> str:
    report = status.get("report") or {}
    lines = [f"{'stage':10}{status.get('stage', '')}"]
    if status.get("release"):
        lines.append(f"{'release':10}{status['release']}  ({report.get('percent', 0):.0f} %)")
    for ecu in report.get("ecus") or ():
        lines.append(f"{'':10}{ecu['ecu']:20} {ecu['state']:12} {ecu.get('version', '')}")
    for key, label in (("waits_for", "waits for"), ("error", "error"), ("manifest_error", "manifest")):
        if status.get(key):
            lines.append(f"{label:10}{status[key]}")
    if report.get("detail"):
        lines.append(f"{'detail':10}{report['detail']}")
    return "\n".join(lines)

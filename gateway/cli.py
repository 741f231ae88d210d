"""``outrider gateway``: its commands' arguments and exit statuses, nothing else."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import msgspec

from gateway.errors import ConfigError, GatewayError, NotNowError, PeerError, TransportError

if TYPE_CHECKING:
    from dbc.manifest import Manifest
    from gateway.config import Config

_SAFE_URL = re.compile(r"https://[^/\s]|http://(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?(/|$)")


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the group's commands."""
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Command)
    run = commands.add_parser("run", help="run the gateway until SIGTERM or Ctrl-C")
    _add_config(run)
    run.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    run.add_argument("--log-format", choices=("text", "json"), default="text")
    run.set_defaults(run=_run)

    check = commands.add_parser("check-config", help="check the configuration and every file it names; start nothing")
    _add_config(check)
    check.add_argument("--json", action="store_true", help="the effective configuration as JSON")
    check.set_defaults(run=_check_config)

    status = commands.add_parser("status", help="ask the running gateway: buses, schemes, health, accounting")
    source = status.add_mutually_exclusive_group()
    source.add_argument("--config", type=Path, default=Path("/etc/outrider/gateway.toml"), metavar="FILE")
    source.add_argument("--socket", type=Path, help="the gateway's status socket")
    status.add_argument("--json", action="store_true")
    status.set_defaults(run=_status)

    enrol = commands.add_parser("enrol", help="trade the operator's one-time token for this vehicle's certificate")
    enrol.add_argument("--cloud", required=True, metavar="URL", help="the cloud's operator address")
    enrol.add_argument("--vehicle", required=True, metavar="ID", help="the vehicle the token was made for")
    enrol.add_argument("--token", required=True, help="the token, or @FILE to read it from a file")
    enrol.add_argument("--directory", required=True, type=Path, help="where key and certificate are kept")
    enrol.add_argument("--ca", metavar="FILE", help="trust this CA for the operator address, not the public ones")
    enrol.add_argument("--force", action="store_true", help="replace an identity that is there")
    enrol.add_argument("--timeout", type=_seconds, default=30.0, metavar="SECONDS")
    enrol.set_defaults(run=_enrol)

    update = commands.add_parser("update", help="ask about software updates, agree to one, cancel one")
    audit = commands.add_parser("audit", help="show or verify the log of diagnostic access")
    firewall = commands.add_parser("firewall", help="show or check the policy for diagnostic access")
    audit.fill, firewall.fill, update.fill = _fill_audit, _fill_firewall, _fill_update


class _Command(argparse.ArgumentParser):
    """A command whose own commands and arguments are added when it is the one that was typed.

    A vehicle that starts has no time to load what the others need.
    """

    fill: Callable[[argparse.ArgumentParser], None] | None = None

    def parse_known_args(  # type: ignore[override]  # the overloads only tell namespaces apart
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """See ``ArgumentParser``; argparse calls it for the command that was typed."""
        if self.fill is not None:
            fill, self.fill = self.fill, None
            fill(self)
        return super().parse_known_args(args, namespace)


def _fill_audit(parser: argparse.ArgumentParser) -> None:
    from gateway.firewall.cli import add_audit_commands

    add_audit_commands(parser)


def _fill_firewall(parser: argparse.ArgumentParser) -> None:
    from gateway.firewall.cli import add_firewall_commands

    add_firewall_commands(parser)


def _fill_update(parser: argparse.ArgumentParser) -> None:
    from gateway.update.cli import add_update_commands

    add_update_commands(parser)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"{text}: a number of seconds above 0")
    return seconds


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        default=Path("/etc/outrider/gateway.toml"),
        metavar="FILE",
        help="TOML file (default: %(default)s); paths in it are relative to its folder",
    )


def _fail(error: BaseException, config: Path | None = None, *, transport: int = os.EX_TEMPFAIL) -> int:
    """Tell the error and pick the exit status by who must act; ``config`` is the file a bare key belongs to."""
    within = f"{config}: " if config and isinstance(error, ConfigError) and error.where and not error.path else ""
    print(f"outrider gateway: {within}{error}", file=sys.stderr)
    if isinstance(error, ConfigError):
        return os.EX_CONFIG
    if isinstance(error, NotNowError):
        return os.EX_UNAVAILABLE
    if isinstance(error, PeerError):
        return os.EX_PROTOCOL
    if isinstance(error, TransportError):
        return transport
    return os.EX_NOPERM if isinstance(error, GatewayError) else os.EX_SOFTWARE


def _run(arguments: argparse.Namespace) -> int:
    from gateway.app import Gateway, load_started, run_until_signalled  # the other commands need none of it
    from gateway.logs import set_up_logging

    set_up_logging(level=arguments.log_level, as_json=arguments.log_format == "json")

    async def main() -> None:
        config = load_started(arguments.config)
        await run_until_signalled(Gateway(config, arguments.config.resolve().parent))

    try:
        anyio.run(main)
    except GatewayError as error:
        return _fail(error, arguments.config, transport=os.EX_IOERR)
    except ExceptionGroup as group:
        ours = group.subgroup(GatewayError)
        if ours is None:
            raise
        return _fail(_first(ours), arguments.config, transport=os.EX_IOERR)
    return os.EX_OK


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def _check_config(arguments: argparse.Namespace) -> int:
    from gateway.app import load_inputs
    from gateway.config import load_config
    from gateway.diag.assembly import load_diagnostic_inputs
    from gateway.runtime import SystemClock

    try:
        config = load_config(arguments.config)
        base = arguments.config.resolve().parent
        manifest, loaded = load_inputs(config, base)
        inputs = load_diagnostic_inputs(config, base, manifest, SystemClock())
        if config.update.is_wanted:
            _check_updates(config, base, manifest)
    except GatewayError as error:
        return _fail(error, arguments.config)
    for wrong in loaded.errors:
        _fail(wrong)
    if loaded.errors:
        return os.EX_CONFIG
    if arguments.json:
        print(json.dumps(msgspec.to_builtins(config), indent=2))
        return os.EX_OK
    print(f"{arguments.config}: sound")
    print(f"vehicle   {config.vehicle}")
    for bus in config.buses:
        print(f"bus       {bus.name}: {bus.interface} {bus.channel}")
    print(f"manifest  {manifest.hash.hex()[:16]}  {len(manifest.messages)} messages, {len(manifest.signals)} signals")
    for scheme in loaded.schemes:
        print(f"scheme    {scheme.id} version {scheme.version}")
    for ecu in config.diagnostics.ecus:
        print(f"ecu       {ecu.name}: {ecu.logical_address:#06x} on {ecu.bus}")
    if inputs.rules.monitors:
        print(f"monitors  {len(inputs.rules.monitors)}")
    for name, ecu_hardware in _updated(config):
        print(f"update    {name}: {ecu_hardware}")
    for route in inputs.routing.routes:
        print(f"route     {route.name}: {route.source} to {', '.join(route.to)}")
    return os.EX_OK


def _check_updates(config: Config, base: Path, manifest: Manifest) -> None:
    """What ``[update]`` names is there and sound. Raises ``ConfigError``."""
    from gateway.runtime import HealthBoard, SystemClock
    from gateway.update.assembly import Updates

    Updates(config, base, manifest=manifest, clock=SystemClock(), health=HealthBoard())


def _updated(config: Config) -> list[tuple[str, str]]:
    """What takes software: names and hardware ids."""
    section = config.update
    if not section.is_wanted:
        return []
    found = [(section.primary, section.hardware_id), *((ecu.name, ecu.hardware_id) for ecu in section.ecus)]
    return found + [(p.name, f"{p.kind} {p.path}") for p in section.payloads]


def _status(arguments: argparse.Namespace) -> int:
    from gateway.config import load_config, status_socket_path
    from gateway.status import read_status, status_text

    try:
        socket = arguments.socket
        if socket is None:
            config = load_config(arguments.config)
            socket = status_socket_path(config, arguments.config.resolve().parent)
            if socket is None:
                raise NotNowError("the configuration has no runtime.status_socket")
        status = read_status(socket)
    except GatewayError as error:
        return _fail(error)
    print(msgspec.json.encode(status).decode() if arguments.json else status_text(status))
    return os.EX_OK if status.report.ledger.unexplained == 0 else os.EX_SOFTWARE


def _enrol(arguments: argparse.Namespace) -> int:
    from gateway.link.client import enrol
    from gateway.link.identity import VEHICLE_ID, Identity, make_key_request
    from gateway.wire.api import EnrolRequest

    identity = Identity(arguments.directory)
    try:
        if not VEHICLE_ID.fullmatch(arguments.vehicle):
            raise ConfigError("a vehicle id has letters, digits, '.', '_' and '-' only, at most 64")
        if identity.exists and not arguments.force:
            raise NotNowError(f"{arguments.directory} holds the identity of {identity.facts().vehicle}; use --force")
        token = arguments.token
        if token.startswith("@"):
            try:
                token = Path(token[1:]).read_text(encoding="ascii").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"cannot read the token: {error}") from error
        if not _SAFE_URL.match(arguments.cloud):  # the token goes out and the trust anchor comes in on this way
            raise ConfigError(f"--cloud {arguments.cloud}: must begin with https:// (http:// on this machine only)")
        if arguments.ca is not None and not os.access(arguments.ca, os.R_OK):
            raise ConfigError(f"--ca {arguments.ca}: not there, or not readable")
        request = make_key_request(arguments.vehicle)
        message = EnrolRequest(token=token, vehicle=arguments.vehicle, csr_pem=request.csr_pem)
        reply = anyio.run(partial(enrol, arguments.cloud, message, ca_file=arguments.ca, timeout_s=arguments.timeout))
        identity.store(arguments.vehicle, request, reply)
    except GatewayError as error:
        return _fail(error)
    except OSError as error:
        print(f"outrider gateway: {error}", file=sys.stderr)
        return os.EX_CANTCREAT
    print(f"{arguments.vehicle} enrolled; identity in {arguments.directory}, cloud at {reply.vehicle_url}")
    return os.EX_OK

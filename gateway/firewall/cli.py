"""``outrider gateway audit`` and ``outrider gateway firewall``: look at the log and at the policy; change nothing."""

from __future__ import annotations

import argparse
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from gateway.config import Config, load_config
from gateway.diag.config import FirewallSection
from gateway.diag.router import names_of
from gateway.errors import ConfigError, GatewayError
from gateway.firewall.audit import Record
from gateway.firewall.audit_store import KEY, file_names, read_key, read_records, verify
from gateway.firewall.check import allowed_while_moving, check
from gateway.firewall.policy import default_policy_text, load_policy, parse_policy
from gateway.firewall.rules import compile_policy
from gateway.firewall.services import describe

CONFIG = Path("/etc/outrider/gateway.toml")


def add_audit_commands(parser: argparse.ArgumentParser) -> None:
    """Add ``verify`` and ``show`` to the parser of ``outrider gateway audit``."""
    commands = parser.add_subparsers(dest="audit_command", metavar="COMMAND", required=True)
    check_ = commands.add_parser("verify", help="check that no record was changed, removed or reordered")
    _add_place(check_)
    check_.set_defaults(run=_verify)
    show = commands.add_parser("show", help="print the records")
    _add_place(show)
    show.add_argument("--last", type=_count, metavar="N", help="only the last N")
    show.add_argument("--kind", action="append", metavar="KIND", help="only this kind (refuse, drop, write, unlock …)")
    show.set_defaults(run=_show)


def add_firewall_commands(parser: argparse.ArgumentParser) -> None:
    """Add ``check`` and ``show`` to the parser of ``outrider gateway firewall``."""
    commands = parser.add_subparsers(dest="firewall_command", metavar="COMMAND", required=True)
    check_ = commands.add_parser("check", help="check a policy: form, names, rules that never apply")
    check_.add_argument("policy", type=Path, metavar="FILE")
    check_.add_argument("--config", type=Path, metavar="FILE", help="the gateway's configuration, for the ECUs' names")
    check_.add_argument("--json", action="store_true")
    check_.set_defaults(run=_check)
    show = commands.add_parser("show", help="print the policy in force: the configured file, or the built-in one")
    show.add_argument("--config", type=Path, metavar="FILE", help="the gateway's configuration")
    show.set_defaults(run=_show_policy)


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return count


def _add_place(parser: argparse.ArgumentParser) -> None:
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--config", type=Path, default=CONFIG, metavar="FILE", help="default: %(default)s")
    place.add_argument("--directory", type=Path, metavar="DIR", help="a log that was copied off a vehicle")
    parser.add_argument("--key", type=Path, metavar="FILE", help="the audit key; default: the identity directory's")
    parser.add_argument("--json", action="store_true")


def _fail(error: Exception) -> int:
    print(f"outrider gateway: {error}", file=sys.stderr)
    return os.EX_CONFIG if isinstance(error, ConfigError) else os.EX_IOERR


def _place(arguments: argparse.Namespace) -> tuple[Path, bytes]:
    """Directory and key of the log.

    Raises:
        GatewayError: the configuration, the key or the log is not there.
    """
    key = b"" if arguments.key is None else read_key(arguments.key)
    if arguments.directory is not None:
        directory: Path = arguments.directory
    else:
        config, base = load_config(arguments.config), arguments.config.resolve().parent
        directory = base / config.diagnostics.firewall.audit_directory
        identity = config.link.identity_directory
        if not key and identity is not None and (base / identity / KEY).exists():
            key = read_key(base / identity / KEY)
    if not file_names(directory):
        raise ConfigError("no audit log is there", path=str(directory))
    return directory, key


def _verify(arguments: argparse.Namespace) -> int:
    try:
        directory, key = _place(arguments)
        result = verify(directory, key)
    except GatewayError as error:
        return _fail(error)
    if arguments.json:
        print(msgspec.json.encode({"sound": result.is_sound, **msgspec.structs.asdict(result)}).decode())
    else:
        for finding in result.findings:
            print(f"{finding.file}:{finding.line}: {finding.problem}")
        state = "sound" if result.is_sound else "NOT SOUND"
        chain = "signed with the audit key" if key else "not signed: no audit key"
        repaired = f", {result.repaired} crashes repaired" if result.repaired else ""
        print(f"{directory}: {state}, records {result.first} to {result.last}, {chain}{repaired}")
    return os.EX_OK if result.is_sound else os.EX_DATAERR


def _show(arguments: argparse.Namespace) -> int:
    try:
        directory, _ = _place(arguments)
        kinds = arguments.kind
        records = list(read_records(directory, since=lambda r: kinds is None or r.kind in kinds))
    except GatewayError as error:
        return _fail(error)
    for record in records[-arguments.last :] if arguments.last else records:
        print(msgspec.json.encode(record).decode() if arguments.json else _line(record))
    return os.EX_OK


def _line(record: Record) -> str:
    when = datetime.fromtimestamp(record.at_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M:%S")
    who = f"{record.port} 0x{record.tester:04X}" + (f" {record.name}" if record.name else "") if record.port else ""
    what = (
        f"-> 0x{record.target:04X} {describe(int(record.request[:2], 16))} {record.request}" if record.request else ""
    )
    nrc = f"NRC 0x{record.nrc:02X}" if record.nrc else ""
    count = f"x{record.count}" if record.count != 1 else ""
    parts = (what, nrc, record.rule, record.detail, count)
    return f"{record.number:>7}  {when}  {record.kind:<9} {who:<14} " + "  ".join(part for part in parts if part)


def _names(config: Config | None) -> dict[str, int]:
    if config is None:
        return {}
    return dict(names_of(config.diagnostics.ecus, config.diagnostics.doip.logical_address))


def _check(arguments: argparse.Namespace) -> int:
    try:
        config = None if arguments.config is None else load_config(arguments.config)
        policy = compile_policy(load_policy(arguments.policy), _names(config), path=str(arguments.policy))
    except GatewayError as error:
        return _fail(error)
    problems = check(policy)
    moving = [rule.name for rule in allowed_while_moving(policy)]
    if arguments.json:
        found = {"rules": len(policy.policy.rules), "problems": problems, "writing_while_moving": moving}
        print(msgspec.json.encode(found).decode())
        return os.EX_CONFIG if problems else os.EX_OK
    for problem in problems:
        print(f"{arguments.policy}: {problem}", file=sys.stderr)
    for name in moving:
        print(f"{arguments.policy}: note: rule {name!r} allows writing while the vehicle moves", file=sys.stderr)
    if problems:
        return os.EX_CONFIG
    print(f"{arguments.policy}: sound, {len(policy.policy.rules)} rules")
    return os.EX_OK


def _show_policy(arguments: argparse.Namespace) -> int:
    section, base = FirewallSection(), Path()
    try:
        if arguments.config is not None:
            section, base = load_config(arguments.config).diagnostics.firewall, arguments.config.resolve().parent
        if section.policy:
            load_policy(base / section.policy)
            text = (base / section.policy).read_text(encoding="utf-8")
        else:
            text = default_policy_text()
            parse_policy(text)
    except GatewayError as error:
        return _fail(error)
    print(text, end="")
    return os.EX_OK

"""``outrider cloud …``: argument parsing and exit statuses, nothing else."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import os
import sys
from collections.abc import Callable
from pathlib import Path

from cloud.app import build_services
from cloud.auth.audit import CLI
from cloud.command import add_config, add_json, guarded, print_json, print_table, with_services
from cloud.config import load_config
from cloud.errors import InvalidInput
from cloud.log import configure
from cloud.registry.vehicles import VehicleFilter
from cloud.services import Services
from cloud.setup import InitOptions, init
from cloud.updates.ceremony_cli import add_key_commands
from cloud.updates.release_cli import add_release_commands


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Fill in the commands of the group ``cloud``."""
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_init(commands.add_parser("init", help="make keys, certificates, configuration, database and first admin"))
    run = commands.add_parser("run", help="serve until SIGTERM or Ctrl-C")
    add_config(run)
    run.set_defaults(run=_run)
    check = commands.add_parser("check-config", help="read the configuration and what it names, start nothing")
    add_config(check)
    check.set_defaults(run=_check_config)
    _add_user(commands.add_parser("user", help="operators who may log in"))
    _add_token(commands.add_parser("token", help="one-time tokens for enrolment"))
    _add_vehicle(commands.add_parser("vehicle", help="vehicles and their revocation"))
    add_key_commands(commands.add_parser("keys", help="key ceremony: roots, offline signatures, suppliers"))
    add_release_commands(commands.add_parser("releases", help="images, releases, and bundles for a stick"))


def _add_init(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dir", type=Path, required=True, metavar="DIR", help="where everything goes")
    parser.add_argument(
        "--host",
        action="append",
        metavar="NAME",
        help="name or address by which vehicles reach the cloud; first is told to vehicles (default: localhost)",
    )
    parser.add_argument("--listen", default="127.0.0.1", metavar="ADDRESS", help="default: 127.0.0.1")
    parser.add_argument("--operator-port", type=int, default=8080, metavar="N")
    parser.add_argument("--vehicle-port", type=int, default=8443, metavar="N")
    parser.add_argument("--operator-tls", action="store_true", help="serve the console by HTTPS, with our own CA")
    parser.add_argument("--admin", default="admin", metavar="NAME", help="name of the first admin")
    parser.add_argument(
        "--password-file", metavar="FILE", help="its password; '-' is stdin; else one is made and shown"
    )
    add_json(parser)
    parser.set_defaults(run=_init)


def _add_user(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb, text in (("add", "create a user"), ("passwd", "set a user's password"), ("list", "all users")):
        sub = verbs.add_parser(verb, help=text)
        add_config(sub)
        if verb == "list":
            add_json(sub)
        else:
            sub.add_argument("name")
            sub.add_argument("--password-file", metavar="FILE", help="'-' is stdin; else it is asked for")
        if verb == "add":
            sub.add_argument("--role", choices=("viewer", "operator", "admin"), default="viewer")
        sub.set_defaults(run={"add": _user_add, "passwd": _user_passwd, "list": _user_list}[verb])


def _add_token(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    create = verbs.add_parser("create", help="a token for one enrolment; registers the vehicle if it is unknown")
    add_config(create)
    create.add_argument("vehicle")
    create.add_argument("--ttl", type=int, metavar="SECONDS", help="how long it is good")
    add_json(create)
    create.set_defaults(run=_token_create)


def _add_vehicle(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    listing = verbs.add_parser("list", help="all vehicles")
    add_config(listing)
    listing.add_argument("--state", choices=("new", "enrolled", "revoked"), default="")
    listing.add_argument("--search", default="", metavar="TEXT")
    add_json(listing)
    listing.set_defaults(run=_vehicle_list)
    revoke = verbs.add_parser("revoke", help="end all certificates of a vehicle")
    add_config(revoke)
    revoke.add_argument("vehicle")
    revoke.add_argument("--reason", default="", metavar="TEXT")
    revoke.set_defaults(run=_vehicle_revoke)


def _password(source: str | None) -> str | None:
    """From a file, stdin, or a terminal; None when there is neither a source nor a terminal."""
    if source == "-":
        return sys.stdin.readline().rstrip("\r\n")
    if source is not None:
        lines = Path(source).read_text("utf-8").splitlines()
        return lines[0] if lines else ""
    return None


def _asked_password(source: str | None) -> str:
    given = _password(source)
    if given is not None:
        return given
    if not sys.stdin.isatty():
        raise InvalidInput("no terminal to ask for the password on; use --password-file")
    first, second = getpass.getpass("Password: "), getpass.getpass("Again: ")
    if first != second:
        raise InvalidInput("the two are not the same")
    return first


def _init(args: argparse.Namespace) -> int:
    def work() -> int:
        options = InitOptions(
            directory=args.dir,
            hosts=args.host or ["localhost", "127.0.0.1"],
            listen=args.listen,
            operator_port=args.operator_port,
            vehicle_port=args.vehicle_port,
            operator_tls=args.operator_tls,
            admin=args.admin,
            password=_password(args.password_file),
        )
        result = asyncio.run(init(options))
        if args.json:
            print_json(
                {"config": str(result.config), "made": result.made, "admin": args.admin, "password": result.password}
            )
            return os.EX_OK
        for name in result.made:
            print(f"made    {name}")
        if result.admin_exists:
            print("kept    the admin that exists")
        if result.password:
            print(f"login   {args.admin} / {result.password}   (shown this once)")
        print(f"next    outrider cloud run --config {result.config}")
        return os.EX_OK

    return guarded(work)


def _run(args: argparse.Namespace) -> int:
    from cloud.web.server import Addresses, serve  # uvicorn is needed by this command alone

    def started(addresses: Addresses) -> None:
        print(f"console   {addresses.operator_url}", flush=True)
        print(f"vehicles  {addresses.vehicle_url}", flush=True)

    def work() -> int:
        config = load_config(args.config)
        configure(config.log_format)
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(serve(config, started))
        return os.EX_OK

    return guarded(work)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed."""
    try:
        import uvloop  # optional: faster, and not there on every platform
    except ModuleNotFoundError:
        return None
    return uvloop.new_event_loop


def _check_config(args: argparse.Namespace) -> int:
    def work() -> int:
        from cloud.web.listener import operator_tls_context, vehicle_tls_context

        config = load_config(args.config)
        services = build_services(config)
        services.load_secrets()
        vehicle_tls_context(
            config.path(config.vehicle.certificate),
            config.path(config.vehicle.key),
            config.path(config.authority.certificate),
        )
        if config.operator.certificate:
            operator_tls_context(config.path(config.operator.certificate), config.path(config.operator.key))
        elif config.operator.host not in {"127.0.0.1", "::1", "localhost"}:
            print(f"warning: passwords travel in clear to {config.operator.host}: no certificate - at $.operator")
        print(f"{args.config}: ok")
        return os.EX_OK

    return guarded(work)


def _user_add(args: argparse.Namespace) -> int:
    async def work(services: Services) -> int:
        user = await services.users.add(args.name, _asked_password(args.password_file), args.role, CLI)
        print(f"user {user.name} added with role {user.role}")
        return os.EX_OK

    return with_services(args, work)


def _user_passwd(args: argparse.Namespace) -> int:
    async def work(services: Services) -> int:
        await services.users.change(args.name, CLI, password=_asked_password(args.password_file))
        print(f"password of {args.name} changed; its sessions have ended")
        return os.EX_OK

    return with_services(args, work)


def _user_list(args: argparse.Namespace) -> int:
    async def work(services: Services) -> int:
        users = await services.users.list()
        if args.json:
            print_json(users)
        else:
            rows = [[u.name, u.role, "disabled" if u.disabled else "active"] for u in users]
            print_table(["NAME", "ROLE", "STATE"], rows)
        return os.EX_OK

    return with_services(args, work)


def _token_create(args: argparse.Namespace) -> int:
    async def work(services: Services) -> int:
        if not await services.vehicles.exists(args.vehicle):
            await services.vehicles.add(args.vehicle, CLI)
        token = await services.enrolment.make_token(args.vehicle, CLI, ttl_s=args.ttl)
        if args.json:
            print_json(token)
        else:
            print(token.token)
        return os.EX_OK

    return with_services(args, work)


def _vehicle_list(args: argparse.Namespace) -> int:
    async def work(services: Services) -> int:
        vehicles, offset = [], 0
        while True:
            page, total = await services.vehicles.list(VehicleFilter(args.search, args.state), 500, offset)
            vehicles += page
            offset += len(page)
            if offset >= total or not page:
                break
        if args.json:
            print_json(vehicles)
        else:
            rows = [[v.id, v.state, f"{v.stored_items:,}", v.display_name] for v in vehicles]
            print_table(["VEHICLE", "STATE", "ITEMS", "NAME"], rows)
        return os.EX_OK

    return with_services(args, work)


def _vehicle_revoke(args: argparse.Namespace) -> int:
    async def work(services: Services) -> int:
        await services.enrolment.revoke_vehicle(args.vehicle, args.reason, CLI)
        print(f"vehicle {args.vehicle} is revoked; a running cloud refuses its next request")
        return os.EX_OK

    return with_services(args, work)

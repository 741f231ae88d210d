"""``outrider cloud releases …``: images and releases on the machine the cloud runs on; the same is there by REST."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cloud.auth.audit import CLI
from cloud.command import add_config, add_json, print_json, print_table, with_services
from cloud.errors import InvalidInput
from cloud.services import Services
from cloud.updates.assignments import AssignOrder
from cloud.updates.bundle import write_bundle
from cloud.updates.door import pretty
from cloud.updates.images import NewImage
from cloud.updates.releases import NewRelease, ReleaseItem
from gateway.wire.uptane import KINDS

PIECE_BYTES = 8 * 1024 * 1024
Work = Callable[[Services, argparse.Namespace], Awaitable[int]]


def add_release_commands(parser: argparse.ArgumentParser) -> None:
    """Fill in the verbs of ``outrider cloud releases``."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    _verb(verbs, "list", _list, "releases and where they are")
    add = _verb(verbs, "add-image", _add_image, "take an image in; it is to be signed for next")
    add.add_argument("file", type=Path, metavar="FILE")
    add.add_argument("--name", required=True, metavar="PATH", help="target name, such as gateway/rootfs-2.img")
    add.add_argument("--kind", required=True, choices=[kind for kind in KINDS if kind != "delta"])
    add.add_argument("--hardware-id", action="append", required=True, metavar="ID")
    add.add_argument("--version", required=True, metavar="TEXT")
    add.add_argument("--counter", type=int, default=0, metavar="N", help="release counter; vehicles never go lower")
    add.add_argument("--description", default="", metavar="TEXT")
    add.add_argument("--role", default="targets", metavar="ROLE", help="who will sign for it")
    create = _verb(verbs, "create", _create, "make a release of images")
    create.add_argument("name", metavar="NAME")
    create.add_argument("--image", action="append", required=True, metavar="PATH[@ECU]", help="target name")
    create.add_argument("--notes", default="", metavar="TEXT")
    create.add_argument("--needs-consent", action="store_true")
    create.add_argument("--critical", action="store_true", help="may be downloaded over any link")
    create.add_argument("--publish", action="store_true", help="and let it be assigned")
    for verb, run, text in (
        ("publish", _publish, "let a release be assigned"),
        ("withdraw", _withdraw, "call it back"),
    ):
        _verb(verbs, verb, run, text).add_argument("name", metavar="RELEASE")
    assign = _verb(verbs, "assign", _assign, "give a release to one vehicle")
    assign.add_argument("vehicle", metavar="VEHICLE")
    assign.add_argument("name", metavar="RELEASE")
    assign.add_argument("--replace", action="store_true", help="in place of an open assignment")
    keys = _verb(verbs, "online-keys", _online_keys, "public keys of this cloud, for the ceremony")
    keys.add_argument("--out", type=Path, metavar="FILE", help="else on stdout")
    keys.add_argument("--new", metavar="ROLE", default="", help="first make a new key of that role")
    request = _verb(verbs, "sign-request", _sign_request, "what is to be signed, for the ceremony")
    request.add_argument("--out", type=Path, metavar="FILE", help="else on stdout")
    bundle = _verb(verbs, "bundle", _bundle, "an update on a stick, for one vehicle")
    bundle.add_argument("vehicle", metavar="VEHICLE")
    bundle.add_argument("name", metavar="RELEASE")
    bundle.add_argument("directory", type=Path, metavar="DIR", help="empty or new")
    bundle.add_argument("--days", type=float, default=30.0, metavar="N", help="how long it shall be good (30)")


def _verb(verbs: Any, name: str, work: Work, text: str) -> Any:
    sub = verbs.add_parser(name, help=text)
    add_config(sub)
    add_json(sub)
    sub.set_defaults(run=lambda args: with_services(args, lambda services: work(services, args)))
    return sub


async def _list(services: Services, args: argparse.Namespace) -> int:
    releases, total = await services.updates.releases.list(500, 0)
    if args.json:
        print_json(releases)
        return os.EX_OK
    rows = [
        [
            one.name,
            one.state,
            str(len(one.images)),
            ", ".join(f"{count} {state}" for state, count in one.assignments.items()),
        ]
        for one in releases
    ]
    print_table(["RELEASE", "STATE", "IMAGES", "VEHICLES"], rows)
    if total > len(releases):
        print(f"and {total - len(releases)} older ones", file=sys.stderr)
    return os.EX_OK


async def _add_image(services: Services, args: argparse.Namespace) -> int:
    images = services.updates.images
    wanted = NewImage(
        filename=args.name,
        kind=args.kind,
        hardware_ids=args.hardware_id,
        version=args.version,
        length=args.file.stat().st_size,
        release_counter=args.counter,
        description=args.description,
        role=args.role,
    )
    view = await images.add(wanted, CLI)
    if view.image.state == "uploading":
        with args.file.open("rb") as file:
            await asyncio.to_thread(file.seek, view.received)
            offset = view.received
            while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
                offset = await images.write(view.image.id, offset, piece)
    image = await images.finish(view.image.id, CLI)
    if args.json:
        print_json(image)
    else:
        print(f"{image.filename}  {image.state}  {image.length:,} bytes  sha256 {image.sha256}")
    return os.EX_OK


async def _create(services: Services, args: argparse.Namespace) -> int:
    known = {one.filename: one.id for one in await _all_images(services)}
    items = []
    for text in args.image:
        name, _, ecu = text.partition("@")
        if name not in known:
            raise InvalidInput(f"there is no image {name!r}")
        items.append(ReleaseItem(image_id=known[name], ecu=ecu))
    wanted = NewRelease(
        name=args.name, images=items, notes=args.notes, needs_consent=args.needs_consent, is_critical=args.critical
    )
    view = await services.updates.releases.add(wanted, CLI)
    if args.publish:
        view = await services.updates.releases.publish(view.id, CLI)
    return _tell_release(args, view)


async def _all_images(services: Services) -> list[Any]:
    found: list[Any] = []
    while True:
        page, total = await services.updates.images.list(500, len(found))
        found += page
        if not page or len(found) >= total:
            return found


def _tell_release(args: argparse.Namespace, view: Any) -> int:
    if args.json:
        print_json(view)
    else:
        print(f"{view.name}  {view.state}  {len(view.images)} images")
    return os.EX_OK


async def _publish(services: Services, args: argparse.Namespace) -> int:
    release = await services.updates.releases.by_name(args.name)
    return _tell_release(args, await services.updates.releases.publish(release.id, CLI))


async def _withdraw(services: Services, args: argparse.Namespace) -> int:
    release = await services.updates.releases.by_name(args.name)
    done = await services.updates.releases.withdraw(release.id, CLI)
    if args.json:
        print_json(done)
    else:
        print(f"{release.name}  withdrawn  {done.cancelled} vehicles called back")
    return os.EX_OK


async def _assign(services: Services, args: argparse.Namespace) -> int:
    release = await services.updates.releases.by_name(args.name)
    order = AssignOrder(release_id=release.id, replace=args.replace)
    made = await services.updates.assignments.assign(args.vehicle, order, CLI)
    if args.json:
        print_json(made)
    else:
        print(f"{made.vehicle}  {made.release}  {made.state}  assignment {made.id}")
    return os.EX_OK


async def _online_keys(services: Services, args: argparse.Namespace) -> int:
    if args.new:
        await services.updates.add_key(args.new, CLI)
    return _put_out(args, services.updates.keys.newest())


async def _sign_request(services: Services, args: argparse.Namespace) -> int:
    return _put_out(args, await services.updates.images.sign_request())


def _put_out(args: argparse.Namespace, value: Any) -> int:
    if args.out is None:
        sys.stdout.write(pretty(value).decode())
    else:
        args.out.write_bytes(pretty(value))
        print(f"wrote {args.out}")
    return os.EX_OK


async def _bundle(services: Services, args: argparse.Namespace) -> int:
    view = await write_bundle(services, args.vehicle, args.name, args.directory, CLI, days=args.days)
    if args.json:
        print_json(view)
        return os.EX_OK
    until = datetime.fromtimestamp(view.good_until_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M UTC")
    size = f"{view.files} files, {view.bytes:,} bytes"
    print(f"{view.directory}: {view.release} for {view.vehicle}, {size}, good until {until}")
    return os.EX_OK

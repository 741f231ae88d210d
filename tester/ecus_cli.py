"""``outrider uds ecus``: find the ECUs and say who they are."""

from __future__ import annotations

import argparse

import anyio
import msgspec

from gateway.errors import GatewayError
from gateway.uds.client import UdsClient
from tester.access import Wanted
from tester.connect import Bench
from tester.did import Reading, read_one
from tester.discover import NO_SWEEP, Found, Node, Sweep, node_of, on_can, on_doip
from tester.errors import NotThereError, TesterError, UsageError
from tester.options import add_connection
from tester.output import exit_status, note, say, say_json, table
from tester.running import for_each, on_bench
from tester.values import as_text
from tester.vehicle import Ecu
from tester.via import CanVia, Via

#: What tells one ECU from another; columns of the table.
COLUMNS = ((0xF197, "SYSTEM"), (0xF187, "PART"), (0xF191, "HARDWARE"), (0xF189, "SOFTWARE"), (0xF18C, "SERIAL"))
VIN = 0xF190


def add_ecus_command(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``outrider uds ecus``."""
    parser = subparsers.add_parser(
        "ecus", help="find the ECUs and identify them",
        description="Ask who is there with \"tester present\" (3E 00), which changes nothing: functionally, at the "
        "vehicle file's addresses, and over 0x700-0x7FF, 29-bit 18DAxxF1 and extended addressing from 6F1; behind a "
        "DoIP node every logical address from 0x1000 to 0x10FF. Identifiers with other traffic are left alone.",
    )  # fmt: skip
    parser.add_argument("--no-sweep", action="store_true", help="only functional requests and the vehicle file's")
    parser.add_argument("--range", metavar="FIRST-LAST", help="11-bit identifiers to try (default 700-7FF)")
    parser.add_argument("--doip-range", metavar="FIRST-LAST", help="logical addresses to try (default 1000-10FF)")
    parser.add_argument("--no-identify", action="store_true", help="do not read part numbers")
    add_connection(parser, ecu="none")
    parser.set_defaults(run=on_bench(_ecus))


def parse_range(text: str, most: int) -> range:
    """``700-7FF``.

    Raises:
        UsageError: something else.
    """
    first, dash, last = text.partition("-")
    try:
        found = range(int(first, 16), int(last if dash else first, 16) + 1)
    except ValueError as error:
        raise UsageError(f"{text!r} is no range like 700-7FF") from error
    if not found or found[0] < 0 or found[-1] > most:
        raise UsageError(f"{text!r} is not within 0-{most:X}, or ends before it begins")
    return found


def sweep_of(args: argparse.Namespace) -> Sweep:
    """Which addresses to try."""
    if args.no_sweep:
        return NO_SWEEP
    sweep = Sweep()
    if args.range:
        sweep = msgspec.structs.replace(sweep, eleven=parse_range(args.range, 0x7FF))
    if args.doip_range:
        sweep = msgspec.structs.replace(sweep, doip=parse_range(args.doip_range, 0xFFFF))
    return sweep


async def _ecus(args: argparse.Namespace, bench: Bench) -> int:
    sweep = sweep_of(args)
    found: list[Found] = []
    nodes: list[Node] = []
    failures: list[Exception] = []

    async def look(via: Via) -> None:
        note(f"looking on {via.name}")
        try:
            if isinstance(via, CanVia):
                found.extend(await on_can(bench, via, sweep))
                return
            node = await node_of(via)
            nodes.extend([node] if node is not None else [])
            found.extend(await on_doip(bench, via, sweep))
        except (GatewayError, TesterError) as error:
            note(f"{via.name}: {error}")
            failures.append(error)

    async with anyio.create_task_group() as tasks:
        for via in bench.vias:
            tasks.start_soon(look, via)
    if failures and not found:
        raise failures[0]
    identities = {} if args.no_identify else await _identify(bench, found)
    order = {ecu.name: index for index, ecu in enumerate(bench.vehicle.ecus)}
    found.sort(key=lambda one: (order.get(one.ecu.name, len(order)), one.via, one.ecu.name))
    missing = [] if bench.vehicle.is_generic else [
        ecu.name for ecu in bench.reachable() if ecu.name not in {one.ecu.name for one in found}
    ]  # fmt: skip
    if args.json:
        say_json({
            "nodes": [msgspec.to_builtins(node) for node in nodes],
            "ecus": [{"ecu": one.ecu.name, "title": one.ecu.title, "via": one.via, "address": address_text(one.ecu),
                      "known": one.is_known,
                      "identification": [r.as_json() for r in identities.get(one.ecu.name, {}).values()]}
                     for one in found],
            "missing": missing,
        })  # fmt: skip
    else:
        _print(nodes, found, identities)
    if missing:
        note(f"of the vehicle file, but silent: {', '.join(missing)}")
    if not found:
        raise NotThereError("no ECU answers; is the ignition on and the connection right?")
    return exit_status(failures[0]) if failures else 0


def address_text(ecu: Ecu) -> str:
    """How it is reached on CAN, else its logical address."""
    link = ecu.link
    if link.addressing == "normal_fixed":
        return f"18DA{link.target_address:02X}{link.source_address:02X}"
    if link.request_id and link.addressing == "normal":
        return f"{link.request_id:X}/{link.response_id:X}"
    if link.request_id:
        return f"{link.request_id:X}/{link.response_id:X} {link.addressing} {link.target_address:02X}"
    return f"0x{link.logical_address:04X}"


async def _identify(bench: Bench, found: list[Found]) -> dict[str, dict[int, Reading]]:
    async def read(ecu: Ecu, client: UdsClient) -> dict[int, Reading]:
        numbers = [VIN, *(did for did, _ in COLUMNS)]
        readings = [await read_one(ecu, client, number, Wanted()) for number in numbers]
        return {r.did.number: r for r in readings if r.data is not None}

    outcomes = await for_each(bench, list({one.ecu.name: one.ecu for one in found}.values()), read)
    return {o.ecu.name: o.value for o in outcomes if o.value}


def _print(nodes: list[Node], found: list[Found], identities: dict[str, dict[int, Reading]]) -> None:
    for node in nodes:
        sockets = f", {node.sockets} sockets" if node.sockets else ""
        mode = f", power mode {node.power_mode}" if node.power_mode else ""
        say(f"DoIP node {node.host}: VIN {node.vin}, EID {node.eid}, 0x{node.logical_address:04X}{sockets}{mode}")
    vins = {as_text(r.values) for dids in identities.values() for n, r in dids.items() if n == VIN}
    for vin in sorted(vins):
        say(f"VIN {vin}")
    rows = []
    for one in found:
        dids = identities.get(one.ecu.name, {})
        cells = [as_text(dids[did].values) if did in dids else "-" for did, _ in COLUMNS]
        is_doip = one.via.startswith("doip")
        address = f"0x{one.ecu.link.logical_address:04X}" if is_doip else address_text(one.ecu)
        rows.append((one.ecu.name, address, one.via, *cells))
    if rows:
        say(table(rows, ("ECU", "ADDRESS", "VIA", *(title for _, title in COLUMNS))))

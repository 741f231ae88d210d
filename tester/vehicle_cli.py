"""``outrider uds vehicle show|export``: what the vehicle file says; nothing is asked of a vehicle."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from gateway.wire.dtc import format_dtc
from tester.access import Wanted, plan
from tester.did import form_of
from tester.ecus_cli import address_text
from tester.errors import FileError
from tester.options import add_connection
from tester.output import note, printable, say, say_json, table
from tester.running import offline
from tester.vehicle import Ecu, Vehicle
from tester.vehicle_write import to_toml


def add_vehicle_command(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``outrider uds vehicle``."""
    parser = subparsers.add_parser("vehicle", help="what the vehicle file says of the ECUs",
                                   description="Show or convert a vehicle file; no vehicle is needed.")  # fmt: skip
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    one = verbs.add_parser("show", help="ECUs, addresses, names", description="Without --ecu a line for each ECU; with "
                           "it all identifiers, routines, security levels and codes.")  # fmt: skip
    add_connection(one)
    one.set_defaults(run=offline(_show))
    two = verbs.add_parser("export", help="write it as a vehicle TOML",
                           description="Write what --vehicle names (a simulator's description, a gateway's "
                           "configuration) as a vehicle TOML to edit.")  # fmt: skip
    two.add_argument("--out", metavar="FILE", required=True, help="where to; it must not exist yet")
    add_connection(two, ecu="none")
    two.set_defaults(run=offline(_export))


def _export(args: argparse.Namespace, vehicle: Vehicle) -> int:
    path = Path(args.out)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(to_toml(vehicle))
    except OSError as error:
        failure = FileError(path, error.strerror or str(error))
        failure.status = 73
        raise failure from error
    note(f"{len(vehicle.ecus)} ECUs in {path}")
    return 0


def _show(args: argparse.Namespace, vehicle: Vehicle) -> int:
    ecus: Sequence[Ecu] = [vehicle.ecu(name) for name in args.ecu] if args.ecu else vehicle.ecus
    if args.json:
        say_json({"vehicle": vehicle.name, "ecus": [_json(ecu) for ecu in ecus]})
        return 0
    if args.ecu:
        say("\n\n".join(_whole(ecu) for ecu in ecus))
        return 0
    rows = [
        (e.name, e.link.bus or "-", address_text(e), f"0x{e.link.logical_address:04X}", len(e.dids), len(e.routines),
         len(e.dtc_texts), " ".join(f"{n:02X}" for n in e.levels) or "-", e.title) for e in ecus
    ]  # fmt: skip
    say(f"vehicle {printable(vehicle.name)}")
    say(table(rows, ("ECU", "BUS", "CAN", "DOIP", "DIDS", "ROUTINES", "CODES", "SECURITY", "TITLE")))
    return 0


def _json(ecu: Ecu) -> dict[str, object]:
    return {
        "ecu": ecu.name, "title": ecu.title, "bus": ecu.link.bus, "address": address_text(ecu),
        "logical_address": f"{ecu.link.logical_address:04X}",
        "dids": [{"did": f"{d.number:04X}", "name": d.name, "bytes": d.bytes, "writable": d.write is not None,
                  "io": d.io is not None} for d in ecu.dids.values()],
        "routines": [{"routine": f"{r.number:04X}", "name": r.name} for r in ecu.routines.values()],
        "security": [{"level": f"{n:02X}", "name": x.name, "algorithm": x.algorithm} for n, x in ecu.levels.items()],
        "dtcs": [{"code": format_dtc(n), "text": text} for n, text in ecu.dtc_texts.items() if n >= 0],
    }  # fmt: skip


def _whole(ecu: Ecu) -> str:
    lines = [f"{ecu.name}  {ecu.title}", f"  {address_text(ecu)} on {ecu.link.bus or 'any bus'}, DoIP "
             f"0x{ecu.link.logical_address:04X}"]  # fmt: skip
    if ecu.dids:
        rows = []
        for did in ecu.dids.values():
            verbs = " ".join(v for v in ("read", "write", "io") if getattr(did, v) is not None) or "-"
            rows.append((f"{did.number:04X}", did.name or "-", verbs, plan(ecu, did.write or did.io, Wanted()) or "-",
                         form_of(did.fields)[:100]))  # fmt: skip
        lines += ["  identifiers", table(rows, ("DID", "NAME", "CAN", "WRITING NEEDS", "VALUES"), indent=4)]
    if ecu.routines:
        routines = [(f"{r.number:04X}", r.name, plan(ecu, r.access, Wanted()) or "-") for r in ecu.routines.values()]
        lines += ["  routines", table(routines, indent=4)]
    if ecu.levels:
        levels = [(f"{x.level:02X}", x.name, x.algorithm or "(no algorithm)") for x in ecu.levels.values()]
        lines += ["  security levels", table(levels, indent=4)]
    if ecu.dtc_texts:
        codes = [(format_dtc(n), text) for n, text in sorted(ecu.dtc_texts.items()) if n >= 0]
        lines += ["  codes", table(codes, indent=4)]
    return "\n".join(lines)

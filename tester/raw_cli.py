"""``outrider uds raw``: any request, its answer in hexadecimal and words."""

from __future__ import annotations

import argparse

from gateway.uds.client import UdsClient
from gateway.uds.names import NEGATIVE, Sid, service_name
from tester.connect import Bench
from tester.options import add_connection, add_write
from tester.output import error_json, say, say_json, table
from tester.running import chosen, conclude, for_each, need_write, on_bench
from tester.values import parse_hex
from tester.vehicle import Ecu

#: Services that only look: the others need --write.
READING = frozenset(
    {0x01, 0x02, 0x03, 0x06, 0x07, 0x09, 0x0A, Sid.READ_DTCS, Sid.READ_DID, Sid.READ_MEMORY, Sid.READ_SCALING,
     Sid.READ_PERIODIC, Sid.TESTER_PRESENT}
)  # fmt: skip


def changes_something(pdu: bytes) -> bool:
    """Whether a request may change more than the session of the ECU: default and extended session only look."""
    if pdu[0] == Sid.SESSION and len(pdu) > 1 and pdu[1] & 0x7F in (1, 3):
        return False
    if pdu[0] == Sid.ROUTINE and len(pdu) > 1 and pdu[1] & 0x7F == 3:
        return False
    return pdu[0] not in READING


def add_raw_command(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``outrider uds raw``."""
    parser = subparsers.add_parser(
        "raw", help="send any request",
        description="Send one request to each chosen ECU and show its answer. A refusal is an answer, and exit status "
        "76. Requests that may change something need --write.",
    )  # fmt: skip
    parser.add_argument("hex", nargs="+", metavar="HEX", help="the request: 22 F1 90 or 22F190")
    add_connection(parser)
    add_write(parser)
    parser.set_defaults(run=on_bench(_raw))


async def _raw(args: argparse.Namespace, bench: Bench) -> int:
    pdu = parse_hex(" ".join(args.hex))
    if not pdu:
        raise ValueError("an empty request")
    ecus = await chosen(args, bench)
    where = ", ".join(ecu.name for ecu in ecus)
    if changes_something(pdu) and not need_write(args, f"send {pdu.hex(' ').upper()} to {where}"):
        return 0

    async def ask(_ecu: Ecu, client: UdsClient) -> bytes | None:
        return await client.raw(pdu)

    outcomes = await for_each(bench, ecus, ask)
    if args.json:
        say_json(
            {
                "request": pdu.hex().upper(),
                "ecus": [
                    {"ecu": o.ecu.name, "error": error_json(o.error)}
                    if o.error
                    else {"ecu": o.ecu.name, "answer": o.value.hex().upper() if o.value is not None else None}
                    for o in outcomes
                ],
            }
        )
    else:
        rows = [
            (o.ecu.name, "(suppressed)" if o.value is None else o.value.hex(" ").upper())
            for o in outcomes
            if o.error is None
        ]
        if rows:
            say(f"{service_name(pdu[0])} answered" if pdu[0] != NEGATIVE else "answered")
            say(table(rows, indent=2))
    return conclude(outcomes)

"""``outrider uds obd``: what a generic scan tool shows."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import msgspec

from gateway.uds.client import UdsClient
from tester.connect import Bench
from tester.errors import NotThereError, UsageError
from tester.obd import Code, ObdReader, ObdSummary
from tester.obd_table import Reading
from tester.options import add_connection, add_write
from tester.output import say, say_json, table
from tester.running import Outcome, chosen, conclude, for_each, need_write, on_bench
from tester.vehicle import Ecu


def add_obd_command(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``outrider uds obd``."""
    parser = subparsers.add_parser(
        "obd", help="generic OBD: lamp, readiness, codes, freeze frame, values",
        description="Read the emissions-related ECUs as a generic scan tool does: warning lamp, readiness, stored, "
        "pending and permanent codes, freeze frame, current values, test results, calibrations. --clear clears codes "
        "(mode 04) and needs --write.",
    )  # fmt: skip
    parser.add_argument("--clear", action="store_true", help="clear codes, freeze frame and readiness (mode 04)")
    add_connection(parser)
    add_write(parser)
    parser.set_defaults(run=on_bench(_obd))


async def obd_ecus(args: argparse.Namespace, bench: Bench) -> list[Ecu]:
    """Those named, else those known to be emissions-related.

    Raises:
        UsageError: the vehicle has none.
    """
    ecus = await chosen(args, bench)
    if not args.ecu:
        ecus = [ecu for ecu in ecus if ecu.link.emissions]
    if not ecus:
        raise UsageError("no emissions-related ECU is known or answers; name one by --ecu")
    return ecus


async def _obd(args: argparse.Namespace, bench: Bench) -> int:
    ecus = await obd_ecus(args, bench)
    if args.clear:
        return await _clear(args, bench, ecus)

    async def read(ecu: Ecu, client: UdsClient) -> ObdSummary:
        return await ObdReader(client, bench.vehicle.texts_of(ecu)).summary()

    outcomes = await for_each(bench, ecus, read)
    found = [outcome.value for outcome in outcomes if outcome.value is not None]
    if not found and not any(outcome.error for outcome in outcomes):
        raise NotThereError("no ECU speaks OBD")
    if args.json:
        say_json({"ecus": [msgspec.to_builtins(summary) for summary in found]})
    else:
        for i, summary in enumerate(found):
            if i:
                say("")
            show(summary)
    return conclude(outcomes)


async def _clear(args: argparse.Namespace, bench: Bench, ecus: Sequence[Ecu]) -> int:
    names = ", ".join(ecu.name for ecu in ecus)
    if not need_write(args, f"clear codes, freeze frames and readiness of {names} (mode 04)"):
        return 0

    async def clear(_ecu: Ecu, client: UdsClient) -> bool:
        await client.request(b"\x04", (b"\x44",))
        return True

    outcomes: list[Outcome[bool]] = await for_each(bench, ecus, clear)
    cleared = [outcome.ecu.name for outcome in outcomes if outcome.value]
    if args.json:
        say_json({"cleared": cleared})
    elif cleared:
        say(f"cleared: {', '.join(cleared)}")
    return conclude(outcomes)


def show(summary: ObdSummary) -> None:
    """For people."""
    say(f"{summary.ecu}" + (f"  {summary.name}" if summary.name else ""))
    rows = [("VIN", summary.vin)] if summary.vin else []
    rows += [("calibration", text) for text in summary.calibrations]
    rows += [("verification", text) for text in summary.verifications]
    if summary.readiness is not None:
        lamp = "ON" if summary.readiness.lamp else "off"
        rows.append(("warning lamp", f"{lamp}, {summary.readiness.codes} stored codes"))
        done = [f"{name} {'complete' if ready else 'NOT complete'}" for name, ready in _monitors(summary)]
        rows.append(("readiness", ", ".join(done) or "no monitors"))
    say(table(rows, indent=2))
    for title, codes in (("stored", summary.stored), ("pending", summary.pending), ("permanent", summary.permanent)):
        _show_codes(title, codes)
    if summary.frame_code is not None:
        say(f"  freeze frame of {summary.frame_code.code}")
        say(table(_rows(summary.frame), indent=4))
    if summary.monitors:
        say("  test results")
        words = {True: "passed", False: "FAILED", None: "not run"}
        results = [
            (
                f"{m.monitor:02X}-{m.test:02X}",
                f"{m.value:g} {m.unit}".strip(),
                f"{m.minimum:g} to {m.maximum:g}",
                words[m.passed],
            )
            for m in summary.monitors
        ]
        say(table(results, indent=4))
    if summary.values:
        say("  values")
        say(table(_rows(summary.values), indent=4))


def _monitors(summary: ObdSummary) -> list[tuple[str, bool]]:
    return list(summary.readiness.monitors.items()) if summary.readiness else []


def _show_codes(title: str, codes: Sequence[Code]) -> None:
    say(f"  {title} codes: {'none' if not codes else len(codes)}")
    if codes:
        say(table([(code.code, code.text) for code in codes], indent=4))


def _rows(readings: Sequence[Reading]) -> list[tuple[str, str, str]]:
    return [(f"{reading.pid:02X}", reading.name, reading.text) for reading in readings]

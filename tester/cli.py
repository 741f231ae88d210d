"""``outrider uds COMMAND``: the bench technician's tool.

Each command lives in a module of its own with an ``add_…_command(subparsers)``; what is not installed is asked for
only by the command that needs it.
"""

from __future__ import annotations

import argparse

from tester.compare_cli import add_compare_command, add_snapshot_command
from tester.control_cli import add_present_command, add_reset_command, add_session_command, add_unlock_command
from tester.did_cli import add_did_command, add_info_command
from tester.dtc_cli import add_dtc_command
from tester.ecus_cli import add_ecus_command
from tester.flash_cli import add_flash_command
from tester.live_cli import add_live_command
from tester.memory_cli import add_memory_command
from tester.obd_cli import add_obd_command
from tester.odx_cli import add_odx_command
from tester.raw_cli import add_raw_command
from tester.report_cli import add_report_command
from tester.routine_cli import add_io_command, add_routine_command
from tester.scan_cli import add_scan_command
from tester.script_cli import add_script_command
from tester.trace_cli import add_trace_command
from tester.vehicle_cli import add_vehicle_command


def add_commands(parser: argparse.ArgumentParser) -> None:
    """All commands of the group."""
    parser.description = (
        "Talk to the ECUs of a vehicle by UDS: over SocketCAN, any interface of python-can, or DoIP. "
        "Nothing is changed without --write."
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for add in (
        add_ecus_command,
        add_info_command,
        add_dtc_command,
        add_did_command,
        add_session_command,
        add_unlock_command,
        add_routine_command,
        add_io_command,
        add_memory_command,
        add_reset_command,
        add_present_command,
        add_raw_command,
        add_scan_command,
        add_vehicle_command,
        add_flash_command,
        add_obd_command,
        add_trace_command,
        add_script_command,
        add_snapshot_command,
        add_compare_command,
        add_report_command,
        add_live_command,
        add_odx_command,
    ):
        add(subparsers)

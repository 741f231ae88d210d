"""What people are told of diagnostics."""

from __future__ import annotations

from gateway.diag.summary import diagnostics_text
from gateway.status import table

TARGET = {"name": "motor", "is_reachable": True, "requests": 1200, "answers": 1199, "unanswered": 1, "refused": 7}
STATISTICS: dict[str, object] = {
    "router": {
        "sessions": 8,
        "ports": {"gateway": 6, "doip": 2},
        "targets": {"4112": TARGET, "4113": {"name": "gearbox", "is_reachable": False}},
    },
    "firewall": {"allowed": 1234, "refused": 7, "dropped": 2, "observed": 0, "holds": {"4112": "doip 0x0e80"}},
    "audit": {"written": 640, "waiting": 0, "lost": 3, "unsent": 0, "damage": ""},
    "poller": {"polls": 16, "failed": 2, "silent": ["gearbox"]},
    "doip": {"open": 4, "active": 2},
    "dtc": {"entries": 5},
    "can_firewall": {"body to powertrain": {"heard": 10, "forwarded": 8, "refused_rate": 2}},
}


def test_ecus_testers_refusals_faults_audit_and_routes_are_told() -> None:
    lines = diagnostics_text(STATISTICS, table).splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["ecu", "channel", "requests", "answers", "unanswered", "refused", "busy", "failed"],
        ["motor", "yes", "1,200", "1,199", "1", "7", "0", "0"],
        ["gearbox", "NO", "0", "0", "0", "0", "0", "0"],
    ]
    assert lines[4:8] == [
        "testers  doip 2, gateway 6; DoIP 2 active of 4 connections; held: motor by doip 0x0e80",
        "firewall  allowed 1,234  refused 7  dropped 2  observed 0",
        "audit  640 records written; 3 LOST",
        "faults  5 in the gateway's own memory; 16 polls of ECUs, 2 failed; SILENT: gearbox",
    ]
    assert lines[-1].split() == ["body", "to", "powertrain", "10", "8", "2", "0", "0", "0"]


def test_a_damaged_audit_log_is_told() -> None:
    text = diagnostics_text({"audit": {"written": 1, "damage": "audit.1: record 7 was changed"}}, table)
    assert text == "audit  1 records written; DAMAGED: audit.1: record 7 was changed"


def test_a_gateway_without_diagnostics_or_of_another_version_tells_nothing() -> None:
    assert diagnostics_text({}, table) == ""
    assert diagnostics_text({"router": {"targets": [1, 2]}, "dtc": None, "poller": 3}, table) == "testers  none"

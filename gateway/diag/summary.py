"""What diagnostics say of themselves, for people: the statistics of ``assembly.Diagnostics`` as a few lines.

They may come from a gateway of another version: what is not there is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeGuard

Table = Callable[[list[str], list[list[str]]], str]
_Facts = Mapping[str, object]

_ECU_COUNTS = ("requests", "answers", "unanswered", "refused", "busy", "failed")
_ROUTE_COUNTS = ("heard", "forwarded", "refused_rate", "refused_length", "congested", "kernel_handled")


def diagnostics_text(statistics: _Facts, table: Table) -> str:
    """The lines; empty when there is nothing to tell."""
    parts = [
        _ecus(_facts(statistics, "router"), table),
        "\n".join(line for line in _lines(statistics) if line),
        _routes(_facts(statistics, "can_firewall"), table),
    ]
    return "\n\n".join(part for part in parts if part)


def _is_facts(value: object) -> TypeGuard[_Facts]:
    return isinstance(value, Mapping)


def _facts(statistics: _Facts, name: str) -> _Facts:
    found = statistics.get(name)
    return found if _is_facts(found) else {}


def _count(facts: _Facts, name: str) -> int:
    found = facts.get(name)
    return found if isinstance(found, int) else 0


def _ecus(router: _Facts, table: Table) -> str:
    targets = [target for target in _facts(router, "targets").values() if _is_facts(target)]
    rows = [
        [
            str(target.get("name", "")),
            "yes" if target.get("is_reachable") else "NO",
            *(f"{_count(target, name):,}" for name in _ECU_COUNTS),
        ]
        for target in targets
    ]
    return table(["ecu", "channel", *_ECU_COUNTS], rows) if rows else ""


def _lines(statistics: _Facts) -> list[str]:
    router, doip, firewall = (_facts(statistics, name) for name in ("router", "doip", "firewall"))
    audit, dtc, poller = (_facts(statistics, name) for name in ("audit", "dtc", "poller"))
    lines = []
    if router:
        ports = _facts(router, "ports")
        testers = [", ".join(f"{port} {count}" for port, count in sorted(ports.items())) or "none"]
        if doip:
            testers.append(f"DoIP {_count(doip, 'active')} active of {_count(doip, 'open')} connections")
        if held := _facts(firewall, "holds"):
            testers.append("held: " + ", ".join(f"{_name(router, target)} by {who}" for target, who in held.items()))
        lines.append("testers  " + "; ".join(testers))
    if firewall:
        kinds = ("allowed", "refused", "dropped", "observed")
        lines.append("firewall  " + "  ".join(f"{kind} {_count(firewall, kind):,}" for kind in kinds))
    if audit:
        lines.append(_audit(audit))
    if dtc or poller:
        silent = poller.get("silent")
        names = ", ".join(str(name) for name in silent) if isinstance(silent, Sequence) else ""
        told = f"faults  {_count(dtc, 'entries'):,} in the gateway's own memory"
        if poller:
            told += f"; {_count(poller, 'polls'):,} polls of ECUs, {_count(poller, 'failed'):,} failed"
        lines.append(told + (f"; SILENT: {names}" if names else ""))
    return lines


def _name(router: _Facts, target: str) -> str:
    return str(_facts(_facts(router, "targets"), target).get("name", target))


def _audit(audit: _Facts) -> str:
    text = f"audit  {_count(audit, 'written'):,} records written"
    for name, told in (("waiting", "wait for the disk"), ("lost", "LOST"), ("unsent", "not sent to the cloud")):
        if count := _count(audit, name):
            text += f"; {count:,} {told}"
    return text + (f"; DAMAGED: {audit['damage']}" if audit.get("damage") else "")


def _routes(routes: _Facts, table: Table) -> str:
    header = ["route", *(name.replace("_", " ") for name in _ROUTE_COUNTS)]
    rows = [
        [name, *(f"{_count(route, key):,}" for key in _ROUTE_COUNTS)]
        for name, route in routes.items()
        if _is_facts(route)
    ]
    return table(header, rows) if rows else ""

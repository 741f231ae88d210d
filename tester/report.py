"""The workshop's report: one HTML file that needs nothing else and prints well. No I/O.

Everything that came from a vehicle or a file is escaped; there is no script in the page, and a policy that allows none.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape

from tester.compare import DtcEntry, EcuEntry, VehicleSnapshot
from tester.trace_bus import Message

MAX_LOG_LINES = 500
_STYLE = """
:root { color-scheme: light; }
body { font: 14px/1.45 system-ui, "DejaVu Sans", sans-serif; color: #1b1f24; background: #fff; margin: 2rem auto;
  max-width: 62rem; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem;
  border-bottom: 2px solid #1b1f24; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
table { border-collapse: collapse; width: 100%; margin: .4rem 0 1rem; }
th, td { text-align: left; vertical-align: top; padding: .25rem .6rem .25rem 0; border-bottom: 1px solid #d4d8dd; }
th { font-weight: 600; } td { overflow-wrap: anywhere; }
td.code, .mono { font-family: "DejaVu Sans Mono", monospace; font-size: 12.5px; }
td.code { white-space: nowrap; }
.sub { color: #57606a; margin: 0 0 1rem; }
.fault { border-left: 4px solid #b42318; padding: .3rem 0 .3rem .8rem; margin: .8rem 0; break-inside: avoid; }
.fault.old { border-color: #b58105; } .fault strong { font-size: 1.05rem; }
.ok { color: #1a7f37; } .bad { color: #b42318; font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: 0 0 1rem; }
dt { color: #57606a; } dd { margin: 0; overflow-wrap: anywhere; }
.sign { display: grid; grid-template-columns: 1fr 1fr; gap: 3rem; margin-top: 3rem; break-inside: avoid; }
.sign div { border-top: 1px solid #1b1f24; padding-top: .3rem; color: #57606a; }
@media print { body { margin: 0; max-width: none; font-size: 11px; } h2, h3 { break-after: avoid; }
  tr { break-inside: avoid; }
  thead { display: table-header-group; } @page { margin: 15mm; } }
"""
_IDENTIFICATION = (("F187", "Part number"), ("F189", "Software"), ("F191", "Hardware"), ("F18C", "Serial number"))


def render(
    snapshot: VehicleSnapshot,
    *,
    title: str = "Diagnostic report",
    workshop: str = "",
    order: str = "",
    notes: str = "",
    log: Sequence[Message] = (),
) -> str:
    """The page."""
    faults = sum(len(ecu.dtcs) for ecu in snapshot.ecus)
    silent = [ecu.ecu for ecu in snapshot.ecus if ecu.error]
    parts = [
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">",
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; style-src \'unsafe-inline\'">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>{_e(title)} {_e(snapshot.vin)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{_e(title)}</h1><p class=\"sub\">{_e(workshop)}</p>",
        _facts(
            [
                ("Vehicle", snapshot.vin or "unknown"), ("Description", snapshot.vehicle), ("Order", order),
                ("Read", snapshot.taken_utc.replace("T", " ").replace("Z", " UTC")),
            ]
        ),
        "<h2>Result</h2>",
        f'<p class="{"bad" if faults else "ok"}">{_count(faults, "fault")} in {_count(len(snapshot.ecus), "ECU")}.</p>',
        f'<p class="bad">No answer: {_e(", ".join(silent))}.</p>' if silent else "",
        f"<h2>Notes</h2><p>{_e(notes)}</p>" if notes else "",
        "<h2>Faults</h2>" if faults else "",
        *(_faults(ecu) for ecu in snapshot.ecus if ecu.dtcs),
        "<h2>ECUs</h2>",
        _ecus(snapshot.ecus),
        "<h2>Values</h2>",
        *(_values(ecu) for ecu in snapshot.ecus),
        _log(log) if log else "",
        '<div class="sign"><div>Technician</div><div>Date, signature</div></div>',
        "</body></html>\n",
    ]  # fmt: skip
    return "\n".join(part for part in parts if part)


def _e(text: str) -> str:
    """Escaped, without control characters."""
    return escape("".join(c if c.isprintable() or c == "\n" else "·" for c in text), quote=True)


def _count(number: int, word: str) -> str:
    return f"{number} {word}" + ("" if number == 1 else "s")


def _facts(rows: Sequence[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<dt>{_e(name)}</dt><dd>{_e(text)}</dd>" for name, text in rows if text) + "</dl>"


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]], *, code: int = 0) -> str:
    head = "".join(f"<th>{_e(word)}</th>" for word in heading)
    marks = [" class=code" if i < code else "" for i in range(len(heading))]
    lines = ("".join(f"<td{mark}>{_e(cell)}</td>" for mark, cell in zip(marks, row, strict=True)) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _faults(ecu: EcuEntry) -> str:
    return f"<h3>{_e(_title(ecu))}</h3>" + "".join(_fault(fault) for fault in ecu.dtcs)


def _title(ecu: EcuEntry) -> str:
    return f"{ecu.title} ({ecu.ecu})" if ecu.title else ecu.ecu


def _fault(fault: DtcEntry) -> str:
    is_now = bool(int(fault.status, 16) & 1)
    severity = f", {_e(fault.severity)}" if fault.severity else ""
    lines = [
        f'<div class="fault{"" if is_now else " old"}"><strong class="mono">{_e(fault.code)}</strong> {_e(fault.text)}',
        f"<br>{_e(', '.join(fault.words))}{severity}",
    ]
    records = list(dict.fromkeys(value.record for value in fault.snapshots))
    if records:
        names = list(dict.fromkeys(value.name for value in fault.snapshots))
        cells = {(value.record, value.name): value.text for value in fault.snapshots}
        heading = ["At the time of the fault", *(_record(record) for record in records)]
        lines.append(_table(heading, [[name, *(cells.get((r, name), "") for r in records)] for name in names]))
    if fault.extended:
        lines.append(_facts([(value.name or f"record {value.record}", value.text) for value in fault.extended]))
    return "".join(lines) + "</div>"


def _record(record: str) -> str:
    return {"01": "first (01)", "02": "latest (02)"}.get(record, f"record {record}")


def _ecus(ecus: Sequence[EcuEntry]) -> str:
    rows = []
    for ecu in ecus:
        state = ecu.error or (ecu.dtc_error or _count(len(ecu.dtcs), "fault"))
        rows.append([_title(ecu), *(ecu.text_of(did) for did, _ in _IDENTIFICATION), state])
    return _table(["ECU", *(name for _, name in _IDENTIFICATION), "State"], rows)


def _values(ecu: EcuEntry) -> str:
    rows = [[entry.did, entry.name, entry.text] for entry in ecu.dids if not entry.is_identification]
    return f"<h3>{_e(_title(ecu))}</h3>" + _table(["DID", "Value", ""], rows, code=1) if rows else ""


def _log(log: Sequence[Message]) -> str:
    shown = log[-MAX_LOG_LINES:]
    rows = [
        [f"{datetime.fromtimestamp(m.at_ns / 1e9, UTC):%H:%M:%S.%f}"[:-3], m.ecu, m.direction, m.text or m.problem]
        for m in shown
    ]
    left = f"<p>The last {len(shown)} of {len(log)} entries.</p>" if len(log) > len(shown) else ""
    return "<h2>Session log</h2>" + left + _table(["UTC", "ECU", "", "Content"], rows, code=1)

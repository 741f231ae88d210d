"""The report: everything in it, nothing executable, whatever a vehicle said."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import msgspec

from outrider.cli import main
from tester.compare import DidEntry, DtcEntry, DtcValue, EcuEntry, VehicleSnapshot
from tester.report import MAX_LOG_LINES, render
from tester.trace_bus import Message

from .test_compare import two_snapshots

EVIL = "<script>alert(1)</script>\"'&\x1b[31m"


class Page(HTMLParser):
    """Tags and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_of_a_vehicle_has_its_faults_versions_and_values(tmp_path: Path) -> None:
    _, snapshot = two_snapshots(tmp_path)
    page = Page(render(snapshot, workshop="Corner Garage", order="4711", notes="customer waits"))
    for words in ("0UTR1DER0NE000001", "P0A93-00", "no coolant flow", "failing", "Supply voltage", "OR1-MC-HW02",
                  "Corner Garage", "4711", "customer waits", "1 fault in 1 ECU"):  # fmt: skip
        assert words in page.text


def test_nothing_a_vehicle_says_becomes_markup() -> None:
    value = DtcValue(record=EVIL, name=EVIL, text=EVIL)
    fault = DtcEntry(
        code=EVIL, status="09", words=(EVIL,), text=EVIL, severity=EVIL, snapshots=(value,), extended=(value,)
    )
    did = DidEntry(did="F189", name=EVIL, data="00", text=EVIL)
    other = DidEntry(did="0100", name=EVIL, data="00", text=EVIL)
    ecu = EcuEntry(ecu=EVIL, title=EVIL, dids=(did, other), dtcs=(fault,), dtc_error=EVIL)
    snapshot = VehicleSnapshot(taken_utc=EVIL, vehicle=EVIL, ecus=(ecu, EcuEntry(ecu=EVIL, error=EVIL)), vin=EVIL)
    log = [Message(at_ns=1, bus=EVIL, can_id=1, ecu=EVIL, direction=EVIL, text=EVIL)]
    text = render(snapshot, title=EVIL, workshop=EVIL, order=EVIL, notes=EVIL, log=log)
    page = Page(text)
    assert "script" not in page.tags
    assert "\x1b" not in text
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("src", "href")]
    assert page.text.count("alert(1)") > 15


def test_a_long_log_is_cut_and_says_so() -> None:
    snapshot = VehicleSnapshot(taken_utc="", vehicle="", ecus=())
    log = [Message(at_ns=i, bus="", can_id=0, ecu="x", direction="request", text="t") for i in range(MAX_LOG_LINES + 1)]
    assert f"The last {MAX_LOG_LINES} of {MAX_LOG_LINES + 1} entries" in render(snapshot, log=log)


def test_a_report_is_made_from_a_snapshot_without_a_vehicle(tmp_path: Path) -> None:
    _, snapshot = two_snapshots(tmp_path)
    (tmp_path / "a.json").write_bytes(msgspec.json.encode(snapshot))
    (tmp_path / "log").write_text('{"at": "2026-01-31T10:00:00Z", "ecu": "motor", "kind": "answer", "pdu": "7F2231"}\n')
    out = tmp_path / "report.html"
    assert (
        main(["uds", "report", "--from", str(tmp_path / "a.json"), "--log", str(tmp_path / "log"), "--out", str(out)])
        == 0
    )
    assert "request out of range" in out.read_text()
    assert main(["uds", "report", "--from", str(tmp_path / "a.json"), "--out", str(tmp_path / "no" / "x")]) == 73

"""ODX import: a small PDX of the test's own, read by odxtools and used by our tool."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from outrider.cli import main
from tester.errors import FileError
from tester.odx import import_odx
from tester.values import as_text, decode
from tester.vehicle_files import load_vehicle

UINT8 = '<DIAG-CODED-TYPE BASE-DATA-TYPE="A_UINT32" xsi:type="STANDARD-LENGTH-TYPE"><BIT-LENGTH>8</BIT-LENGTH></DIAG-CODED-TYPE>'  # noqa: E501
UINT16 = UINT8.replace(">8<", ">16<")


def const(name: str, position: int, value: int, coded: str = UINT8) -> str:
    return (
        f'<PARAM xsi:type="CODED-CONST"><SHORT-NAME>{name}</SHORT-NAME><BYTE-POSITION>{position}</BYTE-POSITION>'
        f"<CODED-VALUE>{value}</CODED-VALUE>{coded}</PARAM>"
    )


def value(name: str, position: int, dop: str, extra: str = "") -> str:
    return (
        f'<PARAM xsi:type="VALUE"><SHORT-NAME>{name}</SHORT-NAME><BYTE-POSITION>{position}</BYTE-POSITION>{extra}'
        f'<DOP-REF ID-REF="{dop}"/></PARAM>'
    )


def dop(name: str, method: str, coded: str, unit: str = "", physical: str = "A_FLOAT64") -> str:
    reference = f'<UNIT-REF ID-REF="{unit}"/>' if unit else ""
    return (
        f'<DATA-OBJECT-PROP ID="{name}"><SHORT-NAME>{name}</SHORT-NAME><COMPU-METHOD>{method}</COMPU-METHOD>{coded}'
        f'<PHYSICAL-TYPE BASE-DATA-TYPE="{physical}"/>{reference}</DATA-OBJECT-PROP>'
    )


def service(name: str, long_name: str = "") -> str:
    words = f"<LONG-NAME>{long_name}</LONG-NAME>" if long_name else ""
    return (
        f'<DIAG-SERVICE ID="s.{name}"><SHORT-NAME>{name}</SHORT-NAME>{words}<REQUEST-REF ID-REF="rq.{name}"/>'
        f'<POS-RESPONSE-REFS><POS-RESPONSE-REF ID-REF="rs.{name}"/></POS-RESPONSE-REFS></DIAG-SERVICE>'
    )


def message(kind: str, prefix: str, name: str, parameters: str) -> str:
    return (
        f'<{kind} ID="{prefix}.{name}"><SHORT-NAME>{prefix}_{name}</SHORT-NAME><PARAMS>{parameters}</PARAMS></{kind}>'
    )


LINEAR = (
    "<CATEGORY>LINEAR</CATEGORY><COMPU-INTERNAL-TO-PHYS><COMPU-SCALES><COMPU-SCALE><COMPU-RATIONAL-COEFFS>"
    "<COMPU-NUMERATOR><V>-40</V><V>1</V></COMPU-NUMERATOR><COMPU-DENOMINATOR><V>2</V></COMPU-DENOMINATOR>"
    "</COMPU-RATIONAL-COEFFS></COMPU-SCALE></COMPU-SCALES></COMPU-INTERNAL-TO-PHYS>"
)
TABLE = (
    "<CATEGORY>TEXTTABLE</CATEGORY><COMPU-INTERNAL-TO-PHYS><COMPU-SCALES>"
    "<COMPU-SCALE><LOWER-LIMIT>0</LOWER-LIMIT><UPPER-LIMIT>0</UPPER-LIMIT><COMPU-CONST><VT>off</VT></COMPU-CONST>"
    "</COMPU-SCALE><COMPU-SCALE><LOWER-LIMIT>1</LOWER-LIMIT><UPPER-LIMIT>1</UPPER-LIMIT><COMPU-CONST><VT>on</VT>"
    "</COMPU-CONST></COMPU-SCALE></COMPU-SCALES></COMPU-INTERNAL-TO-PHYS>"
)
BIT = UINT8.replace(">8<", ">1<")
READS = {"coolant": (0x0100, value("Coolant", 3, "temp") + value("Fan", 4, "switch")), "bits": (0x0101, value("Bit", 3, "bit"))}  # fmt: skip # noqa: E501


def document() -> str:
    requests, answers, services = "", "", ""
    for name, (number, fields) in READS.items():
        requests += message("REQUEST", "rq", name, const("sid", 0, 0x22) + const("did", 1, number, UINT16))
        answers += message("POS-RESPONSE", "rs", name, const("sid", 0, 0x62) + const("did", 1, number, UINT16) + fields)
        services += service(name, "Coolant temperature" if name == "coolant" else "")
    requests += message(
        "REQUEST", "rq", "write", const("sid", 0, 0x2E) + const("did", 1, 0x0100, UINT16) + value("Coolant", 3, "temp")
    )
    answers += message("POS-RESPONSE", "rs", "write", const("sid", 0, 0x6E) + const("did", 1, 0x0100, UINT16))
    start = const("sid", 0, 0x31) + const("sub", 1, 1) + const("rid", 2, 0x0203, UINT16)
    requests += message("REQUEST", "rq", "selftest", start)
    answers += message("POS-RESPONSE", "rs", "selftest", start.replace(">49<", ">113<"))
    requests += message("REQUEST", "rq", "session", const("sid", 0, 0x10) + const("sub", 1, 3))
    answers += message("POS-RESPONSE", "rs", "session", const("sid", 0, 0x50) + const("sub", 1, 3))
    services += service("write") + service("selftest", "Self test") + service("session")
    dtcs = (
        '<DTC-DOP ID="dtcs"><SHORT-NAME>dtcs</SHORT-NAME>'
        + UINT8.replace(">8<", ">24<")
        + '<PHYSICAL-TYPE BASE-DATA-TYPE="A_UINT32"/><COMPU-METHOD><CATEGORY>IDENTICAL</CATEGORY></COMPU-METHOD><DTCS>'
        '<DTC ID="dtc1"><SHORT-NAME>P0A93</SHORT-NAME><TROUBLE-CODE>693760</TROUBLE-CODE>'
        "<TEXT>No coolant &lt;flow&gt;</TEXT></DTC></DTCS></DTC-DOP>"
    )
    properties = dop("temp", LINEAR, UINT8, "degC") + dop("switch", TABLE, UINT8, physical="A_UNICODE2STRING")
    properties += dop("bit", "<CATEGORY>IDENTICAL</CATEGORY>", BIT, physical="A_UINT32")
    unit = '<UNIT ID="degC"><SHORT-NAME>degC</SHORT-NAME><DISPLAY-NAME>degC</DISPLAY-NAME></UNIT>'
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ODX MODEL-VERSION="2.2.0" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><DIAG-LAYER-CONTAINER ID="c"><SHORT-NAME>c</SHORT-NAME>'
        '<BASE-VARIANTS><BASE-VARIANT ID="engine"><SHORT-NAME>engine</SHORT-NAME><LONG-NAME>Engine control</LONG-NAME>'
        f"<DIAG-DATA-DICTIONARY-SPEC><DTC-DOPS>{dtcs}</DTC-DOPS><DATA-OBJECT-PROPS>{properties}</DATA-OBJECT-PROPS>"
        f"<UNIT-SPEC><UNITS>{unit}</UNITS></UNIT-SPEC></DIAG-DATA-DICTIONARY-SPEC><DIAG-COMMS>{services}</DIAG-COMMS>"
        f"<REQUESTS>{requests}</REQUESTS><POS-RESPONSES>{answers}</POS-RESPONSES></BASE-VARIANT></BASE-VARIANTS>"
        "</DIAG-LAYER-CONTAINER></ODX>"
    )


@pytest.fixture
def pdx(tmp_path: Path) -> Path:
    path = tmp_path / "engine.pdx"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("engine.odx-d", document())
    return path


def test_identifiers_routines_and_texts_are_taken(pdx: Path) -> None:
    found = import_odx(pdx, {"engine": (0x7E0, 0x7E8)})
    [ecu] = found.vehicle.ecus
    assert (ecu.name, ecu.title, ecu.link.request_id) == ("engine", "Engine control", 0x7E0)
    did = ecu.dids[0x0100]
    assert (did.name, did.bytes) == ("Coolant temperature", 2)
    assert did.read is not None
    assert did.write is not None
    assert as_text(decode(did.fields, b"\x78\x01")) == "Coolant 40 degC, Fan on (1)"
    assert ecu.routines[0x0203].name == "Self test"
    assert ecu.routines[0x0203].actions == (1,)
    assert ecu.dtc_texts == {0x0A9600: "No coolant <flow>"}


def test_what_is_not_understood_is_counted_with_its_reason(pdx: Path) -> None:
    found = import_odx(pdx)
    assert (found.services, found.taken) == (5, 3)
    assert found.left_out["fields of single bits"] == 1
    assert found.examples["fields of single bits"] == "engine.bits"
    assert found.left_out["services 0x10, which need no description"] == 1
    assert found.left_out["addresses of an ECU (give --address)"] == 1


def test_the_file_made_is_a_vehicle(pdx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "vehicle.toml"
    command = ["uds", "odx", "import", str(pdx), "--out", str(out), "--address", "engine=7E0/7E8"]
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ecus"] == [{"ecu": "engine", "dids": 1, "routines": 1, "dtcs": 1}]
    vehicle = load_vehicle(out)
    assert vehicle.ecu("engine").dids == import_odx(pdx).vehicle.ecus[0].dids
    assert main(command) == 0
    assert "left out: 1 fields of single bits" in capsys.readouterr().err
    assert main([*command[:-1], "engine=x"]) == 64


@pytest.mark.parametrize("content", [b"", b"<ODX", b"<ODX MODEL-VERSION='2.2.0'/>", b"PK\x03\x04broken", b"\xff" * 50])
def test_what_is_no_odx_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.odx-d"
    path.write_bytes(content)
    with pytest.raises(FileError):
        import_odx(path)
    with pytest.raises(FileError):
        import_odx(tmp_path / "none.pdx")

"""``outrider sim image``, and the control socket's view of faults and programming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from outrider.cli import main
from simulator.ecu.control import ECU_ACTIONS
from simulator.ecu.flash_cli import made_up_payload, parse_size
from simulator.ecu.flash_image import TEST_KEY, is_signed, parse_header, public_bytes
from tests.simulator.ecu.support import Bench


def _run(*args: str) -> int:
    try:
        return int(main(["sim", "image", *args]) or 0)
    except SystemExit as error:
        return int(error.code or 0)


def test_an_image_for_a_shipped_ecu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "motor.img"
    assert _run("--ecu", "motor", "--version", "2.1.0", "--size", "256k", "--out", str(out)) == 0
    image = out.read_bytes()
    header = parse_header(image)
    assert (header.ecu, header.version, header.hardware_id) == ("motor", "2.1.0", "OR1-MC-HW02")
    assert (header.address, header.part) == (0x400000, "OR1-MC-SW01")
    assert len(image) == header.image_bytes == 256 + 256 * 1024
    assert is_signed(image, public_bytes(TEST_KEY))
    assert "motor 2.1.0 for OR1-MC-HW02" in capsys.readouterr().out


def test_own_payload_and_key(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    pem = tmp_path / "key.pem"
    pem.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    payload, out = tmp_path / "payload", tmp_path / "image"
    payload.write_bytes(b"mine")
    options = ("--payload", str(payload), "--key", str(pem), "--address", "0x200000", "--compatibility", "3")
    assert _run("--ecu", "x", "--version", "1", *options, "--out", str(out)) == 0
    image = out.read_bytes()
    assert image[256:] == b"mine"
    assert is_signed(image, public_bytes(key))
    assert not is_signed(image, public_bytes(TEST_KEY))
    assert (parse_header(image).address, parse_header(image).compatibility) == (0x200000, 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--size", "0"), "1 byte to 64M"), (("--size", "65M"), "64M"), (("--size", "abc"), "expected a number"),
        (("--size", "2M"), "do not fit into application"),
        (("--payload", "/nowhere/file"), "No such file"), (("--part", "x" * 17), "1 to 16"),
        (("--key", "/dev/null"), ""),
    ],
)  # fmt: skip
def test_wrong_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], words: str
) -> None:
    out = tmp_path / "image"
    assert _run("--ecu", "motor", "--version", "1", *options, "--out", str(out)) != 0
    assert not out.exists()
    assert words in capsys.readouterr().err


def test_sizes_and_payloads() -> None:
    assert [parse_size(text) for text in ("1", "4096", "2k", "1M")] == [1, 4096, 2048, 1048576]
    assert made_up_payload("a", 5000) == made_up_payload("a", 5000)
    assert made_up_payload("a", 5000) != made_up_payload("b", 5000)
    assert len(made_up_payload("a", 5001)) == 5001


def _act(ecu: Bench, do: str, **request: Any) -> dict[str, Any]:
    return ECU_ACTIONS[do](ecu.context, request, ecu.now_s)


def test_faults_by_control() -> None:
    ecu = Bench("motor")
    assert _act(ecu, "dtc_report", code="P0A93-00", failed=True) == {"status": 0xAF}
    listed = {dtc["code"]: dtc for dtc in _act(ecu, "dtcs")["dtcs"]}
    assert listed["P0A93-00"]["stored"]
    assert listed["P0A93-00"]["occurrences"] == 1
    assert listed["U0001-88"]["status"] == 0x50
    assert _act(ecu, "dtc_cycle", count=5, passing=False) == {"cycles": 5}
    _act(ecu, "dtc_cycle", count=44, passing=True)
    assert ecu.one("19 02 0C") == "59 02 FF"


def test_a_held_condition_by_control() -> None:
    ecu = Bench("motor")
    ecu.vehicle.values["powertrain.VehicleState.PowerMode"] = 2
    _act(ecu, "dtc_force", code="U0001-88", failing=True)
    ecu.advance(6)
    assert "C0 01 88 2F" in ecu.one("19 02 01")


@pytest.mark.parametrize(
    ("do", "request_"),
    [
        ("dtc_report", {"code": "P0000", "failed": True}), ("dtc_report", {"code": "P0A93-00"}),
        ("dtc_report", {"failed": True}), ("dtc_force", {"code": "P0A93-00", "failing": 1}),
        ("dtc_cycle", {"count": 0}), ("dtc_cycle", {"count": "x"}), ("dtc_cycle", {"count": True}),
    ],
)  # fmt: skip
def test_control_refuses_what_it_cannot_do(do: str, request_: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        _act(Bench("motor"), do, **request_)


def test_programming_by_control() -> None:
    ecu = Bench("motor")
    state = _act(ecu, "flash")
    assert state["bootable"]
    assert not state["boot_loader"]
    assert [region["name"] for region in state["regions"]] == ["application", "dataset"]
    ecu.one("10 03")
    ecu.one("10 02")
    assert _act(ecu, "flash")["boot_loader"]

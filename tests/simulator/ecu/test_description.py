"""Descriptions and stored state: what is wrong with them is told, with its place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from simulator.ecu.description import FOLDER, DescriptionError, ecu_names, load_description, parse_description
from simulator.ecu.services import build_server
from simulator.ecu.storage import NvStore, StorageError
from simulator.ecu.vehicle import FakeVehicle
from tests.support import ROOT

SMALL = """
name = "small"
title = "Small"
node = "X"
logical_address = 1
transport = { bus = "body", request_id = 0x700, response_id = 0x708 }
sessions = [{ id = 1, name = "default" }]
services = [{ sid = 0x22 }]
"""


def test_shipped_ecus() -> None:
    assert ecu_names() == ["battery", "body", "brakes", "gearbox", "motor", "telematics"]
    addresses = [load_description(name).logical_address for name in ecu_names()]
    assert sorted(addresses) == [0x1010, 0x1011, 0x1020, 0x1030, 0x1040, 0x1050]


@pytest.mark.parametrize("name", ecu_names())
def test_shipped_ecus_have_every_service_or_a_reason(name: str) -> None:
    description = load_description(name)
    have = {s.sid for s in description.services} | {int(sid, 16) for sid in description.unsupported}
    wanted = "10 11 14 19 22 23 24 27 28 29 2A 2C 2E 2F 31 34 35 36 37 38 3D 3E 83 84 85 86 87"
    assert {int(sid, 16) for sid in wanted.split()} <= have


def test_small_one_is_enough() -> None:
    assert parse_description(SMALL, "x").session_ids == {1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "x: "),
        (SMALL + "colour = 3", "unknown field `colour`"),
        (SMALL.replace("0x22", "300"), r"\$.services\[0\].sid"),
        (SMALL.replace('id = 1, name = "default"', 'id = 3, name = "extended"'), "default session"),
        (
            SMALL + 'dids = [{ id = 1, name = "a", fields = [{}] }, { id = 1, name = "b", fields = [{}] }]',
            "0x1 is there",
        ),
        (SMALL + 'dids = [{ id = 1, name = "a", fields = [] }]', r"\$.dids\[0\].fields"),
        (SMALL + "security = [{ level = 2 }]", "even"),
    ],
)
def test_a_wrong_description_tells_what(text: str, message: str) -> None:
    with pytest.raises(DescriptionError, match=message):
        parse_description(text, "x")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("services = [{ sid = 0x12 }]", "0x12 is not implemented"),
        ('services = [{ sid = 0x31 }]\nroutines = [{ id = 1, name = "r", effect = "magic" }]', "no effect 'magic'"),
        ('services = [{ sid = 0x27 }]\nsecurity = [{ level = 1, algorithm = "rot13" }]', "rot13"),
        (
            'services = [{ sid = 0x27 }]\nsecurity = [{ level = 1, algorithm = "aes_cmac", constant = "00" }]',
            "security 1",
        ),
        ("services = [{ sid = 0x29 }]", "authentication"),
        ("services = [{ sid = 0x84 }]", "secured_key"),
    ],
)
def test_what_cannot_be_built_tells_what(extra: str, message: str) -> None:
    description = parse_description(SMALL.replace("services = [{ sid = 0x22 }]", extra), "x")
    with pytest.raises(DescriptionError, match=message):
        build_server(description, FakeVehicle(), NvStore(None, "small"), 0.0)


def test_unknown_name_and_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(DescriptionError, match="there are battery"):
        load_description("toaster")
    (tmp_path / "bad.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(DescriptionError, match=r"bad\.toml"):
        load_description(str(tmp_path / "bad.toml"))


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text((FOLDER / "body.toml").read_text().replace('name = "body"', 'name = "mine"', 1))
    assert load_description(str(path)).name == "mine"


def test_storage_keeps_values_and_blobs(tmp_path: Path) -> None:
    store = NvStore(tmp_path / "deep" / "er", "motor")
    store.set("a", {"x": [1, b"\x00\xff", "text"]})
    store.blob("flash", 16)[3] = 0x55
    store.touch("flash")
    store.save()
    again = NvStore(tmp_path / "deep" / "er", "motor")
    assert again.get("a") == {"x": [1, b"\x00\xff", "text"]}
    assert again.blob("flash", 16)[3] == 0x55
    assert not again.is_dirty


def test_storage_that_is_damaged_is_told(tmp_path: Path) -> None:
    (tmp_path / "motor.nv").write_bytes(b"\xc1garbage")
    with pytest.raises(StorageError, match=r"motor\.nv"):
        NvStore(tmp_path, "motor")


def test_a_blob_of_another_size_is_told(tmp_path: Path) -> None:
    store = NvStore(tmp_path, "motor")
    store.blob("flash", 16)
    store.touch("flash")
    store.save()
    with pytest.raises(StorageError, match="16 bytes where the description says 32"):
        NvStore(tmp_path, "motor").blob("flash", 32)


def test_the_documented_example_works() -> None:
    """The ECU of docs/reference/ecu-description.md: its lamp can be held."""
    text = (ROOT / "docs" / "reference" / "ecu-description.md").read_text()
    (example,) = re.findall(r"^```toml\n(.*?)^```$", text, re.M | re.S)
    vehicle = FakeVehicle()
    server = build_server(parse_description(example, "lamp.toml"), vehicle, NvStore(None, "lamp"), 0.0)
    for request in ("10 03", "2F 01 00 03 01"):
        (answer,) = server.receive(bytes.fromhex(request), functional=False, now_s=0.0)
        assert answer.pdu[0] == int(request[:2], 16) | 0x40
    assert vehicle.overrides == {"body.LightStatus.LowBeam": 1.0}

"""Listening: messages put together from frames, PDUs in words, logs that other programs read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.can.link import CanFrame
from gateway.isotp import Address, Addressing, fixed
from gateway.isotp.framing import Framing
from gateway.isotp.model import Settings
from outrider.cli import main
from simulator.ecu.describe import describe
from simulator.ecu.description import load_description
from tester.errors import FileError
from tester.trace_bus import BusListener, Message
from tester.trace_files import open_writer, read_frames
from tester.trace_pdu import describe_pdu
from tester.vehicle import Ecu
from tester.vehicle_files import load_vehicle


@pytest.fixture(scope="module")
def vehicle_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vehicle") / "vehicle.json"
    path.write_text(json.dumps({"ecus": [describe(load_description(name)) for name in ("motor", "brakes")]}))
    return path


@pytest.fixture(scope="module")
def ecus(vehicle_file: Path) -> list[Ecu]:
    return list(load_vehicle(vehicle_file).ecus)


def frames_of(address: Address, pdu: bytes, *, start_ns: int = 1_700_000_000_000_000_000) -> list[CanFrame]:
    """The frames a sender puts on the bus for a message, and a flow control of the other side."""
    framing = Framing(address, Settings(padding=0xCC))
    if len(pdu) <= framing.single_bytes:
        payloads = [framing.single(pdu)]
    else:
        first, sent = framing.first(pdu)
        payloads = [first]
        for i, at in enumerate(range(sent, len(pdu), framing.chunk_bytes), 1):
            payloads.append(framing.pad(framing.consecutive[i % 16] + pdu[at : at + framing.chunk_bytes]))
    return [
        CanFrame(address.tx_id, payload, address.extended_id, timestamp_ns=start_ns + i * 1_000_000)
        for i, payload in enumerate(payloads)
    ]


def heard(listener: BusListener, bus: str, frames: list[CanFrame]) -> list[Message]:
    return [message for frame in frames for message in listener.frame(bus, frame)]


MOTOR = Address(tx_id=0x7E0, rx_id=0x7E8)
BRAKES = Address(
    tx_id=0x6F1, rx_id=0x629, addressing=Addressing.EXTENDED, tx_extension=0x29, rx_extension=0xF1
)  # fmt: skip


@given(st.binary(min_size=1, max_size=600))
def test_messages_of_any_length_are_put_together(pdu: bytes) -> None:
    [message] = heard(BusListener([]), "x", frames_of(MOTOR, pdu))
    assert (message.pdu, message.ecu, message.direction) == (pdu, "7E0", "request")


def test_both_directions_and_addressings(ecus: list[Ecu]) -> None:
    listener = BusListener(ecus)
    [asked] = heard(listener, "powertrain", frames_of(MOTOR, bytes.fromhex("22F190")))
    [told] = heard(listener, "powertrain", frames_of(MOTOR.reversed(), b"\x62\xf1\x90" + b"0UTR1DER0NE000001"))
    [other] = heard(listener, "chassis", frames_of(BRAKES, bytes.fromhex("1003")))
    assert (asked.ecu, asked.direction) == ("motor", "request")
    assert (told.ecu, told.direction) == ("motor", "answer")
    assert "vehicle identification number" in asked.text.lower() or "VIN" in asked.text
    assert "0UTR1DER0NE000001" in told.text
    assert (other.ecu, other.text) == ("brakes", "session control extended")
    [every] = heard(listener, "powertrain", [CanFrame(0x7DF, bytes.fromhex("023E80CCCCCCCCCC"), timestamp_ns=1)])
    assert (every.ecu, every.direction) == ("*", "functional")


def test_29_bit_ecus_are_known_by_habit() -> None:
    [message] = heard(BusListener([]), "x", frames_of(fixed(0x50, 0xF1), b"\x3e\x00"))
    assert (message.ecu, message.direction) == ("50", "request")
    assert heard(BusListener([]), "x", [CanFrame(0x123, b"\x02\x3e\x00", timestamp_ns=1)]) == []


def test_a_lost_frame_is_told_and_the_next_message_is_whole() -> None:
    listener = BusListener([])
    frames = frames_of(MOTOR, bytes(range(100)))
    del frames[3]
    broken = heard(listener, "x", frames)
    assert [bool(message.problem) for message in broken] == [True]
    [message] = heard(listener, "x", frames_of(MOTOR, b"\x3e\x00", start_ns=1_700_000_001_000_000_000))
    assert message.text == "tester present"


@given(st.lists(st.tuples(st.sampled_from([0x7E0, 0x7E8, 0x7DF]), st.binary(max_size=8)), max_size=30))
def test_any_frames_are_heard_without_harm(frames: list[tuple[int, bytes]]) -> None:
    listener = BusListener([])
    for i, (can_id, data) in enumerate(frames):
        for message in listener.frame("x", CanFrame(can_id, data, timestamp_ns=i)):
            assert bool(message.pdu) != bool(message.problem)


@given(st.binary(max_size=60))
def test_any_pdu_has_words(ecus: list[Ecu], pdu: bytes) -> None:
    assert describe_pdu(pdu)
    assert describe_pdu(pdu, ecus[0])


@pytest.mark.parametrize(
    ("pdu", "text"),
    [
        ("7F2231", "REFUSED read data by identifier: request out of range (NRC 31)"),
        ("5003003201F4", "session control extended (P2 50 ms, P2* 5000 ms)"),
        ("3E80", "tester present  (no answer wanted)"),
        ("340044004000000000 0400", "request download 1024 bytes at 0x400000, format 00"),
        ("3601AABB", "transfer data block 01, 2 bytes"),
        ("14FFFFFF", "clear DTCs all groups"),
        (
            "5902FF0A93002F",
            "read DTCs 02 P0A93-00 (failing, failed this cycle, pending, confirmed, failed since clear)",
        ),
        ("310102020000", "routine control start 0202 check memory 00 00"),
        ("2702AABBCCDD", "security access key 02 AA BB CC DD"),
        ("0902", "OBD mode 0x09 02"),
    ],
)
def test_words_of_pdus(pdu: str, text: str) -> None:
    assert " ".join(describe_pdu(bytes.fromhex(pdu)).split()) == " ".join(text.split())


FRAMES = [
    ("can0", CanFrame(0x7E0, b"\x02\x3e\x00", timestamp_ns=1_700_000_000_000_001_000)),
    ("can0", CanFrame(0x18DA50F1, b"\x02\x3e\x00", True, timestamp_ns=1_700_000_000_500_000_000)),
    ("can0", CanFrame(0x7E4, bytes(range(64)), False, True, True, timestamp_ns=1_700_000_001_000_000_000)),
]


@pytest.mark.parametrize("ending", ["log", "asc", "pcap"])
def test_logs_come_back_as_they_were_written(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"x.{ending}"
    writer = open_writer(path)
    for bus, frame in FRAMES:
        writer.write(bus, frame)
    writer.close()
    found = list(read_frames(path))
    assert [f._replace(timestamp_ns=0) for _, f in found] == [f._replace(timestamp_ns=0) for _, f in FRAMES]
    first = found[0][1].timestamp_ns
    gaps = [round((f.timestamp_ns - first) / 1e6) for _, f in found]
    assert gaps == [0, 500, 1000]


def test_a_capture_that_is_cut_off_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.pcap"
    writer = open_writer(path)
    for bus, frame in FRAMES:
        writer.write(bus, frame)
    writer.close()
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(FileError, match="cut off"):
        list(read_frames(path))


def test_decode_and_convert(tmp_path: Path, vehicle_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "x.log"
    writer = open_writer(log)
    for frame in [
        *frames_of(MOTOR, bytes.fromhex("22F190")),
        *frames_of(MOTOR.reversed(), b"\x62\xf1\x90" + b"0UTR1DER0NE000001"),
    ]:
        writer.write("can0", frame)
    writer.close()
    assert main(["uds", "trace", "convert", str(log), str(tmp_path / "y.pcap")]) == 0
    capsys.readouterr()
    for path in (log, tmp_path / "y.pcap"):
        assert main(["uds", "trace", "decode", str(path), "--vehicle", str(vehicle_file), "--json"]) == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [(line["ecu"], line["direction"]) for line in lines] == [("motor", "request"), ("motor", "answer")]
        assert "0UTR1DER0NE000001" in lines[1]["text"]


def test_a_session_of_another_command_is_decoded_and_its_broken_lines_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "session.jsonl"
    path.write_text(
        '{"at": "2026-01-31T10:00:00.5Z", "ecu": "motor", "kind": "request", "pdu": "22F190"}\n{"at": "2026-01-3'
    )
    assert main(["uds", "trace", "decode", str(path)]) == 0
    out, err = capsys.readouterr()
    assert "10:00:00.500000" in out
    assert "-> read data by identifier F190" in out
    assert "2 messages, 1 of them broken" in err
    assert main(["uds", "trace", "decode", str(tmp_path / "none")]) == 66
    assert main(["uds", "trace", "convert", str(path), str(tmp_path / "x.xyz")]) in (64, 65)

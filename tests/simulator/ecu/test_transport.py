"""Messages of ECUs in frames: can-isotp as the tester's side, every addressing of the vehicle."""

from __future__ import annotations

import time
from collections import deque

import isotp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.ecu.description import ecu_names
from simulator.ecu.links import Frame
from simulator.ecu.transport import LibraryTransport, identifiers, listened, single_frame
from tests.simulator.ecu.support import shipped


class Line:
    """A tester and an ECU that echoes, joined by two queues; the tester's side is can-isotp configured by hand."""

    def __init__(self, ecu: str, address: isotp.Address) -> None:
        transport = shipped(ecu).transport
        self.frames: list[Frame] = []
        self.to_tester: deque[isotp.CanMessage] = deque()
        self.requests: list[tuple[bytes, bool]] = []
        self.ecu = LibraryTransport(transport, self._from_ecu, self._request)
        self.heard = listened(transport)
        self.tester = isotp.TransportLayerLogic(
            rxfn=lambda timeout: self.to_tester.popleft() if self.to_tester else None,
            txfn=self._from_tester,
            address=address,
            params={"can_fd": transport.fd, "tx_data_length": transport.frame_bytes, "blocksize": 8},
        )

    def _from_ecu(self, frame: Frame) -> None:
        self.frames.append(frame)
        self.to_tester.append(
            isotp.CanMessage(frame.can_id, len(frame.data), frame.data, frame.extended, frame.fd, frame.fd)
        )

    def _from_tester(self, message: isotp.CanMessage) -> None:
        if (message.arbitration_id, message.is_extended_id) in self.heard:
            self.ecu.hear(
                Frame(message.arbitration_id, message.is_extended_id, bytes(message.data), bool(message.is_fd))
            )

    def _request(self, request: bytes, functional: bool) -> None:
        self.requests.append((request, functional))

    def ask(self, request: bytes, answer: bytes) -> bytes:
        """Send, let the ECU answer, and return what arrived."""
        self.tester.send(request)
        self.run(lambda: bool(self.requests))
        self.ecu.send(answer)
        self.run(self.tester.available)
        got = self.tester.recv()
        assert got is not None
        return bytes(got)

    def run(self, until: object) -> None:
        """Both sides in turn."""
        assert callable(until)
        end_s = time.monotonic() + 5
        while not until() and time.monotonic() < end_s:
            self.tester.process(0.0)
            self.ecu.poll()


M = isotp.AddressingMode
TESTERS = {
    "motor": isotp.Address(M.Normal_11bits, txid=0x7E0, rxid=0x7E8),
    "gearbox": isotp.Address(M.Normal_11bits, txid=0x7E1, rxid=0x7E9),
    "battery": isotp.Address(M.Normal_11bits, txid=0x7E4, rxid=0x7EC),
    "body": isotp.Address(M.Normal_11bits, txid=0x740, rxid=0x748),
    "brakes": isotp.Address(M.Extended_11bits, txid=0x6F1, rxid=0x629, source_address=0xF1, target_address=0x29),
    "telematics": isotp.Address(M.NormalFixed_29bits, source_address=0xF1, target_address=0x50),
}


def test_every_ecu_has_a_tester() -> None:
    assert sorted(TESTERS) == ecu_names()


@pytest.mark.parametrize("ecu", sorted(TESTERS))
@pytest.mark.parametrize("size", [1, 6, 7, 8, 62, 63, 300, 4095])
def test_messages_of_any_length_pass(ecu: str, size: int) -> None:
    line = Line(ecu, TESTERS[ecu])
    request, answer = bytes(i % 251 for i in range(size)), bytes(i % 241 for i in range(size))
    assert line.ask(request, answer) == answer
    assert line.requests == [(request, False)]


@pytest.mark.parametrize("ecu", sorted(TESTERS))
def test_frames_are_padded(ecu: str) -> None:
    line = Line(ecu, TESTERS[ecu])
    line.ask(b"\x3e\x00", b"\x7e\x00")
    assert [len(frame.data) for frame in line.frames] == [8]
    line.ecu.set_padding(None)
    line.requests.clear()
    line.ask(b"\x3e\x00", b"\x7e\x00")
    assert len(line.frames[-1].data) < 8


def test_battery_fills_fd_frames() -> None:
    line = Line("battery", TESTERS["battery"])
    line.ask(b"\x22\x02\x08", bytes(200))
    assert {len(frame.data) for frame in line.frames} == {64, 16}
    assert all(frame.fd for frame in line.frames)


def test_brakes_hear_only_their_address() -> None:
    line = Line("brakes", TESTERS["brakes"])
    line.ecu.hear(Frame(0x6F1, False, bytes.fromhex("2A 02 3E 00 00 00 00 00")))
    assert line.requests == []
    line.ecu.hear(Frame(0x6F1, False, bytes.fromhex("29 02 3E 00 00 00 00 00")))
    assert line.requests == [(b"\x3e\x00", False)]


def test_functional_requests_are_single_frames_only() -> None:
    line = Line("motor", TESTERS["motor"])
    line.ecu.hear(Frame(0x7DF, False, bytes.fromhex("02 3E 80 00 00 00 00 00")))
    line.ecu.hear(Frame(0x7DF, False, bytes.fromhex("10 14 22 01 01 01 02 01")))
    assert line.requests == [(b"\x3e\x80", True)]
    assert line.frames == []  # no flow control


def test_reception_in_progress_is_told() -> None:
    line = Line("motor", TESTERS["motor"])
    told = [line.ecu.busy]
    line.ecu.hear(Frame(0x7E0, False, bytes.fromhex("10 14 22 01 01 01 02 01")))
    told.append(line.ecu.busy)
    assert told == [False, True]
    assert line.ecu.next_deadline_s(100.0) is not None
    line.ecu.clear()
    assert line.ecu.next_deadline_s(100.0) is None


def test_identifiers_of_normal_fixed_addressing() -> None:
    assert identifiers(shipped("telematics").transport) == (0x18DA50F1, 0x18DAF150, True)
    assert listened(shipped("telematics").transport) == [(0x18DA50F1, True), (0x18DB33F1, True)]


@settings(deadline=None)
@given(st.binary(max_size=64))
def test_single_frames_never_give_more_than_they_hold(data: bytes) -> None:
    payload = single_frame(data)
    if payload is not None:
        assert payload
        assert len(payload) < len(data)


@settings(deadline=None)
@given(st.lists(st.binary(max_size=8), max_size=30))
def test_arbitrary_frames_are_survived(frames: list[bytes]) -> None:
    line = Line("motor", TESTERS["motor"])
    for data in frames:
        line.ecu.hear(Frame(0x7E0, False, data))
    line.ecu.hear(Frame(0x7E0, False, b"\x02\x3e\x00"))
    assert line.requests[-1] == (b"\x3e\x00", False)

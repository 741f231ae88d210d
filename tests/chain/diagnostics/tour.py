"""What a workshop does with an ECU in a day, and what must come of it; the same whichever way the tester comes."""

from __future__ import annotations

import time
from functools import cache
from typing import Any

import cantools
from udsoncan import AsciiCodec, DidCodec, MemoryLocation

from simulator.buses import find_bus
from simulator.ecu.flash_cli import made_up_payload
from simulator.ecu.flash_image import make_image
from simulator.model.parameters import VIN
from tests.chain.diagnostics.car import Simulator, channel_of, declared
from tests.chain.diagnostics.testers import Foreigner, hear, open_bus

WORKSHOP = b"FOREIGNER!"
APPLICATION = 0x400000
HORN = 792


class Raw(DidCodec):
    """Bytes as they are."""

    def __init__(self, length: int) -> None:
        self.length = length

    def encode(self, did_value: Any) -> bytes:
        return bytes(did_value)

    def decode(self, did_payload: bytes) -> bytes:
        return bytes(did_payload)

    def __len__(self) -> int:
        return self.length


def _access(about: dict[str, Any] | None, session: int) -> str:
    """Whether something is free, locked or absent in a session."""
    if about is None or session not in about["sessions"]:
        return "absent"
    return "locked" if about.get("security") or about.get("authenticated") else "free"


def identify(tester: Foreigner) -> None:
    """Sessions, tester present and who it is."""
    client = tester.client
    client.tester_present()
    assert tester.good("22 F1 86") == bytes.fromhex("62F18601")
    client.set_config("data_identifiers", {0xF190: AsciiCodec(17)})
    assert client.read_data_by_identifier(0xF190).service_data.values[0xF190] == VIN
    sessions = declared(tester.ecu)["sessions"]
    assert 3 in [int(number, 16) for number in sessions]
    answer = client.change_session(3)
    assert answer.service_data.p2_server_max == declared(tester.ecu)["timing"]["p2_ms"] / 1000
    assert tester.good("22 F1 86")[-1] == 3
    assert tester.refused(lambda: client.change_session(0x55)) == 0x12
    with client.suppress_positive_response:
        client.tester_present()
    if "04" in sessions:
        client.change_session(4)
        assert tester.good("22 F1 86")[-1] == 4
        client.change_session(3)
    client.change_session(1)


def read_all(tester: Foreigner) -> int:
    """All identifiers of the description, in both sessions; how many were there."""
    dids = declared(tester.ecu)["dids"]
    client = tester.client
    client.set_config("data_identifiers", {int(n, 16): Raw(about["bytes"]) for n, about in dids.items()})
    count = 0
    for session in (1, 3):
        client.change_session(session)
        for number, about in dids.items():
            did = int(number, 16)
            if session == 3 and _access(about.get("read"), 1) == "free":
                continue
            access = _access(about.get("read"), session)
            if access == "free":
                values = client.read_data_by_identifier(did).service_data.values
                assert len(values[did]) == about["bytes"], number
                count += 1
            else:
                wanted = 0x31 if access == "absent" else 0x34 if about["read"].get("authenticated") else 0x33
                assert tester.nrc(b"\x22" + did.to_bytes(2, "big")) == wanted, number
    first, second = [int(n, 16) for n, a in dids.items() if a["bytes"] <= 4 and _access(a.get("read"), 3) == "free"][:2]
    both = client.read_data_by_identifier([first, second]).service_data.values
    assert set(both) == {first, second}
    assert tester.refused(lambda: client.send_request(_rdbi(0x0ABC))) == 0x31
    return count


def _rdbi(did: int) -> Any:
    from udsoncan.services.ReadDataByIdentifier import ReadDataByIdentifier

    return ReadDataByIdentifier.make_request(did, {did: Raw(1)})


def faults(tester: Foreigner, simulator: Simulator) -> None:
    """A fault appears with snapshot and extended data, and is cleared."""
    client, ecu = tester.client, tester.ecu
    codes = declared(ecu)["services"]["19"]["details"]["codes"]
    hexadecimal = next(iter(codes))
    number = int(hexadecimal, 16)
    layout = {int(n, 16): Raw(a["bytes"]) for n, a in declared(ecu)["dids"].items()}
    client.set_config("data_identifiers", layout)
    client.set_config("extended_data_size", {number: 1})
    client.clear_dtc(0xFFFFFF)
    assert client.get_dtc_by_status_mask(0x08).service_data.dtcs == []
    simulator.do("dtc_report", ecu=ecu, code=code_of(hexadecimal), failed=True)
    simulator.do("dtc_cycle", ecu=ecu, count=1)
    simulator.do("dtc_report", ecu=ecu, code=code_of(hexadecimal), failed=True)
    found = {dtc.id: dtc for dtc in client.get_dtc_by_status_mask(0x08).service_data.dtcs}
    assert number in found, (hexadecimal, found)
    assert found[number].status.confirmed
    assert found[number].status.test_failed
    assert client.get_number_of_dtc_by_status_mask(0x08).service_data.dtc_count == len(found)
    supported = {dtc.id for dtc in client.get_supported_dtc().service_data.dtcs}
    assert supported == {int(code, 16) for code in codes}
    snapshots = client.get_dtc_snapshot_by_dtc_number(number, 0xFF).service_data.dtcs
    assert snapshots[0].id == number
    assert {snapshot.record_number for snapshot in snapshots[0].snapshots} == {1, 2}
    extended = client.get_dtc_extended_data_by_dtc_number(number, 0x01).service_data.dtcs
    assert extended[0].extended_data[0].raw_data[0] >= 1
    client.clear_dtc(0xFFFFFF)
    assert client.get_dtc_by_status_mask(0x08).service_data.dtcs == []
    assert tester.refused(lambda: client.clear_dtc(0x123456)) == 0x31


def code_of(hexadecimal: str) -> str:
    """P0A93-00 of 0A9300."""
    first = int(hexadecimal[0], 16)
    return f"{'PCBU'[first >> 2]}{first & 3}{hexadecimal[1:4]}-{hexadecimal[4:]}"


def unlock_and_write(tester: Foreigner, simulator: Simulator) -> None:
    """A wrong key, the right one, a value written and read back, and kept over a reset."""
    client, ecu = tester.client, tester.ecu
    client.change_session(3)
    client.set_config("data_identifiers", {0xF198: Raw(10), 0xF190: Raw(17)})
    assert tester.refused(lambda: client.write_data_by_identifier(0xF190, VIN.encode())) == 0x33
    size = len(client.request_seed(1).service_data.seed)
    assert tester.refused(lambda: client.send_key(2, bytes(size))) == 0x35
    tester.unlock(1)
    state = simulator.ecu(ecu)
    assert (state["session"], state["unlocked"]) == (3, 1)
    client.write_data_by_identifier(0xF190, VIN.encode())
    client.write_data_by_identifier(0xF198, WORKSHOP)
    assert client.read_data_by_identifier(0xF198).service_data.values[0xF198] == WORKSHOP
    tester.unlock(3)
    assert simulator.ecu(ecu)["unlocked"] == 3
    place = MemoryLocation(0x20000010, 16, address_format=32, memorysize_format=16)
    client.write_memory_by_address(place, bytes(range(16)))
    assert client.read_memory_by_address(place).service_data.memory_block == bytes(range(16))
    outside = MemoryLocation(0x90000000, 4, address_format=32, memorysize_format=16)
    assert tester.refused(lambda: client.read_memory_by_address(outside)) == 0x31


def control_outputs(tester: Foreigner) -> None:
    """Each output is moved, read back, and given back."""
    client = tester.client
    client.change_session(3)
    tester.unlock(1)
    dids, controls = declared(tester.ecu)["dids"], declared(tester.ecu)["services"]["2F"]["details"]["dids"]
    for number, about in controls.items():
        did, length = bytes.fromhex(number), dids[number]["bytes"]
        value = bytes(length - 1) + b"\x01"
        mask = b"\xff" * ((len(dids[number]["fields"]) + 7) // 8) if len(dids[number]["fields"]) > 1 else b""
        assert 3 in about["options"]
        answer = tester.good(b"\x2f" + did + b"\x03" + value + mask)
        assert answer[:4] == b"\x6f" + did + b"\x03"
        assert tester.good(b"\x22" + did)[3:] == value
        if (tester.ecu, number) == ("body", "0210"):
            assert horn_on_the_bus(), "what the ECU says it does is not on its bus"
        tester.good(b"\x2f" + did + b"\x00" + mask)
        if (tester.ecu, number) == ("body", "0210"):
            assert not horn_on_the_bus()


def horn_on_the_bus() -> bool:
    """The horn as everybody on the body's bus sees it: the second frame from now, since the first may be late."""
    with open_bus(channel_of("body"), HORN) as bus:
        for _ in range(2):
            frame = hear(bus, HORN, 20)
            assert frame is not None, "no frames of the body controller"
            data = bytes(frame.data)
    return bool(horn_message().decode(data, decode_choices=False)["HornActive"])


@cache
def horn_message() -> Any:
    """From the vehicle's DBC."""
    database: Any = cantools.database.load_file(find_bus("body").dbc)
    return database.get_message_by_frame_id(HORN)


def routines(tester: Foreigner) -> None:
    """The self test, one that goes on by itself, and one that is not there."""
    client = tester.client
    client.change_session(3)
    done = client.start_routine(0x0200)
    assert done.service_data.routine_status_record[:1] == b"\x00"
    assert client.get_routine_result(0x0200).service_data.routine_status_record[:1] == b"\x00"
    assert client.start_routine(0x0203).service_data.routine_status_record == b"\x00"
    known = declared(tester.ecu)["services"]["31"]["details"]["routines"]
    for number, about in known.items():
        if 2 in about["subfunctions"] and about["sessions"] == [3] and not about["option_bytes"]:
            routine = int(number, 16)
            assert client.start_routine(routine).service_data.routine_status_record[:1] == b"\x01"
            client.stop_routine(routine)
            stopped = client.get_routine_result(routine).service_data.routine_status_record
            assert stopped[:1] == b"\x02", stopped
    assert tester.refused(lambda: client.start_routine(0x0ABC)) == 0x31


def define_and_schedule(tester: Foreigner, way: str) -> None:
    """0x2C: an identifier of two others; 0x2A: values that come by themselves until they are stopped."""
    tester.client.change_session(3)
    tester.good("2C 01 F3 01 01 00 01 02 01 03 01 01")
    composed = tester.good("22 F3 01")[3:]
    assert len(composed) == 3
    assert composed[2:] == tester.good("22 01 03")[3:]
    tester.good("2C 03 F3 01")
    assert tester.nrc("22 F3 01") == 0x31
    periodic = declared(tester.ecu)["services"]["2A"]["details"]["periodic"]
    if not periodic:
        assert tester.nrc("2A 03 00") == 0x31
        return
    number = int(periodic[0], 16) & 0xFF
    tester.good(bytes([0x2A, 0x02, number]))
    tester.good("3E 00")
    tester.good(bytes([0x2A, 0x04, number]))
    while tester.hears(0.3) is not None:  # values that were under way
        pass


def switch_faults_off(tester: Foreigner, simulator: Simulator) -> None:
    """0x85: nothing is set meanwhile."""
    client, ecu = tester.client, tester.ecu
    hexadecimal = next(iter(declared(ecu)["services"]["19"]["details"]["codes"]))
    client.change_session(3)
    client.clear_dtc(0xFFFFFF)
    client.control_dtc_setting(2)
    assert simulator.ecu(ecu)["dtcs_frozen"]
    simulator.do("dtc_report", ecu=ecu, code=code_of(hexadecimal), failed=True)
    assert int(hexadecimal, 16) not in {d.id for d in client.get_dtc_by_status_mask(0x01).service_data.dtcs}
    client.control_dtc_setting(1)
    assert not simulator.ecu(ecu)["dtcs_frozen"]


def image_for(ecu: str, version: str, size: int = 3000) -> bytes:
    """Signed software."""
    return make_image(ecu, version, made_up_payload(f"{ecu}{version}", size))


def enter_programming(tester: Foreigner) -> None:
    """Into the boot loader, unlocked."""
    client = tester.client
    client.change_session(3)
    hindrances = tester.ask("31 01 02 03")  # the boot loader has no such routine
    assert hindrances in (b"\x71\x01\x02\x03\x00", b"\x7f\x31\x31"), hindrances
    client.change_session(2)
    tester.unlock(0x11)


def program(tester: Foreigner, image: bytes, *, enter: bool = True) -> int:
    """Erase, transfer, check; the result of the check."""
    client = tester.client
    if enter:
        enter_programming(tester)
    place = MemoryLocation(APPLICATION, len(image), address_format=32, memorysize_format=32)
    client.start_routine(0xFF00, b"\x44" + APPLICATION.to_bytes(4, "big") + len(image).to_bytes(4, "big"))
    block = client.request_download(place).service_data.max_length - 2
    for at in range(0, len(image), block):
        client.transfer_data((at // block + 1) & 0xFF, image[at : at + block])
    client.request_transfer_exit()
    record = client.start_routine(0x0202).service_data.routine_status_record
    return int(record[1])


def wait_for_boot(tester: Foreigner, simulator: Simulator) -> None:
    """After a reset."""
    simulator.wait(f"{tester.ecu} to boot", lambda: simulator.ecu(tester.ecu)["power"] == "on")


def flash(tester: Foreigner, simulator: Simulator, version: str) -> None:
    """New software, and the version tells it."""
    client, ecu = tester.client, tester.ecu
    client.set_config("data_identifiers", {0xF189: AsciiCodec(8)})
    before = client.read_data_by_identifier(0xF189).service_data.values[0xF189]
    assert before.strip() != version
    assert program(tester, image_for(ecu, version)) == 0
    assert client.start_routine(0xFF01).service_data.routine_status_record[:1] == b"\x00"
    reset(tester, simulator)
    assert client.read_data_by_identifier(0xF189).service_data.values[0xF189].strip() == version
    assert not simulator.ecu(ecu)["boot_loader"]


def reset(tester: Foreigner, simulator: Simulator) -> None:
    """0x11 01: the ECU boots, and is in its default session."""
    resets = simulator.ecu(tester.ecu)["resets"]
    tester.client.ecu_reset(1)
    simulator.wait("the reset", lambda: simulator.ecu(tester.ecu)["resets"] == resets + 1)
    wait_for_boot(tester, simulator)
    state = simulator.ecu(tester.ecu)
    assert (state["session"], state["unlocked"]) == (1, 0), state


def whole_tour(tester: Foreigner, simulator: Simulator, way: str, version: str) -> dict[str, float]:
    """All of it; seconds by part."""
    took: dict[str, float] = {}

    def part(name: str, begun_s: float) -> float:
        took[name] = round(time.monotonic() - begun_s, 2)
        return time.monotonic()

    now_s = time.monotonic()
    identify(tester)
    now_s = part("identify", now_s)
    assert read_all(tester) > 20
    now_s = part("read_all", now_s)
    faults(tester, simulator)
    now_s = part("faults", now_s)
    unlock_and_write(tester, simulator)
    now_s = part("unlock", now_s)
    control_outputs(tester)
    now_s = part("outputs", now_s)
    routines(tester)
    now_s = part("routines", now_s)
    define_and_schedule(tester, way)
    now_s = part("2A2C", now_s)
    switch_faults_off(tester, simulator)
    now_s = part("85", now_s)
    flash(tester, simulator, version)
    part("flash", now_s)
    return took

"""Services 14, 19 and 85 of a small ECU, byte by byte."""

from __future__ import annotations

from typing import Any

import pytest
import udsoncan
from udsoncan.Response import Response
from udsoncan.services.ReadDTCInformation import ReadDTCInformation

from simulator.ecu.description import DescriptionError, parse_description
from simulator.ecu.dtc_unit import FaultUnit, fault_unit
from simulator.ecu.storage import StorageError
from simulator.ecu.vehicle import FakeVehicle
from tests.simulator.ecu.support import Bench

TOML = """
name = "small"
title = "Small"
node = "VCU"
logical_address = 1
transport = { bus = "powertrain", request_id = 0x7E0, response_id = 0x7E8 }
sessions = [{ id = 1, name = "default" }, { id = 3, name = "extended" }]
services = [{ sid = 0x10 }, { sid = 0x14 }, { sid = 0x19 }, { sid = 0x3E }, { sid = 0x85, access = { sessions = [3] } }]
dids = [
  { id = 0xF40D, name = "inlet", fields = [{ signal = "battery.BatteryThermal.CoolantInlet" }] },
  { id = 0xF442, name = "supply", fields = [{ bytes = 2, value = 14000 }] },
]
dtc_settings = { settle_s = 0.0, capacity = 3, snapshot = [0xF40D, 0xF442] }
dtcs = [
  { code = "P0A93-00", text = "Coolant", severity = "check_immediately", dtc_class = 2, functional_unit = 0x10,
    emissions = true, lamp = true, confirm_cycles = 2, readiness = 1,
    test = { signal = "battery.BatteryThermal.CoolantOutlet", above = 70, for_ms = 500, heal_ms = 500 } },
  { code = "C0101-00", text = "Brake", safety = true, functional_unit = 0x20, severity = "maintenance_only" },
  { code = "U0100-87", text = "Lost", test = { silent = "chassis.WheelSpeeds", for_ms = 500, timeout_ms = 300 } },
  { code = "U0411-83", text = "Invalid", test = { corrupt = "powertrain.InverterStatus" } },
  { code = "B1000-13", text = "Lamp", test = { bus_off = "body" } },
  { code = "B1001-16", text = "Supply low", test = { signal = "body.LowVoltage.BatteryVoltage", below = 9 } },
  { code = "B1002-2F", text = "Stuck", test = { frozen = "chassis.VehicleDynamics.YawRate",
    when = [{ signal = "powertrain.VehicleMotion.VehicleSpeed", above = 20 }] } },
]
""".replace(",\n    ", ", ")  # an inline table has no line breaks
COOLANT, BRAKE, LOST, LAMP = 0x0A9300, 0x410100, 0xC10087, 0x900013
POWER_MODE = "powertrain.VehicleState.PowerMode"
#: All codes of TOML, as 19 0A lists them when nothing was tested.
ALL_NEW = "0A 93 00 50 41 01 00 50 C1 00 87 50 C4 11 83 50 90 00 13 50 90 01 16 50 90 02 2F 50"


class Car(Bench):
    """The small ECU in a car that is switched on."""

    def __init__(self) -> None:
        super().__init__(parse_description(TOML, "test"))
        self.vehicle.values[POWER_MODE] = 3
        self.vehicle.values["powertrain.Odometer.TotalDistance"] = 1000.0
        self.vehicle.values["battery.BatteryThermal.CoolantInlet"] = 42
        self.unit: FaultUnit = fault_unit(self.context)

    def fail(self, code: int) -> None:
        self.unit.report(code, failed=True)

    def settle(self) -> Car:
        """The operation cycle has begun and no test has found anything."""
        self.advance(0.05)
        return self

    def new_cycle(self) -> None:
        self.vehicle.values[POWER_MODE] = 0
        self.advance(0.3)
        self.vehicle.values[POWER_MODE] = 3
        self.advance(0.3)


@pytest.fixture
def car() -> Car:
    return Car().settle()


def test_a_new_memory_lists_all_codes_untested(car: Car) -> None:
    assert car.one("19 0A") == "59 0A FF " + ALL_NEW
    assert car.one("19 01 FF") == "59 01 FF 01 00 07"
    assert car.one("19 02 08") == "59 02 FF"


def test_status_mask_selects_and_zero_selects_none(car: Car) -> None:
    car.fail(BRAKE)
    assert car.one("19 02 01") == "59 02 FF 41 01 00 2F"
    assert car.one("19 01 01") == "59 01 FF 01 00 01"
    assert car.one("19 02 00") == "59 02 FF"
    assert car.one("19 01 00") == "59 01 FF 01 00 00"


def test_a_condition_that_lasts_long_enough_fails_the_test_and_takes_a_snapshot(car: Car) -> None:
    outlet = "battery.BatteryThermal.CoolantOutlet"
    car.vehicle.values[outlet] = 71
    car.advance(0.35)
    assert car.one("19 14") == "59 14 0A 93 00 4C"
    assert car.one("19 02 01") == "59 02 FF"
    car.advance(0.4)
    assert car.one("19 02 01") == "59 02 FF 0A 93 00 27"
    assert car.one("19 14") == "59 14"
    assert car.one("19 03") == "59 03 0A 93 00 01 0A 93 00 02"
    assert car.one("19 04 0A 93 00 01") == "59 04 0A 93 00 27 01 02 F4 0D 2A F4 42 36 B0"
    car.vehicle.values[outlet] = 20
    car.advance(0.7)
    car.vehicle.values["battery.BatteryThermal.CoolantInlet"] = 0x50
    car.vehicle.values[outlet] = 90
    car.advance(0.8)
    expected = "59 04 0A 93 00 27 01 02 F4 0D 2A F4 42 36 B0 02 02 F4 0D 50 F4 42 36 B0"
    assert car.one("19 04 0A 93 00 FF") == expected


def test_nothing_is_tested_while_the_car_is_off() -> None:
    car = Car()
    car.vehicle.values[POWER_MODE] = 0
    car.vehicle.values["battery.BatteryThermal.CoolantOutlet"] = 99
    car.advance(3)
    assert car.one("19 0A") == "59 0A FF " + ALL_NEW


def test_silence_and_bus_off_are_found(car: Car) -> None:
    car.vehicle.ages["chassis.WheelSpeeds"] = 0.5
    car.vehicle.off.add("body")
    car.advance(1.0)
    assert car.one("19 02 08") == "59 02 FF C1 00 87 2F 90 00 13 2F"


def test_corrupt_messages_are_found_while_they_come(car: Car) -> None:
    car.vehicle.corrupt.add("powertrain.InverterStatus")
    car.vehicle.ages["powertrain.InverterStatus"] = 9.0
    car.advance(1.0)
    assert car.one("19 02 01") == "59 02 FF"
    car.vehicle.ages["powertrain.InverterStatus"] = 0.01
    car.advance(1.0)
    assert car.one("19 02 01") == "59 02 FF C4 11 83 2F"


def test_an_ecu_that_is_told_not_to_receive_misses_nobody(car: Car) -> None:
    car.context.receive_off = True
    car.vehicle.ages["chassis.WheelSpeeds"] = 9.0
    car.advance(2.0)
    assert car.one("19 02 01") == "59 02 FF"


def test_silence_on_a_bus_that_is_off_is_not_judged(car: Car) -> None:
    car.vehicle.off.add("chassis")
    car.vehicle.ages["chassis.WheelSpeeds"] = 9.0
    car.advance(2.0)
    assert car.one("19 02 01") == "59 02 FF"


def test_low_supply_stops_all_tests_but_its_own(car: Car) -> None:
    car.vehicle.values["body.LowVoltage.BatteryVoltage"] = 8.0
    car.vehicle.ages["chassis.WheelSpeeds"] = 5.0
    car.advance(2.0)
    assert car.one("19 02 01") == "59 02 FF 90 01 16 2F"


def test_a_value_that_never_changes_is_found_only_while_it_should(car: Car) -> None:
    car.advance(2.0)
    assert car.one("19 02 01") == "59 02 FF"
    car.vehicle.values["powertrain.VehicleMotion.VehicleSpeed"] = 50
    car.advance(1.0)
    assert car.one("19 02 01") == "59 02 FF 90 02 2F 2F"


@pytest.mark.parametrize("sub", ["04", "06"])
def test_known_code_without_record_gives_the_header_only(car: Car, sub: str) -> None:
    assert car.one(f"19 {sub} 0A 93 00 FF") == f"59 {sub} 0A 93 00 50"
    assert car.one(f"19 {sub} 0A 93 00 01") == f"59 {sub} 0A 93 00 50"


@pytest.mark.parametrize(
    "request_", ["19 04 12 34 56 FF", "19 06 12 34 56 FF", "19 09 12 34 56", "19 04 0A 93 00 03", "19 04 0A 93 00 00",
                 "19 06 0A 93 00 07", "19 06 0A 93 00 00", "19 05 00", "19 05 04", "19 16 07", "19 1A 07",
                 "19 17 FF 11", "19 18 0A 93 00 FF 11", "19 19 0A 93 00 FF 00", "19 42 34 FF FF", "19 55 34",
                 "19 56 33 02", "19 56 34 01"],
)  # fmt: skip
def test_unknown_codes_records_groups_and_memories_are_out_of_range(car: Car, request_: str) -> None:
    assert car.one(request_) == "7F 19 31"


@pytest.mark.parametrize("sub", [0x00, 0x0F, 0x10, 0x11, 0x12, 0x13, 0x1B, 0x41, 0x43, 0x57, 0x7F])
def test_other_subfunctions_are_not_supported(car: Car, sub: int) -> None:
    assert car.one(bytes([0x19, sub, 0])) == "7F 19 12"


def test_every_subfunction_wants_its_exact_length(car: Car) -> None:
    service = car.server.services[0x19]
    subs = service.subfunctions()
    assert subs is not None
    assert sorted(subs) == [*range(1, 0x0F), *range(0x14, 0x1B), 0x42, 0x55, 0x56]
    for number, sub in subs.items():
        assert sub.length is not None
        for length in (sub.length - 1, sub.length + 1):
            if length > 1:
                assert car.one(bytes([0x19, number]) + bytes(length - 2)) == "7F 19 13"
    assert car.one("19") == "7F 19 13"


def test_extended_records(car: Car) -> None:
    car.fail(COOLANT)
    counters = "01 01 02 00 03 01 04 00 03 E8 05 7F"
    assert car.one("19 06 0A 93 00 FF") == f"59 06 0A 93 00 27 {counters} 90 01 00"
    assert car.one("19 06 0A 93 00 FE") == "59 06 0A 93 00 27 90 01 00"
    assert car.one("19 06 0A 93 00 03") == "59 06 0A 93 00 27 03 01"
    car.fail(BRAKE)
    assert car.one("19 06 41 01 00 FF") == f"59 06 41 01 00 2F {counters}"
    assert car.one("19 06 41 01 00 90") == "59 06 41 01 00 2F"
    assert car.one("19 16 01") == "59 16 01 0A 93 00 27 01 41 01 00 2F 01"
    assert car.one("19 16 90") == "59 16 90 0A 93 00 27 01 00"
    assert car.one("19 1A 90") == "59 1A FF 90 0A 93 00 27"


def test_severity(car: Car) -> None:
    car.fail(COOLANT)
    car.fail(BRAKE)
    assert car.one("19 07 80 01") == "59 07 FF 01 00 01"
    assert car.one("19 08 80 01") == "59 08 FF 84 10 0A 93 00 27"
    assert car.one("19 08 FF 01") == "59 08 FF 84 10 0A 93 00 27 21 20 41 01 00 2F"
    assert car.one("19 09 41 01 00") == "59 09 FF 21 20 41 01 00 2F"


def test_first_and_most_recent(car: Car) -> None:
    assert car.one("19 0B") == "59 0B FF"
    car.fail(COOLANT)
    car.fail(BRAKE)
    car.fail(LOST)
    assert car.one("19 0B") == "59 0B FF 0A 93 00 27"
    assert car.one("19 0C") == "59 0C FF 41 01 00 2F"
    assert car.one("19 0D") == "59 0D FF C1 00 87 2F"
    assert car.one("19 0E") == "59 0E FF C1 00 87 2F"


def test_stored_data_by_record_number(car: Car) -> None:
    car.fail(BRAKE)
    assert car.one("19 05 01") == "59 05 01 41 01 00 2F 02 F4 0D 2A F4 42 36 B0"
    assert car.one("19 05 02") == "59 05 02"
    assert car.one("19 05 FF") == "59 05 01 41 01 00 2F 02 F4 0D 2A F4 42 36 B0"


def test_permanent_codes_survive_a_clear_until_the_test_has_passed_a_cycle(car: Car) -> None:
    car.fail(COOLANT)
    car.new_cycle()
    car.fail(COOLANT)
    assert car.one("19 15") == "59 15 FF 0A 93 00 AF"
    assert car.one("19 55 33") == "59 55 33 FF 04 0A 93 00 AF"
    assert car.one("14 FF FF FF") == "54"
    assert car.one("19 15") == "59 15 FF 0A 93 00 50"
    car.advance(1.0)  # the coolant is cool, the test passes
    car.new_cycle()
    assert car.one("19 15") == "59 15 FF"


def test_user_memory_keeps_what_a_plain_clear_forgets(car: Car) -> None:
    car.fail(BRAKE)
    assert car.one("14 FF FF FF") == "54"
    assert car.one("19 02 08") == "59 02 FF"
    assert car.one("19 17 08 10") == "59 17 10 FF 41 01 00 2F"
    assert car.one("19 18 41 01 00 01 10") == "59 18 10 41 01 00 2F 01 02 F4 0D 2A F4 42 36 B0"
    assert car.one("19 19 41 01 00 01 10") == "59 19 10 41 01 00 2F 01 01"
    assert car.one("14 FF FF FF 10") == "54"
    assert car.one("19 17 08 10") == "59 17 10 FF"


def test_wwh_obd_by_mask_and_readiness_group(car: Car) -> None:
    car.fail(COOLANT)
    assert car.one("19 42 33 FF FF") == "59 42 33 FF 84 04 84 0A 93 00 27"
    assert car.one("19 42 33 08 FF") == "59 42 33 FF 84 04"
    assert car.one("19 42 D0 FF 20") == "59 42 D0 FF 21 04 21 41 01 00 50"
    assert car.one("19 56 33 01") == "59 56 33 FF 04 01 0A 93 00 27"


@pytest.mark.parametrize(
    ("group", "left"), [("FF FF FF", []), ("FF FF 33", [BRAKE]), ("FF FF D0", [COOLANT]), ("41 01 00", [COOLANT])]
)
def test_clear_by_group(car: Car, group: str, left: list[int]) -> None:
    car.fail(COOLANT)
    car.fail(BRAKE)
    assert car.one(f"14 {group}") == "54"
    assert [number for number, _ in car.unit.memory.having(0x01)] == left
    assert car.unit.memory.ordered_entries() == left


@pytest.mark.parametrize(
    ("request_", "answer"),
    [("14 00 00 00", "31"), ("14 12 34 56", "31"), ("14 FF FF 34", "31"), ("14 FF FF FE", "31"),
     ("14 FF FF FF 11", "31"), ("14", "13"), ("14 FF FF", "13"), ("14 FF FF FF 10 00", "13")],
)  # fmt: skip
def test_what_cannot_be_cleared(car: Car, request_: str, answer: str) -> None:
    car.fail(BRAKE)
    assert car.one(request_) == f"7F 14 {answer}"
    assert car.one("19 02 01") == "59 02 FF 41 01 00 2F"


def test_setting_off_freezes_until_on_default_session_or_reset(car: Car) -> None:
    assert car.one("85 02") == "7F 85 7F"
    for end in ("85 01", "10 01"):
        car.unit.clear(list(car.unit.memory.codes))
        car.one("10 03")
        assert car.one("85 02 FF FF FF") == "C5 02"
        car.vehicle.off.add("body")
        car.advance(2.0)
        assert car.one("19 02 01") == "59 02 FF"
        assert car.one(end)[0] in "5C"
        car.advance(1.0)
        assert car.one("19 02 01") == "59 02 FF 90 00 13 2F"


@pytest.mark.parametrize(
    ("request_", "nrc"), [("85 02 00 00 00", "31"), ("85 02 FF", "13"), ("85 02 FF FF FF FF", "13"), ("85 03", "12")]
)
def test_setting_refusals(car: Car, request_: str, nrc: str) -> None:
    car.one("10 03")
    assert car.one(request_) == f"7F 85 {nrc}"


def test_the_memory_survives_power_loss_but_debounce_does_not(car: Car) -> None:
    car.fail(BRAKE)
    before = car.one("19 06 41 01 00 04"), car.one("19 04 41 01 00 FF"), car.one("19 0B")
    car.power_cycle()
    assert (car.one("19 06 41 01 00 04"), car.one("19 04 41 01 00 FF"), car.one("19 0B")) == before
    assert car.one("19 14") == "59 14"


def test_a_restarted_ecu_reads_the_memory_from_its_store() -> None:
    car = Car().settle()
    car.fail(BRAKE)
    other = FaultUnit(car.context)
    assert other.memory.save() == car.unit.memory.save()
    assert other.life == car.unit.life


def test_listeners_hear_each_change_of_a_status_byte(car: Car) -> None:
    heard: list[tuple[int, int, int]] = []
    car.context.dtc_listeners.append(lambda dtc, before, after: heard.append((dtc, before, after)))
    car.fail(BRAKE)
    car.fail(BRAKE)
    car.one("14 41 01 00")
    assert heard == [(BRAKE, 0x50, 0x2F), (BRAKE, 0x2F, 0x50)]


def test_a_forced_condition_goes_through_the_debounce_and_lets_go(car: Car) -> None:
    car.unit.force(LAMP, True)
    car.advance(0.3)
    assert car.one("19 02 01") == "59 02 FF"
    car.advance(0.5)
    assert car.one("19 02 01") == "59 02 FF 90 00 13 2F"
    car.unit.force(LAMP, None)
    car.advance(1.5)
    assert car.one("19 02 01") == "59 02 FF"


def test_forty_warm_up_cycles_age_a_code(car: Car) -> None:
    car.fail(BRAKE)
    ready = "powertrain.VehicleState.ReadyToDrive"
    for _ in range(41):
        assert car.one("19 02 08") == "59 02 FF 41 01 00 " + car.one("19 09 41 01 00")[-2:]
        car.unit.begin_cycle()
        car.unit.life.warmed_up = True
        car.unit.report(BRAKE, failed=False)
    car.vehicle.values[ready] = 1
    car.unit.begin_cycle()
    assert car.one("19 02 08") == "59 02 FF"
    assert car.one("19 03") == "59 03"


def test_an_independent_codec_reads_the_answers(car: Car) -> None:
    car.fail(COOLANT)
    car.fail(BRAKE)
    codecs: Any = {0xF40D: udsoncan.DidCodec("B"), 0xF442: udsoncan.DidCodec(">H")}

    def ask(sub: int, **parameters: int) -> Any:
        request = ReadDTCInformation.make_request(subfunction=sub, **parameters)
        response = Response.from_payload(bytes.fromhex(car.one(request.get_payload())))
        answer = ReadDTCInformation.interpret_response(
            response, subfunction=sub, extended_data_size={COOLANT: 1}, didconfig=codecs
        )
        return answer.service_data

    by_status = ask(2, status_mask=1)
    assert [(dtc.id, dtc.status.get_byte_as_int()) for dtc in by_status.dtcs] == [(COOLANT, 0x27), (BRAKE, 0x2F)]
    snapshot = ask(4, dtc=COOLANT, snapshot_record_number=0xFF).dtcs[0].snapshots
    found = [(s.record_number, s.did, s.data) for s in snapshot]
    assert found == [(n, did, (value,)) for n in (1, 2) for did, value in ((0xF40D, 42), (0xF442, 14000))]
    counter = ask(0x14).dtcs
    assert counter == []
    assert ask(8, severity_mask=0x20, status_mask=1).dtcs[0].functional_unit == 0x20


@pytest.mark.parametrize("sub", [*range(1, 15), 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x42, 0x55])
def test_an_independent_codec_understands_every_answer(car: Car, sub: int) -> None:
    for code in (COOLANT, BRAKE, LOST):
        car.fail(code)
    wanted: dict[str, Any] = {}
    if sub in (1, 2, 7, 8, 0x17, 0x42):
        wanted["status_mask"] = 1
    if sub in (7, 8, 0x42):
        wanted["severity_mask"] = 0xFF
    if sub in (4, 6, 9, 0x18, 0x19):
        wanted["dtc"] = COOLANT
    if sub in (4, 5, 0x18):
        wanted["snapshot_record_number"] = 1
    if sub in (6, 0x16, 0x19):
        wanted["extended_data_record_number"] = 1
    if sub in (0x17, 0x18, 0x19):
        wanted["memory_selection"] = 0x10
    if sub in (0x42, 0x55):
        wanted["functional_group_id"] = 0x33
    codecs: Any = {0xF40D: udsoncan.DidCodec("B"), 0xF442: udsoncan.DidCodec(">H")}
    request = ReadDTCInformation.make_request(subfunction=sub, **wanted)
    response = Response.from_payload(bytes.fromhex(car.one(request.get_payload())))
    told = ReadDTCInformation.interpret_response(
        response, subfunction=sub, extended_data_size=dict.fromkeys((COOLANT, BRAKE, LOST), 1), didconfig=codecs
    ).service_data
    found = {dtc.id for dtc in told.dtcs}
    if sub in (1, 7):
        assert told.dtc_count == 3
    elif sub in (2, 3, 8, 0x16, 0x17):
        assert found == {COOLANT, BRAKE, LOST}
    elif sub in (4, 5, 6, 9, 0x0B, 0x18, 0x19, 0x42):
        assert found == {COOLANT}
    elif sub == 0x0A:
        assert len(found) == 7
    elif sub in (0x0C, 0x0D, 0x0E):
        assert found == {BRAKE if sub == 0x0C else LOST}
    else:
        assert found == set()


def test_stored_faults_that_cannot_be_read_are_told(car: Car) -> None:
    car.fail(BRAKE)
    for key, value in (("dtc.primary", {"entries": {"410100": {}}}), ("dtc.life", {"cycles": "x"}), ("dtc.user", 3)):
        before = car.nv.get(key)
        car.nv.set(key, value)
        with pytest.raises(StorageError, match="small: stored faults"):
            FaultUnit(car.context)
        car.nv.set(key, before)
    assert FaultUnit(car.context).memory.save() == car.unit.memory.save()


def test_descriptions_that_cannot_be_are_refused() -> None:
    for old, new in (
        ('code = "P0A93-00"', 'code = "X0A93-00"'),
        ('text = "Brake"', 'txt = "Brake"'),
        ('bus_off = "body"', 'bus_off = "body", above = 3'),
        ('code = "C0101-00"', 'code = "P0A93-00"'),
        ("capacity = 3", "capacity = 0"),
    ):
        text = TOML.replace(old, new)
        assert text != TOML
        with pytest.raises(DescriptionError, match="dtcs"):
            Bench(parse_description(text, "test"))


class Bare(FakeVehicle):
    """A vehicle that lacks a signal, a message or a bus."""

    lacks = ""

    def has(self, signal: str) -> bool:
        return self.lacks not in signal

    def age_s(self, message: str) -> float:
        if message == self.lacks:
            raise KeyError(message)
        return 0.0

    def bus_off(self, bus: str) -> bool:
        if bus == self.lacks:
            raise ValueError(bus)
        return False


@pytest.mark.parametrize(
    ("lacks", "words"),
    [
        ("CoolantOutlet", r"P0A93-00: no signal battery\.BatteryThermal\.CoolantOutlet"),
        ("chassis.WheelSpeeds", r"U0100-87: no message or bus chassis\.WheelSpeeds"),
        ("body", "B1000-13: no message or bus body"),
    ],
)
def test_what_the_vehicle_lacks_is_named(lacks: str, words: str) -> None:
    car = Car()
    vehicle = car.context.vehicle = Bare()
    vehicle.lacks = lacks
    if lacks == "body":
        vehicle.has = lambda signal: True  # type: ignore[method-assign]  # only the bus is missing
    with pytest.raises(DescriptionError, match=words):
        FaultUnit(car.context)

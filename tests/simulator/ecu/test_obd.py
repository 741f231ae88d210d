"""OBD modes 01 to 0A of motor and gearbox, byte by byte, and what is not answered."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.ecu.description import FOLDER, DescriptionError, load_description, parse_description
from simulator.ecu.dtc_unit import FaultUnit, fault_unit
from simulator.ecu.obd_values import support_masks
from simulator.model.parameters import VIN
from tests.simulator.ecu.support import Bench

COOLANT, PEDAL, OIL = 0x0A9300, 0x212216, 0x02184B
POWER_MODE, READY = "powertrain.VehicleState.PowerMode", "powertrain.VehicleState.ReadyToDrive"
SPEED = "powertrain.VehicleMotion.VehicleSpeed"
DRIVING = {
    SPEED: 83.4,
    READY: 0,
    POWER_MODE: 3,
    "powertrain.Odometer.TotalDistance": 23456.7,
    "body.LowVoltage.BatteryVoltage": 13.7,
    "body.CabinEnvironment.AmbientTemperature": -12.0,
    "battery.PackStatus.StateOfCharge": 50.0,
    "auxiliary.AMB.BarometricPressure": 98.0,
    "powertrain.AcceleratorPedal.PedalPosition": 20.0,
    "powertrain.AcceleratorPedal.PedalVoltage1": 1.45,
    "powertrain.AcceleratorPedal.PedalVoltage2": 0.725,
    "powertrain.InverterStatus.MotorTorque": 155.0,
    "powertrain.InverterTemperatures.PowerModuleTemperature": 61.5,
}


class Car(Bench):
    """An ECU of a car on the road."""

    def __init__(self, ecu: str = "motor") -> None:
        super().__init__(ecu)
        self.vehicle.values.update(DRIVING)
        self.unit: FaultUnit = fault_unit(self.context)
        self.advance(0.2)

    def fail(self, code: int) -> None:
        self.unit.report(code, failed=True)

    def stand(self) -> Car:
        self.vehicle.values[SPEED] = 0.0
        return self


@pytest.fixture
def car() -> Car:
    return Car()


# ---- 01


@pytest.mark.parametrize(
    ("pid", "data"),
    [
        ("00", "80 08 00 13"), ("20", "80 01 A0 01"), ("40", "C4 CC 80 21"), ("60", "E0 00 00 01"),
        ("80", "00 00 00 01"), ("A0", "04 00 00 00"), ("0D", "53"), ("1C", "01"), ("33", "62"), ("42", "35 84"),
        ("46", "1C"), ("49", "33"), ("51", "08"), ("5B", "7F"), ("62", "AF"), ("63", "01 36"), ("A6", "00 03 94 47"),
    ],
)  # fmt: skip
def test_values_of_the_car(car: Car, pid: str, data: str) -> None:
    assert car.one(f"01 {pid}") == f"41 {pid} {data}"
    assert car.one(f"01 {pid}", functional=True) == f"41 {pid} {data}"


def test_up_to_six_pids_in_one_request(car: Car) -> None:
    assert car.one("01 0D 42 1C 46 51 5B") == "41 0D 53 42 35 84 1C 01 46 1C 51 08 5B 7F"
    assert car.one("01 0D 42 1C 46 51 5B 33") == ""
    assert car.one("01 0D 03 42") == "41 0D 53 42 35 84"  # those it has


UNSUPPORTED = (
    "01|01 03|01 E0|02|02 0D|02 0D 01|02 0D 00 42 00 46 00 5B 00|03 00|04 00|05|05 01 00|06|06 07|07 00|08|08 00"
    "|08 01 00|09|09 03|09 02 04|0A 00"
)


@pytest.mark.parametrize("request_", UNSUPPORTED.split("|"))
@pytest.mark.parametrize("functional", [False, True])
def test_what_is_not_supported_is_not_answered(car: Car, request_: str, functional: bool) -> None:
    assert car.ask(request_, functional=functional) == []


def test_every_pid_the_masks_tell_is_answered_and_no_other(car: Car) -> None:
    told = set()
    for base in range(0, 0x100, 0x20):
        answer = bytes.fromhex(car.one(bytes([1, base])))
        if not answer:
            break
        mask = int.from_bytes(answer[2:], "big")
        told |= {base + 32 - bit for bit in range(32) if mask >> bit & 1}
    answered = {pid for pid in range(0x100) if car.one(bytes([1, pid]))}
    assert answered == told | {0}


@given(st.sets(st.integers(1, 0xFF).filter(lambda n: n % 0x20)))
def test_masks_tell_exactly_the_numbers(numbers: set[int]) -> None:
    told, base = set(), 0
    masks = support_masks(numbers)
    while True:
        mask = int.from_bytes(masks[base], "big")
        told |= {base + 32 - bit for bit in range(1, 32) if mask >> bit & 1}
        if not mask & 1:
            break
        base += 0x20
    assert told == numbers
    assert base == max(masks)


def test_lamp_count_and_readiness(car: Car) -> None:
    assert car.one("01 01") == "41 01 00 44 00 00"
    assert car.one("01 41") == "41 41 00 44 00 00"
    car.fail(COOLANT)
    assert car.one("01 01") == "41 01 81 44 00 00"
    for number in car.unit.emissions:
        car.unit.report(number, failed=number == COOLANT)
    assert car.one("01 01") == "41 01 81 04 00 00"
    assert car.one("01 41") == "41 41 00 04 00 00"
    car.unit.begin_cycle()
    assert car.one("01 01") == "41 01 81 04 00 00"
    assert car.one("01 41") == "41 41 00 44 00 00"


def test_distances_and_times_since_clear_and_with_the_lamp(car: Car) -> None:
    car.stand().vehicle.values[READY] = 1
    assert car.one("04") == "44"
    car.vehicle.values["powertrain.Odometer.TotalDistance"] += 10
    car.fail(COOLANT)
    car.vehicle.values["powertrain.Odometer.TotalDistance"] += 5
    car.vehicle.values["powertrain.InverterTemperatures.CoolantFlow"] = 5
    car.advance(121)
    assert car.one("01 21 31 4D 4E") == "41 21 00 05 31 00 0F 4D 00 02 4E 00 02"
    assert car.one("01 1F") == "41 1F 00 79"
    assert car.one("01 30") == "41 30 01"
    assert car.one("04") == "44"
    assert car.one("01 21 30 31 4D 4E") == "41 21 00 00 30 00 31 00 00 4D 00 00 4E 00 00"


# ---- 02


def test_the_freeze_frame_of_the_first_failure(car: Car) -> None:
    assert car.one("02 02 00") == "42 02 00 00 00"
    assert car.one("02 0D 00") == ""
    car.fail(PEDAL)
    car.vehicle.values[SPEED] = 10.0
    car.fail(COOLANT)
    assert car.one("02 02 00") == "42 02 00 21 22"
    assert car.one("02 0D 00 5B 00 42 00") == "42 0D 00 53 5B 00 7F 42 00 35 84"
    assert car.one("02 00 00") == "42 00 00 40 08 00 03"
    assert car.one("02 01 00") == ""
    car.power_cycle()
    assert car.one("02 02 00 0D 00") == "42 02 00 21 22 0D 00 53"


def test_clearing_the_code_of_the_frame_leaves_none_until_the_next_failure(car: Car) -> None:
    car.fail(PEDAL)
    car.fail(COOLANT)
    assert car.one("14 21 22 16") == "54"
    assert car.one("02 02 00") == "42 02 00 00 00"
    car.fail(COOLANT)
    car.advance(1.0)
    assert car.one("02 02 00 0D 00") == "42 02 00 00 00"
    car.vehicle.values[SPEED] = 40.0
    car.fail(PEDAL)
    assert car.one("02 02 00 0D 00") == "42 02 00 21 22 0D 00 28"


# ---- 03, 04, 07, 0A


def test_codes_come_with_their_count(car: Car) -> None:
    assert (car.one("03"), car.one("07"), car.one("0A")) == ("43 00", "47 00", "4A 00")
    car.fail(COOLANT)
    assert (car.one("03"), car.one("07"), car.one("0A")) == ("43 01 0A 93", "47 01 0A 93", "4A 01 0A 93")
    car.fail(PEDAL)  # two trips to confirm
    assert car.one("03") == "43 01 0A 93"
    assert car.one("07") == "47 02 0A 93 21 22"


def test_codes_that_are_not_emissions_related_are_not_told(car: Car) -> None:
    car.fail(0x1A1097)
    assert (car.one("03"), car.one("07")) == ("43 00", "47 00")
    assert car.one("19 02 08") == "59 02 FF 1A 10 97 2F"


def test_04_clears_what_obd_tells_but_not_permanent_codes_and_not_the_others(car: Car) -> None:
    car.fail(COOLANT)
    car.fail(0x1A1097)
    assert car.one("04") == "7F 04 22"  # moving
    car.stand()
    assert car.one("04 00") == ""
    assert car.one("03") == "43 01 0A 93"
    assert car.one("04") == "44"
    assert (car.one("03"), car.one("07"), car.one("0A")) == ("43 00", "47 00", "4A 01 0A 93")
    assert car.one("02 02 00") == "42 02 00 00 00"
    assert car.one("01 01") == "41 01 00 44 00 00"
    assert car.one("19 02 08") == "59 02 FF 1A 10 97 2F"


def test_the_two_clears_are_one(car: Car) -> None:
    car.fail(COOLANT)
    assert car.one("14 FF FF 33") == "54"
    assert (car.one("03"), car.one("07"), car.one("0A")) == ("43 00", "47 00", "4A 01 0A 93")


def test_a_permanent_code_goes_when_the_test_has_passed_a_cycle(car: Car) -> None:
    car.fail(COOLANT)
    car.stand().one("04")
    car.unit.pass_cycle()
    assert car.one("0A") == "4A 01 0A 93"
    car.unit.begin_cycle()
    assert car.one("0A") == "4A 00"


# ---- 06, 09


def test_monitor_results(car: Car) -> None:
    assert car.one("06 00") == "46 00 00 00 00 01"
    assert car.one("06 00 20 C0 E0") == "46 00 00 00 00 01 20 00 00 00 01 C0 00 00 00 01 E0 C0 00 00 00"
    assert car.one("06 E1") == "46 E1 81 16 00 00 00 00 00 00 E1 82 16 00 00 00 00 00 00"
    car.unit.pass_cycle()
    results = car.one("06 E1")
    assert results.startswith("46 E1 81 16 03 F7 00 00 06 0E E1 82 16")
    assert car.one("06 E2") == "46 E2 83 0B 05 AA 01 90 12 5C"
    assert car.one("06 E1 E2") == ""


def test_vehicle_information(car: Car) -> None:
    assert car.one("09 00") == "49 00 55 40 00 00"
    assert bytes.fromhex(car.one("09 02")) == b"\x49\x02\x01" + VIN.encode()
    assert bytes.fromhex(car.one("09 04")) == b"\x49\x04\x01OR1MCSW01010400\x00"
    assert bytes.fromhex(car.one("09 0A")) == b"\x49\x0a\x01ECM\x00-MotorControl\x00\x00\x00"
    assert len(bytes.fromhex(car.one("09 06"))) == 3 + 4
    use = bytes.fromhex(car.one("09 08"))
    assert use[2] == 16
    assert len(use) == 3 + 32


def test_calibration_and_verification_numbers_follow_the_software(car: Car) -> None:
    before = car.one("09 04"), car.one("09 06")
    car.context.override_did(0xF189, b"01.05.00")
    assert bytes.fromhex(car.one("09 04"))[3:] == b"OR1MCSW01010500\x00"
    after = car.one("09 06")
    car.context.memory.write(0x400000, b"\x00")
    assert len({before[1], after, car.one("09 06")}) == 3


def test_two_ecus_tell_of_themselves() -> None:
    gearbox = Car("gearbox")
    gearbox.fail(OIL)
    assert gearbox.one("07") == "47 01 02 18"
    assert bytes.fromhex(gearbox.one("09 0A")) == b"\x49\x0a\x01TCM\x00-ReductionGear\x00\x00"
    assert gearbox.one("01 5B") == ""


@pytest.mark.parametrize("name", ["battery", "body", "brakes", "telematics"])
def test_other_ecus_have_no_obd(name: str) -> None:
    ecu = Bench(name)
    for sid in range(1, 11):
        assert ecu.one(bytes([sid, 0])) == f"7F {sid:02X} 11"
        assert ecu.one(bytes([sid, 0]), functional=True) == ""


def test_no_obd_in_the_boot_loader(car: Car) -> None:
    car.stand()
    car.one("10 03")
    car.one("10 02")
    assert car.one("01 00", functional=True) == ""
    assert car.one("01 00") == "7F 01 11"


@settings(max_examples=150)
@given(st.integers(1, 10), st.binary(max_size=8), st.booleans())
def test_any_request_is_answered_with_its_mode_or_not_at_all(mode: int, data: bytes, functional: bool) -> None:
    for answer in ECU.ask(bytes([mode]) + data, functional=functional):
        assert answer.startswith((f"{mode | 0x40:02X}", "7F 04 22"))


ECU = Car()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('name = "ECM-MotorControl"', 'name = "ECM-MotorControl"\npids = [0x03]', "PID 0x03"),
        ('code = "P0A3C-4B"\nsignal', 'code = "P0A3C-4C"\nsignal', "P0A3C-4C"),
        ('[obd]\nname = "ECM-MotorControl"', "[obd]", "name"),
        ("mid = 0xE1", "mid = 0", "mid"),
    ],
)
def test_obd_descriptions_that_cannot_be(old: str, new: str, words: str) -> None:
    text = (FOLDER / "motor.toml").read_text()
    assert old in text
    with pytest.raises(DescriptionError, match=words):
        Bench(parse_description(text.replace(old, new), "test"))


def test_the_description_tells_all_pids() -> None:
    service = Bench(load_description("motor")).server.services[1]
    told = service.describe()["pids"]
    assert isinstance(told, list)
    assert told[:3] == ["00", "01", "0D"]

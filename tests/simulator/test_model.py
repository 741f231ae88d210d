"""The physical model: conservation, limits, and signals that agree with one another."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from simulator.model.battery import OCV_SOC, OCV_VOLT, Battery
from simulator.model.comfort import Climate, LowVoltage, Tyres
from simulator.model.parameters import BatteryParameters
from simulator.model.route import Route, load_route
from simulator.model.vehicle import STEP_S, Activity, Charge, Gear, Start, Vehicle
from tests.simulator.conftest import MakeSimulation
from tests.simulator.support import series


def drive(route: str, seconds: float, *, seed: int = 1, style: str = "normal", **start: float) -> Vehicle:
    vehicle = Vehicle(load_route(route), Start(**start), seed)  # type: ignore[arg-type]  # numbers by name
    vehicle.begin(Activity(kind="drive", style=style))
    for _ in range(round(seconds / STEP_S)):
        vehicle.step()
    return vehicle


def test_a_drive_begins_with_getting_in_and_ends_parked_and_locked() -> None:
    vehicle = Vehicle(load_route("city"), Start(), 1)
    vehicle.begin(Activity(kind="drive"))
    seen: list[tuple[bool, bool, bool, str]] = []
    for _ in range(3000):
        vehicle.step()
        state = (vehicle.body.doors[0], vehicle.body.belts[0], vehicle.ready, vehicle.gear.name)
        if not seen or seen[-1] != state:
            seen.append(state)
    assert seen == [
        (False, False, False, "P"),
        (True, False, False, "P"),
        (False, False, False, "P"),
        (False, True, False, "P"),
        (False, True, True, "P"),
        (False, True, True, "D"),
    ]
    assert vehicle.drive.speed_m_s > 5
    vehicle.begin(Activity(kind="park"))
    for _ in range(6000):
        vehicle.step()
    assert (vehicle.drive.speed_m_s, vehicle.gear, vehicle.ready) == (0, Gear.P, False)
    assert vehicle.body.locks == [1] * 5
    assert not any(vehicle.body.occupied)
    assert not vehicle.contactors
    assert vehicle.body.alarm_count == 0


def test_a_standing_car_is_ready_in_park_and_does_not_move() -> None:
    vehicle = Vehicle(load_route("city"), Start(), 1)
    vehicle.begin(Activity(kind="stand"))
    for _ in range(1000):
        vehicle.step()
    assert (vehicle.gear, vehicle.ready, vehicle.body.key.name) == (Gear.P, True, "ON")
    assert vehicle.drive.odometer_m == vehicle.start.odometer_km * 1000


def test_a_driving_car_told_to_stand_comes_to_rest_and_stays_ready() -> None:
    vehicle = drive("city", 40)
    assert vehicle.drive.speed_m_s > 1
    vehicle.begin(Activity(kind="stand"))
    for _ in range(4000):
        vehicle.step()
    assert (vehicle.drive.speed_m_s, vehicle.gear, vehicle.ready) == (0, Gear.P, True)


def test_odometer_is_the_integral_of_speed_and_charge_that_of_current() -> None:
    vehicle = Vehicle(load_route("motorway"), Start(soc=0.5), 3)
    vehicle.begin(Activity(kind="drive", style="sporty"))
    begin_m, begin_soc = vehicle.drive.odometer_m, vehicle.battery.soc
    metres = charge_as = 0.0
    for _ in range(6_000):
        before = vehicle.drive.speed_m_s
        vehicle.step()
        metres += 0.5 * (before + vehicle.drive.speed_m_s) * STEP_S
        charge_as += vehicle.battery.current_a * STEP_S
    assert vehicle.drive.odometer_m - begin_m == pytest.approx(metres, abs=1e-6)
    used_as = (begin_soc - vehicle.battery.soc) * vehicle.battery.capacity_ah * 3600
    assert used_as == pytest.approx(charge_as, rel=1e-4)
    assert metres > 900


def test_energy_out_of_the_battery_is_what_the_consumers_took() -> None:
    vehicle = Vehicle(load_route("city"), Start(), 2)
    vehicle.begin(Activity(kind="drive"))
    begin = vehicle.battery.energy_out_kwh - vehicle.battery.energy_in_kwh
    used_j = 0.0
    for _ in range(6_000):
        vehicle.step()
        if vehicle.contactors:
            load = vehicle.low_voltage.converter_w + vehicle.climate.power_w
            load += vehicle.battery.heater_w + vehicle.battery.chiller_w / 2.5
            used_j += (load + (vehicle.drive.electrical_w if vehicle.ready else 0.0)) * STEP_S
    out_kwh = vehicle.battery.energy_out_kwh - vehicle.battery.energy_in_kwh - begin
    assert out_kwh == pytest.approx(used_j / 3.6e6, rel=0.01)
    assert out_kwh > 0.1


def test_consumption_on_the_motorway_is_that_of_a_real_car() -> None:
    vehicle = drive("motorway", 120, soc=0.8, ambient_c=21.0, cabin_c=21.0)
    used = vehicle.battery.energy_out_kwh - vehicle.battery.energy_in_kwh - vehicle.start_energy_kwh
    assert 13 < used / vehicle.drive.trip_m * 1e5 < 30


@pytest.mark.parametrize(("route", "style"), [("city", "normal"), ("city", "sporty"), ("motorway", "calm")])
def test_speed_keeps_to_limits_and_physics(route: str, style: str) -> None:
    vehicle = Vehicle(load_route(route), Start(), 4)
    vehicle.begin(Activity(kind="drive", style=style))
    highest = 0.0
    for _ in range(7_000):
        vehicle.step()
        d = vehicle.drive
        assert 0 <= d.speed_m_s <= vehicle.place.limit_m_s * 1.2 + 3
        assert -9.5 < d.acceleration_m_s2 < 5
        assert abs(d.yaw_rate_rad_s * d.speed_m_s) < 4.5
        assert -d.p.regen_torque_nm - 1 <= d.torque_nm <= d.p.motor_torque_nm + 1
        highest = max(highest, d.speed_m_s)
    assert highest > 12


def test_the_car_stops_at_some_stop_lines() -> None:
    vehicle = Vehicle(load_route("city"), Start(), 6)
    vehicle.begin(Activity(kind="drive"))
    stops, moving = 0, False
    for _ in range(18_000):
        vehicle.step()
        if vehicle.drive.speed_m_s > 3:
            moving = True
        elif moving and vehicle.drive.speed_m_s == 0:
            stops, moving = stops + 1, False
            line = vehicle.route.next_stop_m(vehicle._along_m)
            assert line < 6, "it stands at a line"
    assert stops >= 2


def test_the_same_seed_is_the_same_drive_and_another_is_not() -> None:
    a, b, c = drive("city", 40, seed=9), drive("city", 40, seed=9), drive("city", 40, seed=10)
    assert a.drive.odometer_m == b.drive.odometer_m
    assert a.battery.soc == b.battery.soc
    assert a.battery.cell_v.tolist() == b.battery.cell_v.tolist()
    assert a.drive.odometer_m != c.drive.odometer_m


def test_signals_agree_with_each_other_on_the_bus(simulate: MakeSimulation) -> None:
    """What is sent, decoded again: the redundancy a detector would look for is there."""
    frames = simulate("motorway").advance(25_000_000_000)
    t, speed = series(frames, "powertrain.VehicleMotion.VehicleSpeed")
    _, odometer = series(frames, "powertrain.Odometer.TotalDistance")
    metres = float(np.sum((speed[1:] + speed[:-1]) / 2 / 3.6 * np.diff(t)))
    assert odometer[-1] * 1000 - odometer[0] * 1000 == pytest.approx(metres, rel=0.01)
    tw, rear_left = series(frames, "chassis.WheelSpeeds.WheelSpeedRearLeft")
    _, rear_right = series(frames, "chassis.WheelSpeeds.WheelSpeedRearRight")
    body = np.interp(tw, t, speed)
    assert np.abs((rear_left + rear_right) / 2 - body).max() < 0.02 * body.max() + 0.6
    ty, yaw = series(frames, "chassis.VehicleDynamics.YawRate")
    by_wheels = np.interp(ty, tw, (rear_right - rear_left) / 3.6 / 1.58)
    assert np.abs(np.degrees(by_wheels) - yaw).max() < 0.6
    _, rpm = series(frames, "powertrain.InverterStatus.MotorSpeed")
    ti, _ = series(frames, "powertrain.InverterStatus.MotorSpeed")
    assert rpm == pytest.approx(np.interp(ti, t, speed) / 3.6 / 0.345 * 9.6 * 60 / 2 / math.pi, abs=40)
    _, gnss = series(frames, "chassis.GnssMotion.GroundSpeed")
    assert gnss.max() == pytest.approx(speed.max(), abs=0.5)


def test_pack_voltage_is_the_sum_of_the_cells_on_the_bus(simulate: MakeSimulation) -> None:
    frames = simulate("motorway").advance(8_000_000_000)
    tp, pack = series(frames, "battery.PackStatus.PackVoltage")
    cells = [series(frames, f"battery.CellVoltages.CellVoltage{i:02d}") for i in range(1, 97)]
    total = sum(np.interp(tp[200:600], t, v) for t, v in cells)
    assert total == pytest.approx(pack[200:600], abs=4.0)
    assert np.median(np.abs(np.asarray(total) - pack[200:600])) < 0.6
    _, mean = series(frames, "battery.CellStatistics.CellVoltageMean")
    assert mean[-1] * 96 == pytest.approx(pack[-1], abs=0.5)


def test_position_moves_as_fast_as_the_car(simulate: MakeSimulation) -> None:
    frames = simulate("motorway").advance(30_000_000_000)
    t, latitude = series(frames, "chassis.GnssPosition.Latitude")
    _, longitude = series(frames, "chassis.GnssPosition.Longitude")
    north = np.diff(latitude) * 111_320
    east = np.diff(longitude) * 111_320 * math.cos(math.radians(50))
    by_position = np.hypot(north, east) / np.diff(t) * 3.6
    ts, speed = series(frames, "powertrain.VehicleMotion.VehicleSpeed")
    assert np.abs(np.convolve(by_position, np.ones(10) / 10, "valid")[50:] - np.interp(t[55:-5], ts, speed)).max() < 6
    _, j1939 = series(frames, "auxiliary.VP.Latitude")
    assert j1939[-1] == pytest.approx(latitude[-1], abs=1e-3)


def charge(kind: str, power_w: float, *, soc: float, target: float, seconds: float, battery_c: float = 25.0) -> Vehicle:
    vehicle = Vehicle(load_route("city"), Start(soc=soc, battery_c=battery_c), 1)
    vehicle.begin(Activity(kind="charge", charge=kind, charge_power_w=power_w, target_soc=target))
    for _ in range(round(seconds / STEP_S)):
        vehicle.step()
        assert vehicle.battery.cell_v.max() <= vehicle.battery.p.cell_voltage_max_v + 0.01
        assert vehicle.battery.current_a >= -(vehicle.battery.p.charge_c_rate * vehicle.battery.capacity_ah) - 1
    return vehicle


def test_charging_stops_at_the_target_and_opens_the_contactors() -> None:
    vehicle = charge("dc", 150_000, soc=0.615, target=0.62, seconds=60)
    assert vehicle.charge_state == Charge.COMPLETE
    assert vehicle.battery.soc == pytest.approx(0.62, abs=1e-3)
    assert not vehicle.contactors
    assert vehicle.plugged == "dc"


def test_full_cells_are_charged_at_constant_voltage_with_falling_current() -> None:
    vehicle = Vehicle(load_route("city"), Start(soc=0.97, battery_c=25.0), 1)
    vehicle.begin(Activity(kind="charge", charge="dc", charge_power_w=150_000, target_soc=1.0))
    currents, highest = [], []
    for step in range(8_000):
        vehicle.step()
        if vehicle.charge_state == Charge.CONSTANT_VOLTAGE and step % 500 == 0:
            currents.append(-vehicle.battery.current_a)
            highest.append(float(vehicle.battery.cell_v.max()))
    assert len(currents) > 8
    assert all(b < a for a, b in itertools.pairwise(currents[1:]))
    assert min(highest) > 4.17
    assert max(highest) < 4.185


def test_charging_ends_when_hardly_any_current_flows() -> None:
    vehicle = Vehicle(load_route("city"), Start(soc=0.985, battery_c=25.0), 1)
    vehicle.begin(Activity(kind="charge", charge="dc", charge_power_w=150_000, target_soc=1.0))
    for _ in range(1_500):
        vehicle.step()
    assert vehicle.charge_state == Charge.COMPLETE


def test_ac_charging_takes_no_more_than_the_wall_gives() -> None:
    vehicle = charge("ac", 11_000, soc=0.4, target=0.8, seconds=30)
    assert vehicle.charge_state == Charge.CONSTANT_CURRENT
    assert 9_000 < -vehicle.battery.current_a * vehicle.battery.voltage_v <= 11_000


def test_a_cold_battery_charges_slowly_and_warms() -> None:
    cold = charge("dc", 120_000, soc=0.4, target=0.8, seconds=30, battery_c=-5.0)
    warm = charge("dc", 120_000, soc=0.4, target=0.8, seconds=30, battery_c=25.0)
    assert -cold.battery.current_a < -warm.battery.current_a / 2
    assert cold.battery.heater_w > 0


def test_ageing_fades_capacity_and_raises_resistance() -> None:
    rng = np.random.default_rng(1)
    battery = Battery(BatteryParameters(), rng, soc=0.9, temperature_c=25, cycles=0)
    resistance, soh = battery.resistance_ohm, battery.soh
    for _ in range(20):
        for current in (170.0, -170.0):
            for _ in range(120):
                battery.step(20.0, current)
                battery.sensor_c[:] = 25.0
    assert battery.equivalent_cycles == pytest.approx(20 * 2 * 2400 * 170 / 3600 / 2 / 170, rel=1e-6)
    fade = soh - battery.soh
    expected = BatteryParameters().fade_per_cycle * battery.equivalent_cycles
    assert expected < fade < expected * 1.6
    battery._refresh()
    assert battery.resistance_ohm == pytest.approx(resistance * (1 + 2.2 * fade), rel=0.05)
    aged = Battery(BatteryParameters(), np.random.default_rng(1), soc=0.9, temperature_c=25, cycles=1000)
    assert aged.soh == pytest.approx(1 - 0.135)


def test_voltage_sags_under_load_and_recovers() -> None:
    battery = Battery(BatteryParameters(), np.random.default_rng(1), soc=0.6, temperature_c=25, cycles=0)
    battery.step(0.01, 0.0)
    rest = battery.voltage_v
    for _ in range(1000):
        battery.step(0.01, 200.0)
    loaded = battery.voltage_v
    for _ in range(12_000):
        battery.step(0.01, 0.0)
    assert rest - loaded > 200 * 0.08 * 0.9
    assert loaded < battery.voltage_v < rest


def test_ocv_rises_with_charge() -> None:
    assert np.all(np.diff(OCV_SOC) > 0)
    assert np.all(np.diff(OCV_VOLT) > 0)


def test_an_empty_battery_lets_the_car_roll_to_a_stop() -> None:
    vehicle = drive("motorway", 120, soc=0.0022, ambient_c=20.0)
    assert vehicle.battery.soc < 0.0021
    assert not vehicle.ready
    assert vehicle.drive.speed_m_s < 40
    assert np.isfinite(vehicle.battery.voltage_v)
    assert np.isfinite(vehicle.battery.cell_v).all()


def test_climate_reaches_the_setpoint_and_holds_it() -> None:
    for ambient in (-8.0, 36.0):
        climate = Climate(ambient, ambient, 400.0)
        climate.on, climate.setpoint_c = True, 21.0
        for _ in range(12_000):
            climate.step(0.1, allowed=True, occupants=2, speed_m_s=10)
        assert climate.cabin_c == pytest.approx(21.0, abs=1.6)
        assert 0 < climate.power_w < 5000
        climate.step(0.1, allowed=False, occupants=2, speed_m_s=10)
        for _ in range(600):
            climate.step(0.1, allowed=False, occupants=2, speed_m_s=10)
        assert climate.power_w == 0


def test_the_12_volt_battery_drains_without_its_converter_and_recovers_with_it() -> None:
    low = LowVoltage(0.8, 20)
    for _ in range(3600):
        low.step(1.0, 300.0, converter=False)
    drained = low.soc
    assert drained == pytest.approx(0.8 - 300 / 12.3 / 60, abs=0.03)
    for _ in range(3600):
        low.step(1.0, 300.0, converter=True)
    assert low.soc > drained + 0.1
    assert 13 < low.voltage_v < 15


def test_tyres_follow_the_gas_law_and_leak() -> None:
    tyres = Tyres(20.0, 250.0)
    assert tyres.pressure_kpa(0) == pytest.approx(250)
    for _ in range(40_000):
        tyres.step(0.1, 20.0, 30.0)
    assert tyres.temperature_c[2] == pytest.approx(20 + 0.55 * 30, abs=0.5)
    assert tyres.pressure_kpa(2) == pytest.approx((250 + 101.3) * (tyres.temperature_c[2] + 273.15) / 293.15 - 101.3)
    tyres.leak_kpa_per_s[1] = 1.0
    for _ in range(10_000):
        tyres.step(0.1, 20.0, 30.0)
    assert tyres.pressure_kpa(1) < 30
    assert tyres.pressure_kpa(0) > 240


@pytest.mark.parametrize("name", ["city", "motorway"])
def test_routes_are_closed_and_smooth(name: str) -> None:
    route = load_route(name)
    before = route.at(0.0)
    for metre in range(1, int(route.length_m) + 5):
        place = route.at(float(metre))
        step = math.hypot(
            (place.latitude - before.latitude) * 111_320,
            (place.longitude - before.longitude) * 111_320 * math.cos(math.radians(place.latitude)),
        )
        assert step < 1.6, metre
        turn = (place.heading_rad - before.heading_rad + math.pi) % (2 * math.pi) - math.pi
        assert abs(turn) < 0.12, metre
        assert abs(place.altitude_m - before.altitude_m) < 0.2
        assert before.advised_m_s - place.advised_m_s < 0.5, "braking is announced in time"
        before = place
    assert route.at(route.length_m + 17.0) == route.at(17.0)


def test_a_bad_route_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 8 points"):
        Route("x", np.zeros((3, 4)), [])
    with pytest.raises(ValueError, match="at least 400 m"):
        Route("x", np.zeros((9, 4)), [])
    with pytest.raises(ValueError, match="finite"):
        Route("x", np.full((9, 4), math.nan), [])
    with pytest.raises(ValueError, match="no route 'nowhere'; there are city, motorway"):
        load_route("nowhere")

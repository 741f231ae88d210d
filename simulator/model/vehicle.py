"""The whole car: activities (drive, park, charge), and the parts stepped together under one energy balance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from simulator.model.battery import Battery
from simulator.model.body import Body, Inhibit, Key
from simulator.model.comfort import Climate, LowVoltage, Tyres
from simulator.model.drive import Drive
from simulator.model.driver import STYLES, Driver
from simulator.model.parameters import BatteryParameters, VehicleParameters
from simulator.model.route import Place, Route

STEP_S = 0.01


class Gear(IntEnum):
    """The gear engaged, as in the value table of ``Gear``."""

    P = 0
    R = 1
    N = 2
    D = 3
    B = 4


class Charge(IntEnum):
    """State of charging, as in the value table of ``ChargerState``."""

    IDLE = 0
    CONNECTED = 1
    PRECHARGE = 2
    CONSTANT_CURRENT = 3
    CONSTANT_VOLTAGE = 4
    COMPLETE = 5
    FAULT = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """What the car is to do from now on."""

    kind: str  # drive, stand (in P, ready), park, charge
    style: str = "normal"
    charge: str = "ac"
    charge_power_w: float = 11_000.0
    target_soc: float = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The state the simulation begins with."""

    soc: float = 0.72
    cycles: float = 140.0
    odometer_km: float = 23_450.0
    ambient_c: float = 14.0
    cabin_c: float = 14.0
    battery_c: float = 16.0
    setpoint_c: float = 21.0
    sun_w_m2: float = 250.0
    rain: float = 0.0
    dark: bool = False
    tyre_kpa: float = 250.0
    low_voltage_soc: float = 0.9
    distance_m: float = 0.0
    occupants: int = 1


#: (seconds after the activity began, what happens). Driving off needs a parked car, leaving a standing one.
DRIVE_SEQUENCE = (
    (0.2, "unlock"),
    (1.0, "open"),
    (2.4, "sit"),
    (3.4, "close"),
    (4.2, "belt"),
    (4.8, "ignition"),
    (5.6, "ready"),
    (6.4, "gear"),
)
PARK_SEQUENCE = (
    (0.8, "park"),
    (2.0, "off"),
    (2.8, "unbelt"),
    (3.4, "open"),
    (4.6, "leave"),
    (5.4, "close"),
    (7.0, "lock"),
)
CHARGE_SEQUENCE = (*PARK_SEQUENCE, (9.0, "plug"), (10.5, "handshake"), (12.0, "precharge"), (13.5, "charge"))


class Vehicle:
    """State of the car. ``step`` advances by ``STEP_S``; ``begin`` changes what it does."""

    def __init__(self, route: Route, start: Start, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.route = route
        self.start = start
        self.p = VehicleParameters()
        self.time_s = 0.0
        self.steps = 0
        self.battery = Battery(
            BatteryParameters(), rng, soc=start.soc, temperature_c=start.battery_c, cycles=start.cycles
        )
        self.battery.ambient_c = start.ambient_c
        self.drive = Drive(self.p, start.odometer_km * 1000)
        for name in ("stator_c", "rotor_c", "module_c", "oil_c", "coolant_c", "radiator_c"):
            setattr(self.drive, name, start.ambient_c)
        self.climate = Climate(start.cabin_c, start.ambient_c, start.sun_w_m2)
        self.climate.setpoint_c = start.setpoint_c
        self.low_voltage = LowVoltage(start.low_voltage_soc, start.ambient_c)
        self.tyres = Tyres(start.ambient_c, start.tyre_kpa)
        self.body = Body()
        self.body.rain = start.rain
        self._rng = rng
        self._noise: list[float] = rng.normal(0, 1, 4099).tolist()
        self._noise_at = 0
        self.driver = Driver(STYLES["normal"], rng)
        self._route_offset_m = start.distance_m
        self.place: Place = route.at(start.distance_m)
        self.gear = Gear.P
        self.lever = Gear.P
        self.ready = False
        self.activity = Activity(kind="park")
        self.charging = Activity(kind="charge")  # as it was when the plug went in
        self._sequence: list[tuple[float, str]] = []
        self._sequence_began_s = 0.0
        self.plugged = ""
        self.charge_state = Charge.IDLE
        self.charge_w = 0.0
        self.charge_request_a = 0.0
        self.session_kwh = 0.0
        self.session_s = 0.0
        self.driving_s = 0.0
        self.start_energy_kwh = self.battery.energy_out_kwh - self.battery.energy_in_kwh
        self.contactors = False
        self.contactor_cycles = round(start.cycles * 6)
        self.fast_charges = round(start.cycles / 12)
        self.coolant_pump_works = True
        self.brake_pedal = 0.0
        self.charge_limit_a = self.battery.charge_limit_a()
        self.discharge_limit_a = self.battery.discharge_limit_a()
        #: Active trouble codes: suspect parameter number, failure mode, occurrences.
        self.troubles: list[tuple[int, int, int]] = []
        self.limp_home = False

    @property
    def power_limit_w(self) -> float:
        """Highest drive power that battery and faults allow."""
        volts = max(200.0, self.battery.voltage_v)
        return self.discharge_limit_a * volts * (0.25 if self.limp_home else 1.0)

    def change_route(self, route: Route) -> None:
        """Continue on another road from its start; the odometer goes on."""
        self.route = route
        self._route_offset_m = self.start.odometer_km * 1000 - self.drive.odometer_m

    def noise(self) -> float:
        """A standard normal number from a fixed table: sensor noise that costs next to nothing."""
        self._noise_at = (self._noise_at + 1) % 4099
        return self._noise[self._noise_at]

    @property
    def _along_m(self) -> float:
        """Distance along the route."""
        return self._route_offset_m + self.drive.odometer_m - self.start.odometer_km * 1000

    # ---- activities

    def begin(self, activity: Activity) -> None:
        """Do something else from now on; a moving car first comes to rest at the roadside."""
        self.activity = activity
        self.driver.style = STYLES[activity.style]
        self._sequence_began_s = math.nan
        if activity.kind == "drive":
            self._sequence = [] if self.gear == Gear.D else list(DRIVE_SEQUENCE)
        elif activity.kind == "stand":
            getting_in = [step for step in DRIVE_SEQUENCE if step[1] != "gear"]
            self._sequence = [PARK_SEQUENCE[0]] if self.gear == Gear.D else getting_in
        elif activity.kind == "charge":
            self._sequence = list(CHARGE_SEQUENCE)
        else:
            self._sequence = list(PARK_SEQUENCE)
        if self.gear == Gear.P and not self.body.occupied[0]:
            self._sequence = [s for s in self._sequence if activity.kind in ("drive", "stand") or s[1] in _CHARGE_ONLY]
            if activity.kind == "charge":
                self._sequence = [(t - 8.5, s) for t, s in self._sequence]

    def drive_at_once(self) -> None:
        """Skip getting in: driver seated, ready, in D. For scenarios that begin on the road."""
        for _, action in DRIVE_SEQUENCE:
            self._act(action)
        self._sequence = []
        self.body.set_locks(True)

    def _run_sequence(self) -> None:
        if not self._sequence or (self.activity.kind != "drive" and self.drive.speed_m_s > 0):
            return
        if math.isnan(self._sequence_began_s):
            self._sequence_began_s = self.time_s
        while self._sequence and self.time_s - self._sequence_began_s >= self._sequence[0][0]:
            self._act(self._sequence.pop(0)[1])

    def _act(self, action: str) -> None:
        body = self.body
        if action == "unlock":
            body.set_locks(False)
            self._unplug()
        elif action == "open":
            body.doors[0] = True
        elif action == "sit":
            for i in range(self.start.occupants):
                body.occupied[i] = True
            body.key_in_cabin = True
        elif action == "close":
            body.doors[0] = False
        elif action in ("belt", "unbelt"):
            for i in range(self.start.occupants):
                body.belts[i] = action == "belt"
        elif action == "ignition":
            body.key, body.immobiliser = Key.ON, 1
            body.remote_start = False
            self.climate.on = True
        elif action == "ready":
            self._close_contactors()
            self.ready, self.driving_s, self.drive.trip_m = True, 0.0, 0.0
            self.start_energy_kwh = self.battery.energy_out_kwh - self.battery.energy_in_kwh
        elif action == "gear":
            self.gear = self.lever = Gear.D
            body.set_locks(True)
        elif action == "park":
            self.gear = self.lever = Gear.P
        else:
            self._act_leaving(action)

    def _act_leaving(self, action: str) -> None:
        body = self.body
        if action == "off":
            body.key, self.ready, self.climate.on, body.immobiliser = Key.OFF, False, False, 0
            body.set_locks(False)
        elif action == "leave":
            body.occupied = [False] * 4
            body.key_in_cabin = False
        elif action == "lock":
            body.set_locks(True)
        elif action == "plug":
            body.flap, self.plugged, self.charging = True, self.activity.charge, self.activity
            self.charge_state, self.session_kwh, self.session_s = Charge.CONNECTED, 0.0, 0.0
            self.fast_charges += self.plugged == "dc"
        elif action == "precharge":
            self.charge_state = Charge.PRECHARGE
            self._close_contactors()
        elif action == "charge":
            self.charge_state = Charge.CONSTANT_CURRENT

    def _close_contactors(self) -> None:
        if not self.contactors:
            self.contactors = True
            self.contactor_cycles += 1

    def _unplug(self) -> None:
        self.plugged, self.charge_state, self.charge_w, self.body.flap = "", Charge.IDLE, 0.0, False
        self.charge_request_a = 0.0

    def start_inhibit(self) -> Inhibit:
        """Why a remote start would be refused now."""
        if self.drive.speed_m_s > 0.1:
            return Inhibit.MOVING
        if self.gear != Gear.P or self.ready:
            return Inhibit.NOT_IN_PARK
        if self.body.any_door_open:
            return Inhibit.DOOR_OPEN
        if self.plugged:
            return Inhibit.CHARGING
        return Inhibit.BATTERY_LOW if self.battery.soc < 0.12 else Inhibit.NONE

    # ---- time

    def step(self) -> None:
        """Advance by ``STEP_S``."""
        self.steps += 1
        self.time_s = self.steps * STEP_S
        self._run_sequence()
        battery, drive = self.battery, self.drive
        before_m = drive.odometer_m
        self.place = self.route.at(self._along_m)
        moving_allowed = self.activity.kind == "drive" and self.ready and self.gear == Gear.D
        advised = self.place.advised_m_s
        if self.body.valet and self.body.valet_limit_kmh:
            advised = min(advised, self.body.valet_limit_kmh / 3.6)
        demand = self.driver.demand_m_s2(
            STEP_S, self._along_m, drive.speed_m_s, self.route, advised, drive=moving_allowed
        )
        held = drive.speed_m_s < 0.05 and (demand < 0 or not moving_allowed)
        drive.press_pedals(demand, self.place.grade, held=held and self.ready)
        if not self.ready:
            drive.pedal = drive.brake_demand_m_s2 = 0.0
        self.brake_pedal = min(1.0, max(0.0, drive.brake_demand_m_s2 - 0.6) / 8.0)
        drive.step(
            STEP_S,
            self.place,
            ready=self.ready and self.gear == Gear.D,
            power_limit_w=self.power_limit_w,
            regen_limit_w=self.charge_limit_a * battery.voltage_v,
        )
        if self.steps % 10 == 0:
            self._step_slow(10 * STEP_S)
        self._balance_energy()
        dark = self.start.dark or self.start.rain > 0.3
        self.body.step(self.time_s, ignition=self.body.key >= Key.ON, dark=dark, moved_m=drive.odometer_m - before_m)
        self._indicate()
        if self.ready:
            self.driving_s += STEP_S

    def _balance_energy(self) -> None:
        battery = self.battery
        if not self.contactors:
            self.charge_w = 0.0
            battery.step(STEP_S, 0.0)
            return
        load_w = self.low_voltage.converter_w + self.climate.power_w + battery.heater_w + battery.chiller_w / 2.5
        if self.ready:
            load_w += self.drive.electrical_w
        charging_a = self._charging_current() if self.plugged else 0.0
        if charging_a > 0:
            current = -charging_a
            self.charge_w = charging_a * battery.voltage_v + load_w
            self.session_kwh += charging_a * battery.voltage_v * STEP_S / 3.6e6
        else:
            self.charge_w = 0.0
            current = battery.current_for(load_w)
        battery.step(STEP_S, max(-600.0, min(600.0, current)))
        if self.plugged:
            self.session_s += STEP_S

    def _charging_current(self) -> float:
        """Constant current (by the battery's or the station's limit), then constant voltage, then done."""
        battery = self.battery
        if self.charge_state not in (Charge.CONSTANT_CURRENT, Charge.CONSTANT_VOLTAGE):
            return 0.0
        station_w = self.charging.charge_power_w * (0.93 if self.plugged == "ac" else 1.0)
        if battery.soc >= self.charging.target_soc - 1e-6:
            self.charge_state, self.charge_request_a = Charge.COMPLETE, 0.0
            return 0.0
        wanted = min(station_w / battery.voltage_v, self.charge_limit_a, battery.voltage_limit_a())
        by_voltage = battery.voltage_limit_a() <= wanted + 1e-9
        self.charge_state = Charge.CONSTANT_VOLTAGE if by_voltage else Charge.CONSTANT_CURRENT
        if by_voltage and wanted < battery.capacity_ah / 25:
            self.charge_state, self.charge_request_a = Charge.COMPLETE, 0.0
            return 0.0
        rise = 40.0 * STEP_S
        self.charge_request_a = min(wanted, self.charge_request_a + rise)
        return self.charge_request_a

    def _step_slow(self, dt_s: float) -> None:
        battery, body = self.battery, self.body
        charging = self.charge_state in (Charge.CONSTANT_CURRENT, Charge.CONSTANT_VOLTAGE)
        needs_high_voltage = (
            self.ready or body.remote_start or self.charge_state not in (Charge.IDLE, Charge.COMPLETE, Charge.CONNECTED)
        )
        if body.climate_requested and not needs_high_voltage and battery.soc > 0.12:
            needs_high_voltage = True
        if needs_high_voltage:
            self._close_contactors()
        else:
            self.contactors = False
        if battery.soc < 0.002 and not self.plugged:
            self.contactors = self.ready = False  # empty: the car rolls to a stop
        if body.climate_setpoint_c is not None:
            self.climate.setpoint_c, body.climate_setpoint_c = body.climate_setpoint_c, None
        wanted = (
            body.climate_requested if body.climate_requested is not None else body.key >= Key.ON or body.remote_start
        )
        self.climate.on = bool(wanted)
        self.climate.step(dt_s, allowed=self.contactors, occupants=sum(body.occupied), speed_m_s=self.drive.speed_m_s)
        battery.cooling_available = self.coolant_pump_works
        battery.control_temperature(active=self.ready or charging, charging=charging)
        battery.balance(allowed=self.contactors)
        self.drive.step_thermal(dt_s, self.start.ambient_c, active=self.ready, pump_works=self.coolant_pump_works)
        self.tyres.step(dt_s, self.start.ambient_c, self.drive.speed_m_s)
        self.charge_limit_a = battery.charge_limit_a()
        self.discharge_limit_a = battery.discharge_limit_a()
        self._diagnose()
        lights = 110 * body.low_beam + 25 * body.daytime + 20 * body.interior + 42 * body.hazard
        consumers = 8.0 + (self.p.base_load_w if body.key >= Key.ON else 60.0 if self.contactors else 0.0)
        consumers += lights + 180 * self.climate.blower + 60 * body.horn + 45 * (body.wiper_mode > 0)
        self.low_voltage.step(dt_s, consumers, converter=self.contactors)

    def _diagnose(self) -> None:
        found = []
        if any(self.tyres.pressure_kpa(i) < 190 for i in range(4)):
            found.append((241, 17))
        if not self.coolant_pump_works and self.ready:
            found.append((111, 7))
        if not self.low_voltage.converter_works:
            found.append((168, 1))
        if float(self.battery.cell_v.max() - self.battery.cell_v.min()) > 0.12:
            found.append((520_192, 16))
        if self.battery.temperature_c > 52 or self.drive.module_c > 115:
            found.append((110, 0))
        counts = {(spn, fmi): count for spn, fmi, count in self.troubles}
        self.troubles = [(spn, fmi, counts.get((spn, fmi), 1)) for spn, fmi in found]
        self.limp_home = any(spn in (110, 520_192) for spn, _ in found)

    def _indicate(self) -> None:
        body, steering = self.body, math.degrees(self.drive.steering_rad)
        turning = self.ready and self.drive.speed_m_s < 14 and abs(steering) > 60
        ahead = self.route.at(self._along_m + 25).curvature if self.steps % 50 == 0 else None
        if turning:
            body.indicator = 1 if steering > 0 else 2
        elif ahead is not None:
            sharp = self.ready and abs(ahead) > 0.03 and self.drive.speed_m_s < 14
            body.indicator = (1 if ahead > 0 else 2) if sharp else 0


_CHARGE_ONLY = {"plug", "handshake", "precharge", "charge"}

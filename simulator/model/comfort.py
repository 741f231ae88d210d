"""Everything around the drive: cabin and climate, the 12 V system, tyres."""

from __future__ import annotations

import math


class Climate:
    """Cabin air and the power it takes to keep it where the occupants want it."""

    def __init__(self, cabin_c: float, ambient_c: float, sun_w_m2: float) -> None:
        self.cabin_c = cabin_c
        self.ambient_c = ambient_c
        self.sun_w_m2 = sun_w_m2
        self.humidity = 45.0
        self.setpoint_c = 21.0
        self.on = False
        self.blower = 0.0
        self.compressor_w = 0.0
        self.heater_w = 0.0
        self.evaporator_c = ambient_c
        self.recirculation = False

    @property
    def power_w(self) -> float:
        """High-voltage power drawn."""
        return self.compressor_w + self.heater_w

    def step(self, dt_s: float, *, allowed: bool, occupants: int, speed_m_s: float) -> None:
        """Advance cabin and control; called a few times a second."""
        error = self.setpoint_c - self.cabin_c
        run = self.on and allowed
        demand_w = error * 900 + (self.setpoint_c - self.ambient_c) * 50 - 1.1 * self.sun_w_m2 if run else 0.0
        want_heat = min(5000.0, max(0.0, demand_w))
        want_cool = min(4500.0, max(0.0, -demand_w))
        ramp = min(1.0, dt_s / 4.0)
        self.heater_w += (want_heat - self.heater_w) * ramp
        self.compressor_w += (want_cool / 2.4 - self.compressor_w) * ramp
        if self.heater_w < 15 and want_heat == 0:
            self.heater_w = 0.0
        if self.compressor_w < 15 and want_cool == 0:
            self.compressor_w = 0.0
        blower = min(1.0, 0.25 + abs(error) * 0.08) if run else 0.0
        self.blower += (blower - self.blower) * min(1.0, dt_s / 2.0)
        self.recirculation = run and abs(error) > 8
        through_w = (45 + 1.2 * speed_m_s) * (self.ambient_c - self.cabin_c)
        gain_w = self.heater_w - self.compressor_w * 2.4 + through_w + 1.1 * self.sun_w_m2 + 75 * occupants
        self.cabin_c += gain_w * dt_s / 95_000
        target = max(3.0, self.cabin_c - 14) if self.compressor_w > 50 else self.cabin_c
        self.evaporator_c += (target - self.evaporator_c) * min(1.0, dt_s / 25)
        dry = 38.0 if self.compressor_w > 50 else 48.0 + 3.0 * occupants
        self.humidity += (dry - self.humidity) * min(1.0, dt_s / 240)


class LowVoltage:
    """The 12 V battery and its converter. Positive current charges the battery."""

    def __init__(self, soc: float, temperature_c: float) -> None:
        self.soc = soc
        self.temperature_c = temperature_c
        self.capacity_ah = 60.0
        self.voltage_v = 12.6
        self.current_a = 0.0
        self.load_a = 1.0
        self.converter_a = 0.0
        self.converter_on = False
        self.converter_c = temperature_c
        self.converter_works = True

    @property
    def converter_w(self) -> float:
        """High-voltage power into the converter, its losses included."""
        return self.converter_a * self.voltage_v / 0.93 + (18.0 if self.converter_on else 0.0)

    def step(self, dt_s: float, load_w: float, *, converter: bool) -> None:
        """Advance by ``dt_s`` under ``load_w`` of consumers."""
        self.converter_on = converter and self.converter_works
        rest_v = 11.6 + 1.25 * self.soc
        resistance = 0.012
        if self.converter_on:
            target_v = 14.4 if self.soc < 0.9 else 13.7
            charge_a = min(40.0, (target_v - rest_v) / resistance * max(0.0, 1 - self.soc) * 2)
            self.voltage_v = target_v
            self.load_a = load_w / self.voltage_v
            self.current_a = charge_a
            self.converter_a = self.load_a + charge_a
        else:
            self.load_a = load_w / max(8.0, self.voltage_v)
            self.current_a = -self.load_a
            self.converter_a = 0.0
            self.voltage_v = max(6.0, rest_v - self.load_a * resistance)
        self.soc = min(1.0, max(0.0, self.soc + self.current_a * dt_s / 3600 / self.capacity_ah))
        self.converter_c += (self.converter_a * 0.35 - (self.converter_c - self.temperature_c)) * dt_s / 400


class Tyres:
    """Four tyres: pressure by the gas law, warmth from driving, leaks."""

    def __init__(self, ambient_c: float, pressure_kpa: float) -> None:
        self.temperature_c = [ambient_c] * 4
        self._absolute_at_20_kpa = [pressure_kpa + 101.3] * 4
        self.leak_kpa_per_s = [0.0] * 4

    def pressure_kpa(self, wheel: int) -> float:
        """Pressure over ambient."""
        absolute = self._absolute_at_20_kpa[wheel] * (self.temperature_c[wheel] + 273.15) / 293.15
        return max(0.0, absolute - 101.3)

    def step(self, dt_s: float, ambient_c: float, speed_m_s: float) -> None:
        """Advance; called a few times a second."""
        for i in range(4):
            warm = ambient_c + 0.55 * speed_m_s * (1.04 if i < 2 else 1.0)
            self.temperature_c[i] += (warm - self.temperature_c[i]) * dt_s / 600
            # Below ambient pressure nothing leaks any more.
            left = self._absolute_at_20_kpa[i] - self.leak_kpa_per_s[i] * dt_s
            self._absolute_at_20_kpa[i] = max(101.3 * 293.15 / 323.15, left) if not math.isnan(left) else 101.3

"""The traction battery: open-circuit voltage, resistance, charge, temperatures, spread of the cells, ageing.

All cells carry the pack's current; they differ a little in capacity, resistance and charge, which is what the cell
voltages show. Positive current discharges. The terminal voltage is the sum of the cell voltages by construction, and
the state of charge is the integral of the current over the present capacity.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from simulator.model.parameters import BatteryParameters

Floats = NDArray[np.float64]

OCV_SOC = np.array([0.0, 0.03, 0.08, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.93, 1.0])
OCV_VOLT = np.array([3.00, 3.28, 3.44, 3.52, 3.58, 3.62, 3.66, 3.72, 3.81, 3.91, 4.01, 4.10, 4.19])
#: Charge current limit against charge, as a share of the highest.
CHARGE_SOC = (0.0, 0.1, 0.45, 0.6, 0.8, 0.9, 1.0)
CHARGE_SHARE = (0.6, 1.0, 1.0, 0.75, 0.42, 0.22, 0.06)


class Battery:
    """State of the pack; ``step`` advances it."""

    def __init__(
        self,
        parameters: BatteryParameters,
        rng: np.random.Generator,
        *,
        soc: float,
        temperature_c: float,
        cycles: float,
    ) -> None:
        p = self.p = parameters
        self.soc = soc
        self.soh = max(0.6, 1.0 - p.fade_per_cycle * cycles)
        self.current_a = 0.0
        self.rc_v = 0.0
        self.charge_out_ah = cycles * p.capacity_ah
        self.charge_in_ah = cycles * p.capacity_ah
        nominal_kwh = p.capacity_ah * p.cells * 3.72 / 1000
        self.energy_out_kwh = cycles * nominal_kwh
        self.energy_in_kwh = cycles * nominal_kwh * 1.04
        self.cell_capacity_share: Floats = 1.0 + np.clip(rng.normal(0, 0.004, p.cells), -0.012, 0.012)
        self.cell_resistance_share: Floats = 1.0 + np.clip(rng.normal(0, 0.03, p.cells), -0.09, 0.09)
        self.cell_resistance_share *= p.cells / self.cell_resistance_share.sum()
        self.cell_soc: Floats = np.clip(soc + np.clip(rng.normal(0, 0.0025, p.cells), -0.008, 0.008), 0.0, 1.0)
        self.sensor_heat_share: Floats = 1.0 + np.clip(rng.normal(0, 0.05, p.sensors), -0.15, 0.15)
        self.sensor_c: Floats = temperature_c + np.clip(rng.normal(0, 0.2, p.sensors), -0.5, 0.5)
        self.cell_leak_a: Floats = np.zeros(p.cells)
        self.balancing: NDArray[np.bool_] = np.zeros(p.cells, np.bool_)
        self.coolant_c = temperature_c
        self.coolant_out_c = temperature_c
        self.pump_share = 0.0
        self.heater_w = 0.0
        self.chiller_w = 0.0
        self.cooling_available = True
        self.temperature_seconds: Floats = np.zeros(6)
        self.soc_seconds: Floats = np.zeros(5)
        self.age_s = cycles * 36_000
        self._slow_s = 0.0
        self._refresh()
        self.cell_v: Floats = self.cell_ocv.copy()
        self.voltage_v = float(self.cell_v.sum())
        self.highest_cell_v = float(self.cell_v.max())
        self.lowest_cell_v = float(self.cell_v.min())
        self.highest_c = float(self.sensor_c.max())
        self.lowest_c = float(self.sensor_c.min())

    def _refresh(self) -> None:
        p = self.p
        self.cell_ocv: Floats = np.interp(self.cell_soc, OCV_SOC, OCV_VOLT)
        self.ocv_v = float(self.cell_ocv.sum())
        self.temperature_c = float(self.sensor_c.mean())
        kelvin = max(233.0, self.temperature_c + 273.15)
        cold = math.exp(2000.0 * (1.0 / kelvin - 1.0 / 298.15))
        aged = 1.0 + p.resistance_growth * (1.0 - self.soh)
        self.resistance_ohm = p.resistance_ohm * cold * aged
        self.polarisation_ohm = p.polarisation_ohm * cold * aged

    @property
    def capacity_ah(self) -> float:
        """Capacity at the present age."""
        return self.p.capacity_ah * self.soh

    @property
    def equivalent_cycles(self) -> float:
        """Full cycles by charge throughput."""
        return (self.charge_in_ah + self.charge_out_ah) / (2 * self.p.capacity_ah)

    @property
    def remaining_kwh(self) -> float:
        """Energy that can still be drawn, at the mean voltage on the way down."""
        return max(0.0, self.soc * self.capacity_ah * (self.ocv_v + 96 * 3.4) / 2 / 1000)

    def current_for(self, power_w: float) -> float:
        """The current that gives ``power_w`` at the terminals (negative charges), bounded by what the pack can give."""
        source_v = self.ocv_v - self.rc_v
        inside = source_v * source_v - 4 * self.resistance_ohm * power_w
        if inside <= 0:
            return source_v / (2 * self.resistance_ohm)
        return (source_v - math.sqrt(inside)) / (2 * self.resistance_ohm)

    def discharge_limit_a(self) -> float:
        """Highest discharge current allowed now: less when cold, hot or nearly empty."""
        t = self.temperature_c
        warm = min(1.0, max(0.15, (t + 25) / 40)) * min(1.0, max(0.0, (62 - t) / 12))
        return self.p.discharge_current_a * warm * min(1.0, self.soc / 0.06)

    def charge_limit_a(self) -> float:
        """Highest charge current allowed now, a magnitude: by charge, temperature and cell voltage."""
        p, t = self.p, self.temperature_c
        warm = min(1.0, max(0.0, (t + 5) / 25)) * min(1.0, max(0.0, (58 - t) / 10))
        share = float(np.interp(self.soc, CHARGE_SOC, CHARGE_SHARE))
        limit = p.charge_c_rate * self.capacity_ah * share * warm
        return max(0.0, min(limit, self.voltage_limit_a()))

    def voltage_limit_a(self) -> float:
        """The charge current at which the highest cell reaches its voltage limit."""
        highest = float(self.cell_ocv.max())
        headroom_v = self.p.cells * (self.p.cell_voltage_max_v - highest) + self.rc_v
        return max(0.0, headroom_v / (self.resistance_ohm * 1.09))

    def step(self, dt_s: float, current_a: float) -> None:
        """Carry ``current_a`` for ``dt_s`` seconds."""
        p = self.p
        hours = dt_s / 3600.0
        ampere_hours = current_a * hours
        self.soc = min(1.0, max(0.0, self.soc - ampere_hours / self.capacity_ah))
        drain = current_a + self.cell_leak_a + 0.08 * self.balancing
        self.cell_soc -= drain * (hours / self.capacity_ah) / self.cell_capacity_share
        np.clip(self.cell_soc, 0.0, 1.0, out=self.cell_soc)
        self.rc_v += (current_a * self.polarisation_ohm - self.rc_v) * (dt_s / p.polarisation_tau_s)
        self.current_a = current_a
        self.cell_ocv = np.interp(self.cell_soc, OCV_SOC, OCV_VOLT)
        self.ocv_v = float(self.cell_ocv.sum())
        per_cell_v = (current_a * self.resistance_ohm + self.rc_v) / p.cells
        self.cell_v = self.cell_ocv - per_cell_v * self.cell_resistance_share
        self.voltage_v = float(self.cell_v.sum())
        energy_kwh = self.voltage_v * ampere_hours / 1000.0
        if current_a >= 0:
            self.charge_out_ah += ampere_hours
            self.energy_out_kwh += energy_kwh
        else:
            self.charge_in_ah -= ampere_hours
            self.energy_in_kwh -= energy_kwh
        self._slow_s += dt_s
        if self._slow_s >= 0.1 - 1e-9:
            self._step_slow(self._slow_s)
            self._slow_s = 0.0

    def _step_slow(self, dt_s: float) -> None:
        p = self.p
        loss_w = self.current_a**2 * self.resistance_ohm + self.rc_v**2 / self.polarisation_ohm
        to_coolant = p.coolant_w_per_k * (0.05 + 0.95 * self.pump_share) * (self.sensor_c - self.coolant_c)
        to_ambient = p.ambient_w_per_k * (self.sensor_c - self.ambient_c)
        heat_w = loss_w * self.sensor_heat_share - to_coolant - to_ambient
        spread_w = 120.0 * (self.temperature_c - self.sensor_c)
        self.sensor_c += (heat_w + spread_w) * (dt_s / p.heat_capacity_j_per_k)
        coolant_w = float(to_coolant.mean()) + self.heater_w - self.chiller_w
        self.coolant_c += coolant_w * dt_s / 30_000.0
        self.coolant_out_c = self.coolant_c + 0.35 * (self.temperature_c - self.coolant_c) * self.pump_share
        hot = math.exp(max(0.0, self.temperature_c - 25.0) * 0.045)
        throughput = abs(self.current_a) * dt_s / 3600.0 / (2 * p.capacity_ah)
        self.soh = max(0.5, self.soh - hot * (p.fade_per_cycle * throughput + p.fade_per_s * dt_s))
        self.age_s += dt_s
        self.temperature_seconds[int(min(5, max(0, self.temperature_c // 10 + 1)))] += dt_s
        self.soc_seconds[int(min(4, self.soc * 5))] += dt_s
        self._refresh()
        self.highest_cell_v = max(self.highest_cell_v, float(self.cell_v.max()))
        self.lowest_cell_v = min(self.lowest_cell_v, float(self.cell_v.min()))
        self.highest_c = max(self.highest_c, float(self.sensor_c.max()))
        self.lowest_c = min(self.lowest_c, float(self.sensor_c.min()))

    ambient_c: float = 20.0

    def control_temperature(self, *, active: bool, charging: bool) -> None:
        """Decide pump, chiller and heater; with the cooling broken nothing circulates."""
        t = self.temperature_c
        want_cool = active and t > (30.0 if self.chiller_w > 0 else 33.0)
        want_heat = active and t < (12.0 if charging else 2.0)
        if not self.cooling_available:
            self.pump_share = self.chiller_w = self.heater_w = 0.0
            return
        self.pump_share = (0.9 if want_cool or want_heat else 0.25) if active else 0.0
        self.chiller_w = self.p.chiller_w * min(1.0, max(0.25, (t - 28.0) / 10)) if want_cool else 0.0
        self.heater_w = self.p.heater_w if want_heat and self.coolant_c < 45.0 else 0.0

    def balance(self, *, allowed: bool) -> None:
        """Bleed the cells that stand highest, as a passive balancer does when little current flows."""
        if not allowed or abs(self.current_a) > 20 or self.soc < 0.3:
            self.balancing[:] = False
            return
        self.balancing = self.cell_ocv > float(self.cell_ocv.min()) + 0.006

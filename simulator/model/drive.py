"""Longitudinal dynamics: pedals to torque, torque and friction brakes to acceleration, and what the motor draws."""

from __future__ import annotations

import math

from simulator.model.parameters import AIR_DENSITY, GRAVITY, VehicleParameters
from simulator.model.route import Place


class Drive:
    """Speed, distance, torques and powers. Distance is the integral of speed, step by step."""

    def __init__(self, parameters: VehicleParameters, odometer_m: float) -> None:
        p = self.p = parameters
        self.speed_m_s = 0.0
        self.acceleration_m_s2 = 0.0
        self.odometer_m = odometer_m
        self.trip_m = 0.0
        self.pedal = 0.0
        self.brake_demand_m_s2 = 0.0
        self.torque_requested_nm = 0.0
        self.torque_nm = 0.0
        self.torque_limit_nm = p.motor_torque_nm
        self.regen_limit_nm = p.regen_torque_nm
        self.friction_n = 0.0
        self.regen_n = 0.0
        self.mechanical_w = 0.0
        self.electrical_w = 0.0
        self.efficiency = 0.9
        self.stator_c = self.rotor_c = self.module_c = self.oil_c = self.coolant_c = self.radiator_c = 20.0
        self.coolant_flow_l_min = 0.0
        self.fan_share = 0.0
        self.pulses = [0.0, 0.0, 0.0, 0.0]
        self.wheel_m_s = [0.0, 0.0, 0.0, 0.0]
        self.yaw_rate_rad_s = 0.0
        self.steering_rad = 0.0
        self.steering_rate_rad_s = 0.0

    @property
    def motor_rpm(self) -> float:
        """Speed of the motor shaft."""
        return self.speed_m_s / self.p.wheel_radius_m * self.p.gear_ratio * 60 / (2 * math.pi)

    def resistance_n(self, grade: float) -> float:
        """Air, rolling and slope at the present speed."""
        p = self.p
        air = 0.5 * AIR_DENSITY * p.drag_area_m2 * self.speed_m_s**2
        slope = math.atan(grade)
        rolling = p.rolling_resistance * p.mass_kg * GRAVITY * math.cos(slope)
        return air + rolling + p.mass_kg * GRAVITY * math.sin(slope)

    def press_pedals(self, demand_m_s2: float, grade: float, *, held: bool) -> None:
        """Choose accelerator and brake for a wanted acceleration; ``held`` keeps the brake on."""
        p = self.p
        if held:
            self.pedal, self.brake_demand_m_s2 = 0.0, 2.5
            return
        force = p.mass_kg * p.rotating_mass_factor * demand_m_s2 + self.resistance_n(grade)
        at_wheel = p.gear_ratio / p.wheel_radius_m
        if force >= 0:
            self.pedal = min(1.0, force / (at_wheel * p.motor_torque_nm))
            self.brake_demand_m_s2 = 0.0
        else:
            self.pedal = 0.0
            self.brake_demand_m_s2 = min(p.max_brake_m_s2, -force / p.mass_kg)

    def step(self, dt_s: float, place: Place, *, power_limit_w: float, regen_limit_w: float, ready: bool) -> None:
        """Advance by ``dt_s``; powers are bounded by what the battery gives and takes."""
        p = self.p
        omega = max(5.0, self.motor_rpm * 2 * math.pi / 60)
        self.torque_limit_nm = (
            min(p.motor_torque_nm, min(p.motor_power_w, power_limit_w) * 0.9 / omega) if ready else 0.0
        )
        fade = min(1.0, max(0.0, (self.speed_m_s - 1.2) / 2.5))
        self.regen_limit_nm = (
            min(p.regen_torque_nm, min(p.regen_power_w, regen_limit_w) / omega) * fade if ready else 0.0
        )
        at_wheel = p.gear_ratio / p.wheel_radius_m
        if self.brake_demand_m_s2 > 0:
            wanted_n = self.brake_demand_m_s2 * p.mass_kg
            self.torque_requested_nm = -min(self.regen_limit_nm, wanted_n / at_wheel)
        else:
            wanted_n = 0.0
            self.torque_requested_nm = min(self.torque_limit_nm, self.pedal * p.motor_torque_nm)
        self.torque_nm += (self.torque_requested_nm - self.torque_nm) * min(1.0, dt_s / 0.03)
        self.torque_nm = max(-self.regen_limit_nm, min(self.torque_limit_nm, self.torque_nm))
        drive_n = self.torque_nm * at_wheel
        self.regen_n = max(0.0, -drive_n)
        self.friction_n = max(0.0, wanted_n - self.regen_n)
        self._integrate(dt_s, drive_n, place)
        self._powers(omega)
        self._wheels(dt_s, drive_n, place)

    def _integrate(self, dt_s: float, drive_n: float, place: Place) -> None:
        p = self.p
        resist = self.resistance_n(place.grade) + self.friction_n
        force = drive_n - resist
        if self.speed_m_s <= 0.0 and (force <= 0 or self.friction_n > 0):
            self.speed_m_s = self.acceleration_m_s2 = 0.0  # the hill holder keeps a standing car where it is
            return
        acceleration = force / (p.mass_kg * p.rotating_mass_factor)
        before = self.speed_m_s
        self.speed_m_s = max(0.0, before + acceleration * dt_s)
        self.acceleration_m_s2 = (self.speed_m_s - before) / dt_s
        moved = 0.5 * (before + self.speed_m_s) * dt_s
        self.odometer_m += moved
        self.trip_m += moved

    def _powers(self, omega: float) -> None:
        p = self.p
        self.mechanical_w = self.torque_nm * self.motor_rpm * 2 * math.pi / 60
        load = abs(self.mechanical_w)
        self.efficiency = 0.955 - 0.11 * math.exp(-load / 6000.0) - 0.02 * min(1.0, omega / 1400.0)
        copper_w = 0.012 * self.torque_nm**2
        if self.mechanical_w >= 0:
            self.electrical_w = self.mechanical_w / self.efficiency
        else:
            self.electrical_w = self.mechanical_w * self.efficiency
        self.electrical_w += p.idle_loss_w + (copper_w if load < 500 else 0.0)

    def _wheels(self, dt_s: float, drive_n: float, place: Place) -> None:
        p, v = self.p, self.speed_m_s
        steer = math.atan(p.wheelbase_m * place.curvature) * p.steering_ratio
        self.steering_rate_rad_s = (steer - self.steering_rad) / dt_s if v > 0.1 else 0.0
        self.steering_rad = steer if v > 0.1 else self.steering_rad
        self.yaw_rate_rad_s = v * place.curvature
        outer = self.yaw_rate_rad_s * p.track_m / 2
        front = 1 / math.cos(self.steering_rad / p.steering_ratio)
        slip = 1.0 + min(0.05, max(-0.05, drive_n * 3e-6)) if v > 0.5 else 1.0
        wheels = ((v - outer) * front, (v + outer) * front, (v - outer) * slip, (v + outer) * slip)
        turn = 96 * dt_s / (2 * math.pi * p.wheel_radius_m)
        for i, speed in enumerate(wheels):
            speed = max(0.0, speed)
            self.wheel_m_s[i] = speed
            self.pulses[i] = (self.pulses[i] + speed * turn) % 65536

    def step_thermal(self, dt_s: float, ambient_c: float, *, active: bool, pump_works: bool) -> None:
        """Temperatures of motor, inverter, oil and coolant; called a few times a second."""
        loss = max(0.0, abs(self.electrical_w - self.mechanical_w))
        hot = max(self.stator_c, self.module_c) > 55 or self.coolant_c > 45
        self.coolant_flow_l_min = (12.0 if hot else 5.0) if active and pump_works else 0.0
        self.fan_share = min(1.0, max(0.0, (self.coolant_c - 45) / 20)) if active else 0.0
        flow = self.coolant_flow_l_min / 12.0
        wind = min(1.0, self.speed_m_s / 25) + self.fan_share
        to_motor = (14 + 90 * flow) * (self.stator_c - self.coolant_c)
        to_module = (8 + 140 * flow) * (self.module_c - self.coolant_c)
        to_air = (12 + 160 * wind * flow) * (self.coolant_c - ambient_c)
        self.stator_c += (loss * 0.62 - to_motor - 6 * (self.stator_c - self.oil_c)) * dt_s / 21_000
        self.module_c += (loss * 0.30 - to_module) * dt_s / 3_500
        self.rotor_c += (loss * 0.08 - 9 * (self.rotor_c - self.stator_c)) * dt_s / 8_000
        self.oil_c += (
            (self.speed_m_s * 9 + 6 * (self.stator_c - self.oil_c) - 7 * (self.oil_c - ambient_c)) * dt_s / 9_000
        )
        self.coolant_c += (to_motor + to_module - to_air) * dt_s / 26_000
        self.radiator_c = self.coolant_c - 0.4 * (self.coolant_c - ambient_c) * flow

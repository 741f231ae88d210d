"""What the simulated car is: masses, sizes, limits. SI units unless the name says otherwise."""

from __future__ import annotations

from dataclasses import dataclass

GRAVITY = 9.81
AIR_DENSITY = 1.2
VIN = "0UTR1DER0NE000001"


@dataclass(frozen=True, slots=True, kw_only=True)
class VehicleParameters:
    """A mid-size electric car with one motor on the rear axle."""

    mass_kg: float = 1850.0
    rotating_mass_factor: float = 1.05
    drag_area_m2: float = 0.62
    rolling_resistance: float = 0.0095
    wheel_radius_m: float = 0.345
    gear_ratio: float = 9.6
    wheelbase_m: float = 2.77
    track_m: float = 1.58
    steering_ratio: float = 15.2
    motor_torque_nm: float = 330.0
    motor_power_w: float = 150_000.0
    motor_speed_rpm: float = 14_500.0
    regen_torque_nm: float = 160.0
    regen_power_w: float = 70_000.0
    idle_loss_w: float = 120.0
    base_load_w: float = 260.0
    friction_front_share: float = 0.68
    max_brake_m_s2: float = 9.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatteryParameters:
    """96 cells in series; a cell here is what sits between two taps, whatever is in parallel inside."""

    cells: int = 96
    sensors: int = 16
    capacity_ah: float = 170.0
    resistance_ohm: float = 0.080  # of the whole pack at 25 degC, new
    polarisation_ohm: float = 0.032
    polarisation_tau_s: float = 35.0
    cell_voltage_max_v: float = 4.18
    cell_voltage_min_v: float = 2.9
    heat_capacity_j_per_k: float = 340_000.0
    ambient_w_per_k: float = 8.0
    coolant_w_per_k: float = 450.0
    chiller_w: float = 4000.0
    heater_w: float = 5000.0
    charge_c_rate: float = 1.8
    discharge_current_a: float = 450.0
    #: Capacity lost per equivalent full cycle at 25 degC, and per second of calendar life.
    fade_per_cycle: float = 1.35e-4
    fade_per_s: float = 6.0e-10
    #: Resistance grows by this many times the capacity lost.
    resistance_growth: float = 2.2

"""Signals of the powertrain bus."""

from __future__ import annotations

import math

from simulator.model.parameters import VIN
from simulator.model.vehicle import Charge, Vehicle

_VIN_PARTS = [float(int.from_bytes(VIN.ljust(18)[6 * i : 6 * i + 6].encode("ascii"), "big")) for i in range(3)]


def power_mode(v: Vehicle) -> int:
    """Value of ``PowerMode``; up to "on" it is the key position."""
    if v.charge_state in (Charge.PRECHARGE, Charge.CONSTANT_CURRENT, Charge.CONSTANT_VOLTAGE):
        return 4
    if v.body.remote_start:
        return 5
    return 3 if v.ready else int(v.body.key)


def powertrain(v: Vehicle, utc_s: float) -> dict[str, float]:
    """What is sent each 10 to 50 ms, but counters and checksums."""
    d, b = v.drive, v.battery
    rpm = d.motor_rpm
    live = v.contactors
    volts = b.voltage_v if live else 0.0
    amps = d.electrical_w / volts if live and v.ready else 0.0
    quadrature = d.torque_nm / 0.62
    direct = -0.25 * abs(quadrature) - 60 * max(0.0, rpm - 4500) / 9000
    phase = math.hypot(quadrature, direct) / math.sqrt(2)
    return {
        "TorqueRequest.DriveMode": 2 if v.ready else 0,
        "TorqueRequest.TorqueRequested": d.torque_requested_nm,
        "TorqueRequest.TorqueLimitDrive": d.torque_limit_nm,
        "TorqueRequest.TorqueLimitRegen": d.regen_limit_nm,
        "TorqueRequest.DriverPresent": v.body.occupied[0],
        "TorqueRequest.BrakeOverride": 0,
        "InverterStatus.InverterState": (3 if v.gear == 3 else 1) if v.ready else 0,
        "InverterStatus.MotorTorque": d.torque_nm,
        "InverterStatus.MotorSpeed": rpm,
        "InverterStatus.MechanicalPower": d.mechanical_w / 1000,
        "InverterElectrical.DcLinkVoltage": volts,
        "InverterElectrical.DcLinkCurrent": amps,
        "InverterElectrical.PhaseCurrent": phase,
        "InverterElectrical.ModulationIndex": min(100.0, rpm / 60) if v.ready else 0.0,
        "InverterElectrical.Efficiency": d.efficiency * 100 if v.ready else 0.0,
        "InverterControl.CurrentD": direct if v.ready else 0.0,
        "InverterControl.CurrentQ": quadrature,
        "InverterControl.RotorAngle": math.degrees(d.odometer_m / v.p.wheel_radius_m * v.p.gear_ratio) % 360,
        "InverterControl.SwitchingFrequency": 10.0 if v.ready else 0.0,
        "AcceleratorPedal.PedalPosition": d.pedal * 100,
        "AcceleratorPedal.PedalVoltage1": 0.75 + 3.5 * d.pedal + 0.002 * v.noise(),
        "AcceleratorPedal.PedalVoltage2": 0.375 + 1.75 * d.pedal + 0.002 * v.noise(),
        "VehicleMotion.Gear": v.gear,
        "VehicleMotion.Standstill": d.speed_m_s < 0.02,
        "VehicleMotion.VehicleSpeed": d.speed_m_s * 3.6,
        "VehicleMotion.Acceleration": d.acceleration_m_s2,
        "VehicleMotion.RoadGrade": v.place.grade * 100,
        "GearSelector.LeverPosition": v.lever,
        "GearSelector.ParkLock": v.gear == 0,
        "GearSelector.ParkButton": 0,
        "GearSelector.ShiftInhibited": 0,
    }


def powertrain_slow(v: Vehicle, utc_s: float) -> dict[str, float]:
    """What is sent less often."""
    return _state(v) | _charging(v)


def _state(v: Vehicle) -> dict[str, float]:
    d, b, low, climate = v.drive, v.battery, v.low_voltage, v.climate
    volts = b.voltage_v
    regen_w = min(v.p.regen_power_w, v.charge_limit_a * volts)
    net_kwh = b.energy_out_kwh - b.energy_in_kwh - v.start_energy_kwh
    consumption = net_kwh / d.trip_m * 1e6 if d.trip_m > 300 else 165.0
    return {
        "InverterTemperatures.StatorTemperature": d.stator_c,
        "InverterTemperatures.RotorTemperature": d.rotor_c,
        "InverterTemperatures.PowerModuleTemperature": d.module_c,
        "InverterTemperatures.GearboxOilTemperature": d.oil_c,
        "InverterTemperatures.CoolantInletTemperature": d.coolant_c,
        "InverterTemperatures.CoolantFlow": d.coolant_flow_l_min,
        "VehicleState.PowerMode": power_mode(v),
        "VehicleState.ReadyToDrive": v.ready,
        "VehicleState.HighVoltageActive": v.contactors,
        "VehicleState.LimpHome": v.limp_home,
        "VehicleState.ServiceRequired": bool(v.troubles),
        "VehicleState.PowerLimit": min(v.p.motor_power_w, v.power_limit_w) / 1000 if v.ready else 0.0,
        "VehicleState.RegenLimit": regen_w / 1000 if v.ready else 0.0,
        "VehicleState.DrivingTime": v.driving_s,
        "PowerFlow.BatteryPower": b.current_a * volts / 1000,
        "PowerFlow.TractionPower": d.electrical_w / 1000 if v.ready else 0.0,
        "PowerFlow.ClimatePower": climate.power_w / 1000,
        "PowerFlow.LowVoltagePower": low.converter_w / 1000,
        "DcDcStatus.OutputVoltage": low.voltage_v if low.converter_on else 0.0,
        "DcDcStatus.OutputCurrent": low.converter_a,
        "DcDcStatus.DcDcState": 2 if low.converter_on else 0 if low.converter_works else 3,
        "DcDcStatus.DcDcTemperature": low.converter_c,
        "DcDcStatus.DcDcEfficiency": 93.0 if low.converter_on else 0.0,
        "Odometer.TotalDistance": d.odometer_m / 1000,
        "Odometer.TripDistance": d.trip_m / 1000,
        "EnergyRange.RemainingRange": min(999.0, b.remaining_kwh / max(90.0, min(400.0, consumption)) * 1000),
        "EnergyRange.Consumption": min(3000.0, max(-1000.0, consumption)),
        "EnergyRange.RemainingEnergy": b.remaining_kwh,
        "EnergyRange.TimeToFull": time_to_full_min(v),
        "ThermalControl.PumpDuty": d.coolant_flow_l_min / 12 * 100,
        "ThermalControl.FanDuty": d.fan_share * 100,
        "ThermalControl.RadiatorTemperature": d.radiator_c,
        "ThermalControl.ValvePosition": 100 * b.pump_share if b.chiller_w else 0.0,
        "ThermalControl.ShutterPosition": 100.0 if d.fan_share > 0 else 30.0,
        "VehicleIdentification.VinPart0": _VIN_PARTS[0],
        "VehicleIdentification.VinPart1": _VIN_PARTS[1],
        "VehicleIdentification.VinPart2": _VIN_PARTS[2],
    }


def time_to_full_min(v: Vehicle) -> float:
    """Minutes to the charging target at the present power; 0 when not charging."""
    if v.charge_request_a <= 0:
        return 0.0
    missing_ah = max(0.0, v.charging.target_soc - v.battery.soc) * v.battery.capacity_ah
    return min(6000.0, missing_ah / v.charge_request_a * 60)


def _charging(v: Vehicle) -> dict[str, float]:
    ac = v.plugged == "ac"
    mains_w = v.charge_w / 0.93 if ac else 0.0
    return {
        "ChargerStatus.ChargerState": v.charge_state,
        "ChargerStatus.ConnectorState": {"": 0, "ac": 1, "dc": 2}[v.plugged],
        "ChargerStatus.MainsVoltage": 230.0 + 0.3 * v.noise() if ac else 0.0,
        "ChargerStatus.MainsCurrent": mains_w / 690,
        "ChargerStatus.Phases": 3 if ac else 0,
        "ChargerStatus.ChargePower": max(0.0, v.charge_w) / 1000,
        "ChargerStatus.PlugLocked": v.charge_request_a > 0,
        "ChargerLimits.PilotCurrentLimit": min(80.0, v.charging.charge_power_w / 690) if ac else 0.0,
        "ChargerLimits.CableCurrentLimit": 32.0 if ac else 0.0,
        "ChargerLimits.BatteryCurrentLimit": v.charge_limit_a if v.plugged else 0.0,
        "ChargerLimits.ChargerTemperature": v.start.ambient_c + mains_w * 0.0022,
        "ChargerLimits.TargetSoc": v.charging.target_soc * 100,
        "ChargerLimits.EnergyCharged": v.session_kwh,
    }

"""Signals of the auxiliary bus (SAE J1939). Unavailable values are not modelled: all parameters are available."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from simulator.model.vehicle import Vehicle

#: ``TireLocation`` in the order of the model's wheels.
TIRE_LOCATIONS = (0x00, 0x01, 0x10, 0x11)


def auxiliary(v: Vehicle, utc_s: float) -> dict[str, float]:
    """What is sent each 10 to 100 ms."""
    d = v.drive
    return {
        "TSC1.OverrideControlMode": 2 if v.ready else 0,
        "TSC1.RequestedSpeedControlConditions": 0,
        "TSC1.OverrideControlModePriority": 2,
        "TSC1.RequestedSpeed": min(8000.0, d.motor_rpm),
        "TSC1.RequestedTorque": 100 * d.torque_requested_nm / v.p.motor_torque_nm,
        "CCVS1.ParkingBrakeSwitch": v.gear == 0,
        "CCVS1.WheelBasedVehicleSpeed": d.speed_m_s * 3.6,
        "CCVS1.CruiseControlActive": 0,
        "CCVS1.BrakeSwitch": v.brake_pedal > 0.01,
    }


def auxiliary_slow(v: Vehicle, utc_s: float) -> dict[str, float]:
    """What is sent about once a second; ``utc_s`` is what the satellites say."""
    d, place, low, climate = v.drive, v.place, v.low_voltage, v.climate
    spn, fmi, count = v.troubles[0] if v.troubles else (0, 0, 0)
    utc = datetime.fromtimestamp(math.floor(utc_s), UTC)
    out: dict[str, float] = {
        "VDHR.TotalVehicleDistance": 5 * math.floor(d.odometer_m / 5),
        "VDHR.TripDistance": 5 * math.floor(d.trip_m / 5),
        "VEP1.NetBatteryCurrent": max(-125.0, min(125.0, low.current_a)),
        "VEP1.AlternatorCurrent": low.converter_a,
        "VEP1.ChargingSystemPotential": low.voltage_v if low.converter_on else 0.0,
        "VEP1.BatteryPotential": low.voltage_v,
        "VEP1.KeyswitchBatteryPotential": low.voltage_v - 0.1 if v.body.key else 0.0,
        "AMB.BarometricPressure": 101.3 * math.exp(-place.altitude_m / 8400),
        "AMB.CabInteriorTemperature": climate.cabin_c,
        "AMB.AmbientAirTemperature": climate.ambient_c,
        "AMB.AirInletTemperature": climate.ambient_c + 1,
        "AMB.RoadSurfaceTemperature": climate.ambient_c + climate.sun_w_m2 / 60,
        "VP.Latitude": place.latitude,
        "VP.Longitude": place.longitude,
        "VDS.CompassBearing": math.degrees(place.heading_rad) % 360,
        "VDS.NavigationSpeed": d.speed_m_s * 3.6,
        "VDS.Pitch": math.degrees(math.atan(place.grade)),
        "VDS.Altitude": place.altitude_m,
        "TD.Seconds": math.floor((utc.second + utc_s % 1) * 4) / 4,
        "TD.Minutes": utc.minute,
        "TD.Hours": utc.hour,
        "TD.Month": utc.month,
        "TD.Day": utc.day,
        "TD.Year": utc.year,
        "TD.LocalMinuteOffset": 0,
        "TD.LocalHourOffset": 0,
        "DM1.ProtectLamp": 0,
        "DM1.AmberWarningLamp": spn != 0,
        "DM1.RedStopLamp": v.limp_home,
        "DM1.MalfunctionLamp": 0,
        "DM1.SuspectParameterLow": spn & 0xFFFF,
        "DM1.SuspectParameterHigh": spn >> 16,
        "DM1.FailureMode": fmi,
        "DM1.OccurrenceCount": count,
        "DM1.ConversionMethod": 0,
    }
    for i, location in enumerate(TIRE_LOCATIONS):
        out[f"TIRE.TireLocation@{i}"] = location
        out[f"TIRE.TirePressure@{i}"] = v.tyres.pressure_kpa(i)
        out[f"TIRE.TireTemperature@{i}"] = v.tyres.temperature_c[i]
    return out

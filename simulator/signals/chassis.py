"""Signals of the chassis bus."""

from __future__ import annotations

import math

from simulator.model.vehicle import Vehicle

WHEELS = ("FrontLeft", "FrontRight", "RearLeft", "RearRight")


def chassis(v: Vehicle, utc_s: float) -> dict[str, float]:
    """What is sent each 10 to 20 ms, but counters and checksums."""
    d, place = v.drive, v.place
    yaw, speed = d.yaw_rate_rad_s, d.speed_m_s
    lateral = yaw * speed
    wheel_nm = v.p.wheel_radius_m
    friction_nm = d.friction_n * wheel_nm
    front = v.p.friction_front_share
    hands = math.degrees(d.steering_rad) * 0.012 + 0.15 * v.noise() * (speed > 1)
    out: dict[str, float] = {f"WheelSpeeds.WheelSpeed{w}": d.wheel_m_s[i] * 3.6 for i, w in enumerate(WHEELS)}
    out |= {
        "VehicleDynamics.SensorState": 0,
        "VehicleDynamics.YawRate": math.degrees(yaw) + 0.02 * v.noise(),
        "VehicleDynamics.LateralAcceleration": lateral + 0.01 * v.noise(),
        "VehicleDynamics.LongitudinalAcceleration": d.acceleration_m_s2 + 9.81 * place.grade + 0.01 * v.noise(),
        "SteeringWheel.SteeringAngle": math.degrees(d.steering_rad),
        "SteeringWheel.SteeringRate": max(-1500.0, min(1500.0, math.degrees(d.steering_rate_rad_s))),
        "SteeringWheel.AngleValid": 1,
        "BrakeStatus.AbsActive": 0,
        "BrakeStatus.EscActive": 0,
        "BrakeStatus.TractionControlActive": 0,
        "BrakeStatus.AutoHold": v.ready and v.gear == 3 and speed == 0,
        "BrakeStatus.BrakePressure": friction_nm / 55,
        "BrakeStatus.BrakePedal": v.brake_pedal * 100,
        "BrakeStatus.BrakePressed": v.brake_pedal > 0.01,
        "BrakeStatus.BrakeFluidLow": 0,
        "BrakeStatus.PadWearFront": 20.0 + d.odometer_m * 2e-7,
        "SteeringAssist.DriverTorque": max(-15.0, min(15.0, hands)),
        "SteeringAssist.AssistTorque": max(-90.0, min(90.0, hands * 6)) if v.ready else 0.0,
        "SteeringAssist.AssistCurrent": abs(hands) * 4 if v.ready else 0.0,
        "SteeringAssist.AssistState": v.ready,
        "SteeringAssist.AssistTemperature": v.start.ambient_c + min(30.0, v.driving_s * 0.02),
        "BrakeTorque.FrictionTorqueFront": friction_nm * front,
        "BrakeTorque.FrictionTorqueRear": friction_nm * (1 - front),
        "BrakeTorque.RegenTorque": d.regen_n * wheel_nm,
        "BrakeTorque.DecelerationDemand": d.brake_demand_m_s2,
    }
    return out | {f"WheelPulses.WheelPulses{w}": math.floor(d.pulses[i]) % 65536 for i, w in enumerate(WHEELS)}


def chassis_slow(v: Vehicle, utc_s: float) -> dict[str, float]:
    """What is sent less often; ``utc_s`` is what the satellites say."""
    d = v.drive
    pitch_mm = -d.acceleration_m_s2 * 3.2
    roll_mm = d.yaw_rate_rad_s * d.speed_m_s * 4.1
    out: dict[str, float] = {}
    for i, w in enumerate(WHEELS):
        bump = v.noise() * 0.35 * min(12.0, d.speed_m_s)
        out[f"SuspensionLevel.Travel{w}"] = (pitch_mm if i < 2 else -pitch_mm) + (roll_mm if i % 2 else -roll_mm) + bump
        out[f"TyrePressures.Pressure{w}"] = v.tyres.pressure_kpa(i)
        out[f"TyrePressures.Temperature{w}"] = v.tyres.temperature_c[i]
        out[f"TyreWarnings.PressureWarning{w}"] = v.tyres.pressure_kpa(i) < 190
    return out | _position(v, utc_s)


def _position(v: Vehicle, utc_s: float) -> dict[str, float]:
    place = v.place
    fix = v.time_s > 1.5
    return {
        "TyreWarnings.SensorMissing": 0,
        "ParkingBrake.ParkingBrakeState": v.gear == 0,
        "ParkingBrake.ClampForce": 14.0 if v.gear == 0 else 0.0,
        "GnssPosition.Latitude": place.latitude,
        "GnssPosition.Longitude": place.longitude,
        "GnssMotion.GroundSpeed": v.drive.speed_m_s * 3.6,
        "GnssMotion.Heading": math.degrees(place.heading_rad) % 360,
        "GnssMotion.Altitude": place.altitude_m,
        "GnssMotion.Satellites": 11 + int(v.time_s / 40) % 4 if fix else 3,
        "GnssMotion.FixType": 3 if fix else 0,
        "GnssTime.UnixTime": math.floor(utc_s),
        "GnssTime.Milliseconds": math.floor(utc_s % 1 * 1000),
        "GnssQuality.HorizontalDop": 0.8 + 0.2 * math.sin(v.time_s / 97) if fix else 20.0,
        "GnssQuality.VerticalDop": 1.3 + 0.3 * math.sin(v.time_s / 83) if fix else 30.0,
    }

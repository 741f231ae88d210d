"""Signals of the body bus; actuator messages are not sent by the vehicle."""

from __future__ import annotations

import math

from simulator.model.vehicle import Vehicle

DOORS = ("FrontLeft", "FrontRight", "RearLeft", "RearRight")


def body(v: Vehicle, utc_s: float) -> dict[str, float]:
    """What people and lights do, but counters and checksums."""
    return _access(v) | _lights(v)


def body_slow(v: Vehicle, utc_s: float) -> dict[str, float]:
    """What is sent seldom."""
    return _comfort(v) | _remote(v)


def _access(v: Vehicle) -> dict[str, float]:
    b = v.body
    out: dict[str, float] = {
        "KeyState.KeyPosition": b.key,
        "KeyState.KeyInCabin": b.key_in_cabin,
        "KeyState.Immobiliser": b.immobiliser,
        "KeyState.KeyBattery": 90.0,
        "DoorStatus.TailgateOpen": b.tailgate,
        "DoorStatus.BonnetOpen": b.bonnet,
        "DoorStatus.ChargeFlapOpen": b.flap,
        "DoorStatus.ChildLock": 0,
        "DoorStatus.LockTailgate": b.locks[4],
        "DoorStatus.LockResult": b.results["LockCommand"],
        "DoorStatus.LockCommandsDone": b.lock_commands_done,
        "Windows.Roof": 0,
        "Occupants.SeatHeatLeft": 2 if v.climate.on and v.climate.cabin_c < 16 else 0,
        "Occupants.SeatHeatRight": 0,
        "Occupants.AirbagState": 0,
    }
    for i, door in enumerate(DOORS):
        out[f"DoorStatus.DoorOpen{door}"] = b.doors[i]
        out[f"DoorStatus.Lock{door}"] = b.locks[i]
        out[f"Windows.Window{door}"] = b.windows[i] * 100
        out[f"Occupants.Belt{door}"] = b.belts[i]
        out[f"Occupants.Occupied{door}"] = b.occupied[i]
    return out


def _lights(v: Vehicle) -> dict[str, float]:
    b = v.body
    return {
        "LightStatus.DaytimeLight": b.daytime,
        "LightStatus.LowBeam": b.low_beam,
        "LightStatus.HighBeam": b.high_beam,
        "LightStatus.FogFront": 0,
        "LightStatus.FogRear": b.fog_rear,
        "LightStatus.BrakeLight": v.brake_pedal > 0.01 or (v.drive.regen_n > 1800),
        "LightStatus.ReverseLight": v.gear == 1,
        "LightStatus.IndicatorLeft": b.indicator_lit(1),
        "LightStatus.IndicatorRight": b.indicator_lit(2),
        "LightStatus.Hazard": b.hazard,
        "LightStatus.ParkingLight": b.parking_light,
        "LightStatus.InteriorLight": b.interior > 0.02,
        "LightStatus.LightResult": b.results["LightCommand"],
        "LightStatus.InteriorBrightness": b.interior * 100,
        "LightStatus.AmbientLight": 12.0 if v.start.dark else 800 + 20 * v.start.sun_w_m2,
        "LightStatus.LightSwitch": 3,
        "WiperHorn.WiperMode": b.wiper_mode,
        "WiperHorn.WiperParked": b.wiper_angle < 1,
        "WiperHorn.HornActive": b.horn,
        "WiperHorn.HornResult": b.results["HornCommand"],
        "WiperHorn.WiperAngle": b.wiper_angle,
        "WiperHorn.RainIntensity": b.rain * 100,
        "WiperHorn.WasherLevel": b.washer * 100,
        "WiperHorn.HornCount": b.horn_count,
        "SteeringSwitches.IndicatorStalk": b.indicator,
        "SteeringSwitches.HighBeamStalk": 0,
        "SteeringSwitches.HornButton": 0,
        "SteeringSwitches.CruiseButton": 0,
        "SteeringSwitches.VolumeButton": 0,
    }


def _comfort(v: Vehicle) -> dict[str, float]:
    c, low = v.climate, v.low_voltage
    return {
        "ClimateStatus.ClimateOn": c.on,
        "ClimateStatus.Recirculation": c.recirculation,
        "ClimateStatus.Compressor": c.compressor_w > 0,
        "ClimateStatus.RearDefrost": c.on and c.ambient_c < 3,
        "ClimateStatus.SetpointLeft": c.setpoint_c,
        "ClimateStatus.SetpointRight": c.setpoint_c,
        "ClimateStatus.Blower": c.blower * 100,
        "ClimateStatus.CompressorPower": c.compressor_w,
        "ClimateStatus.HeaterPower": c.heater_w,
        "CabinEnvironment.CabinTemperature": c.cabin_c,
        "CabinEnvironment.AmbientTemperature": c.ambient_c,
        "CabinEnvironment.EvaporatorTemperature": c.evaporator_c,
        "CabinEnvironment.Humidity": c.humidity,
        "CabinEnvironment.SunLoad": c.sun_w_m2,
        "CabinEnvironment.ClimateResult": v.body.results["ClimateCommand"],
        "LowVoltage.BatteryVoltage": low.voltage_v,
        "LowVoltage.BatteryCurrent": low.current_a,
        "LowVoltage.BatteryTemperature": low.temperature_c,
        "LowVoltage.BatterySoc": low.soc * 100,
        "LowVoltage.LoadCurrent": low.load_a,
    }


def _remote(v: Vehicle) -> dict[str, float]:
    b = v.body
    return {
        "ValetStatus.ValetActive": b.valet,
        "ValetStatus.TailgateInhibited": b.valet,
        "ValetStatus.ValetResult": b.results["ValetCommand"],
        "ValetStatus.ValetSpeedLimit": b.valet_limit_kmh,
        "ValetStatus.ValetDistance": b.valet_m / 1000,
        "RemoteStartStatus.RemoteStartActive": b.remote_start,
        "RemoteStartStatus.StartInhibit": b.inhibit,
        "RemoteStartStatus.StartResult": b.results["StartCommand"],
        "RemoteStartStatus.RemoteStartRemaining": math.ceil(b.remote_remaining_s),
        "Cluster.DisplayedSpeed": v.drive.speed_m_s * 3.6 * 1.025 + (0.8 if v.drive.speed_m_s > 0.5 else 0.0),
        "Cluster.DisplayedSoc": v.battery.soc * 100,
        "Cluster.DisplayedRange": min(999.0, v.battery.remaining_kwh / 0.165),
        "Cluster.DisplayedOdometer": math.floor(v.drive.odometer_m / 1000),
        "Cluster.WarningBattery": not v.low_voltage.converter_on and v.ready,
        "Cluster.WarningBrake": v.gear == 0,
        "Cluster.WarningTyre": any(spn == 241 for spn, _, _ in v.troubles),
        "Cluster.WarningDrive": v.limp_home,
        "Cluster.WarningBelt": b.occupied[0] and not b.belts[0],
        "Cluster.WarningDoor": b.any_door_open,
        "Cluster.WarningLowSoc": v.battery.soc < 0.1,
        "Cluster.WarningTemperature": v.battery.highest_c > 50,
        "Alarm.AlarmState": b.alarm,
        "Alarm.AlarmCount": b.alarm_count,
    }

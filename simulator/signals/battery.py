"""Signals of the battery bus."""

from __future__ import annotations

import numpy as np

from simulator.model.vehicle import Charge, Vehicle

_BITS = [1 << i for i in range(48)]


def battery(v: Vehicle, utc_s: float) -> dict[str, float]:
    """What changes fast, but counters, checksums and selectors."""
    b, live = v.battery, v.contactors
    cell_v = b.cell_v
    highest, lowest = int(cell_v.argmax()), int(cell_v.argmin())
    charging = v.charge_state in (Charge.CONSTANT_CURRENT, Charge.CONSTANT_VOLTAGE)
    state = (
        (3 if v.plugged == "ac" else 4) if charging else 1 if v.charge_state == Charge.PRECHARGE else 2 if live else 0
    )
    return {
        "PackStatus.PackState": state,
        "PackStatus.ContactorPositive": live,
        "PackStatus.ContactorNegative": live,
        "PackStatus.PrechargeRelay": v.charge_state == Charge.PRECHARGE,
        "PackStatus.InterlockClosed": 1,
        "PackStatus.PackVoltage": b.voltage_v,
        "PackStatus.PackCurrent": b.current_a,
        "PackStatus.StateOfCharge": b.soc * 100,
        "PackStatus.StateOfHealth": b.soh * 100,
        "PackStatus.DischargeCurrentLimit": v.discharge_limit_a,
        "PackStatus.ChargeCurrentLimit": v.charge_limit_a,
        "PackEnergy.EnergyThroughput": b.energy_out_kwh + b.energy_in_kwh,
        "PackEnergy.ChargeThroughput": b.charge_out_ah + b.charge_in_ah,
        "PackEnergy.PackPower": b.voltage_v * b.current_a / 1000,
        "PackEnergy.InternalResistance": b.resistance_ohm * 1000,
        "CellStatistics.CellVoltageMax": float(cell_v[highest]),
        "CellStatistics.CellVoltageMin": float(cell_v[lowest]),
        "CellStatistics.CellVoltageMean": b.voltage_v / len(cell_v),
        "CellStatistics.CellNumberMax": highest + 1,
        "CellStatistics.CellNumberMin": lowest + 1,
    }


def battery_slow(v: Vehicle, utc_s: float) -> dict[str, float]:
    """What changes slowly and is sent seldom."""
    b, dc = v.battery, v.plugged == "dc"
    bits = [int(np.dot(b.balancing[i : i + 48], _BITS)) for i in (0, 48)]
    charging_dc = dc and v.charge_request_a > 0
    out = {
        "CellTemperatures.SensorFaults": 0,
        "CellStatistics.TemperatureMax": float(b.sensor_c.max()),
        "CellStatistics.TemperatureMin": float(b.sensor_c.min()),
        "CellStatistics.TemperatureMean": b.temperature_c,
        "BatteryThermal.CoolantInlet": b.coolant_c,
        "BatteryThermal.CoolantOutlet": b.coolant_out_c,
        "BatteryThermal.PumpSpeed": b.pump_share * 100,
        "BatteryThermal.HeaterPower": b.heater_w,
        "BatteryThermal.ChillerPower": b.chiller_w,
        "BatteryThermal.ThermalMode": 3 if b.heater_w else 2 if b.chiller_w else 1 if b.pump_share else 0,
        "Balancing.BalancingCells01To48": bits[0],
        "Balancing.BalancingCells49To96": bits[1],
        "Balancing.BalancingCount": int(b.balancing.sum()),
        "Balancing.BalancingState": 2 if b.balancing.any() else 1 if v.contactors else 0,
        "Insulation.ResistancePositive": 5200 - 12 * b.temperature_c,
        "Insulation.ResistanceNegative": 5100 - 12 * b.temperature_c,
        "Insulation.InsulationState": 0,
        "Lifetime.EnergyDischarged": b.energy_out_kwh,
        "Lifetime.EnergyChargedTotal": b.energy_in_kwh,
        "Lifetime.EquivalentCycles": b.equivalent_cycles,
        "Lifetime.ContactorCycles": v.contactor_cycles,
        "Lifetime.FastChargeCount": v.fast_charges,
        "Lifetime.DeepDischargeCount": 0,
        "Lifetime.HighestCellVoltage": b.highest_cell_v,
        "Lifetime.LowestCellVoltage": b.lowest_cell_v,
        "Lifetime.HighestCellTemperature": b.highest_c,
        "Lifetime.LowestCellTemperature": b.lowest_c,
        "DcCharging.DcState": (4 if charging_dc else 3 if v.charge_state == Charge.PRECHARGE else 1) if dc else 0,
        "DcCharging.VoltageRequested": b.p.cell_voltage_max_v * b.p.cells if dc else 0.0,
        "DcCharging.CurrentRequested": v.charge_request_a if dc else 0.0,
        "DcCharging.StationVoltage": b.voltage_v if charging_dc else 0.0,
        "DcCharging.StationCurrent": v.charge_w / b.voltage_v if charging_dc else 0.0,
        "DcCharging.StationPowerLimit": v.charging.charge_power_w / 1000 if dc else 0.0,
        "DcCharging.SessionTime": v.session_s if dc else 0.0,
    }
    out |= {f"Lifetime.TemperatureBin{i}": float(s) for i, s in enumerate(b.temperature_seconds)}
    return out | {f"Lifetime.SocBin{i}": float(s) for i, s in enumerate(b.soc_seconds)}


def battery_cells(v: Vehicle) -> list[str]:
    """Names of the columns that hold cell voltages, then temperatures; they are copied as arrays."""
    cells = [f"battery.CellVoltages.CellVoltage{i + 1:02d}" for i in range(v.battery.p.cells)]
    sensors = [f"battery.CellTemperatures.CellTemperature{i + 1:02d}" for i in range(v.battery.p.sensors)]
    return cells + sensors

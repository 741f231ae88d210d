"""Which services and routine effects there are, by the names descriptions use, and how an ECU is put together."""

from __future__ import annotations

import os
from collections.abc import Callable

from simulator.ecu.authentication import Authentication
from simulator.ecu.communication import AccessTiming, CommunicationControl, LinkControl
from simulator.ecu.context import EcuContext
from simulator.ecu.control import ECU_ACTIONS
from simulator.ecu.data import IoControl, ReadData, ReadScaling, WriteData
from simulator.ecu.description import DescriptionError, EcuDescription
from simulator.ecu.dtc import ClearDtcs, ControlDtcSetting, ReadDtcs
from simulator.ecu.dynamic import DefineDid, PeriodicData
from simulator.ecu.ecu_faults import FAULT_ACTIONS
from simulator.ecu.events import ResponseOnEvent
from simulator.ecu.flash import (
    FLASH_EFFECTS,
    FileTransfer,
    RequestDownload,
    RequestUpload,
    TransferData,
    TransferExit,
)
from simulator.ecu.memory import ReadMemory, WriteMemory
from simulator.ecu.obd import OBD_SERVICES
from simulator.ecu.routines import EFFECTS, EffectFactory, RoutineControl
from simulator.ecu.secured import SecuredData
from simulator.ecu.security import SecurityAccess
from simulator.ecu.server import EcuServer
from simulator.ecu.service import Service
from simulator.ecu.session import EcuReset, SessionControl, TesterPresent
from simulator.ecu.storage import NvStore
from simulator.ecu.vehicle import VehiclePort

ServiceFactory = Callable[[EcuContext, EcuDescription], Service]

#: What routines do, by the names of descriptions.
ROUTINE_EFFECTS: dict[str, EffectFactory] = {**EFFECTS, **FLASH_EFFECTS}

ECU_ACTIONS.update(FAULT_ACTIONS)


def _routine_control(context: EcuContext, description: EcuDescription) -> Service:
    for routine in description.routines:
        if routine.effect not in ROUTINE_EFFECTS:
            raise DescriptionError(f"{description.name}: routine {routine.id:#06x}: no effect {routine.effect!r}")
    return RoutineControl(context, description, ROUTINE_EFFECTS)


#: Service identifier to what makes it.
SERVICE_FACTORIES: dict[int, ServiceFactory] = {
    **OBD_SERVICES,
    0x10: SessionControl,
    0x11: EcuReset,
    0x14: ClearDtcs,
    0x19: ReadDtcs,
    0x22: ReadData,
    0x23: ReadMemory,
    0x24: ReadScaling,
    0x27: SecurityAccess,
    0x28: CommunicationControl,
    0x29: Authentication,
    0x2A: PeriodicData,
    0x2C: DefineDid,
    0x2E: WriteData,
    0x2F: IoControl,
    0x31: _routine_control,
    0x34: RequestDownload,
    0x35: RequestUpload,
    0x36: TransferData,
    0x37: TransferExit,
    0x38: FileTransfer,
    0x3D: WriteMemory,
    0x3E: TesterPresent,
    0x83: AccessTiming,
    0x84: SecuredData,
    0x85: ControlDtcSetting,
    0x86: ResponseOnEvent,
    0x87: LinkControl,
}


def build_server(
    description: EcuDescription,
    vehicle: VehiclePort,
    nv: NvStore,
    now_s: float,
    *,
    random: Callable[[int], bytes] = os.urandom,
) -> EcuServer:
    """An ECU that has just booted.

    Raises:
        DescriptionError: it lists a service, routine effect or key algorithm that does not exist.
    """
    context = EcuContext(description=description, vehicle=vehicle, nv=nv, random=random)
    services: list[Service] = []
    for entry in description.services:
        factory = SERVICE_FACTORIES.get(entry.sid)
        if factory is None:
            raise DescriptionError(f"{description.name}: services: {entry.sid:#04x} is not implemented")
        services.append(factory(context, description))
    return EcuServer(context, services, now_s)

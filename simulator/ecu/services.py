"""Which services and routine effects there are, by the names descriptions use, and how an ECU is put together."""

from __future__ import annotations

import os
from collections.abc import Callable

from simulator.ecu.context import EcuContext
from simulator.ecu.description import DescriptionError, EcuDescription
from simulator.ecu.dtc import ClearDtcs, ControlDtcSetting, ReadDtcs
from simulator.ecu.server import EcuServer
from simulator.ecu.service import Service
from simulator.ecu.session import EcuReset, SessionControl, TesterPresent
from simulator.ecu.storage import NvStore
from simulator.ecu.vehicle import VehiclePort

ServiceFactory = Callable[[EcuContext, EcuDescription], Service]

#: Service identifier to what makes it. 0x10 is made apart: it needs the server.
SERVICE_FACTORIES: dict[int, ServiceFactory] = {
    0x11: EcuReset,
    0x14: ClearDtcs,
    0x19: ReadDtcs,
    0x3E: TesterPresent,
    0x85: ControlDtcSetting,
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
    server: list[EcuServer] = []
    for entry in description.services:
        if entry.sid == 0x10:
            enter: Callable[[int, float], None] = lambda session, now: server[0].enter_session(session, now)  # noqa: E731
            services.append(SessionControl(context, description, enter))
            continue
        factory = SERVICE_FACTORIES.get(entry.sid)
        if factory is None:
            raise DescriptionError(f"{description.name}: services: {entry.sid:#04x} is not implemented")
        services.append(factory(context, description))
    server.append(EcuServer(context, services, now_s))
    return server[0]

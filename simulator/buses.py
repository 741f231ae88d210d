"""The buses of the simulated vehicle "Outrider One": their order, DBC files, speeds and default addresses.

This table is the one place that says which IPv4 multicast group stands for which bus where a machine has no vcan.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DATA = Path(__file__).parent / "data"

#: python-can's default port of its ``udp_multicast`` interface.
UDP_MULTICAST_PORT = 43113
#: Frames must not leave the machine: any other hop limit sends them out by the network card.
UDP_MULTICAST_HOP_LIMIT = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BusDescription:
    """One bus of the vehicle. ``group`` is its ``udp_multicast`` channel, ``vcan`` its customary interface."""

    name: str
    dbc: Path
    fd: bool
    bitrate_bps: int
    data_bitrate_bps: int
    group: str
    vcan: str


def _bus(index: int, name: str, *, fd: bool = False, bitrate_bps: int = 500_000) -> BusDescription:
    return BusDescription(
        name=name,
        dbc=DATA / f"outrider_one_{name}.dbc",
        fd=fd,
        bitrate_bps=bitrate_bps,
        data_bitrate_bps=2_000_000 if fd else bitrate_bps,
        group=f"239.74.163.{index + 2}",
        vcan=f"vcan{index}",
    )


#: In the order of the manifest's ``buses``.
BUSES: tuple[BusDescription, ...] = (
    _bus(0, "powertrain"),
    _bus(1, "battery", fd=True),
    _bus(2, "body"),
    _bus(3, "chassis"),
    _bus(4, "auxiliary", bitrate_bps=250_000),
)

#: The CAN side of the diagnostic connector carries only testers and the gateway; the vehicle itself is not on it.
DIAGNOSTIC_VCAN, DIAGNOSTIC_GROUP = "vcan5", "239.74.163.7"

BUS_NAMES: tuple[str, ...] = tuple(bus.name for bus in BUSES)
#: Where the body controller listens for actuator messages.
BODY = BUS_NAMES.index("body")


def find_bus(name: str) -> BusDescription:
    """The bus called ``name``.

    Raises:
        KeyError: the vehicle has no such bus; the message lists those it has.
    """
    for bus in BUSES:
        if bus.name == name:
            return bus
    raise KeyError(f"no bus {name!r}; the vehicle has {', '.join(BUS_NAMES)}")

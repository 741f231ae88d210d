"""CAN sources: SocketCAN, python-can adapters, UDP multicast and recorded logs behind one interface.

``open_source`` builds what the configuration asks for; everything else here is for those who need a part of it.
"""

from gateway.can.config import BusConfig, ReadConfig, ReplayConfig
from gateway.can.model import BusCounters, Filters, IdFilter, LinkState, SourceEnded, SourceError
from gateway.can.opening import open_source
from gateway.can.ports import FrameSource

__all__ = [
    "BusConfig",
    "BusCounters",
    "Filters",
    "FrameSource",
    "IdFilter",
    "LinkState",
    "ReadConfig",
    "ReplayConfig",
    "SourceEnded",
    "SourceError",
    "open_source",
]

"""From configuration to a source: which adapter reads which bus."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.can.config import MAX_BUSES, BusConfig, ReadConfig, ReplayConfig
from gateway.can.multicast import MulticastPort
from gateway.can.ports import BusPort, FrameSource
from gateway.can.pythoncan import PythonCanPort
from gateway.can.reader import BusReader
from gateway.can.replay import ReplayClock, ReplayPort
from gateway.can.socketcan import SocketCanPort
from gateway.runtime.clock import Clock


def open_source(
    buses: Sequence[BusConfig],
    *,
    read: ReadConfig | None = None,
    replay: ReplayConfig | None = None,
    clock: Clock | None = None,
) -> FrameSource:
    """One source over all buses, in any mix of interfaces. Its ``names`` are in the order of ``buses``.

    Call it inside the event loop. A SocketCAN interface or an adapter that is not there is a bus that is down.

    Raises:
        ValueError: no bus, too many, or two of the same name.
        SourceError: a log cannot be opened, a multicast group not joined, or python-can is not installed.
        OSError: the kernel refuses sockets or memory.
    """
    if not 0 < len(buses) <= MAX_BUSES:
        raise ValueError(f"{len(buses)} buses; from 1 to {MAX_BUSES} are possible")
    read = read or ReadConfig()
    names = [bus.name for bus in buses]
    return BusReader(make_ports(buses, read, replay or ReplayConfig()), read, clock, names=names)


def make_ports(buses: Sequence[BusConfig], read: ReadConfig, replay: ReplayConfig) -> list[BusPort]:
    """The adapters for ``buses``; buses of one kind share an adapter where that saves work. Nothing is opened.

    Raises:
        SourceError: a bus's settings do not fit its interface.
    """
    ports: list[BusPort] = []
    socketcan = [bus for bus in buses if bus.interface == "socketcan"]
    multicast = [bus for bus in buses if bus.interface == "udp_multicast"]
    if socketcan:
        ports.append(SocketCanPort(socketcan, max_batch=read.max_batch))
    if multicast:
        ports.append(MulticastPort(multicast, max_batch=read.max_batch))
    logs: dict[str, list[BusConfig]] = {}
    for bus in buses:
        if bus.interface == "replay":
            logs.setdefault(bus.channel, []).append(bus)
        elif bus.interface not in ("socketcan", "udp_multicast"):
            ports.append(PythonCanPort(bus))
    clock = ReplayClock(replay)
    ports += [ReplayPort(group, clock) for group in logs.values()]
    return ports

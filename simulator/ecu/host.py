"""The ECUs of a running simulation: their servers, transports and sockets in the simulation's own loop.

Nothing here may stop the vehicle: a defect in a handler is logged, counted, and answered with 0x10.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from simulator.buses import BUS_NAMES, find_bus
from simulator.ecu.control import Action, EcuControl
from simulator.ecu.description import DescriptionError, EcuDescription, ecu_names, load_description
from simulator.ecu.links import DiagnosticLink, Frame, open_link
from simulator.ecu.server import EcuServer, Outgoing
from simulator.ecu.service import Nrc
from simulator.ecu.services import build_server
from simulator.ecu.storage import NvStore
from simulator.ecu.transport import EcuTransport, KernelTransport, LibraryTransport, identifiers, listened
from simulator.ecu.vehicle import VehiclePort
from simulator.ports import PortError

log = logging.getLogger(__name__)

RECORDED = 64


class Watcher(Protocol):
    """What tells when a file is readable."""

    def watch(self, file: int, handle: Callable[[], None]) -> None:
        """Call ``handle`` whenever it is."""

    def unwatch(self, file: int) -> None:
        """No longer."""


class HostedEcu:
    """One ECU on its bus."""

    def __init__(self, server: EcuServer, now: Callable[[], float]) -> None:
        self.server = server
        self.description = server.description
        self.transport: EcuTransport | None = None
        self.send_frame: Callable[[Frame], None] | None = None
        self.defects = 0
        self.record: deque[dict[str, Any]] = deque(maxlen=RECORDED)
        self._now = now
        _, _, self._extended = identifiers(self.description.transport)

    def received(self, request: bytes, functional: bool) -> None:
        """A whole request came; answers go out at once where there are any."""
        now_s = self._now()
        try:
            answers = self.server.receive(request, functional=functional, now_s=now_s)
        except Exception:
            self._defect()
            answers = [Outgoing(bytes([0x7F, request[0], Nrc.GENERAL_REJECT]))]
        told = [answer.pdu.hex() for answer in answers if not answer.uudt]
        self.record.append(
            {"at_s": round(now_s, 4), "request": request.hex(), "functional": functional, "answers": told}
        )
        self._send(answers)

    def poll(self, now_s: float) -> None:
        """Timers of the server and of the transport."""
        if self.transport is not None:
            self.transport.poll()
            if self.transport.busy:
                self.server.touch(now_s)
        try:
            answers = self.server.poll(now_s)
        except Exception:
            self._defect()
            return
        self._send(answers)

    def _defect(self) -> None:
        self.defects += 1
        log.exception("ecu_handler_failed", extra={"ecu": self.description.name})

    def _send(self, answers: Collection[Outgoing]) -> None:
        transport = self.description.transport
        for answer in answers:
            if answer.uudt:
                if self.send_frame is not None:
                    data = _padded(answer.pdu, transport.frame_bytes if transport.fd else 8, transport.padding)
                    extended = transport.periodic_id > 0x7FF
                    self.send_frame(Frame(transport.periodic_id, extended, data, transport.fd))
            elif self.transport is not None:
                if isinstance(self.transport, LibraryTransport):
                    self.transport.set_padding(None if self.server.context.quirks.no_padding else transport.padding)
                self.transport.send(answer.pdu)

    def next_deadline_s(self, now_s: float) -> float | None:
        """When ``poll`` has something to do."""
        times = [self.server.next_deadline_s()]
        if self.transport is not None:
            times.append(self.transport.next_deadline_s(now_s))
        return min((time for time in times if time is not None), default=None)

    def power(self, on: bool) -> None:
        """Give or take power."""
        now_s = self._now()
        if on:
            self.server.power_on(now_s)
        else:
            self.server.power_off(now_s)
            if self.transport is not None:
                self.transport.clear()

    def state(self) -> dict[str, Any]:
        """For the control socket."""
        context = self.server.context
        return {
            **self.server.state(),
            "defects": self.defects,
            "transport_errors": 0 if self.transport is None else self.transport.errors,
            "nv": context.nv.keys(),
        }


def _padded(data: bytes, at_most: int, padding: int | None) -> bytes:
    sizes = [size for size in (8, 12, 16, 20, 24, 32, 48, 64) if len(data) <= size <= at_most]
    return data if padding is None or not sizes else data.ljust(sizes[0], bytes([padding]))


class EcuHost:
    """All ECUs of a run."""

    def __init__(
        self,
        names: Collection[str],
        vehicle: Callable[[Collection[EcuDescription]], VehiclePort],
        *,
        state: Path | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Descriptions are loaded and servers built; nothing is opened yet.

        Raises:
            DescriptionError: no such ECU, or a description that is wrong.
            StorageError: stored state that cannot be read.
            OSError: the state folder cannot be used.
        """
        self.now_s = now
        descriptions = [load_description(name) for name in names]
        port = vehicle(descriptions)
        self.ecus: dict[str, HostedEcu] = {}
        for description in descriptions:
            if description.transport.bus not in BUS_NAMES:
                raise DescriptionError(f"{description.name}: transport.bus: no bus {description.transport.bus!r}")
            server = build_server(description, port, NvStore(state, description.name), now())
            self.ecus[description.name] = HostedEcu(server, now)
        self._links: list[tuple[DiagnosticLink, dict[tuple[int, bool], list[HostedEcu]]]] = []
        self._watched: list[tuple[int, Callable[[], None]]] = []

    def open(
        self,
        buses: Mapping[str, tuple[str, str]],
        *,
        kernel: bool | None = None,
        ignore: Mapping[str, int] | None = None,
    ) -> None:
        """Open links for the buses (name to interface and channel) that ECUs are on. Others cannot be reached.

        ``kernel``: ISO-TP of the kernel, of the library, or None: the kernel's where there is one. ``ignore``: UDP
        ports our own frames come from, by bus.

        Raises:
            PortError: a link cannot be opened.
        """
        for name, (interface, channel) in buses.items():
            mine = [ecu for ecu in self.ecus.values() if ecu.description.transport.bus == name]
            if mine:
                own = (ignore or {}).get(name)
                self._open_link(name, interface, channel, mine, kernel, [] if own is None else [own])

    def _open_link(
        self, bus: str, interface: str, channel: str, ecus: list[HostedEcu], kernel: bool | None, ignore: list[int]
    ) -> None:
        heard_by: dict[tuple[int, bool], list[HostedEcu]] = {}
        for ecu in ecus:
            for key in listened(ecu.description.transport):
                heard_by.setdefault(key, []).append(ecu)
        about = find_bus(bus)
        link = open_link(interface, channel, list(heard_by), fd=about.fd, bitrate_bps=about.bitrate_bps, ignore=ignore)
        self._links.append((link, heard_by))
        for ecu in ecus:
            ecu.send_frame = link.send
            ecu.transport = self._transport(ecu, link, interface, channel, kernel)
            if isinstance(ecu.transport, KernelTransport):
                request, _, extended = identifiers(ecu.description.transport)
                heard_by[(request, extended)].remove(ecu)
                self._watched.append((ecu.transport.fileno(), ecu.transport.poll))
        self._watched.append((link.fileno(), lambda: self._hear(link, heard_by)))

    @staticmethod
    def _transport(
        ecu: HostedEcu, link: DiagnosticLink, interface: str, channel: str, kernel: bool | None
    ) -> EcuTransport:
        transport = ecu.description.transport
        if kernel is not False and interface == "socketcan":
            try:
                return KernelTransport(channel, transport, ecu.received)
            except PortError:
                if kernel:
                    raise
        elif kernel:
            raise PortError(0, f"{channel}: the kernel's ISO-TP needs --interface socketcan")
        return LibraryTransport(transport, link.send, ecu.received)

    def _hear(self, link: DiagnosticLink, heard_by: Mapping[tuple[int, bool], list[HostedEcu]]) -> None:
        for frame in link.receive():
            for ecu in heard_by.get((frame.can_id, frame.extended), ()):
                if ecu.transport is not None and ecu.server.is_powered:
                    ecu.transport.hear(frame)

    def watch(self, watcher: Watcher) -> None:
        """Hear at once what comes, instead of at the next ``poll``."""
        for file, handle in self._watched:
            if file >= 0:
                watcher.watch(file, handle)

    def files(self) -> list[int]:
        """What is readable when something has come; -1 for what cannot be watched."""
        return [file for file, _ in self._watched]

    def hear(self) -> None:
        """Take what has come, for callers that do not ``watch``."""
        for _, handle in self._watched:
            handle()

    def poll(self, now_s: float) -> None:
        """Let time pass for all ECUs; hears links that cannot be watched."""
        for file, handle in self._watched:
            if file < 0:
                handle()
        for ecu in self.ecus.values():
            ecu.poll(now_s)

    def next_deadline_s(self, now_s: float) -> float | None:
        """When ``poll`` has something to do before the next tick."""
        times = [ecu.next_deadline_s(now_s) for ecu in self.ecus.values()]
        return min((time for time in times if time is not None), default=None)

    def actions(self) -> dict[str, Action]:
        """For the control socket."""
        return EcuControl(self).actions()

    def is_deaf(self, node: str) -> bool:
        """Whether the ECU of a DBC node is down or was told not to receive normal messages."""
        return any(
            ecu.description.node == node and (not ecu.server.is_running or ecu.server.context.receive_off)
            for ecu in self.ecus.values()
        )

    def close(self) -> None:
        """Release the links and write what is non-volatile. Raises ``OSError`` (disk full)."""
        for ecu in self.ecus.values():
            if ecu.transport is not None:
                ecu.transport.close()
        for link, _ in self._links:
            link.close()
        self._links.clear()
        for ecu in self.ecus.values():
            ecu.server.context.nv.save()


def chosen_ecus(text: str) -> list[str]:
    """ECU names of ``all``, ``none`` or a list with commas (names, or files of descriptions).

    Raises:
        DescriptionError: a name twice.
    """
    if text == "none":
        return []
    if text == "all":
        return ecu_names()
    names = [name.strip() for name in text.split(",") if name.strip()]
    if len(set(names)) != len(names):
        raise DescriptionError(f"--ecus {text}: an ECU twice")
    return names

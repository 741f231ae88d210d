"""The CAN side of the diagnostic connector: testers on a bus of their own reach every ECU by its own identifiers.

For each ECU there is a server's end of its conversation on the connector's bus; what arrives there goes through the
router like every other port's requests, and the answers come back here. Nobody on this bus says who he is: all of them
are one tester to the firewall (``tester_address``, port ``obd``). Answers are CAN FD or classic as the request was.
Requests that cannot be delivered get silence, as from a bus whose ECU is gone; too many at once get 0x21.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Sequence

import anyio
import msgspec
from anyio.abc import TaskStatus

from gateway.can.link import CanFrame, CanId, CanLink, Handler
from gateway.diag.addresses import address_of, functional_address_of, settings_of
from gateway.diag.config import EcuConfig, ObdPortSection
from gateway.diag.ports import (
    TargetBusyError,
    Tester,
    TooLongError,
    UnknownTargetError,
    UnreachableError,
)
from gateway.diag.router import Router
from gateway.diag.router_model import BUSY, negative
from gateway.diag.router_session import Session
from gateway.errors import PeerError, TransportError
from gateway.isotp import Address, FunctionalListener, IsoTpChannel, open_channel, open_functional_listener
from gateway.runtime import Clock, ComponentHealth, HealthBoard
from gateway.uds.channel import ChannelClosedError

log = logging.getLogger(__name__)

MAX_ANSWERS = 32  # of one ECU that wait to be sent; the oldest are dropped, counted
FD_TX_DL = 64


class ObdPortStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """The port since the start."""

    requests: int = 0
    functional: int = 0
    answers: int = 0
    unsent: int = 0  # answers the tester did not take
    undeliverable: int = 0  # requests no ECU could get
    failed: int = 0  # requests that did not arrive whole


class _Face:
    """The connector's bus as a tester sees it that speaks one frame format: hears only that. A ``CanLink``."""

    def __init__(self, link: CanLink, *, fd: bool) -> None:
        self._link, self._fd = link, fd

    @property
    def name(self) -> str:
        return self._link.name

    @property
    def fd(self) -> bool:
        return self._fd

    def send(self, frame: CanFrame) -> None:
        self._link.send(frame)

    def hear(self, ids: Collection[CanId] | None, handler: Handler) -> Callable[[], None]:
        def pass_on(frame: CanFrame) -> None:
            if frame.fd == self._fd:
                handler(frame)

        return self._link.hear(ids, pass_on)

    async def aclose(self) -> None:
        """The link is not ours."""


class _Desk:
    """One ECU on the connector: its channels, by frame format, and the answers that wait."""

    def __init__(self, ecu: EcuConfig, faces: Sequence[_Face]) -> None:
        self.ecu = ecu
        server = address_of(ecu).reversed()
        base = msgspec.structs.replace(settings_of(ecu), tx_dl=8)
        self.channels = [
            open_channel(face, server, msgspec.structs.replace(base, tx_dl=FD_TX_DL if face.fd else 8), name=ecu.name)
            for face in faces
        ]
        self.speaks = 0  # the face of the last request
        self.waiting: deque[bytes] = deque()
        self.arrived = anyio.Event()

    def put(self, pdu: bytes) -> bool:
        """Queue an answer; False when an older one had to go."""
        has_room = len(self.waiting) < MAX_ANSWERS
        if not has_room:
            self.waiting.popleft()
        self.waiting.append(pdu)
        self.arrived.set()
        self.arrived = anyio.Event()
        return has_room


class ObdPort:
    """The component. A bus that goes away ends it; it is started again."""

    name, drain_s, optional = "obd-port", 0.0, True

    def __init__(
        self,
        section: ObdPortSection,
        ecus: Sequence[EcuConfig],
        router: Router,
        *,
        open_link: Callable[[], CanLink],
        clock: Clock,
        health: HealthBoard | None = None,
    ) -> None:
        """``open_link`` opens the connector's bus, inside the event loop (``gateway.can.link_open``)."""
        self._ecus, self._router, self._open_link = tuple(ecus), router, open_link
        self._clock, self._health = clock, health
        self._tester = Tester(port="obd", address=section.tester_address)
        self._count = dict.fromkeys(ObdPortStatistics.__struct_fields__, 0)

    def statistics(self) -> ObdPortStatistics:
        """The numbers at this moment."""
        return ObdPortStatistics(**self._count)

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Serve testers until cancelled.

        Raises:
            TransportError: the bus cannot be opened, or went away.
        """
        if self._health is not None:
            self._health.register(self.name, self._clock.monotonic_ns(), limit_s=None)
        session: Session | None = None
        link: CanLink | None = None
        try:
            link = self._open_link()
            session = self._router.open_session(self._tester)
            await self._serve(link, session, task_status)
        except* TransportError as group:
            error = _first(group)
            self._tell(ComponentHealth.DEGRADED, str(error))
            raise TransportError(f"diagnostic connector: {error}") from error
        finally:
            if session is not None:
                await session.aclose()
            if link is not None:
                with anyio.CancelScope(shield=True):
                    await link.aclose()

    def _tell(self, state: ComponentHealth, detail: str = "") -> None:
        if self._health is not None:
            self._health.report(self.name, state, detail)

    async def _serve(self, link: CanLink, session: Session, task_status: TaskStatus[None]) -> None:
        faces = [_Face(link, fd=False), *([_Face(link, fd=True)] if link.fd else [])]
        desks = {ecu.logical_address: _Desk(ecu, faces) for ecu in self._ecus}
        listeners = [
            (face, address, open_functional_listener(faces[face], address))
            for face in range(len(faces))
            for address in _functional(self._ecus)
        ]
        try:
            async with anyio.create_task_group() as tg:
                for desk in desks.values():
                    tg.start_soon(self._send_answers, desk)
                    for face, channel in enumerate(desk.channels):
                        tg.start_soon(self._hear, desk, face, channel, session)
                for face, address, listener in listeners:
                    tg.start_soon(self._hear_functional, desks.values(), face, address, listener, session)
                tg.start_soon(self._deal_out, desks, session)
                self._tell(ComponentHealth.OK)
                task_status.started()
        finally:
            with anyio.CancelScope(shield=True):
                for desk in desks.values():
                    for channel in desk.channels:
                        await channel.aclose()
                for _, _, listener in listeners:
                    await listener.aclose()

    # from testers

    async def _hear(self, desk: _Desk, face: int, channel: IsoTpChannel, session: Session) -> None:
        target = desk.ecu.logical_address
        while True:
            try:
                pdu = await channel.receive()
            except ChannelClosedError:
                raise
            except TransportError as error:
                self._count["failed"] += 1
                log.debug("request_not_received", extra={"ecu": desk.ecu.name, "error": str(error)})
                continue
            self._count["requests"] += 1
            desk.speaks = face
            try:
                await session.send(target, pdu)
            except TargetBusyError:
                desk.put(negative(pdu[0], BUSY))
            except (UnreachableError, UnknownTargetError, TooLongError) as error:
                self._undeliverable(desk.ecu.name, error)

    async def _hear_functional(
        self, desks: Collection[_Desk], face: int, address: Address, listener: FunctionalListener, session: Session
    ) -> None:
        while True:
            pdu = await listener.receive()
            self._count["functional"] += 1
            for desk in desks:
                if desk.ecu.functional_id == address.tx_id:
                    desk.speaks = face
            try:
                await session.send_functional(address.tx_id, pdu)
            except TargetBusyError:
                continue  # nobody answers a functional request by 0x21 for others
            except (UnreachableError, UnknownTargetError, TooLongError) as error:
                self._undeliverable(f"{address.tx_id:#x}", error)

    def _undeliverable(self, where: str, error: PeerError | TransportError) -> None:
        self._count["undeliverable"] += 1
        log.debug("request_not_delivered", extra={"to": where, "error": str(error)})

    # to testers

    async def _deal_out(self, desks: dict[int, _Desk], session: Session) -> None:
        while True:
            target, pdu = await session.receive()
            if target in desks and not desks[target].put(pdu):
                self._count["unsent"] += 1

    async def _send_answers(self, desk: _Desk) -> None:
        while True:
            while not desk.waiting:
                await desk.arrived.wait()
            pdu = desk.waiting.popleft()
            try:
                await desk.channels[desk.speaks].send(pdu)
            except ChannelClosedError:
                raise
            except (TransportError, PeerError) as error:
                self._count["unsent"] += 1
                log.debug("answer_not_sent", extra={"ecu": desk.ecu.name, "error": str(error)})
            else:
                self._count["answers"] += 1


def _functional(ecus: Sequence[EcuConfig]) -> list[Address]:
    """The functional addresses of all ECUs, each once."""
    found: dict[CanId, Address] = {}
    for ecu in ecus:
        address = functional_address_of(ecu)
        if address is not None:
            found.setdefault((address.tx_id, address.extended_id), address)
    return list(found.values())


def _first(group: BaseExceptionGroup[TransportError]) -> Exception:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, Exception) else TransportError(str(error))

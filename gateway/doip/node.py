"""The DoIP edge node as a component: sockets, announcements, TLS. The rules are in ``core`` and ``datagrams``."""

from __future__ import annotations

import asyncio
import errno
import logging
import random
import socket
import ssl
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import cast

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup, TaskStatus

from gateway.diag.config import DoipSection
from gateway.diag.ports import DiagnosticRouter, Tester
from gateway.doip.core import Action, Activated, Close, DoipCore, Route, Send
from gateway.doip.datagrams import answer_datagram
from gateway.doip.link import Link
from gateway.doip.messages import DiagnosticNackCode, PowerModeCode, encode
from gateway.doip.model import Authorise, Entity, NodeLimits, NodeStatistics, VehicleFacts, authorise
from gateway.doip.sockets import announcement_target, listen, open_datagrams
from gateway.doip.tls import HERE, peer_name, server_context
from gateway.runtime.clock import Clock
from gateway.runtime.health import ComponentHealth, HealthBoard

log = logging.getLogger(__name__)

DEFAULT_LIMITS = NodeLimits()
LINGERING = 32  # connections that may wait for their last bytes to leave
NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class DoipNode:
    """Testers on the network reach the router's targets through this.

    ``power_mode`` tells whether the vehicle is ready for diagnostics; ``authorise`` may refuse an activation that is
    sound otherwise; TLS files are looked for in ``base``. After start ``port`` and ``tls_port`` are the bound ones.
    """

    name, drain_s, optional = "doip", 0.0, True

    def __init__(
        self,
        config: DoipSection,
        router: DiagnosticRouter,
        facts: VehicleFacts,
        clock: Clock,
        health: HealthBoard,
        *,
        power_mode: Callable[[], PowerModeCode] = lambda: PowerModeCode.READY,
        authorise: Authorise = authorise,
        limits: NodeLimits = DEFAULT_LIMITS,
        base: Path = HERE,
    ) -> None:
        self._config, self._router, self._clock, self._health = config, router, clock, health
        self.limits = limits
        self.answers = self.answers_dropped = 0
        self.port = config.port
        self.tls_port = config.tls_port
        self._core = DoipCore(
            config, is_target=self._is_target, authorise=authorise, receive_bytes=limits.receive_bytes
        )
        self._entity = Entity(
            facts=facts,
            power_mode=power_mode,
            open_sockets=lambda: self._core.open_sockets,
            max_sockets=config.max_connections,
            max_data_bytes=config.max_request_bytes,
        )
        self._tls = server_context(config, base)
        self._links: dict[int, Link] = {}
        self._next_key = 0
        self._tasks: TaskGroup | None = None
        self._activations: asyncio.Queue[tuple[Link, Tester]] = asyncio.Queue()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns = 0
        self._datagrams = self._datagrams_ignored = 0
        health.register(self.name, clock.monotonic_ns(), limit_s=None)

    def statistics(self) -> NodeStatistics:
        """The numbers at this moment."""
        core = self._core
        return NodeStatistics(
            open=core.open_sockets,
            active=core.active_sockets,
            accepted=core.accepted,
            evicted=core.evicted,
            refused={int(code): n for code, n in core.refused.items()},
            header_nacks={int(code): n for code, n in core.header_nacks.items()},
            closed=dict(core.closed_by_reason),
            requests=core.requests,
            nacks={int(code): n for code, n in core.nacks.items()},
            answers=self.answers,
            answers_dropped=self.answers_dropped,
            datagrams=self._datagrams,
            datagrams_ignored=self._datagrams_ignored,
        )

    def confirm(self, source: int, *, accepted: bool) -> None:
        """Somebody in the vehicle decided about a tester whose activation waits for it."""
        self._do(self._core.confirm(source, accepted, self._clock.monotonic_ns()))

    # life

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Serve until cancelled.

        Raises:
            TransportError: an address cannot be bound.
        """
        listeners: list[tuple[socket.socket, ssl.SSLContext | None]] = []
        transports: list[asyncio.DatagramTransport] = []
        try:
            plain = listen(self._config.host, self._config.port)
            listeners.append((plain, None))
            self.port = plain.getsockname()[1]
            if self._tls is not None:
                secured = listen(self._config.host, self._config.tls_port or 0)
                listeners.append((secured, self._tls))
                self.tls_port = secured.getsockname()[1]
            transports += await self._open_datagrams()
            async with anyio.create_task_group() as self._tasks:
                for listener, context in listeners:
                    self._tasks.start_soon(self._accept, listener, context)
                self._tasks.start_soon(self._serve)
                if self._config.announce:
                    self._tasks.start_soon(self._announce, transports[0])
                self._health.report(self.name, ComponentHealth.OK)
                log.info("doip_listening", extra={"host": self._config.host, "port": self.port})
                task_status.started()
        finally:
            self._stop(listeners, transports)

    def _stop(
        self,
        listeners: Sequence[tuple[socket.socket, ssl.SSLContext | None]],
        transports: Sequence[asyncio.DatagramTransport],
    ) -> None:
        self._tasks = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for listener, _ in listeners:
            listener.close()
        for transport in transports:
            transport.abort()
        now_ns = self._clock.monotonic_ns()
        for link in list(self._links.values()):
            self._core.closed(link.key, now_ns, "gateway stops")
            link.close(at_once=True)
        self._links.clear()

    # TCP

    async def _accept(self, listener: socket.socket, context: ssl.SSLContext | None) -> None:
        loop = asyncio.get_running_loop()
        is_told = False
        while True:
            try:
                sock, address = await loop.sock_accept(listener)
            except OSError as error:
                if error.errno in NO_DESCRIPTORS and not is_told:  # others: gone before it was taken
                    log.warning("doip_accept_failed", extra={"error": str(error)})
                    is_told = True
                await anyio.sleep(0.2)
                continue
            is_told = False
            self._admit(sock, f"{address[0]}:{address[1]}", context)
            await anyio.lowlevel.checkpoint()  # a flood of connections must not keep the others waiting

    def _admit(self, sock: socket.socket, peer: str, context: ssl.SSLContext | None) -> None:
        self._next_key += 1
        link = Link(self, self._next_key, peer)
        self._links[link.key] = link
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.limits.write_buffer_bytes)  # or the kernel grows it
        now_ns = self._clock.monotonic_ns()
        self._do(self._core.open(link.key, now_ns, peer=peer, is_tls=context is not None))
        assert self._tasks is not None
        self._tasks.start_soon(self._connect, link, sock, context)

    async def _connect(self, link: Link, sock: socket.socket, context: ssl.SSLContext | None) -> None:
        """Give the socket its transport, after a TLS handshake if there is one."""
        handshake_s = self._config.initial_inactivity_ms / 1000 if context is not None else None
        shutdown_s = self.limits.linger_ms / 1000 if context is not None else None
        with link.handshake:
            try:
                await asyncio.get_running_loop().connect_accepted_socket(
                    lambda: link,
                    sock,
                    ssl=context,
                    ssl_handshake_timeout=handshake_s,
                    ssl_shutdown_timeout=shutdown_s,
                )
            except (OSError, ssl.SSLError) as error:
                log.debug("doip_handshake_failed", extra={"peer": link.peer, "error": str(error)})
                self.lost(link, "handshake failed")
        if link.transport is None:
            sock.close()
            self._links.pop(link.key, None)

    # what links tell

    def connected(self, link: Link) -> None:
        """A link has its transport."""
        assert link.transport is not None
        if self._core.connection(link.key) is None:  # evicted meanwhile
            link.close(at_once=True)
        elif (name := peer_name(link.transport)) is not None:
            self._core.identified(link.key, name)

    def received(self, link: Link, data: bytes) -> None:
        """Bytes of a tester."""
        self._do(self._core.receive(link.key, data, self._clock.monotonic_ns()))

    def lost(self, link: Link, reason: str) -> None:
        """A link is gone, or is to be given up."""
        if link.transport is None or link.transport.is_closing():
            link.finished()
        self._links.pop(link.key, None)
        self._do(self._core.closed(link.key, self._clock.monotonic_ns(), reason))

    def acknowledgement(self, link: Link, target: int) -> bytes:
        """See ``DoipCore``."""
        return self._core.acknowledgement(link.key, target)

    def refusal(self, link: Link, target: int, code: DiagnosticNackCode) -> bytes:
        """See ``DoipCore``."""
        return self._core.refusal(link.key, target, code)

    def answer(self, link: Link, source: int, pdu: bytes) -> bytes:
        """See ``DoipCore``."""
        return self._core.answer(link.key, source, pdu)

    def wrote(self, link: Link) -> None:
        """The connection is in use."""
        self._core.sent(link.key, self._clock.monotonic_ns())

    # what the core wants

    def _do(self, actions: Sequence[Action]) -> None:
        for action in actions:
            link = self._links.get(action.key)
            if link is None:
                continue
            match action:
                case Send(_, data):
                    link.write(data)
                case Route(_, target, pdu):
                    link.request(target, pdu)
                case Activated(_, source, activation_type):
                    self._activated(link, source, activation_type)
                case Close(_, reason, at_once):
                    log.debug("doip_closed", extra={"peer": link.peer, "reason": reason})
                    crowd = self._config.max_connections + self._config.max_pending_connections + LINGERING
                    link.close(at_once=at_once or len(self._links) > crowd)
        self._set_timer()

    def _activated(self, link: Link, source: int, activation_type: int) -> None:
        connection = self._core.connection(link.key)
        if connection is None:
            return
        tester = Tester(
            port="doip",
            address=source,
            name=connection.name,
            peer=link.peer,
            is_secure=connection.is_secure,
        )
        log.info(
            "doip_activated",
            extra={"peer": link.peer, "source": f"{source:#06x}", "type": activation_type, "tls": connection.is_tls},
        )
        self._activations.put_nowait((link, tester))

    async def _serve(self) -> None:
        """Give each activated tester its session. A task of its own, since tasks cannot be begun in callbacks."""
        assert self._tasks is not None
        while True:
            link, tester = await self._activations.get()
            self._tasks.start_soon(link.serve, partial(self._router.open_session, tester), self._is_functional)

    def _is_functional(self, address: int) -> bool:
        return address not in self._router.targets

    def _is_target(self, address: int) -> bool:
        return address in self._router.targets or bool(self._router.functional_targets(address))

    # time

    def _set_timer(self) -> None:
        """Be woken at the next deadline. A timer that is too early is left: it finds nothing due and sets the next."""
        deadline_ns = self._core.next_deadline_ns()
        if deadline_ns is None or self._tasks is None:
            return
        if self._timer is not None:
            if self._timer_ns <= deadline_ns:
                return
            self._timer.cancel()
        delay_s = max(0.0, (deadline_ns - self._clock.monotonic_ns()) / 1e9)
        self._timer, self._timer_ns = asyncio.get_running_loop().call_later(delay_s, self.tick), deadline_ns

    def tick(self) -> None:
        """Do what is due now; called by the node's own timer."""
        self._timer = None
        self._do(self._core.handle_deadline(self._clock.monotonic_ns()))

    # UDP

    async def _open_datagrams(self) -> list[asyncio.DatagramTransport]:
        """One socket that answers and announces; with a specific address, others that hear broadcasts too."""
        loop = asyncio.get_running_loop()
        first = _Datagrams(self, None)
        transports: list[asyncio.DatagramTransport] = []
        for sock in open_datagrams(self._config.host, self.port, self._config.announce_address):
            transport, _ = await loop.create_datagram_endpoint(self._datagram_protocol(first, transports), sock=sock)
            transports.append(transport)
        return transports

    def _datagram_protocol(
        self, first: _Datagrams, transports: list[asyncio.DatagramTransport]
    ) -> Callable[[], _Datagrams]:
        return lambda: _Datagrams(self, first) if transports else first

    def datagram(self, data: bytes) -> bytes | None:
        """The answer to one datagram."""
        self._datagrams += 1
        reply = answer_datagram(data, self._entity)
        self._datagrams_ignored += reply is None
        return reply

    async def _announce(self, transport: asyncio.DatagramTransport) -> None:
        """Say three times who we are, to this machine only unless configured otherwise."""
        target = announcement_target(self._config.host, self._config.announce_address, self.port)
        await anyio.sleep(random.random() * self.limits.announce_wait_ms / 1000)
        for _ in range(self.limits.announce_count):
            transport.sendto(encode(self._entity.facts.identity), target)
            await anyio.sleep(self.limits.announce_interval_ms / 1000)


class _Datagrams(asyncio.DatagramProtocol):
    """One UDP socket; answers leave by ``by``'s, or its own. What cannot leave now is dropped: testers ask again."""

    def __init__(self, node: DoipNode, by: _Datagrams | None) -> None:
        self._node, self._by = node, by or self
        self._transport: asyncio.DatagramTransport | None = None
        self._is_full = self._has_failed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        reply = self._node.datagram(data)
        if reply is not None and self._by._transport is not None and not self._by._is_full:
            self._by._transport.sendto(reply, address)

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False

    def error_received(self, exc: Exception) -> None:
        if not self._has_failed:
            log.warning("doip_datagram_failed", extra={"error": str(exc)})
        self._has_failed = True

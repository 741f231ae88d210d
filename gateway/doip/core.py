"""The rules of a DoIP entity's TCP connections. No I/O: bytes and time in, actions out.

Theory of operation. A connection is OPEN until a routing activation registers it for a source address. It is then
ACTIVE, or PENDING while the tester still has to authenticate itself or somebody in the vehicle has to agree; both hold
one of ``max_connections`` places. OPEN ones hold none, live for the initial inactivity time, and when there are too
many of them the oldest makes room: whoever connects and says nothing keeps nobody out who speaks at once.

An activation that finds its source address registered elsewhere, or all places taken, waits: the connections in its way
are asked whether they are alive. One that says nothing within the alive check time is closed and its place given away;
when all have answered, the activation is refused. Any whole message is a sign of life. After each event all waiting
activations are judged anew, in the order they came.

A refusal closes the connection, except MISSING_AUTHENTICATION. The type of an activation is judged before its source
address, so that a sweep over types learns which there are whatever address it uses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

import msgspec

from gateway.diag.config import DoipSection
from gateway.doip.messages import (
    ADDRESSES_BYTES,
    V2012,
    VERSIONS,
    ActivationCode,
    ActivationRequest,
    ActivationResponse,
    ActivationType,
    AliveCheckRequest,
    AliveCheckResponse,
    Diagnostic,
    DiagnosticAck,
    DiagnosticNack,
    DiagnosticNackCode,
    HeaderNack,
    HeaderNackCode,
    Message,
    PayloadType,
    encode,
)
from gateway.doip.model import Applicant, Authorise, Verdict
from gateway.doip.stream import Header, Received, Refused, StreamParser

OVERHEAD_BYTES = 64  # payloads other than diagnostic messages are shorter than this; always taken
SPOKEN_BY_TESTERS = frozenset(
    (
        PayloadType.ACTIVATION_REQUEST,
        PayloadType.ALIVE_CHECK_REQUEST,
        PayloadType.ALIVE_CHECK_RESPONSE,
        PayloadType.DIAGNOSTIC,
        PayloadType.DIAGNOSTIC_ACK,
        PayloadType.DIAGNOSTIC_NACK,
        PayloadType.HEADER_NACK,
    )
)
ACCEPTING = (ActivationCode.ACTIVATED, ActivationCode.CONFIRMATION_REQUIRED, ActivationCode.MISSING_AUTHENTICATION)


class Send(msgspec.Struct, frozen=True):
    """Write these bytes."""

    key: int
    data: bytes


class Close(msgspec.Struct, frozen=True):
    """End it: at once, or after what was written before has left."""

    key: int
    reason: str
    at_once: bool = False


class Activated(msgspec.Struct, frozen=True):
    """Routing is active: requests may follow."""

    key: int
    source: int
    activation_type: int


class Route(msgspec.Struct, frozen=True):
    """Hand a request to the router, then tell the tester with ``acknowledgement`` or ``refusal``."""

    key: int
    target: int
    pdu: bytes


Action = Send | Close | Activated | Route


class Phase(Enum):
    """Where a connection is."""

    OPEN = "open"
    PENDING = "pending"
    ACTIVE = "active"


@dataclass(slots=True)
class Connection:
    """What the core knows about one."""

    key: int
    peer: str
    is_tls: bool
    is_secure: bool = False
    name: str = ""
    phase: Phase = Phase.OPEN
    source: int | None = None
    activation_type: int = 0
    version: int = V2012
    opened_ns: int = 0
    last_ns: int = 0
    alive_deadline_ns: int | None = None
    waiting: ActivationRequest | None = None  # for alive checks of others
    checked: set[int] = field(default_factory=set)  # those that have not answered yet
    reserved_bytes: int = 0
    parser: StreamParser = field(init=False)


class DoipCore:
    """All connections of one node. ``is_target`` says whether a logical address is one we route to."""

    def __init__(
        self,
        config: DoipSection,
        *,
        is_target: Callable[[int], bool],
        authorise: Authorise,
        receive_bytes: int,
    ) -> None:
        self._config, self._is_target, self._authorise = config, is_target, authorise
        self._receive_bytes = max(receive_bytes, config.max_request_bytes + OVERHEAD_BYTES)
        self._reserved = 0
        self._connections: dict[int, Connection] = {}  # in the order they came
        self.refused: Counter[int] = Counter()
        self.header_nacks: Counter[int] = Counter()
        self.nacks: Counter[int] = Counter()
        self.closed_by_reason: Counter[str] = Counter()
        self.accepted = self.evicted = self.requests = 0

    # what others may know

    @property
    def open_sockets(self) -> int:
        """Connections of all kinds."""
        return len(self._connections)

    @property
    def active_sockets(self) -> int:
        """Those that route."""
        return sum(c.phase is Phase.ACTIVE for c in self._connections.values())

    def connection(self, key: int) -> Connection | None:
        """One of them, to look at."""
        return self._connections.get(key)

    # events

    def open(self, key: int, now_ns: int, *, peer: str, is_tls: bool) -> list[Action]:
        """A connection came in (before any TLS handshake). The oldest that says nothing makes room if need be."""
        self.accepted += 1
        actions: list[Action] = []
        unregistered = [c for c in self._connections.values() if c.phase is Phase.OPEN]
        if len(unregistered) >= self._config.max_pending_connections:
            self.evicted += 1
            silent = (c for c in unregistered if c.waiting is None)
            actions += self._close(next(silent, unregistered[0]), "evicted", at_once=True)
        connection = Connection(key, peer, is_tls, opened_ns=now_ns, last_ns=now_ns)
        connection.parser = StreamParser(lambda header: self._judge(connection, header))
        self._connections[key] = connection
        return actions

    def identified(self, key: int, name: str) -> None:
        """The TLS handshake verified the tester's certificate."""
        if (connection := self._connections.get(key)) is not None:
            connection.is_secure, connection.name = True, name

    def receive(self, key: int, data: bytes, now_ns: int) -> list[Action]:
        """Bytes came."""
        connection = self._connections.get(key)
        if connection is None:
            return []
        actions: list[Action] = []
        connection.last_ns = now_ns
        for event in connection.parser.feed(data):
            if isinstance(event, Refused):
                actions += self._refuse_header(connection, event)
            else:
                actions += self._handle(connection, event, now_ns)
            if key not in self._connections:
                break
        return actions + self._settle(now_ns)

    def sent(self, key: int, now_ns: int) -> None:
        """Something was written: the connection is in use."""
        if (connection := self._connections.get(key)) is not None:
            connection.last_ns = now_ns

    def closed(self, key: int, now_ns: int, reason: str = "by the tester") -> list[Action]:
        """It is gone."""
        connection = self._connections.get(key)
        if connection is None:
            return []
        self._forget(connection, reason)
        return self._settle(now_ns)

    def confirm(self, source: int, accepted: bool, now_ns: int) -> list[Action]:
        """Somebody in the vehicle decided about a tester that waits for confirmation. Unknown testers: nothing."""
        for connection in self._connections.values():
            if connection.source == source and connection.phase is Phase.PENDING:
                if not accepted:
                    return self._answer(connection, source, ActivationCode.REJECTED_CONFIRMATION) + self._settle(now_ns)
                connection.phase = Phase.ACTIVE
                activated = Activated(connection.key, source, connection.activation_type)
                return [*self._answer(connection, source, ActivationCode.ACTIVATED), activated]
        return []

    # answers about requests

    def acknowledgement(self, key: int, target: int) -> bytes:
        """The 0x8002 for a routed request; empty when the connection is gone."""
        connection = self._connections.get(key)
        if connection is None or connection.source is None:
            return b""
        return encode(DiagnosticAck(target, connection.source), connection.version)

    def refusal(self, key: int, target: int, code: DiagnosticNackCode) -> bytes:
        """The 0x8003 for one that was not; empty when the connection is gone."""
        connection = self._connections.get(key)
        if connection is None or connection.source is None:
            return b""
        self.nacks[code] += 1
        return encode(DiagnosticNack(target, connection.source, code), connection.version)

    def answer(self, key: int, source: int, pdu: bytes) -> bytes:
        """The 0x8001 that carries an ECU's PDU; empty when the connection is gone."""
        connection = self._connections.get(key)
        if connection is None or connection.source is None:
            return b""
        return encode(Diagnostic(source, connection.source, pdu), connection.version)

    # time

    def next_deadline_ns(self) -> int | None:
        """When ``handle_deadline`` wants to be called."""
        return min((d for c in self._connections.values() for d in self._deadlines(c)), default=None)

    def handle_deadline(self, now_ns: int) -> list[Action]:
        """Close what is overdue and give its place away."""
        actions: list[Action] = []
        for connection in list(self._connections.values()):
            if connection.alive_deadline_ns is not None and now_ns >= connection.alive_deadline_ns:
                actions += self._close(connection, "not alive", at_once=True)
            elif any(now_ns >= deadline for deadline in self._deadlines(connection)):
                silent = connection.phase is Phase.OPEN
                actions += self._close(connection, "initial inactivity" if silent else "general inactivity")
        return actions + self._settle(now_ns)

    def _deadlines(self, connection: Connection) -> list[int]:
        if connection.phase is not Phase.OPEN:
            deadlines = [connection.last_ns + self._config.general_inactivity_ms * 1_000_000]
        elif connection.waiting is not None:  # alive checks end it soon enough
            deadlines = []
        else:
            deadlines = [connection.opened_ns + self._config.initial_inactivity_ms * 1_000_000]
        if connection.alive_deadline_ns is not None:
            deadlines.append(connection.alive_deadline_ns)
        return deadlines

    # headers

    def _judge(self, connection: Connection, header: Header) -> HeaderNackCode | None:
        if header.payload_type not in SPOKEN_BY_TESTERS:
            return HeaderNackCode.UNKNOWN_TYPE
        if header.length > self._config.max_request_bytes + ADDRESSES_BYTES:
            return HeaderNackCode.TOO_LARGE
        share = self._receive_bytes if connection.phase is Phase.ACTIVE else self._receive_bytes // 4
        if header.length > OVERHEAD_BYTES and self._reserved + header.length > share:
            return HeaderNackCode.OUT_OF_MEMORY  # strangers cannot take the testers' memory, nor hinder activations
        connection.reserved_bytes = header.length
        self._reserved += header.length
        return None

    def _refuse_header(self, connection: Connection, refused: Refused) -> list[Action]:
        self.header_nacks[refused.code] += 1
        self._release(connection)
        version = refused.version if refused.version in VERSIONS else V2012
        actions: list[Action] = [Send(connection.key, encode(HeaderNack(refused.code), version))]
        if refused.is_fatal:
            actions += self._close(connection, f"header nack {refused.code:#04x}")
        return actions

    def _release(self, connection: Connection) -> None:
        self._reserved -= connection.reserved_bytes
        connection.reserved_bytes = 0

    # messages

    def _handle(self, connection: Connection, received: Received, now_ns: int) -> list[Action]:
        self._release(connection)
        connection.version = received.version
        if connection.alive_deadline_ns is not None:  # a sign of life
            connection.alive_deadline_ns = None
            for other in self._connections.values():
                other.checked.discard(connection.key)
        match received.message:
            case ActivationRequest() as request:
                return self._activate(connection, request, now_ns)
            case Diagnostic() as diagnostic:
                return self._diagnostic(connection, diagnostic)
            case AliveCheckRequest():  # not a tester's to ask, but some do
                alive = AliveCheckResponse(self._config.logical_address)
                return [Send(connection.key, encode(alive, connection.version))]
            case _:
                return []

    def _diagnostic(self, connection: Connection, message: Diagnostic) -> list[Action]:
        if connection.phase is not Phase.ACTIVE or message.source != connection.source:
            self.nacks[DiagnosticNackCode.INVALID_SOURCE] += 1
            nack: Message = DiagnosticNack(message.target, message.source, DiagnosticNackCode.INVALID_SOURCE)
            send = Send(connection.key, encode(nack, connection.version))
            return [send, *self._close(connection, "invalid source address")]
        if not self._is_target(message.target):
            return [
                Send(connection.key, self.refusal(connection.key, message.target, DiagnosticNackCode.UNKNOWN_TARGET))
            ]
        self.requests += 1
        return [Route(connection.key, message.target, message.data)]

    # routing activation

    def _activate(self, connection: Connection, request: ActivationRequest, now_ns: int) -> list[Action]:
        if connection.waiting is not None:
            return []  # it will get its answer
        if (code := self._unsound(connection, request)) is not None:
            return self._answer(connection, request.source, code)
        if connection.source is None and (obstacles := self._obstacles(request.source)):
            connection.waiting = request
            connection.checked = {c.key for c in obstacles}
            return [action for other in obstacles for action in self._check_alive(other, now_ns)]
        return self._register(connection, request)

    def _unsound(self, connection: Connection, request: ActivationRequest) -> ActivationCode | None:
        """What is wrong with it, whoever else is connected."""
        if request.activation_type not in tuple(ActivationType):
            return ActivationCode.UNSUPPORTED_TYPE
        if not any(first <= request.source <= last for first, last in self._config.testers):
            return ActivationCode.UNKNOWN_SOURCE
        if connection.source not in (None, request.source):
            return ActivationCode.DIFFERENT_SOURCE
        if self._config.require_tls and not connection.is_tls:
            return ActivationCode.TLS_REQUIRED
        return None

    def _obstacles(self, source: int) -> list[Connection]:
        """Connections that would have to go before ``source`` can be registered; empty when it can."""
        registered = [c for c in self._connections.values() if c.phase is not Phase.OPEN]
        same = [c for c in registered if c.source == source]
        return same or (registered if len(registered) >= self._config.max_connections else [])

    def _check_alive(self, connection: Connection, now_ns: int) -> list[Action]:
        if connection.alive_deadline_ns is not None:
            return []  # already asked
        connection.alive_deadline_ns = now_ns + self._config.alive_check_ms * 1_000_000
        return [Send(connection.key, encode(AliveCheckRequest(), connection.version))]

    def _register(self, connection: Connection, request: ActivationRequest) -> list[Action]:
        was_active = connection.phase is Phase.ACTIVE
        verdict = self._authorise(
            Applicant(
                source=request.source,
                activation_type=request.activation_type,
                oem=request.oem,
                is_tls=connection.is_tls,
                is_secure=connection.is_secure,
                name=connection.name,
                peer=connection.peer,
            )
        )
        code = _CODES[verdict]
        if code not in ACCEPTING:
            return self._answer(connection, request.source, code)
        connection.source, connection.activation_type = request.source, request.activation_type
        connection.phase = Phase.ACTIVE if was_active or code is ActivationCode.ACTIVATED else Phase.PENDING
        actions = self._answer(connection, request.source, code)
        if connection.phase is Phase.ACTIVE and not was_active:
            actions.append(Activated(connection.key, request.source, request.activation_type))
        return actions

    def _settle(self, now_ns: int) -> list[Action]:
        """Judge all waiting activations anew."""
        actions: list[Action] = []
        for connection in [c for c in self._connections.values() if c.waiting is not None]:
            request = connection.waiting
            assert request is not None  # ours, not the peer's
            obstacles = self._obstacles(request.source)
            if obstacles and connection.checked:
                continue
            connection.waiting = None
            connection.checked.clear()
            if not obstacles:
                actions += self._register(connection, request)
            else:
                is_same = obstacles[0].source == request.source
                code = ActivationCode.SOURCE_IN_USE if is_same else ActivationCode.ALL_SOCKETS_IN_USE
                actions += self._answer(connection, request.source, code)
        return actions

    def _answer(self, connection: Connection, source: int, code: ActivationCode) -> list[Action]:
        response = ActivationResponse(source, self._config.logical_address, code)
        actions: list[Action] = [Send(connection.key, encode(response, connection.version))]
        if code not in (ActivationCode.ACTIVATED, ActivationCode.CONFIRMATION_REQUIRED):
            self.refused[code] += 1
        if code not in ACCEPTING:
            actions += self._close(connection, f"activation refused {code:#04x}")
        return actions

    # ends

    def _close(self, connection: Connection, reason: str, *, at_once: bool = False) -> list[Action]:
        self._forget(connection, reason)
        return [Close(connection.key, reason, at_once)]

    def _forget(self, connection: Connection, reason: str) -> None:
        self.closed_by_reason[reason] += 1
        self._release(connection)
        del self._connections[connection.key]
        for other in self._connections.values():
            other.checked.discard(connection.key)


_CODES = {
    Verdict.ALLOWED: ActivationCode.ACTIVATED,
    Verdict.AUTHENTICATE: ActivationCode.MISSING_AUTHENTICATION,
    Verdict.CONFIRM: ActivationCode.CONFIRMATION_REQUIRED,
    Verdict.REJECTED: ActivationCode.REJECTED_CONFIRMATION,
    Verdict.TLS_REQUIRED: ActivationCode.TLS_REQUIRED,
}

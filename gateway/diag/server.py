"""The gateway's own diagnostic server: the UDS services of the target that is no bus but this process.

Sessions are per tester: what one does neither ends nor extends the session of another. The only thing they share is DTC
setting (0x85), which stays off while any tester holds it off. A tester that falls silent for S3 is back in the default
session, and what it held is released. Checks come in the order of ISO 14229-1, 8.7: service, session, length and
sub-function, exact length, range.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from gateway.diag.ports import Tester
from gateway.diag.server_data import ACTIVE_SESSION, FIRST_SIGNAL, SNAPSHOT_TIME, DataIdentifier, signal, table
from gateway.diag.server_dtc import EXTENDED, LENGTHS, DtcReader, Refused
from gateway.dtc.memory import FaultMemory, UnknownGroupError
from gateway.dtc.monitors import MonitorEngine
from gateway.errors import NotNowError, TransportError
from gateway.runtime import Clock
from gateway.wire.dtc import format_dtc

log = logging.getLogger(__name__)

DEFAULT, EXTENDED_SESSION = 0x01, 0x03
P2_MS, P2_STAR_MS = 50, 5000
MAX_ANSWER_BYTES = 4095
MAX_IDENTIFIERS = 32  # in one request
MAX_SESSIONS = 64  # testers in another session than the default one

SERVICE_NOT_SUPPORTED, SUBFUNCTION_NOT_SUPPORTED, INCORRECT_LENGTH, TOO_LONG = 0x11, 0x12, 0x13, 0x14
BUSY, CONDITIONS, OUT_OF_RANGE, PROGRAMMING_FAILURE = 0x21, 0x22, 0x31, 0x72
SUBFUNCTION_NOT_IN_SESSION, SERVICE_NOT_IN_SESSION = 0x7E, 0x7F
#: Not sent to functional requests (ISO 14229-1, 8.7.2).
_SILENT = frozenset({SERVICE_NOT_SUPPORTED, SUBFUNCTION_NOT_SUPPORTED, OUT_OF_RANGE, 0x7E, 0x7F})
_SUPPRESS = 0x80

_Key = tuple[str, int, str, str]


class FaultDesk(Protocol):
    """Where clearing becomes durable: ``gateway.dtc.component.DtcComponent``."""

    @property
    def memory(self) -> FaultMemory:
        """The fault memory."""

    async def persist(self) -> None:
        """Store what changed; ``TransportError`` or ``NotNowError`` when that failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Service:
    """``subfunctions``: length of the whole request by sub-function; None: a service without."""

    handle: Callable[[_Key, Tester, int, bytes], Awaitable[bytes]]
    sessions: frozenset[int] = frozenset({DEFAULT, EXTENDED_SESSION})
    subfunctions: Mapping[int, int] | None = None
    min_length: int = 2


class GatewayServer:
    """A ``UdsServer``.

    Args:
        identifiers: what 0x22 reads besides the active session and the monitors' signals.
        engine: for the signals in snapshots; they can be read live too.
        reset: given, service 0x11 exists; called with 1 (hard) or 3 (soft) before the answer, and must return at once.
        s3_ms: silence after which a session falls back.
    """

    def __init__(
        self,
        *,
        faults: FaultDesk,
        engine: MonitorEngine,
        identifiers: Sequence[DataIdentifier],
        clock: Clock,
        reset: Callable[[int], None] | None = None,
        s3_ms: int = 5000,
    ) -> None:
        self._faults, self._clock, self._reset, self._s3_ns = faults, clock, reset, s3_ms * 1_000_000
        live = _live_signals(engine)
        self._session_did = ACTIVE_SESSION
        self._identifiers = table([*identifiers, *live.values()])
        if SNAPSHOT_TIME in self._identifiers or ACTIVE_SESSION in self._identifiers:
            raise ValueError("identifiers 0x4000 and 0xF186 are the server's own")
        self._reader = DtcReader(faults.memory, {name: d.number for name, d in live.items()})
        self._sessions: dict[_Key, int] = {}  # tester -> monotonic ns of its last request, extended session only
        self._services: dict[int, _Service] = {
            0x10: _Service(handle=self._control_session, subfunctions={DEFAULT: 2, EXTENDED_SESSION: 2}),
            0x14: _Service(handle=self._clear, min_length=4),
            0x19: _Service(handle=self._read_dtcs, subfunctions=LENGTHS),
            0x22: _Service(handle=self._read_data, min_length=3),
            0x3E: _Service(handle=self._present, subfunctions={0: 2}),
            0x85: _Service(handle=self._set_dtcs, subfunctions={1: 2, 2: 2}, sessions=frozenset({EXTENDED_SESSION})),
        }
        if reset is not None:
            self._services[0x11] = _Service(handle=self._reset_gateway, subfunctions={1: 2, 3: 2})

    # -- UdsServer ----------------------------------------------------------------------------------------------

    async def handle(self, tester: Tester, pdu: bytes, *, is_functional: bool) -> list[bytes]:
        """See ``UdsServer``."""
        if not pdu:
            return []
        key = (tester.port, tester.address, tester.name, tester.peer)
        self.tick(self._clock.monotonic_ns())
        try:
            answer = await self._serve(key, tester, pdu)
        except Refused as refused:
            answer = None if is_functional and refused.nrc in _SILENT else bytes([0x7F, pdu[0], refused.nrc])
        finally:
            if key in self._sessions:
                self._sessions[key] = self._clock.monotonic_ns()
        return [] if answer is None else [answer]

    def tick(self, now_ns: int) -> None:
        """End sessions that were silent for S3. Called with every request and every second or so."""
        for key in [k for k, last_ns in self._sessions.items() if now_ns - last_ns >= self._s3_ns]:
            self._leave(key)

    def left(self, tester: Tester) -> None:
        """The tester is gone: its session ends at once."""
        self._leave((tester.port, tester.address, tester.name, tester.peer))

    async def _serve(self, key: _Key, tester: Tester, pdu: bytes) -> bytes | None:
        sid, session = pdu[0], self._session(key)
        service = self._services.get(sid)
        if service is None:
            raise Refused(SERVICE_NOT_SUPPORTED)
        if session not in service.sessions:
            raise Refused(SERVICE_NOT_IN_SESSION)
        if len(pdu) < service.min_length:
            raise Refused(INCORRECT_LENGTH)
        if service.subfunctions is None:
            answer = bytes([sid | 0x40]) + await service.handle(key, tester, -1, pdu[1:])
            suppressed = False
        else:
            sub, suppressed = pdu[1] & ~_SUPPRESS & 0xFF, bool(pdu[1] & _SUPPRESS)
            length = service.subfunctions.get(sub)
            if length is None:
                raise Refused(SUBFUNCTION_NOT_SUPPORTED)
            if len(pdu) != length:
                raise Refused(INCORRECT_LENGTH)
            answer = bytes([sid | 0x40, sub]) + await service.handle(key, tester, sub, pdu[2:])
        if len(answer) > MAX_ANSWER_BYTES:
            raise Refused(TOO_LONG)
        return None if suppressed else answer

    # -- sessions -----------------------------------------------------------------------------------------------

    def _session(self, key: _Key) -> int:
        return EXTENDED_SESSION if key in self._sessions else DEFAULT

    def _leave(self, key: _Key) -> None:
        if self._sessions.pop(key, None) is not None:
            self._faults.memory.set_updates(True, by=repr(key))

    async def _control_session(self, key: _Key, tester: Tester, sub: int, data: bytes) -> bytes:
        if sub == DEFAULT:
            self._leave(key)
        elif key not in self._sessions:
            if len(self._sessions) >= MAX_SESSIONS:
                raise Refused(BUSY)
            self._sessions[key] = self._clock.monotonic_ns()
        return P2_MS.to_bytes(2, "big") + (P2_STAR_MS // 10).to_bytes(2, "big")

    async def _present(self, key: _Key, tester: Tester, sub: int, data: bytes) -> bytes:
        return b""

    async def _reset_gateway(self, key: _Key, tester: Tester, sub: int, data: bytes) -> bytes:
        assert self._reset is not None
        try:
            self._reset(sub)
        except NotNowError as error:
            raise Refused(CONDITIONS) from error
        self._leave(key)
        return b""

    # -- faults -------------------------------------------------------------------------------------------------

    async def _read_dtcs(self, key: _Key, tester: Tester, sub: int, data: bytes) -> bytes:
        return self._reader.answer(sub, data)

    async def _clear(self, key: _Key, tester: Tester, sub: int, data: bytes) -> bytes:
        """Group, and perhaps the number of a user-defined memory; answered once it is durable."""
        if len(data) not in (3, 4):
            raise Refused(INCORRECT_LENGTH)
        group = int.from_bytes(data[:3], "big")
        by = f"{tester.port} {tester.address:#06x}" + (f" {tester.name}" if tester.name else "")
        try:
            count = self._faults.memory.clear(group, memory=data[3] if len(data) == 4 else None, by=by)
        except UnknownGroupError as error:
            raise Refused(OUT_OF_RANGE) from error
        log.info("dtcs_cleared", extra={"group": format_dtc(group), "count": count, "by": by})
        try:
            await self._faults.persist()
        except NotNowError as error:
            raise Refused(CONDITIONS) from error
        except TransportError as error:
            raise Refused(PROGRAMMING_FAILURE) from error
        return b""

    async def _set_dtcs(self, key: _Key, tester: Tester, sub: int, data: bytes) -> bytes:
        self._faults.memory.set_updates(sub == 1, by=repr(key))
        return b""

    # -- data ---------------------------------------------------------------------------------------------------

    async def _read_data(self, key: _Key, tester: Tester, sub: int, data: bytes) -> bytes:
        if len(data) % 2 or len(data) // 2 > MAX_IDENTIFIERS:
            raise Refused(INCORRECT_LENGTH)
        answer = b""
        for at in range(0, len(data), 2):
            number = int.from_bytes(data[at : at + 2], "big")
            if number == ACTIVE_SESSION:
                answer += data[at : at + 2] + bytes([self._session(key)])
            elif (identifier := self._identifiers.get(number)) is not None:
                answer += data[at : at + 2] + _read(identifier)
        if not answer:
            raise Refused(OUT_OF_RANGE)
        return answer

    def describe(self) -> dict[str, object]:
        """What it answers, exactly; JSON types only."""
        memory = self._faults.memory
        return {
            "services": {
                f"{sid:02X}": {
                    "sessions": sorted(service.sessions),
                    "subfunctions": None if service.subfunctions is None else sorted(service.subfunctions),
                }
                for sid, service in sorted(self._services.items())
            },
            "sessions": [DEFAULT, EXTENDED_SESSION],
            "s3_ms": self._s3_ns // 1_000_000,
            "identifiers": {
                f"{ACTIVE_SESSION:04X}": {"name": "active session", "coding": "uint", "unit": ""},
                **{
                    f"{number:04X}": {"name": d.name, "coding": d.coding, "unit": d.unit}
                    for number, d in self._identifiers.items()
                },
            },
            "snapshot": {f"{SNAPSHOT_TIME:04X}": {"name": "time", "coding": "uint", "unit": "ms UTC"}},
            "extended_data": {f"{n:02X}": {"name": r.name, "bytes": r.size} for n, r in EXTENDED.items()},
            "dtcs": {
                format_dtc(code): {
                    "name": d.name, "text": d.text, "severity": d.severity, "lamp": d.lamp, "memory": d.memory,
                }
                for code, d in memory.definitions.items()
            },
        }  # fmt: skip


def _read(identifier: DataIdentifier) -> bytes:
    try:
        return identifier.read()
    except Exception as error:  # whoever gave the identifier is at fault; the tester gets an answer all the same
        log.exception("identifier_failed", extra={"identifier": f"{identifier.number:04X}"})
        raise Refused(CONDITIONS) from error


def _live_signals(engine: MonitorEngine) -> dict[str, DataIdentifier]:
    """Identifiers of the engine's signals by name, in the order in which the rules mention them."""
    names, records = engine.manifest.signal_names, engine.manifest.signals
    found: dict[str, DataIdentifier] = {}
    for i, number in enumerate(engine.signals):

        def read(number: int = number) -> float | None:
            return engine.value_of(number)

        found[names[number]] = signal(FIRST_SIGNAL + i, names[number], read, records[number].unit)
    return found

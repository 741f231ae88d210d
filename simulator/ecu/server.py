"""A UDS server: the checks and timings all services share. A core: PDUs and time in, PDUs out.

Order of checks (ISO 14229-1, 8.7): busy, service known, session, security, minimum length, sub-function known, its
session, its security, its length, then the handler. Answers to functional requests with 0x11, 0x12, 0x31, 0x7E and 0x7F
are not sent. Positive answers are not sent if the suppress bit asks so. Once a 0x78 went out, the final answer goes out
whatever it is. Requests with bit 6 in the SID are answers of somebody and are ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from simulator.ecu.base import BaseService
from simulator.ecu.context import EcuContext
from simulator.ecu.description import EcuDescription
from simulator.ecu.service import Access, Call, Later, NoAnswer, Nrc, Refusal, Service, Session

SUPPRESS = 0x80
TESTER_PRESENT = 0x3E
TICK_S = 0.01
UNSENT_IF_FUNCTIONAL = frozenset(
    {
        Nrc.SERVICE_NOT_SUPPORTED,
        Nrc.SUBFUNCTION_NOT_SUPPORTED,
        Nrc.REQUEST_OUT_OF_RANGE,
        Nrc.SUBFUNCTION_NOT_IN_SESSION,
        Nrc.SERVICE_NOT_IN_SESSION,
    }
)
SAVE_EVERY_S = 1.0


class Outgoing(NamedTuple):
    """A message to send. ``uudt``: one unacknowledged frame on the periodic identifier, without ISO-TP."""

    pdu: bytes
    uudt: bool = False


@dataclass(slots=True)
class _Work:
    """A request that takes time."""

    call: Call
    later: Later | None  # None: the quirk that never ends
    suppress: bool
    began_s: float
    finish_s: float
    pending_s: float  # when the next 0x78 is due
    pending_sent: int = 0


class EcuServer:
    """One ECU's diagnostic server. Starts in the default session, booted."""

    def __init__(self, context: EcuContext, services: Collection[Service], now_s: float) -> None:
        self.context = context
        self.description: EcuDescription = context.description
        self.services: dict[int, Service] = {service.sid: service for service in services}
        self._ticking = [s for s in services if not isinstance(s, BaseService) or type(s).tick is not BaseService.tick]
        self._work: _Work | None = None
        self._s3_s: float | None = None
        self._reset_at_s: float | None = None
        self._boot_until_s: float | None = None
        self._powered = True
        self._next_tick_s = now_s
        self._next_save_s = now_s
        self._busy_left = context.quirks.busy_times
        self._busy_request = b""
        self.requests = 0
        self.resets = 0
        context.execute, context.enter_session = self.execute, self.enter_session
        self._booted(now_s)

    # -- requests

    def receive(self, request: bytes, *, functional: bool, now_s: float) -> list[Outgoing]:
        """The answers that are ready now; more may come from ``poll``."""
        out = self.poll(now_s)
        if not request or not self.is_running or request[0] & 0x40:
            return out
        self.requests += 1
        if self._s3_s is not None:
            self._s3_s = now_s + self.description.timing.s3_s
        quirks = self.context.quirks
        if request[0] in quirks.mute:
            return out
        if self._work is not None and request[0] != TESTER_PRESENT:
            return [*out, self._negative(request[0], Nrc.BUSY_REPEAT_REQUEST)]
        if quirks.busy_times and self._still_busy(request):
            return [*out, self._negative(request[0], Nrc.BUSY_REPEAT_REQUEST)]
        answer = self._answer(request, functional, now_s)
        if answer is not None:
            out.append(answer)
        self._take_reset(now_s)
        out += self._take_uudt()
        return out

    def _still_busy(self, request: bytes) -> bool:
        if request != self._busy_request:
            self._busy_request, self._busy_left = request, self.context.quirks.busy_times
        self._busy_left -= 1
        return self._busy_left >= 0

    def _answer(self, request: bytes, functional: bool, now_s: float) -> Outgoing | None:
        sid = request[0]
        suppress = False
        call: Call | None = None
        try:
            service = self._admitted(sid)
            call, suppress = self._call(service, request, functional, now_s)
            if sid in self.context.quirks.pending_for_ever:
                self._start(call, None, suppress, now_s)
                return None
            result = service.handle(call)
        except NoAnswer:
            return None
        except Refusal as refusal:
            if functional and refusal.nrc in UNSENT_IF_FUNCTIONAL:
                return None
            return self._negative(sid, refusal.nrc)
        slow_s = self.context.quirks.slow_ms / 1000
        if not isinstance(result, Later):
            if not slow_s:
                return None if suppress else self._positive(sid, result)
            result = Later(duration_s=0.0, finish=_constant(result))
        self._start(call, replace(result, duration_s=result.duration_s + slow_s), suppress, now_s)
        return None

    def execute(self, request: bytes, now_s: float) -> bytes | Later | None:
        """The whole answer to a request within a request (0x84, 0x86); None: it has none. Never raises ``Refusal``."""
        if not request:
            return None
        sid = request[0]
        try:
            call, suppress = self._call(self._admitted(sid), request, False, now_s)
            result = self.services[sid].handle(call)
        except NoAnswer:
            return None
        except Refusal as refusal:
            return self._negative(sid, refusal.nrc).pdu
        if isinstance(result, Later):
            finish = result.finish

            def whole(when_s: float) -> bytes:
                try:
                    return bytes([sid | 0x40]) + finish(when_s)
                except Refusal as refusal:
                    return bytes([0x7F, sid, refusal.nrc])

            return replace(result, finish=whole)
        return None if suppress else bytes([sid | 0x40]) + result

    def is_available(self, sid: int) -> bool:
        """Whether the ECU has the service in its present mode (application or boot loader), in some session."""
        return sid in self.services and (not self.context.boot_mode or sid in self.description.boot.services)

    def _admitted(self, sid: int) -> Service:
        if not self.is_available(sid):
            raise Refusal(Nrc.SERVICE_NOT_SUPPORTED)
        service = self.services[sid]
        self._permit(service.access, Nrc.SERVICE_NOT_IN_SESSION)
        return service

    def _permit(self, access: Access, otherwise: Nrc) -> None:
        if self.context.session not in access.sessions:
            raise Refusal(otherwise)
        if access.security and self.context.unlocked != access.security:
            raise Refusal(Nrc.SECURITY_ACCESS_DENIED)
        if access.authenticated and not self.context.authenticated:
            raise Refusal(Nrc.AUTHENTICATION_REQUIRED)

    def _call(self, service: Service, request: bytes, functional: bool, now_s: float) -> tuple[Call, bool]:
        table = service.subfunctions()
        late = getattr(service, "LATE_SUBFUNCTION", False)
        has_sub = table is not None or late
        too_short = len(request) < max(service.min_length, 2 if has_sub else 1)
        # A sub-function that is there is judged before the length of what follows it.
        if too_short and (table is None or len(request) < 2):
            raise Refusal(Nrc.INCORRECT_LENGTH)
        sub = request[1] & ~SUPPRESS if has_sub else None
        if table is not None and sub is not None:
            entry = table.get(sub)
            if entry is None:
                raise Refusal(Nrc.SUBFUNCTION_NOT_SUPPORTED)
            self._permit(entry.access, Nrc.SUBFUNCTION_NOT_IN_SESSION)
            if len(request) < service.min_length or (entry.length is not None and len(request) != entry.length):
                raise Refusal(Nrc.INCORRECT_LENGTH)
        call = Call(
            sid=request[0],
            sub=sub,
            data=request[2:] if has_sub else request[1:],
            is_functional=functional,
            session=self.context.session,
            unlocked=self.context.unlocked,
            now_s=now_s,
        )
        return call, has_sub and bool(request[1] & SUPPRESS)

    # -- answers

    def _positive(self, sid: int, rest: bytes) -> Outgoing:
        quirks = self.context.quirks
        pdu = bytes([sid | 0x40]) + rest
        if sid in quirks.wrong_length and len(pdu) > 1:
            pdu = pdu[:-1]
        if quirks.wrong_sid:
            pdu = bytes([pdu[0] ^ 0x01]) + pdu[1:]
        return Outgoing(pdu)

    @staticmethod
    def _negative(sid: int, nrc: int) -> Outgoing:
        return Outgoing(bytes([0x7F, sid, nrc]))

    def _start(self, call: Call, later: Later | None, suppress: bool, now_s: float) -> None:
        p2_s = self.context.p2_ms / 1000
        finish_s = float("inf") if later is None else now_s + later.duration_s
        # Half of P2 leaves the other half to the bus and to a tick of the simulation.
        self._work = _Work(call, later, suppress, now_s, finish_s, now_s + p2_s / 2)

    def _work_on(self, now_s: float) -> list[Outgoing]:
        out: list[Outgoing] = []
        work, timing = self._work, self.description.timing
        if work is None:
            return out
        sid = work.call.sid
        if now_s >= work.finish_s and work.later is not None:
            self._work = None
            try:
                result = work.later.finish(now_s)
            except Refusal as refusal:
                silent = work.call.is_functional and refusal.nrc in UNSENT_IF_FUNCTIONAL
                if work.pending_sent or not silent:
                    out.append(self._negative(sid, refusal.nrc))
            else:
                if work.pending_sent or not work.suppress:
                    out.append(self._positive(sid, result))
            if self._s3_s is not None:
                self._s3_s = now_s + timing.s3_s
            self._take_reset(now_s)
        elif now_s >= work.pending_s:
            if work.later is None and work.pending_sent >= timing.pending_limit:
                self._work = None
                return out
            out.append(self._negative(sid, Nrc.RESPONSE_PENDING))
            work.pending_sent += 1
            work.pending_s = now_s + self.context.p2_star_ms / 1000 * timing.pending_share
        return out

    def _take_uudt(self) -> list[Outgoing]:
        out = [Outgoing(frame, uudt=True) for frame in self.context.uudt]
        self.context.uudt.clear()
        return out

    # -- time

    def poll(self, now_s: float) -> list[Outgoing]:
        """What is to be sent without a request: pending and late answers, periodic data, events. Call often."""
        if not self._powered:
            return []
        if self._boot_until_s is not None:
            if now_s < self._boot_until_s:
                return []
            self._boot_until_s = None
            self._booted(now_s)
        out = self._work_on(now_s)
        if self._reset_at_s is not None and now_s >= self._reset_at_s:
            self._reset_at_s = None
            self.reset(now_s)
            return out
        if self._work is None and self._s3_s is not None and now_s >= self._s3_s:
            self.enter_session(Session.DEFAULT, now_s)
        if now_s >= self._next_tick_s:
            self._next_tick_s = now_s + TICK_S
            for service in self._ticking:
                out += [Outgoing(pdu) for pdu in service.tick(now_s)]
            out += self._take_uudt()
            self._take_reset(now_s)
        if self.context.nv.is_dirty and now_s >= self._next_save_s:
            self._next_save_s = now_s + SAVE_EVERY_S
            self.context.nv.save()
        return out

    def next_deadline_s(self) -> float | None:
        """When ``poll`` has something to do at the latest, but for ticks; None: not before the next request."""
        times = [self._boot_until_s, self._reset_at_s]
        if self._work is None:
            times.append(self._s3_s)
        else:
            times += [self._work.finish_s, self._work.pending_s]
        return min((time for time in times if time is not None), default=None)

    def touch(self, now_s: float) -> None:
        """A long request is arriving: the session does not end meanwhile."""
        if self._s3_s is not None:
            self._s3_s = now_s + self.description.timing.s3_s

    # -- sessions, resets, power

    def enter_session(self, session: int, now_s: float) -> None:
        """Whatever asked for it: security is locked and services forget what ends with a session."""
        context = self.context
        context.session = session
        context.unlocked = 0
        self._s3_s = None if session == Session.DEFAULT else now_s + self.description.timing.s3_s
        context.default_timing()
        if session == Session.DEFAULT:
            context.dtcs_frozen = False
            context.receive_off = False
            context.authenticated = False
            context.silence_messages(normal=False, network=False)
        for service in self.services.values():
            service.session_changed(session, now_s)

    def _take_reset(self, now_s: float) -> None:
        wanted = self.context.take_reset()
        if wanted is not None:
            self._reset_at_s = now_s + wanted[1]

    def reset(self, now_s: float) -> None:
        """The ECU restarts: silent for its boot time."""
        self._go_down(now_s)
        self._boot_until_s = now_s + self.description.timing.boot_s

    def power_off(self, now_s: float) -> None:
        """Power is lost at once, in the middle of whatever it does."""
        self._go_down(now_s)
        self._powered = False
        self._boot_until_s = None
        self.context.memory.clear_volatile()

    def power_on(self, now_s: float) -> None:
        """Power is back; the ECU boots. Nothing happens if it was on."""
        if not self._powered:
            self._powered = True
            self._boot_until_s = now_s + self.description.timing.boot_s

    def _go_down(self, now_s: float) -> None:
        self._work = None
        self._reset_at_s = None
        self.enter_session(Session.DEFAULT, now_s)
        self.context.take_reset()  # it is happening, whoever asked for it meanwhile
        self.context.uudt.clear()
        self.context.running = False
        self.context.boot_mode = False
        self.resets += 1

    def _booted(self, now_s: float) -> None:
        self.context.running = True
        self.context.boot_mode = self.context.stays_in_boot()
        self.enter_session(Session.DEFAULT, now_s)
        for service in self.services.values():
            service.reset(now_s)

    @property
    def is_powered(self) -> bool:
        """Whether it has power."""
        return self._powered

    @property
    def is_running(self) -> bool:
        """Whether it has power and has booted."""
        return self._powered and self._boot_until_s is None

    def state(self) -> dict[str, Any]:
        """For the control socket."""
        context = self.context
        normal, network = context.silenced
        power = "off" if not self._powered else "booting" if self._boot_until_s is not None else "on"
        return {
            "ecu": self.description.name,
            "power": power,
            "session": context.session,
            "unlocked": context.unlocked,
            "authenticated": context.authenticated,
            "boot_loader": context.boot_mode,
            "dtcs_frozen": context.dtcs_frozen,
            "silenced": {"normal": normal, "network": network},
            "busy_with": None if self._work is None else f"{self._work.call.sid:02X}",
            "requests": self.requests,
            "resets": self.resets,
        }


def _constant(result: bytes) -> Callable[[float], bytes]:
    return lambda now_s: result


def services_by_sid(services: Collection[Service]) -> Mapping[int, Service]:
    """For tests and ``describe``."""
    return {service.sid: service for service in services}

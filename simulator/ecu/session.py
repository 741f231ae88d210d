"""Sessions and life of an ECU: 0x10, 0x11, 0x3E."""

from __future__ import annotations

from collections.abc import Mapping

from simulator.ecu.base import BaseService
from simulator.ecu.context import EcuContext
from simulator.ecu.description import EcuDescription
from simulator.ecu.service import Access, Call, Nrc, Refusal, SubFunction

HARD, KEY_OFF_ON, SOFT, RAPID_ON, RAPID_OFF = 1, 2, 3, 4, 5
#: What 11 04 answers: seconds for which the ECU stays reachable after power down (0xFF: not known).
POWER_DOWN_TIME_S = 0x0A


class SessionControl(BaseService):
    """0x10. Entering any session locks security and ends transfers; the server and listeners see to that."""

    SID = 0x10
    MIN_LENGTH = 2

    def __init__(self, context: EcuContext, description: EcuDescription) -> None:
        super().__init__(context, description)
        self._sessions = {session.id: session for session in description.sessions}

    def subfunctions(self) -> Mapping[int, SubFunction]:
        """See ``Service``: one per session, where it may be entered from."""
        every = self.description.session_ids
        return {
            s.id: SubFunction(access=Access(sessions=frozenset(s.reached_from) or every, security=s.security), length=2)
            for s in self._sessions.values()
        }

    def handle(self, call: Call) -> bytes:
        """See ``Service``."""
        assert call.sub is not None
        if self._sessions[call.sub].standstill:
            self.context.require_standstill()
        for check in self.context.session_checks:
            check(call.session, call.sub, call.now_s)
        self.context.enter_session(call.sub, call.now_s)
        context = self.context
        return bytes([call.sub]) + context.p2_ms.to_bytes(2, "big") + (context.p2_star_ms // 10).to_bytes(2, "big")

    def describe(self) -> Mapping[str, object]:
        """See ``Service``."""
        return {"sessions": {f"{s.id:02X}": s.name for s in self._sessions.values()}}


class EcuReset(BaseService):
    """0x11: answers, then the ECU is silent for its boot time. Rapid power shut down only takes note."""

    SID = 0x11
    MIN_LENGTH = 2

    def __init__(self, context: EcuContext, description: EcuDescription) -> None:
        super().__init__(context, description)
        self._rapid_power_down = False

    def subfunctions(self) -> Mapping[int, SubFunction]:
        """See ``Service``."""
        anywhere = Access(sessions=self.description.session_ids)
        return self.chosen(
            {n: SubFunction(access=anywhere, length=2) for n in (HARD, KEY_OFF_ON, SOFT, RAPID_ON, RAPID_OFF)}
        )

    def handle(self, call: Call) -> bytes:
        """See ``Service``."""
        assert call.sub is not None
        if call.sub in (RAPID_ON, RAPID_OFF):
            self._rapid_power_down = call.sub == RAPID_ON
            return bytes([call.sub, POWER_DOWN_TIME_S]) if call.sub == RAPID_ON else bytes([call.sub])
        if self.entry.access.standstill and not self.context.is_standing:
            raise Refusal(Nrc.CONDITIONS_NOT_CORRECT)
        self.context.request_reset(call.sub)
        return bytes([call.sub])

    def reset(self, now_s: float) -> None:
        """See ``Service``."""
        self._rapid_power_down = False


class TesterPresent(BaseService):
    """0x3E: keeps a session alive, which the server does for any request."""

    SID = 0x3E
    MIN_LENGTH = 2

    def subfunctions(self) -> Mapping[int, SubFunction]:
        """See ``Service``."""
        return {0: SubFunction(access=Access(sessions=self.description.session_ids), length=2)}

    def handle(self, call: Call) -> bytes:
        """See ``Service``."""
        return b"\x00"

"""Services on communication itself: 0x28, 0x83, 0x87."""

from __future__ import annotations

from collections.abc import Mapping

from simulator.ecu.base import BaseService
from simulator.ecu.context import EcuContext
from simulator.ecu.description import EcuDescription
from simulator.ecu.service import Access, Call, Nrc, Refusal, SubFunction

NORMAL, NETWORK = 0x01, 0x02


class CommunicationControl(BaseService):
    """0x28: really takes this ECU's messages off the bus, or makes it deaf for others'."""

    SID = 0x28
    MIN_LENGTH = 2

    def subfunctions(self) -> Mapping[int, SubFunction]:
        """See ``Service``: bit 0 of the four modes stops sending, bit 1 receiving."""
        anywhere = Access(sessions=self.description.session_ids)
        return self.chosen({n: SubFunction(access=anywhere, length=3) for n in range(4)})

    def handle(self, call: Call) -> bytes:
        """See ``Service``. Low two bits of the type: which messages; high four: all subnets or the one it came on."""
        assert call.sub is not None
        kind, subnet = call.data[0] & 0x0F, call.data[0] >> 4
        if kind not in (NORMAL, NETWORK, NORMAL | NETWORK) or subnet not in (0x0, 0xF):
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        if self.entry.access.standstill:
            self.context.require_standstill()
        sending_off = call.sub in (1, 3)
        self.context.silence_messages(
            normal=sending_off if kind & NORMAL else None, network=sending_off if kind & NETWORK else None
        )
        if kind & NORMAL:
            self.context.receive_off = call.sub in (2, 3)
        return bytes([call.sub])


class AccessTiming(BaseService):
    """0x83: P2 (two bytes, ms) and P2* (two bytes, 10 ms) for the rest of the session."""

    SID = 0x83
    MIN_LENGTH = 2
    EXTENDED, DEFAULT, CURRENT, SET = 1, 2, 3, 4
    SLOWEST = bytes.fromhex("03E8 09C4")  # 1 s, 25 s
    FASTEST_P2_MS, FASTEST_P2_STAR_MS = 20, 500

    def subfunctions(self) -> Mapping[int, SubFunction]:
        """See ``Service``."""
        anywhere = Access(sessions=self.description.session_ids)
        lengths = {self.EXTENDED: 2, self.DEFAULT: 2, self.CURRENT: 2, self.SET: 6}
        return self.chosen({n: SubFunction(access=anywhere, length=length) for n, length in lengths.items()})

    def handle(self, call: Call) -> bytes:
        """See ``Service``."""
        assert call.sub is not None
        context = self.context
        if call.sub == self.EXTENDED:
            return bytes([call.sub]) + self.SLOWEST
        if call.sub == self.CURRENT:
            return bytes([call.sub]) + context.p2_ms.to_bytes(2, "big") + (context.p2_star_ms // 10).to_bytes(2, "big")
        if call.sub == self.DEFAULT:
            context.default_timing()
            return bytes([call.sub])
        p2_ms, p2_star_ms = int.from_bytes(call.data[:2], "big"), int.from_bytes(call.data[2:], "big") * 10
        slowest_ms = int.from_bytes(self.SLOWEST[:2], "big"), int.from_bytes(self.SLOWEST[2:], "big") * 10
        if (
            not self.FASTEST_P2_MS <= p2_ms <= slowest_ms[0]
            or not self.FASTEST_P2_STAR_MS <= p2_star_ms <= slowest_ms[1]
        ):
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        context.p2_ms, context.p2_star_ms = p2_ms, p2_star_ms
        return bytes([call.sub])


class LinkControl(BaseService):
    """0x87: agrees on another baud rate. The transition is accepted and has no effect: a virtual bus has no rate."""

    SID = 0x87
    MIN_LENGTH = 2
    VERIFY_FIXED, VERIFY_SPECIFIC, TRANSITION = 1, 2, 3
    SPECIFIC_BPS = (125_000, 250_000, 500_000, 1_000_000)

    def __init__(self, context: EcuContext, description: EcuDescription) -> None:
        super().__init__(context, description)
        self._verified = False

    def subfunctions(self) -> Mapping[int, SubFunction]:
        """See ``Service``."""
        anywhere = Access(sessions=self.description.session_ids)
        lengths = {self.VERIFY_FIXED: 3, self.VERIFY_SPECIFIC: 5, self.TRANSITION: 2}
        return self.chosen({n: SubFunction(access=anywhere, length=length) for n, length in lengths.items()})

    def handle(self, call: Call) -> bytes:
        """See ``Service``."""
        assert call.sub is not None
        if call.sub == self.TRANSITION:
            if not self._verified:
                raise Refusal(Nrc.REQUEST_SEQUENCE_ERROR)
            self._verified = False
            return bytes([call.sub])
        if call.sub == self.VERIFY_FIXED:
            known = call.data[0] in self.description.link.fixed
        else:
            known = int.from_bytes(call.data, "big") in self.SPECIFIC_BPS
        self._verified = False
        if not known:
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        self._verified = True
        return bytes([call.sub])

    def session_changed(self, session: int, now_s: float) -> None:
        """See ``Service``."""
        self._verified = False

    def describe(self) -> Mapping[str, object]:
        """See ``Service``."""
        return {"fixed": [f"{n:02X}" for n in self.description.link.fixed], "specific_bps": list(self.SPECIFIC_BPS)}

"""Data identifiers a tester composes (0x2C) and data sent periodically (0x2A)."""

from __future__ import annotations

from collections.abc import Mapping

from simulator.ecu.base import BaseService
from simulator.ecu.context import EcuContext
from simulator.ecu.description import EcuDescription
from simulator.ecu.dynamic_dids import DynamicPart
from simulator.ecu.memory import find_region, parse_area
from simulator.ecu.service import Access, Call, Nrc, Refusal, SubFunction

BY_IDENTIFIER, BY_ADDRESS, CLEAR = 1, 2, 3
PERIODIC = 0xF200
PERIOD_S = {1: 1.0, 2: 0.2, 3: 0.05}
STOP = 4
MAX_PERIODIC = 8


def _is_dynamic(number: int) -> bool:
    return 0xF200 <= number <= 0xF3FF


class DefineDid(BaseService):
    """0x2C. F200-F3FF may be composed from readable DIDs and memory, unless described as fixed ones."""

    SID = 0x2C
    MIN_LENGTH = 2

    def __init__(self, context: EcuContext, description: EcuDescription) -> None:
        super().__init__(context, description)
        self._dynamic = context.dynamic

    def subfunctions(self) -> Mapping[int, SubFunction]:
        """See ``Service``."""
        anywhere = Access(sessions=self.description.session_ids)
        every = {n: SubFunction(access=anywhere) for n in (BY_IDENTIFIER, BY_ADDRESS, CLEAR)}
        if not self.description.memory.regions:
            del every[BY_ADDRESS]
        return self.chosen(every)

    def handle(self, call: Call) -> bytes:
        """See ``Service``."""
        assert call.sub is not None
        if call.sub == CLEAR:
            return self._clear(call.data)
        if len(call.data) < 2:
            raise Refusal(Nrc.INCORRECT_LENGTH)
        number = int.from_bytes(call.data[:2], "big")
        if call.sub == BY_IDENTIFIER:
            rest = call.data[2:]
            if not rest or len(rest) % 4:
                raise Refusal(Nrc.INCORRECT_LENGTH)
            self._check_target(number)
            parts = [self._from_did(rest[i : i + 4]) for i in range(0, len(rest), 4)]
        else:
            parts = self._from_memory(number, call.data[2:])
        self._dynamic.extend(number, parts)
        return bytes([call.sub]) + call.data[:2]

    def _check_target(self, number: int) -> None:
        if not _is_dynamic(number) or number in self.context.dids.known:
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)

    def _clear(self, data: bytes) -> bytes:
        if not data:
            self._dynamic.clear()
            return bytes([CLEAR])
        if len(data) != 2:
            raise Refusal(Nrc.INCORRECT_LENGTH)
        number = int.from_bytes(data, "big")
        self._check_target(number)
        self._dynamic.clear(number)
        return bytes([CLEAR]) + data

    def _from_did(self, item: bytes) -> DynamicPart:
        source, position, size = int.from_bytes(item[:2], "big"), item[2] - 1, item[3]
        did = self.context.dids.known.get(source)
        if did is None or did.read is None or size == 0 or not 0 <= position <= did.length - size:
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        self.context.check(did.read)
        return DynamicPart(source, position, size, did.read)

    def _from_memory(self, number: int, data: bytes) -> list[DynamicPart]:
        if not data:
            raise Refusal(Nrc.INCORRECT_LENGTH)
        self._check_target(number)
        form, rest = data[:1], data[1:]
        parts: list[DynamicPart] = []
        while rest or not parts:
            area = parse_area(self.context, form + rest)
            region = find_region(self.context, area.address, area.size)
            if region.read is None or area.size > 255:
                raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
            self.context.check(region.read)
            parts.append(DynamicPart(None, area.address, area.size, region.read))
            rest = area.rest
        return parts

    def reset(self, now_s: float) -> None:
        """See ``Service``."""
        self._dynamic.clear()


class PeriodicData(BaseService):
    """0x2A: F2xx identifiers at three rates until they are stopped or the session changes."""

    SID = 0x2A
    MIN_LENGTH = 2

    def __init__(self, context: EcuContext, description: EcuDescription) -> None:
        super().__init__(context, description)
        self._dynamic = context.dynamic
        self._due: dict[int, tuple[float, float]] = {}  # low byte: period, when next

    def handle(self, call: Call) -> bytes:
        """See ``Service``. The transmission mode is a parameter, no sub-function."""
        mode, wanted = call.data[0], call.data[1:]
        if mode != STOP and mode not in PERIOD_S:
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        if mode == STOP:
            for low in wanted or list(self._due):
                if low in wanted and self._value_or_none(low) is None:
                    raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
                self._due.pop(low, None)
            return b""
        if not wanted:
            raise Refusal(Nrc.INCORRECT_LENGTH)
        if len(set(wanted) | set(self._due)) > MAX_PERIODIC:
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        for low in wanted:
            value = self._value(low)
            if value is None:
                raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
            if self.description.transport.periodic_id and len(value) > self.description.transport.frame_bytes - 1:
                raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        for low in wanted:
            self._due[low] = (PERIOD_S[mode], call.now_s + PERIOD_S[mode])
        return b""

    def _value(self, low: int) -> bytes | None:
        number = PERIODIC | low
        access = self._dynamic.sources(number)
        if access is not None:
            for one in access:
                self.context.check(one)
            return self._dynamic.read(number)
        did = self.context.dids.known.get(number)
        if did is None or did.read is None:
            return None
        self.context.check(did.read)
        return self.context.dids.read(number)

    def _value_or_none(self, low: int) -> bytes | None:
        try:
            return self._value(low)
        except Refusal:
            return None

    def tick(self, now_s: float) -> list[bytes]:
        """See ``Service``."""
        out = []
        for low, (period_s, next_s) in list(self._due.items()):
            if now_s < next_s:
                continue
            value = self._value_or_none(low)
            if value is None:
                del self._due[low]
                continue
            self._due[low] = (period_s, max(next_s + period_s, now_s))
            if self.description.transport.periodic_id:
                self.context.uudt.append(bytes([low]) + value)
            else:
                out.append(bytes([0x6A, low]) + value)
        return out

    def session_changed(self, session: int, now_s: float) -> None:
        """See ``Service``."""
        self._due.clear()

    def describe(self) -> Mapping[str, object]:
        """See ``Service``."""
        return {
            "periodic": [f"{d.id:04X}" for d in self.description.dids if d.id & 0xFF00 == PERIODIC and d.read],
            "periods_s": {str(mode): period for mode, period in PERIOD_S.items()},
            "at_most": MAX_PERIODIC,
        }

"""Services of the fault memory: 0x14 ClearDiagnosticInformation, 0x19 ReadDTCInformation, 0x85 ControlDTCSetting."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from simulator.ecu.base import BaseService
from simulator.ecu.context import EcuContext
from simulator.ecu.description import EcuDescription
from simulator.ecu.dtc_read import EXTENDED, LENGTHS
from simulator.ecu.dtc_unit import ALL_GROUPS, FUNCTIONAL_GROUPS, fault_unit
from simulator.ecu.service import Access, Call, Nrc, Refusal, Session, SubFunction

CLEAR_LENGTH, CLEAR_SELECTED_LENGTH = 3, 4
SETTING_ON, SETTING_OFF = 1, 2


class ClearDtcs(BaseService):
    """0x14. A fourth byte selects the memory (2020 edition)."""

    SID = 0x14
    MIN_LENGTH = 4

    def __init__(self, context: EcuContext, description: EcuDescription) -> None:
        super().__init__(context, description)
        self._unit = fault_unit(context)

    def handle(self, call: Call) -> bytes:
        """See ``Service``."""
        if len(call.data) not in (CLEAR_LENGTH, CLEAR_SELECTED_LENGTH):
            raise Refusal(Nrc.INCORRECT_LENGTH)
        numbers = self._unit.group(int.from_bytes(call.data[:3], "big"))
        selected = call.data[3] if len(call.data) == CLEAR_SELECTED_LENGTH else 0
        if numbers is None or selected not in (0, self._unit.settings.user_memory):
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        if self.entry.access.standstill:
            self.context.require_standstill()
        self._unit.clear(numbers, user=selected != 0)
        return b""

    def describe(self) -> Mapping[str, object]:
        """See ``Service``."""
        groups = [ALL_GROUPS, *(FUNCTIONAL_GROUPS | group for group in self._unit.reader.groups)]
        selections = [0] + ([self._unit.settings.user_memory] if self._unit.user is not None else [])
        return {"groups": [f"{group:06X}" for group in groups], "memories": [f"{s:02X}" for s in selections]}


class ReadDtcs(BaseService):
    """0x19."""

    SID = 0x19
    MIN_LENGTH = 2

    def __init__(self, context: EcuContext, description: EcuDescription) -> None:
        super().__init__(context, description)
        self._unit = fault_unit(context)
        anywhere = Access(sessions=description.session_ids)
        every = {n: SubFunction(access=anywhere, length=LENGTHS[n]) for n in sorted(self._unit.reader.subfunctions)}
        self._subfunctions = self.chosen(every)

    def subfunctions(self) -> Mapping[int, SubFunction]:
        """See ``Service``."""
        return self._subfunctions

    def handle(self, call: Call) -> bytes:
        """See ``Service``."""
        assert call.sub is not None
        return bytes([call.sub]) + self._unit.reader.answer(call.sub, call.data)

    def reset(self, now_s: float) -> None:
        """See ``Service``."""
        self._unit.reset()

    def tick(self, now_s: float) -> Collection[bytes]:
        """See ``Service``; the tests run from here."""
        self._unit.tick()
        return ()

    def describe(self) -> Mapping[str, object]:
        """See ``Service``."""
        reader, memory = self._unit.reader, self._unit.memory
        return {
            "availability": f"{reader.availability:02X}",
            "codes": {f"{number:06X}": dtc.text for number, dtc in memory.codes.items()},
            "snapshot_records": ["01", "02"],
            "extended_records": {f"{n:02X}": EXTENDED[n].name for n in reader.extended_records},
            "groups": [f"{group:02X}" for group in reader.groups],
            "capacity": memory.capacity,
        }


class ControlDtcSetting(BaseService):
    """0x85: with "off" neither status bits nor counters change any more, until "on", the default session or a reset.

    The option record, where one is given, must be the group of all codes: there is no switching off of single ones.
    """

    SID = 0x85
    MIN_LENGTH = 2

    def __init__(self, context: EcuContext, description: EcuDescription) -> None:
        super().__init__(context, description)
        sessions = description.session_ids - {Session.DEFAULT}
        subs = {n: SubFunction(access=Access(sessions=sessions)) for n in (SETTING_ON, SETTING_OFF)}
        self._subfunctions = self.chosen(subs)

    def subfunctions(self) -> Mapping[int, SubFunction]:
        """See ``Service``."""
        return self._subfunctions

    def handle(self, call: Call) -> bytes:
        """See ``Service``."""
        assert call.sub is not None
        if len(call.data) not in (0, 3):
            raise Refusal(Nrc.INCORRECT_LENGTH)
        if call.data and int.from_bytes(call.data, "big") != ALL_GROUPS:
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        self.context.dtcs_frozen = call.sub == SETTING_OFF
        return bytes([call.sub])

    def describe(self) -> Mapping[str, object]:
        """See ``Service``."""
        return {"option_record": "none or FFFFFF"}

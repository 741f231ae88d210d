"""Reading an emissions-related ECU as a generic scan tool does (SAE J1979 on CAN). Nothing is changed."""

from __future__ import annotations

import msgspec

from gateway.uds.client import UdsClient
from gateway.uds.errors import NegativeResponse, NoAnswer, UnexpectedAnswer
from gateway.wire.dtc_texts import Texts, describe_dtc
from tester import obd_table
from tester.obd_table import MonitorResult, Readiness, Reading

NO_FRAME_CODE = 0
PIDS_AT_ONCE = 6
INFOTYPES = {0x02: "VIN", 0x04: "calibration", 0x06: "verification", 0x0A: "name"}


class Code(msgspec.Struct, frozen=True, kw_only=True):
    """A two-byte trouble code."""

    code: str  # P0A93
    text: str


class ObdSummary(msgspec.Struct, frozen=True, kw_only=True):
    """All that one ECU tells."""

    ecu: str
    name: str = ""
    vin: str = ""
    calibrations: tuple[str, ...] = ()
    verifications: tuple[str, ...] = ()
    readiness: Readiness | None = None
    stored: tuple[Code, ...] = ()
    pending: tuple[Code, ...] = ()
    permanent: tuple[Code, ...] = ()
    frame_code: Code | None = None
    frame: tuple[Reading, ...] = ()
    values: tuple[Reading, ...] = ()
    monitors: tuple[MonitorResult, ...] = ()
    use: tuple[int, ...] = ()  # in-use counters of infotype 08, as they come
    silent: tuple[str, ...] = ()  # modes that were not answered


class ObdReader:
    """Asks one ECU. What it does not have it does not answer; that is no error here."""

    def __init__(self, client: UdsClient, texts: Texts | None = None) -> None:
        self._client, self._texts = client, texts
        self._silent: list[str] = []

    async def ask(self, *request: int) -> bytes | None:
        """The answer after its SID; None: not answered, or refused."""
        try:
            answer = await self._client.request(bytes(request), (bytes([request[0] | 0x40]),))
        except (NoAnswer, NegativeResponse, UnexpectedAnswer):
            return None
        return answer[1:] if answer else None

    async def summary(self) -> ObdSummary:
        """Everything.

        Raises:
            GatewayError: the ECU does not speak OBD, or cannot be reached.
        """
        pids = await self.numbers(0x01)
        if not pids:
            raise NoAnswer(0x01, self._client.timing.p2_ms)
        readiness = await self.readiness()
        values = await self.values([pid for pid in pids if pid not in (0x01, 0x41)])
        frame_code, frame = await self.frame()
        return ObdSummary(
            ecu=self._client.name,
            name=await self._name(),
            vin=_text((await self._information(0x02, 17) or [b""])[0]),
            calibrations=tuple(_text(raw) for raw in await self._information(0x04, 16)),
            verifications=tuple(raw.hex().upper() for raw in await self._information(0x06, 4)),
            readiness=readiness,
            stored=await self.codes(0x03),
            pending=await self.codes(0x07),
            permanent=await self.codes(0x0A),
            frame_code=frame_code,
            frame=frame,
            values=values,
            monitors=await self.monitors(),
            use=await self._use(),
            silent=tuple(self._silent),
        )

    async def numbers(self, mode: int) -> list[int]:
        """What the support masks of mode 01, 06 or 09 list."""
        found: list[int] = []
        for base in obd_table.MASKS:
            answer = await self.ask(mode, base)
            if not answer or len(answer) < 5 or answer[0] != base:
                break
            found += obd_table.supported(base, answer[1:5])
            if not obd_table.has_next(answer[1:5]):
                break
        if not found:
            self._silent.append(f"{mode:02X}")
        return found

    async def readiness(self) -> Readiness | None:
        """Lamp, number of codes, monitors."""
        answer = await self.ask(0x01, 0x01)
        if not answer or len(answer) < 5:
            return None
        return obd_table.read_readiness(answer[1:5])

    async def values(self, pids: list[int]) -> tuple[Reading, ...]:
        """Current values, six identifiers a request where their lengths are known."""
        found: dict[int, bytes] = {}
        known = [pid for pid in pids if obd_table.pid_bytes(pid) is not None]
        groups = [known[i : i + PIDS_AT_ONCE] for i in range(0, len(known), PIDS_AT_ONCE)]
        groups += [[pid] for pid in pids if pid not in known]
        for group in groups:
            answer = await self.ask(0x01, *group)
            if answer:
                found |= dict(obd_table.split_answer(answer)[0])
        for pid in pids:  # some ECUs take one identifier a request
            if pid not in found and (answer := await self.ask(0x01, pid)) and answer[0] == pid:
                found[pid] = answer[1:]
        return tuple(reading for pid in pids if pid in found for reading in obd_table.read_pid(pid, found[pid]))

    async def codes(self, mode: int) -> tuple[Code, ...]:
        """Codes of mode 03, 07 or 0A."""
        answer = await self.ask(mode)
        if answer is None:
            self._silent.append(f"{mode:02X}")
            return ()
        pairs = [answer[i : i + 2] for i in range(1, len(answer) - 1, 2)]
        return tuple(self._code(int.from_bytes(pair, "big")) for pair in pairs[: answer[0]] if any(pair))

    def _code(self, number: int) -> Code:
        about = describe_dtc(number << 8, self._texts)
        return Code(code=about.code[:5], text=about.text)

    async def frame(self) -> tuple[Code | None, tuple[Reading, ...]]:
        """The freeze frame and which code stored it."""
        answer = await self.ask(0x02, obd_table.FRAME_CODE, 0)
        if answer is None or len(answer) < 4:
            self._silent.append("02")
            return None, ()
        number = int.from_bytes(answer[2:4], "big")
        if number == NO_FRAME_CODE:
            return None, ()
        found: list[Reading] = []
        for base in obd_table.MASKS:
            mask = await self.ask(0x02, base, 0)
            if mask is None or len(mask) < 6:
                break
            for pid in obd_table.supported(base, mask[2:6]):
                if pid == obd_table.FRAME_CODE:
                    continue
                value = await self.ask(0x02, pid, 0)
                if value is not None and len(value) > 2:
                    found += obd_table.read_pid(pid, value[2:])
            if not obd_table.has_next(mask[2:6]):
                break
        return self._code(number), tuple(found)

    async def monitors(self) -> tuple[MonitorResult, ...]:
        """Mode 06."""
        found: list[MonitorResult] = []
        for number in await self.numbers(0x06):
            answer = await self.ask(0x06, number)
            found += obd_table.read_monitor(answer or b"")
        return tuple(found)

    async def _information(self, infotype: int, size: int) -> list[bytes]:
        answer = await self.ask(0x09, infotype)
        if not answer or len(answer) < 2 or answer[0] != infotype:
            return []
        return [answer[2 + i * size : 2 + (i + 1) * size] for i in range(answer[1])]

    async def _name(self) -> str:
        found = await self._information(0x0A, 20)
        return _text(found[0]) if found else ""

    async def _use(self) -> tuple[int, ...]:
        for infotype in (0x08, 0x0B):
            answer = await self.ask(0x09, infotype)
            if answer and len(answer) > 2:
                return tuple(int.from_bytes(answer[i : i + 2], "big") for i in range(2, len(answer) - 1, 2))
        return ()


def _text(raw: bytes) -> str:
    """ASCII without its padding."""
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else " " for byte in raw).strip()

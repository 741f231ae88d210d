"""Services of programming: 0x34, 0x35, 0x36, 0x37, 0x38 and the routines that erase and check."""

from __future__ import annotations

from collections.abc import Mapping

from simulator.ecu.base import BaseService
from simulator.ecu.context import EcuContext
from simulator.ecu.description import EcuDescription, RoutineDescription
from simulator.ecu.flash_files import parse_path
from simulator.ecu.flash_transfer import Download, Upload
from simulator.ecu.flash_unit import FlashUnit, flash_unit
from simulator.ecu.memory import MemoryArea, parse_area
from simulator.ecu.routines import BaseEffect, EffectFactory
from simulator.ecu.service import Call, Later, NoAnswer, Nrc, Refusal

PLAIN, ZLIB = 0x00, 0x10
ADD, DELETE, REPLACE, READ, LIST, RESUME = 1, 2, 3, 4, 5, 6
MAX_SIZE_BYTES = 8
#: Erase option record: addressAndLengthFormatIdentifier 0x44, address, size.
ERASE_OPTION_BYTES = 9


class _FlashService(BaseService):
    def __init__(self, context: EcuContext, description: EcuDescription) -> None:
        super().__init__(context, description)
        self.unit: FlashUnit = flash_unit(context)

    def session_changed(self, session: int, now_s: float) -> None:
        """See ``Service``."""
        self.unit.session_changed(session)

    def reset(self, now_s: float) -> None:
        """See ``Service``."""
        self.unit.booted()

    def _block_length(self) -> bytes:
        return b"\x20" + self.unit.block_bytes.to_bytes(2, "big")

    def _area(self, call: Call, formats: tuple[int, ...]) -> MemoryArea:
        """What 0x34 and 0x35 name: data format and area. Raises ``Refusal`` (0x13, 0x31)."""
        area = parse_area(self.context, call.data[1:])
        if area.rest:
            raise Refusal(Nrc.INCORRECT_LENGTH)
        if call.data[0] not in formats or area.size == 0:
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        return area


class RequestDownload(_FlashService):
    """0x34: to erased memory of a programmable region, plain or as a zlib stream (0x10)."""

    SID = 0x34
    MIN_LENGTH = 5

    def handle(self, call: Call) -> bytes:
        """See ``Service``."""
        area = self._area(call, (PLAIN, ZLIB))
        store = self.unit.store
        region = store.find(area.address, area.size)
        if region is None:
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        self.unit.require_supply()
        if self.unit.transfer is None and not store.is_erased(area.address, area.size):
            raise Refusal(Nrc.UPLOAD_DOWNLOAD_NOT_ACCEPTED)
        at = area.address

        def write(content: bytes) -> None:
            nonlocal at
            self.unit.require_supply()
            if not store.program(region, at, content):
                raise Refusal(Nrc.PROGRAMMING_FAILURE)
            at += len(content)

        self.unit.begin(Download(area.size, write, compressed=call.data[0] == ZLIB))
        return self._block_length()

    def describe(self) -> Mapping[str, object]:
        """See ``Service``."""
        store = self.unit.store
        return {
            "formats": [f"{PLAIN:02X}", f"{ZLIB:02X}"],
            "block_bytes": self.unit.block_bytes,
            "hardware_id": store.hardware_id,
            "regions": [{"name": r.name, "start": f"{r.start:08X}", "bytes": r.bytes} for r in store.regions],
        }


class RequestUpload(_FlashService):
    """0x35: of a region that may be read, plain."""

    SID = 0x35
    MIN_LENGTH = 5

    def handle(self, call: Call) -> bytes:
        """See ``Service``."""
        area = self._area(call, (PLAIN,))
        region = self.context.memory.region(area.address, area.size)
        if region is None or (region.read is None and region not in self.unit.store.regions):
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        content = self.context.memory.read(area.address, area.size)
        self.unit.begin(Upload(content, self.unit.block_bytes - 2))
        return self._block_length()


class TransferData(_FlashService):
    """0x36."""

    SID = 0x36
    MIN_LENGTH = 2

    def handle(self, call: Call) -> bytes | Later:
        """See ``Service``."""
        if len(call.data) + 1 > self.unit.block_bytes:
            raise Refusal(Nrc.INCORRECT_LENGTH)
        transfer, data = self.unit.current(), call.data[1:]
        fault = self.unit.faults.next_block()
        if fault == "reject":
            raise Refusal(Nrc.PROGRAMMING_FAILURE)
        if fault == "power_loss":
            self.unit.lose_power()
        if fault == "corrupt" and data:
            data = data[:-1] + bytes([data[-1] ^ 0x01])
        answer = call.data[:1] + transfer.block(call.data[0], data)
        if fault == "lose_answer":
            raise NoAnswer
        took_s = self.unit.store.settings.program_ms_per_block / 1000
        return Later(duration_s=took_s, finish=lambda now_s: answer) if took_s else answer


class TransferExit(_FlashService):
    """0x37."""

    SID = 0x37
    MIN_LENGTH = 1

    def handle(self, call: Call) -> bytes:
        """See ``Service``."""
        answer = self.unit.current().finish(call.data)
        self.unit.transfer = None
        return answer


class FileTransfer(_FlashService):
    """0x38: modes 1 to 6 on the ECU's file system; blocks follow by 0x36 and 0x37."""

    SID = 0x38
    MIN_LENGTH = 5
    MODES: Mapping[int, str] = {
        ADD: "add", DELETE: "delete", REPLACE: "replace", READ: "read", LIST: "list", RESUME: "resume",
    }  # fmt: skip

    def handle(self, call: Call) -> bytes:
        """See ``Service``."""
        mode, length = call.data[0], int.from_bytes(call.data[1:3], "big")
        if mode not in self.MODES:
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        raw, rest = call.data[3 : 3 + length], call.data[3 + length :]
        if not length or len(raw) != length:
            raise Refusal(Nrc.INCORRECT_LENGTH)
        if mode in (ADD, REPLACE, RESUME):
            size = self._announced(rest)
        elif len(rest) != (1 if mode == READ else 0):
            raise Refusal(Nrc.INCORRECT_LENGTH)
        path = parse_path(raw, directory=mode == LIST)
        if mode == DELETE:
            if self.unit.transfer is not None:
                raise Refusal(Nrc.CONDITIONS_NOT_CORRECT)
            self.unit.files.delete(path)
            return bytes([mode])
        head = bytes([mode, 2]) + self.unit.block_bytes.to_bytes(2, "big")
        if mode in (READ, LIST):
            return head + self._send(mode, path, rest)
        return head + self._receive(mode, path, rest[0], size)

    def _announced(self, rest: bytes) -> int:
        """Uncompressed size of a file to come. Raises ``Refusal``."""
        if len(rest) < 2:
            raise Refusal(Nrc.INCORRECT_LENGTH)
        width = rest[1]
        if not 1 <= width <= MAX_SIZE_BYTES:
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        if len(rest) != 2 + 2 * width:
            raise Refusal(Nrc.INCORRECT_LENGTH)
        size, compressed = (int.from_bytes(rest[2 + i * width : 2 + (i + 1) * width], "big") for i in (0, 1))
        if rest[0] not in (PLAIN, ZLIB) or (rest[0] == PLAIN and size != compressed) or size == 0:
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        return size

    def _send(self, mode: int, path: str, rest: bytes) -> bytes:
        content = self.unit.files.content(path) if mode == READ else self.unit.files.listing()
        if mode == READ and rest[0] != PLAIN:
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        self.unit.begin(Upload(content, self.unit.block_bytes - 2))
        size = len(content).to_bytes(4, "big")
        return bytes([PLAIN, 0, 4]) + (size + size if mode == READ else size)

    def _receive(self, mode: int, path: str, data_format: int, size: int) -> bytes:
        files = self.unit.files
        if self.unit.transfer is not None:
            raise Refusal(Nrc.CONDITIONS_NOT_CORRECT)
        position = 0
        if mode == RESUME:
            position, promised = files.arrived(path)
            if promised != size or data_format != PLAIN:
                raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        else:
            files.begin(path, size, replace=mode == REPLACE)
        self.unit.begin(
            Download(
                size - position,
                lambda content: files.append(path, content),
                compressed=data_format == ZLIB,
                done=lambda: files.complete(path),
            )
        )
        return bytes([data_format]) + (position.to_bytes(8, "big") if mode == RESUME else b"")

    def describe(self) -> Mapping[str, object]:
        """See ``Service``."""
        files = self.unit.files
        return {"modes": sorted(self.MODES), "capacity_bytes": files.capacity_bytes, "files": files.capacity_files}


class _FlashEffect(BaseEffect):
    def __init__(self, context: EcuContext, description: EcuDescription, routine: RoutineDescription) -> None:
        super().__init__(context, description, routine)
        self.unit = flash_unit(context)

    def _finished(self, now_s: float, record: bytes) -> bytes:
        self._ends_s, self._stopped, self._record = now_s, False, record
        return b"\x00" + record


class EraseEffect(_FlashEffect):
    """31 01 FF00 with format 0x44, address and size: erases the sectors that hold the range."""

    def start(self, option: bytes, now_s: float) -> bytes | Later:
        """See ``RoutineEffect``."""
        if len(option) != ERASE_OPTION_BYTES:
            raise Refusal(Nrc.INCORRECT_LENGTH)
        address, size = int.from_bytes(option[1:5], "big"), int.from_bytes(option[5:], "big")
        region = self.unit.store.find(address, size)
        if option[0] != 0x44 or region is None:
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        if self.unit.transfer is not None:
            raise Refusal(Nrc.REQUEST_SEQUENCE_ERROR)
        self.unit.require_supply()
        if self.unit.faults.reject_erase:
            raise Refusal(Nrc.PROGRAMMING_FAILURE)
        duration_s = self.unit.store.begin_erase(region, address, size)
        if self.unit.faults.power_loss_at_erase:
            self.unit.faults.power_loss_at_erase = False
            self.unit.lose_power()

        def finish(now_s: float) -> bytes:
            self.unit.store.finish_erase(region, address, size)
            return self._finished(now_s, b"")

        return Later(duration_s=duration_s, finish=finish)


class CheckEffect(_FlashEffect):
    """31 01 0202: whether what was programmed is whole, meant for this ECU and signed; the result is a ``Verdict``."""

    def start(self, option: bytes, now_s: float) -> bytes | Later:
        """See ``RoutineEffect``."""
        if self.unit.transfer is not None:
            raise Refusal(Nrc.REQUEST_SEQUENCE_ERROR)
        return Later(
            duration_s=self.unit.store.check_s(),
            finish=lambda now_s: self._finished(
                now_s, bytes([self.unit.faults.check_result or self.unit.store.check()])
            ),
        )


class DependenciesEffect(_FlashEffect):
    """31 01 FF01: whether the regions fit each other; the result is a ``Verdict``."""

    def start(self, option: bytes, now_s: float) -> bytes | Later:
        """See ``RoutineEffect``."""
        return self._finished(now_s, bytes([self.unit.store.dependencies()]))


class PreconditionsEffect(_FlashEffect):
    """31 01 0203: the result lists by number what keeps the ECU from being programmed (see ``FlashUnit``)."""

    def start(self, option: bytes, now_s: float) -> bytes | Later:
        """See ``RoutineEffect``."""
        return self._finished(now_s, bytes(self.unit.failed_conditions()))


FLASH_EFFECTS: dict[str, EffectFactory] = {
    "erase": EraseEffect,
    "check_memory": CheckEffect,
    "dependencies": DependenciesEffect,
    "preconditions": PreconditionsEffect,
}

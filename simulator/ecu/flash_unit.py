"""Programming one ECU: when its boot loader runs, and the one transfer that may be under way.

The programming session is the boot loader's: entering it from the application starts the boot loader (normal messages
stop, only the services of the description's ``boot`` are left). Leaving it for the default session, by request or by
S3, starts the application if there is one to start; else the boot loader stays, as it does after any reset.
"""

from __future__ import annotations

from simulator.ecu.context import EcuContext
from simulator.ecu.flash_faults import FlashFaults
from simulator.ecu.flash_files import FileStore
from simulator.ecu.flash_store import FlashStore
from simulator.ecu.flash_transfer import Transfer
from simulator.ecu.service import NoAnswer, Nrc, Refusal, Session

#: Supply within which flash memory is erased and programmed.
PROGRAMMING_V = (10.5, 15.5)
HARD_RESET = 1
HARDWARE_NUMBER = 0xF191


class FlashUnit:
    """What the programming services of one ECU share."""

    def __init__(self, context: EcuContext) -> None:
        """Raises ``DescriptionError`` when the description's ``flash`` cannot be used."""
        self.context = context
        self.store = FlashStore(context)
        self.files = FileStore(context.nv, self.store.settings.file_bytes, self.store.settings.files)
        self.transfer: Transfer | None = None
        self.faults = FlashFaults()
        context.stays_in_boot = lambda: not self.may_start()
        context.session_checks.append(self._may_enter)

    @property
    def block_bytes(self) -> int:
        """``maxNumberOfBlockLength``: the longest 0x36 request, SID and counter included."""
        return min(self.store.settings.max_block_bytes, self.context.description.transport.max_length)

    def may_start(self) -> bool:
        """Whether the boot loader gives way to the application."""
        return self.store.is_bootable() and not self.faults.no_start

    def hardware_changed(self) -> None:
        """Tell the hardware of ``faults``, and compare images with it; the description's where it names none."""
        self.store.hardware_id = self.faults.hardware or self.store.described_hardware_id
        number = self.context.description.did(HARDWARE_NUMBER)
        if number is not None:
            told = self.faults.hardware.encode("ascii", "replace")[: number.length].ljust(number.length)
            self.context.override_did(HARDWARE_NUMBER, told if self.faults.hardware else None)

    def lose_power(self) -> None:
        """For a moment: the answer is lost, too."""
        self.transfer = None
        self.context.request_reset(HARD_RESET)
        raise NoAnswer

    def failed_conditions(self) -> list[int]:
        """What keeps the ECU from being programmed: 1 the vehicle moves, 2 supply too low, 3 too high."""
        volts = self.context.voltage_v()
        found = [(1, not self.context.is_standing), (2, volts < PROGRAMMING_V[0]), (3, volts > PROGRAMMING_V[1])]
        return [number for number, failed in found if failed]

    def require_supply(self) -> None:
        """Raises ``Refusal`` (0x93, 0x92) when the supply is too low or too high to change flash memory."""
        failed = self.failed_conditions()
        if 2 in failed:
            raise Refusal(Nrc.VOLTAGE_TOO_LOW)
        if 3 in failed:
            raise Refusal(Nrc.VOLTAGE_TOO_HIGH)

    def _may_enter(self, before: int, after: int, now_s: float) -> None:
        if after == Session.PROGRAMMING and not self.context.boot_mode and self.failed_conditions():
            raise Refusal(Nrc.CONDITIONS_NOT_CORRECT)

    def session_changed(self, session: int) -> None:
        """Any session was entered: a transfer ends, the boot loader begins or gives way to the application."""
        self.transfer = None
        if session == Session.PROGRAMMING:
            self.context.boot_mode = True
        elif session == Session.DEFAULT and self.context.boot_mode and self.may_start():
            self.context.request_reset(HARD_RESET)

    def booted(self) -> None:
        """The ECU has booted: what was asked for before is done with."""
        self.transfer = None
        self.context.take_reset()

    def begin(self, transfer: Transfer) -> None:
        """A transfer is asked for.

        Raises:
            Refusal: 0x22 while another is under way.
        """
        if self.transfer is not None:
            raise Refusal(Nrc.CONDITIONS_NOT_CORRECT)
        self.transfer = transfer

    def current(self) -> Transfer:
        """The transfer under way. Raises ``Refusal`` (0x24) when there is none."""
        if self.transfer is None:
            raise Refusal(Nrc.REQUEST_SEQUENCE_ERROR)
        return self.transfer


def flash_unit(context: EcuContext) -> FlashUnit:
    """The ECU's one flash unit.

    Raises:
        DescriptionError: its ``flash`` cannot be used.
    """
    unit = context.shared.get("flash")
    if not isinstance(unit, FlashUnit):
        unit = context.shared["flash"] = FlashUnit(context)
    return unit

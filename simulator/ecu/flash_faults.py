"""What may go wrong in an ECU's boot loader, on purpose: for tests of whoever programs it, and for demonstrations."""

from __future__ import annotations

from typing import Annotated

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]


class FlashFaults(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """All off. ``..._block`` is the number of a block (0x36) from now on, 1 the next; it happens once and is off."""

    reject_block: Count = 0  # answered with 0x72, not written
    corrupt_block: Count = 0  # one bit of it is written wrong
    lose_answer_block: Count = 0  # written, and the answer is lost
    power_loss_block: Count = 0  # not written: power fails for a moment, the ECU boots
    power_loss_at_erase: bool = False  # once, in the middle of erasing
    reject_erase: bool = False  # 0x72
    check_result: Annotated[int, msgspec.Meta(ge=0, le=255)] = 0  # of routine 0202, whatever it found; 0: what it found
    no_start: bool = False  # the application is not started, however good it is
    hardware: str = ""  # another hardware identifier than the description's

    def next_block(self) -> str:
        """What happens to this block: "", "reject", "corrupt", "lose_answer" or "power_loss"."""
        happens = ""
        for name in ("reject", "corrupt", "lose_answer", "power_loss"):
            left = getattr(self, f"{name}_block")
            if left:
                setattr(self, f"{name}_block", left - 1)
                if left == 1:
                    happens = happens or name
        return happens

    def change(self, changes: dict[str, object]) -> None:
        """Set some.

        Raises:
            ValueError: no such fault, or a value that it cannot have; nothing is changed.
        """
        try:
            wanted = msgspec.convert(msgspec.to_builtins(self) | changes, FlashFaults)
        except msgspec.ValidationError as error:
            raise ValueError(str(error)) from error
        for name in self.__struct_fields__:
            setattr(self, name, getattr(wanted, name))

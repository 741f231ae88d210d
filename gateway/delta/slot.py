"""A delta over the slot it starts from, as the installer uses it: ``gateway.update.sources.OpenDelta``."""

from __future__ import annotations

from bootctl.files import BlockFile
from gateway.delta.errors import DamagedDelta
from gateway.delta.file import Base, DeltaFile
from gateway.wire.uptane import DeltaOffer


class SlotDelta:
    """A delta bound to its base. All calls block."""

    def __init__(self, file: DeltaFile, base: Base) -> None:
        self._file, self._base = file, base
        self.segment_bytes = file.header.segment_bytes
        self.target_sha256 = file.header.target_sha256.hex()
        self.target_length = file.header.target_length

    def check_base(self) -> None:
        """See ``DeltaFile.check_base``."""
        self._file.check_base(self._base)

    def segment(self, index: int) -> bytes:
        """See ``DeltaFile.segment``."""
        return self._file.segment(index, self._base)


def open_delta(container: BlockFile, base: BlockFile, offer: DeltaOffer) -> SlotDelta:
    """Open a fetched and verified delta. Neither file is written, nor closed.

    Raises:
        DamagedDelta: it is none, or is made from another base than the Director said.
        OSError: it cannot be read.
    """
    file = DeltaFile.open(container.read_at, container.size())
    if (file.header.base_sha256.hex(), file.header.base_length) != (offer.base_sha256, offer.base_length):
        raise DamagedDelta("the delta is made from another base than offered")
    return SlotDelta(file, base)

"""Applying deltas: an image made from the one in the other slot, segment by segment, in bounded memory."""

from gateway.delta.errors import DamagedDelta, WrongBase
from gateway.delta.file import Base, DeltaFile
from gateway.delta.slot import SlotDelta, open_delta

__all__ = ["Base", "DamagedDelta", "DeltaFile", "SlotDelta", "WrongBase", "open_delta"]

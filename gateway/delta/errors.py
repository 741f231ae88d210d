"""What can be wrong with a delta. Both mean: take the full image instead."""

from __future__ import annotations

from gateway.errors import PeerError


class DamagedDelta(PeerError):
    """The delta file is malformed, or a segment it makes is not what its SHA-256 says."""


class WrongBase(PeerError):
    """The base at hand is not the image the delta was made from."""

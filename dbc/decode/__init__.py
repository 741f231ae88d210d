"""Frames to raw signal values, and raw values to physical ones, in whole batches.

``Decoder`` is the flat pass: the cost of a batch is some twenty array operations whatever the number of identifiers in
it. ``Values`` turns raw integers into physical values, labels and back. Neither loads a DBC nor imports anything but
NumPy and ``dbc.manifest``.
"""

from __future__ import annotations

from dbc.decode.decoder import Decoded, Decoder, FrameStatus
from dbc.decode.values import SignalValueError, Values

__all__ = ["Decoded", "Decoder", "FrameStatus", "SignalValueError", "Values"]

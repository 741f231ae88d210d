"""SocketCAN's frame layouts as arrays: ``struct can_frame`` and ``canfd_frame`` to the columns of a batch. Pure."""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

from dbc.frames import ERROR, EXTENDED, FD, REMOTE, FrameBatch

CLASSIC_BYTES, FD_BYTES = 16, 72  # CAN_MTU, CANFD_MTU: the length tells which of the two a message is

_FRAME = np.dtype(
    {
        "names": ["id", "length", "flags"],
        "formats": ["u4", "u1", "u1"],
        "offsets": [0, 4, 5],
        "itemsize": FD_BYTES,
    }
)
_ROW = np.arange(64)
#: _MASKS[n] keeps the first n bytes.
_MASKS = np.where(_ROW[None, :] < np.arange(65)[:, None], np.uint8(0xFF), np.uint8(0))
_CLASSIC_MASKS = np.ascontiguousarray(_MASKS[:9, :8]).view(np.uint64)[:, 0]


def parse_frames(
    rows: NDArray[np.uint8], sizes: NDArray[np.uint32], timestamps_ns: NDArray[np.int64], bus: NDArray[np.uint8]
) -> tuple[FrameBatch, int]:
    """The frames in ``rows`` (uint8[n, 72], ``sizes`` bytes of each are valid) and how many rows were no frame.

    Payload bytes past the length are zero whatever the row held there, and lengths are within what the format allows.
    The batch shares no memory with ``rows``.
    """
    fd = sizes == FD_BYTES
    sound = fd | (sizes == CLASSIC_BYTES)
    malformed = len(rows) - int(np.count_nonzero(sound))
    if malformed:
        rows, timestamps_ns, bus, fd = rows[sound], timestamps_ns[sound], bus[sound], fd[sound]
    header = rows.view(_FRAME)[:, 0]
    word: NDArray[np.uint32] = header["id"]
    flags = ((word >> 31) | ((word >> 29) & REMOTE) | ((word >> 27) & ERROR)).astype(np.uint8)
    can_id: NDArray[np.uint32] = word & np.where(flags & (EXTENDED | ERROR), np.uint32(0x1FFFFFFF), np.uint32(0x7FF))
    data = np.zeros((len(rows), 64), np.uint8)
    length = np.minimum(header["length"], 8)
    # Classic rows, and the first 8 bytes of all others, as one 64-bit word each.
    words = data.view(np.uint64)
    words[:, 0] = np.ascontiguousarray(rows[:, 8:16]).view(np.uint64)[:, 0] & _CLASSIC_MASKS[length]
    if fd.any():
        length[fd] = np.minimum(header["length"][fd], 64)
        data[fd] = rows[fd, 8:72] & _MASKS[length[fd]]
        flags[fd] |= FD | (header["flags"][fd] & 3) << 4
    remote = (flags & REMOTE) != 0
    if remote.any():
        data[remote] = 0
    return FrameBatch(timestamps_ns, bus, can_id, flags, length, data), malformed


def build_frames(batch: FrameBatch) -> list[bytes]:
    """The frames as SocketCAN wants them written, for senders and tests."""
    out = []
    for i in range(len(batch)):
        flags, length = int(batch.flags[i]), int(batch.length[i])
        word = int(batch.can_id[i]) | (flags & EXTENDED) << 31 | (flags & REMOTE) << 29 | (flags & ERROR) << 27
        room, extra = (64, (flags >> 4) & 3) if flags & FD else (8, 0)
        head = word.to_bytes(4, sys.byteorder) + bytes((length, extra, 0, 0))
        out.append(head + batch.data[i, :room].tobytes())
    return out

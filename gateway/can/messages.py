"""Many datagrams per system call: ``recvmmsg`` into buffers that are allocated once and parsed as arrays.

The kernel fills one row per message: the frame, its length, and control messages with the time of reception and the
socket's drop counter. The control messages of a socket always come in the same order, so that they are read as columns
of a structured array; no Python runs per message. What arrays point to is overwritten by the next call: whoever keeps
something copies it.

Linux only (64-bit and 32-bit ABIs).
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from ctypes import c_int, c_size_t, c_uint, c_void_p, sizeof

import numpy as np
from numpy.typing import NDArray

#: Not in the socket module. SO_TIMESTAMPNS delivers 64-bit seconds on a 64-bit kernel; 32-bit ones need the new form.
SO_TIMESTAMPNS = 35 if sizeof(c_void_p) == 8 else 64
SO_RXQ_OVFL = 40
SO_RCVBUFFORCE = 33
SO_MEMINFO = 55
MEMINFO_DROPS, MEMINFO_COUNT = 8, 9

MAX_PER_CALL = 1024  # the kernel takes no more in one call (UIO_MAXIOV)


class IoVec(ctypes.Structure):
    """``struct iovec``."""

    _fields_ = (("base", c_void_p), ("length", c_size_t))


class MsgHdr(ctypes.Structure):
    """``struct msghdr``."""

    _fields_ = (
        ("name", c_void_p),
        ("name_length", c_uint),
        ("iov", c_void_p),
        ("iov_length", c_size_t),
        ("control", c_void_p),
        ("control_length", c_size_t),
        ("flags", c_int),
    )


class MMsgHdr(ctypes.Structure):
    """``struct mmsghdr``."""

    _fields_ = (("header", MsgHdr), ("length", c_uint))


_WORD = sizeof(c_size_t)
_SIZE_T = np.dtype(f"u{_WORD}")
_DATA = _WORD + 8  # a control message starts with size_t length, int level, int type
_SECOND = (_DATA + 16 + _WORD - 1) // _WORD * _WORD
_CONTROL_BYTES = _SECOND + 2 * _DATA + 16  # room for one more than we expect


def _control_dtype() -> np.dtype[np.void]:
    """Two control messages: a timespec, then a 32-bit counter. (Offsets are those of CMSG_DATA on this ABI.)"""
    return np.dtype(
        {
            "names": ["level0", "type0", "seconds", "nanoseconds", "level1", "type1", "drops"],
            "formats": ["i4", "i4", "i8", "i8", "i4", "i4", "u4"],
            "offsets": [_WORD, _WORD + 4, _DATA, _DATA + 8, _SECOND + _WORD, _SECOND + _WORD + 4, _SECOND + _DATA],
            "itemsize": _CONTROL_BYTES,
        }
    )


def _headers_dtype() -> np.dtype[np.void]:
    header = MMsgHdr.header.offset
    return np.dtype(
        {
            "names": ["control_length", "flags", "length"],
            "formats": [_SIZE_T, "i4", "u4"],
            "offsets": [header + MsgHdr.control_length.offset, header + MsgHdr.flags.offset, MMsgHdr.length.offset],
            "itemsize": sizeof(MMsgHdr),
        }
    )


_libc = ctypes.CDLL(None, use_errno=True)
_recvmmsg = _libc.recvmmsg
_recvmmsg.argtypes = [c_int, c_void_p, c_uint, c_int, c_void_p]
_recvmmsg.restype = c_int


class MessageBuffers:
    """Room for ``rows`` messages of up to ``row_bytes`` each, filled by one or more ``receive`` calls."""

    def __init__(self, rows: int, row_bytes: int) -> None:
        self.rows = rows
        self.payload: NDArray[np.uint8] = np.zeros((rows, row_bytes), np.uint8)
        self._control_bytes = np.zeros((rows, _CONTROL_BYTES), np.uint8)
        self._iovecs = (IoVec * rows)()
        self._headers = (MMsgHdr * rows)()
        self._step = sizeof(MMsgHdr)
        payload, control = self.payload.ctypes.data, self._control_bytes.ctypes.data
        iovecs = ctypes.addressof(self._iovecs)
        for i in range(rows):
            self._iovecs[i] = IoVec(payload + i * row_bytes, row_bytes)
            header = self._headers[i].header
            header.iov, header.iov_length = iovecs + i * sizeof(IoVec), 1
            header.control, header.control_length = control + i * _CONTROL_BYTES, _CONTROL_BYTES
        self._address = ctypes.addressof(self._headers)
        self._view = np.frombuffer(memoryview(self._headers).cast("B"), dtype=_headers_dtype())
        self.control = self._control_bytes.view(_control_dtype())[:, 0]
        self.lengths: NDArray[np.uint32] = self._view["length"]
        self.control_lengths = self._view["control_length"]
        self.message_flags: NDArray[np.int32] = self._view["flags"]
        self.used = 0

    def clear(self) -> None:
        """Make all rows free again."""
        # The kernel replaced each row's control length by what it used; only rows that were used need it back.
        self.control_lengths[: self.used] = _CONTROL_BYTES
        self.used = 0

    def receive(self, fileno: int, limit: int) -> int:
        """Read up to ``limit`` messages into the free rows; returns how many, 0 when none is waiting.

        Fewer than asked for means that no more were waiting. Sets ``used``.

        Raises:
            OSError: as recvmmsg does (ENETDOWN, ENODEV, ENOBUFS …); no row was used.
        """
        count = min(limit, self.rows - self.used, MAX_PER_CALL)
        if count <= 0:
            return 0
        while True:
            got = int(_recvmmsg(fileno, self._address + self.used * self._step, count, socket.MSG_DONTWAIT, None))
            if got >= 0:
                self.used += got
                return got
            number = ctypes.get_errno()
            if number in (errno.EAGAIN, errno.EWOULDBLOCK):
                return 0
            if number != errno.EINTR:
                raise OSError(number, os.strerror(number))

    def timestamps_ns(self, fallback_ns: int) -> NDArray[np.int64]:
        """When the kernel received each used row, UTC; ``fallback_ns`` where it did not say. A new array."""
        return timestamps_ns(self.control[: self.used], self.control_lengths[: self.used], fallback_ns)

    def drops(self) -> NDArray[np.uint32]:
        """The socket's drop counter (modulo 2**32) when each used row was queued; 0 where it did not say."""
        return drops(self.control[: self.used], self.control_lengths[: self.used])


def timestamps_ns(
    control: NDArray[np.void], lengths: NDArray[np.unsignedinteger], fallback_ns: int
) -> NDArray[np.int64]:
    """Times from the first control message of each row, for rows whose first one is a time."""
    stamps: NDArray[np.int64] = control["seconds"] * np.int64(1_000_000_000) + control["nanoseconds"]
    told = (lengths >= _DATA + 16) & (control["level0"] == socket.SOL_SOCKET) & (control["type0"] == SO_TIMESTAMPNS)
    if not told.all():
        stamps[~told] = fallback_ns
    return stamps


def drops(control: NDArray[np.void], lengths: NDArray[np.unsignedinteger]) -> NDArray[np.uint32]:
    """Counters from the second control message; the kernel leaves it out while nothing was dropped."""
    if int(lengths.max(initial=0)) < _SECOND + _DATA + 4:
        return np.zeros(len(lengths), np.uint32)
    told = (lengths >= _SECOND + _DATA + 4) & (control["level1"] == socket.SOL_SOCKET)
    told &= control["type1"] == SO_RXQ_OVFL
    return np.where(told, control["drops"], np.uint32(0))


def prepare(sock: socket.socket, receive_buffer_bytes: int) -> int:
    """Ask for timestamps, drop counts and a large receive buffer; returns the bytes granted.

    The kernel doubles what is asked and caps it at ``net.core.rmem_max`` unless we hold CAP_NET_ADMIN.
    """
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    sock.setsockopt(socket.SOL_SOCKET, SO_RXQ_OVFL, 1)
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, receive_buffer_bytes)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


class DropCounter:
    """A 32-bit kernel counter made whole: it wraps after four thousand million drops, and it belongs to one socket."""

    def __init__(self) -> None:
        self.total = 0
        self._last = 0

    def update(self, counter: int) -> int:
        """Take the counter's present value; returns how many were added. Values never go backwards but by wrapping."""
        added = (counter - self._last) & 0xFFFFFFFF
        if added >= 1 << 31:  # an older value, seen late
            return 0
        self._last = counter
        self.total += added
        return added

    def new_socket(self) -> None:
        """The next values come from a fresh socket."""
        self._last = 0


def current_drops(sock: socket.socket) -> int | None:
    """The socket's drop counter now; control messages tell of it only with the next frame. None if unknown."""
    try:
        info = sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, MEMINFO_COUNT * 4)
    except OSError:
        return None  # before Linux 4.12
    if len(info) < MEMINFO_COUNT * 4:
        return None
    return int(np.frombuffer(info, np.uint32)[MEMINFO_DROPS])

"""Many frames of a CAN socket per system call (``recvmmsg``, ``sendmmsg``), without arrays: links have few at a time.

A call that brings fewer frames than fit has emptied the socket, so no further call is needed to find that out.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from array import array
from ctypes import c_int, c_size_t, c_uint, c_void_p, sizeof
from typing import NamedTuple

from gateway.can.messages import SO_TIMESTAMPNS

FRAME_BYTES = 72  # struct canfd_frame
MSG_CONFIRM = 0x800  # on received frames: this very socket sent it


class _IoVec(ctypes.Structure):
    _fields_ = (("base", c_void_p), ("length", c_size_t))


class _MsgHdr(ctypes.Structure):
    _fields_ = (
        ("name", c_void_p),
        ("name_length", c_uint),
        ("iov", c_void_p),
        ("iov_length", c_size_t),
        ("control", c_void_p),
        ("control_length", c_size_t),
        ("flags", c_int),
    )


class _MMsgHdr(ctypes.Structure):
    _fields_ = (("header", _MsgHdr), ("length", c_uint))


_libc = ctypes.CDLL(None, use_errno=True)
_sendmmsg = _libc.sendmmsg
_sendmmsg.argtypes = [c_int, c_void_p, c_uint, c_int]
_sendmmsg.restype = c_int
_recvmmsg = _libc.recvmmsg
_recvmmsg.argtypes = [c_int, c_void_p, c_uint, c_int, c_void_p]
_recvmmsg.restype = c_int


#: A control message that tells a time: its header, then seconds and nanoseconds.
_STAMP = struct.Struct(f"={'Q' if sizeof(c_size_t) == 8 else 'I'}iiqq")

_ROW = struct.Struct("=IBB2x64s")


class Heard(NamedTuple):
    """The frames one call brought, column by column."""

    words: list[int]  # identifiers with SocketCAN's flags
    payloads: list[bytes]
    sizes: list[int]  # 16: classic, 72: FD
    frame_flags: list[int]  # CANFD_BRS …
    message_flags: list[int]  # MSG_CONFIRM …


class FrameBuffers:
    """Room for receiving ``count`` frames of a socket with ``SO_TIMESTAMPNS``."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._content = bytearray(count * FRAME_BYTES)
        self._control = bytearray(count * _STAMP.size)
        self._iovecs = (_IoVec * count)()
        self._headers = (_MMsgHdr * count)()
        content, control, iovecs = _address(self._content), _address(self._control), ctypes.addressof(self._iovecs)
        for i in range(count):
            self._iovecs[i] = _IoVec(content + i * FRAME_BYTES, FRAME_BYTES)
            header = self._headers[i].header
            header.iov, header.iov_length = iovecs + i * sizeof(_IoVec), 1
            header.control = control + i * _STAMP.size
        self._at = ctypes.addressof(self._headers)
        row = sizeof(_MMsgHdr)
        words = memoryview(self._headers).cast("B").cast("I")
        sizes = memoryview(self._headers).cast("B").cast("L")  # size_t
        self._lengths = words[_MMsgHdr.length.offset // 4 :: row // 4]
        self._flags = words[_MsgHdr.flags.offset // 4 :: row // 4]
        self._control_lengths = sizes[_MsgHdr.control_length.offset // sizeof(c_size_t) :: row // sizeof(c_size_t)]
        self._room = memoryview(array("L", [_STAMP.size] * count))
        self._control_lengths[:] = self._room

    def receive(self, fileno: int) -> Heard | None:
        """The frames that are waiting, ``count`` of them at most; None if there are none.

        Raises:
            OSError: as recvmmsg does (ENETDOWN, ENODEV …).
        """
        got = _recvmmsg(fileno, self._at, self._count, socket.MSG_DONTWAIT, None)
        if got < 0:
            number = ctypes.get_errno()
            if number in (errno.EAGAIN, errno.EINTR):
                return None
            raise OSError(number, os.strerror(number))
        rows = list(_ROW.iter_unpack(memoryview(self._content)[: got * FRAME_BYTES]))
        self._control_lengths[:got] = self._room[:got]
        return Heard(
            [row[0] for row in rows],
            [row[3][: row[1]] for row in rows],
            self._lengths[:got].tolist(),
            [row[2] for row in rows],
            self._flags[:got].tolist(),
        )

    def stamps_ns(self, count: int) -> list[int]:
        """When the kernel received each of the last call's frames, UTC; 0 if it did not tell."""
        return [
            seconds * 1_000_000_000 + nanoseconds
            if size == _STAMP.size and level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS
            else 0
            for size, level, kind, seconds, nanoseconds in _STAMP.iter_unpack(
                memoryview(self._control)[: count * _STAMP.size]
            )
        ]


class SendBuffers:
    """Room for sending ``count`` frames of ``frame_bytes`` (16: classic, 72: FD) by one system call."""

    def __init__(self, count: int, frame_bytes: int) -> None:
        self._bytes, self.count = frame_bytes, count
        self._content = bytearray(count * frame_bytes)
        self._iovecs = (_IoVec * count)()
        self._headers = (_MMsgHdr * count)()
        content, iovecs = _address(self._content), ctypes.addressof(self._iovecs)
        for i in range(count):
            self._iovecs[i] = _IoVec(content + i * frame_bytes, frame_bytes)
            header = self._headers[i].header
            header.iov, header.iov_length = iovecs + i * sizeof(_IoVec), 1
        self._at = ctypes.addressof(self._headers)

    def send(self, fileno: int, frames: list[bytes]) -> int:
        """Send up to ``count`` frames in their order; returns how many were taken, at least one.

        Raises:
            OSError: the first was not taken.
        """
        frames = frames[: self.count]
        self._content[: len(frames) * self._bytes] = b"".join(frames)
        got = int(_sendmmsg(fileno, self._at, len(frames), socket.MSG_DONTWAIT))
        if got < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return got


def _address(buffer: bytearray) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))

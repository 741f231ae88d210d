"""Many frames of a CAN socket per system call (``recvmmsg``, ``sendmmsg``), for links.

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

import numpy as np
from numpy.typing import NDArray

from gateway.can.messages import SO_TIMESTAMPNS, IoVec, MMsgHdr, MsgHdr

FRAME_BYTES = 72  # struct canfd_frame
MSG_CONFIRM = 0x800  # on received frames: this very socket sent it


_libc = ctypes.CDLL(None, use_errno=True)
_sendmmsg = _libc.sendmmsg
_sendmmsg.argtypes = [c_int, c_void_p, c_uint, c_int]
_sendmmsg.restype = c_int
_recvmmsg = _libc.recvmmsg
_recvmmsg.argtypes = [c_int, c_void_p, c_uint, c_int, c_void_p]
_recvmmsg.restype = c_int


#: A control message that tells a time: its header, then seconds and nanoseconds.
_STAMP = struct.Struct(f"={'Q' if sizeof(c_size_t) == 8 else 'I'}iiqq")

_ROW, _HEAD = struct.Struct("=IBB2x64s"), struct.Struct("=IB")


class FrameBuffers:
    """Room for receiving ``count`` frames of a socket with ``SO_TIMESTAMPNS``; overwritten by each call."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._content = bytearray(count * FRAME_BYTES)
        self._rows = np.frombuffer(self._content, np.uint8).reshape(count, FRAME_BYTES)
        self._control = bytearray(count * _STAMP.size)
        self._iovecs = (IoVec * count)()
        self._headers = (MMsgHdr * count)()
        content, control, iovecs = _address(self._content), _address(self._control), ctypes.addressof(self._iovecs)
        for i in range(count):
            self._iovecs[i] = IoVec(content + i * FRAME_BYTES, FRAME_BYTES)
            header = self._headers[i].header
            header.iov, header.iov_length = iovecs + i * sizeof(IoVec), 1
            header.control = control + i * _STAMP.size
        self._at = ctypes.addressof(self._headers)
        row = sizeof(MMsgHdr)
        words = memoryview(self._headers).cast("B").cast("I")
        sizes = memoryview(self._headers).cast("B").cast("L")  # size_t
        #: By frame: 16 for a classic, 72 for an FD frame; MSG_CONFIRM and the like.
        self.sizes = words[MMsgHdr.length.offset // 4 :: row // 4]
        self.message_flags = words[MsgHdr.flags.offset // 4 :: row // 4]
        self._control_lengths = sizes[MsgHdr.control_length.offset // sizeof(c_size_t) :: row // sizeof(c_size_t)]
        self._room = memoryview(array("L", [_STAMP.size] * count))
        self._control_lengths[:] = self._room

    def receive(self, fileno: int) -> int:
        """Fetch the frames that are waiting, ``count`` of them at most; returns how many.

        Raises:
            OSError: as recvmmsg does (ENETDOWN, ENODEV …).
        """
        got = int(_recvmmsg(fileno, self._at, self._count, socket.MSG_DONTWAIT, None))
        if got < 0:
            number = ctypes.get_errno()
            if number in (errno.EAGAIN, errno.EINTR):
                return 0
            raise OSError(number, os.strerror(number))
        self._control_lengths[:got] = self._room[:got]
        return got

    def frame(self, n: int) -> tuple[int, int, bytes]:
        """A fetched frame: identifier with SocketCAN's flags, frame flags (CANFD_BRS …), payload."""
        word, length, flags, data = _ROW.unpack_from(self._content, n * FRAME_BYTES)
        return word, flags, data[:length]

    def run(self, got: int) -> tuple[int, bytes, int] | None:
        """All fetched frames if they have one identifier and length: the word, their payloads joined, the length."""
        rows = self._rows[:got]
        if not (rows[:, :5] == rows[0, :5]).all():
            return None
        word, size = _HEAD.unpack_from(self._content)
        return word, rows[:, 8 : 8 + size].tobytes(), size

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
        self.count = count
        self._content = bytearray(count * frame_bytes)
        self._rows = np.frombuffer(self._content, np.uint8).reshape(count, frame_bytes)
        self._iovecs = (IoVec * count)()
        self._headers = (MMsgHdr * count)()
        content, iovecs = _address(self._content), ctypes.addressof(self._iovecs)
        for i in range(count):
            self._iovecs[i] = IoVec(content + i * frame_bytes, frame_bytes)
            header = self._headers[i].header
            header.iov, header.iov_length = iovecs + i * sizeof(IoVec), 1
        self._at = ctypes.addressof(self._headers)

    def send(self, fileno: int, head: NDArray[np.uint8], joined: bytes, size: int) -> int:
        """Send up to ``count`` frames with one ``head`` (the first 8 bytes) and payloads of ``size`` bytes.

        Returns how many were taken, at least one.

        Raises:
            OSError: the first was not taken.
        """
        payloads = np.frombuffer(joined, np.uint8).reshape(-1, size)[: self.count]
        count = len(payloads)
        self._rows[:count, :8] = head
        self._rows[:count, 8 : 8 + size] = payloads
        got = int(_sendmmsg(fileno, self._at, count, socket.MSG_DONTWAIT))
        if got < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return got


def _address(buffer: bytearray) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))

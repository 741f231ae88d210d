"""Many frames of a CAN socket per system call (``recvmmsg``), without arrays: for links, which get few at a time.

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


_recvmmsg = ctypes.CDLL(None, use_errno=True).recvmmsg
_recvmmsg.argtypes = [c_int, c_void_p, c_uint, c_int, c_void_p]
_recvmmsg.restype = c_int


#: A control message that tells a time: its header, then seconds and nanoseconds.
_STAMP = struct.Struct(f"={'Q' if sizeof(c_size_t) == 8 else 'I'}iiqq")

#: A frame as the kernel wrote it, when it was received (UTC; 0 if not told), and whether this socket sent it.
Heard = tuple[bytes, int, bool]


class FrameBuffers:
    """Room for ``count`` frames of a socket with ``SO_TIMESTAMPNS``."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._content = bytearray(count * FRAME_BYTES)
        self._control = bytearray(count * _STAMP.size)
        self._iovecs = (_IoVec * count)()
        self._headers = (_MMsgHdr * count)()
        content = ctypes.addressof(ctypes.c_char.from_buffer(self._content))
        control = ctypes.addressof(ctypes.c_char.from_buffer(self._control))
        iovecs = ctypes.addressof(self._iovecs)
        for i in range(count):
            self._iovecs[i] = _IoVec(content + i * FRAME_BYTES, FRAME_BYTES)
            header = self._headers[i].header
            header.iov, header.iov_length = iovecs + i * sizeof(_IoVec), 1
            header.control = control + i * _STAMP.size
        self._address = ctypes.addressof(self._headers)
        row = sizeof(_MMsgHdr)
        words = memoryview(self._headers).cast("B").cast("I")
        sizes = memoryview(self._headers).cast("B").cast("L")  # size_t
        self._lengths = words[_MMsgHdr.length.offset // 4 :: row // 4]
        self._flags = words[_MsgHdr.flags.offset // 4 :: row // 4]
        self._control_lengths = sizes[_MsgHdr.control_length.offset // sizeof(c_size_t) :: row // sizeof(c_size_t)]
        self._room = memoryview(array("L", [_STAMP.size] * count))
        self._control_lengths[:] = self._room

    def receive(self, fileno: int) -> list[Heard]:
        """The frames that are waiting, ``count`` of them at most.

        Raises:
            OSError: as recvmmsg does (ENETDOWN, ENODEV …).
        """
        got = _recvmmsg(fileno, self._address, self._count, socket.MSG_DONTWAIT, None)
        if got < 0:
            number = ctypes.get_errno()
            if number in (errno.EAGAIN, errno.EINTR):
                return []
            raise OSError(number, os.strerror(number))
        lengths, flags = self._lengths[:got].tolist(), self._flags[:got].tolist()
        content, heard = self._content, []
        stamps = _STAMP.iter_unpack(memoryview(self._control)[: got * _STAMP.size])
        for n, (size, level, kind, seconds, nanoseconds) in enumerate(stamps):
            at = n * FRAME_BYTES
            is_told = size == _STAMP.size and level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS
            at_ns = seconds * 1_000_000_000 + nanoseconds if is_told else 0
            heard.append((bytes(content[at : at + lengths[n]]), at_ns, flags[n] & MSG_CONFIRM != 0))
        self._control_lengths[:got] = self._room[:got]
        return heard

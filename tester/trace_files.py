"""Logs of frames: written as candump, ASC or pcap; read in every format that ``dbc.logs`` knows, and pcap."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from dbc.frames import BRS, ERROR, EXTENDED, FD, REMOTE
from dbc.logs import LogError, open_log
from gateway.can.link import CanFrame
from tester.errors import FileError, UsageError

#: LINKTYPE_CAN_SOCKETCAN; timestamps in nanoseconds.
PCAP_MAGIC, PCAP_LINK = 0xA1B23C4D, 227
_PCAP_HEADER, _PCAP_RECORD = struct.Struct("<IHHiIII"), struct.Struct("<IIII")
_EXTENDED_BIT, _REMOTE_BIT, _ERROR_BIT, _FD_BIT, _BRS_BIT = 0x80000000, 0x40000000, 0x20000000, 0x04, 0x01
MAX_RECORD_BYTES = 1 << 16
FORMATS = {".log": "candump", ".candump": "candump", ".asc": "asc", ".pcap": "pcap"}


class FrameWriter(Protocol):
    """A log being written."""

    def write(self, bus: str, frame: CanFrame) -> None:
        """One frame."""

    def close(self) -> None:
        """All of it is in the file afterwards."""


class CandumpLog:
    """``(seconds) bus id#data``, as ``candump -L`` writes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, bus: str, frame: CanFrame) -> None:
        """See ``FrameWriter``."""
        self._file.write(candump_line(bus, frame).encode() + b"\n")

    def close(self) -> None:
        """See ``FrameWriter``."""
        self._file.close()


class PcapLog:
    """What Wireshark opens. One link per file: the bus is not told."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        file.write(_PCAP_HEADER.pack(PCAP_MAGIC, 2, 4, 0, 0, MAX_RECORD_BYTES, PCAP_LINK))

    def write(self, bus: str, frame: CanFrame) -> None:
        """See ``FrameWriter``."""
        identifier = frame.can_id | (_EXTENDED_BIT if frame.extended else 0)
        flags = (_FD_BIT | (_BRS_BIT if frame.brs else 0)) if frame.fd else 0
        body = struct.pack(">IBBBB", identifier, len(frame.data), flags, 0, 0) + frame.data
        seconds, rest_ns = divmod(frame.timestamp_ns, 1_000_000_000)
        self._file.write(_PCAP_RECORD.pack(seconds & 0xFFFFFFFF, rest_ns, len(body), len(body)) + body)

    def close(self) -> None:
        """See ``FrameWriter``."""
        self._file.close()


class AscLog:
    """Vector's text format, by python-can. Buses are numbered from 1 as they appear."""

    def __init__(self, path: Path) -> None:
        import can

        self._can, self._buses = can, dict[str, int]()
        self._writer = can.ASCWriter(str(path))

    def write(self, bus: str, frame: CanFrame) -> None:
        """See ``FrameWriter``."""
        number = self._buses.setdefault(bus, len(self._buses))
        message = self._can.Message(
            timestamp=frame.timestamp_ns / 1e9, arbitration_id=frame.can_id, is_extended_id=frame.extended,
            data=frame.data, is_fd=frame.fd, bitrate_switch=frame.brs, channel=number,
        )  # fmt: skip
        self._writer.on_message_received(message)

    def close(self) -> None:
        """See ``FrameWriter``."""
        self._writer.stop()


def candump_line(bus: str, frame: CanFrame) -> str:
    """One line without its end."""
    seconds, rest_ns = divmod(frame.timestamp_ns, 1_000_000_000)
    identifier = f"{frame.can_id:08X}" if frame.extended else f"{frame.can_id:03X}"
    mark = f"##{1 if frame.brs else 0}" if frame.fd else "#"
    return f"({seconds}.{rest_ns // 1000:06d}) {bus} {identifier}{mark}{frame.data.hex().upper()}"


def open_writer(path: Path) -> FrameWriter:
    """A log of the format that the ending names.

    Raises:
        UsageError: no such format.
        FileError: it cannot be written.
    """
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise UsageError(f"{path}: name it .log (candump), .asc or .pcap")
    try:
        if kind == "asc":
            return AscLog(path)
        file = path.open("wb")
    except OSError as error:
        failure = FileError(path, error.strerror or str(error))
        failure.status = 73
        raise failure from error
    return CandumpLog(file) if kind == "candump" else PcapLog(file)


def read_frames(path: Path) -> Iterator[tuple[str, CanFrame]]:
    """(bus, frame) of a log of any known format; error and remote frames are left out.

    Raises:
        FileError: no such file, or not a log.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_PCAP_HEADER.size)
            if len(head) == _PCAP_HEADER.size and _order(head):
                yield from _read_pcap(path, file, head)
                return
    except OSError as error:
        raise FileError(path, error.strerror or str(error), is_missing=True) from error
    try:
        with open_log(path) as log:
            for batch in log:
                names = log.buses
                for i in range(len(batch)):
                    flags = int(batch.flags[i])
                    if flags & (ERROR | REMOTE):
                        continue
                    size = int(batch.length[i])
                    frame = CanFrame(
                        int(batch.can_id[i]), batch.data[i, :size].tobytes(), bool(flags & EXTENDED), bool(flags & FD),
                        bool(flags & BRS), int(batch.timestamp_ns[i]),
                    )  # fmt: skip
                    yield names[int(batch.bus[i])], frame
    except LogError as error:
        raise FileError(path, str(error)) from error


def _order(head: bytes) -> str:
    for order in "<>":
        if struct.unpack_from(order + "I", head)[0] in (PCAP_MAGIC, 0xA1B2C3D4):
            return order
    return ""


def _read_pcap(path: Path, file: BinaryIO, head: bytes) -> Iterator[tuple[str, CanFrame]]:
    order = _order(head)
    magic, *_, link = struct.unpack(order + "IHHiIII", head)
    if link & 0xFFFF != PCAP_LINK:
        raise FileError(path, f"a capture of link type {link & 0xFFFF}; only CAN (227) can be decoded")
    factor = 1 if magic == PCAP_MAGIC else 1000
    while len(record := file.read(16)) == 16:
        seconds, rest, size, _ = struct.unpack(order + "IIII", record)
        body = file.read(size) if size <= MAX_RECORD_BYTES else b""
        if len(body) < 8 or len(body) < size:
            raise FileError(path, "the capture is cut off")
        identifier, length, flags = struct.unpack_from(">IBB", body)
        if identifier & (_REMOTE_BIT | _ERROR_BIT):
            continue
        extended = bool(identifier & _EXTENDED_BIT)
        at_ns = seconds * 1_000_000_000 + rest * factor
        is_fd = bool(flags & _FD_BIT) or length > 8
        data = body[8 : 8 + length]
        yield "can0", CanFrame(identifier & 0x1FFFFFFF, data, extended, is_fd, bool(flags & _BRS_BIT) and is_fd, at_ns)

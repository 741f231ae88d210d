"""Upload, download, transfer and files: 0x34-0x38."""

from __future__ import annotations

from enum import IntEnum

from gateway.uds.codec.query import Answer, Query, Reader, byte, memory, number, query, sized
from gateway.uds.names import Sid


class Transfer(Answer, frozen=True):
    """What the ECU accepts: ``max_block_bytes`` counts a whole TransferData request, SID and counter included."""

    max_block_bytes: int


def _load(sid: int, address: int, size: int, address_bytes: int, size_bytes: int, data_format: int) -> Query[Transfer]:
    def read(reader: Reader) -> Transfer:
        width = reader.number(1, "length format") >> 4
        limit = reader.number(width, "longest block")
        reader.end()
        if limit < 3:
            raise reader.fail(f"a longest block of {limit} bytes carries no data")
        return Transfer(limit)

    place = memory(address, size, address_bytes, size_bytes)
    return query(bytes([sid]) + byte(data_format, "data format") + place, 0, read)


def request_download(
    address: int, size: int, *, address_bytes: int = 4, size_bytes: int = 4, data_format: int = 0
) -> Query[Transfer]:
    """0x34. ``data_format``: compression (high nibble) and encryption (low), 0 for neither."""
    return _load(Sid.REQUEST_DOWNLOAD, address, size, address_bytes, size_bytes, data_format)


def request_upload(
    address: int, size: int, *, address_bytes: int = 4, size_bytes: int = 4, data_format: int = 0
) -> Query[Transfer]:
    """0x35."""
    return _load(Sid.REQUEST_UPLOAD, address, size, address_bytes, size_bytes, data_format)


def transfer(counter: int, block: bytes = b"") -> Query[bytes]:
    """0x36: a block down, or (without ``block``) the next one up; answers what follows the counter."""

    def read(reader: Reader) -> bytes:
        reader.take(1, "counter")
        return reader.rest()

    return query(bytes([Sid.TRANSFER_DATA]) + byte(counter, "block counter") + block, 1, read)


def transfer_exit(record: bytes = b"") -> Query[bytes]:
    """0x37: answers the ECU's record, often a checksum."""
    return query(bytes([Sid.TRANSFER_EXIT]) + record, 0, Reader.rest)


class FileMode(IntEnum):
    """modeOfOperation of 0x38."""

    ADD = 1
    DELETE = 2
    REPLACE = 3
    READ = 4
    READ_DIRECTORY = 5
    RESUME = 6


class FileTransfer(Answer, frozen=True):
    """What the ECU says to 0x38; None for what the mode does not carry."""

    mode: int
    max_block_bytes: int | None = None
    data_format: int | None = None
    size_bytes: int | None = None  # uncompressed; of a directory's listing with ``READ_DIRECTORY``
    compressed_bytes: int | None = None
    position: int | None = None  # with ``RESUME``: where to go on


_SIZED_REQUEST = (FileMode.ADD, FileMode.REPLACE, FileMode.RESUME)


def _read_file(reader: Reader) -> FileTransfer:
    mode = reader.number(1, "mode")
    if mode == FileMode.DELETE:
        reader.end()
        return FileTransfer(mode)
    limit = reader.number(reader.number(1, "length format"), "longest block")
    data_format = reader.number(1, "data format")
    size = compressed = position = None
    if mode in (FileMode.READ, FileMode.READ_DIRECTORY):
        width = reader.number(2, "width of sizes")
        size = reader.number(width, "size")
        if mode == FileMode.READ:
            compressed = reader.number(width, "compressed size")
    elif mode == FileMode.RESUME:
        position = reader.number(8, "position")
    reader.end()
    if limit < 3:
        raise reader.fail(f"a longest block of {limit} bytes carries no data")
    return FileTransfer(mode, limit, data_format, size, compressed, position)


def request_file(
    mode: int, path: str, *, size: int = 0, compressed: int | None = None, data_format: int = 0, width: int = 4
) -> Query[FileTransfer]:
    """0x38: add, delete, replace, read or resume a file, or list a directory. Sizes as numbers of ``width`` bytes."""
    name = path.encode("utf-8")
    request = bytes([Sid.REQUEST_FILE]) + byte(mode, "mode") + sized(name, "path")
    if mode not in (FileMode.DELETE, FileMode.READ_DIRECTORY):
        request += byte(data_format, "data format")
    if mode in _SIZED_REQUEST:
        request += byte(width, "width of sizes") + number(size, width, "size")
        request += number(size if compressed is None else compressed, width, "compressed size")
    return query(request, 1, _read_file)

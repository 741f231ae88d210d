"""Vector ASC and BLF, and MF4, through python-can, which is imported only when such a log is opened."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

from dbc.frames import BRS, ERROR, ESI, EXTENDED, FD, REMOTE, FrameBatch
from dbc.logs.model import MAX_BATCH_FRAMES, BusNames, LogReport, MissingPackageError


def library_batches(open_reader: Callable[[], Any], report: LogReport, names: BusNames) -> Iterator[FrameBatch]:
    """Messages of a python-can reader in batches. Damage ends the log and is reported."""
    rows: list[tuple[int, int, int, int, bytes]] = []
    for number, message in enumerate(_messages(open_reader, report), 1):
        name = "" if message.channel is None else str(message.channel)
        bus = names.number(name)
        if bus is None:
            report.unmapped[name] = report.unmapped.get(name, 0) + 1
        elif row := _row(message, bus, number, report):
            rows.append(row)
        if len(rows) == MAX_BATCH_FRAMES:
            yield FrameBatch.from_rows(rows)
            rows = []
    if rows:
        yield FrameBatch.from_rows(rows)


def _messages(open_reader: Callable[[], Any], report: LogReport) -> Iterator[Any]:
    """What the reader yields. It checks little of a file, so that anything at all may be raised in it."""
    number = 0
    try:
        messages = iter(open_reader())
    except Exception as error:  # a supervision boundary around foreign code
        report.damage = f"{type(error).__name__}: {error}"
        return
    while True:
        try:
            message = next(messages)
        except StopIteration:
            return
        except Exception as error:  # as above
            report.damage = f"after {number} frames: {type(error).__name__}: {error}"
            return
        number += 1
        yield message


def _row(message: Any, bus: int, number: int, report: LogReport) -> tuple[int, int, int, int, bytes] | None:
    payload = bytes(message.data or b"")
    flags = EXTENDED if message.is_extended_id else 0
    if message.is_error_frame:
        flags = ERROR
    elif message.is_remote_frame:
        flags |= REMOTE
        payload = bytes(min(int(message.dlc), 8))
    elif message.is_fd:
        flags |= FD | (BRS if message.bitrate_switch else 0) | (ESI if message.error_state_indicator else 0)
    if len(payload) > (64 if flags & FD else 8):
        report.skip(number, f"payload of {len(payload)} bytes")
        return None
    if not 0 <= message.arbitration_id <= 0x1FFFFFFF:
        report.skip(number, "identifier out of range")
        return None
    timestamp_ns = round(message.timestamp * 1e9)
    if not 0 <= timestamp_ns < 1 << 63:
        report.skip(number, "timestamp out of range")
        return None
    return timestamp_ns, bus, int(message.arbitration_id), flags, payload


def reader_class(format_name: str) -> Callable[[Any], Any]:
    """python-can's reader for ``asc``, ``blf`` or ``mf4``.

    Raises:
        MissingPackageError: the package it needs is not installed.
    """
    if format_name == "mf4":
        try:
            importlib.import_module("asammdf")
        except ImportError as error:
            raise MissingPackageError(
                "MF4 logs need the Python package asammdf, which is not installed; "
                "convert the log to BLF or ASC, or install it"
            ) from error
    name = {"asc": "ASCReader", "blf": "BLFReader", "mf4": "MF4Reader"}[format_name]
    try:
        reader: Callable[[Any], Any] = getattr(importlib.import_module("can.io"), name)
    except ImportError as error:
        raise MissingPackageError(f"{format_name.upper()} logs need the Python package python-can: {error}") from error
    return reader

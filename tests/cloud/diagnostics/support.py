"""Batches with fault reports, and vehicles that answer orders."""

from __future__ import annotations

from typing import Any

import anyio
import msgspec

from gateway.wire.codec import encode_batch
from gateway.wire.diagnostics import RESULTS, DiagnosticResult
from gateway.wire.dtc import DtcReport, parse_dtc
from gateway.wire.samples import Event, EventKind
from tests.cloud.support import EPOCH_NS, Cloud, Vehicle, make_manifest

SECOND_NS = 1_000_000_000
WAIT_S = 10.0


def report(code: str = "P0AA6-16", status: int = 0x2F, **more: Any) -> DtcReport:
    """A report of a battery's fault."""
    return DtcReport(**{"ecu": "battery", "code": parse_dtc(code), "status": status, "change": "new", **more})


def fault_event(told: DtcReport | str, at_ns: int = EPOCH_NS) -> Event:
    """The event that carries it; a string stands for itself."""
    detail = told if isinstance(told, str) else msgspec.json.encode(told).decode()
    return Event(at_ns, EventKind.DTC, told.ecu if isinstance(told, DtcReport) else "battery", detail)


def event_batch(sequence: int, *events: Event, stream: str = "spool/critical", items_before: int = 0) -> bytes:
    """A batch of events."""
    return encode_batch(
        stream=stream,
        sequence=sequence,
        items_before=items_before,
        manifest_hash=make_manifest().hash,
        created_ns=EPOCH_NS,
        events=events,
    )


async def until(what: str, is_true: Any) -> None:
    """Wait for something the cloud does in the background."""
    with anyio.move_on_after(WAIT_S):
        while True:
            if await is_true():
                return
            await anyio.sleep(0.01)
    raise AssertionError(f"{what} did not happen within {WAIT_S} s")


async def seen(cloud: Cloud, count: int) -> None:
    """Wait until so many reports were taken or known already."""

    async def is_seen() -> bool:
        told = cloud.services.diagnostics.keeper.statistics
        return told.reports + told.repeated + told.malformed + told.too_many >= count

    await until(f"{count} reports", is_seen)


async def send_result(vehicle: Vehicle, result: DiagnosticResult) -> int:
    """Post a result; the status of the answer."""
    response = await vehicle.http.post(RESULTS, content=msgspec.json.encode(result))
    return response.status_code

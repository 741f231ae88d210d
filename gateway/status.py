"""What the running gateway says of itself: JSON to whoever connects to its Unix socket, and the table made of it."""

from __future__ import annotations

import logging
import socket
import stat
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec
from anyio.abc import SocketStream, TaskStatus

from gateway.errors import NotNowError, PeerError, TransportError
from gateway.wire.api import CheckIn
from gateway.wire.ledger import Ledger

log = logging.getLogger(__name__)

READ_MAX_BYTES = 4 * 1024 * 1024


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to ``outrider gateway status``; ``report`` is what the cloud is told, too."""

    vehicle: str
    pid: int
    spool_id: str
    link: str
    report: CheckIn
    channels: dict[str, dict[str, int]] = {}
    clock_skew_ms: int | None = None
    diagnostics: dict[str, object] = {}  # statistics of its parts; only for people and tests
    updates: dict[str, object] = {}  # likewise


class StatusServer:
    """Writes one ``Status`` to each connection and closes it. Readable by the gateway's user and group."""

    name, drain_s, optional = "status", 0.0, True

    def __init__(self, path: Path, status: Callable[[], Awaitable[Status]]) -> None:
        self._path, self._status = path, status

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Serve until cancelled.

        Raises:
            NotNowError: another process serves there, or what is there is not a socket, which stays as it is.
            TransportError: the socket cannot be made.
        """
        await anyio.to_thread.run_sync(self._make_room)
        try:
            await self._serve(task_status)
        except OSError as error:
            raise TransportError(f"status socket {self._path}: {error.strerror or error}") from error

    def _make_room(self) -> None:
        """Remove the socket of a gateway that was killed."""
        try:
            if not stat.S_ISSOCK(self._path.lstat().st_mode):
                raise NotNowError(f"status socket {self._path}: a file or folder of that name is there")
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                sock.settimeout(1.0)
                sock.connect(str(self._path))
            raise NotNowError(f"status socket {self._path}: another process serves there")
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise TransportError(f"status socket {self._path}: {error.strerror or error}") from error

    async def _serve(self, task_status: TaskStatus[None]) -> None:
        async with await anyio.create_unix_listener(self._path, mode=0o660) as listener:
            task_status.started()
            try:
                await listener.serve(self._answer)
            finally:
                self._path.unlink(missing_ok=True)

    async def _answer(self, stream: SocketStream) -> None:
        async with stream:
            try:
                with anyio.move_on_after(5):
                    await stream.send(msgspec.json.encode(await self._status()))
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                log.debug("status_reader_left")


def read_status(path: Path, timeout_s: float = 5.0) -> Status:
    """Ask a running gateway.

    Raises:
        NotNowError: none is running there.
        PeerError: something else answered.
    """
    deadline_s, content = time.monotonic() + timeout_s, bytearray()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(timeout_s)
            sock.connect(str(path))
            while chunk := sock.recv(65536):
                content += chunk
                if len(content) > READ_MAX_BYTES or time.monotonic() > deadline_s:
                    raise PeerError(f"{path}: no sensible answer")
    except TimeoutError as error:
        raise NotNowError(f"the gateway at {path} does not answer; it may be very busy, try again") from error
    except OSError as error:
        raise NotNowError(f"no gateway is running at {path} ({error.strerror or error})") from error
    if not content:
        raise NotNowError(f"the gateway at {path} gave no answer; it is starting, stopping or very busy, try again")
    try:
        return msgspec.json.decode(bytes(content), type=Status)
    except msgspec.DecodeError as error:
        raise PeerError(f"{path}: the answer is not understood: {error}") from error


def _row(cells: list[str], widths: list[int]) -> str:
    return "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True)))


def table(header: list[str], rows: list[list[str]]) -> str:
    """Aligned columns, the first to the left and numbers to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    return "\n".join([_row(header, widths).rstrip(), *(_row(row, widths).rstrip() for row in rows)])


def ledger_text(ledger: Ledger) -> str:
    """The accounting as two tables, with the identities they keep spelled out."""
    frames = table(
        ["frames", "received", "= dropped", "+ errors", "+ unknown", "+ not sel.", "+ selected", "+ held", "+ lost"],
        [
            [
                b.bus,
                *(
                    f"{n:,}"
                    for n in (
                        b.received,
                        b.kernel_dropped,
                        b.errors,
                        b.undecodable,
                        b.not_selected,
                        b.selected,
                        b.held,
                        b.lost,
                    )
                ),
            ]
            for b in ledger.buses
        ],
    )
    items = table(
        ["items", "stored", "= acknowledged", "+ evicted", "+ pending", "bytes pending"],
        [
            [s.stream, *(f"{n:,}" for n in (s.stored, s.acknowledged, s.evicted, s.pending, s.pending_bytes))]
            for s in ledger.streams
        ],
    )
    stored = sum(s.stored for s in ledger.streams)
    total = (
        f"items selected {ledger.selected_items:,} = stored {stored:,} + in memory {ledger.buffered_items:,}"
        f" + lost in crashes {ledger.lost_items:,} + refused by the disk {ledger.refused_items:,}"
    )
    verdict = "every frame and item is accounted for"
    if ledger.unexplained:
        verdict = f"UNEXPLAINED: {ledger.unexplained:,}"
    return f"{frames}\n\n{items}\n\n{total}\n{verdict}"


def _diagnostics(status: Status) -> list[str]:
    """A part of its own, where the gateway has diagnostics."""
    from gateway.diag.summary import diagnostics_text  # only who prints it needs it

    text = diagnostics_text(status.diagnostics, table)
    return [text, ""] if text else []


def _updates(status: Status) -> list[str]:
    """Where the update is, in a line or two."""
    found = status.updates
    if not found:
        return []
    report = found.get("report")
    told = report if isinstance(report, dict) else {}
    line = f"update  {found.get('stage', '')}"
    if release := found.get("release"):
        line += f"  release {release}  {told.get('percent', 0):.0f} %"
    if wait := found.get("waits_for"):
        line += f"  waits for {wait}"
    lines = [line]
    if error := found.get("error"):
        lines.append(f"        last look failed: {error}")
    return [*lines, ""]


def status_text(status: Status) -> str:
    """A status for people."""
    report = status.report
    now = datetime.fromtimestamp(report.at_ns / 1e9, UTC).isoformat(timespec="seconds")
    lines = [
        f"vehicle {status.vehicle}  outrider {report.software}  pid {status.pid}  {now}",
        f"manifest {report.manifest_hash[:16]}  spool {status.spool_id}  link {status.link}"
        f"  budget level {report.budget_level}",
        "",
        table(
            ["bus", "state", "frames/s", "detail"],
            [[b.name, b.state, f"{b.frames_per_s:.0f}", b.detail] for b in report.buses],
        ),
        "",
        table(
            ["scheme", "version", "state", "items", "triggers", "detail"],
            [
                [s.id, str(s.version), s.state, f"{s.selected_items:,}", str(s.triggers), s.detail]
                for s in report.schemes
            ],
        ),
        "",
        *_diagnostics(status),
        *_updates(status),
        "health  " + "  ".join(f"{name}: {state}" for name, state in report.health.items()),
        "",
        ledger_text(report.ledger),
    ]
    return "\n".join(lines)

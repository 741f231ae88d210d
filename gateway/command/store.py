"""What must survive of orders: the memory of the gate, and results until the cloud has them. Files, fsynced.

Both are written through a temporary file in the same directory. A memory that cannot be read is no reason to obey an
order twice: it counts as lost, is put aside, and orders issued until then are not obeyed any more.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from pathlib import Path

import msgspec

from gateway.command.orders import Memory
from gateway.errors import TransportError
from gateway.files import replace_file
from gateway.wire.diagnostics import MAX_RESULT_BYTES, DiagnosticResult

log = logging.getLogger(__name__)

MEMORY_FILE = "orders.json"
_NAME = re.compile(r"(\d{16})\.json")
MAX_WAITING = 1_000


def _keep(path: Path, content: bytes) -> None:
    """Put a file in place, durable.

    Raises:
        TransportError: the disk refused; the old file is as it was.
    """
    try:
        replace_file(path, content)
    except OSError as error:
        raise TransportError(f"{path}: {error.strerror or error}") from error


class OrderStore:
    """A directory of ``orders.json`` and an outbox. Its calls block for an fsync; use it from a worker thread."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._memory_path = directory / MEMORY_FILE
        self._outbox = directory / "outbox"

    def load(self) -> Memory:
        """The memory; empty where none was ever kept, marked as lost where it cannot be read."""
        try:
            return msgspec.json.decode(self._memory_path.read_bytes(), type=Memory)
        except FileNotFoundError:
            return Memory()
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            log.error("order_memory_lost", extra={"path": str(self._memory_path), "error": str(error)})
            with contextlib.suppress(OSError):
                os.replace(self._memory_path, self._memory_path.with_suffix(".damaged"))
            memory = Memory(is_lost=True)
            with contextlib.suppress(TransportError):
                self.save(memory)
            return memory

    def save(self, memory: Memory) -> None:
        """Keep the memory. Raises ``TransportError``: it is as before."""
        _keep(self._memory_path, msgspec.json.encode(memory))

    # the outbox

    def waiting(self) -> list[Path]:
        """Results that wait, oldest first."""
        try:
            return sorted(p for p in self._outbox.iterdir() if _NAME.fullmatch(p.name))
        except FileNotFoundError:
            return []

    def put(self, result: DiagnosticResult) -> bool:
        """Keep a result until it is taken out. Beyond ``MAX_WAITING`` the oldest goes: False then.

        Raises:
            TransportError: the disk refused.
        """
        waiting = self.waiting()
        number = int(waiting[-1].stem) + 1 if waiting else 1
        _keep(self._outbox / f"{number:016d}.json", encode_result(result))
        if len(waiting) < MAX_WAITING:
            return True
        self.remove(waiting[0])
        return False

    def read(self, path: Path) -> DiagnosticResult | None:
        """A result; None (and the file goes) when it cannot be read."""
        try:
            return msgspec.json.decode(path.read_bytes(), type=DiagnosticResult)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.remove(path)
            return None

    def remove(self, path: Path) -> None:
        """It was delivered, or never will be."""
        path.unlink(missing_ok=True)

    def has_final(self, order_id: str) -> bool:
        """Whether the last result of an order waits."""
        results = (self.read(path) for path in self.waiting())
        return any(r is not None and r.order == order_id and r.state in ("done", "refused") for r in results)


def encode_result(result: DiagnosticResult) -> bytes:
    """The result as it travels; data, then values and codes, then whole results are left out of one too large."""
    content = msgspec.json.encode(result)
    if len(content) <= MAX_RESULT_BYTES:
        return content
    note = f"too large ({len(content)} bytes): data left out"
    lean = tuple(
        msgspec.structs.replace(r, data=b"", detail=(r.detail or note) if r.data else r.detail) for r in result.results
    )
    content = msgspec.json.encode(msgspec.structs.replace(result, results=lean, detail=note))
    while len(content) > MAX_RESULT_BYTES and lean:
        lean = lean[: len(lean) // 2]
        cut = f"too large: only the first {len(lean)} results are told"
        content = msgspec.json.encode(msgspec.structs.replace(result, results=lean, detail=cut))
    return content

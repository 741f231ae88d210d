"""The file of ``--trace``: every request and answer with its time, one JSON object a line.

``{"at": "2026-01-31T10:00:00.123456Z", "ecu": "motor", "kind": "request", "pdu": "22F190"}``; ``kind`` is ``request``,
``answer``, ``stale`` (an answer nobody waited for any more) or ``unsolicited``; ``ecu`` is ``*`` for functional
requests and their answers. Keys are written as sent to the ECU: treat the file as confidential.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from tester.errors import FileError


class SessionLog:
    """An ``Observer`` that writes; appends to what is there."""

    def __init__(self, path: Path) -> None:
        """Open it.

        Raises:
            FileError: it cannot be written.
        """
        try:
            self._file = path.open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            failure = FileError(path, error.strerror or str(error))
            failure.status = 73
            raise failure from error
        self._offset_ns = time.time_ns() - time.monotonic_ns()

    def __call__(self, ecu: str, kind: str, pdu: bytes, now_ns: int) -> None:
        """See ``Observer``."""
        at = datetime.fromtimestamp((now_ns + self._offset_ns) // 1000 / 1e6, UTC)
        entry = {"at": f"{at:%Y-%m-%dT%H:%M:%S.%fZ}", "ecu": ecu, "kind": kind, "pdu": pdu.hex().upper()}
        self._file.write(json.dumps(entry) + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

"""Numbers that never repeat, for the reports of ECUs (D4): not after a power cut, and not after their file was lost.

Numbers are taken in blocks: the end of a block is on disk before its first number is used, so that one write covers
many reports, and a start goes on behind the block of the run before. A file that is lost, damaged or came back from a
backup is covered by time: no number is below the highest *attested* time in milliseconds, and since fewer numbers than
milliseconds go by, everything used before is below that. The vehicle's own clock will not do: once wrong it would carry
the numbers ahead for ever.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from bootctl.files import Files, RealFiles, replace_content
from gateway.errors import TransportError

log = logging.getLogger(__name__)

COUNTERS_FILE = "report-counters.json"
MILLISECOND_NS = 1_000_000


class _Reserved(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All numbers up to here may have been used."""

    reserved: int


class ReportCounters:
    """One row of numbers for all ECUs of the vehicle: higher in every report of any, so higher in every one's."""

    def __init__(
        self, path: Path, attested_ns: Callable[[], int], files: Files | None = None, *, block: int = 1000
    ) -> None:
        """Make a counter; nothing is read before the first number.

        Args:
            path: its file.
            attested_ns: the highest time somebody trusted has signed, 0 for none.
            files: the disk.
            block: numbers per write.
        """
        self._path, self._attested_ns, self._files, self._block = path, attested_ns, files or RealFiles(), block
        self._next = self._end = 0  # of the present block
        self._is_unsure = True  # not known yet that all numbers used before are lower

    def take(self, count: int) -> range:
        """The next ``count`` numbers. Durable when this returns: none of them will ever be given again.

        Raises:
            TransportError: they could not be reserved; nothing may be signed with them.
        """
        if self._is_unsure:
            self._begin()
        if self._next + count > self._end:
            end = self._next + max(count, self._block)
            try:
                replace_content(self._files, self._path, msgspec.json.encode(_Reserved(end)))
            except OSError as error:
                raise TransportError(f"{self._path}: {error.strerror or error}") from error
            self._end = end
        self._next += count
        return range(self._next - count, self._next)

    def _begin(self) -> None:
        """Go behind everything used before, as far as can be known; again, until it can be known."""
        found = self._reserved() if not self._end else None
        attested = self._attested_ns() // MILLISECOND_NS
        first = max(found or 0, attested) + 1
        if first > self._next:
            self._next = self._end = first
        self._is_unsure = found is None and not attested

    def _reserved(self) -> int | None:
        """What the file says; None: it says nothing."""
        try:
            return max(0, msgspec.json.decode(self._files.read(self._path), type=_Reserved).reserved)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise TransportError(f"{self._path}: {error.strerror or error}") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            log.error("report_counters_damaged", extra={"path": str(self._path), "error": str(error)})
            return None

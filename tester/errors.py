"""What the tool itself may complain about; each error knows the exit status of docs/reference/exit-status.md."""

from __future__ import annotations

import os


class TesterError(Exception):
    """Base; ``status`` is what the command exits with, ``kind`` the word for machines."""

    status = os.EX_SOFTWARE
    kind = "tester"


class UsageError(TesterError):
    """Arguments that do not go together, or name something that is not there."""

    status = os.EX_USAGE
    kind = "usage"


class FileError(TesterError):
    """A file of the user's is missing or wrong."""

    kind = "file"

    def __init__(self, path: object, problem: str, *, is_missing: bool = False) -> None:
        super().__init__(f"{path}: {problem}")
        self.status = os.EX_NOINPUT if is_missing else os.EX_DATAERR


class RefusedError(TesterError):
    """Our own policy: what changes something needs ``--write``."""

    status = os.EX_NOPERM
    kind = "refused"


class NotThereError(TesterError):
    """Nobody answers, or an optional package is missing."""

    status = os.EX_UNAVAILABLE
    kind = "unavailable"


class OutcomeError(TesterError):
    """The ECU did as asked and the result is not what was wanted (a routine failed, a comparison differs)."""

    status = 1
    kind = "outcome"


def missing_package(package: str, extra: str) -> NotThereError:
    """For an import that failed."""
    return NotThereError(f"needs the Python package {package!r}: pip install outrider[{extra}]")

"""How the verifying core asks for what it needs: it yields a question and is sent the answer.

The core (``core``, ``trust``, ``resolve``) does no network I/O and never waits. The shell (``verifier``) runs each step
in a worker thread and does the waiting between two of them; a failed fetch is thrown into the core, so that what was
verified until then is kept.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from gateway.wire.uptane import Signed, TimeRequest


@dataclass(frozen=True, slots=True)
class Fetch:
    """A metadata file is wanted: ``bytes``, or None when the repository has none of that name."""

    repository: str
    name: str
    max_bytes: int


@dataclass(frozen=True, slots=True)
class AskTime:
    """Attested time is wanted: ``Signed``, or None when nobody can be asked."""

    request: TimeRequest


Step: TypeAlias = Fetch | AskTime
Answer: TypeAlias = bytes | Signed | None
_T = TypeVar("_T")
Steps: TypeAlias = Generator[Step, Answer, _T]


def fetch(repository: str, name: str, max_bytes: int) -> Steps[bytes | None]:
    """Ask for a metadata file; None: there is none of that name. What comes may be longer than asked for."""
    answer = yield Fetch(repository, name, max_bytes)
    return answer if isinstance(answer, bytes) else None


def ask_time(request: TimeRequest) -> Steps[Signed | None]:
    """Ask for the time."""
    answer = yield AskTime(request)
    return answer if isinstance(answer, Signed) else None

"""``python -m cloud.updates.delta.worker``: one build in a process of its own, so that it may be slow, large or killed.

The request is one JSON line on stdin. Answers are JSON lines on stdout: progress, then one last line with what was
built or why not. It ends when its parent closes stdin: a cloud that was killed leaves no builds behind.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
import time
from pathlib import Path

import msgspec

from cloud.updates.delta.build import USEFUL_PART, DeltaFacts, Image, NotUseful, WrongImage, build_delta

TELL_S = 0.5
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What to build."""

    base: str
    base_length: int
    base_sha256: str
    target: str
    target_length: int
    target_sha256: str
    path: str
    useful_part: float = USEFUL_PART
    segment_bytes: int = 0
    nice: int = 10


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of the worker."""

    step: str = ""
    done: int = 0
    total: int = 0
    facts: DeltaFacts | None = None  # the last line: built
    problem: str = ""  # the last line: not built; "not useful", "disk full", "wrong image" or "error"
    detail: str = ""


def _say(answer: Answer) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    sys.stdout.buffer.flush()


class _Teller:
    """Progress, at most every ``TELL_S``."""

    def __init__(self) -> None:
        self._step, self._next_s = "", 0.0

    def __call__(self, step: str, done: int, total: int) -> None:
        """See ``build.Progress``."""
        if step != self._step or time.monotonic() >= self._next_s:
            self._step, self._next_s = step, time.monotonic() + TELL_S
            _say(Answer(step=step, done=done, total=total))


def _build(request: Request) -> Answer:
    base = Image(path=Path(request.base), length=request.base_length, sha256=request.base_sha256)
    target = Image(path=Path(request.target), length=request.target_length, sha256=request.target_sha256)
    try:
        facts = build_delta(
            base,
            target,
            Path(request.path),
            progress=_Teller(),
            segment_bytes=request.segment_bytes,
            useful_part=request.useful_part,
        )
    except NotUseful as error:
        return Answer(problem="not useful", detail=str(error))
    except WrongImage as error:
        return Answer(problem="wrong image", detail=str(error))
    except OSError as error:
        problem = "disk full" if error.errno in NO_ROOM else "error"
        return Answer(problem=problem, detail=f"{error.strerror}: {error.filename or ''}".rstrip(": "))
    return Answer(facts=facts)


def _end_with_parent() -> None:
    """The parent never writes again: stdin ends when it is gone."""
    with contextlib.suppress(OSError):
        sys.stdin.buffer.read()
    os._exit(os.EX_TEMPFAIL)


def main() -> int:
    """Read a request, build, answer. The exit status is 0 whenever there is an answer."""
    request = msgspec.json.decode(sys.stdin.buffer.readline(), type=Request)
    os.nice(request.nice)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(BrokenPipeError):
        _say(_build(request))
    return os.EX_OK


if __name__ == "__main__":
    raise SystemExit(main())

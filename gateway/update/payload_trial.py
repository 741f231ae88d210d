"""Trial starts of payloads: what the boot loader is to slots, for files that the gateway reads when it starts.

Beside a payload ``P`` lie ``P.previous`` (the content before) and, while the new one has yet to prove itself,
``P.trial``. Whoever starts the gateway calls ``before_start`` before it reads ``P``: each start on trial costs a try,
and when none is left the previous content comes back. So even a configuration with which the gateway cannot start at
all is undone by the gateway's own restarts.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import msgspec

from bootctl.files import Files, RealFiles, replace_content
from gateway.update.model import InstallError
from gateway.update.records import Record

log = logging.getLogger(__name__)

TRIES = 3


class PayloadTrial(msgspec.Struct, frozen=True, kw_only=True):
    """The mark. ``lost`` is set once the new content was given up."""

    sha256: str
    tries: int = TRIES
    has_previous: bool = True
    lost: str = ""


def previous_path(path: Path) -> Path:
    """Where the content before is kept."""
    return path.with_name(f"{path.name}.previous")


def trial_record(files: Files, path: Path) -> Record[PayloadTrial]:
    """The mark beside a payload."""
    return Record(files, path.with_name(f"{path.name}.trial"), PayloadTrial)


def before_start(path: Path, files: Files | None = None) -> str:
    """Count a start with a payload on trial; "" or what was put back, for the log.

    To be called once in each start of the gateway, before ``path`` is read.

    Raises:
        InstallError: the disk does not answer; the payload is as it was.
    """
    files = files or RealFiles()
    record = trial_record(files, path)
    trial = record.load()
    if trial is None or trial.lost:
        return ""
    if content_hash(files, path) != trial.sha256:  # power went before it was put in place, or somebody changed it
        record.remove()
        return ""
    if trial.tries > 0:
        record.save(msgspec.structs.replace(trial, tries=trial.tries - 1))
        return ""
    why = f"{path.name} was given up after {TRIES} starts"
    put_back(files, path, trial)
    record.save(msgspec.structs.replace(trial, lost=why))
    log.error("update_payload_given_up", extra={"payload": str(path)})
    return why


def put_back(files: Files, path: Path, trial: PayloadTrial) -> None:
    """The content before, or none where there was none. Raises ``InstallError``."""
    try:
        if trial.has_previous:
            replace_content(files, path, files.read(previous_path(path)))
        else:
            files.remove(path)
            files.sync_directory(path.parent)
    except OSError as error:
        raise InstallError(f"{path} cannot be put back: {error.strerror or error}") from error


def content_hash(files: Files, path: Path) -> str:
    """SHA-256 of what is there now; "" when nothing is. Raises ``InstallError``."""
    try:
        return hashlib.sha256(files.read(path)).hexdigest()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise InstallError(f"{path}: {error.strerror or error}") from error

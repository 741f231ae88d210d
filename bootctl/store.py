"""One ``BootControl`` for all back ends: read, change by a rule of ``core``, write if something changed.

A back end is a ``Store``: it turns bytes into a ``BootState`` and back, with one atomic, durable write.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from bootctl import core
from bootctl.errors import StorageError
from bootctl.files import Files, RealFiles
from bootctl.model import DEFAULT_TRIES, BootState

#: A rule of ``core`` with its arguments bound.
Change = Callable[[BootState], BootState]


class Store(Protocol):
    """Where a boot loader keeps its state."""

    name: str  # of the back end
    max_tries: int  # the boot loader can count up to; an activation with more gets this

    def load(self) -> BootState:
        """The state now. Raises ``BootControlError``."""

    def save(self, state: BootState) -> None:
        """Make it the state: all or nothing, durable when this returns. Raises ``BootControlError``."""

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Nobody else of ours, nor the boot loader's own tools, changes it meanwhile."""

    def notes(self) -> tuple[str, ...]:
        """What a person should know of this storage: "a single copy …"."""


class StoredBootControl:
    """See ``BootControl``."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.name = store.name

    def read(self) -> BootState:
        """See ``BootControl``."""
        return self.store.load()

    def mark_bad(self, slot: str) -> None:
        """See ``BootControl``."""
        self.change(lambda state: core.mark_bad(state, slot))

    def activate(self, slot: str, tries: int = DEFAULT_TRIES) -> None:
        """See ``BootControl``; with a boot loader that cannot count so far, as many as it can."""
        self.change(self.activation(slot, tries))

    def mark_good(self) -> None:
        """See ``BootControl``."""
        self.change(core.mark_good)

    def switch(self, slot: str) -> None:
        """See ``BootControl``."""
        self.change(lambda state: core.switch(state, slot))

    def rollback(self) -> None:
        """Switch to the best other slot that is successful. Raises ``BootControlError``: there is none."""
        self.change(core.rollback)

    def activation(self, slot: str, tries: int) -> Change:
        """The change ``activate`` makes."""
        allowed = min(tries, self.store.max_tries) if tries <= core.MAX_TRIES else tries
        return lambda state: core.activate(state, slot, allowed)

    def change(self, rule: Change) -> tuple[BootState, BootState]:
        """Apply a rule; nothing is written when nothing changes.

        Returns:
            The states before and after.

        Raises:
            BootControlError: refused by the rule, or not read or written.
        """
        with self.store.locked():
            before = self.store.load()
            after = rule(before)
            if after != before:
                self.store.save(after)
        return before, after


@contextlib.contextmanager
def lock(files: Files, path: Path) -> Iterator[None]:
    """Hold the advisory lock of a file or folder; of the machine's own files only. The file is made when missing.

    Raises:
        StorageError: it cannot be opened.
    """
    if not isinstance(files, RealFiles):
        yield
        return
    try:
        flags = os.O_RDONLY | os.O_DIRECTORY if path.is_dir() else os.O_RDWR | os.O_CREAT
        handle = os.open(path, flags | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def failed(path: Path, error: OSError) -> StorageError:
    """What a failed call is told as."""
    made = StorageError(f"{path}: {error.strerror or error}")
    made.__cause__ = error
    return made

"""What the installer of ECUs needs besides ``ports``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from gateway.errors import TransportError
from gateway.update.model import VerifiedTarget
from gateway.wire.uptane import FileFacts

#: Partial verification for one ECU: raises ``AttackError`` where the Director's Targets do not want this target.
PartialCheck = Callable[[VerifiedTarget], None]


class Reservation(Protocol):
    """Keeps other testers from writing to ECUs."""

    def reserve(self, ecus: Collection[str], why: str) -> AbstractAsyncContextManager[None]:
        """For as long as the context lasts. Nested reservations add up."""


class Offline:
    """A ``Fetcher`` that has nothing: what is not here already cannot be had now."""

    async def metadata(self, repository: str, name: str, max_bytes: int) -> bytes | None:
        """See ``Fetcher``."""
        raise TransportError("there is no link")

    def target(self, file: FileFacts, offset: int) -> AsyncIterator[bytes]:
        """See ``Fetcher``."""
        raise TransportError(f"{file.filename} is not here, and there is no link")

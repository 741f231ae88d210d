"""What the installer of ECUs needs besides ``ports``."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from gateway.update.ecu_image import Content
from gateway.update.ports import Fetcher, Progress
from gateway.wire.uptane import FileFacts

#: Told of each ECU of a set: its name, a state of ``EcuProgress``, bytes done, bytes in all.
SetProgress = Callable[[str, str, int, int], None]


class ImageShelf(Protocol):
    """Verified images on this machine's disk, kept over restarts until nobody needs them."""

    async def fetch(self, file: FileFacts, fetcher: Fetcher, progress: Progress) -> None:
        """Have it here whole, all its hashes and its length checked (V4, N6). Resumes; at once when it is here.

        Raises:
            AttackError: what came is not what was signed.
            InstallError: no room.
            TransportError: try again later.
        """

    def open(self, file: FileFacts) -> Content:
        """Read it. Raises ``InstallError``: it is not here."""


class Reservation(Protocol):
    """Keeps other testers from writing to ECUs."""

    def reserve(self, ecus: Collection[str], why: str) -> AbstractAsyncContextManager[None]:
        """For as long as the context lasts. Nested reservations add up."""

"""Those who watch the frames that pass, besides collection: fault monitors, the vehicle's state, detectors."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from dbc.frames import FrameBatch
from gateway.can.model import IdFilter

#: (identifier, is extended), or a filter with a mask.
Wanted = tuple[int, bool] | IdFilter


class FrameObserver(Protocol):
    """Sees every batch the collector reads; called in its task, so it must be quick and must not raise."""

    def wanted(self) -> dict[str, Collection[Wanted]]:
        """Per bus name the identifiers it needs, so that kernel filters let them pass."""

    def observe(self, frames: FrameBatch, now_ns: int) -> None:
        """Frames in order of reception, ``bus`` numbered as in the manifest. Empty when only time passed.

        ``now_ns`` is UTC. Called at least once a second.
        """

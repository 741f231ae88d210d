"""What one call of the selector gathers before it becomes a ``Collected``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dbc.frames import FrameBatch
from gateway.collect.collected import Collected, SelectedBlock
from gateway.collect.resolve import Scheme
from gateway.wire.batch import Priority, UploadRule
from gateway.wire.samples import Event, SampleBlock

VEHICLE = -1  # the "scheme" of events about the vehicle itself


class Gather:
    """Samples, frames and events per scheme, and the movement of frames between outcomes.

    Args:
        max_events: more are left out, and the last event says how many.
    """

    def __init__(self, schemes: int, buses: int, max_events: int) -> None:
        self.samples: list[list[SampleBlock]] = [[] for _ in range(schemes)]
        self.frames: list[list[FrameBatch]] = [[] for _ in range(schemes)]
        self._events: list[list[Event]] = [[] for _ in range(schemes + 1)]  # the last one: VEHICLE
        self._counts = np.zeros((buses, 5), np.int64)
        self._event_count, self._max_events = 0, max_events
        self.over_budget: dict[int, int] = {}

    def move(self, bus: NDArray[np.uint8], outcome: NDArray[np.uint8] | int, sign: int = 1) -> None:
        """Count frames into (or with ``sign`` -1 out of) outcomes."""
        counts = np.bincount(bus.astype(np.intp) * 5 + outcome, minlength=self._counts.size)
        if (more := len(counts) - self._counts.size) > 0:  # a bus the manifest does not have
            rows = (more + 4) // 5
            self._counts = np.concatenate([self._counts, np.zeros((rows, 5), np.int64)])
            counts = np.append(counts, np.zeros(self._counts.size - len(counts), np.intp))
        self._counts += sign * counts.reshape(-1, 5)

    def refuse(self, scheme: int, items: int) -> None:
        """Count items that the budget kept back."""
        if items:
            self.over_budget[scheme] = self.over_budget.get(scheme, 0) + items

    def event(self, scheme: int, event: Event) -> None:
        """Add an event, within the bound."""
        self._event_count += 1
        if self._event_count <= self._max_events:
            self._events[scheme].append(event)
        elif self._event_count == self._max_events + 1:
            self._events[VEHICLE].append(event)  # replaced by one that tells the number left out

    def collected(self, schemes: Sequence[Scheme]) -> Collected:
        """All of it as blocks in scheme order. ``schemes`` may be fewer than announced: those are gone."""
        blocks = []
        for index, scheme in enumerate(schemes):
            samples, frames, events = self.samples[index], self.frames[index], self._events[index]
            if samples or frames or events:
                block = SelectedBlock(
                    scheme=index,
                    priority=scheme.priority,
                    upload=scheme.upload,
                    resolution_ns=scheme.resolution_ns,
                    samples=samples[0] if len(samples) == 1 else SampleBlock.concatenate(samples),
                    frames=frames[0] if len(frames) == 1 else FrameBatch.concatenate(frames),
                    events=tuple(events),
                )
                blocks.append(block)
        if vehicle := self._vehicle_events():
            blocks.append(
                SelectedBlock(
                    scheme=VEHICLE,
                    priority=Priority.NORMAL,
                    upload=UploadRule.ANY,
                    resolution_ns=1_000_000,
                    events=vehicle,
                )
            )
        return Collected(blocks=tuple(blocks), counts=self._counts, over_budget_items=sum(self.over_budget.values()))

    def _vehicle_events(self) -> tuple[Event, ...]:
        events = self._events[VEHICLE]
        left_out = self._event_count - self._max_events
        if left_out > 0:
            last = events[-1]
            events[-1] = Event(last.timestamp_ns, last.kind, last.source, f"{left_out} events left out from here on")
        return tuple(events)

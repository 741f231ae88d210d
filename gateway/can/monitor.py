"""The state of one bus, from what its link, its error frames and its drop counter say. No I/O; time is an argument.

States and what moves between them::

    DOWN ──link up──▶ UP ──error frame: bus off──▶ BUS_OFF ──restarted / active──▶ UP
      ▲                │ ▲                                                          │
      └──link down─────┘ └──active── ERROR_PASSIVE ◀──error frame: passive──────────┘

Every change is one event. What repeats (error frames, drops) is counted and told at once the first time, then at most
once per ``PERIOD_NS``, so that a bad bus cannot flood the uplink.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from gateway.can.model import LinkState
from gateway.wire.samples import Event, EventKind

PERIOD_NS = 1_000_000_000

# Classes (identifier bits) of error frames, linux/can/error.h.
TX_TIMEOUT, LOST_ARBITRATION, CONTROLLER, PROTOCOL, TRANSCEIVER, NO_ACK = 1, 2, 4, 8, 0x10, 0x20
BUS_OFF, BUS_ERROR, RESTARTED = 0x40, 0x80, 0x100
_CLASS_NAMES = {
    TX_TIMEOUT: "transmit timeout",
    LOST_ARBITRATION: "lost arbitration",
    CONTROLLER: "controller",
    PROTOCOL: "protocol violation",
    TRANSCEIVER: "transceiver",
    NO_ACK: "no acknowledgement",
    BUS_OFF: "bus off",
    BUS_ERROR: "bus error",
    RESTARTED: "restarted",
}
# Data byte 1 of a controller error frame.
_RX_OVERFLOW, _TX_OVERFLOW, _PASSIVE, _WARNING, _ACTIVE = 0x01, 0x02, 0x30, 0x0C, 0x40


class BusMonitor:
    """Follows one bus; ``state`` is current, ``take_events`` tells what changed."""

    def __init__(self, name: str, *, period_ns: int = PERIOD_NS) -> None:
        self.name = name
        self.state = LinkState.DOWN
        self.detail = "not opened"
        self.error_frames = 0
        self._period_ns = period_ns
        self._events: list[Event] = []
        self._errors: Counter[str] = Counter()
        self._errors_told_ns: int | None = None
        self._lost = 0
        self._lost_told_ns: int | None = None

    # --- what happens ---

    def link_up(self, now_ns: int, detail: str = "") -> None:
        """The interface is up (or the adapter works)."""
        if self.state is LinkState.DOWN:
            self._change(LinkState.UP, EventKind.BUS_UP, now_ns, detail)

    def link_down(self, now_ns: int, detail: str) -> None:
        """The interface is down or gone, or the adapter failed."""
        if self.state is not LinkState.DOWN:
            self._change(LinkState.DOWN, EventKind.BUS_DOWN, now_ns, detail)
        elif detail != self.detail:
            told = self.detail == "not opened"
            self.detail = detail
            if told:
                self.tell(EventKind.BUS_DOWN, now_ns, detail)

    def end(self, now_ns: int, state: LinkState, detail: str) -> None:
        """The source closed the bus, or a replay is over."""
        if self.state is not state:
            self._change(state, EventKind.BUS_DOWN, now_ns, detail)

    def bus_off(self, now_ns: int, detail: str = "bus off") -> None:
        """The controller left the bus."""
        if self.state is not LinkState.BUS_OFF:
            self._change(LinkState.BUS_OFF, EventKind.BUS_OFF, now_ns, detail)

    def error_passive(self, now_ns: int, detail: str = "error passive") -> None:
        """The controller only listens to errors any more, it cannot signal them."""
        if self.state not in (LinkState.ERROR_PASSIVE, LinkState.BUS_OFF):
            self._change(LinkState.ERROR_PASSIVE, EventKind.BUS_ERROR, now_ns, detail)

    def recovered(self, now_ns: int, detail: str = "recovered") -> None:
        """The controller takes part in the bus again."""
        if self.state in (LinkState.BUS_OFF, LinkState.ERROR_PASSIVE):
            self._change(LinkState.UP, EventKind.BUS_UP, now_ns, detail)

    def trouble(self, now_ns: int, detail: str) -> None:
        """Something went wrong that leaves the state as it is; repeated texts are counted."""
        self._errors[detail] += 1
        self.flush(now_ns)

    def frames_lost(self, count: int, now_ns: int) -> None:
        """The kernel or an adapter dropped ``count`` frames."""
        self._lost += count
        self.flush(now_ns)

    def frames_seen(self, now_ns: int) -> None:
        """Traffic came: a bus that was off or passive without our hearing of its recovery has recovered."""
        if self.state is LinkState.BUS_OFF:
            self.recovered(now_ns, "frames arrive again")

    def error_frames_seen(
        self, class_bits: NDArray[np.uint32], data: NDArray[np.uint8], timestamps_ns: NDArray[np.int64]
    ) -> None:
        """Error frames in order of reception: their identifiers without flags, uint8[n, >= 8] data, and times."""
        self.error_frames += len(class_bits)
        # State changes are rare and ordered; everything else in a storm of error frames is only counted.
        controller = data[:, 1]
        moving = (class_bits & (BUS_OFF | RESTARTED)) != 0
        moving |= ((class_bits & CONTROLLER) != 0) & ((controller & (_PASSIVE | _WARNING | _ACTIVE)) != 0)
        for i in np.flatnonzero(moving):
            self._state_frame(int(class_bits[i]), int(controller[i]), int(timestamps_ns[i]))
        for bit, name in _CLASS_NAMES.items():
            count = int(np.count_nonzero(class_bits & bit))
            if count and bit not in (BUS_OFF, RESTARTED):
                self._errors[name] += count
        overflow = ((class_bits & CONTROLLER) != 0) & ((controller & _RX_OVERFLOW) != 0)
        if overflow.any():
            self._errors["receive overflow in the controller, frames lost there"] += int(np.count_nonzero(overflow))

    def clock_stepped(self, at_ns: int, step_ns: int) -> None:
        """The clock that stamps frames was set."""
        self.tell(EventKind.CLOCK_JUMP, at_ns, str(step_ns))

    def tell(self, kind: EventKind, at_ns: int, detail: str) -> None:
        """Add an event of this bus."""
        self._events.append(Event(at_ns, kind, self.name, detail))

    def flush(self, now_ns: int) -> None:
        """Tell what was counted, if it is time."""
        if self._errors and self._due(self._errors_told_ns, now_ns):
            detail = ", ".join(f"{name}: {count}" for name, count in sorted(self._errors.items()))
            self.tell(EventKind.BUS_ERROR, now_ns, detail)
            self._errors.clear()
            self._errors_told_ns = now_ns
        if self._lost and self._due(self._lost_told_ns, now_ns):
            self.tell(EventKind.FRAMES_LOST, now_ns, str(self._lost))
            self._lost = 0
            self._lost_told_ns = now_ns

    def flush_all(self, now_ns: int) -> None:
        """Tell what was counted whether it is time or not; before closing."""
        self._errors_told_ns = self._lost_told_ns = None
        self.flush(now_ns)

    def take_events(self) -> list[Event]:
        """Events since the last call."""
        events, self._events = self._events, []
        return events

    @property
    def pending(self) -> bool:
        """Something was counted and waits for its time."""
        return bool(self._errors or self._lost)

    # --- inside ---

    def _state_frame(self, class_bits: int, controller: int, at_ns: int) -> None:
        if class_bits & BUS_OFF:
            self.bus_off(at_ns)
        if class_bits & RESTARTED:
            self.recovered(at_ns, "controller restarted")
        if class_bits & CONTROLLER:
            if controller & _PASSIVE:
                self.error_passive(at_ns)
            elif controller & (_ACTIVE | _WARNING) and self.state is LinkState.ERROR_PASSIVE:
                self.recovered(at_ns, "error active")

    def _due(self, told_ns: int | None, now_ns: int) -> bool:
        # A clock that went back must not silence a bus.
        return told_ns is None or not 0 <= now_ns - told_ns < self._period_ns

    def _change(self, state: LinkState, kind: EventKind, now_ns: int, detail: str) -> None:
        self.state, self.detail = state, detail
        self.tell(kind, now_ns, detail)

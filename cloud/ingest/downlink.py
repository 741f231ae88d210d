"""Who is connected on the downlink, and waking them when the cloud's wishes may have changed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from cloud.errors import Unavailable

#: WebSocket close codes of the downlink.
CLOSE_STOPPING, CLOSE_NOT_ALLOWED, CLOSE_REVOKED, CLOSE_REPLACED = 1012, 4401, 4403, 4409


@dataclass(eq=False, slots=True)
class Line:
    """One connection. ``wake`` is set when there may be something new, ``close_code`` when it must end."""

    vehicle_id: str
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    close_code: int = 0

    def close(self, code: int) -> None:
        """Make the connection end soon; the first reason counts."""
        self.close_code = self.close_code or code
        self.wake.set()


class DownlinkHub:
    """One line per vehicle: a newer connection ends the older one. Bounded in number."""

    def __init__(self, lines_max: int) -> None:
        self._lines: dict[str, Line] = {}
        self._lines_max = lines_max
        self._stopping = False

    def __len__(self) -> int:
        return len(self._lines)

    def is_connected(self, vehicle_id: str) -> bool:
        """Whether the vehicle listens now."""
        return vehicle_id in self._lines

    def open(self, vehicle_id: str) -> Line:
        """Register a connection.

        Raises:
            Unavailable: too many, or the service stops.
        """
        if self._stopping or (vehicle_id not in self._lines and len(self._lines) >= self._lines_max):
            raise Unavailable("no more downlinks are taken", retry_after_s=60)
        older = self._lines.get(vehicle_id)
        if older is not None:
            older.close(CLOSE_REPLACED)
        line = self._lines[vehicle_id] = Line(vehicle_id)
        line.wake.set()
        return line

    def release(self, line: Line) -> None:
        """The connection has ended."""
        if self._lines.get(line.vehicle_id) is line:
            del self._lines[line.vehicle_id]

    def notify(self, vehicle_id: str) -> None:
        """The cloud may want something new of this vehicle."""
        line = self._lines.get(vehicle_id)
        if line is not None:
            line.wake.set()

    def close(self, vehicle_id: str) -> None:
        """End a vehicle's connection, for it was revoked."""
        line = self._lines.get(vehicle_id)
        if line is not None:
            line.close(CLOSE_REVOKED)

    def stop(self) -> None:
        """End all connections and take no more."""
        self._stopping = True
        for line in list(self._lines.values()):
            line.close(CLOSE_STOPPING)

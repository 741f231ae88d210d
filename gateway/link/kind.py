"""Which kind of link the vehicle has now, as the modem manager's file tells."""

from __future__ import annotations

from pathlib import Path

from gateway.runtime.clock import Clock

LOOK_EVERY_NS = 2_000_000_000
WIFI_SUFFIX = "-wifi"


class LinkKind:
    """Answers whether a stream may travel. Without a file every stream may: the link costs nothing."""

    def __init__(self, path: Path | None, clock: Clock) -> None:
        self._path, self._clock = path, clock
        self._kind, self._looked_ns = "", -LOOK_EVERY_NS

    def kind(self) -> str:
        """``any`` without a file, else its first word (``wifi``, ``cellular``), or ``unknown``."""
        if self._path is None:
            return "any"
        now_ns = self._clock.monotonic_ns()
        if now_ns - self._looked_ns >= LOOK_EVERY_NS:
            self._looked_ns = now_ns
            try:
                words = self._path.read_text(encoding="ascii", errors="replace")[:100].split()
            except OSError:
                words = []
            self._kind = words[0].lower() if words else "unknown"
        return self._kind

    def allows(self, stream: str) -> bool:
        """Whether batches of this stream may be sent now."""
        return not stream.endswith(WIFI_SUFFIX) or self.kind() in ("any", "wifi", "ethernet")

"""What all links share: who hears which identifier, and which frames can be at all."""

from __future__ import annotations

from collections.abc import Callable, Collection

from gateway.can.link import CanFrame, CanId, Handler

#: How SocketCAN marks a 29-bit identifier; our tables are keyed by ``identifier | EXTENDED_FLAG``.
EXTENDED_FLAG = 0x80000000
REMOTE_FLAG = 0x40000000
ERROR_FLAG = 0x20000000
FD_LENGTHS = frozenset((*range(9), 12, 16, 20, 24, 32, 48, 64))


def check_frame(frame: CanFrame, *, fd: bool) -> None:
    """Refuse what no bus can carry.

    Raises:
        ValueError: the identifier or the length does not exist, or an FD frame for a bus without FD.
    """
    length = len(frame.data)
    if not 0 <= frame.can_id <= (0x1FFFFFFF if frame.extended else 0x7FF):
        raise ValueError(f"identifier {frame.can_id:#x} is not {29 if frame.extended else 11} bits")
    if frame.fd:
        if not fd:
            raise ValueError("an FD frame for a bus without CAN FD")
        if length not in FD_LENGTHS:
            raise ValueError(f"an FD frame cannot have {length} bytes")
    elif length > 8:
        raise ValueError(f"a frame cannot have {length} bytes")


class ListenerTable:
    """Handlers by identifier. ``changed`` is called whenever ``words`` may have changed."""

    def __init__(self, changed: Callable[[], None] | None = None) -> None:
        self._handlers: dict[int, tuple[Handler, ...]] = {}
        self._everything: tuple[Handler, ...] = ()
        self._changed = changed

    @property
    def words(self) -> list[int] | None:
        """The identifiers heard, with ``EXTENDED_FLAG``; None: all."""
        return None if self._everything else sorted(self._handlers)

    def handlers(self, word: int) -> tuple[Handler, ...]:
        """Whom a frame concerns."""
        found = self._handlers.get(word, ())
        return found + self._everything if self._everything else found

    def dispatch(self, frame: CanFrame) -> None:
        """Call whom it concerns."""
        for handler in self.handlers(frame.can_id | EXTENDED_FLAG if frame.extended else frame.can_id):
            handler(frame)

    def clear(self) -> None:
        """Nobody hears anything any more."""
        self._handlers.clear()
        self._everything = ()

    def add(self, ids: Collection[CanId] | None, handler: Handler) -> Callable[[], None]:
        """See ``CanLink.hear``."""
        words = None if ids is None else {i | EXTENDED_FLAG if extended else i for i, extended in ids}
        active = True
        # An entry of its own for each call, so that ending one leaves an equal handler of another in place.

        def entry(frame: CanFrame) -> None:
            if active:
                handler(frame)

        if words is None:
            self._everything += (entry,)
        else:
            for word in words:
                self._handlers[word] = (*self._handlers.get(word, ()), entry)

        def end() -> None:
            nonlocal active
            if active:
                active = False
                self._remove(words, entry)
                self._tell()

        self._tell()
        return end

    def _remove(self, words: set[int] | None, entry: Handler) -> None:
        if words is None:
            self._everything = tuple(h for h in self._everything if h is not entry)
            return
        for word in words:
            left = tuple(h for h in self._handlers.get(word, ()) if h is not entry)
            if left:
                self._handlers[word] = left
            else:
                self._handlers.pop(word, None)

    def _tell(self) -> None:
        if self._changed is not None:
            self._changed()

"""What all links share: who hears which identifier, and which frames can be at all."""

from __future__ import annotations

from collections.abc import Callable, Collection

from gateway.can.link import CanFrame, CanId, Handler, ManyHandler

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


class Entry:
    """One who hears. Ended entries may still be in a tuple that is being gone through; they are called no more."""

    __slots__ = ("handler", "is_active", "many")

    def __init__(self, handler: Handler, many: ManyHandler | None) -> None:
        self.handler, self.many, self.is_active = handler, many, True


class ListenerTable:
    """Handlers by identifier. ``changed`` is called whenever ``words`` may have changed."""

    def __init__(self, changed: Callable[[], None] | None = None) -> None:
        self._entries: dict[int, tuple[Entry, ...]] = {}
        self._everything: tuple[Entry, ...] = ()
        self._changed = changed

    @property
    def words(self) -> list[int] | None:
        """The identifiers heard, with ``EXTENDED_FLAG``; None: all."""
        return None if self._everything else sorted(self._entries)

    def entries(self, word: int) -> tuple[Entry, ...]:
        """Whom a frame concerns."""
        found = self._entries.get(word, ())
        return found + self._everything if self._everything else found

    def dispatch(self, frame: CanFrame) -> None:
        """Call whom it concerns."""
        for entry in self.entries(frame.can_id | EXTENDED_FLAG if frame.extended else frame.can_id):
            if entry.is_active:
                entry.handler(frame)

    def dispatch_run(self, word: int, joined: bytes, size: int) -> bool:
        """Hand several frames over at once (``ManyHandler``); False where someone wants them one by one."""
        entries = self.entries(word)
        if any(entry.many is None for entry in entries):
            return False
        for entry in entries:
            if entry.is_active and entry.many is not None:
                entry.many(joined, size)
        return True

    def clear(self) -> None:
        """Nobody hears anything any more."""
        for entry in (*self._everything, *(e for entries in self._entries.values() for e in entries)):
            entry.is_active = False
        self._entries.clear()
        self._everything = ()

    def add(
        self, ids: Collection[CanId] | None, handler: Handler, many: ManyHandler | None = None
    ) -> Callable[[], None]:
        """See ``CanLink.hear`` and ``RunHearing``."""
        words = None if ids is None else {i | EXTENDED_FLAG if extended else i for i, extended in ids}
        entry = Entry(handler, many)
        if words is None:
            self._everything += (entry,)
        else:
            for word in words:
                self._entries[word] = (*self._entries.get(word, ()), entry)

        def end() -> None:
            if entry.is_active:
                entry.is_active = False
                self._remove(words, entry)
                self._tell()

        self._tell()
        return end

    def _remove(self, words: set[int] | None, entry: Entry) -> None:
        if words is None:
            self._everything = tuple(e for e in self._everything if e is not entry)
            return
        for word in words:
            left = tuple(e for e in self._entries.get(word, ()) if e is not entry)
            if left:
                self._entries[word] = left
            else:
                self._entries.pop(word, None)

    def _tell(self) -> None:
        if self._changed is not None:
            self._changed()

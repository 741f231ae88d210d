"""Finding signals and messages of a manifest by what people write, and what to say when there is none."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Sequence

from dbc.manifest import Manifest


class NameError_(ValueError):
    """No such name, or more than one; the text lists close or matching ones."""


class Names:
    """The names of one manifest, indexed for lookup by full name, by suffix and by glob."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self._signals = manifest.signal_index
        self._messages: dict[str, int] = {}
        self._suffixes: dict[str, list[int]] = {}
        for number, message in enumerate(manifest.messages):
            self._messages.setdefault(f"{manifest.buses[message.bus]}.{message.name}", number)
        for number, owner in enumerate(manifest.signal_message):
            message = manifest.messages[owner]
            name = message.signals[number - manifest.first_signal[owner]].name
            for suffix in (name, f"{message.name}.{name}"):
                self._suffixes.setdefault(suffix, []).append(number)

    def signal(self, text: str) -> int:
        """The one signal called ``signal``, ``message.signal`` or ``bus.message.signal``.

        Raises:
            NameError_: none or several.
        """
        if (number := self._signals.get(text)) is not None:
            return number
        found = self._suffixes.get(text, [])
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(self.manifest.signal_names[n] for n in found[:4]) + (", …" if len(found) > 4 else "")
            raise NameError_(f"{text!r} is ambiguous: {names}")
        raise NameError_(f"no signal {text!r}{self._close(text, [*self._signals, *self._suffixes])}")

    def signals(self, pattern: str) -> list[int]:
        """Signals by full name, glob over full names, or ``bus.message`` for all of a message.

        Raises:
            NameError_: nothing matches.
        """
        if (number := self._signals.get(pattern)) is not None:
            return [number]
        names = self.manifest.signal_names
        if any(c in pattern for c in "*?["):
            found = [n for n, name in enumerate(names) if fnmatch.fnmatchcase(name, pattern)]
            if not found:
                found = [s for m in self._matching(pattern) for s in self.signals_of(m)]
            if not found:
                raise NameError_(f"no signal matches {pattern!r} (patterns are matched with bus.message.signal)")
            return found
        if (message := self._messages.get(pattern)) is not None:
            return self.signals_of(message)
        return [self.signal(pattern)]

    def message(self, text: str) -> int:
        """The message called ``bus.message``, or ``message`` where only one bus has it.

        Raises:
            NameError_: none or several.
        """
        if (number := self._messages.get(text)) is not None:
            return number
        found = [n for n, m in enumerate(self.manifest.messages) if m.name == text]
        if len(found) == 1:
            return found[0]
        if found:
            buses = ", ".join(self.manifest.buses[self.manifest.messages[n].bus] for n in found[:4])
            raise NameError_(f"{text!r} is ambiguous: it is on buses {buses}")
        names = [*self._messages, *(m.name for m in self.manifest.messages)]
        raise NameError_(f"no message {text!r}{self._close(text, names)}")

    def messages(self, pattern: str) -> list[int]:
        """Messages by name or glob over ``bus.message``.

        Raises:
            NameError_: nothing matches.
        """
        if any(c in pattern for c in "*?["):
            found = self._matching(pattern)
            if not found:
                raise NameError_(f"no message matches {pattern!r} (patterns are matched with bus.message)")
            return found
        return [self.message(pattern)]

    def bus(self, text: str) -> int:
        """The index of a bus.

        Raises:
            NameError_: none.
        """
        if text in self.manifest.buses:
            return self.manifest.buses.index(text)
        raise NameError_(f"no bus {text!r}; the manifest has {', '.join(self.manifest.buses) or 'none'}")

    def signals_of(self, message: int) -> list[int]:
        """All signals of a message."""
        first = self.manifest.first_signal[message]
        return list(range(first, first + len(self.manifest.messages[message].signals)))

    def message_name(self, message: int) -> str:
        """``bus.message``."""
        record = self.manifest.messages[message]
        return f"{self.manifest.buses[record.bus]}.{record.name}"

    def _matching(self, pattern: str) -> list[int]:
        return [n for name, n in self._messages.items() if fnmatch.fnmatchcase(name, pattern)]

    @staticmethod
    def _close(text: str, names: Iterable[str]) -> str:
        known: Sequence[str] = sorted(set(names))
        lowered: dict[str, str] = {}
        for name in known:
            lowered.setdefault(name.lower(), name)
        close = difflib.get_close_matches(text.lower(), list(lowered)[:20_000], n=3, cutoff=0.6)
        return f"; did you mean {' or '.join(lowered[c] for c in close)}?" if close else ""

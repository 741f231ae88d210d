"""Test scripts: lines of requests and expectations against ECUs, and what came of them.

A script is text, one step a line; ``#`` begins a comment::

    ecu motor                      the ECU that is asked from here on
    set level 01                   a variable, used as $level
    send 10 03                     a request; $variables may stand anywhere
    expect 50 03 *                 the answer: bytes, ?? for any byte, * for any rest
    expect 62 F190 "0UTR1" *       text in quotes is its ASCII bytes
    expect nrc 31                  or a refusal (nrc *: any), or "expect silence"
    save vin 3                     keep the answer from byte 3 on as a variable (save NAME FROM [COUNT])
    wait 0.5                       seconds
    retry 10 0.2                   the next send is repeated until its expectation holds: at most 10 times, 0.2 s apart
    repeat 3 ... end               the lines between, three times
    unlock 01                      security access, by the vehicle file's algorithm
    name Voltage is sound          heading of the steps that follow, for the report

A ``send`` without ``expect`` wants a positive answer. Parsing tells every wrong line before anything is sent.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping

import msgspec

MAX_STEPS = 100_000
_NAME = re.compile(r"[A-Za-z_]\w*")


class ScriptError(ValueError):
    """Lines that are wrong: all of them are in the message."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One line. ``words`` are what follows the verb; ``inner`` the lines of a ``repeat``."""

    line: int
    verb: str
    words: tuple[str, ...] = ()
    inner: tuple[Step, ...] = ()


class Pattern(msgspec.Struct, frozen=True):
    """What an answer must look like. ``items``: a byte, or None for any; ``open_end``: any rest."""

    items: tuple[int | None, ...]
    open_end: bool

    def matches(self, answer: bytes) -> bool:
        """Whether an answer fits."""
        if len(answer) < len(self.items) or (len(answer) > len(self.items) and not self.open_end):
            return False
        return all(wanted is None or wanted == byte for wanted, byte in zip(self.items, answer, strict=False))


_COUNTS: Mapping[str, tuple[int, int]] = {
    "ecu": (1, 1), "set": (2, 99), "send": (1, 5000), "expect": (1, 5000), "save": (2, 3), "wait": (1, 1),
    "retry": (1, 2), "repeat": (1, 1), "end": (0, 0), "unlock": (1, 1), "name": (1, 99), "session": (1, 1),
}  # fmt: skip


def parse_script(text: str) -> tuple[Step, ...]:
    """The steps.

    Raises:
        ScriptError: with every wrong line.
    """
    problems: list[str] = []
    stack: list[tuple[Step | None, list[Step]]] = [(None, [])]
    for number, line in enumerate(text.splitlines(), 1):
        try:
            words = _words(line)
            if not words:
                continue
            step = _step(number, words)
            if step.verb == "repeat":
                stack.append((step, []))
            elif step.verb == "end":
                if len(stack) == 1:
                    raise ValueError("end without repeat")
                head, inner = stack.pop()
                assert head is not None  # only the bottom of the stack has none
                stack[-1][1].append(msgspec.structs.replace(head, inner=tuple(inner)))
            else:
                before = stack[-1][1]
                if step.verb == "expect" and (not before or before[-1].verb != "send"):
                    raise ValueError("expect without a send in the line before")
                before.append(step)
        except ValueError as error:
            problems.append(f"line {number}: {error}")
    problems += [f"line {head.line}: repeat without end" for head, _ in stack if head is not None]
    steps = tuple(stack[0][1])
    if not problems and count_steps(steps) > MAX_STEPS:
        problems.append(f"more than {MAX_STEPS} steps")
    if not problems and not steps:
        problems.append("no steps")
    if problems:
        raise ScriptError("\n".join(problems))
    return steps


def count_steps(steps: tuple[Step, ...]) -> int:
    """With all repetitions."""
    return sum(count_steps(step.inner) * int(step.words[0]) if step.verb == "repeat" else 1 for step in steps)


def _words(line: str) -> list[str]:
    """Split at blanks; quotes keep text together (and are kept, as they mean ASCII)."""
    lexer = shlex.shlex(line, posix=False)
    lexer.whitespace_split, lexer.commenters, lexer.quotes = True, "#", '"'
    return list(lexer)


def _step(line: int, words: list[str]) -> Step:
    verb, rest = words[0].lower(), tuple(words[1:])
    if verb not in _COUNTS:
        raise ValueError(f"unknown step {words[0]!r}; there are {', '.join(_COUNTS)}")
    low, high = _COUNTS[verb]
    if not low <= len(rest) <= high:
        raise ValueError(f"{verb}: {len(rest)} words; see the help for what it needs")
    if verb in ("set", "save") and _NAME.fullmatch(rest[0]) is None:
        raise ValueError(f"{rest[0]!r} is no name")
    if verb == "save":
        _whole(rest[1:], 0)
    if verb in ("wait", "retry") and not 0 <= float(rest[-1]) <= 86_400:
        raise ValueError(f"{verb}: {rest[-1]} seconds")
    if verb in ("repeat", "retry"):
        _whole(rest[:1], 1)
    if "$" not in "".join(rest):
        if verb == "send" and not to_bytes(rest):
            raise ValueError("an empty request")
        if verb == "expect":
            parse_expectation(rest)
    return Step(line=line, verb=verb, words=rest)


def _whole(words: tuple[str, ...], least: int) -> None:
    for word in words:
        if not word.isdecimal() or not least <= int(word) <= MAX_STEPS:
            raise ValueError(f"{word!r}: expected a number from {least} to {MAX_STEPS}")


def fill_in(words: tuple[str, ...], variables: Mapping[str, str]) -> tuple[str, ...]:
    """Variables in their places.

    Raises:
        ValueError: one that is not set.
    """

    def value(match: re.Match[str]) -> str:
        if match[1] not in variables:
            raise ValueError(f"${match[1]} is not set")
        return variables[match[1]]

    return tuple(re.sub(r"\$([A-Za-z_]\w*)", value, word) for word in words)


def to_bytes(words: tuple[str, ...]) -> bytes:
    """Hexadecimal words and quoted text.

    Raises:
        ValueError: something else.
    """
    return bytes(item for item in _items(words, wild=False) if item is not None)


def _items(words: tuple[str, ...], *, wild: bool) -> list[int | None]:
    items: list[int | None] = []
    for word in words:
        if len(word) >= 2 and word[0] == word[-1] == '"':
            items += word[1:-1].encode("ascii", "strict")
        elif wild and re.fullmatch(r"(\?\?)+", word):
            items += [None] * (len(word) // 2)
        else:
            for part in word.split():
                digits = part.removeprefix("0x")
                if re.fullmatch(r"([0-9A-Fa-f]{2})+", digits) is None:
                    raise ValueError(f"{part!r} is neither pairs of hexadecimal digits nor quoted text")
                items += bytes.fromhex(digits)
    return items


def parse_expectation(words: tuple[str, ...]) -> Pattern | int | None:
    """A pattern; a negative response code (-1: any); None: silence.

    Raises:
        ValueError: none of these.
    """
    if words[0].lower() == "silence" and len(words) == 1:
        return None
    if words[0].lower() == "nrc":
        if len(words) != 2 or re.fullmatch(r"\*|[0-9A-Fa-f]{2}", words[1]) is None:
            raise ValueError("expect nrc: two hexadecimal digits, or *")
        return -1 if words[1] == "*" else int(words[1], 16)
    is_open = words[-1] == "*"
    if "*" in words[:-1]:
        raise ValueError("* stands only at the end")
    return Pattern(tuple(_items(words[:-1] if is_open else words, wild=True)), is_open)

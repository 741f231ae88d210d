"""Conditions computed for one moment, in plain Python: monitors look ten times a second, not at every frame.

Same meaning as ``gateway.collect.evaluate``: unknown is NaN, a condition holds only where it is 1. Functions over a
window and ``changed`` need every sample and are refused; ``rising`` is against the moment looked at before.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence

from gateway.collect.bind import WINDOW_FUNCTIONS, Condition, Term

NAN = float("nan")
#: Reads the present; a float, NaN when unknown.
Reader = Callable[[], float]

REFUSED = frozenset({*WINDOW_FUNCTIONS, "changed"})
_ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv,
}  # fmt: skip
_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


class Present:
    """What conditions read: by place, the value of each signal (NaN: unknown or too old) and its age in ms."""

    def __init__(self, count: int) -> None:
        self.value = [NAN] * count
        self.age_ms = [NAN] * count


def refused_function(condition: Condition) -> str:
    """A function in the condition that cannot be computed here; empty when it can."""
    stack = [condition.root]
    while stack:
        term = stack.pop()
        if term.operator in REFUSED:
            return term.operator
        stack.extend(term.arguments)
    return ""


def compile_condition(condition: Condition, places: Sequence[int], present: Present) -> Reader:
    """A function that gives the condition's truth now: 1, 0, or NaN.

    Args:
        places: per input of the condition, its place in ``present``.
    """
    return _compile(condition.root, places, present)


def _compile(term: Term, places: Sequence[int], present: Present) -> Reader:
    name = term.operator
    if name == "const":
        constant = term.constant
        return lambda: constant
    if term.input >= 0:
        values, place = (present.value if name == "value" else present.age_ms), places[term.input]
        return lambda: values[place]
    arguments = [_compile(argument, places, present) for argument in term.arguments]
    if name in _ARITHMETIC:
        return _arithmetic(_ARITHMETIC[name], *arguments)
    if name in _COMPARISONS:
        return _comparison(_COMPARISONS[name], *arguments)
    if name in ("and", "or"):
        return _junction(0.0 if name == "and" else 1.0, *arguments)
    inner = arguments[0]
    match name:
        case "neg":
            return lambda: -inner()
        case "abs":
            return lambda: abs(inner())
        case "not":
            return lambda: 1.0 - inner()
        case "rising":
            return _rising(inner)
    raise ValueError(f"{name!r} cannot be computed at one moment")


def _arithmetic(compute: Callable[[float, float], float], left: Reader, right: Reader) -> Reader:
    def read() -> float:
        try:
            value = compute(left(), right())
        except (ZeroDivisionError, OverflowError):
            return NAN
        return value if math.isfinite(value) else NAN

    return read


def _comparison(compare: Callable[[float, float], bool], left: Reader, right: Reader) -> Reader:
    def read() -> float:
        a, b = left(), right()
        return NAN if a != a or b != b else float(compare(a, b))

    return read


def _junction(deciding: float, left: Reader, right: Reader) -> Reader:
    """``and`` is decided by 0, ``or`` by 1, whatever the other side; both are computed, as either may remember."""

    def read() -> float:
        a, b = left(), right()
        if a == deciding or b == deciding:
            return deciding
        return NAN if a != a or b != b else 1.0 - deciding

    return read


def _rising(inner: Reader) -> Reader:
    before = 0.0

    def read() -> float:
        nonlocal before
        value, earlier = inner(), before
        before = value
        return NAN if value != value else float(value == 1.0 and earlier != 1.0)

    return read

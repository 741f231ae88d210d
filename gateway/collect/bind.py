"""Giving the names of a condition a meaning: signals, labels, functions and types, checked before a vehicle runs it."""

from __future__ import annotations

from dataclasses import dataclass

from dbc.decode.layout import problem_of
from gateway.collect import expression as syntax
from gateway.collect.expression import COMPARISONS, ExpressionError, Node, parse
from gateway.collect.model import Limits
from gateway.collect.names import NameError_, Names

WINDOW_FUNCTIONS = ("min", "max", "mean", "count")
_FUNCTIONS = (*WINDOW_FUNCTIONS, "changed", "rising", "age_ms", "abs")


@dataclass(frozen=True, slots=True)
class Term:
    """One operation of a condition, ready to be computed.

    ``operator`` is ``const value changed age min max mean count abs neg not and or rising`` or an arithmetic or
    comparison sign. ``input`` counts in ``Condition.inputs``; ``slot`` numbers the places that remember something.
    """

    operator: str
    arguments: tuple[Term, ...] = ()
    constant: float = 0.0
    input: int = -1
    window_ns: int = 0
    slot: int = -1


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition over signals of one manifest. True, false, or unknown; see ``evaluate``."""

    text: str
    root: Term
    inputs: tuple[int, ...]  # signal numbers, in order of mention
    windows_ns: tuple[int, ...]  # per input: the longest window over it, 0 for none
    slots: int
    time_dependent: bool  # may change while no input arrives


def bind(text: str, names: Names, limits: Limits) -> Condition:
    """Parse and resolve a condition.

    Raises:
        ExpressionError: grammar, unknown or ambiguous name, unknown label, wrong type, window too long.
    """
    tree = parse(text, limits)
    binder = _Binder(text, names, limits)
    root, kind = binder.term(tree)
    if kind != "bool":
        raise ExpressionError("the condition is a number; compare it with something", text, tree.position)
    return Condition(
        text,
        root,
        tuple(binder.inputs),
        tuple(binder.windows_ns),
        binder.slots,
        binder.time_dependent,
    )


class _Binder:
    def __init__(self, text: str, names: Names, limits: Limits) -> None:
        self._text, self._names, self._limits = text, names, limits
        self.inputs: list[int] = []
        self.windows_ns: list[int] = []
        self.slots = 0
        self.time_dependent = False

    def term(self, node: Node) -> tuple[Term, str]:
        """The operation of a node and its type, ``number`` or ``bool``."""
        match node:
            case syntax.Number(value):
                return Term("const", constant=value), "number"
            case syntax.Truth(value):
                return Term("const", constant=float(value)), "bool"
            case syntax.Name():
                return Term("value", input=self._input(node)), "number"
            case syntax.Label():
                raise self._wrong("a label can only be compared with a signal, by == or !=", node)
            case syntax.Unary(operator, operand):
                wanted = "bool" if operator == "not" else "number"
                return Term("not" if operator == "not" else "neg", (self._typed(operand, wanted, operator),)), wanted
            case syntax.Binary():
                return self._binary(node)
            case syntax.Call():
                return self._call(node)

    def _binary(self, node: syntax.Binary) -> tuple[Term, str]:
        operator = node.operator
        if operator in ("and", "or"):
            sides = (self._typed(node.left, "bool", operator), self._typed(node.right, "bool", operator))
            return Term(operator, sides), "bool"
        if operator not in COMPARISONS:
            sides = (self._typed(node.left, "number", operator), self._typed(node.right, "number", operator))
            return Term(operator, sides), "number"
        if isinstance(node.left, syntax.Label) or isinstance(node.right, syntax.Label):
            return self._label_comparison(node), "bool"
        left, left_kind = self.term(node.left)
        right, right_kind = self.term(node.right)
        if left_kind != right_kind or (left_kind == "bool" and operator not in ("==", "!=")):
            raise self._wrong(f"{operator!r} compares a {left_kind} with a {right_kind}", node)
        return Term(operator, (left, right)), "bool"

    def _label_comparison(self, node: syntax.Binary) -> Term:
        signal, label = (node.right, node.left) if isinstance(node.left, syntax.Label) else (node.left, node.right)
        if not isinstance(signal, syntax.Name) or not isinstance(label, syntax.Label):
            raise self._wrong("a label is compared with a signal's name", node)
        if node.operator not in ("==", "!="):
            raise self._wrong("a label can only be compared by == or !=", node)
        index = self._input(signal)
        record = self._names.manifest.signals[self.inputs[index]]
        raws = [raw for raw, text in record.labels.items() if text == label.text]
        if not raws:
            known = ", ".join(repr(text) for text in list(record.labels.values())[:8]) or "none"
            raise self._wrong(f"{record.name} has no label {label.text!r}; it has {known}", label)
        terms = [
            Term("==", (Term("value", input=index), Term("const", constant=raw * record.scale + record.offset)))
            for raw in raws[:16]
        ]
        whole = terms[0]
        for term in terms[1:]:
            whole = Term("or", (whole, term))
        return whole if node.operator == "==" else Term("not", (whole,))

    def _call(self, node: syntax.Call) -> tuple[Term, str]:
        name, arguments = node.function, node.arguments
        if name not in _FUNCTIONS:
            raise self._wrong(f"no function {name!r}; there are {', '.join(_FUNCTIONS)}", node)
        wanted = 2 if name in WINDOW_FUNCTIONS else 1
        if len(arguments) != wanted:
            form = f"{name}(signal, window_ms)" if wanted == 2 else f"{name}(…) with one argument"
            raise self._wrong(f"write {form}", node)
        if name in WINDOW_FUNCTIONS:
            return self._window(name, arguments[0], arguments[1]), "number"
        if name == "abs":
            return Term("abs", (self._typed(arguments[0], "number", name),)), "number"
        if name == "rising":
            inner = self._typed(arguments[0], "bool", name)
            self.slots += 1
            return Term("rising", (inner,), slot=self.slots - 1), "bool"
        signal = arguments[0]
        if not isinstance(signal, syntax.Name):
            raise self._wrong(f"{name} takes a signal's name", signal)
        index = self._input(signal)
        if name == "changed":
            return Term("changed", input=index), "bool"
        self.time_dependent = True
        return Term("age", input=index), "number"

    def _window(self, name: str, signal: Node, window: Node) -> Term:
        if not isinstance(signal, syntax.Name):
            raise self._wrong(f"{name} takes a signal's name and a window in ms", signal)
        if not isinstance(window, syntax.Number):
            raise self._wrong("the window is a number of milliseconds", window)
        if not 1 <= window.value <= self._limits.max_window_ms:
            raise self._wrong(f"the window must be 1 to {self._limits.max_window_ms} ms", window)
        index = self._input(signal)
        window_ns = round(window.value * 1_000_000)
        self.windows_ns[index] = max(self.windows_ns[index], window_ns)
        self.time_dependent = True
        return Term(name, input=index, window_ns=window_ns)

    def _typed(self, node: Node, wanted: str, operator: str) -> Term:
        term, kind = self.term(node)
        if kind != wanted:
            need, hint = ("a comparison", "; write e.g. 'x != 0'") if wanted == "bool" else ("a number", "")
            raise self._wrong(f"{operator!r} needs {need}, this is a {kind}{hint}", node)
        return term

    def _input(self, node: syntax.Name) -> int:
        try:
            signal = self._names.signal(node.text)
        except NameError_ as error:
            raise ExpressionError(str(error), self._text, node.position) from error
        if problem := problem_of(self._names.manifest.signals[signal]):
            raise self._wrong(f"{node.text} cannot be decoded: {problem}", node)
        if signal not in self.inputs:
            self.inputs.append(signal)
            self.windows_ns.append(0)
        return self.inputs.index(signal)

    def _wrong(self, message: str, node: Node) -> ExpressionError:
        return ExpressionError(message, self._text, node.position)

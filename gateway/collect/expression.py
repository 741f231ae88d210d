"""The text of a condition and its syntax tree. Knows the grammar, not the vehicle: ``bind`` gives names a meaning.

    or_expr   := and_expr ("or" and_expr)*          sum      := product (("+" | "-") product)*
    and_expr  := not_expr ("and" not_expr)*         product  := unary (("*" | "/") unary)*
    not_expr  := "not" not_expr | compare           unary    := "-" unary | atom
    compare   := sum (("=="|"!="|"<"|"<="|">"|">=") sum)?
    atom      := NUMBER | "true" | "false" | STRING | NAME | NAME "(" or_expr ("," or_expr)* ")" | "(" or_expr ")"

A NAME is ``signal``, ``message.signal`` or ``bus.message.signal``; one with odd characters goes in backticks. A STRING
is a label of the signal it is compared with. The parser is bounded in length, nodes and depth, so that no text exhausts
the vehicle.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

from gateway.collect.model import Limits


class ExpressionError(ValueError):
    """The condition is wrong at ``position`` (characters from 0); the text points at it."""

    def __init__(self, message: str, text: str, position: int) -> None:
        self.message, self.position = message, position
        start = max(0, position - 30)
        shown = text[start : position + 30].replace("\n", " ")
        super().__init__(f"{message} (character {position + 1}: …{shown}…)" if text else message)


@dataclass(frozen=True, slots=True)
class Number:
    """A constant."""

    value: float
    position: int


@dataclass(frozen=True, slots=True)
class Truth:
    """``true`` or ``false``."""

    value: bool
    position: int


@dataclass(frozen=True, slots=True)
class Label:
    """A text from a value table, in quotes."""

    text: str
    position: int


@dataclass(frozen=True, slots=True)
class Name:
    """A signal by name."""

    text: str
    position: int


@dataclass(frozen=True, slots=True)
class Call:
    """A function and its arguments."""

    function: str
    arguments: tuple[Node, ...]
    position: int


@dataclass(frozen=True, slots=True)
class Unary:
    """``-`` or ``not``."""

    operator: str
    operand: Node
    position: int


@dataclass(frozen=True, slots=True)
class Binary:
    """Arithmetic, a comparison, ``and`` or ``or``."""

    operator: str
    left: Node
    right: Node
    position: int


Node: TypeAlias = Number | Truth | Label | Name | Call | Unary | Binary

COMPARISONS = frozenset({"==", "!=", "<", "<=", ">", ">="})

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]) | 0[xX][0-9a-fA-F]+(?![\w.]))
    | (?P<string>"[^"\n]*"|'[^'\n]*')
    | (?P<quoted>`[^`\n]+`)
    | (?P<name>[^\W\d]\w*(?:\.\w+)*)
    | (?P<operator>==|!=|<=|>=|[-+*/<>(),])
    | (?P<end>$)
    )""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # number, string, name, word, operator, end
    text: str
    position: int


_WORDS = frozenset({"and", "or", "not", "true", "false"})
_HINTS = {"&&": "and", "||": "or", "=": "==", "!": "not"}


def parse(text: str, limits: Limits | None = None) -> Node:
    """The syntax tree of a condition.

    Raises:
        ExpressionError: not of the grammar, or beyond the limits; tells where.
    """
    limits = limits or Limits()
    if len(text) > limits.max_expression_chars:
        raise ExpressionError(f"condition longer than {limits.max_expression_chars} characters", "", 0)
    return _Parser(text, limits).whole()


def _tokens(text: str) -> list[_Token]:
    tokens, at = [], 0
    while True:
        match = _TOKEN.match(text, at)
        if match is None:
            at += len(text[at:]) - len(text[at:].lstrip())
            odd = next((o for o in _HINTS if text.startswith(o, at)), "")
            if odd:
                raise ExpressionError(f"{odd!r} is not an operator here; write {_HINTS[odd]!r}", text, at)
            if text[at] in "\"'`":
                raise ExpressionError("a quote that is not closed", text, at)
            raise ExpressionError(f"unexpected {text[at]!r}", text, at)
        kind = str(match.lastgroup)
        content, position = match.group(kind), match.start(kind)
        if kind in ("string", "quoted"):
            content, kind = content[1:-1], "string" if kind == "string" else "name"
        elif kind == "name" and content in _WORDS:
            kind = "word"
        tokens.append(_Token(kind, content, position))
        if kind == "end":
            return tokens
        at = match.end()


class _Parser:
    def __init__(self, text: str, limits: Limits) -> None:
        self._text, self._limits = text, limits
        self._tokens = _tokens(text)
        self._at, self._nodes, self._depth = 0, 0, 0

    def whole(self) -> Node:
        if self._peek().kind == "end":
            raise self._wrong("the condition is empty")
        node = self._either()
        if self._peek().kind != "end":
            raise self._wrong(f"unexpected {self._peek().text!r} after the condition's end")
        return node

    def _either(self) -> Node:
        self._enter()
        node = self._both()
        while (token := self._accept("word", "or")) is not None:
            node = self._count(Binary("or", node, self._both(), token.position))
        self._depth -= 1
        return node

    def _both(self) -> Node:
        node = self._negation()
        while (token := self._accept("word", "and")) is not None:
            node = self._count(Binary("and", node, self._negation(), token.position))
        return node

    def _negation(self) -> Node:
        if (token := self._accept("word", "not")) is not None:
            self._enter()
            node = self._count(Unary("not", self._negation(), token.position))
            self._depth -= 1
            return node
        return self._comparison()

    def _comparison(self) -> Node:
        left = self._sum()
        token = self._peek()
        if token.kind != "operator" or token.text not in COMPARISONS:
            return left
        self._at += 1
        node = self._count(Binary(token.text, left, self._sum(), token.position))
        if self._peek().kind == "operator" and self._peek().text in COMPARISONS:
            raise self._wrong("comparisons cannot be chained; write 'a < b and b < c'")
        return node

    def _sum(self) -> Node:
        node = self._product()
        while (token := self._accept("operator", "+", "-")) is not None:
            node = self._count(Binary(token.text, node, self._product(), token.position))
        return node

    def _product(self) -> Node:
        node = self._unary()
        while (token := self._accept("operator", "*", "/")) is not None:
            node = self._count(Binary(token.text, node, self._unary(), token.position))
        return node

    def _unary(self) -> Node:
        if (token := self._accept("operator", "-")) is not None:
            self._enter()
            node = self._count(Unary("-", self._unary(), token.position))
            self._depth -= 1
            return node
        return self._atom()

    def _atom(self) -> Node:
        token = self._peek()
        self._at += 1
        if token.kind == "number":
            value = int(token.text, 16) if token.text[:2] in ("0x", "0X") else float(token.text)
            return self._count(Number(self._finite(value, token), token.position))
        if token.kind == "string":
            return self._count(Label(token.text, token.position))
        if token.kind == "word" and token.text in ("true", "false"):
            return self._count(Truth(token.text == "true", token.position))
        if token.kind == "name":
            if self._accept("operator", "(") is None:
                return self._count(Name(token.text, token.position))
            return self._call(token)
        if token.kind == "operator" and token.text == "(":
            node = self._either()
            self._close()
            return node
        self._at -= 1
        raise self._wrong("the condition ends too early" if token.kind == "end" else f"unexpected {token.text!r}")

    def _call(self, token: _Token) -> Node:
        arguments = []
        if self._accept("operator", ")") is None:
            arguments.append(self._either())
            while self._accept("operator", ",") is not None:
                arguments.append(self._either())
            self._close()
        return self._count(Call(token.text, tuple(arguments), token.position))

    def _finite(self, value: float, token: _Token) -> float:
        try:
            number = float(value)
        except OverflowError:
            number = float("inf")
        if number == float("inf"):
            raise ExpressionError("number too large", self._text, token.position)
        return number

    def _close(self) -> None:
        if self._accept("operator", ")") is None:
            raise self._wrong("')' expected")

    def _peek(self) -> _Token:
        return self._tokens[self._at]

    def _accept(self, kind: str, *texts: str) -> _Token | None:
        token = self._tokens[self._at]
        if token.kind != kind or token.text not in texts:
            return None
        self._at += 1
        return token

    def _enter(self) -> None:
        self._depth += 1
        if self._depth > self._limits.max_expression_depth:
            raise self._wrong(f"nested deeper than {self._limits.max_expression_depth}")

    def _count(self, node: Node) -> Node:
        """Bounds the number of nodes, and with it the depth of left-leaning chains."""
        self._nodes += 1
        if self._nodes > self._limits.max_expression_nodes:
            raise self._wrong(f"more than {self._limits.max_expression_nodes} terms")
        return node

    def _wrong(self, message: str) -> ExpressionError:
        return ExpressionError(message, self._text, self._peek().position)

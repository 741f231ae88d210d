"""The DBC parser: text in, statements and defects out. It never fails and never gives up on a file.

Theory of operation: the parser stands at the keyword of a statement and tries the expression for a well-formed one. If
it matches, the statement is kept. If not, the statement is either read piece by piece (signals, messages, comments:
what people's files get wrong most) or dropped with a defect, and reading goes on at the next line that begins with a
keyword. Statements may stand in any order; what refers to what is resolved by ``dbc.load.build``.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Callable

from dbc.load import grammar
from dbc.load.model import DefectLog, quote
from dbc.load.parsed import AttributeDefinition, AttributeValue, Labels, MuxValues, Parsed, RawMessage, RawSignal
from dbc.load.signal_parser import read_loose_signal, read_signal

INDEPENDENT_SIGNALS = "VECTOR__INDEPENDENT_SIG_MSG"
EXTENDED_BIT = 1 << 31
MAX_STANDARD_ID = 0x7FF
_INT64 = range(-(1 << 63), 1 << 64)  # label keys may be written signed or unsigned


def parse_dbc(text: str, log: DefectLog) -> Parsed:
    """Read every statement of ``text`` that can be read; the others are in ``log``."""
    return _Parser(text, log).parse()


def unescape(text: str) -> str:
    """A string as written between quotes, its escaped quotes undone."""
    return text.replace('\\"', '"') if "\\" in text else text


def canonical_id(digits: str) -> int:
    """The identifier of a statement with bit 31 set if it is extended, as ids above 11 bits are in any case.

    So references meet their message whichever of the two forgot the bit.
    """
    identifier = int(digits) if len(digits) <= 10 else 1 << 34
    return identifier | EXTENDED_BIT if identifier > MAX_STANDARD_ID else identifier


def to_number(text: str) -> float | None:
    """A finite float, or None."""
    value = float(text)
    return value if math.isfinite(value) else None


def to_int(text: str) -> int | None:
    """An integer of a sane size (below 2**64 either way), from digits that may end in ".0"; else None."""
    digits = text.partition(".")[0]
    if len(digits) > 30:
        return None
    value = int(digits)
    return value if value in _INT64 else None


class _Parser:
    """One pass over one text."""

    def __init__(self, text: str, log: DefectLog) -> None:
        self._text = text
        self._log = log
        self._parsed = Parsed()
        self._lines = [0, *(m.end() for m in re.finditer("\n", text))]
        self._next = (0, 0, 0)  # the last answer of _next_statement: asked from, line it found, position in it
        self._message: RawMessage | None = None  # the BO_ that SG_ statements belong to
        self._message_dropped = False
        self._handlers: dict[str, Callable[[int], int]] = {
            "VERSION": self._version,
            "NS_": self._new_symbols,
            "BS_": self._bit_timing,
            "BU_": self._nodes,
            "BO_": self._message_statement,
            "SG_": self._signal,
            "CM_": self._comment,
            "VAL_": self._labels,
            "VAL_TABLE_": self._table,
            "SIG_VALTYPE_": self._value_type,
            "SG_MUL_VAL_": self._mux_values,
            "BA_DEF_": self._definition,
            "BA_DEF_DEF_": self._default,
            "BA_": self._attribute,
        }
        self._handlers.update(dict.fromkeys(grammar.IGNORED, self._ignored))

    def parse(self) -> Parsed:
        text, at = self._text, 0
        while True:
            blank = grammar.BLANK.match(text, at)
            at = blank.end() if blank else at
            if at >= len(text):
                return self._parsed
            word = grammar.WORD.match(text, at)
            handler = self._handlers.get(word.group()) if word else None
            at = handler(at) if handler else self._unknown(at)

    # Helpers

    def _line(self, at: int) -> int:
        return bisect_right(self._lines, at)

    def _next_statement(self, at: int) -> int:
        """Where reading can go on: the next line after ``at`` that begins with a keyword, or the end."""
        searched_from, line_start, found_at = self._next
        if not searched_from <= at < line_start:  # else the last answer still holds; searching again could be quadratic
            newline = self._text.find("\n", at)
            found = grammar.LINE_START.search(self._text, newline + 1) if newline >= 0 else None
            end = len(self._text)
            line_start, found_at = (found.start(), found.end()) if found else (end, end)
            self._next = at, line_start, found_at
        return found_at

    def _malformed(self, at: int, code: str, what: str) -> int:
        """Drop the statement at ``at``: up to its semicolon on this line, else up to the next statement."""
        self._log.add(code, self._line(at), f"{what}: {quote(self._text[at : at + 400])}")
        return self._skip(at)

    def _skip(self, at: int) -> int:
        end = self._next_statement(at)
        whole = grammar.IGNORED_STATEMENT.match(self._text, at, end)
        return whole.end() if whole else end

    def _end(self, at: int, match: re.Match[str]) -> int:
        """The end of a matched statement; its last group is the semicolon."""
        if match.group(match.re.groups) is None:
            self._log.add("missing_semicolon", self._line(at), "the statement does not end in a semicolon")
            return match.start() + len(match.group().rstrip())
        return match.end()

    # Statements without references

    def _unknown(self, at: int) -> int:
        end = self._next_statement(at)
        skipped = self._text[at:end]
        if skipped.strip(" \t\n;") == "":
            self._log.add("stray_semicolon", self._line(at), "a semicolon that ends nothing")
            return end
        count = skipped.strip().count("\n") + 1
        more = f" and {count - 1} more lines up to the next statement" if count > 1 else ""
        self._log.add("unknown_line", self._line(at), f"no statement of a DBC file: {quote(skipped)}{more}")
        return end

    def _ignored(self, at: int) -> int:
        end = self._next_statement(at)
        whole = grammar.IGNORED_STATEMENT.match(self._text, at, end)
        if whole:
            return whole.end()
        self._log.add("missing_semicolon", self._line(at), "the statement does not end in a semicolon")
        return end

    def _version(self, at: int) -> int:
        match = grammar.VERSION.match(self._text, at)
        if not match:
            return self._malformed(at, "malformed_version", "VERSION wants one string")
        self._parsed.version = unescape(match.group(1))
        return match.end()

    def _new_symbols(self, at: int) -> int:
        match = grammar.NS_HEAD.match(self._text, at)
        if not match:
            return self._malformed(at, "malformed_namespace", "NS_ wants a colon")
        end = match.end()
        while word := grammar.NS_WORD.match(self._text, end):
            end = word.end()
        blank = grammar.BLANK.match(self._text, end)
        following = grammar.WORD.match(self._text, blank.end() if blank else end)
        if following is None or following.group() not in ("BS_", "BU_"):
            self._log.add("namespace_without_end", self._line(at), "the NS_ list is not followed by BS_ or BU_")
        return end

    def _bit_timing(self, at: int) -> int:
        match = grammar.BS.match(self._text, at)
        return match.end() if match else self._skip(at)

    def _nodes(self, at: int) -> int:
        match = grammar.NODES.match(self._text, at)
        if not match:
            return self._malformed(at, "malformed_nodes", "BU_ wants a colon and names")
        self._parsed.nodes.extend(match.group(1).replace(",", " ").split())
        return match.end()

    # Messages and signals

    def _message_statement(self, at: int) -> int:
        match = grammar.MESSAGE.match(self._text, at)
        self._message, self._message_dropped = None, True
        if match:
            identifier, name, length, sender = match.groups()
        else:
            match = grammar.MESSAGE_LOOSE.match(self._text, at)
            if not match:
                return self._malformed(
                    at, "malformed_message", "BO_ wants an identifier, a name, a length and a sender"
                )
            identifier, name, length, sender = match.groups()
            if not (identifier.isdigit() and length is not None and length.isdigit()):
                return self._malformed(
                    at, "malformed_message", "BO_ wants an identifier, a name, a length and a sender"
                )
            self._log.add("irregular_message", self._line(at), f"not quite a BO_ statement: {quote(match.group())}")
        if len(identifier) > 10 or len(length) > 8:
            return self._malformed(at, "bad_id", "the identifier or length has too many digits")
        self._message_dropped = False
        if name == INDEPENDENT_SIGNALS:
            self._message_dropped = True
            self._parsed.skipped_ids.add(canonical_id(identifier))
            return match.end()
        if sender is None:
            self._log.add("missing_sender", self._line(at), "BO_ names no sender", name)
        self._message = RawMessage(
            self._line(at), int(identifier), canonical_id(identifier), name, int(length), sender or ""
        )
        self._parsed.messages.append(self._message)
        return match.end()

    def _signal(self, at: int) -> int:
        line = self._line(at)
        match = grammar.SIGNAL.match(self._text, at)
        owner = self._message
        name = owner.name if owner else ""
        signal: RawSignal | None
        if match:
            end, signal = match.end(), read_signal(match, line, name, self._log)
        else:
            newline = self._text.find("\n", at)
            end = newline if newline >= 0 else len(self._text)
            signal = read_loose_signal(self._text[at:end], line, name, self._log)
        if owner is not None and signal is not None:
            owner.signals.append(signal)
        elif owner is None and signal is not None and not self._message_dropped:
            self._log.add("orphan_signal", line, "SG_ outside any message", signal=signal.name)
        return end

    # What describes messages and signals

    def _comment(self, at: int) -> int:
        match = grammar.COMMENT.match(self._text, at)
        if match and match.group(match.re.groups):
            self._keep_comment(at, match, match.group(6))
            return match.end()
        bare = grammar.COMMENT_BARE.match(self._text, at)
        if bare:
            text = "names no signal; kept as the comment of the message"
            self._log.add("comment_without_signal", self._line(at), text)
            kept = (self._line(at), unescape(bare.group(2)))
            self._parsed.message_comments.setdefault(canonical_id(bare.group(1)), kept)
            return bare.end()
        head = grammar.COMMENT_HEAD.match(self._text, at)
        if not head:
            return self._malformed(
                at, "malformed_comment", "CM_ wants SG_ id name, BO_ id, BU_ name or nothing, and a string"
            )
        limit = self._next_statement(at)
        body = self._text[head.end() : limit].rstrip()
        if '"' not in body:
            self._log.add(
                "unterminated_string", self._line(at), "the comment's string does not end before the next statement"
            )
            self._keep_comment(at, head, body.rstrip(";"))
        elif '"' in body[:-1].rstrip(';" \t') or body.endswith(";"):
            self._log.add("unescaped_quote", self._line(at), "the comment has a quote in it that is not escaped")
            self._keep_comment(at, head, body.removesuffix(";").rstrip().removesuffix('"'))
        else:
            self._log.add("missing_semicolon", self._line(at), "the comment does not end in a semicolon")
            self._keep_comment(at, head, body.removesuffix('"'))
        return limit

    def _keep_comment(self, at: int, match: re.Match[str], text: str) -> None:
        _, message, _, signal_message, signal = match.groups()[:5]
        if signal is not None:
            self._parsed.signal_comments[canonical_id(signal_message), signal] = (self._line(at), unescape(text))
        elif message is not None:
            self._parsed.message_comments[canonical_id(message)] = (self._line(at), unescape(text))

    def _labels(self, at: int) -> int:
        match = grammar.LABELS.match(self._text, at)
        if match and (match.group(3) or match.group(match.re.groups)):
            self._keep_labels(at, match.group(1), match.group(2), self._pairs(at, match.group(3)))
            return self._end_of_pairs(at, match)
        table = grammar.LABELS_TABLE.match(self._text, at)
        if table:
            key = canonical_id(table.group(1)), table.group(2)
            self._parsed.labels[key] = Labels(self._line(at), [], table.group(3))
            return self._end(at, table)
        environment = grammar.LABELS_ENVIRONMENT.match(self._text, at)
        if environment:
            return self._end(at, environment)
        return self._malformed(
            at, "malformed_labels", "VAL_ wants an identifier, a signal and pairs of number and string"
        )

    def _keep_labels(self, at: int, identifier: str, signal: str, pairs: list[tuple[int, str]]) -> None:
        key = canonical_id(identifier), signal
        if key in self._parsed.labels:
            self._log.add("duplicate_labels", self._line(at), "a second VAL_ replaces the first", signal=signal)
        self._parsed.labels[key] = Labels(self._line(at), pairs)

    def _end_of_pairs(self, at: int, match: re.Match[str]) -> int:
        """The end of VAL_ or VAL_TABLE_; what stands between its last good pair and its semicolon is dropped."""
        if match.group(match.re.groups):
            return match.end()
        limit = self._next_statement(at)
        rest = self._text[match.end() : limit].strip()
        if rest:
            self._log.add("malformed_labels", self._line(at), f"the values from here on are dropped: {quote(rest)}")
            return max(match.end(), self._skip(at))
        self._log.add("missing_semicolon", self._line(at), "the statement does not end in a semicolon")
        return match.end()

    def _pairs(self, at: int, text: str) -> list[tuple[int, str]]:
        pairs = []
        for match in grammar.PAIR.finditer(text):
            value = to_int(match.group(1))
            if value is None:
                self._log.add("bad_label", self._line(at), f"no raw value is as large as {quote(match.group(1))}")
            else:
                pairs.append((value, unescape(match.group(2))))
        return pairs

    def _table(self, at: int) -> int:
        match = grammar.TABLE.match(self._text, at)
        if not match:
            return self._malformed(at, "malformed_labels", "VAL_TABLE_ wants a name and pairs of number and string")
        self._parsed.tables[match.group(1)] = self._pairs(at, match.group(2))
        return self._end_of_pairs(at, match)

    def _value_type(self, at: int) -> int:
        match = grammar.VALUE_TYPE.match(self._text, at)
        if not match or match.group(3) not in "0123":
            return self._malformed(
                at, "malformed_value_type", "SIG_VALTYPE_ wants an identifier, a signal and 1, 2 or 3"
            )
        self._parsed.value_types[canonical_id(match.group(1)), match.group(2)] = (self._line(at), int(match.group(3)))
        return self._end(at, match)

    def _mux_values(self, at: int) -> int:
        match = grammar.MUX_VALUES.match(self._text, at)
        ranges = [(to_int(a), to_int(b)) for a, b in grammar.MUX_RANGE.findall(match.group(4))] if match else []
        good = [(low, high) for low, high in ranges if low is not None and high is not None and low <= high]
        if not match or len(good) != len(ranges):
            return self._malformed(
                at, "malformed_mux_values", "SG_MUL_VAL_ wants an identifier, two signals and ranges"
            )
        values = MuxValues(self._line(at), match.group(3), good)
        self._parsed.mux_values.setdefault((canonical_id(match.group(1)), match.group(2)), []).append(values)
        return self._end(at, match)

    # Attributes

    def _definition(self, at: int) -> int:
        match = grammar.DEFINITION.match(self._text, at)
        if not match:
            return self._malformed(at, "malformed_attribute", "BA_DEF_ wants a name, a type and its values")
        choices = [unescape(m.group(1)) for m in grammar.QUOTED.finditer(match.group(3))]
        self._parsed.definitions[match.group(1)] = AttributeDefinition(match.group(2), choices)
        return self._end(at, match)

    def _default(self, at: int) -> int:
        match = grammar.DEFAULT.match(self._text, at)
        if not match:
            return self._malformed(at, "malformed_attribute", "BA_DEF_DEF_ wants a name and a value")
        self._parsed.defaults[match.group(1)] = _attribute_value(match.group(2), match.group(3))
        return self._end(at, match)

    def _attribute(self, at: int) -> int:
        match = grammar.ATTRIBUTE.match(self._text, at)
        if not match:
            return self._malformed(at, "malformed_attribute", "BA_ wants a name, what it belongs to and a value")
        name, _, message, _, signal_message, signal, node_kind, node, number, string, _ = match.groups()
        value = _attribute_value(number, string)
        parsed, line = self._parsed, self._line(at)
        if signal is not None:
            parsed.signal_attributes.setdefault((canonical_id(signal_message), signal), {})[name] = (line, value)
        elif message is not None:
            parsed.message_attributes.setdefault(canonical_id(message), {})[name] = (line, value)
        elif node_kind == "BU_":
            parsed.node_attributes[node, name] = value
        elif node_kind is None:
            parsed.database_attributes[name] = value
        return self._end(at, match)


def _attribute_value(number: str | None, string: str | None) -> AttributeValue:
    """An int where the text is one, else a float (infinite values become text), else the string."""
    if number is None:
        return unescape(string or "")
    if number.lstrip("+-").isdigit() and len(number) <= 30:
        return int(number)
    value = to_number(number)
    return number if value is None else value

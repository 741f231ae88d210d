"""What a trouble code means, in words: our own short texts, before them those of the user's files.

``describe_dtc`` never fails for a 24-bit number: a code nobody has words for is told by its area and failure type. The
loader for CSV and JSON takes what is sound and reports each bad line.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping
from functools import cache

import msgspec

from gateway.wire.dtc import Status, format_dtc, parse_dtc
from gateway.wire.dtc_words import AREAS, BAD_DATA, FAILURE_TYPES, FAMILIES, LOST

MAX_TEXT_CHARS = 400
MAX_TEXTS = 200_000
MAX_FILE_BYTES = 16 * 1024 * 1024
MAX_DEFECTS = 100

#: A user's texts: a 24-bit code, or a 16-bit one (negative: ``-1 - code``) that is meant for any failure type.
Texts = Mapping[int, str]

STATUS_WORDS: tuple[tuple[Status, str, str], ...] = (
    (Status.TEST_FAILED, "failing", "the test fails now"),
    (Status.TEST_FAILED_THIS_CYCLE, "failed this cycle", "the test failed in this operation cycle"),
    (Status.PENDING, "pending", "failed in this or the last cycle"),
    (Status.CONFIRMED, "confirmed", "failed often enough to be stored"),
    (Status.NOT_COMPLETED_SINCE_CLEAR, "not tested since clear", "the test has not ended since the memory was cleared"),
    (Status.FAILED_SINCE_CLEAR, "failed since clear", "the test failed since the memory was cleared"),
    (Status.NOT_COMPLETED_THIS_CYCLE, "not tested this cycle", "the test has not ended in this operation cycle"),
    (Status.WARNING_INDICATOR, "lamp", "asks for the warning lamp"),
)


class DtcText(msgspec.Struct, frozen=True, kw_only=True):
    """A code in words. ``known`` is false where only area and failure type can be told."""

    code: str  # P0A1B-16
    text: str
    failure: str  # the failure type byte in words; "" for none
    area: str  # powertrain, chassis, body, network
    origin: str  # "standard" or "maker"
    known: bool
    source: str  # "user", "outrider", or "" where unknown


def any_failure(code16: int) -> int:
    """The key in ``Texts`` of a two-byte code for whatever failure type."""
    return -1 - code16


@cache
def _own() -> dict[int, str]:
    """Our texts by two-byte code."""
    texts: dict[int, str] = {}
    for first, component, pattern in FAMILIES:
        start = parse_dtc(first) >> 8
        for i, failure in enumerate(pattern):
            texts.setdefault(start + i, f"{component}: {failure}" if failure else component)
    for code, unit in LOST.items():
        texts.setdefault(
            parse_dtc(code) >> 8, f"Lost communication with {unit}" if code < "U0300" else unit.capitalize()
        )
    for code, unit in BAD_DATA.items():
        texts.setdefault(parse_dtc(code) >> 8, f"Invalid data from {unit}")
    return texts


def own_codes() -> Mapping[int, str]:
    """Two-byte codes that have words of ours."""
    return dict(_own())


def failure_text(failure_type: int) -> str:
    """The failure type byte in words; "" for 0."""
    if not failure_type:
        return ""
    return FAILURE_TYPES.get(failure_type, f"failure type {failure_type:02X}")


def _origin(code: int) -> str:
    """Who may give the number a meaning (SAE J2012): the standard, or the maker of the car."""
    letter, digit, third = code >> 22, code >> 20 & 3, code >> 16 & 0xF
    if digit == 0 or (digit == 2 and letter == 0):
        return "standard"
    if digit == 3:
        return "standard" if letter == 3 or (letter == 0 and 4 <= third <= 9) else "maker"
    return "maker"


def describe_dtc(code: int, texts: Texts | None = None) -> DtcText:
    """A three-byte code in words, the user's before ours.

    Raises:
        ValueError: not a 24-bit number.
    """
    written = format_dtc(code)
    failure = failure_text(code & 0xFF)
    area, origin, short = AREAS[written[0]], _origin(code), code >> 8
    base, source = "", ""
    if texts and (exact := texts.get(code)) is not None:
        return DtcText(code=written, text=exact, failure=failure, area=area, origin=origin, known=True, source="user")
    if texts and (found := texts.get(any_failure(short))) is not None:
        base, source = found, "user"
    elif (found := _own().get(short)) is not None:
        base, source = found, "outrider"
    known = bool(base)
    base = base or f"Unknown {area} fault" + (" of the maker" if origin == "maker" else "")
    is_said = not failure or (base.endswith("too hot") and failure.startswith("too hot"))
    text = base if is_said else f"{base} ({failure})"
    return DtcText(code=written, text=text, failure=failure, area=area, origin=origin, known=known, source=source)


def status_words(status: int) -> list[str]:
    """The set bits of a status byte, in order of their numbers."""
    return [word for bit, word, _ in STATUS_WORDS if status & bit]


class Defect(msgspec.Struct, frozen=True):
    """A line (CSV, from 1) or entry (JSON, from 1) that was left out, and why."""

    line: int
    problem: str


class LoadedTexts(msgspec.Struct, frozen=True, kw_only=True):
    """What a file gave. ``bad`` counts all that was left out, of which the first are in ``defects``."""

    texts: dict[int, str]
    bad: int = 0
    replaced: int = 0  # the same code again: the later one counts
    defects: tuple[Defect, ...] = ()


class TextsError(ValueError):
    """The file as a whole cannot be read; the message says why."""


def load_texts(content: bytes, name: str = "") -> LoadedTexts:
    """Texts from a user's file; ``name`` (its ending) tells the format, else its first character does.

    CSV: ``code,text`` with or without a heading; comma, semicolon or tab. JSON: ``{"P0A1B": "text"}`` or
    ``[{"code": "P0A1B-16", "text": "…"}]``. A code without failure type is meant for all of them.

    Raises:
        TextsError: too large, not UTF-8, not JSON, or nothing in it can be used.
    """
    if len(content) > MAX_FILE_BYTES:
        raise TextsError(f"{len(content)} bytes, at most {MAX_FILE_BYTES} are read")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TextsError(f"not UTF-8: {error.reason} at byte {error.start}") from error
    is_json = name.lower().endswith(".json") or (not name.lower().endswith((".csv", ".tsv", ".txt")) and
                                                 text.lstrip()[:1] in ("{", "["))  # fmt: skip
    loaded = _gather(_json_entries(text) if is_json else _csv_entries(text))
    if not loaded.texts:
        first = f": line {loaded.defects[0].line}: {loaded.defects[0].problem}" if loaded.defects else ""
        raise TextsError(f"no text for any code in it{first}")
    return loaded


def _gather(entries: Iterator[tuple[int, str, str]]) -> LoadedTexts:
    texts: dict[int, str] = {}
    bad = replaced = 0
    defects: list[Defect] = []
    for line, code, words in entries:
        try:
            key, clean = _entry(code, words)
            if key not in texts and len(texts) >= MAX_TEXTS:
                raise ValueError(f"more than {MAX_TEXTS} codes")
        except ValueError as error:
            bad += 1
            if len(defects) < MAX_DEFECTS:
                defects.append(Defect(line, str(error)[:200]))
            continue
        replaced += key in texts
        texts[key] = clean
    return LoadedTexts(texts=texts, bad=bad, replaced=replaced, defects=tuple(defects))


def _entry(code: str, words: str) -> tuple[int, str]:
    """(key, text) of one entry; ValueError says what is wrong."""
    clean = " ".join(words.split())
    if not clean:
        raise ValueError("no text")
    if len(clean) > MAX_TEXT_CHARS or not clean.isprintable():
        raise ValueError(f"the text has more than {MAX_TEXT_CHARS} characters or unprintable ones")
    word = code.strip()[:40]
    number = parse_dtc(word)
    if re.fullmatch(r"[PCBUpcbu][0-3][0-9A-Fa-f]{3}", word):
        return any_failure(number >> 8), clean
    return number, clean


def _csv_entries(text: str) -> Iterator[tuple[int, str, str]]:
    lines = text.splitlines()
    first = next((line for line in lines if line.strip()), "")
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter)
    is_first = True
    try:
        for row in reader:
            if not row or (len(row) == 1 and not row[0].strip()) or row[0].lstrip().startswith("#"):
                continue
            if is_first and row[0].strip().lower() in ("code", "dtc"):
                is_first = False
                continue
            is_first = False
            if len(row) < 2:
                yield reader.line_num, row[0], ""
            else:
                yield reader.line_num, row[0], row[1]
    except csv.Error as error:
        raise TextsError(f"line {reader.line_num}: {error}") from error


def _json_entries(text: str) -> Iterator[tuple[int, str, str]]:
    try:
        content: object = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise TextsError(f"not JSON: {error}") from error
    if isinstance(content, dict):
        pairs: list[tuple[object, object]] = list(content.items())
    elif isinstance(content, list):
        pairs = [(e.get("code"), e.get("text")) if isinstance(e, dict) else (None, None) for e in content]
    else:
        raise TextsError("neither an object nor a list of codes and texts")
    for number, (code, words) in enumerate(pairs, 1):
        yield number, code if isinstance(code, str) else "", words if isinstance(words, str) else ""

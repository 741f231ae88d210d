"""``fw_env.config``, the file that tells U-Boot's own tools where the environment is. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bootctl.errors import SetupError

MAX_ENVIRONMENT_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Place:
    """Where one copy of the environment is."""

    path: Path
    offset: int  # bytes; below 0: from the end
    size_bytes: int  # of the whole copy, header and all


def parse(text: str, *, directory: Path = Path("/")) -> tuple[Place, ...]:
    """One or two places: a line each of device, offset, size; further columns are for raw flash and not used.

    Args:
        text: of the file.
        directory: what relative paths start from.

    Raises:
        SetupError: it is wrong; the text says in which line.
    """
    places = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        if len(words) < 3 or len(words) > 6 or words[0].endswith(":"):
            raise SetupError(f"line {number}: want: device offset size, not {line.strip()!r}")
        offset, size = _number(words[1], number), _number(words[2], number)
        if not 16 <= size <= MAX_ENVIRONMENT_BYTES:
            raise SetupError(f"line {number}: an environment of {size} bytes")
        places.append(Place(directory / words[0], offset, size))
    if not 1 <= len(places) <= 2:
        raise SetupError(f"{len(places)} environments; want one, or two for redundancy")
    if len(places) == 2:
        _check_pair(*places)
    return tuple(places)


def _check_pair(first: Place, second: Place) -> None:
    if first.size_bytes != second.size_bytes:
        raise SetupError(f"the two copies differ in size: {first.size_bytes} and {second.size_bytes} bytes")
    is_same_end = (first.offset < 0) == (second.offset < 0)
    if first.path == second.path and is_same_end and abs(first.offset - second.offset) < first.size_bytes:
        raise SetupError("the two copies overlap")


def _number(word: str, line: int) -> int:
    """As C's ``strtol`` of base 0 reads it."""
    sign, digits = (-1, word[1:]) if word.startswith("-") else (1, word)
    try:
        if digits[:2].lower() == "0x":
            return sign * int(digits, 16)
        return sign * (int(digits, 8) if digits[:1] == "0" and digits != "0" else int(digits, 10))
    except ValueError:
        raise SetupError(f"line {line}: {word!r} is no number") from None

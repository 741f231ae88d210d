"""Names of images and roles: normal form, and nothing that leaves its folder (R3, R4)."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

MAX_NAME_CHARACTERS = 400
#: A part of a path gets a hash of up to 128 digits and a dot before it, and file systems stop at 255 bytes.
MAX_PART_BYTES = 255 - 129


def normal(name: str) -> str:
    """The name as names are compared: Unicode normalisation form C."""
    return unicodedata.normalize("NFC", name)


def image_name(name: str) -> str:
    """The normal form of an image's name, ``folder/name``.

    Raises:
        ValueError: it is empty or too long, leaves its folder, or has characters that no file name should have.
    """
    made = normal(name)
    if not made or len(made) > MAX_NAME_CHARACTERS:
        raise ValueError(f"a name has 1 to {MAX_NAME_CHARACTERS} characters, not {len(made)}")
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in made) or "\\" in made:
        raise ValueError(f"{made!a} has characters that no file name should have")
    for part in made.split("/"):
        if part in ("", ".", ".."):
            raise ValueError(f"{made!a} is not a plain path below its folder")
        if len(part.encode()) > MAX_PART_BYTES:
            raise ValueError(f"{made!a}: a part of it is longer than {MAX_PART_BYTES} bytes")
    return made


def by_normal_name(names: Iterable[str]) -> dict[str, str]:
    """Names as they are written, by their normal form.

    Raises:
        ValueError: two of them are the same name.
    """
    made: dict[str, str] = {}
    for name in names:
        key = normal(name)
        if key in made:
            raise ValueError(f"{key!a} is there twice, written in two ways")
        made[key] = name
    return made

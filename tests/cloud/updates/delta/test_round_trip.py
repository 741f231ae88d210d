"""Whatever the two images are, the vehicle makes exactly the target out of the base and the delta."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.gateway.delta.support import applied, build

SEGMENT = 4096


def noise(seed: int, length: int) -> bytes:
    """Content that nothing can compress."""
    return random.Random(seed).randbytes(length)


@st.composite
def piece(draw: st.DrawFn) -> bytes:
    """Noise, zeros, one word again and again, or text."""
    length = draw(st.integers(0, 9000))
    kind = draw(st.sampled_from(("noise", "zero", "word", "text")))
    if kind == "noise":
        return noise(draw(st.integers(0, 50)), length)
    if kind == "zero":
        return bytes(length)
    word = draw(st.binary(min_size=1, max_size=12)) if kind == "word" else b"a line of text, and its number; "
    return (word * (length // len(word) + 1))[:length]


@st.composite
def edit(draw: st.DrawFn) -> tuple[str, int, int, bytes]:
    """A change of an image."""
    kind = draw(st.sampled_from(("move", "insert", "remove", "poke", "repeat")))
    return kind, draw(st.integers(0, 40_000)), draw(st.integers(0, 9000)), draw(st.binary(max_size=40))


def changed(content: bytes, edits: list[tuple[str, int, int, bytes]]) -> bytes:
    """The image after its changes."""
    for kind, at, length, new in edits:
        place = at % (len(content) + 1)
        part = content[place : place + length]
        match kind:
            case "insert":
                content = content[:place] + new + content[place:]
            case "remove":
                content = content[:place] + content[place + length :]
            case "move":
                rest = content[:place] + content[place + length :]
                content = rest[: len(rest) // 2] + part + rest[len(rest) // 2 :]
            case "repeat":
                content = content[:place] + part + content[place:]
            case _:
                poked = bytearray(content)
                poked[place : place + len(new)] = new[: max(len(content) - place, 0)]
                content = bytes(poked)
    return content


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pieces=st.lists(piece(), max_size=6), edits=st.lists(edit(), max_size=6))
def test_a_changed_image_is_made_exactly(pieces: list[bytes], edits: list[tuple[str, int, int, bytes]]) -> None:
    base = b"".join(pieces)
    target = changed(base, edits)
    with tempfile.TemporaryDirectory() as folder:
        delta, facts = build(Path(folder), base, target, SEGMENT)
    assert applied(delta, base) == target
    assert facts.length == len(delta)
    assert sum(facts.methods.values()) == facts.segments == -(-len(target) // SEGMENT)


@pytest.mark.parametrize("size", [0, 1, 63, 64, SEGMENT - 1, SEGMENT, SEGMENT + 1, 3 * SEGMENT])
@pytest.mark.parametrize("base", [b"", b"x", noise(1, SEGMENT * 3)])
def test_any_length_beside_the_segment(tmp_path: Path, base: bytes, size: int) -> None:
    target = (noise(1, SEGMENT * 3) + noise(2, SEGMENT))[7 : 7 + size]
    delta, _ = build(tmp_path, base, target, SEGMENT)
    assert applied(delta, base) == target


def test_blocks_that_only_moved_cost_next_to_nothing(tmp_path: Path) -> None:
    blocks = [noise(i, 64 * 1024) for i in range(16)]
    order = random.Random(5).sample(range(16), 16)
    delta, facts = build(tmp_path, b"".join(blocks), b"".join(blocks[i] for i in order), 256 * 1024)
    assert facts.methods == {"copy": 4}
    assert len(delta) < 600

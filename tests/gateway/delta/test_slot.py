"""A delta bound to the slot it starts from, as the installer takes it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from bootctl.files import RealFiles
from gateway.delta import DamagedDelta, SlotDelta, WrongBase, open_delta
from gateway.wire.uptane import DeltaOffer, FileFacts
from tests.gateway.delta.support import build

BASE = random.Random(1).randbytes(40_000)
TARGET = BASE[:15_000] + b"new" + BASE[15_000:]


def offer(delta: bytes, *, base_length: int = len(BASE), base_sha256: str = "") -> DeltaOffer:
    facts = FileFacts(filename="deltas/1", length=len(delta), hashes={})
    return DeltaOffer(base_sha256=base_sha256, base_length=base_length, delta=facts)


def bound(folder: Path, slot_content: bytes, **changes: int) -> SlotDelta:
    delta, facts = build(folder, BASE, TARGET)
    (folder / "slot").write_bytes(slot_content)
    files = RealFiles()
    told = offer(delta, base_sha256=facts.base_sha256, **changes)
    return open_delta(files.open(folder / "it.delta"), files.open(folder / "slot"), told)


def test_a_slot_that_is_larger_than_its_image_is_the_base(tmp_path: Path) -> None:
    delta = bound(tmp_path, BASE + bytes(10_000))
    delta.check_base()
    assert delta.target_length == len(TARGET)
    count = -(-delta.target_length // delta.segment_bytes)
    assert b"".join(delta.segment(i) for i in range(count)) == TARGET


def test_another_slot_content_is_told_before_a_segment_is_made(tmp_path: Path) -> None:
    with pytest.raises(WrongBase):
        bound(tmp_path, BASE[:-1] + b"x").check_base()


def test_a_delta_from_another_base_than_offered_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DamagedDelta):
        bound(tmp_path, BASE, base_length=len(BASE) - 1)

"""Bases and deltas in memory."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cloud.updates.delta.build import DeltaFacts, Image, build_delta
from gateway.delta import DeltaFile


class Memory:
    """Bytes that are read as a slot is."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def read_at(self, offset: int, length: int) -> bytes:
        """See ``Base``."""
        return self.content[offset : offset + length]


def image(path: Path, content: bytes) -> Image:
    """A file with that content."""
    path.write_bytes(content)
    return Image(path=path, length=len(content), sha256=hashlib.sha256(content).hexdigest())


def build(folder: Path, base: bytes, target: bytes, segment_bytes: int = 4096) -> tuple[bytes, DeltaFacts]:
    """The delta file, and what the builder tells of it."""
    path = folder / "it.delta"
    facts = build_delta(
        image(folder / "base", base),
        image(folder / "target", target),
        path,
        segment_bytes=segment_bytes,
        useful_part=9e9,
    )
    return path.read_bytes(), facts


def opened(delta: bytes) -> DeltaFile:
    """As the installer opens it."""
    return DeltaFile.open(Memory(delta).read_at, len(delta))


def applied(delta: bytes, base: bytes) -> bytes:
    """The target, made as an installer makes it."""
    file, memory = opened(delta), Memory(base)
    file.check_base(memory)
    out = bytearray(file.header.target_length)
    for offset, content in file.segments(memory):
        out[offset : offset + len(content)] = content
    return bytes(out)

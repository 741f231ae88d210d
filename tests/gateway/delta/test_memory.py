"""Applying takes the same memory whatever the size of the images, and little of it."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

from gateway.wire.delta import (
    MAX_REFERENCE_BYTES,
    MAX_SEGMENT_BYTES,
    Method,
    NewSegment,
    Patch,
    Window,
    encode_header,
    encode_patch,
    encode_windows,
)
from gateway.wire.delta.segment import MIN_STEP_BYTES
from tests.support import LONG, ROOT

pytestmark = pytest.mark.slow
MIB = 1 << 20
LIMIT_MIB = 64
ZEROS = bytes(MIB)


def apply(delta: Path, base: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.gateway.delta.apply_process", str(delta), str(base)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def dense_patch(reference: bytes, length: int, rng: np.random.Generator) -> tuple[bytes, bytes]:
    """A patch with as many steps and changes as the format takes; (frame, output)."""
    steps = length // MIN_STEP_BYTES
    copies = np.full(steps, MIN_STEP_BYTES - 1, np.int64)
    literals = np.ones(steps, np.int64)
    sources = rng.integers(0, len(reference) - MIN_STEP_BYTES, steps)
    expected = np.concatenate([np.zeros(1, np.int64), (sources + copies)[:-1]])
    copied = int(copies.sum())
    changed = np.arange(0, copied, 2, dtype=np.int64)
    patch = Patch(
        copies=copies,
        literals=literals,
        seeks=sources - expected,
        literal=rng.bytes(steps),
        changed=changed,
        differences=b"\x01" * len(changed),
    )
    body = np.empty((steps, MIN_STEP_BYTES), np.uint8)
    plain = np.frombuffer(reference, np.uint8)[sources[:, None] + np.arange(MIN_STEP_BYTES - 1)].copy().ravel()
    plain[changed] += 1
    body[:, :-1], body[:, -1] = plain.reshape(steps, -1), np.frombuffer(patch.literal, np.uint8)
    return zstandard.ZstdCompressor(level=1).compress(encode_patch(patch)), body.tobytes()


def write(folder: Path, base_length: int, made: list[tuple[Method, bytes, bytes]], size: int) -> tuple[Path, Path]:
    """(delta, base): a base that begins with noise and goes on with zeros; a target of the segments told, repeated."""
    base, delta = folder / "base", folder / "delta"
    with base.open("wb") as file:
        file.write(random.Random(1).randbytes(min(base_length, MAX_REFERENCE_BYTES)))
        file.truncate(base_length)
    with base.open("rb") as file:
        base_sha256 = hashlib.file_digest(file, "sha256").digest()
    count = base_length // size
    chosen = [made[i % len(made)] for i in range(count)]
    hashes = {output: hashlib.sha256(output).digest() for _, _, output in made}
    header = encode_header(
        segment_bytes=size,
        base_length=base_length,
        base_sha256=base_sha256,
        target_length=count * size,
        target_sha256=bytes(32),
        segments=[NewSegment(method=m, payload_bytes=len(p), sha256=hashes[o]) for m, p, o in chosen],
    )
    with delta.open("wb") as file:
        file.write(header)
        file.writelines(payload for _, payload, _ in chosen)
    return delta, base


def moved(payload_windows: list[Window], index: int, size: int) -> bytes:
    return encode_windows(payload_windows, index * size)


def synthetic(folder: Path, mebibytes: int) -> tuple[Path, Path]:
    """(delta, base) of that size. One segment in 32 is a patch over 3 MiB of the base, the others are zeros."""
    reference = random.Random(1).randbytes(MAX_REFERENCE_BYTES)[: 3 * MIB]
    frame, output = dense_patch(reference, MIB, np.random.default_rng(1))
    rows = []
    for i in range(mebibytes):
        if i % 32 == 0:
            rows.append((Method.PATCH, moved([Window(0, 3 * MIB)], i, MIB) + frame, output))
        else:
            rows.append((Method.ZERO, b"", ZEROS))
    return write(folder, mebibytes * MIB, rows, MIB)


@pytest.mark.parametrize("mebibytes", [16, 48, 1024 if LONG else 144])
def test_memory_does_not_grow_with_the_image(tmp_path: Path, mebibytes: int) -> None:
    told = apply(*synthetic(tmp_path, mebibytes))
    assert told["bytes"] == mebibytes * MIB
    assert told["peak_mib"] <= LIMIT_MIB


def test_the_largest_segments_the_format_allows_stay_within_the_limit(tmp_path: Path) -> None:
    """Whatever a hostile file says: windows, frames and patches at their limits, one after another."""
    reference = random.Random(1).randbytes(MAX_REFERENCE_BYTES)
    frame, output = dense_patch(reference, MAX_SEGMENT_BYTES, np.random.default_rng(2))
    windows = [Window(0, MAX_REFERENCE_BYTES)]
    far = reference[-MAX_SEGMENT_BYTES:]
    known = zstandard.ZstdCompressionDict(reference, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=24, write_content_size=1)
    packed = zstandard.ZstdCompressor(dict_data=known, compression_params=parameters).compress(far)
    noise = random.Random(9).randbytes(MAX_SEGMENT_BYTES)
    rows = []
    for i in range(6):
        listed = moved(windows, i, MAX_SEGMENT_BYTES)
        rows.append(
            [
                (Method.PATCH, listed + frame, output),
                (Method.REFERENCE, listed + packed, far),
                (Method.RAW, noise, noise),
            ][i % 3]
        )
    delta, base = write(tmp_path, 6 * MAX_SEGMENT_BYTES, rows, MAX_SEGMENT_BYTES)
    told = apply(delta, base)
    assert told["peak_mib"] <= LIMIT_MIB

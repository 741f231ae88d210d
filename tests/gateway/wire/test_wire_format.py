"""The format is what its document says: a second reader, written from the document alone, reads the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings

from dbc.frames import FrameBatch
from gateway.wire.batch import Batch
from gateway.wire.codec import decode_batch, encode_batch
from gateway.wire.samples import Event, SampleBlock
from tests.gateway.wire import reference
from tests.gateway.wire.batches import EVENTS, HEADER, frame_batches, sample_blocks
from tests.gateway.wire.test_codec import RESOLUTIONS
from tests.support import ROOT
from tests.vectors.make_batches import HEAD, as_json
from tests.vectors.make_batches import VECTORS as VECTORS_BY_NAME

VECTORS = sorted((ROOT / "tests" / "vectors").glob("batch-1-*.orb"))


def content_of(batch: Batch) -> reference.Content:
    """A batch decoded by the codec, as the reference reader tells it."""
    header, block, frames = batch.header, batch.samples, batch.frames
    return reference.Content(
        [
            *(getattr(header, name) for name in header.__struct_fields__[:-1]),
            [list(scheme) for scheme in header.schemes],
        ],
        list(zip(block.row_timestamp_ns.tolist(), block.row_message.tolist(), strict=True)),
        list(zip(block.row.tolist(), block.signal.tolist(), block.raw.tolist(), block.quality.tolist(), strict=True)),
        [
            (time, bus, can_id, flags, length, data[: 0 if flags & 2 else length].tobytes())
            for time, bus, can_id, flags, length, data in zip(
                frames.timestamp_ns.tolist(),
                frames.bus.tolist(),
                frames.can_id.tolist(),
                frames.flags.tolist(),
                frames.length.tolist(),
                frames.data,
                strict=True,
            )
        ],
        [[e.timestamp_ns, str(e.kind), e.source, e.detail] for e in batch.events],
    )


@settings(max_examples=80, deadline=None)
@given(sample_blocks(), frame_batches(), EVENTS, RESOLUTIONS)
def test_both_readers_agree(block: SampleBlock, frames: FrameBatch, events: list[Event], resolution_ns: int) -> None:
    content = encode_batch(**HEADER, samples=block, frames=frames, events=events, resolution_ns=resolution_ns)
    assert reference.decode(content) == content_of(decode_batch(content))


def test_there_are_vectors() -> None:
    assert len(VECTORS) >= 6


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_vectors_of_released_versions_are_read_as_ever(path: Path) -> None:
    expected = json.loads(path.with_suffix(".json").read_text())
    content = path.read_bytes()
    assert as_json(content_of(decode_batch(content))) == expected
    assert as_json(reference.decode(content)) == expected


@pytest.mark.parametrize("name", VECTORS_BY_NAME)
def test_encoder_still_writes_what_the_vectors_hold(name: str) -> None:
    """The body before compression, since another version of zstd may compress otherwise."""
    stored = (ROOT / "tests" / "vectors" / f"batch-1-{name}.orb").read_bytes()
    made = encode_batch(**(HEAD | VECTORS_BY_NAME[name]))
    assert plain(made) == plain(stored)


def plain(content: bytes) -> tuple[bytes, bytes]:
    end = 10 + int.from_bytes(content[4:6], "little")
    return content[:end], zstandard.ZstdDecompressor().decompress(content[end:])

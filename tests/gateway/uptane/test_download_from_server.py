"""The store over the real client, a real disk and a server that breaks."""

from __future__ import annotations

import hashlib
from contextlib import closing
from pathlib import Path

import pytest

from gateway.errors import TransportError
from gateway.uptane.download_store import DownloadStore
from gateway.uptane.fetch import FetchLimits
from gateway.wire.uptane import FileFacts
from tests.gateway.uptane.fetch_server import fetching, ranged

pytestmark = pytest.mark.anyio
IMAGE = hashlib.shake_128(b"image").digest(3_000_000)
FACTS = FileFacts(
    filename="rootfs/image.erofs",
    length=len(IMAGE),
    hashes={name: hashlib.new(name, IMAGE).hexdigest() for name in ("sha256", "sha512")},
)


async def test_v4_a_download_over_many_breaks_and_a_restart_is_whole(tmp_path: Path, identity: Path) -> None:
    def store() -> DownloadStore:
        return DownloadStore(tmp_path / "store", keep_free_bytes=0, checkpoint_bytes=500_000, piece_bytes=100_000)

    breaks = [700_000, 0, 10, 0, 0, 900_000, 123_456]
    limits = FetchLimits(max_failures=3)
    async with fetching(ranged(IMAGE, breaks=breaks), identity, limits=limits) as rig:
        with pytest.raises(TransportError):
            await store().fetch(FACTS, rig.fetcher, lambda done, total: None)
        assert len(rig.mirror.requests) == 4  # three breaks in a row are borne
        again = store()
        await again.fetch(FACTS, rig.fetcher, lambda done, total: None)
        with closing(again.open(FACTS)) as file:
            assert file.read_at(0, len(IMAGE) + 1) == IMAGE
        starts = [request.start for request in rig.mirror.requests]
        assert starts[4] == 700_000  # what was written before the restart was kept; the piece under way was not
    assert [path.name for path in (tmp_path / "store").iterdir()] == [FACTS.hashes["sha256"] + ".image"]
    assert (tmp_path / "store" / (FACTS.hashes["sha256"] + ".image")).stat().st_mode & 0o077 == 0

"""The spool on a real file system that fills up. Needs to mount one, so it runs in the guest."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.spool import Spool, SpoolFull, SpoolLimits

pytestmark = pytest.mark.guest


@pytest.fixture
def small_file_system(tmp_path: Path) -> Iterator[Path]:
    """256 KiB."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path)], check=True)
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_full_file_system_evicts_and_goes_on(small_file_system: Path) -> None:
    limits = SpoolLimits(max_bytes=1 << 30, segment_bytes=20_000)
    spool = Spool.open(small_file_system, limits)
    for n in range(200):
        spool.append("normal", b"%03d" % n * 1_000, 2, b"state")
        assert spool.totals()["normal"].unexplained == 0
    total = spool.totals()["normal"]
    assert total.stored == 400
    assert total.evicted > 0
    spool.close()
    spool = Spool.open(small_file_system, limits)
    assert spool.totals()["normal"] == total
    assert spool.recovered.cut_bytes == 0
    assert spool.read("normal", 200) == b"199" * 1_000
    spool.close()


def test_file_system_filled_by_others_refuses_and_keeps_what_it_has(small_file_system: Path) -> None:
    spool = Spool.open(small_file_system, SpoolLimits(max_bytes=1 << 30, segment_bytes=20_000))
    spool.append("critical", bytes(1_000), 1, b"")
    others = small_file_system / "others.log"
    with pytest.raises(OSError, match="No space"), others.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    before = spool.totals()
    with pytest.raises(SpoolFull):
        for _ in range(10):
            spool.append("normal", bytes(3_000), 1, b"")
    assert spool.totals()["critical"] == before["critical"]
    spool.checkpoint(b"still possible")
    others.unlink()
    spool.append("normal", bytes(3_000), 1, b"")
    spool.close()
    spool = Spool.open(small_file_system)
    assert all(total.unexplained == 0 for total in spool.totals().values())
    spool.close()

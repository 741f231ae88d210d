"""A build survives being killed, notices other images than it was told of, and keeps within its memory."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from cloud.updates.delta.build import MEMORY_BYTES, DeltaFacts, Image, NotUseful, WrongImage, build_delta
from cloud.updates.delta.index import MAX_BLOCKS, block_bytes_for
from cloud.updates.delta.worker import Answer, Request
from tests.cloud.updates.delta.test_round_trip import noise
from tests.gateway.delta.support import applied, image
from tests.support import ROOT

pytestmark = pytest.mark.slow
SEGMENT = 64 * 1024
COUNT = 8


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Image, Image]:
    """Every segment needs a search."""
    old = noise(1, COUNT * SEGMENT)
    new = bytearray(old)
    for at in random.Random(2).sample(range(len(new)), 2000):
        new[at] ^= 0x55
    return image(tmp_path / "base", old), image(tmp_path / "target", bytes(new))


def request(pair: tuple[Image, Image], path: Path) -> bytes:
    base, target = pair
    told = Request(
        base=str(base.path),
        base_length=base.length,
        base_sha256=base.sha256,
        target=str(target.path),
        target_length=target.length,
        target_sha256=target.sha256,
        path=str(path),
        segment_bytes=SEGMENT,
        useful_part=9.0,
        nice=0,
    )
    return msgspec.json.encode(told) + b"\n"


def started() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "cloud.updates.delta.worker"]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def follow(worker: subprocess.Popen[bytes], wanted: bytes, until: int = -1) -> Answer | None:
    """Send the request; the last answer, or None once the work file is ``until`` bytes long and the worker killed."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    path = Path(msgspec.json.decode(wanted, type=Request).path)
    worker.stdin.write(wanted)
    worker.stdin.flush()
    if until >= 0:
        while sum(p.stat().st_size for p in path.parent.glob(f".{path.name}*.work")) < until and worker.poll() is None:
            os.sched_yield()
        worker.send_signal(signal.SIGKILL)
        worker.communicate()
        return None
    out = worker.stdout.read()
    worker.communicate()
    return msgspec.json.decode(out.splitlines()[-1], type=Answer)


def test_a_killed_build_goes_on_where_it_was(tmp_path: Path, pair: tuple[Image, Image]) -> None:
    plain = build_delta(*pair, tmp_path / "plain.delta", segment_bytes=SEGMENT, useful_part=9.0)
    path = tmp_path / "killed.delta"
    for until in (1, 2000):
        assert follow(started(), request(pair, path), until) is None
        assert not path.exists()
    work = next(tmp_path.glob(".killed.delta*.work"))
    with work.open("ab") as file:
        file.write(b"SEG1 half a record")
    answer = follow_to_the_end(started(), request(pair, path))
    assert answer.resumed_segments >= 1
    assert path.read_bytes() == (tmp_path / "plain.delta").read_bytes()
    assert answer.sha256 == plain.sha256
    assert applied(path.read_bytes(), pair[0].path.read_bytes()) == pair[1].path.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "killed.delta", "plain.delta", "target"]


def follow_to_the_end(worker: subprocess.Popen[bytes], wanted: bytes) -> DeltaFacts:
    answer = follow(worker, wanted)
    assert answer is not None
    assert answer.facts is not None
    return answer.facts


def test_any_damage_to_the_work_file_costs_only_what_was_damaged(tmp_path: Path, pair: tuple[Image, Image]) -> None:
    path = tmp_path / "it.delta"

    class Enough(Exception):
        pass

    def stop(step: str, done: int, total: int) -> None:
        if step == "segments" and done >= 5 * SEGMENT:
            raise Enough

    with pytest.raises(Enough):
        build_delta(*pair, path, segment_bytes=SEGMENT, useful_part=9.0, progress=stop)
    work = next(tmp_path.glob(".it.delta*.work"))
    content = bytearray(work.read_bytes())
    content[len(content) * 3 // 5 + 7] ^= 1
    work.write_bytes(content)
    facts = build_delta(*pair, path, segment_bytes=SEGMENT, useful_part=9.0)
    assert facts.resumed_segments in (2, 3, 4)
    assert applied(path.read_bytes(), pair[0].path.read_bytes()) == pair[1].path.read_bytes()


def test_a_finished_delta_is_not_built_again(tmp_path: Path, pair: tuple[Image, Image]) -> None:
    path = tmp_path / "it.delta"
    first = build_delta(*pair, path, segment_bytes=SEGMENT, useful_part=9.0)
    steps: set[str] = set()
    again = build_delta(
        *pair, path, segment_bytes=SEGMENT, useful_part=9.0, progress=lambda step, done, total: steps.add(step)
    )
    assert steps == {"target"}
    assert (again.sha256, again.methods, again.full_bytes) == (first.sha256, first.methods, first.full_bytes)
    other = build_delta(pair[1], pair[0], path, segment_bytes=SEGMENT, useful_part=9.0)
    assert other.base_sha256 == pair[1].sha256


def test_a_worker_ends_when_its_parent_does(tmp_path: Path, pair: tuple[Image, Image]) -> None:
    worker = started()
    assert worker.stdin is not None
    worker.stdin.write(request(pair, tmp_path / "it.delta"))
    worker.stdin.close()
    assert worker.wait(timeout=60) in (os.EX_OK, os.EX_TEMPFAIL)
    assert worker.stdout is not None
    worker.stdout.close()


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("damage", ["shorter", "longer", "other"])
def test_files_that_are_not_the_images_told_of_are_refused(
    tmp_path: Path, pair: tuple[Image, Image], which: int, damage: str
) -> None:
    path = pair[which].path
    content = path.read_bytes()
    flipped = content[:-1] + bytes([content[-1] ^ 1])
    path.write_bytes({"shorter": content[:-1], "longer": content + b"x", "other": flipped}[damage])
    with pytest.raises(WrongImage):
        build_delta(*pair, tmp_path / "it.delta", segment_bytes=SEGMENT, useful_part=9.0)
    assert not (tmp_path / "it.delta").exists()


def test_a_delta_that_hardly_saves_anything_is_not_built(tmp_path: Path) -> None:
    old, new = image(tmp_path / "old", noise(1, COUNT * SEGMENT)), image(tmp_path / "new", noise(2, COUNT * SEGMENT))
    done: list[int] = []
    with pytest.raises(NotUseful):
        build_delta(
            old, new, tmp_path / "it.delta", segment_bytes=SEGMENT, progress=lambda step, at, total: done.append(at)
        )
    assert done[-1] < new.length  # given up as soon as it was clear


def test_a_delta_of_random_data_is_never_much_larger_than_the_image(tmp_path: Path) -> None:
    old, new = image(tmp_path / "old", noise(1, 3 * SEGMENT)), image(tmp_path / "new", noise(2, 3 * SEGMENT))
    facts = build_delta(old, new, tmp_path / "it.delta", segment_bytes=SEGMENT, useful_part=9.0)
    assert facts.methods == {"raw": 3}
    assert facts.length < new.length + 400


def test_the_index_is_bounded_whatever_the_length() -> None:
    for length in (0, 1, 1 << 20, 1 << 30, 8 << 30, 1 << 40):
        assert length // block_bytes_for(length) <= MAX_BLOCKS


def test_a_build_keeps_within_its_memory(tmp_path: Path) -> None:
    """A segment that looks like many places of the base: the largest windows, bsdiff and dictionaries over them all."""
    rng = random.Random(4)
    old = rng.randbytes(5 << 20)
    pieces = [old[at : at + 1000] for at in (rng.randrange(len(old) - 1000) for _ in range(1049))]
    new = b"".join(pieces)[: 1 << 20]
    base, target = image(tmp_path / "old", old), image(tmp_path / "new", new)
    code = (
        "import sys, msgspec\n"
        "from cloud.updates.delta import worker\n"
        "from pathlib import Path\n"
        "worker.main()\n"
        "print(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])\n"
    )
    wanted = msgspec.structs.replace(
        msgspec.json.decode(request((base, target), tmp_path / "it.delta"), type=Request), segment_bytes=1 << 20
    )
    worker = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(msgspec.json.encode(wanted) + b"\n")
    worker.stdin.flush()
    lines = worker.stdout.read().splitlines()
    worker.stdin.close()
    worker.wait()
    worker.stdout.close()
    answer = msgspec.json.decode(lines[-2], type=Answer)
    assert answer.facts is not None
    assert int(lines[-1]) * 1024 < MEMORY_BYTES
    assert hashlib.sha256(applied((tmp_path / "it.delta").read_bytes(), old)).hexdigest() == target.sha256

"""The audit log: what was written can be verified, what was changed is seen, a crash costs at most the last line."""

from __future__ import annotations

import errno
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ConfigError, TransportError
from gateway.firewall.audit import Record
from gateway.firewall.audit_store import ANCHOR, AuditStore, file_names, key_of, read_records, verify
from tests.support import ROOT

KEY = bytes(range(32))
BIG = 1 << 20


def record(text: str) -> Record:
    return Record(number=0, at_ns=1_700_000_000_000_000_000, kind="refuse", rule="rule", detail=text)


def write(directory: Path, count: int, *, key: bytes = KEY, max_bytes: int = BIG) -> None:
    store = AuditStore(directory, max_bytes=max_bytes, key=key, now_ns=1)
    for i in range(count):
        store.append([record(f"record {i}")])
    store.close()


def only_file(directory: Path) -> Path:
    [name] = file_names(directory)
    return directory / name


def change_lines(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))


def test_a_log_as_written_is_sound(tmp_path: Path) -> None:
    write(tmp_path, 10)
    result = verify(tmp_path, KEY)
    assert result.is_sound
    assert (result.records, result.first, result.last) == (11, 1, 11)  # the file's own record is the first


def test_a_log_goes_on_after_a_restart(tmp_path: Path) -> None:
    for _ in range(3):
        write(tmp_path, 4)
    assert verify(tmp_path, KEY).records == 13
    assert verify(tmp_path, KEY).is_sound
    assert [r.number for r in read_records(tmp_path)] == list(range(1, 14))


TAMPERINGS: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "edit": lambda lines: [*lines[:3], lines[3].replace(b"record 2", b"record 9"), *lines[4:]],
    "delete": lambda lines: [*lines[:3], *lines[4:]],
    "reorder": lambda lines: [*lines[:3], lines[4], lines[3], *lines[5:]],
    "repeat": lambda lines: [*lines[:4], lines[3], *lines[4:]],
    "truncate": lambda lines: lines[:-2],
    "truncate within a record": lambda lines: [*lines[:-1], lines[-1][:20]],
    "insert": lambda lines: [*lines[:3], b'{"number":4,"kind":"refuse","at_ns":1,"hash":"' + b"0" * 64 + b'"}\n'],
    "not a record": lambda lines: [*lines[:3], b"\xff\xfe\n", *lines[4:]],
    "empty": lambda lines: [],
}


@pytest.mark.parametrize("how", TAMPERINGS)
@pytest.mark.parametrize("key", [KEY, b""], ids=["keyed", "plain"])
def test_tampering_is_found(tmp_path: Path, how: str, key: bytes) -> None:
    write(tmp_path, 8, key=key)
    change_lines(only_file(tmp_path), TAMPERINGS[how])
    assert not verify(tmp_path, key).is_sound


@pytest.mark.parametrize("how", [h for h in TAMPERINGS if h not in ("repeat",)])
def test_tampering_is_still_found_after_the_log_went_on(tmp_path: Path, how: str) -> None:
    write(tmp_path, 8)
    change_lines(only_file(tmp_path), TAMPERINGS[how])
    write(tmp_path, 3)
    assert not verify(tmp_path, KEY).is_sound
    assert [r.detail for r in read_records(tmp_path)][-3:] == ["record 0", "record 1", "record 2"]


def test_a_chain_recomputed_without_the_key_is_found(tmp_path: Path) -> None:
    write(tmp_path, 8)
    forged = tmp_path / "forged"
    write(forged, 8, key=b"")
    for name in (only_file(forged).name, ANCHOR):
        (tmp_path / name).write_bytes((forged / name).read_bytes())
    assert not verify(tmp_path, KEY).is_sound


def test_a_missing_file_is_found(tmp_path: Path) -> None:
    write(tmp_path, 60, max_bytes=16384)
    names = file_names(tmp_path)
    assert len(names) > 3
    assert verify(tmp_path, KEY).is_sound
    for gone in (names[0], names[1], names[-1]):
        content = (tmp_path / gone).read_bytes()
        (tmp_path / gone).unlink()
        assert not verify(tmp_path, KEY).is_sound
        (tmp_path / gone).write_bytes(content)
    assert verify(tmp_path, KEY).is_sound


def test_a_missing_anchor_is_found_and_told_when_the_log_goes_on(tmp_path: Path) -> None:
    write(tmp_path, 3)
    (tmp_path / ANCHOR).unlink()
    assert not verify(tmp_path, KEY).is_sound
    write(tmp_path, 1)
    assert "damaged" in [r.kind for r in read_records(tmp_path)]


@pytest.mark.parametrize("written", [0, 1, 40])
def test_a_disk_that_is_full_at_the_first_start_is_no_damage_and_costs_no_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    real = os.write
    room = [written]

    def write_while_there_is_room(descriptor: int, content: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = real(descriptor, content[: room[0]])
        room[0] -= count
        return count

    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write_while_there_is_room)
        for _ in range(3):
            with pytest.raises(TransportError, match="No space left"):
                AuditStore(tmp_path, max_bytes=BIG, key=KEY, now_ns=1)
    assert len(os.listdir("/proc/self/fd")) == before
    store = AuditStore(tmp_path, max_bytes=BIG, key=KEY, now_ns=1)
    store.append([record("a")])
    store.close()
    assert not store.damage
    assert verify(tmp_path, KEY).is_sound


def test_the_log_is_bounded_and_what_is_left_is_sound(tmp_path: Path) -> None:
    bound = 16384
    write(tmp_path, 150, max_bytes=bound)
    assert sum((tmp_path / name).stat().st_size for name in file_names(tmp_path)) <= bound + 1024
    result = verify(tmp_path, KEY)
    assert result.is_sound
    assert result.first > 1
    write(tmp_path, 5, max_bytes=bound)
    assert verify(tmp_path, KEY).is_sound


@settings(max_examples=15, deadline=None)
@given(cut=st.integers(1, 400))
def test_a_torn_end_is_cut_off_told_and_the_log_goes_on(cut: int) -> None:
    """A crash in the middle of a write: the anchor does not know these bytes yet."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write(directory, 3)
        anchor = (directory / ANCHOR).read_bytes()
        sound = only_file(directory).stat().st_size
        write(directory, 2)
        content = only_file(directory).read_bytes()
        torn = min(sound + cut, len(content))
        only_file(directory).write_bytes(content[:torn])
        (directory / ANCHOR).write_bytes(anchor)
        store = AuditStore(directory, max_bytes=BIG, key=KEY, now_ns=1)
        is_torn = not content[:torn].endswith(b"\n")
        assert bool(store.repaired_bytes) == is_torn
        store.append([record("after")])
        store.close()
        result = verify(directory, KEY)
        assert result.is_sound
        assert result.repaired == is_torn


def test_a_file_begun_and_never_written_is_taken_away(tmp_path: Path) -> None:
    write(tmp_path, 3)
    (tmp_path / "audit-00000002.jsonl").write_bytes(b"")
    write(tmp_path, 2)
    assert verify(tmp_path, KEY).is_sound


KILLED = """
import sys
from pathlib import Path
from gateway.firewall.audit import Record
from gateway.firewall.audit_store import AuditStore
store = AuditStore(Path(sys.argv[1]), max_bytes=32768, key=bytes(range(32)), now_ns=1)
print("ready", flush=True)
while True:
    [written] = store.append([Record(number=0, at_ns=1, kind="refuse", detail="x" * 50)])
    print(written.number, flush=True)
"""


def test_a_killed_writer_loses_nothing_that_was_reported_written(tmp_path: Path) -> None:
    reported = 0
    for lines in (3, 40, 90):
        arguments = [sys.executable, "-c", KILLED, str(tmp_path)]
        with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            for _ in range(lines):
                reported = int(process.stdout.readline())
            os.kill(process.pid, signal.SIGKILL)
            rest = process.stdout.read().split()
        reported = int(rest[-1]) if rest else reported
        store = AuditStore(tmp_path, max_bytes=32768, key=KEY, now_ns=1)
        assert store.damage == ""
        assert store.last >= reported
        store.close()
        assert verify(tmp_path, KEY).is_sound


def test_one_process_writes(tmp_path: Path) -> None:
    store = AuditStore(tmp_path, max_bytes=BIG, key=KEY, now_ns=1)
    with pytest.raises(TransportError, match="another process"):
        AuditStore(tmp_path, max_bytes=BIG, key=KEY, now_ns=1)
    store.close()
    store.close()


def test_a_full_disk_is_an_error_and_the_next_opening_sorts_it_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = AuditStore(tmp_path, max_bytes=BIG, key=KEY, now_ns=1)
    store.append([record("before")])
    real = os.write

    def write_half(descriptor: int, content: bytes) -> int:
        real(descriptor, bytes(content)[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", write_half)
    with pytest.raises(TransportError, match="No space"):
        store.append([record("lost")])
    monkeypatch.undo()
    store.close()
    store = AuditStore(tmp_path, max_bytes=BIG, key=KEY, now_ns=1)
    assert store.repaired_bytes > 0
    store.append([record("after")])
    store.close()
    assert verify(tmp_path, KEY).is_sound


@functools.cache
def small_log() -> tuple[bytes, bytes]:
    """File and anchor."""
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), 3)
        return only_file(Path(name)).read_bytes(), (Path(name) / ANCHOR).read_bytes()


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_changed_byte_is_found(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / ANCHOR).write_bytes(small_log()[1])
        content = bytearray(small_log()[0])
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] ^= data.draw(st.integers(1, 255))
        (directory / "audit-00000001.jsonl").write_bytes(content)
        assert not verify(directory, KEY).is_sound


@settings(max_examples=20, deadline=None)
@given(content=st.binary(max_size=600), anchor=st.none() | st.binary(max_size=200))
def test_any_bytes_in_place_of_the_log_are_findings_and_no_crash(content: bytes, anchor: bytes | None) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "audit-00000001.jsonl").write_bytes(content)
        if anchor is not None:
            (directory / ANCHOR).write_bytes(anchor)
        assert not verify(directory, KEY).is_sound
        write(directory, 2)
        assert [r.detail for r in read_records(directory)][-2:] == ["record 0", "record 1"]


def test_the_key_is_made_once_and_kept_secret(tmp_path: Path) -> None:
    key = key_of(tmp_path)
    assert key == key_of(tmp_path)
    assert len(key) == 32
    assert (tmp_path / "audit.key").stat().st_mode & 0o077 == 0
    assert key_of(None) == b""
    (tmp_path / "audit.key").write_text("not a key")
    with pytest.raises(ConfigError):
        key_of(tmp_path)


def test_records_hold_what_a_person_needs(tmp_path: Path) -> None:
    write(tmp_path, 1)
    lines = only_file(tmp_path).read_text().splitlines()
    assert json.loads(lines[1])["detail"] == "record 0"

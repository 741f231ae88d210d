"""Recorded logs as buses: pace, completeness, order, and logs that are not what they should be."""

from __future__ import annotations

import gzip
import time
from collections.abc import Sequence
from pathlib import Path

import anyio
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbc.frames import FrameBatch
from dbc.logs import CandumpWriter, open_log
from gateway.can.config import BusConfig, ReadConfig, ReplayConfig
from gateway.can.model import BusCounters, LinkState, SourceEnded, SourceError
from gateway.can.opening import open_source
from gateway.can.replay import LogTimeline, ReplayClock, ReplayPort
from gateway.wire.samples import Event, EventKind

SECOND = 1_000_000_000
LOG_START = 1_500_000_000 * SECOND
NOW = 1_700_000_000 * SECOND


class NoPoller:
    """Ports of logs wait for nothing."""

    def add(self, fileno: int) -> None:
        raise AssertionError("a log has no descriptor")

    def remove(self, fileno: int) -> None:
        raise AssertionError("a log has no descriptor")


def line(at_ns: int, bus: str = "can0", can_id: int = 0x123, payload: str = "0102") -> str:
    """One line of a candump log."""
    return f"({at_ns // SECOND}.{at_ns % SECOND // 1000:06d}) {bus} {can_id:03X}#{payload}\n"


def write_log(path: Path, times_ns: Sequence[int], bus: str = "can0", first_id: int = 0) -> str:
    """A log with a frame at each time, numbered by its identifier."""
    path.write_text("".join(line(LOG_START + t, bus, first_id + i) for i, t in enumerate(times_ns)))
    return str(path)


def replay(channel: str, name: str = "bus", log_bus: str = "") -> BusConfig:
    """A bus that is a log."""
    return BusConfig(name=name, interface="replay", channel=channel, log_bus=log_bus)


def open_port(channel: str, speed: float, rebase: bool = True) -> ReplayPort:
    """One log, ready to play."""
    port = ReplayPort([replay(channel)], ReplayClock(ReplayConfig(speed=speed, rebase_time=rebase)))
    port.open(NoPoller())
    return port


def drain(
    *buses: BusConfig, speed: float = 0, rebase: bool = False, max_batch: int = 2000
) -> tuple[FrameBatch, list[Event], tuple[BusCounters, ...]]:
    """Everything a source gives until it ends."""

    async def run() -> tuple[FrameBatch, list[Event], tuple[BusCounters, ...]]:
        source = open_source(
            buses,
            read=ReadConfig(tick_ms=0, max_wait_ms=100, max_batch=max_batch),
            replay=ReplayConfig(speed=speed, rebase_time=rebase),
        )
        batches: list[FrameBatch] = []
        events: list[Event] = []
        with anyio.fail_after(30):
            try:
                while True:
                    batches.append(await source.receive())
                    events += source.take_events()
            except SourceEnded:
                events += source.take_events()
        await source.aclose()
        return FrameBatch.concatenate(batches), events, source.statistics()

    return anyio.run(run)


def test_frames_come_when_they_are_due(tmp_path: Path) -> None:
    """At real speed a frame is handed out at its distance from the first one, and the port says when to come again."""
    port = open_port(write_log(tmp_path / "a.log", [0, 10_000_000, 20_000_000, 5 * SECOND]), speed=1.0)
    mono = 77 * SECOND
    assert port.collect(100, mono, NOW).can_id.tolist() == [0]
    due = port.next_due_ns()
    assert due is not None
    assert mono + 10_000_000 <= due <= mono + 10_001_000
    assert port.collect(100, due - 2, NOW).can_id.tolist() == []
    assert port.collect(100, due, NOW).can_id.tolist() == [1]
    assert port.collect(100, mono + SECOND, NOW).can_id.tolist() == [2]
    assert port.next_due_ns() is not None
    last = port.collect(100, mono + 5 * SECOND + 1000, NOW)
    assert last.can_id.tolist() == [3]
    assert last.timestamp_ns.tolist() == [NOW + 5 * SECOND]
    assert port.ended
    assert port.next_due_ns() is None


@pytest.mark.parametrize("speed", [0.5, 2.0, 10.0])
def test_speed_scales_the_pace_and_not_the_timestamps(tmp_path: Path, speed: float) -> None:
    """Ten times as fast, the frames' own distances stay as recorded."""
    port = open_port(write_log(tmp_path / "a.log", [0, SECOND]), speed=speed)
    port.collect(100, 0, NOW)
    assert len(port.collect(100, int(SECOND / speed) - 1000, NOW)) == 0
    assert port.collect(100, int(SECOND / speed) + 1000, NOW).timestamp_ns.tolist() == [NOW + SECOND]


def test_a_slow_reader_loses_nothing(tmp_path: Path) -> None:
    """What is overdue waits in the file and comes in pieces of the limit."""
    port = open_port(write_log(tmp_path / "a.log", [n * 1000 for n in range(2000)]), speed=1.0)
    port.collect(1, 0, NOW)
    got = []
    while not port.ended:
        batch = port.collect(300, 10 * SECOND, NOW)
        assert len(batch) <= 300
        assert port.has_more is not port.ended
        got += batch.can_id.tolist()
    assert got == list(range(1, 2000))


def test_full_speed_hands_out_every_frame_in_order(tmp_path: Path) -> None:
    """With any batch size; timestamps as recorded without rebasing."""
    times = [n * 1_000_000 for n in range(2000)]
    channel = write_log(tmp_path / "a.log", times)
    for max_batch in (7, 2000):
        batch, events, [counters] = drain(replay(channel), max_batch=max_batch)
        assert batch.can_id.tolist() == list(range(2000))
        assert batch.timestamp_ns.tolist() == [LOG_START + t for t in times]
        assert (counters.received, counters.read, counters.state) == (2000, 2000, LinkState.ENDED)
        assert [e.kind for e in events] == [EventKind.BUS_UP, EventKind.BUS_DOWN]


def test_logs_recorded_together_play_together(tmp_path: Path) -> None:
    """Two files share the clock: the later one starts at its distance, and batches are in order of time."""
    a = write_log(tmp_path / "a.log", [0, 2 * SECOND, 4 * SECOND])
    b = write_log(tmp_path / "b.log", [SECOND, 3 * SECOND], first_id=0x100)
    clock = ReplayClock(ReplayConfig(speed=1.0))
    ports = [ReplayPort([replay(path)], clock) for path in (b, a)]
    for port in ports:
        port.open(NoPoller())
    assert [port.collect(9, 0, NOW).can_id.tolist() for port in ports] == [[], [0]]
    assert [port.collect(9, SECOND + 1, NOW).can_id.tolist() for port in ports] == [[0x100], []]
    batch, _, _ = drain(replay(b, "b"), replay(a, "a"), speed=1000, rebase=True)
    assert sorted(batch.can_id.tolist()) == [0, 1, 2, 0x100, 0x101]
    order = np.argsort(batch.timestamp_ns, kind="stable")
    assert (np.diff(batch.timestamp_ns[order]) == SECOND).all()
    assert batch.bus[order].tolist() == [1, 0, 1, 0, 1]


def test_buses_of_one_log_are_told_apart(tmp_path: Path) -> None:
    """Several of our buses may come from one file; others in it are left out."""
    log = tmp_path / "a.log"
    log.write_text("".join(line(LOG_START + n, f"can{n % 3}", n) for n in range(9)))
    batch, _, counters = drain(replay(str(log), "body", "can2"), replay(str(log), "chassis", "can0"))
    assert batch.can_id.tolist() == [0, 2, 3, 5, 6, 8]
    assert batch.bus.tolist() == [1, 0, 1, 0, 1, 0]
    assert [(c.bus, c.read) for c in counters] == [("body", 3), ("chassis", 3)]


def test_an_unnamed_bus_of_a_log_with_several_is_told(tmp_path: Path) -> None:
    """The log's first bus is played, and an event names the ones left out."""
    log = tmp_path / "a.log"
    log.write_text(line(LOG_START, "can0", 1) + line(LOG_START, "can7", 2))
    batch, events, _ = drain(replay(str(log)))
    assert batch.can_id.tolist() == [1]
    assert any("can7" in e.detail and "log_bus" in e.detail for e in events)


def test_two_buses_of_one_log_need_names(tmp_path: Path) -> None:
    """Refused before anything is opened."""
    log = write_log(tmp_path / "a.log", [0])
    with pytest.raises(SourceError, match="log_bus is missing"):
        drain(replay(log, "a", "can0"), replay(log, "b"))


def test_a_truncated_log_is_an_event_and_keeps_what_is_sound(tmp_path: Path) -> None:
    """A compressed log cut in the middle: the frames before the cut, then an event that says why it ended."""
    whole = "".join(
        line(LOG_START + n * 1000, can_id=n % 0x800, payload=f"{n * 7919 % 65536:04X}") for n in range(20_000)
    )
    log = tmp_path / "a.log.gz"
    log.write_bytes(gzip.compress(whole.encode())[:-30_000])
    batch, events, [counters] = drain(replay(str(log)))
    assert 100 < len(batch) < 20_000
    assert (batch.can_id == np.arange(len(batch)) % 0x800).all()
    assert any(e.kind is EventKind.BUS_ERROR and "ended early" in e.detail for e in events)
    assert counters.read == len(batch)


def test_lines_that_are_no_frames_are_counted(tmp_path: Path) -> None:
    """The counter and an event with the first line number."""
    log = tmp_path / "a.log"
    log.write_text(line(LOG_START) + "rubbish\n" + line(LOG_START) + "(1.0) can0 zz#\n")
    batch, events, [counters] = drain(replay(str(log)))
    assert (len(batch), counters.malformed) == (2, 2)
    assert any("line 2" in e.detail for e in events)


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_an_empty_log_ends_at_once(tmp_path: Path, content: bytes) -> None:
    """Up, ended, no frames, no hang."""
    log = tmp_path / "a.log"
    log.write_bytes(content)
    batch, events, [counters] = drain(replay(str(log)), speed=1.0)
    assert len(batch) == 0
    assert counters.state is LinkState.ENDED
    assert [e.kind for e in events] == [EventKind.BUS_UP, EventKind.BUS_DOWN]


@pytest.mark.parametrize("content", [None, b"\x7fELF" + bytes(100)])
def test_what_is_no_log_is_an_error_with_its_path(tmp_path: Path, content: bytes | None) -> None:
    """A missing file and a file of another kind stop the start of the gateway, with the bus's name."""
    log = tmp_path / "a.bin"
    if content is not None:
        log.write_bytes(content)
    with pytest.raises(SourceError, match=r"bus bus: .*a\.bin"):
        drain(replay(str(log)))


def test_a_clock_set_during_the_recording_is_played_without_the_step(tmp_path: Path) -> None:
    """An hour's leap does not stall the replay and a step back does not rush it; both are events."""
    hour = 3600 * SECOND
    times = [0, SECOND, 5 * hour, 5 * hour + SECOND, SECOND, 2 * SECOND]
    port = open_port(write_log(tmp_path / "a.log", times), speed=1.0)
    got = [(port.collect(9, at * SECOND + 1000, NOW).timestamp_ns - NOW).tolist() for at in range(4)]
    assert got == [[0], [SECOND, SECOND], [2 * SECOND, 2 * SECOND], [3 * SECOND]]
    assert port.ended
    jumps = [int(e.detail) for e in port.take_events() if e.kind is EventKind.CLOCK_JUMP]
    assert jumps == [5 * hour - SECOND, -5 * hour]


@given(st.lists(st.integers(0, 1 << 60), max_size=50), st.integers(1, 10))
def test_a_timeline_never_steps(times: list[int], size: int) -> None:
    """Placed times never go back by a second nor leap an hour, however the log is cut into batches."""
    timeline, placed, steps = LogTimeline(), [], []
    for at in range(0, len(times), size):
        part, found = timeline.place(np.array(times[at : at + size], np.int64))
        placed += part.tolist()
        steps += found
    deltas = np.diff(np.array(placed, np.int64))
    assert ((deltas >= -SECOND) & (deltas <= 3600 * SECOND)).all()
    if times:
        assert placed[0] == times[0]
        assert placed[-1] == times[-1] - sum(steps)


@pytest.mark.data
def test_a_recorded_drive_replays_whole(data_dir: Path) -> None:
    """Every frame of the drive, equal to the log's."""
    path = data_dir / "can" / "logs" / "rav4_2016_bus0_60s.log.xz"
    batch, _, [counters] = drain(replay(str(path)))
    with open_log(path) as log:
        whole = FrameBatch.concatenate(list(log))
    assert counters.received == len(whole) == 53_800
    for name in ("timestamp_ns", "can_id", "flags", "length", "data"):
        assert (getattr(batch, name) == getattr(whole, name)).all(), name


def test_a_log_of_our_own_writer_replays(tmp_path: Path) -> None:
    """What we record is what we replay."""
    batch = FrameBatch.from_rows([(LOG_START + n * 1000, 0, n, 0, bytes((n,))) for n in range(50)])
    log = tmp_path / "own.log"
    with CandumpWriter(log, ["can0"]) as writer:
        writer.write(batch)
    got, _, _ = drain(replay(str(log)))
    assert (got.data == batch.data).all()
    assert (got.timestamp_ns == batch.timestamp_ns).all()


def test_recording_may_begin_in_the_past_so_that_a_fast_replay_ends_now(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="begin_ago_s"):
        ReplayConfig(begin_ago_s=-1)
    path = tmp_path / "drive.log"
    path.write_text("(100.000000) can0 100#01\n(160.000000) can0 100#02\n")

    async def first_and_last() -> list[int]:
        source = open_source(
            [BusConfig(name="can0", interface="replay", channel=str(path))],
            replay=ReplayConfig(speed=0, begin_ago_s=60),
        )
        times: list[int] = []
        with pytest.raises(SourceEnded):
            while True:
                times += (await source.receive()).timestamp_ns.tolist()
        await source.aclose()
        return times

    before_ns = time.time_ns()
    first_ns, last_ns = anyio.run(first_and_last)
    assert last_ns - first_ns == 60_000_000_000
    assert before_ns <= last_ns <= time.time_ns()


def test_a_named_bus_that_the_log_does_not_have_is_told(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text(line(LOG_START, "can0", 1))
    batch, events, _ = drain(replay(str(log), "body", "can9"))
    assert len(batch) == 0
    assert any("no frame of a bus 'can9'" in e.detail for e in events)

"""The poller against ECUs in memory whose faults change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anyio
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.diag.config import EcuConfig, PollSection
from gateway.diag.poll import MAX_DETAILS, DtcPoller, PollListener, compare, frames_of
from gateway.diag.poll_details import DidLayout, EcuLayout
from gateway.diag.poll_store import Known, KnownDtcs, KnownFile
from gateway.diag.ports import TargetBusyError
from gateway.errors import TransportError
from gateway.runtime import ChannelClosed, HealthBoard
from gateway.wire.batch import Priority
from gateway.wire.dtc import DtcReport
from gateway.wire.samples import Event, EventKind

from ..uds.support import Answers, EcuInMemory, run

MASK = 0x0C


class FaultyEcu:
    """Answers 19 02, 04, 06 and 22 from faults that the test changes."""

    def __init__(self) -> None:
        self.faults: dict[int, int] = {}
        self.dids = {0xD001: b"\x12\x34", 0xD002: b"\x05"}
        self.hidden_dids: set[int] = set()
        self.is_silent = False
        self.nrc: int | None = None

    def __call__(self, request: bytes) -> Answers:
        if self.is_silent:
            return []
        if self.nrc is not None:
            return [(1, bytes([0x7F, request[0], self.nrc]))]
        return [(1, self.answer(request))]

    def answer(self, request: bytes) -> bytes:
        if request[0] == 0x22:
            did = int.from_bytes(request[1:], "big")
            if did in self.dids and did not in self.hidden_dids:
                return b"\x62" + request[1:] + self.dids[did]
            return b"\x7f\x22\x31"
        if request[1] == 0x02:
            listed = [c.to_bytes(3, "big") + bytes([s]) for c, s in self.faults.items() if s & request[2]]
            return b"\x59\x02\xff" + b"".join(listed)
        code, record = int.from_bytes(request[2:5], "big"), request[5]
        if code not in self.faults:
            return b"\x7f\x19\x31"
        head = b"\x59" + request[1:5] + bytes([self.faults[code]])
        if request[1] == 0x04:
            snapshot = b"".join(did.to_bytes(2, "big") + content for did, content in self.dids.items())
            return head + b"".join(bytes([r, len(self.dids)]) + snapshot for r in (1, 2))
        records = {1: b"\x03", 2: b"\x00", 4: b"\x00\x10\x00", 0x90: b"\x01\x02"}
        chosen = records if record == 0xFF else {record: records[record]} if record in records else {}
        return head + b"".join(bytes([number]) + content for number, content in chosen.items())


class Sink:
    """What went up."""

    def __init__(self) -> None:
        self.events: list[tuple[Priority, Event]] = []

    async def emit(self, priority: Priority, *events: Event) -> None:
        self.events += [(priority, event) for event in events]

    @property
    def reports(self) -> list[DtcReport]:
        return [msgspec.json.decode(e.detail, type=DtcReport) for _, e in self.events if e.kind is EventKind.DTC]


class MemoryStore:
    """What was saved, as the file would hold it."""

    def __init__(self, content: bytes = b"{}") -> None:
        self.content = content

    async def load(self) -> KnownDtcs:
        return msgspec.json.decode(self.content, type=KnownDtcs)

    async def save(self, known: KnownDtcs) -> None:
        self.content = msgspec.json.encode(known)


class LoopClock:
    """The loop's time as both clocks."""

    def utc_ns(self) -> int:
        return int(anyio.current_time() * 1e9)

    def monotonic_ns(self) -> int:
        return int(anyio.current_time() * 1e9)


class Rig:
    """A poller with ECUs "a" and "b" on bus "x"."""

    def __init__(
        self,
        store: MemoryStore | None = None,
        *,
        layouts: dict[str, EcuLayout] | None = None,
        on_poll: PollListener | None = None,
        period_s: float = 60.0,
    ) -> None:
        self.ecus = {"a": FaultyEcu(), "b": FaultyEcu()}
        self.channels: dict[str, list[EcuInMemory]] = {"a": [], "b": []}
        self.sink, self.store, self.health = Sink(), store or MemoryStore(), HealthBoard()
        configs = [EcuConfig(name=n, bus="x", logical_address=i + 1) for i, n in enumerate(self.ecus)]
        configs.append(EcuConfig(name="unpolled", bus="x", logical_address=9, poll=False))
        self.poller = DtcPoller(
            ecus=configs, section=PollSection(period_s=period_s, first_s=10.0, status_mask=MASK),
            open_channel=self.open,
            outlet=self.sink, clock=LoopClock(), health=self.health, store=self.store, layouts=layouts, on_poll=on_poll,
        )  # fmt: skip

    def open(self, ecu: EcuConfig) -> EcuInMemory:
        channel = EcuInMemory(self.ecus[ecu.name])
        self.channels[ecu.name].append(channel)
        return channel

    def run(self, script: Callable[[Rig], list[tuple[float, Callable[[], None]]]] | None, seconds: float) -> Rig:
        """Run for some seconds, changing things at times of the script."""

        async def scenario() -> None:
            async with anyio.create_task_group() as tasks:
                await tasks.start(self.poller_run)
                passed = 0.0
                for at_s, change in script(self) if script else []:
                    await anyio.sleep(at_s - passed)
                    passed = at_s
                    change()
                await anyio.sleep(seconds - passed)
                tasks.cancel_scope.cancel()

        run(scenario)
        return self

    async def poller_run(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        await self.poller.run(task_status=task_status)


def told(rig: Rig) -> list[tuple[str, int, str, int | None]]:
    return [(r.ecu, r.code, r.change, r.previous) for r in rig.sink.reports]


def test_ecus_are_polled_once_a_period_spread_over_it() -> None:
    rig = Rig().run(None, 180)
    begin = rig.channels["a"][0].sent_at_ms[0]
    assert [at - begin for at in rig.channels["a"][0].sent_at_ms] == pytest.approx([0, 60_000, 120_000], abs=20)
    assert [at - begin for at in rig.channels["b"][0].sent_at_ms] == pytest.approx([30_000, 90_000, 150_000], abs=20)
    assert rig.channels["a"][0].requests == [bytes([0x19, 0x02, MASK])] * 3
    assert rig.sink.events == []


def test_a_period_of_zero_polls_never() -> None:
    rig = Rig(period_s=0).run(None, 600)
    assert rig.channels == {"a": [], "b": []}


def test_a_fault_is_told_as_new_with_its_details_then_changed_then_gone() -> None:
    def script(rig: Rig) -> list[tuple[float, Callable[[], None]]]:
        faults = rig.ecus["a"].faults
        return [
            (20, lambda: faults.update({0x442300: 0x2F})),
            (90, lambda: faults.update({0x442300: 0x2E})),
            (150, faults.clear),
        ]

    rig = Rig().run(script, 240)
    assert told(rig) == [
        ("a", 0x442300, "new", None), ("a", 0x442300, "changed", 0x2F), ("a", 0x442300, "gone", 0x2E),
    ]  # fmt: skip
    new, _, gone = rig.sink.reports
    assert (new.status, gone.status) == (0x2F, 0x22)
    assert [(s.record, [(v.name, v.value) for v in s.values]) for s in new.snapshots] == [
        (1, [("0xD001", "1234"), ("0xD002", "05")]), (2, [("0xD001", "1234"), ("0xD002", "05")]),
    ]  # fmt: skip
    assert (new.occurrences, new.aging) == (3, 0)
    assert new.extended == {"occurrences": 3, "aging": 0, "first_odometer_km": 4096, "record_90": "0102"}
    assert gone.snapshots == ()
    assert {priority for priority, _ in rig.sink.events} == {Priority.CRITICAL}
    assert {event.source for _, event in rig.sink.events} == {"a"}


def test_who_cleared_an_ecu_is_told_at_once_and_only_for_what_went_then() -> None:
    def clear(rig: Rig, code: int) -> None:
        del rig.ecus["a"].faults[code]
        rig.poller.tell_cleared("a", "doip 0x0e80")
        rig.poller.tell_cleared("no such ecu", "doip 0x0e80")

    def script(rig: Rig) -> list[tuple[float, Callable[[], None]]]:
        faults = rig.ecus["a"].faults
        faults.update({0x442300: 0x2F, 0x442400: 0x2F})
        return [(30, lambda: clear(rig, 0x442300)), (31, faults.clear)]

    rig = Rig().run(script, 100)
    went = [(r.code, r.change, r.by) for r in rig.sink.reports if r.change not in ("new", "present")]
    assert went == [(0x442300, "cleared", "doip 0x0e80"), (0x442400, "gone", "")]
    at_ns = [event.timestamp_ns for _, event in rig.sink.events]
    assert at_ns[2] - at_ns[0] < 21_000_000_000  # and not at the next poll, after 60 s


def test_bits_that_change_with_every_cycle_are_not_told() -> None:
    def script(rig: Rig) -> list[tuple[float, Callable[[], None]]]:
        rig.ecus["a"].faults[0x442300] = 0x2F
        return [(30, lambda: rig.ecus["a"].faults.update({0x442300: 0x6D}))]

    assert [change for _, _, change, _ in told(Rig().run(script, 120))] == ["present"]


def test_what_is_there_at_the_first_look_is_present_with_its_details() -> None:
    rig = Rig()
    rig.ecus["a"].faults[0x123456] = 0x08
    rig.run(None, 120)
    assert told(rig) == [("a", 0x123456, "present", None)]
    assert len(rig.sink.reports[0].snapshots) == 2


def test_after_a_restart_all_is_told_and_what_changed_is_marked() -> None:
    store = MemoryStore(msgspec.json.encode(KnownDtcs({"a": Known({1: 0x08, 2: 0x08, 3: 0x08}), "b": Known({})})))
    rig = Rig(store)
    rig.ecus["a"].faults.update({1: 0x08, 2: 0x09, 4: 0x08})
    rig.ecus["b"].faults.update({5: 0x08})
    rig.run(None, 120)
    assert told(rig) == [
        ("a", 1, "present", 8), ("a", 2, "changed", 8), ("a", 4, "new", None), ("a", 3, "gone", 8),
        ("b", 5, "new", None),
    ]  # fmt: skip
    assert [bool(r.snapshots) for r in rig.sink.reports] == [False, True, True, False, True]


def test_a_restart_continues_from_what_was_saved() -> None:
    rig = Rig()
    rig.ecus["a"].faults[0x123456] = 0x08
    rig.run(None, 100)
    again = Rig(rig.store)
    again.ecus["a"].faults.update({0x123456: 0x08, 0x999999: 0x08})
    again.run(None, 100)
    assert told(again) == [("a", 0x123456, "present", 8), ("a", 0x999999, "new", None)]


def test_details_by_layout() -> None:
    layout = EcuLayout(
        dids={
            0xD001: DidLayout(name="speed", length=2, factor=0.01, unit="km/h"),
            0xD002: DidLayout(name="gear", length=1, labels={5: "drive"}),
        }
    )
    rig = Rig(layouts={"a": layout})
    rig.ecus["a"].faults[1] = 0x08
    rig.run(None, 30)
    values = rig.sink.reports[0].snapshots[0].values
    assert [(v.name, v.value, v.unit) for v in values] == [
        ("speed", pytest.approx(46.6), "km/h"),
        ("gear", "drive", ""),
    ]
    assert [r for r in rig.channels["a"][0].requests if r[0] == 0x22] == []


def test_an_identifier_nobody_may_read_leaves_its_bytes_in_hexadecimal() -> None:
    rig = Rig()
    rig.ecus["a"].faults[1] = 0x08
    rig.ecus["a"].hidden_dids.add(0xD002)
    rig.run(None, 30)
    values = rig.sink.reports[0].snapshots[0].values
    assert [(v.name, v.value) for v in values] == [
        ("0xD001", "1234"),
        ("0xD002 and what follows", "050202D0011234D00205"),
    ]


def test_identifiers_may_have_other_lengths_at_the_next_fault() -> None:
    def script(rig: Rig) -> list[tuple[float, Callable[[], None]]]:
        ecu = rig.ecus["a"]
        ecu.faults[1] = 0x08

        def change() -> None:
            ecu.dids[0xD002] = b"\x05\x06\x07"
            ecu.faults[2] = 0x08

        return [(30, change)]

    rig = Rig().run(script, 140)
    assert [(r.code, r.snapshots[1].values[1].value) for r in rig.sink.reports] == [(1, "05"), (2, "050607")]


def test_a_snapshot_that_does_not_fit_its_layout_is_left_out() -> None:
    rig = Rig(layouts={"a": EcuLayout(dids={0xD001: DidLayout(name="speed", length=40)})})
    rig.ecus["a"].faults[1] = 0x08
    rig.run(None, 30)
    assert [(r.code, r.snapshots, r.occurrences) for r in rig.sink.reports] == [(1, (), 3)]


def test_a_storm_of_faults_reads_a_bounded_number_of_details() -> None:
    rig = Rig()
    rig.ecus["a"].faults.update(dict.fromkeys(range(1, 41), 8))
    rig.run(None, 30)
    assert len(rig.sink.reports) == 40
    assert sum(bool(r.snapshots) for r in rig.sink.reports) == MAX_DETAILS
    assert rig.poller.statistics().without_details == 40 - MAX_DETAILS


def test_a_silent_ecu_is_told_after_three_polls_and_when_it_answers_again() -> None:
    def script(rig: Rig) -> list[tuple[float, Callable[[], None]]]:
        rig.ecus["a"].faults[1] = 0x08
        silent = rig.ecus["a"]
        return [(20, lambda: setattr(silent, "is_silent", True)), (260, lambda: setattr(silent, "is_silent", False))]

    heard: list[tuple[str, bool]] = []

    def listen(name: str, /, *, is_silent: bool) -> None:
        heard.append((name, is_silent))

    rig = Rig(on_poll=listen).run(script, 330)
    others = [(e.kind, e.source) for _, e in rig.sink.events if e.kind is not EventKind.DTC]
    assert others == [(EventKind.TIMEOUT, "x.a"), (EventKind.RECOVERED, "x.a")]
    assert [silent for name, silent in heard if name == "a"] == [False, True, True, True, True, False]
    assert all(not silent for name, silent in heard if name == "b")
    assert told(rig) == [("a", 1, "present", None)]  # silence is not the end of a fault


def test_silence_shows_in_health_and_statistics() -> None:
    rig = Rig()
    rig.ecus["b"].is_silent = True
    rig.run(None, 200)
    assert rig.health.summary()["dtc_poller"] == "degraded: no answer from b"
    assert rig.poller.statistics().silent == ("b",)


@pytest.mark.parametrize("nrc", [0x10, 0x11, 0x12, 0x21, 0x22, 0x31, 0x33, 0x7F])
def test_an_ecu_that_refuses_is_not_silent(nrc: int) -> None:
    rig = Rig()
    rig.ecus["a"].nrc = nrc
    rig.run(None, 400)
    assert rig.sink.events == []
    assert rig.poller.statistics().failed > 0
    assert rig.poller.statistics().silent == ()


def test_an_ecu_pending_for_ever_does_not_hold_up_the_others() -> None:
    def pending(request: bytes) -> Answers:
        return [(1 + 1000 * i, b"\x7f\x19\x78") for i in range(1000)]

    rig = Rig()
    rig.open = lambda ecu: EcuInMemory(pending if ecu.name == "a" else rig.ecus["b"])  # type: ignore[method-assign]  # the ECU is the test's
    rig.ecus["b"].faults[1] = 0x08
    rig.poller._open_channel = rig.open
    rig.run(None, 60)
    assert told(rig) == [("b", 1, "present", None)]


def test_a_closed_channel_is_opened_again() -> None:
    def script(rig: Rig) -> list[tuple[float, Callable[[], None]]]:
        return [(20, lambda: setattr(rig.channels["a"][0], "_is_closed", True))]

    rig = Rig().run(script, 200)
    assert len(rig.channels["a"]) == 2
    assert rig.channels["a"][1].requests != []


def test_a_channel_that_cannot_be_opened_is_tried_again() -> None:
    rig = Rig()
    tries: list[str] = []

    def refuse(ecu: EcuConfig) -> EcuInMemory:
        tries.append(ecu.name)
        raise TransportError("bus down")

    rig.poller._open_channel = refuse
    rig.run(None, 200)
    assert tries.count("a") == 4
    assert rig.poller.statistics().silent == ("a", "b")


def test_a_busy_way_says_nothing_about_the_ecu() -> None:
    heard: list[str] = []

    def listen(name: str, /, *, is_silent: bool) -> None:
        heard.append(name)

    def script(rig: Rig) -> list[tuple[float, Callable[[], None]]]:
        failures = rig.channels["a"]
        return [(20, lambda: failures[0].send_failures.extend([TargetBusyError("busy")] * 4))]

    rig = Rig(on_poll=listen).run(script, 320)
    assert rig.sink.events == []
    assert rig.poller.statistics().failed == 4
    assert heard.count("a") == 2


def test_a_closed_outlet_ends_the_polling_and_saves_nothing() -> None:
    async def refuse(priority: Priority, *events: Event) -> None:
        raise ChannelClosed("pieces")

    rig = Rig()
    rig.sink.emit = refuse  # type: ignore[method-assign]  # a sink that closed
    rig.ecus["a"].faults[1] = 0x08
    rig.run(None, 300)
    assert len(rig.channels["a"][0].requests) < 20
    assert [r for r in rig.channels["a"][0].requests if r[1] == 0x02] == [bytes([0x19, 0x02, MASK])]
    assert rig.store.content == b"{}"


def test_poll_soon_does_not_wait_for_the_schedule() -> None:
    rig = Rig()
    rig.run(lambda rig: [(20, lambda: rig.poller.poll_soon("a")), (21, lambda: rig.poller.poll_soon("nobody"))], 60)
    assert len(rig.channels["a"][0].requests) == 2


def test_a_healthy_ecu_costs_two_frames_a_poll() -> None:
    rig = Rig().run(None, 120)
    statistics = rig.poller.statistics()
    assert statistics.last_frames == {"a": 2, "b": 2}
    assert (statistics.polls, statistics.requests, statistics.frames) == (4, 4, 8)


@pytest.mark.parametrize(
    ("pdu_bytes", "tx_dl", "addressing", "frames"),
    [(7, 8, "normal", 1), (8, 8, "normal", 3), (6, 8, "extended", 1), (7, 8, "extended", 3), (62, 64, "normal", 1),
     (63, 64, "normal", 3), (13, 8, "normal", 3), (14, 8, "normal", 4),
     (6 + 7 * 16, 8, "normal", 18), (6 + 7 * 17, 8, "normal", 20)],
)  # fmt: skip
def test_frames_of_a_pdu(pdu_bytes: int, tx_dl: int, addressing: str, frames: int) -> None:
    ecu = msgspec.convert(
        {"name": "a", "bus": "x", "logical_address": 1, "tx_dl": tx_dl, "addressing": addressing}, EcuConfig
    )
    assert frames_of(pdu_bytes, ecu) == frames


_lists = st.dictionaries(st.integers(0, 5), st.integers(0, 255), max_size=6)


@given(before=st.none() | _lists, listed=_lists, tell_all=st.booleans())
def test_changes_applied_to_what_was_known_give_the_list(
    before: dict[int, int] | None, listed: dict[int, int], tell_all: bool
) -> None:
    listed = {code: status for code, status in listed.items() if status & MASK}
    changes = compare(before, listed, MASK, tell_all=tell_all)
    result = {code: status & 0x8D for code, status in (before or {}).items()}
    for change in changes:
        assert change.previous == (before or {}).get(change.code)
        if change.kind == "gone":
            assert not change.status & MASK
            del result[change.code]
        else:
            result[change.code] = change.status & 0x8D
    assert result == {code: status & 0x8D for code, status in listed.items()}
    if tell_all:
        assert {c.code for c in changes} == set(listed) | set(before or {})


def test_the_file_survives_and_a_broken_one_is_nothing_known(tmp_path: Path) -> None:
    path = tmp_path / "state" / "known.json"

    async def scenario() -> tuple[KnownDtcs, KnownDtcs, KnownDtcs]:
        store = KnownFile(path)
        nothing = await store.load()
        await store.save(KnownDtcs({"a": Known({0x442300: 8})}))
        saved = await KnownFile(path).load()
        path.write_bytes(b'{"ecus": {"a": {"status": {"x": 1}}}}')
        return nothing, saved, await store.load()

    nothing, saved, broken = anyio.run(scenario)
    assert (nothing.ecus, broken.ecus) == ({}, {})
    assert saved.ecus["a"].status == {0x442300: 8}
    assert [p.name for p in path.parent.iterdir()] == ["known.json"]


def test_a_disk_that_refuses_does_not_end_the_poller(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = KnownFile(tmp_path / "file" / "known.json")  # its folder is a file

    anyio.run(store.save, KnownDtcs())
    assert "known_dtcs_not_kept" in caplog.text

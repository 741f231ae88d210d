"""Any order of appends, acknowledgements, evictions, failures, kills and power cuts keeps the spool's promises.

The model knows every batch ever appended. What the spool must explain of it: each sequence is pending and reads back
exactly, or acknowledged, or in an evicted range; and items add up. What it may forget: batches that were neither synced
nor read when the power went, and acknowledgements not yet persisted.
"""

from __future__ import annotations

import contextlib
import errno
import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gateway.spool import Spool, SpoolError, SpoolFull, SpoolLimits
from tests.gateway.spool.disks import MemoryDisk
from tests.support import LONG

STREAM = st.sampled_from(("critical", "normal", "bulk", "normal-wifi"))
LIMITS = SpoolLimits(max_bytes=3_000, segment_bytes=700, unsynced_bytes=1_500)


class Model:
    """One stream as it should be."""

    def __init__(self) -> None:
        self.batches: dict[int, tuple[bytes, int]] = {}
        self.durable = 0  # up to here nothing may be forgotten
        self.seen = 0  # up to here a number may have left the vehicle
        self.acknowledged = 0  # as last asked for
        self.confirmed: set[int] = set()


class SpoolMachine(RuleBasedStateMachine):
    """Drives a spool on a disk in memory."""

    @initialize(capacity=st.sampled_from((1 << 30, 64 * 1024 + 2_000)))
    def start(self, capacity: int) -> None:
        self.disk = MemoryDisk(capacity)
        self.spool = Spool(self.disk, LIMITS)
        self.identity = self.spool.spool_id
        self.models = {name: Model() for name in self.spool.streams()}
        self.states = [b""]
        self.durable_state = 0

    def _synced(self) -> None:
        for name, model in self.models.items():
            model.durable = self.spool.next_sequence(name) - 1
        self.durable_state = len(self.states) - 1

    @rule(stream=STREAM, size=st.integers(0, 300), items=st.integers(0, 9), state=st.binary(max_size=8))
    def append(self, stream: str, size: int, items: int, state: bytes) -> None:
        payload = random.Random(size).randbytes(size)
        before = self.spool.stored_items(stream)
        try:
            sequence = self.spool.append(stream, payload, items, state)
        except SpoolFull:
            assert self.spool.stored_items(stream) == before
            return
        model = self.models[stream]
        assert sequence > max(model.seen, model.durable)
        assert sequence not in model.batches
        model.batches[sequence] = (payload, items)
        self.states.append(state)
        if stream == "critical":
            model.durable = sequence
            self.durable_state = len(self.states) - 1

    @rule(stream=STREAM, operation=st.sampled_from(("write", "sync", "truncate")), calls=st.integers(0, 3))
    def append_on_a_failing_disk(self, stream: str, operation: str, calls: int) -> None:
        before = self.spool.stored_items(stream)
        self.disk.failures = {operation: (calls, errno.EIO)}
        payload = b"may fail"
        try:
            sequence = self.spool.append(stream, payload, 1, b"f")
        except SpoolError:
            assert self.spool.stored_items(stream) == before
        else:
            self.models[stream].batches[sequence] = (payload, 1)
            self.states.append(b"f")
        self.disk.failures = {}

    @rule(stream=STREAM, ahead=st.integers(-2, 6))
    def acknowledge(self, stream: str, ahead: int) -> None:
        model = self.models[stream]
        target = min(max(0, self.spool.acknowledged(stream) + ahead), self.spool.next_sequence(stream) - 1)
        self.spool.acknowledge(stream, target)
        model.acknowledged = max(model.acknowledged, target)

    @rule(stream=STREAM)
    def confirm_evicted(self, stream: str) -> None:
        for first, last in self.spool.evicted(stream):
            self.models[stream].confirmed.update(range(first, last + 1))
        self.spool.confirm_evicted([(stream, first, last) for first, last in self.spool.evicted(stream)])

    @rule(stream=STREAM)
    def read_the_next(self, stream: str) -> None:
        sequence = self.spool.next_pending(stream)
        if sequence is not None:
            assert self.spool.read(stream, sequence) == self.models[stream].batches[sequence][0]
            self.models[stream].durable = max(self.models[stream].durable, sequence)
            self.models[stream].seen = max(self.models[stream].seen, sequence)

    @rule()
    def sync(self) -> None:
        self.spool.sync()
        self._synced()

    @rule(state=st.binary(max_size=8))
    def checkpoint(self, state: bytes) -> None:
        self.spool.checkpoint(state)
        self.states.append(state)
        self._synced()

    @rule()
    def close_and_open(self) -> None:
        before = self.spool.totals()
        self.spool.close()
        self._synced()
        self.spool = Spool(self.disk, LIMITS)
        assert self.spool.totals() == before
        assert self.spool.last_state() == (self.states[-1] if len(self.states) > 1 else None)

    @rule()
    def kill(self) -> None:
        pending = {name: total.stored for name, total in self.spool.totals().items()}
        self.disk = self.disk.after_kill()
        self.spool = Spool(self.disk, LIMITS)
        assert {name: total.stored for name, total in self.spool.totals().items()} == pending
        assert self.spool.last_state() == (self.states[-1] if len(self.states) > 1 else None)

    @rule(seed=st.integers(0, 2**32))
    def cut_power(self, seed: int) -> None:
        self.disk = self.disk.after_power_cut(random.Random(seed))
        self.spool = Spool(self.disk, LIMITS)
        for name, model in self.models.items():
            last = self.spool.next_sequence(name) - 1
            assert last >= model.durable
            for sequence in [s for s in model.batches if s > last]:
                del model.batches[sequence]
            model.acknowledged = self.spool.acknowledged(name)
        state = self.spool.last_state()
        assert state is None or state in self.states[self.durable_state :]
        kept = 1 if state is None else len(self.states) - self.states[::-1].index(state)
        self.states, self.durable_state = self.states[:kept], min(self.durable_state, kept - 1)

    @invariant()
    def everything_is_explained(self) -> None:
        if not hasattr(self, "spool"):
            return
        assert self.spool.spool_id == self.identity
        assert self.spool.size_bytes <= LIMITS.max_bytes
        for name, model in self.models.items():
            total = self.spool.totals()[name]
            assert total.unexplained == 0
            assert total.acknowledged_sequence <= max(model.acknowledged, 0)
            gone = {s for first, last in self.spool.evicted(name) for s in range(first, last + 1)}
            pending, at = [], 0
            while (found := self.spool.next_pending(name, at)) is not None:
                pending.append(found)
                at = found
            assert not gone & set(pending)
            assert total.pending == sum(model.batches[s][1] for s in pending)
            assert total.pending_bytes == sum(len(model.batches[s][0]) for s in pending)
            unexplained = (
                set(range(total.acknowledged_sequence + 1, total.last_sequence + 1))
                - set(pending)
                - gone
                - model.confirmed
            )
            assert not unexplained

    def teardown(self) -> None:
        if not hasattr(self, "spool"):
            return
        for name, model in self.models.items():
            at = 0
            while (found := self.spool.next_pending(name, at)) is not None:
                content = self.spool.read(name, found)
                assert content is None or content == model.batches[found][0]
                at = found
        with contextlib.suppress(SpoolError):
            self.spool.close()


SpoolMachine.TestCase.settings = settings(
    max_examples=1_500 if LONG else 60, stateful_step_count=60 if LONG else 30, deadline=None
)
TestSpool = pytest.mark.timeout(1800 if LONG else 120)(SpoolMachine.TestCase)

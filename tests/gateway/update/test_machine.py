"""Any order of updates, faults, power cuts and changed minds: something verified always boots, and it always ends."""

from __future__ import annotations

from contextlib import suppress

import anyio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from gateway.errors import NotNowError
from gateway.update.journal import Stage
from gateway.update.model import VerifiedUpdate
from tests.crash.disk import Call, PowerCut
from tests.gateway.update.support import GATEWAY, boot_control, image_bytes
from tests.gateway.update.world import BASE, ECUS, PAYLOAD, Run, World, drive, target, update
from tests.support import LONG

OLD = image_bytes(1)
IMAGES = {
    "good": image_bytes(2, 20_000),
    "sick": image_bytes(3, 20_000),
    "dead": image_bytes(4, 20_000),
    "next": image_bytes(5, 30_000),
}
WHOLE = {OLD[:16]: OLD, **{content[:16]: content for content in IMAGES.values()}}


class Vehicle(RuleBasedStateMachine):
    """A vehicle, its cloud and its driver."""

    @initialize()
    def power_on(self) -> None:
        self.world = World()
        boot_control(self.world.disk).mark_bad("B")  # it holds nothing
        self.world.disk.add_file(BASE / "schemes.toml", b"scheme 0")
        self.world.sick |= {IMAGES["sick"][:16].hex(), "sick scheme"}
        self.world.dead.add(IMAGES["dead"][:16].hex())
        self.world.ecus.refuse.add("motor-bad.img")
        self.number = 0
        self.counters: dict[str, int] = {}
        self.run: Run | None = None
        self.boot()

    def boot(self) -> None:
        self.world.disk.before = None
        self.run = self.world.boot()

    def guarded(self, steps: int) -> None:
        """Some steps; a cut of power, a reboot or a restart is followed by a start."""
        for _ in range(steps):
            run = self.run
            assert run is not None
            try:
                pause_s = anyio.run(run.engine.step)
            except PowerCut:
                self.boot()
                continue
            self.world.clock.go_on(min(pause_s, 5.0))
            if run.left is not None:
                if run.left.kind == "reboot":
                    self.boot()
                else:
                    self.world.disk.before = None
                    self.run = self.world.start(run.slot)

    @rule(
        image=st.sampled_from([None, *IMAGES]),
        motor=st.sampled_from([None, "2", "3", "bad"]),
        brake=st.sampled_from([None, "2", "3"]),
        scheme=st.sampled_from([None, "scheme 1", "scheme 2", "sick scheme", "bad scheme"]),
        is_apart=st.booleans(),
    )
    def wants(
        self, image: str | None, motor: str | None, brake: str | None, scheme: str | None, is_apart: bool
    ) -> None:
        """The Director wants something else, or nothing any more."""
        self.number += 1
        parts = []
        if motor is not None:
            parts.append((target("motor", f"motor {motor}".encode(), motor), f"motor {motor}".encode()))
        if image is not None:
            parts.append((target(GATEWAY, IMAGES[image], image), IMAGES[image]))
        if brake is not None:
            parts.append((target("brake", f"brake {brake}".encode(), brake), f"brake {brake}".encode()))
        if scheme is not None:
            parts.append((target(PAYLOAD, scheme.encode(), scheme), scheme.encode()))
        targets = [one for one, _ in parts]
        sets = [[one.ecu] for one in targets] if is_apart else None
        wanted = update(f"assignment {self.number}", *targets, sets=sets)
        self.world.offer(wanted, *(content for _, content in parts))
        assert self.run is not None
        self.run.engine.want(wanted)

    @rule()
    def withdrawn(self) -> None:
        self.world.wanted = VerifiedUpdate(director_version=9)
        assert self.run is not None
        self.run.engine.want(self.world.wanted)

    @rule(steps=st.integers(1, 25))
    def goes_on(self, steps: int) -> None:
        self.guarded(steps)

    @rule(calls=st.integers(0, 120), steps=st.integers(1, 25))
    def power_is_cut(self, calls: int, steps: int) -> None:
        """After so many changes of the disk, if it comes to that."""
        end = len(self.world.disk.log) + calls

        def cut(number: int, call: Call) -> None:
            del call
            if number >= end:
                raise PowerCut

        self.world.disk.before = cut
        self.guarded(steps)
        self.world.disk.before = None

    @rule(calls=st.integers(0, 60), steps=st.integers(1, 25))
    def disk_is_full(self, calls: int, steps: int) -> None:
        end = len(self.world.disk.log) + calls

        def refuse(number: int, call: Call) -> None:
            if number >= end and call.kind in ("write", "make"):
                raise OSError(28, "No space left on device")

        self.world.disk.before = refuse
        self.guarded(steps)
        self.world.disk.before = None

    @rule()
    def key_is_turned(self) -> None:
        self.boot()

    @rule()
    def gateway_is_restarted(self) -> None:
        assert self.run is not None
        self.run = self.world.start(self.run.slot)

    @rule(is_parked=st.booleans())
    def drives(self, is_parked: bool) -> None:
        self.world.missing = "" if is_parked else "parked"

    @rule(more=st.integers(0, 40_000))
    def connection_breaks(self, more: int) -> None:
        self.world.source.breaks_after = self.world.source.sent + more

    @rule()
    def connection_is_back(self) -> None:
        self.world.source.breaks_after = None

    @rule(seconds=st.sampled_from([1, 400, 86_400, 30 * 86_400]))
    def time_passes(self, seconds: int) -> None:
        self.world.clock.go_on(seconds)

    @rule(utc_s=st.sampled_from([0, 1_700_000_000, 1_900_000_000]))
    def clock_is_set(self, utc_s: int) -> None:
        self.world.clock.utc = utc_s * 10**9

    @rule()
    def person_cancels(self) -> None:
        assert self.run is not None
        with suppress(NotNowError):
            self.run.engine.cancel()

    @rule()
    def everything_is_well(self) -> None:
        """Left in peace, it comes to an end, and a good update succeeds."""
        self.world.missing, self.world.source.breaks_after = "", None
        run = self.run = drive(self.world, self.run, boots=40)
        journal = run.engine.journal
        assert journal.stage in (Stage.IDLE, Stage.ENDED)
        state = boot_control(self.world.disk, run.slot).read()
        assert state.slot(run.slot).successful
        assert "not whole" not in journal.detail
        if journal.end == "succeeded":
            content = WHOLE[self.world.disk.open(run.installer._path(run.slot)).read_at(0, 16)]
            assert content not in (IMAGES["sick"], IMAGES["dead"])

    @invariant()
    def what_boots_is_whole(self) -> None:
        if self.run is None:
            return
        state = boot_control(self.world.disk, self.run.slot).read()
        assert state.next is not None
        for slot in state.order:
            device = self.world.disk.open(self.run.installer._path(slot.name))
            content = WHOLE.get(device.read_at(0, 16))
            assert content is not None, f"slot {slot.name} may boot and holds nothing whole"
            assert device.read_at(0, len(content)) == content

    @invariant()
    def counters_never_go_down(self) -> None:
        if self.run is None:
            return
        counters = self.world.counters
        assert all(counters.get(ecu, 0) >= value for ecu, value in self.counters.items())
        self.counters = counters

    @invariant()
    def a_set_is_never_half_done_at_an_end(self) -> None:
        if self.run is None:
            return
        journal = self.run.engine.journal
        if journal.stage is Stage.ENDED and journal.end in ("failed", "cancelled", "rolled_back"):
            assert not self.world.ecus.before.keys() & set(ECUS) or "not whole" in journal.detail


TestVehicle = Vehicle.TestCase
TestVehicle.settings = settings(
    max_examples=400 if LONG else 40,
    stateful_step_count=40 if LONG else 20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)

"""Whatever a tester asks in whatever order, and whenever power is lost: the ECU can be programmed afterwards."""

from __future__ import annotations

import re

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.simulator.ecu.test_flash import BASE, SPEED, VOLTAGE, Flasher, image
from tests.support import LONG

GOOD = image(b"good" * 100, "02.00.00")
BAD = image(b"good" * 100, "06.06.06", hardware_id="OTHER")
DATASET = 0x200000
_ANSWER = re.compile(r"7F [0-9A-F]{2} [0-9A-F]{2}|[0-9A-F]{2}( [0-9A-F]{2})*")
#: Requests that a tester may make at any time, in pieces that are combined.
AREAS = ("00 40 00 00 00 00 02 90", "00 40 00 00 00 00 20 00", "00 20 00 00 00 00 04 00", "00 00 00 00 00 00 01 00",
         "00 40 01 00 00 00 01 00")  # fmt: skip


class Programming(RuleBasedStateMachine):
    """A tester that means no harm and knows no order."""

    @initialize()
    def start(self) -> None:
        self.ecu = Flasher()
        self.sent = 0  # bytes of an image that went into the transfer under way
        self.counter = 1
        self.started: set[str] = {"01.00.00"}

    def _ask(self, request: str | bytes) -> str:
        answers = self.ecu.ask(request)
        for answer in answers:
            assert _ANSWER.fullmatch(answer)
        return answers[-1] if answers else ""

    @rule(session=st.sampled_from(["10 01", "10 02", "10 03"]))
    def session(self, session: str) -> None:
        self._ask(session)

    @rule(area=st.sampled_from(AREAS))
    def erase(self, area: str) -> None:
        self._ask(f"31 01 FF 00 44 {area}")

    @rule(sid=st.sampled_from(["34 00", "34 10", "35 00"]), area=st.sampled_from(AREAS))
    def transfer(self, sid: str, area: str) -> None:
        if self._ask(f"{sid} 44 {area}").startswith("7"):
            self.sent, self.counter = 0, 1

    @rule(content=st.sampled_from([GOOD, BAD]), step=st.sampled_from([0, 1, 1, 1, 1, 2, -1]))
    def block(self, content: bytes, step: int) -> None:
        counter = (self.counter + step - 1) & 0xFF
        answer = self._ask(bytes([0x36, counter]) + content[self.sent : self.sent + 128])
        if answer == f"76 {self.counter & 0xFF:02X}" and step == 1:
            self.counter += 1
            self.sent += 128

    @rule(content=st.sampled_from([GOOD, BAD]))
    def whole_image(self, content: bytes) -> None:
        """A tester that knows the order, but nothing of what was before."""
        for request in ("10 03", "10 02", f"31 01 FF 00 44 {AREAS[1]}"):
            self._ask(request)
        self.ecu.advance(1.0)
        self.ecu.request(BASE, len(content))
        for i in range(0, len(content), 128):
            self._ask(bytes([0x36, (i // 128 + 1) & 0xFF]) + content[i : i + 128])
        self._ask("37")

    @rule(request=st.sampled_from(["37", "31 01 02 02", "31 01 FF 01", "31 01 02 03", "3E 00", "22 F1 80", "19 0A"]))
    def other(self, request: str) -> None:
        self._ask(request)

    @rule(request=st.binary(min_size=1, max_size=20))
    def anything(self, request: bytes) -> None:
        self._ask(request)

    @rule(seconds=st.sampled_from([0.01, 0.1, 1.0, 6.0]))
    def wait(self, seconds: float) -> None:
        self.ecu.advance(seconds)

    @rule(speed=st.sampled_from([0.0, 50.0]), volts=st.sampled_from([8.0, 12.5, 17.0]))
    def conditions(self, speed: float, volts: float) -> None:
        self.ecu.vehicle.values[SPEED] = speed
        self.ecu.vehicle.values[VOLTAGE] = volts

    @rule()
    def power_loss(self) -> None:
        self.ecu.power_cycle()

    @rule()
    def reset(self) -> None:
        self._ask("11 01")

    @precondition(lambda self: hasattr(self, "ecu"))
    @invariant()
    def boot_loader_is_untouched_and_only_good_software_runs(self) -> None:
        ecu = self.ecu
        assert ecu.context.memory.read(0, 4096) == b"\xff" * 4096
        store = ecu.context.shared["flash"].store
        if ecu.server.is_running and not ecu.context.boot_mode:
            assert store.is_bootable()
        for region in store.regions:
            assert store.version(region) in (None, "02.00.00")

    def teardown(self) -> None:
        """However it was left: a proper tester programs it."""
        if not hasattr(self, "ecu"):
            return
        ecu = self.ecu
        ecu.vehicle.values[SPEED], ecu.vehicle.values[VOLTAGE] = 0.0, 12.5
        ecu.power_cycle()
        assert ecu.one("10 01").startswith("50 01")
        assert ecu.one("3E 00") == "7E 00"
        ecu.advance(2.0)
        ecu.programming()
        assert ecu.erase(DATASET, 1024) == "71 01 FF 00 00"
        ecu.program(image(b"data", address=DATASET), DATASET)
        assert ecu.flash(image(b"last", "09.00.00")) == "71 01 02 02 00 00"
        assert ecu.one("31 01 FF 01") == "71 01 FF 01 00 00"
        ecu.restart()
        assert not ecu.context.boot_mode
        assert ecu.version() == "09.00.00"


TestProgramming = Programming.TestCase
TestProgramming.settings = settings(
    max_examples=2000 if LONG else 40, stateful_step_count=60 if LONG else 25, deadline=None
)

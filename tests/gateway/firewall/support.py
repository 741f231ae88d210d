"""A firewall under a clock and a vehicle that the test moves."""

from __future__ import annotations

import functools

from gateway.diag.ports import Tester
from gateway.firewall.core import AuditEntry, Firewall
from gateway.firewall.policy import default_policy_text, parse_policy
from gateway.firewall.ports import Decision, Verdict
from gateway.firewall.rules import CompiledPolicy, compile_policy
from gateway.firewall.state import VehicleFacts

MOTOR, BATTERY, GATEWAY = 0x1010, 0x1020, 0x1001
NAMES = {"motor": MOTOR, "battery": BATTERY, "gateway": GATEWAY}
S = 1_000_000_000

STANDING = VehicleFacts(is_standing=True, speed_kmh=0.0, voltage_v=12.6)
MOVING = VehicleFacts(is_standing=False, speed_kmh=50.0, voltage_v=14.1)
UNKNOWN = VehicleFacts()

WORKSHOP = Tester(port="doip", address=0x0E80)
OTHER = Tester(port="doip", address=0x0E81)
OBD = Tester(port="obd", address=0x0EF1)
CLOUD = Tester(port="cloud", address=0x0EC0, name="operator", is_secure=True)


@functools.cache
def compiled(policy: str) -> CompiledPolicy:
    """A policy's text, read once."""
    return compile_policy(parse_policy(policy or default_policy_text()), NAMES)


class Bench:
    """A firewall, its vehicle, its clock and what it recorded."""

    def __init__(self, policy: str = "", *, mode: str = "enforce", vehicle: VehicleFacts = STANDING) -> None:
        self.now_ns, self.vehicle = 1000 * S, vehicle
        self.records: list[AuditEntry] = []
        self.firewall = Firewall(
            compiled(policy),
            vehicle=lambda _: self.vehicle,
            record=self.records.append,
            mode="observe" if mode == "observe" else "enforce",
        )

    def ask(
        self, request: str | bytes, *, by: Tester = WORKSHOP, to: int = MOTOR, functional: bool = False
    ) -> Decision:
        pdu = bytes.fromhex(request) if isinstance(request, str) else request
        return self.firewall.judge(by, to, pdu, is_functional=functional, now_ns=self.now_ns)

    def answer(self, pdu: str, *, to: Tester = WORKSHOP, of: int = MOTOR) -> None:
        self.firewall.answered(to, of, bytes.fromhex(pdu), now_ns=self.now_ns)

    def allows(self, request: str | bytes, *, by: Tester = WORKSHOP, to: int = MOTOR, functional: bool = False) -> bool:
        return self.ask(request, by=by, to=to, functional=functional).verdict is Verdict.ALLOW

    def nrc(self, request: str, *, by: Tester = WORKSHOP, to: int = MOTOR) -> int:
        """The negative answer's code; 0 when allowed."""
        decision = self.ask(request, by=by, to=to)
        assert decision.verdict is not Verdict.DROP
        return decision.nrc if decision.verdict is Verdict.REFUSE else 0

    def do(self, request: str, answer: str, *, by: Tester = WORKSHOP, to: int = MOTOR) -> None:
        """A request that is allowed, and its answer."""
        assert self.allows(request, by=by, to=to), self.records[-1]
        self.answer(answer, to=by, of=to)

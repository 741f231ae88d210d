"""Remote jobs pass the same router and firewall as any tester; what becomes of each step is told, never raised."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import anyio
import msgspec
import pytest

from gateway.diag.remote import GATEWAY as OWN
from gateway.diag.remote import RemoteDiagnostics, text_of
from gateway.diag.remote_watch import RefusalWatch
from gateway.diag.router import Router
from gateway.errors import PeerError
from gateway.firewall.policy import default_policy_text
from gateway.firewall.state import VehicleFacts
from gateway.runtime import SystemClock
from gateway.wire.diagnostics import CHANGING, READING, DiagnosticOrder, Step, StepResult
from gateway.wire.orders import Order
from tests.gateway.diag.router_bench import BATTERY, ECUS, FAST, GATEWAY, GEARBOX, MOTOR, Bench, until

MOVING = VehicleFacts(is_standing=False, speed_kmh=80.0)


def order_of(*steps: Step, stop_on_error: bool = False, body: bytes | None = None) -> Order:
    content = DiagnosticOrder(steps=steps, stop_on_error=stop_on_error, requested_by="user:alice")
    raw = msgspec.Raw(msgspec.json.encode(content) if body is None else body)
    return Order(id="o1", vehicle="V", kind="diagnostics", issued_ns=0, expires_ns=1, body=raw)


def step(do: str, ecu: str = "battery", parameter: int | None = None, data: bytes = b"") -> Step:
    return Step(do=do, ecu=ecu, parameter=parameter, data=data)


def run(test: Callable[[Bench, RemoteDiagnostics], Awaitable[None]]) -> None:
    async def main() -> None:
        bench = Bench(FAST, default_policy_text())
        watch = RefusalWatch(bench.firewall)
        bench.router = Router(
            ECUS,
            open_channel=bench._open_channel,
            open_functional=bench._open_functional,
            firewall=watch,
            clock=SystemClock(),
            own=bench.own,
            limits=FAST,
        )
        async with anyio.create_task_group() as tg:
            await tg.start(bench.router.run)
            await until(lambda: all(t.is_reachable for t in bench.router.statistics().targets.values()))
            await test(bench, RemoteDiagnostics(bench.router, ECUS, watch=watch, own_address=GATEWAY))
            assert bench.router.statistics().sessions == 0
            tg.cancel_scope.cancel()

    asyncio.run(main())


async def do(remote: RemoteDiagnostics, *steps: Step, stop_on_error: bool = False) -> list[StepResult]:
    wanted = order_of(*steps, stop_on_error=stop_on_error)
    remote.check(wanted)
    return list(await remote.execute(wanted))


def outcomes(results: list[StepResult]) -> list[tuple[str, str]]:
    return [(r.ecu, r.outcome) for r in results]


def test_dtcs_of_every_ecu_are_read_and_one_that_is_silent_keeps_nobody_waiting() -> None:
    async def test(bench: Bench, remote: RemoteDiagnostics) -> None:
        bench.ecus[MOTOR].script = lambda pdu: [bytes.fromhex("5902FF") + bytes.fromhex("0A1B162F") * 2]
        bench.ecus[GEARBOX].script = lambda pdu: []
        bench.ecus[BATTERY].script = lambda pdu: [bytes.fromhex("7F1978"), bytes.fromhex("5902FF")]
        results = await do(remote, step("read_dtcs", "*"))
        assert outcomes(results)[:3] == [("motor", "ok"), ("gearbox", "no_answer"), ("battery", "ok")]
        assert results[0].dtcs == ((0x0A1B16, 0x2F), (0x0A1B16, 0x2F))
        assert results[2].dtcs == ()
        assert results[3].ecu == OWN
        assert bench.ecus[MOTOR].heard == [bytes.fromhex("1902AF")]

    run(test)


def test_a_did_is_read_as_bytes_and_as_text_where_it_is_text() -> None:
    async def test(bench: Bench, remote: RemoteDiagnostics) -> None:
        bench.ecus[BATTERY].script = lambda pdu: [b"\x62" + pdu[1:3] + b"BMS 2.1\x00"]
        (result,) = await do(remote, step("read_did", parameter=0xF195))
        assert (result.outcome, result.data) == ("ok", b"BMS 2.1\x00")
        assert result.values == {"supplier's software version": "BMS 2.1"}

    run(test)


def test_identification_leaves_out_what_the_ecu_does_not_have() -> None:
    async def test(bench: Bench, remote: RemoteDiagnostics) -> None:
        have = {0xF190: b"WVWZZZ1KZAW000001", 0xF191: b"\x01\x02"}

        def answer(pdu: bytes) -> list[bytes]:
            content = have.get(int.from_bytes(pdu[1:3], "big"))
            return [b"\x62" + pdu[1:3] + content if content else bytes.fromhex("7F2231")]

        bench.ecus[BATTERY].script = answer
        (result,) = await do(remote, step("identify"))
        assert result.values == {"vehicle identification number": "WVWZZZ1KZAW000001", "hardware number": "01 02"}

    run(test)


def test_clearing_is_done_at_standstill_and_refused_with_the_rule_while_moving() -> None:
    async def test(bench: Bench, remote: RemoteDiagnostics) -> None:
        (result,) = await do(remote, step("clear_dtcs"))
        assert result.outcome == "ok"
        assert bench.ecus[BATTERY].heard == [bytes.fromhex("14FFFFFF")]
        bench.vehicle = MOVING
        (refused,) = await do(remote, step("clear_dtcs"))
        assert (refused.outcome, refused.nrc) == ("refused", 0x33)
        assert "rule 'cloud does nothing else'" in refused.detail
        assert len(bench.ecus[BATTERY].heard) == 1

    run(test)


def test_what_an_ecu_refuses_is_told_apart_from_what_the_policy_refuses() -> None:
    async def test(bench: Bench, remote: RemoteDiagnostics) -> None:
        bench.ecus[BATTERY].script = lambda pdu: [bytes([0x7F, pdu[0], 0x22])]
        (result,) = await do(remote, step("clear_dtcs"))
        assert (result.outcome, result.nrc, result.detail) == ("negative", 0x22, "conditions not correct")

    run(test)


def test_a_routine_runs_in_the_extended_session_which_is_left_afterwards() -> None:
    async def test(bench: Bench, remote: RemoteDiagnostics) -> None:
        battery = bench.ecus[BATTERY]
        plain = battery.obey

        def answer(pdu: bytes) -> list[bytes]:
            if pdu[0] == 0x31:
                return [b"\x71" + pdu[1:4] + bytes([battery.session])]
            return list(plain(pdu))

        battery.script = answer
        results = await do(
            remote, step("start_routine", parameter=0x0301, data=b"\xaa"), step("routine_result", parameter=0x0301)
        )
        assert [(r.outcome, r.data) for r in results] == [("ok", b"\x03"), ("ok", b"\x03")]
        assert battery.heard == [bytes.fromhex(h) for h in ("1003", "31010301AA", "31030301", "1001")]

    run(test)


def test_a_reset_is_passed_on() -> None:
    async def test(bench: Bench, remote: RemoteDiagnostics) -> None:
        bench.ecus[MOTOR].script = lambda pdu: [bytes.fromhex("5101")]
        (result,) = await do(remote, step("reset", "motor"))
        assert result.outcome == "ok"
        assert bench.ecus[MOTOR].heard == [bytes.fromhex("1101")]

    run(test)


def test_an_unknown_ecu_is_named_and_the_other_steps_are_done() -> None:
    async def test(bench: Bench, remote: RemoteDiagnostics) -> None:
        results = await do(remote, step("read_did", "toaster", 0xF190), step("read_did", "motor", 0xF190))
        assert outcomes(results) == [("toaster", "failed"), ("motor", "ok")]
        assert "motor, gearbox, battery, gateway" in results[0].detail

    run(test)


def test_stop_on_error_stops_after_the_failing_step() -> None:
    async def test(bench: Bench, remote: RemoteDiagnostics) -> None:
        steps = step("read_did", "toaster", 0xF190), step("read_did", "motor", 0xF190)
        assert outcomes(await do(remote, *steps, stop_on_error=True)) == [("toaster", "failed")]

    run(test)


def test_a_malformed_answer_and_a_bus_that_is_down_are_results() -> None:
    async def test(bench: Bench, remote: RemoteDiagnostics) -> None:
        bench.ecus[MOTOR].script = lambda pdu: [bytes.fromhex("5902")]
        bench.ecus[GEARBOX].is_down = True
        results = await do(remote, step("read_dtcs", "motor"), step("read_dtcs", "gearbox"))
        assert outcomes(results) == [("motor", "failed"), ("gearbox", "failed")]
        assert "malformed" in results[0].detail

    run(test)


def test_everything_is_in_the_audit_log_under_the_operators_name() -> None:
    async def test(bench: Bench, remote: RemoteDiagnostics) -> None:
        await do(remote, step("clear_dtcs", "motor"))
        (record,) = [r for r in bench.records if r.sid == 0x14]
        assert (record.tester.name, record.tester.peer, record.tester.port) == ("user:alice", "order o1", "cloud")
        assert record.tester.is_secure

    run(test)


def test_a_cancelled_order_leaves_nothing_behind() -> None:
    async def test(bench: Bench, remote: RemoteDiagnostics) -> None:
        bench.ecus[MOTOR].script = lambda pdu: []
        with anyio.move_on_after(0.05) as scope:
            await do(remote, step("read_dtcs", "motor"))
        assert scope.cancelled_caught

    run(test)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"[]", "not understood"),
        (b'{"steps":[],"only_if":1}', "unknown field"),
        (b'{"steps":[]}', "0 steps"),
        (b'{"steps":[{"do":"format","ecu":"battery"}]}', "format"),
        (b'{"steps":[{"do":"read_did","ecu":"battery"}]}', "needs a parameter"),
        (b'{"steps":[{"do":"reset","ecu":"*"}]}', "not for all"),
        (b'{"steps":[{"do":"read_did","ecu":"battery","parameter":65536}]}', "0 to"),
        (b'{"steps":[' + b",".join([b'{"do":"identify","ecu":"motor"}'] * 65) + b"]}", "65 steps"),
    ],
)
def test_an_order_that_cannot_be_done_is_refused_before_it_is_accepted(body: bytes, problem: str) -> None:
    with pytest.raises(PeerError, match=problem):
        RemoteDiagnostics(Bench(FAST, default_policy_text()).router, ECUS).check(order_of(body=body))


def test_every_step_there_is_can_be_done() -> None:
    async def test(bench: Bench, remote: RemoteDiagnostics) -> None:
        bench.ecus[BATTERY].script = lambda pdu: [bytes.fromhex("7F") + pdu[:1] + b"\x11"]
        for kind in (*READING, *CHANGING):
            (result,) = await do(remote, step(kind, parameter=0x01))
            assert result.outcome == "negative"

    run(test)


def test_bytes_are_text_only_where_all_are_printable() -> None:
    assert [text_of(b) for b in (b"abc\x00 ", b"\x00", b"a\xff", b"")] == ["abc", "00", "61 FF", ""]

"""Routing: answers find who asked, testers do not disturb each other, nothing stays behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import anyio
import pytest

from gateway.diag.ports import TargetBusyError, TooLongError, UnknownTargetError, UnreachableError
from gateway.diag.router_model import RouterLimits
from gateway.diag.router_target import EcuTarget
from gateway.errors import NotNowError, TransportError
from gateway.firewall.state import VehicleFacts
from gateway.uds.channel import ChannelClosedError
from tests.gateway.diag.router_bench import (
    ALL,
    BATTERY,
    FAST,
    GATEWAY,
    GEARBOX,
    MOTOR,
    OTHER,
    POLLER,
    WORKSHOP,
    Bench,
    ask,
    hear,
    nothing_comes,
    routing,
    until,
)


def run(test: Callable[[Bench], Awaitable[None]], limits: RouterLimits = FAST, policy: str = "") -> None:
    async def main() -> None:
        async with routing(limits, policy) as bench:
            await test(bench)

    asyncio.run(main())


def test_a_request_reaches_its_ecu_and_the_answer_the_tester() -> None:
    async def test(bench: Bench) -> None:
        assert await ask(bench.session(), MOTOR, "22F190") == "62F190"
        assert bench.ecus[MOTOR].heard == [bytes.fromhex("22F190")]
        assert bench.ecus[BATTERY].heard == []

    run(test)


def test_the_gateway_is_a_target_of_its_own() -> None:
    async def test(bench: Bench) -> None:
        assert await ask(bench.session(), GATEWAY, "22F195") == "62F195"
        assert bench.own.heard == [(WORKSHOP, bytes.fromhex("22F195"), False)]

    run(test)


def test_the_gateways_own_server_hears_that_a_tester_left() -> None:
    async def test(bench: Bench) -> None:
        session = bench.session()
        await ask(session, GATEWAY, "1003")
        await session.aclose()
        assert WORKSHOP in bench.own.gone

    run(test)


def test_an_unknown_target_is_told_at_once() -> None:
    async def test(bench: Bench) -> None:
        with pytest.raises(UnknownTargetError):
            await bench.session().send(0x1234, b"\x3e\x00")

    run(test)


def test_a_request_the_bus_does_not_take_is_unreachable_and_the_next_one_passes() -> None:
    async def test(bench: Bench) -> None:
        session, motor = bench.session(), bench.ecus[MOTOR]
        motor.is_down = True
        with pytest.raises(UnreachableError):
            await session.send(MOTOR, b"\x3e\x00")
        motor.is_down = False
        assert await ask(session, MOTOR, "3E00") == "7E00"

    run(test)


def test_a_request_longer_than_the_ecu_takes_is_too_long() -> None:
    async def test(bench: Bench) -> None:
        bench.ecus[MOTOR].max_pdu_bytes = 10
        with pytest.raises(TooLongError):
            await bench.session().send(MOTOR, bytes.fromhex("2EF190") + bytes(20))

    run(test)


def test_a_request_that_the_ecu_has_no_room_for_is_too_long() -> None:
    async def test(bench: Bench) -> None:
        bench.ecus[MOTOR].has_no_room = True
        with pytest.raises(TooLongError):
            await bench.session().send(MOTOR, bytes.fromhex("2EF190") + bytes(4093))

    run(test)


def test_a_channel_that_ends_is_opened_again() -> None:
    async def test(bench: Bench) -> None:
        motor, session = bench.ecus[MOTOR], bench.session()
        before = bench.opened
        motor.is_down = True
        motor.say(ChannelClosedError("interface gone"))
        await until(lambda: not bench.router.statistics().targets[MOTOR].is_reachable)
        with pytest.raises(UnreachableError):
            await session.send(MOTOR, b"\x3e\x00")
        motor.is_down = False
        await until(lambda: bench.router.statistics().targets[MOTOR].is_reachable)
        assert bench.opened > before
        assert await ask(session, MOTOR, "3E00") == "7E00"

    run(test)


def test_a_failed_reception_is_counted_and_the_ecu_stays_usable() -> None:
    async def test(bench: Bench) -> None:
        bench.ecus[MOTOR].say(TransportError("wrong_sn"))
        assert await ask(bench.session(), MOTOR, "3E00") == "7E00"
        assert bench.router.statistics().targets[MOTOR].failed == 1

    run(test)


def test_pending_answers_reach_the_tester_and_keep_the_conversation() -> None:
    async def test(bench: Bench) -> None:
        session, motor = bench.session(), bench.ecus[MOTOR]
        motor.script = lambda pdu: [b"\x7f\x31\x78", b"\x7f\x31\x78", b"\x71" + pdu[1:4]]
        await session.send(MOTOR, bytes.fromhex("3101FF00"))
        assert [(await hear(session))[1] for _ in range(3)] == ["7F3178", "7F3178", "7101FF00"]
        assert bench.router.statistics().targets[MOTOR].pending == 2

    run(test)


def test_pending_for_ever_frees_the_ecu_for_others() -> None:
    async def test(bench: Bench) -> None:
        session, other, motor = bench.session(), bench.session(OTHER), bench.ecus[MOTOR]
        motor.script = lambda pdu: [b"\x7f\x22\x78"] * 6
        await session.send(MOTOR, bytes.fromhex("22F190"))
        for _ in range(6):
            assert (await hear(session))[1] == "7F2278"
        motor.script = motor.obey
        assert await ask(other, MOTOR, "22F195") == "62F195"

    run(test)


def test_a_silent_ecu_gets_no_answer_invented_and_is_free_again() -> None:
    async def test(bench: Bench) -> None:
        session, motor = bench.session(), bench.ecus[MOTOR]
        motor.script = lambda pdu: []
        await session.send(MOTOR, bytes.fromhex("22F190"))
        assert await nothing_comes(session)
        motor.script = motor.obey
        assert await ask(session, MOTOR, "22F195") == "62F195"
        assert bench.router.statistics().targets[MOTOR].unanswered == 1

    run(test)


def test_a_long_answer_that_has_begun_is_waited_for() -> None:
    """P2 ends with its first frame; the message comes when the last one has."""

    async def test(bench: Bench) -> None:
        session, other, motor = bench.session(), bench.session(OTHER), bench.ecus[MOTOR]
        motor.script = lambda pdu: []
        motor.is_receiving = True
        channel = bench.router.open_channel(POLLER, MOTOR)
        await session.send(MOTOR, bytes.fromhex("22F190"))
        assert session.is_receiving_from(MOTOR)
        assert not channel.is_receiving
        assert await ask(other, MOTOR, "22F195") == "7F2221"
        assert await ask(other, MOTOR, "22F195") == "7F2221"
        assert await ask(other, MOTOR, "22F195") == "7F2221"
        motor.is_receiving = False
        motor.say("62F190")
        assert (await hear(session))[1] == "62F190"
        assert bench.router.statistics().targets[MOTOR].unanswered == 0

    run(test)


def test_requests_of_one_tester_keep_their_order() -> None:
    async def test(bench: Bench) -> None:
        session = bench.session()
        for i in range(4):
            await session.send(MOTOR, bytes([0x22, 0xF1, i]))
        assert [(await hear(session))[1] for _ in range(4)] == ["62F100", "62F101", "62F102", "62F103"]

    run(test)


def test_more_requests_than_may_wait_are_refused_and_the_others_served() -> None:
    async def test(bench: Bench) -> None:
        session, motor = bench.session(), bench.ecus[MOTOR]
        motor.gate = asyncio.Event()
        async with anyio.create_task_group() as tg:
            tg.start_soon(session.send, MOTOR, bytes.fromhex("22F100"))
            await until(lambda: not bench.router._target(MOTOR).queue and bench.router._target(MOTOR).is_busy)
            for i in range(4):
                await session.send(MOTOR, bytes([0x22, 0xF2, i]))
            with pytest.raises(TargetBusyError):
                await session.send(MOTOR, bytes.fromhex("22F300"))
            motor.gate.set()
        assert len([await hear(session) for _ in range(5)]) == 5

    run(test)


def test_another_testers_request_behind_a_long_one_gets_busy() -> None:
    async def test(bench: Bench) -> None:
        session, other, motor = bench.session(), bench.session(OTHER), bench.ecus[MOTOR]
        motor.script = lambda pdu: [b"\x7f\x22\x78"]
        await session.send(MOTOR, bytes.fromhex("22F190"))
        assert (await hear(session))[1] == "7F2278"
        assert await ask(other, MOTOR, "22F195") == "7F2221"
        assert await ask(other, MOTOR, "3E00") == "7E00"
        motor.say("62F19041")
        assert (await hear(session))[1] == "62F19041"
        assert [pdu.hex() for pdu in motor.heard] == ["22f190"]

    run(test)


def test_tester_present_without_answer_is_swallowed_during_a_conversation() -> None:
    async def test(bench: Bench) -> None:
        session, other, motor = bench.session(), bench.session(OTHER), bench.ecus[MOTOR]
        motor.script = lambda pdu: [b"\x7f\x22\x78"]
        await session.send(MOTOR, bytes.fromhex("22F190"))
        await hear(session)
        for one in (session, other):
            await one.send(MOTOR, b"\x3e\x80")
        motor.say("62F190")
        assert (await hear(session))[1] == "62F190"
        assert bench.router.statistics().targets[MOTOR].swallowed == 2
        motor.script = motor.obey
        await session.send(MOTOR, b"\x3e\x80")
        await until(lambda: motor.heard[-1] == b"\x3e\x80")

    run(test)


def test_a_suppressed_answer_does_not_hold_up_the_same_tester() -> None:
    async def test(bench: Bench) -> None:
        slow = RouterLimits(p2_margin_ms=3000)  # the ECU would be waited for much longer than the test
        async with routing(slow) as slow_bench:
            session = slow_bench.session()
            await session.send(MOTOR, bytes.fromhex("1083"))
            async with asyncio.timeout(2):
                assert await ask(session, MOTOR, "22F190") == "62F190"

    run(test)


def test_a_late_answer_goes_to_who_asked_and_not_to_the_next_tester() -> None:
    async def test(bench: Bench) -> None:
        session, other, motor = bench.session(), bench.session(OTHER), bench.ecus[MOTOR]
        motor.script = lambda pdu: []
        await session.send(MOTOR, bytes.fromhex("22F190"))
        await until(lambda: bench.router.statistics().targets[MOTOR].unanswered == 1)
        motor.script = lambda pdu: [b"\x62\xf1\x90late", b"\x62\xf1\x95now"]
        await other.send(MOTOR, bytes.fromhex("22F195"))
        assert (await hear(other))[1] == "62F195" + b"now".hex().upper()
        assert (await hear(session))[1] == "62F190" + b"late".hex().upper()

    run(test)


def test_what_an_ecu_sends_by_itself_goes_to_who_set_it_up() -> None:
    async def test(bench: Bench) -> None:
        session, other, motor = bench.session(), bench.session(OTHER), bench.ecus[MOTOR]
        motor.script = lambda pdu: [b"\x6a"] if pdu[0] == 0x2A else motor.obey(pdu)
        assert await ask(session, MOTOR, "2A0101") == "6A"
        assert await ask(other, MOTOR, "22F190") == "62F190"
        motor.say("01AABB")
        assert await hear(session) == (MOTOR, "01AABB")

    run(test)


def test_what_an_ecu_sends_to_a_tester_that_left_goes_to_no_other() -> None:
    async def test(bench: Bench) -> None:
        session, other, motor = bench.session(), bench.session(OTHER), bench.ecus[MOTOR]
        motor.script = lambda pdu: [bytes([pdu[0] | 0x40])]
        await ask(session, MOTOR, "2A0101")
        await session.aclose()
        await ask(other, MOTOR, "22F190")
        before = bench.router.statistics().targets[MOTOR].undelivered
        motor.say("0155")
        assert await nothing_comes(other)
        assert bench.router.statistics().targets[MOTOR].undelivered == before + 1

    run(test)


def test_answers_to_a_tester_that_left_are_counted() -> None:
    async def test(bench: Bench) -> None:
        session, motor = bench.session(), bench.ecus[MOTOR]
        motor.script = lambda pdu: []
        await session.send(MOTOR, bytes.fromhex("22F190"))
        await session.aclose()
        motor.say("62F190")
        await until(lambda: bench.router.statistics().targets[MOTOR].undelivered == 1)
        with pytest.raises(ChannelClosedError):
            await session.receive()
        with pytest.raises(ChannelClosedError):
            await session.send(MOTOR, b"\x3e\x00")

    run(test)


def test_an_inbox_nobody_reads_is_bounded_and_counted() -> None:
    async def test(bench: Bench) -> None:
        session, motor = bench.session(), bench.ecus[MOTOR]
        await ask(session, MOTOR, "3E00")
        for _ in range(400):
            motor.say("01" + "00" * 8)
        await until(lambda: bench.router.statistics().targets[MOTOR].answers == 401)
        assert bench.router.statistics().inbox_dropped == 400 - FAST.inbox_pdus

    run(test)


def test_sessions_are_bounded() -> None:
    async def test(bench: Bench) -> None:
        sessions = [bench.session() for _ in range(3)]
        with pytest.raises(NotNowError):
            bench.session()
        await sessions[0].aclose()
        bench.session()

    run(test, RouterLimits(max_sessions=3))


# what the firewall does to it


def test_a_refusal_comes_as_an_answer_and_nothing_reaches_the_ecu() -> None:
    async def test(bench: Bench) -> None:
        bench.vehicle = VehicleFacts(speed_kmh=30.0)
        assert await ask(bench.session(), MOTOR, "2EF19041") == "7F2E22"
        assert bench.ecus[MOTOR].heard == []

    run(test)


def test_a_request_is_judged_when_it_is_sent_not_when_it_was_queued() -> None:
    async def test(bench: Bench) -> None:
        session, motor = bench.session(), bench.ecus[MOTOR]
        motor.script = lambda pdu: [b"\x7f\x22\x78"] if pdu[0] == 0x22 else motor.obey(pdu)
        await session.send(MOTOR, bytes.fromhex("22F190"))
        await hear(session)
        await session.send(MOTOR, bytes.fromhex("2EF19041"))
        bench.vehicle = VehicleFacts(speed_kmh=30.0)
        motor.say("62F190")
        assert [(await hear(session))[1] for _ in range(2)] == ["62F190", "7F2E22"]
        assert [pdu[0] for pdu in motor.heard] == [0x22]

    run(test)


def test_one_writer_at_a_time_and_readers_beside_it() -> None:
    async def test(bench: Bench) -> None:
        session, other = bench.session(), bench.session(OTHER)
        assert (await ask(session, MOTOR, "1003")).startswith("5003")
        assert await ask(other, MOTOR, "2EF19041") == "7F2E22"
        assert await ask(other, MOTOR, "1003") == "7F1022"
        assert await ask(other, MOTOR, "22F190") == "62F190"
        assert await ask(other, BATTERY, "2EF19041") == "6EF190"

    run(test)


def test_a_tester_that_vanishes_leaves_no_session_to_inherit() -> None:
    async def test(bench: Bench) -> None:
        session, other, motor = bench.session(), bench.session(OTHER), bench.ecus[MOTOR]
        await ask(session, MOTOR, "1003")
        await session.aclose()
        await until(lambda: motor.session == 1)
        await until(lambda: not bench.firewall.statistics().holds)
        assert await ask(other, MOTOR, "2EF19041") == "6EF190"
        assert [pdu.hex() for pdu in motor.heard] == ["1003", "1001", "2ef19041"]

    run(test)


def test_a_session_still_being_opened_when_its_tester_vanishes_is_closed_too() -> None:
    async def test(bench: Bench) -> None:
        session, motor = bench.session(), bench.ecus[MOTOR]
        motor.script = lambda pdu: [b"\x50\x01"] if pdu == b"\x10\x01" else []  # 1003 is not answered yet
        await session.send(MOTOR, b"\x10\x03")
        await session.aclose()
        motor.say("5003000A0006")
        await until(lambda: [pdu.hex() for pdu in motor.heard] == ["1003", "1001"])
        await until(lambda: not bench.firewall.statistics().holds)

    run(test)


def test_a_stop_closes_the_sessions_that_are_open() -> None:
    async def test(bench: Bench) -> None:
        await ask(bench.session(), MOTOR, "1003")
        await ask(bench.session(OTHER), BATTERY, "1003")
        bench.ecus[BATTERY].gate = asyncio.Event()  # hangs: holds up neither the stop nor the others

    made: list[Bench] = []

    async def test_and_stop() -> None:
        async with routing(FAST) as bench:
            made.append(bench)
            await test(bench)

    anyio.run(test_and_stop)
    assert made[0].ecus[MOTOR].session == 1
    assert made[0].ecus[BATTERY].session == 3


def test_an_output_under_control_is_given_back_when_the_vehicle_drives_off() -> None:
    async def test(bench: Bench) -> None:
        session, motor, battery = bench.session(), bench.ecus[MOTOR], bench.ecus[BATTERY]
        await ask(session, MOTOR, "1003")
        await ask(session, BATTERY, "1003")
        assert (await ask(session, MOTOR, "2FD00003FF")).startswith("6F")
        bench.vehicle = VehicleFacts(is_standing=False, speed_kmh=8.0)
        await until(lambda: motor.session == 1)
        assert battery.session == 3
        assert "moving" in [record.kind for record in bench.records]
        assert await ask(session, MOTOR, "2FD00003FF") == "7F2F22"

    run(test)


def test_a_refused_output_leaves_the_session_open_when_the_vehicle_drives_off() -> None:
    async def test(bench: Bench) -> None:
        session, motor = bench.session(), bench.ecus[MOTOR]
        await ask(session, MOTOR, "1003")
        motor.script = lambda pdu: [b"\x7f\x2f\x31"] if pdu[0] == 0x2F else motor.obey(pdu)
        assert await ask(session, MOTOR, "2FD00003FF") == "7F2F31"
        bench.vehicle = VehicleFacts(is_standing=False, speed_kmh=8.0)
        assert await nothing_comes(session)  # longer than the house is kept
        assert motor.session == 3

    run(test)


def test_a_tester_with_two_sessions_has_left_only_when_both_are_closed() -> None:
    async def test(bench: Bench) -> None:
        first, second, motor = bench.session(POLLER), bench.session(POLLER), bench.ecus[MOTOR]
        await ask(first, MOTOR, "1003")
        await first.aclose()
        assert await ask(second, MOTOR, "2EF19041") == "6EF190"
        await second.aclose()
        await until(lambda: motor.session == 1)

    run(test)


def test_an_unreachable_ecu_does_not_stay_locked() -> None:
    async def test(bench: Bench) -> None:
        session, motor = bench.session(), bench.ecus[MOTOR]
        await ask(session, MOTOR, "1003")
        motor.is_down = True
        motor.say(ChannelClosedError("interface gone"))
        await until(lambda: not bench.router.statistics().targets[MOTOR].is_reachable)
        await session.aclose()
        await until(lambda: not bench.firewall.statistics().holds)

    run(test)


def test_a_tester_that_vanishes_in_the_middle_of_a_request_holds_nobody_up() -> None:
    async def test(bench: Bench) -> None:
        session, other, motor = bench.session(), bench.session(OTHER), bench.ecus[MOTOR]
        motor.gate = asyncio.Event()
        with anyio.move_on_after(0.02):
            await session.send(MOTOR, bytes.fromhex("22F190"))
        await session.aclose()
        motor.gate.set()
        await until(lambda: bench.router.statistics().targets[MOTOR].requests == 1)
        assert await ask(other, MOTOR, "22F195") == "62F195"

    run(test)


# functional addressing


def test_a_functional_request_is_one_frame_a_bus_and_answers_tell_who() -> None:
    async def test(bench: Bench) -> None:
        session = bench.session()
        assert sorted(bench.router.functional_targets(ALL)) == [GATEWAY, MOTOR, GEARBOX, BATTERY]
        assert bench.router.functional_targets(MOTOR) == ()
        await session.send(ALL, bytes.fromhex("22F190"))
        answers = sorted([await hear(session) for _ in range(4)])
        assert answers == [(address, "62F190") for address in (GATEWAY, MOTOR, GEARBOX, BATTERY)]
        for ecu in bench.ecus.values():
            assert (ecu.heard, len(ecu.heard_functional)) == ([], 1)

    run(test)


def test_where_one_ecu_may_not_have_it_the_others_are_asked_alone() -> None:
    policy = """
        version = 1
        [[rules]]
        name = "motor is private"
        targets = ["motor"]
        action = "refuse"
        [[rules]]
        name = "the rest"
        action = "allow"
    """

    async def test(bench: Bench) -> None:
        session = bench.session()
        bench.ecus[GEARBOX].script = lambda pdu: [b"\x7f\x22\x31"]  # not sent after a functional request
        await session.send(ALL, bytes.fromhex("22F190"))
        answers = sorted([await hear(session) for _ in range(3)])
        assert answers == [(GATEWAY, "62F190"), (MOTOR, "7F2233"), (BATTERY, "62F190")]
        assert bench.ecus[MOTOR].heard == bench.ecus[MOTOR].heard_functional == []
        assert len(bench.ecus[GEARBOX].heard) == 1
        assert await nothing_comes(session)

    run(test, policy=policy)


def test_a_functional_request_that_waits_for_one_ecu_is_judged_again() -> None:
    async def test(bench: Bench) -> None:
        session, other, motor = bench.session(), bench.session(OTHER), bench.ecus[MOTOR]
        await ask(other, GEARBOX, "1003")  # so that the motor is asked alone
        motor.script = lambda pdu: [b"\x7f\x22\x78"] if pdu[0] == 0x22 else motor.obey(pdu)
        await session.send(MOTOR, bytes.fromhex("22F190"))
        await session.send(ALL, bytes.fromhex("1101"))
        bench.vehicle = VehicleFacts(is_standing=False, speed_kmh=50.0)
        motor.say("62F19000")
        await until(lambda: bench.router.statistics().targets[MOTOR].refused == 1)
        assert [pdu.hex() for pdu in motor.heard] == ["22f190"]

    run(test)


def test_a_functional_request_that_is_no_single_frame_is_too_long() -> None:
    async def test(bench: Bench) -> None:
        session = bench.session()
        bench.router._targets.pop(GATEWAY)
        with pytest.raises(TooLongError):
            await session.send(ALL, bytes.fromhex("22F190F191F192F193"))
        assert await nothing_comes(session)

    run(test)


def test_one_bus_down_does_not_keep_a_functional_request_from_the_others() -> None:
    async def test(bench: Bench) -> None:
        session = bench.session()
        bench.everyone["powertrain"].is_down = True
        await session.send(ALL, bytes.fromhex("22F190"))
        assert sorted([await hear(session) for _ in range(2)]) == [(GATEWAY, "62F190"), (BATTERY, "62F190")]

    run(test)


def test_functional_and_physical_questions_at_once_both_get_their_answer() -> None:
    async def test(bench: Bench) -> None:
        session, other, motor = bench.session(), bench.session(OTHER), bench.ecus[MOTOR]
        motor.script = lambda pdu: []
        await session.send(ALL, bytes.fromhex("22F190"))
        await other.send(MOTOR, bytes.fromhex("22F195"))
        motor.say("62F195")
        motor.say("62F190")
        assert await hear(other) == (MOTOR, "62F195")
        answers = [await hear(session) for _ in range(4)]
        assert (MOTOR, "62F190") in answers

    run(test)


def test_the_same_functional_question_twice_gets_two_answers() -> None:
    async def test(bench: Bench) -> None:
        session, motor = bench.session(), bench.ecus[MOTOR]
        bench.router._targets.pop(GATEWAY)
        motor.script = bench.ecus[GEARBOX].script = bench.ecus[BATTERY].script = lambda pdu: []
        for _ in range(2):
            await session.send(ALL, bytes.fromhex("0100"))
        motor.say("4100AA")
        motor.say("4100BB")
        assert [await hear(session) for _ in range(2)] == [(MOTOR, "4100AA"), (MOTOR, "4100BB")]

    run(test)


def test_a_flood_of_functional_requests_that_nobody_answers_is_bounded() -> None:
    async def test(bench: Bench) -> None:
        session = bench.session()
        bench.router._targets.pop(GATEWAY)
        for ecu in bench.ecus.values():
            ecu.script = lambda pdu: []
        for _ in range(500):
            await session.send(ALL, b"\x3e\x80")
        target = bench.router._targets[MOTOR]
        assert isinstance(target, EcuTarget)
        assert len(target._functional) <= FAST.max_functional
        bench.ecus[MOTOR].script = bench.ecus[MOTOR].obey
        assert await ask(session, MOTOR, "22F190") == "62F190"

    run(test)


def test_clients_inside_the_gateway_speak_through_a_channel() -> None:
    async def test(bench: Bench) -> None:
        channel = bench.router.open_channel(POLLER, MOTOR)
        assert (channel.name, channel.max_pdu_bytes) == ("motor", 4095)
        await channel.send(bytes.fromhex("190209"))
        assert await channel.receive() == bytes.fromhex("5902")
        bench.ecus[MOTOR].say("01AA")
        await until(lambda: bench.router.statistics().targets[MOTOR].answers == 2)
        assert channel.drain() == 1
        await channel.aclose()
        assert bench.router.statistics().sessions == 0
        with pytest.raises(UnknownTargetError):
            bench.router.open_channel(POLLER, 0x4242)

    run(test)

"""Requests, waiting, cancellation and the keep-alive, under a clock that jumps."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import TransportError
from gateway.uds.client import UdsClient
from gateway.uds.errors import MalformedAnswer, NegativeResponse, NoAnswer, PendingTooLong, UnexpectedAnswer
from gateway.uds.names import Session
from gateway.uds.timing import Timing

from .support import Answers, EcuInMemory, LongReceptionEcu, Script, now_ms, run

TIMING = Timing(latency_ms=0, transfer_ms=0)


def ecu(table: dict[str, Any], **options: Any) -> tuple[UdsClient, EcuInMemory]:
    channel = EcuInMemory(Script(table), **options)
    return UdsClient(channel, timing=TIMING), channel


def test_answer_within_p2() -> None:
    async def scenario() -> bytes:
        client, _ = ecu({"22F190": [(49, "62F19041")]})
        return await client.read_did(0xF190)

    assert run(scenario) == b"A"


def test_silence_ends_after_p2_and_tells_how_long_it_waited() -> None:
    async def scenario() -> tuple[float, NoAnswer]:
        client, _ = ecu({})
        begin = now_ms()
        with pytest.raises(NoAnswer) as caught:
            await client.read_did(0xF190)
        return now_ms() - begin, caught.value

    waited, error = run(scenario)
    assert waited == pytest.approx(50)
    assert (error.sid, error.waited_ms, error.pending) == (0x22, 50, 0)


@pytest.mark.parametrize("nrc", [nrc for nrc in range(0x10, 0x100) if nrc not in (0x21, 0x78)])
def test_every_nrc_is_told(nrc: int) -> None:
    async def scenario() -> NegativeResponse:
        client, _ = ecu({"22F190": f"7F22{nrc:02X}"})
        with pytest.raises(NegativeResponse) as caught:
            await client.read_did(0xF190)
        return caught.value

    error = run(scenario)
    assert (error.sid, error.nrc) == (0x22, nrc)
    assert error.name in str(error)


def test_pending_extends_to_p2_star_each_time() -> None:
    async def scenario() -> bytes:
        answers = [(40, "7F2278"), (5000, "7F2278"), (9990, "7F2278"), (14_900, "62F19042")]
        client, _ = ecu({"22F190": answers})
        return await client.read_did(0xF190)

    assert run(scenario) == b"B"


def test_silence_after_pending_ends_after_p2_star() -> None:
    async def scenario() -> tuple[float, NoAnswer]:
        client, _ = ecu({"22F190": [(10, "7F2278")]})
        begin = now_ms()
        with pytest.raises(NoAnswer) as caught:
            await client.read_did(0xF190)
        return now_ms() - begin, caught.value

    waited, error = run(scenario)
    assert waited == pytest.approx(5010)
    assert error.pending == 1


def test_pending_for_ever_is_given_up_by_count() -> None:
    async def scenario() -> PendingTooLong:
        client, _ = ecu({"22F190": [(i * 40, "7F2278") for i in range(1, 1000)]})
        with pytest.raises(PendingTooLong) as caught:
            await client.read_did(0xF190)
        return caught.value

    assert run(scenario).pending == TIMING.max_pending + 1


def test_pending_for_ever_is_given_up_by_time() -> None:
    async def scenario() -> tuple[float, PendingTooLong]:
        timing = Timing(latency_ms=0, transfer_ms=0, max_pending=10_000, max_total_ms=20_000)
        client = UdsClient(EcuInMemory(Script({"22F190": [(i * 4000, "7F2278") for i in range(1000)]})), timing=timing)
        begin = now_ms()
        with pytest.raises(PendingTooLong) as caught:
            await client.read_did(0xF190)
        return now_ms() - begin, caught.value

    waited, _ = run(scenario)
    assert waited == pytest.approx(20_000)


def test_negative_answer_after_pending() -> None:
    async def scenario() -> int:
        client, _ = ecu({"22F190": [(10, "7F2278"), (3000, "7F2222")]})
        with pytest.raises(NegativeResponse) as caught:
            await client.read_did(0xF190)
        return caught.value.nrc

    assert run(scenario) == 0x22


def test_busy_is_repeated_after_a_pause() -> None:
    async def scenario() -> tuple[bytes, list[float]]:
        replies = iter([[(5, b"\x7f\x22\x21")], [(5, b"\x7f\x22\x21")], [(5, b"\x62\xf1\x90\x43")]])
        channel = EcuInMemory(lambda request: next(replies))
        answer = await UdsClient(channel, timing=TIMING).read_did(0xF190)
        return answer, channel.sent_at_ms

    answer, sent = run(scenario)
    assert answer == b"C"
    assert [b - a for a, b in pairwise(sent)] == [pytest.approx(105)] * 2


def test_busy_for_ever_is_told_after_the_repetitions() -> None:
    async def scenario() -> tuple[int, int]:
        client, channel = ecu({"22F190": "7F2221"})
        with pytest.raises(NegativeResponse) as caught:
            await client.read_did(0xF190)
        return caught.value.nrc, len(channel.requests)

    assert run(scenario) == (0x21, 1 + TIMING.busy_retries)


@pytest.mark.parametrize("foreign", ["62F191AA", "6210", "7F1011", "7F22", "", "50030032", "22F190", "7F"])
def test_what_answers_something_else_is_passed_over(foreign: str) -> None:
    async def scenario() -> tuple[bytes, int]:
        client, _ = ecu({"22F190": [(5, foreign), (10, "62F19044")]})
        return await client.read_did(0xF190), client.statistics().stale

    assert run(scenario) == (b"D", 1)


def test_only_foreign_answers_are_told_as_such() -> None:
    async def scenario() -> bytes:
        client, _ = ecu({"22F190": [(5, "62F191AA"), (6, "7F1011")]})
        with pytest.raises(UnexpectedAnswer) as caught:
            await client.read_did(0xF190)
        return caught.value.pdu

    assert run(scenario) == bytes.fromhex("62F191AA")


def test_wrong_echo_of_a_sub_function_is_foreign() -> None:
    async def scenario() -> None:
        client, _ = ecu({"3101FF00": "7102FF00"})
        with pytest.raises(UnexpectedAnswer):
            await client.start_routine(0xFF00)

    run(scenario)


def test_malformed_answer_leaves_the_client_usable() -> None:
    async def scenario() -> bytes:
        client, _ = ecu({"1003": "500300", "22F190": "62F19045"})
        with pytest.raises(MalformedAnswer):
            await client.session(Session.EXTENDED)
        return await client.read_did(0xF190)

    assert run(scenario) == b"E"


def test_stale_answers_are_drained_before_a_request() -> None:
    async def scenario() -> tuple[bytes, int]:
        client, channel = ecu({"22F190": [(20, "62F19046")]})
        channel.later(0, bytes.fromhex("62F190FF"))
        return await client.read_did(0xF190), client.statistics().stale

    assert run(scenario) == (b"F", 1)


def test_late_answer_to_a_cancelled_request_is_never_the_next_ones() -> None:
    """Memory reads repeat nothing of the request: only waiting tells their answers apart."""

    async def scenario() -> tuple[bytes, list[float]]:
        client, channel = ecu({"2311AA01": [(40, "63AA")], "2311BB01": [(40, "63BB")]})
        with anyio.move_on_after(0.010):
            await client.read_memory(0xAA, 1)
        return await client.read_memory(0xBB, 1), channel.sent_at_ms

    answer, sent = run(scenario)
    assert answer == b"\xbb"
    assert sent[1] - sent[0] == pytest.approx(40)


def test_cancelled_request_without_answer_delays_the_next_by_p2_only() -> None:
    async def scenario() -> list[float]:
        client, channel = ecu({"22F190": "62F19041"})
        with anyio.move_on_after(0.010):
            await client.read_memory(0xAA, 1)
        await client.read_did(0xF190)
        return channel.sent_at_ms

    sent = run(scenario)
    assert sent[1] - sent[0] == pytest.approx(50)


def test_cancelled_while_pending_waits_for_the_final_answer() -> None:
    async def scenario() -> tuple[bytes, float]:
        answers = [(10, "7F2378"), (4000, "7F2378"), (8000, "63AA")]
        client, channel = ecu({"2311AA01": answers, "2311BB01": "63BB"})
        with anyio.move_on_after(1):
            await client.read_memory(0xAA, 1)
        answer = await client.read_memory(0xBB, 1)
        return answer, channel.sent_at_ms[1] - channel.sent_at_ms[0]

    answer, gap = run(scenario)
    assert answer == b"\xbb"
    assert gap == pytest.approx(8000)


def test_an_ecu_that_stays_pending_holds_the_next_request_up_for_a_bounded_time() -> None:
    async def scenario() -> float:
        client, channel = ecu({"2311AA01": [(i * 1000, "7F2378") for i in range(1000)], "1101": "5101"})
        with anyio.move_on_after(1.5):
            await client.read_memory(0xAA, 1)
        begin = now_ms()
        await client.reset()
        return channel.sent_at_ms[1] - begin

    assert run(scenario) == pytest.approx(TIMING.settle_ms, abs=2)


def test_cancelled_while_sending() -> None:
    async def scenario() -> bytes:
        client, _ = ecu({"22F190": "62F19041"}, send_ms=30)
        with anyio.move_on_after(0.010):
            await client.read_did(0xF190)
        return await client.read_did(0xF190)

    assert run(scenario) == b"A"


def test_cancelled_twice_while_settling() -> None:
    async def scenario() -> bytes:
        client, _ = ecu({"2311AA01": [(45, "63AA")], "2311BB01": [(40, "63BB")]})
        with anyio.move_on_after(0.010):
            await client.read_memory(0xAA, 1)
        with anyio.move_on_after(0.010):
            await client.read_memory(0xCC, 1)
        return await client.read_memory(0xBB, 1)

    assert run(scenario) == b"\xbb"


def test_answer_after_a_timeout_is_not_taken_for_a_like_looking_one() -> None:
    async def scenario() -> bytes:
        client, _ = ecu({"2311AA01": [(70, "63AA")], "2311BB01": [(5, "63BB")]})
        with pytest.raises(NoAnswer):
            await client.read_memory(0xAA, 1)
        return await client.read_memory(0xBB, 1)

    assert run(scenario) == b"\xbb"


def test_after_a_timeout_an_unlike_request_goes_out_at_once() -> None:
    async def scenario() -> list[float]:
        client, channel = ecu({"22F190": "62F19041"})
        with pytest.raises(NoAnswer):
            await client.read_memory(0xAA, 1)
        await client.read_did(0xF190)
        return channel.sent_at_ms

    sent = run(scenario)
    assert sent[1] - sent[0] == pytest.approx(50, abs=2)


def test_a_late_answer_is_remembered_across_other_requests() -> None:
    async def scenario() -> bytes:
        client, _ = ecu({"2311AA01": [(170, "63AA")], "22F190": [(45, "62F19041")], "2311BB01": [(40, "63BB")]})
        with pytest.raises(NoAnswer):
            await client.read_memory(0xAA, 1)
        await client.read_did(0xF190)
        return await client.read_memory(0xBB, 1)

    assert run(scenario) == b"\xbb"


def test_an_old_seed_is_not_taken_for_a_new_one() -> None:
    async def scenario() -> bytes:
        replies = iter([[(70, b"\x67\x01\xaa")], [(5, b"\x67\x01\xbb")]])
        client = UdsClient(EcuInMemory(lambda request: next(replies)), timing=TIMING)
        with pytest.raises(NoAnswer):
            await client.request_seed(1)
        return await client.request_seed(1)

    assert run(scenario) == b"\xbb"


def test_an_answer_that_came_after_its_time_holds_nobody_up() -> None:
    async def scenario() -> float:
        client, channel = ecu({"2311AA01": [(60, "63AA")], "2311BB01": [(5, "63BB")]})
        with pytest.raises(NoAnswer):
            await client.read_memory(0xAA, 1)
        await anyio.sleep(0.1)
        begin = now_ms()
        await client.read_memory(0xBB, 1)
        return channel.sent_at_ms[1] - begin

    assert run(scenario) < 2


def test_suppressed_answer_is_silence_for_p2() -> None:
    async def scenario() -> tuple[float, list[bytes]]:
        client, channel = ecu({})
        begin = now_ms()
        await client.dtc_setting(on=False, suppress=True)
        return now_ms() - begin, channel.requests

    waited, requests = run(scenario)
    assert waited == pytest.approx(50)
    assert requests == [bytes.fromhex("8582")]


def test_suppressed_answer_may_be_refused() -> None:
    async def scenario() -> int:
        client, _ = ecu({"8582": [(30, "7F8522")]})
        with pytest.raises(NegativeResponse) as caught:
            await client.dtc_setting(on=False, suppress=True)
        return caught.value.nrc

    assert run(scenario) == 0x22


def test_after_pending_the_final_answer_comes_in_spite_of_suppression() -> None:
    async def scenario() -> float:
        client, _ = ecu({"8582": [(30, "7F8578"), (2000, "C502")]})
        begin = now_ms()
        await client.dtc_setting(on=False, suppress=True)
        return now_ms() - begin

    assert run(scenario) == pytest.approx(2000)


def test_after_pending_silence_is_no_success() -> None:
    async def scenario() -> None:
        client, _ = ecu({"8582": [(30, "7F8578")]})
        with pytest.raises(NoAnswer):
            await client.dtc_setting(on=False, suppress=True)

    run(scenario)


def test_the_servers_timing_is_adopted_and_dropped_by_a_reset() -> None:
    async def scenario() -> list[tuple[int, int]]:
        client, _ = ecu({"1003": "500300C803E8", "1101": "5101"})
        await client.session(Session.EXTENDED)
        seen = [(client.timing.p2_ms, client.timing.p2_star_ms)]
        await client.reset()
        return [*seen, (client.timing.p2_ms, client.timing.p2_star_ms), (client.current_session, 0)]

    assert run(scenario) == [(200, 10_000), (50, 5000), (1, 0)]


def test_a_server_that_tells_zero_keeps_ours() -> None:
    async def scenario() -> tuple[int, int]:
        client, _ = ecu({"1003": "500300000000"})
        await client.session(Session.EXTENDED)
        return client.timing.p2_ms, client.timing.p2_star_ms

    assert run(scenario) == (50, 5000)


def test_a_request_longer_than_the_channel_is_refused_unsent() -> None:
    async def scenario() -> int:
        client, channel = ecu({}, max_pdu_bytes=7)
        with pytest.raises(ValueError, match="8 bytes"):
            await client.raw(bytes(8))
        with pytest.raises(ValueError, match="empty"):
            await client.raw(b"")
        return len(channel.requests)

    assert run(scenario) == 0


def test_transport_errors_reach_the_caller_and_the_next_request_works() -> None:
    async def scenario() -> bytes:
        client, channel = ecu({"22F190": [(5, "62F19041")]})
        channel.send_failures.append(TransportError("bus off"))
        with pytest.raises(TransportError, match="bus off"):
            await client.read_did(0xF190)
        channel.failures.append(TransportError("wrong_sn"))
        with pytest.raises(TransportError, match="wrong_sn"):
            await client.read_did(0xF190)
        return await client.read_did(0xF190)

    assert run(scenario) == b"A"


def test_requests_of_several_tasks_go_one_after_the_other() -> None:
    async def scenario() -> tuple[dict[int, bytes], list[float]]:
        client, channel = ecu({f"22F1{i:02X}": [(20, f"62F1{i:02X}{i:02X}")] for i in range(5)})
        found: dict[int, bytes] = {}

        async def read(i: int) -> None:
            found[i] = await client.read_did(0xF100 + i)

        async with anyio.create_task_group() as tasks:
            for i in range(5):
                tasks.start_soon(read, i)
        return found, channel.sent_at_ms

    found, sent = run(scenario)
    assert found == {i: bytes([i]) for i in range(5)}
    assert [b - a for a, b in pairwise(sent)] == [pytest.approx(20)] * 4


def test_two_ecus_at_once_do_not_wait_for_each_other() -> None:
    async def scenario() -> float:
        slow, _ = ecu({"22F190": [(40, "7F2278"), (4000, "62F19041")]})
        quick, _ = ecu({"22F190": [(40, "62F19042")]})
        begin = now_ms()
        quick_ms: list[float] = []

        async def read_quick() -> None:
            for _ in range(10):
                await quick.read_did(0xF190)
            quick_ms.append(now_ms() - begin)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(slow.read_did, 0xF190)
            tasks.start_soon(read_quick)
        return quick_ms[0]

    assert run(scenario) == pytest.approx(400)


def test_a_long_answer_that_has_begun_is_waited_for() -> None:
    """P2 ends with the first frame; the rest may take long."""

    async def scenario() -> bytes:
        channel = LongReceptionEcu(Script({"22F190": [(6000, "62F19041")]}))
        client = UdsClient(channel, timing=TIMING)
        channel.is_receiving = True
        return await client.read_did(0xF190)

    assert run(scenario) == b"A"


def test_a_reception_that_never_ends_is_given_up() -> None:
    async def scenario() -> float:
        channel = LongReceptionEcu(Script({}))
        channel.is_receiving = True
        client = UdsClient(channel, timing=TIMING)
        begin = now_ms()
        with pytest.raises(NoAnswer):
            await client.read_did(0xF190)
        return now_ms() - begin

    assert run(scenario) == pytest.approx(TIMING.max_total_ms)


def test_the_observer_sees_requests_answers_and_stale_ones() -> None:
    async def scenario() -> list[tuple[str, str]]:
        seen: list[tuple[str, str]] = []
        channel = EcuInMemory(Script({"22F190": [(1, "7F1011"), (2, "7F2278"), (3, "62F19041")]}))
        client = UdsClient(channel, timing=TIMING, observer=lambda kind, pdu, at_ns: seen.append((kind, pdu.hex())))
        await client.read_did(0xF190)
        return seen

    assert run(scenario) == [
        ("request", "22f190"), ("stale", "7f1011"), ("answer", "7f2278"), ("answer", "62f19041"),
    ]  # fmt: skip


class Slow:
    """An ECU that answers memory reads, which repeat nothing, after drawn delays, some with 0x78 before."""

    def __init__(self, delays: list[tuple[float, bool]]) -> None:
        self.delays = iter(delays)

    def __call__(self, request: bytes) -> Answers:
        delay_ms, is_pending = next(self.delays, (1, False))
        answer = (delay_ms, b"\x63" + request[2:3])
        return [(min(delay_ms, 20), b"\x7f\x23\x78"), answer] if is_pending else [answer]


@settings(max_examples=150, deadline=None)
@given(
    requests=st.lists(st.tuples(st.integers(0, 255), st.none() | st.floats(0, 200)), min_size=2, max_size=8),
    delays=st.lists(st.tuples(st.floats(0.1, 4000), st.booleans()), min_size=8, max_size=8),
)
def test_no_answer_is_ever_anothers_whatever_is_cancelled_or_late(
    requests: list[tuple[int, float | None]], delays: list[tuple[float, bool]]
) -> None:
    async def scenario() -> list[tuple[int, bytes]]:
        client = UdsClient(EcuInMemory(Slow(delays)), timing=TIMING)
        answers = []
        for address, cancel_ms in requests:
            with anyio.move_on_after(1000 if cancel_ms is None else cancel_ms / 1000), suppress(NoAnswer):
                answers.append((address, await client.read_memory(address, 1, 1, 1)))
        return answers

    for address, content in run(scenario):
        assert content == bytes([address])


# Keep-alive


def test_a_session_is_kept_alive_every_half_s3() -> None:
    async def scenario() -> list[tuple[str, float]]:
        channel = EcuInMemory(Script({"1003": "5003003201F4", "1001": "5001003201F4"}))
        async with UdsClient(channel, timing=TIMING) as client:
            await anyio.sleep(60)  # the default session needs none
            begin = now_ms()
            await client.session(Session.EXTENDED)
            await anyio.sleep(8)
            await client.session(Session.DEFAULT)
            await anyio.sleep(60)
        return [(r.hex(), round(at - begin)) for r, at in zip(channel.requests, channel.sent_at_ms, strict=True)]

    assert run(scenario) == [("1003", 0), ("3e80", 2500), ("3e80", 5000), ("3e80", 7500), ("1001", 8000)]


def test_requests_keep_a_session_alive_themselves() -> None:
    async def scenario() -> list[bytes]:
        channel = EcuInMemory(Script({"1003": "5003003201F4", "22F190": "62F19041"}))
        async with UdsClient(channel, timing=TIMING) as client:
            await client.session(Session.EXTENDED)
            for _ in range(10):
                await anyio.sleep(2)
                await client.read_did(0xF190)
        return [r for r in channel.requests if r[0] == 0x3E]

    assert run(scenario) == []


def test_no_keep_alive_disturbs_a_long_request() -> None:
    async def scenario() -> list[bytes]:
        pending = [(i * 3000, "7F3178") for i in range(1, 10)]
        channel = EcuInMemory(
            Script({"1003": "5003003201F4", "3101FF00": [(1, "7F3178"), *pending, (29_000, "7101FF00")]})
        )
        async with UdsClient(channel, timing=TIMING) as client:
            await client.session(Session.EXTENDED)
            await client.start_routine(0xFF00)
        return channel.requests

    assert [r[0] for r in run(scenario)] == [0x10, 0x31]


def test_a_refused_keep_alive_is_nobodys_answer() -> None:
    async def scenario() -> bytes:
        channel = EcuInMemory(Script({"1003": "5003003201F4", "3E80": "7F3E13", "22F190": [(10, "62F19041")]}))
        async with UdsClient(channel, timing=TIMING) as client:
            await client.session(Session.EXTENDED)
            await anyio.sleep(2.505)
            return await client.read_did(0xF190)

    assert run(scenario) == b"A"


def test_a_keep_alive_that_cannot_be_sent_does_not_end_the_client() -> None:
    async def scenario() -> bytes:
        channel = EcuInMemory(Script({"1003": "5003003201F4", "22F190": "62F19041"}))
        async with UdsClient(channel, timing=TIMING) as client:
            await client.session(Session.EXTENDED)
            channel.send_failures.append(TransportError("bus off"))
            await anyio.sleep(3)
            return await client.read_did(0xF190)

    assert run(scenario) == b"A"


def test_errors_leave_the_context_as_they_are() -> None:
    async def scenario() -> None:
        channel = EcuInMemory(Script({"1003": "5003003201F4", "22F190": "7F2231"}))
        async with UdsClient(channel, timing=TIMING) as client:
            await client.session(Session.EXTENDED)
            await client.read_did(0xF190)

    with pytest.raises(NegativeResponse):
        run(scenario)


def test_cancellation_leaves_the_context() -> None:
    async def scenario() -> bool:
        channel = EcuInMemory(Script({"1003": "5003003201F4"}))
        with anyio.move_on_after(10) as scope:
            async with UdsClient(channel, timing=TIMING) as client:
                await client.session(Session.EXTENDED)
                await anyio.sleep(1000)
        return scope.cancelled_caught

    assert run(scenario)


# Unsolicited messages


def test_periodic_messages_come_between_requests() -> None:
    async def scenario() -> tuple[list[tuple[int, bytes]], list[bytes]]:
        client, _ = ecu(
            {"2A0301": [(1, "6A"), *[(10 * i, f"6A01{i:02X}") for i in range(1, 6)]], "22F190": [(25, "62F19041")]}
        )
        await client.periodic(3, [0xF201])
        messages: list[tuple[int, bytes]] = []
        answers: list[bytes] = []

        async def listen() -> None:
            async for message in client.periodic_messages():
                messages.append((message.did, message.data))
                if len(messages) == 5:
                    return

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen)
            await anyio.sleep(0.005)
            answers.append(await client.read_did(0xF190))
        return messages, answers

    messages, answers = run(scenario)
    assert messages == [(0xF201, bytes([i])) for i in range(1, 6)]
    assert answers == [b"A"]


def test_periodic_data_is_not_taken_for_the_answer_to_a_second_request_for_it() -> None:
    async def scenario() -> bytes:
        client, _ = ecu({"2A0301": "6A", "2A0302": [(5, "6A0141"), (10, "6A")]})
        await client.periodic(3, [0xF201])
        await client.periodic(3, [0xF202])
        return await client.next_unsolicited()

    assert run(scenario) == bytes.fromhex("6A0141")


def test_a_request_does_not_wait_for_a_listener() -> None:
    async def scenario() -> float:
        client, _ = ecu({"22F190": [(10, "62F19041")]})
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.next_unsolicited)
            await anyio.sleep(1)
            begin = now_ms()
            await client.read_did(0xF190)
            took = now_ms() - begin
            tasks.cancel_scope.cancel()
        return took

    assert run(scenario) == pytest.approx(10)


def test_unsolicited_messages_are_bounded_and_their_loss_counted() -> None:
    async def scenario() -> tuple[bytes, int]:
        flood = [(1 + i / 1000, f"6A01{i:04X}") for i in range(1100)]  # each a little later: timers keep no order
        client, _ = ecu({"2A0301": "6A", "22F190": [*flood, (20, "62F19041")]})
        await client.periodic(3, [1])
        await client.read_did(0xF190)
        return await client.next_unsolicited(), client.statistics().unsolicited_lost

    assert run(scenario) == (bytes.fromhex("6A01") + (76).to_bytes(2, "big"), 76)

"""The client against the simulated ECUs, which share no protocol code with it: each service by both readings of the
standard, in memory and under a clock that jumps."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio
import msgspec
import pytest
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC

from gateway.diag.config import EcuConfig, PollSection
from gateway.diag.poll import DtcPoller
from gateway.runtime import HealthBoard
from gateway.uds.client import UdsClient
from gateway.uds.codec import data, events, load, secured
from gateway.uds.errors import NegativeResponse, NoAnswer, PendingTooLong
from gateway.uds.names import Nrc, Session
from gateway.uds.timing import Timing
from gateway.uds.transfer import download, upload
from gateway.wire.dtc import parse_dtc
from simulator.ecu.control import ECU_ACTIONS
from simulator.ecu.description import EcuDescription, ecu_names
from simulator.ecu.dtc_unit import fault_unit
from simulator.ecu.keys import ALGORITHMS
from tests.gateway.diag.test_poll import LoopClock, Sink
from tests.simulator.ecu.support import Bench
from tests.simulator.ecu.test_flash import BASE, small

from .support import EcuInMemory, now_ms, run

T = TypeVar("T")


class SimulatedEcu(EcuInMemory):
    """A simulated ECU at the end of the channel; ``live`` lets its time pass."""

    def __init__(self, ecu: str | EcuDescription) -> None:
        super().__init__(lambda request: ())
        self.bench = Bench(ecu, now_s=anyio.current_time())
        self.server = self.bench.server
        self.uudt: list[bytes] = []

    async def send(self, pdu: bytes) -> None:
        await super().send(pdu)
        now_s = anyio.current_time()
        for out in self.server.receive(pdu, functional=False, now_s=now_s):
            self._deliver(out.pdu, out.uudt)

    def _deliver(self, pdu: bytes, is_uudt: bool) -> None:
        self.uudt.append(pdu) if is_uudt else self.later(0, pdu)

    async def live(self) -> None:
        while True:
            await anyio.sleep(0.01)
            self.bench.vehicle.now_s = anyio.current_time()
            for out in self.server.poll(anyio.current_time()):
                self._deliver(out.pdu, out.uudt)


@asynccontextmanager
async def connected(ecu: str | EcuDescription) -> AsyncIterator[tuple[UdsClient, SimulatedEcu]]:
    channel = SimulatedEcu(ecu)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(channel.live)
        async with UdsClient(channel, timing=Timing(latency_ms=0, transfer_ms=0)) as client:
            yield client, channel
        tasks.cancel_scope.cancel()


def on(ecu: str | EcuDescription, work: Callable[[UdsClient, SimulatedEcu], Awaitable[T]]) -> T:
    async def scenario() -> T:
        async with connected(ecu) as (client, channel):
            return await work(client, channel)

    return run(scenario)


async def unlock(client: UdsClient, ecu: SimulatedEcu, level: int) -> None:
    about = next(s for s in ecu.server.description.security if s.level == level)
    constant = bytes.fromhex(about.constant)
    assert await client.security_access(level, lambda _level, seed: ALGORITHMS[about.algorithm](seed, constant))


@pytest.mark.parametrize("name", ecu_names())
def test_every_identifier_of_every_ecu_has_its_length(name: str) -> None:
    async def work(client: UdsClient, ecu: SimulatedEcu) -> None:
        await client.session(Session.EXTENDED)
        dids = [d for d in ecu.server.description.dids if d.read and not d.read.security and not d.read.authenticated]
        for did in dids:
            assert len(await client.read_did(did.id)) == did.length
        lengths = {did.id: did.length for did in dids[:4]}
        found = await client.read_dids([did.id for did in dids[:4]], lengths)
        assert {did: len(content) for did, content in found.items()} == lengths

    on(name, work)


@pytest.mark.parametrize("name", ecu_names())
def test_every_report_of_faults_of_every_ecu(name: str) -> None:
    async def work(client: UdsClient, ecu: SimulatedEcu) -> None:
        unit = fault_unit(ecu.server.context)
        code = next(iter(unit.memory.codes))
        fail(ecu, code)
        listed = await client.read_dtcs(0x01)
        assert [d.code for d in listed.dtcs] == [code]
        assert (await client.count_dtcs(0x01)).count == 1
        assert {d.code for d in (await client.supported_dtcs()).dtcs} == set(unit.memory.codes)
        for only in (client.first_failed_dtc, client.most_recent_failed_dtc):
            assert [d.code for d in (await only()).dtcs] == [code]
        assert {(s.code, s.record) for s in await client.snapshot_ids()} == {(code, 1), (code, 2)}
        lengths = {did.id: did.length for did in ecu.server.description.dids}
        snapshots = await client.snapshots(code, lengths=lengths)
        assert [r.record for r in snapshots.records] == [1, 2]
        assert snapshots.records[0].values
        assert not snapshots.records[0].rest
        assert (await client.stored_snapshots(1, lengths))[0].code == code
        one = await client.extended_data(code, 1)
        assert one.records[0].data == b"\x01"
        assert [e.code for e in await client.extended_data_by_record(1, 1)] == [code]
        assert code in {d.code for d in (await client.extended_data_support(1)).dtcs}
        severity = await client.severity_of(code)
        assert severity is not None
        assert severity.code == code
        assert [d.code for d in (await client.read_by_severity(0xFF, 0x01)).dtcs] in ([code], [])
        await client.fault_counters()
        await client.clear()
        assert (await client.read_dtcs(0x01)).dtcs == ()

    on(name, work)


def fail(ecu: SimulatedEcu, code: int) -> None:
    """The test of a code fails now."""
    ECU_ACTIONS["dtc_report"](ecu.server.context, {"code": f"{code:06X}", "failed": True}, anyio.current_time())


def test_security_writing_memory_and_control() -> None:
    async def work(client: UdsClient, ecu: SimulatedEcu) -> None:
        with pytest.raises(NegativeResponse) as caught:
            await client.write_did(0x0301, b"\x00\x64")
        assert caught.value.nrc == Nrc.SERVICE_NOT_IN_SESSION
        await client.session(Session.EXTENDED)
        await client.write_did(0x0301, b"\x00\x64")
        assert await client.read_did(0x0301) == b"\x00\x64"
        with pytest.raises(NegativeResponse) as caught:
            await client.read_memory(0x80000, 16, 4, 2)
        assert caught.value.nrc == Nrc.SECURITY_ACCESS_DENIED
        await unlock(client, ecu, 3)
        await client.write_memory(0x20000000, b"hello", 4, 2)
        assert await client.read_memory(0x20000000, 5, 4, 2) == b"hello"
        assert await client.io_control(0x0210, data.IoControl.ADJUST, b"\x50") == b"\x50"
        await client.io_control(0x0210, data.IoControl.RETURN_CONTROL)
        await client.read_scaling(0x0100)

    on("motor", work)


def test_a_routine_that_takes_its_time_and_a_session_that_stays() -> None:
    async def work(client: UdsClient, ecu: SimulatedEcu) -> None:
        await client.session(Session.EXTENDED)
        await client.start_routine(0x0200)
        await anyio.sleep(30)  # six times S3
        assert await client.read_did(0xF186) == b"\x03"
        assert (await client.routine_result(0x0200))[-2:] == b"\0\0"
        assert client.statistics().keep_alives == 12

    on("motor", work)


def test_a_reset_ecu_is_deaf_then_in_the_default_session() -> None:
    async def work(client: UdsClient, ecu: SimulatedEcu) -> None:
        await client.session(Session.EXTENDED)
        await client.reset()
        await anyio.sleep(0.1)
        with pytest.raises(NoAnswer):
            await client.read_did(0xF186)
        await anyio.sleep(2)
        assert await client.read_did(0xF186) == b"\x01"

    on("motor", work)


def test_communication_timing_settings_and_link() -> None:
    async def work(client: UdsClient, ecu: SimulatedEcu) -> None:
        await client.session(Session.EXTENDED)
        await client.communication_control(3)
        await client.communication_control(0, suppress=True)
        await client.dtc_setting(on=False)
        await client.dtc_setting(on=True, suppress=True)
        assert len(await client.access_timing(3)) == 4
        assert len(await client.access_timing(1)) == 4
        await client.tester_present()
        await client.link_control(fixed=0x12)

    on("motor", work)


def test_defined_and_periodic_identifiers() -> None:
    async def work(client: UdsClient, ecu: SimulatedEcu) -> None:
        await client.session(Session.EXTENDED)
        await client.define_did(0xF301, [data.DidSource(0xF18A, 1, 3), data.DidSource(0xF189, 1, 2)])
        assert await client.read_did(0xF301) == b"OUT01"
        await client.define_did_by_memory(0xF302, [data.MemorySource(0x20000000, 4)], 4, 1)
        assert await client.read_did(0xF302) == bytes(4)
        await client.clear_did(0xF301)
        with pytest.raises(NegativeResponse):
            await client.read_did(0xF301)
        await client.periodic(data.Rate.FAST, [0xF201])
        await anyio.sleep(1)
        await client.periodic(data.Rate.STOP)
        count = len(ecu.uudt)
        assert count in range(15, 25)
        assert {frame[0] for frame in ecu.uudt} == {0x01}
        await anyio.sleep(1)
        assert len(ecu.uudt) == count

    on("motor", work)


def test_events_answer_by_themselves() -> None:
    async def work(client: UdsClient, ecu: SimulatedEcu) -> None:
        await client.response_on_event(
            events.EventType.ON_DTC_STATUS_CHANGE, record=b"\x01", service=b"\x19\x02\x01", window=2
        )
        assert [e.service for e in await client.activated_events()] == [b"\x19\x02\x01"]
        await client.response_on_event(events.EventType.START, window=2)
        code = next(iter(fault_unit(ecu.server.context).memory.codes))
        fail(ecu, code)
        with anyio.fail_after(2):
            told = await client.next_unsolicited()
        assert told[:2] == b"\x59\x02"
        assert int.from_bytes(told[3:6], "big") == code
        await client.response_on_event(events.EventType.CLEAR, window=2)
        assert await client.activated_events() == ()

    on("motor", work)


class Cmac:
    """What the simulated ECUs agree to protect 0x84 with."""

    def __init__(self, key: bytes) -> None:
        self._key, self._counter = key, 0

    def _sign(self, content: bytes) -> bytes:
        mac = CMAC(AES(self._key))
        mac.update(content)
        return mac.finalize()

    def protect(self, inner: bytes) -> secured.SecuredMessage:
        self._counter += 1
        wanted = secured.Administrative.IS_REQUEST | secured.Administrative.SIGNED | secured.Administrative.SIGN_ANSWER
        blank = secured.SecuredMessage(wanted, 0, self._counter, inner, bytes(16))
        signature = self._sign(blank.signed_part() + inner)
        return secured.SecuredMessage(wanted, 0, self._counter, inner, signature)

    def verify(self, message: secured.SecuredMessage) -> bytes:
        if message.signature != self._sign(message.signed_part() + message.content) or message.counter != self._counter:
            raise ValueError("not genuine")
        return message.content


def test_secured_data_transmission() -> None:
    async def work(client: UdsClient, ecu: SimulatedEcu) -> None:
        protection = Cmac(bytes.fromhex(ecu.server.description.secured_key))
        assert await client.secured(b"\x22\xf1\x86", protection) == b"\x62\xf1\x86\x01"
        with pytest.raises(NegativeResponse) as caught:
            await client.secured(b"\x22\xff\xee", protection)
        assert (caught.value.sid, caught.value.nrc) == (0x22, 0x31)
        with pytest.raises(NegativeResponse) as caught:
            await client.secured(b"\x22\xf1\x86", Cmac(bytes(16)))
        assert (caught.value.sid, caught.value.nrc) == (0x84, 0x3A)

    on("motor", work)


@pytest.mark.parametrize(
    ("quirk", "value", "outcome"),
    [
        ("pending_for_ever", (0x22,), PendingTooLong),
        ("mute", (0x22,), NoAnswer),
        ("busy_times", 3, None),
        ("slow_ms", 7000, None),
    ],
)
def test_ecus_that_misbehave(quirk: str, value: object, outcome: type[Exception] | None) -> None:
    async def work(client: UdsClient, ecu: SimulatedEcu) -> float:
        context = ecu.server.context
        context.quirks = msgspec.structs.replace(context.quirks, **{quirk: value})
        begin = now_ms()
        if outcome is None:
            assert await client.read_did(0xF186) == b"\x01"
        else:
            with pytest.raises(outcome):
                await client.read_did(0xF186)
        return now_ms() - begin

    took = on("motor", work)
    assert took == pytest.approx({"mute": 50, "busy_times": 300, "slow_ms": 7000}.get(quirk, took), abs=30)


def test_download_check_and_upload() -> None:
    content = bytes(range(256)) * 20

    async def work(client: UdsClient, ecu: SimulatedEcu) -> None:
        await client.session(Session.EXTENDED)
        await client.session(Session.PROGRAMMING)
        await client.start_routine(0xFF00, bytes([0x44]) + BASE.to_bytes(4, "big") + (8192).to_bytes(4, "big"))
        done = await download(client, BASE, content)
        assert done.record == zlib.crc32(content).to_bytes(4, "big")
        assert done.blocks == 40
        assert await upload(client, BASE, len(content)) == content

    on(small(), work)


def test_files_are_added_listed_and_read() -> None:
    async def work(client: UdsClient, ecu: SimulatedEcu) -> None:
        await client.session(Session.EXTENDED)
        accepted = await client.transfer_file(load.FileMode.ADD, "/a.txt", size=5, width=2)
        assert accepted.max_block_bytes == 130
        await client.transfer(1, b"hello")
        await client.transfer_exit()
        found = await client.transfer_file(load.FileMode.READ, "/a.txt")
        assert (found.size_bytes, await client.transfer(1)) == (5, b"hello")
        await client.transfer_exit()
        await client.transfer_file(load.FileMode.DELETE, "/a.txt")

    on(small(), work)


def test_the_poller_finds_a_fault_with_its_snapshot() -> None:
    async def scenario() -> Sink:
        sink = Sink()
        channel = SimulatedEcu("motor")
        config = EcuConfig(name="motor", bus="powertrain", logical_address=0x1010)
        poller = DtcPoller(
            ecus=[config], section=PollSection(period_s=10, first_s=1, status_mask=0x01),
            open_channel=lambda ecu: channel, outlet=sink, clock=LoopClock(), health=HealthBoard(), store=None,
        )  # fmt: skip
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(channel.live)
            await tasks.start(lambda *, task_status: poller.run(task_status=task_status))
            await anyio.sleep(5)
            fail(channel, parse_dtc("P0562-16"))
            await anyio.sleep(10)
            tasks.cancel_scope.cancel()
        return sink

    (report,) = run(scenario).reports
    assert (report.change, report.code, report.occurrences) == ("new", parse_dtc("P0562-16"), 1)
    assert [len(s.values) for s in report.snapshots] == [6, 6]
    assert report.snapshots[0].values[0].value == f"{1380:04X}"  # 13.8 V in hundredths

"""An operator's job reaches the ECUs of a real vehicle's link through a real cloud, and its results come back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from cloud.auth.audit import CLI
from cloud.diagnostics.jobs import JobOrder
from cloud.diagnostics.results import OrderView
from cloud.diagnostics.selection import Selection
from gateway.command.desk import OrderDesk
from gateway.command.store import OrderStore
from gateway.diag.remote import RemoteDiagnostics
from gateway.diag.remote_watch import RefusalWatch
from gateway.diag.router import Router
from gateway.firewall.policy import default_policy_text
from gateway.firewall.state import VehicleFacts
from gateway.link.backoff import Backoff
from gateway.runtime import SystemClock
from gateway.wire.diagnostics import Step
from tests.chain.roadside import LinkedVehicle, RealCloud, until
from tests.gateway.diag.router_bench import BATTERY, ECUS, FAST, GATEWAY, Bench

pytestmark = pytest.mark.anyio
READ = Step(do="read_dtcs", ecu="battery")
CLEAR = Step(do="clear_dtcs", ecu="battery")


class Car(Bench):
    """ECUs, firewall and router of a linked vehicle that obeys orders."""

    def __init__(self, linked: LinkedVehicle, directory: Path) -> None:
        super().__init__(FAST, default_policy_text())
        watch = RefusalWatch(self.firewall)
        self.router = Router(
            ECUS,
            open_channel=self._open_channel,
            open_functional=self._open_functional,
            firewall=watch,
            clock=SystemClock(),
            own=self.own,
            limits=FAST,
        )
        self.ecus[BATTERY].script = self.answer
        self.linked = linked
        self.desk = OrderDesk(
            vehicle=linked.name,
            key=linked.identity.order_key,
            store=OrderStore(directory / "orders"),
            handlers={"diagnostics": RemoteDiagnostics(self.router, ECUS, watch=watch, own_address=GATEWAY)},
            sender=linked.client,
            backoff=Backoff(0.02, 0.1, lambda: 0.5),
            clock=SystemClock(),
            health=linked.health,
        )
        linked.wishes.orders = self.desk

    def answer(self, pdu: bytes) -> list[bytes]:
        """A fault, until it is cleared."""
        if pdu[0] == 0x14:
            self.ecus[BATTERY].session = 9
            return [b"\x54"]
        if pdu[0] == 0x19:
            has_fault = self.ecus[BATTERY].session != 9
            return [bytes.fromhex("5902FF") + (bytes.fromhex("0AA6162F") if has_fault else b"")]
        return list(self.ecus[BATTERY].obey(pdu))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tg:
            await tg.start(self.router.run)
            await tg.start(lambda task_status: self.desk.run(task_status=task_status))
            async with self.linked.running():
                yield
            tg.cancel_scope.cancel()


@asynccontextmanager
async def driving(tmp_path: Path, **options: Any) -> AsyncIterator[tuple[RealCloud, Car]]:
    cloud = RealCloud(tmp_path / "cloud")
    await cloud.start()
    try:
        await cloud.enrol("VIN1", tmp_path / "car" / "identity")
        car = Car(LinkedVehicle(tmp_path / "car", **options), tmp_path / "car")
        async with car.running():
            yield cloud, car
    finally:
        await cloud.stop()


async def ask(cloud: RealCloud, *steps: Step, expires_s: int | None = None) -> int:
    """Make a job as the console does; its number."""
    order = JobOrder(steps=steps, wanted=Selection(vehicles=("VIN1",)), expires_s=expires_s)
    diagnostics = cloud.services.diagnostics
    made = await diagnostics.jobs.create(order, CLI, may_change=True)
    for vehicle in await diagnostics.jobs.vehicles_of(made.job.id):
        cloud.services.downlinks.notify(vehicle)
    return made.job.id


async def outcome(cloud: RealCloud, job_id: int, *states: str) -> OrderView:
    """The vehicle's part, once it is in one of these states."""
    found: list[OrderView] = []

    async def is_there() -> bool:
        found[:], _ = await cloud.services.diagnostics.results.orders(job_id, "", 10, 0)
        return found[0].state in states

    await until(f"job {job_id} in {states}", is_there)
    return found[0]


async def test_a_fault_is_read_cleared_and_gone_by_push_and_everyone_has_it_in_the_audit(tmp_path: Path) -> None:
    async with driving(tmp_path, check_in_s=60.0, parts=("check-in", "downlink")) as (cloud, car):
        order = await outcome(cloud, await ask(cloud, READ, CLEAR, READ), "completed")
        assert [(r.do, r.outcome, [d.dtc for d in r.dtcs]) for r in order.results] == [
            ("read_dtcs", "ok", ["P0AA6-16"]),
            ("clear_dtcs", "ok", []),
            ("read_dtcs", "ok", []),
        ]
        assert order.results[0].dtcs[0].text == "High-voltage insulation too low (voltage below its limit)"
        cleared = [r for r in car.records if r.sid == 0x14]
        assert [(r.tester.name, r.kind) for r in cleared] == [("cli", "write")]
        trail = cloud.query("SELECT actor, action, target, detail FROM audit WHERE action LIKE 'diagnostics.%'")
        assert [(row[0], row[1]) for row in trail] == [
            ("cli", "diagnostics.job"),
            ("vehicle:VIN1", "diagnostics.result"),
        ]
        assert "clear_dtcs battery ok" in trail[1][3]


async def test_orders_come_by_poll_where_there_is_no_downlink(tmp_path: Path) -> None:
    async with driving(tmp_path, parts=("check-in",)) as (cloud, _):
        assert (await outcome(cloud, await ask(cloud, READ), "completed")).good == 1


async def test_what_the_policy_forbids_while_moving_is_a_refused_step_with_its_rule(tmp_path: Path) -> None:
    async with driving(tmp_path) as (cloud, car):
        car.vehicle = VehicleFacts(is_standing=False, speed_kmh=50.0)
        order = await outcome(cloud, await ask(cloud, CLEAR, READ), "completed")
        assert [r.outcome for r in order.results] == ["refused", "ok"]
        assert "rule 'cloud does nothing else'" in order.results[0].detail
        assert (order.good, order.bad) == (1, 1)
        assert (await outcome(cloud, await ask(cloud, CLEAR), "failed")).bad == 1


async def test_a_result_found_while_the_cloud_is_away_arrives_when_it_is_back(tmp_path: Path) -> None:
    async with driving(tmp_path) as (cloud, car):
        hold = anyio.Event()
        send = car.linked.client.send_result

        async def held(result: Any) -> None:
            await hold.wait()
            await send(result)

        car.linked.client.send_result = held  # type: ignore[method-assign]  # the network
        job = await ask(cloud, READ)
        await until("the result on disk", lambda: len(list((tmp_path / "car/orders/outbox").glob("*.json"))) == 3)
        await cloud.restart()
        hold.set()
        assert (await outcome(cloud, job, "completed")).good == 1


async def test_a_cloud_restored_from_before_the_result_is_told_and_nothing_is_repeated(tmp_path: Path) -> None:
    async with driving(tmp_path) as (cloud, car):
        hold = anyio.Event()
        send = car.linked.client.send_result

        async def held(result: Any) -> None:
            await hold.wait()
            await send(result)

        car.linked.client.send_result = held  # type: ignore[method-assign]  # the network
        job = await ask(cloud, CLEAR)
        await until("the order done", lambda: car.desk.accepted == 1 and bool(car.ecus[BATTERY].heard))
        backup = cloud.save()
        hold.set()
        await outcome(cloud, job, "completed")
        await cloud.restore(backup)
        order = await outcome(cloud, job, "failed")
        assert order.detail.startswith("replayed")
        assert car.ecus[BATTERY].heard == [bytes.fromhex("14FFFFFF")]


async def test_a_vehicle_enrolled_before_there_were_orders_gets_the_key_by_renewing_once(tmp_path: Path) -> None:
    cloud = RealCloud(tmp_path / "cloud")
    await cloud.start()
    try:
        identity = await cloud.enrol("VIN1", tmp_path / "car" / "identity")
        facts = json.loads((identity.directory / "identity.json").read_text())
        del facts["order_key"]
        (identity.directory / "identity.json").write_text(json.dumps(facts))
        assert identity.order_key() == b""
        car = Car(LinkedVehicle(tmp_path / "car", parts=("check-in", "downlink", "certificate")), tmp_path / "car")
        async with car.running():
            await until("the key", lambda: bool(identity.order_key()))
            assert (await outcome(cloud, await ask(cloud, READ), "completed")).good == 1
        renewals = cloud.query("SELECT count(*) FROM certificates WHERE issued_for='renewal'")
        assert renewals == [(1,)]
    finally:
        await cloud.stop()


async def test_a_cancelled_job_is_not_carried_out(tmp_path: Path) -> None:
    async with driving(tmp_path, parts=()) as (cloud, car):
        job = await ask(cloud, CLEAR)
        assert (await cloud.services.diagnostics.jobs.cancel(job, CLI)).cancelled == 1
        reply = await cloud.services.check_ins.wishes("VIN1")
        assert reply.orders == ()
        assert car.desk.accepted == 0


async def test_nobody_answers_for_another_vehicle(tmp_path: Path) -> None:
    async with driving(tmp_path, parts=()) as (cloud, _):
        job = await ask(cloud, READ)
        (order,) = (await cloud.services.diagnostics.results.orders(job, "", 1, 0))[0]
        other = await cloud.enrol("VIN2", tmp_path / "other")
        body = {"order": order.id, "state": "done", "at_ns": 1}
        async with httpx.AsyncClient(verify=other.tls_context(), trust_env=False) as http:
            answer = await http.post(cloud.addresses.vehicle_url + "/v1/diagnostics/results", json=body)
        assert answer.status_code == 404
        assert (await cloud.services.diagnostics.results.orders(job, "", 1, 0))[0][0].state == "pending"

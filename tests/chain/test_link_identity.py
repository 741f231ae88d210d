"""Under whose name a vehicle speaks: renewal, revocation, expiry, and the certificate of another vehicle."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import anyio
import pytest
from cryptography import x509

from cloud.auth.audit import CLI
from gateway.errors import ConfigError
from gateway.link.checkin import CertificateKeeper
from gateway.link.client import CloudClient
from gateway.link.identity import Identity, make_key_request
from gateway.wire.api import EnrolReply
from tests.chain.roadside import LinkedVehicle, RealCloud, until
from tests.cloud.support import make_pki

pytestmark = pytest.mark.anyio
DAY_NS = 86_400_000_000_000


class LaterClock:
    """The machine's clock, so much later."""

    def __init__(self, offset_ns: int) -> None:
        self.offset_ns = offset_ns

    def utc_ns(self) -> int:
        return time.time_ns() + self.offset_ns

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()


def serial(identity: Identity) -> int:
    return identity.certificate().serial_number


async def test_renewal_takes_effect_for_uploads_and_downlink_with_nothing_lost(
    cloud: RealCloud, tmp_path: Path
) -> None:
    identity = await cloud.enrol("VIN1", tmp_path / "identity")
    first = serial(identity)
    async with LinkedVehicle(tmp_path).running() as vehicle:
        await until("the downlink", lambda: vehicle.says("downlink") == "ok")
        keeper = CertificateKeeper(
            client=vehicle.client,
            identity=identity,
            vehicle="VIN1",
            health=vehicle.health,
            clock=LaterClock(61 * DAY_NS),  # of 90: more than two thirds
            period_s=0.1,
        )
        async with anyio.create_task_group() as tg:
            await tg.start(lambda task_status: keeper.run(task_status=task_status))
            for _ in range(10):
                await vehicle.store("normal", 5, rows=100)
                await vehicle.delivered()
            await until("a renewal", lambda: serial(identity) != first)
            tg.cancel_scope.cancel()
        # Only the newest counts now: whoever still used an older one would be refused.
        newest = format(serial(identity), "x")
        await cloud.change("UPDATE certificates SET revoked_ns=1 WHERE ltrim(serial, '0')!=?", newest)
        await vehicle.store("normal", 5)
        await vehicle.delivered()
        assert len(set(cloud.batches("VIN1"))) == len(cloud.batches("VIN1")) == 55
        await until("the downlink", lambda: cloud.services.downlinks.is_connected("VIN1"))
        await until("health", lambda: {vehicle.says(c) for c in ("uplink", "downlink", "check-in")} == {"ok"})


async def test_revoked_vehicle_waits_with_its_data_and_delivers_after_a_new_enrolment(
    cloud: RealCloud, tmp_path: Path
) -> None:
    await cloud.enrol("VIN1", tmp_path / "identity")
    async with LinkedVehicle(tmp_path, identity_pause_s=0.3).running() as vehicle:
        await vehicle.store("normal", 3)
        await vehicle.delivered()
        await cloud.services.enrolment.revoke_vehicle("VIN1", "stolen", CLI)
        await vehicle.store("normal", 7)
        await vehicle.store("critical", 1)
        await until("the refusal", lambda: "revoked" in vehicle.says("uplink"))
        await until("the check-in's refusal", lambda: "revoked" in vehicle.says("check-in"))
        assert await vehicle.pending() == 8 * 12
        await cloud.services.enrolment.reinstate_vehicle("VIN1", CLI)
        await cloud.enrol("VIN1", tmp_path / "identity")  # the running gateway finds it by itself
        await vehicle.delivered()
        assert len(cloud.batches("VIN1")) == 11
        await until("health", lambda: {vehicle.says(c) for c in ("uplink", "downlink", "check-in")} == {"ok"})


async def test_expired_certificate_is_told_and_the_data_stays(cloud: RealCloud, tmp_path: Path) -> None:
    await cloud.enrol("VIN1", tmp_path / "identity")
    request = make_key_request("VIN1")
    now_ns = time.time_ns()
    issued = cloud.authority.issue_vehicle(request.csr_pem, "VIN1", now_ns=now_ns - 10 * DAY_NS, life_ns=DAY_NS)
    reply = EnrolReply(issued.pem, cloud.authority.pem, cloud.addresses.vehicle_url)
    Identity(tmp_path / "identity").store("VIN1", request, reply)
    parts = ("uplink", "check-in", "downlink", "certificate")
    async with LinkedVehicle(tmp_path, parts=parts).running() as vehicle:
        await vehicle.store("normal", 3)
        await until("the refusal", lambda: vehicle.says("uplink").startswith("degraded"))
        await until("advice", lambda: "enrol again" in vehicle.says("certificate"))
        assert await vehicle.pending() == 3 * 12
        await cloud.enrol("VIN1", tmp_path / "identity")
        await vehicle.delivered()
        await until("health", lambda: {vehicle.says(c) for c in (*parts,)} == {"ok"})


async def test_identity_of_another_vehicle_is_refused_at_the_start(cloud: RealCloud, tmp_path: Path) -> None:
    await cloud.enrol("VIN-B", tmp_path / "identity")
    with pytest.raises(ConfigError, match="the certificate is 'VIN-B'"):
        LinkedVehicle(tmp_path, vehicle="VIN-A")


async def test_identity_swapped_for_another_vehicles_while_running_sends_nothing(
    cloud: RealCloud, tmp_path: Path
) -> None:
    await cloud.enrol("VIN-A", tmp_path / "identity")
    await cloud.enrol("VIN-B", tmp_path / "b")
    async with LinkedVehicle(tmp_path, vehicle="VIN-A", parts=("uplink",)).running() as vehicle:
        await vehicle.store("normal", 1)
        await vehicle.delivered()
        for name in ("ca.pem", "client.pem", "identity.json"):
            shutil.copy(tmp_path / "b" / name, tmp_path / "identity" / name)
        await vehicle.store("normal", 4)
        await until("the refusal", lambda: "VIN-B" in vehicle.says("uplink"))
        assert await vehicle.pending() == 4 * 12
        assert cloud.batches("VIN-B") == []


async def test_data_is_filed_under_the_certificates_vehicle_whatever_the_batch_says(
    cloud: RealCloud, tmp_path: Path
) -> None:
    await cloud.enrol("VIN-A", tmp_path / "a")
    identity = await cloud.enrol("VIN-B", tmp_path / "b" / "identity")
    shutil.copytree(tmp_path / "a", tmp_path / "a" / "identity")
    vehicle = LinkedVehicle(tmp_path / "a", vehicle="VIN-A", parts=())
    await vehicle.store("normal", 2)
    content = vehicle.spool.read("normal", 1)
    assert content is not None
    client = CloudClient(identity, cloud.addresses.vehicle_url, 5, "VIN-B")
    try:
        stream = f"{vehicle.spool.spool_id}/normal"
        assert (await client.send_batch(content, stream=stream, sequence=1, items=12)).sequence == 1
    finally:
        await client.aclose()
        await vehicle.close()
    assert cloud.batches("VIN-A") == []
    assert cloud.batches("VIN-B") == [("normal", 1)]


def test_vehicle_is_read_from_the_certificate(tmp_path: Path) -> None:
    authority = make_pki(tmp_path)
    request = make_key_request("someone else")
    issued = authority.issue_vehicle(request.csr_pem, "VIN7", now_ns=time.time_ns(), life_ns=DAY_NS)
    identity = Identity(tmp_path / "identity")
    identity.store("VIN7", request, EnrolReply(issued.pem, authority.pem, "https://localhost:1"))
    assert identity.certified_vehicle() == "VIN7"
    assert identity.expired_at(time.time_ns()) is None
    assert (
        identity.expired_at(time.time_ns() + 2 * DAY_NS)
        == x509.load_pem_x509_certificate(issued.pem.encode()).not_valid_after_utc
    )

"""Who gets through the vehicle port, over real TLS on loopback."""

from __future__ import annotations

import asyncio
import ssl
import time
import warnings
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from sqlalchemy import select
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from cloud.app import build_services
from cloud.auth.audit import CLI
from cloud.identity.authority import Authority, create_ca
from cloud.services import Services
from cloud.spool.model import BatchRow
from cloud.web.server import serving
from gateway.wire.api import BATCHES, CERTIFICATE, DOWNLINK, CheckInReply, RenewReply
from tests.cloud.support import client_context, make_batch, make_config, make_csr, make_pki

pytestmark = pytest.mark.anyio
DAY_NS = 86_400_000_000_000
#: How a refusal in the TLS handshake reaches the client; with TLS 1.3 only at its first read.
REFUSED = (httpx.ReadError, httpx.WriteError, httpx.ConnectError, httpx.RemoteProtocolError, ssl.SSLError, OSError)


@dataclass
class Port:
    """A running vehicle port and what is needed to knock."""

    services: Services
    url: str
    authority: Authority
    directory: Path

    def context(self, certificate_pem: str = "", key: Any = None) -> ssl.SSLContext:
        return client_context(self.authority.pem.encode(), certificate_pem, key, self.directory)

    async def enrol(self, vehicle_id: str, key: Any = None) -> tuple[Any, str, str]:
        """(key, certificate PEM, serial)"""
        if not await self.services.vehicles.exists(vehicle_id):
            await self.services.vehicles.add(vehicle_id, CLI)
        token = await self.services.enrolment.make_token(vehicle_id, CLI)
        key, csr = make_csr(key, name="VIN-OF-SOMEONE-ELSE")
        issued = await self.services.enrolment.enrol(token.token, vehicle_id, csr, "test")
        return key, issued.pem, issued.serial

    async def post(self, context: ssl.SSLContext, content: bytes) -> httpx.Response:
        async with httpx.AsyncClient(base_url=self.url, verify=context) as http:
            return await http.post(BATCHES, content=content)

    def websocket_url(self) -> str:
        return self.url.replace("https://", "wss://") + DOWNLINK


@pytest.fixture(scope="module")
async def port(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Port]:
    directory = tmp_path_factory.mktemp("cloud")
    authority = make_pki(directory)
    services = build_services(make_config(directory))
    async with serving(services) as addresses:
        yield Port(services, addresses.vehicle_url, authority, directory)


async def test_no_certificate_is_refused(port: Port) -> None:
    with pytest.raises(REFUSED):
        await port.post(port.context(), make_batch(1))


async def test_certificate_of_another_ca_is_refused(port: Port) -> None:
    now_ns = time.time_ns()
    other = Authority(*create_ca("test CA", now_ns=now_ns))  # even with the same name
    key, csr = make_csr()
    issued = other.issue_vehicle(csr, "VIN1", now_ns=now_ns, life_ns=DAY_NS)
    with pytest.raises(REFUSED):
        await port.post(port.context(issued.pem, key), make_batch(1))


async def test_expired_certificate_is_refused(port: Port) -> None:
    key, csr = make_csr()
    issued = port.authority.issue_vehicle(csr, "VIN1", now_ns=time.time_ns() - 10 * DAY_NS, life_ns=DAY_NS)
    with pytest.raises(REFUSED):
        await port.post(port.context(issued.pem, key), make_batch(1))


async def test_the_servers_own_certificate_is_no_vehicle(port: Port) -> None:
    context = port.context()
    context.load_cert_chain(
        str(port.directory / "pki" / "vehicle-port.pem"), str(port.directory / "pki" / "vehicle-port.key")
    )
    with pytest.raises(REFUSED):
        await port.post(context, make_batch(1))


async def test_certificate_of_our_ca_that_was_never_registered_is_refused(port: Port) -> None:
    key, csr = make_csr()
    issued = port.authority.issue_vehicle(csr, "VIN-UNKNOWN", now_ns=time.time_ns(), life_ns=DAY_NS)
    answer = await port.post(port.context(issued.pem, key), make_batch(1))
    assert (answer.status_code, answer.headers["content-type"]) == (403, "application/problem+json")


@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
async def test_old_tls_is_refused(port: Port, version: str) -> None:
    key, pem, _ = await port.enrol("VIN-OLD-TLS")
    context = port.context(pem, key)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.raises(REFUSED):
        await port.post(context, make_batch(1))


async def test_the_name_in_the_csr_does_not_matter(port: Port) -> None:
    key, pem, _ = await port.enrol("VIN-NAMED")
    assert (await port.post(port.context(pem, key), make_batch(1, stream="named/normal"))).status_code == 200
    async with port.services.db.read() as session:
        query = select(BatchRow.vehicle_id).where(BatchRow.stream == "named/normal")
        assert list(await session.scalars(query)) == ["VIN-NAMED"]


async def test_ed25519_keys_work_over_tls(port: Port) -> None:
    key, pem, _ = await port.enrol("VIN-ED", ed25519.Ed25519PrivateKey.generate())
    assert (await port.post(port.context(pem, key), make_batch(1))).status_code == 200


async def test_revoked_certificate_is_refused_at_the_next_request_of_an_open_connection(port: Port) -> None:
    key, pem, serial = await port.enrol("VIN-REVOKED")
    async with httpx.AsyncClient(base_url=port.url, verify=port.context(pem, key)) as http:
        assert (await http.post(BATCHES, content=make_batch(1))).status_code == 200
        await port.services.enrolment.revoke_certificate("VIN-REVOKED", serial, "lost", CLI)
        assert (await http.post(BATCHES, content=make_batch(2))).status_code == 403


async def test_revoked_vehicle_is_refused_with_every_certificate(port: Port) -> None:
    key, pem, _ = await port.enrol("VIN-GONE")
    async with httpx.AsyncClient(base_url=port.url, verify=port.context(pem, key)) as http:
        _, csr = make_csr(key)
        renewed = await http.post(CERTIFICATE, json={"csr_pem": csr})
        newer = msgspec.json.decode(renewed.content, type=RenewReply).certificate_pem
        await port.services.enrolment.revoke_vehicle("VIN-GONE", "sold", CLI)
        assert (await http.post(BATCHES, content=make_batch(1))).status_code == 403
    assert (await port.post(port.context(newer, key), make_batch(1))).status_code == 403


async def test_renewed_certificate_works_and_so_does_the_old_one(port: Port) -> None:
    key, pem, _ = await port.enrol("VIN-RENEW")
    newer_key, csr = make_csr()
    async with httpx.AsyncClient(base_url=port.url, verify=port.context(pem, key)) as http:
        renewed = await http.post(CERTIFICATE, json={"csr_pem": csr})
        reply = msgspec.json.decode(renewed.content, type=RenewReply)
        assert (await http.post(BATCHES, content=make_batch(1))).status_code == 200
    assert (await port.post(port.context(reply.certificate_pem, newer_key), make_batch(2))).status_code == 200


async def test_oversized_upload_is_answered_413_over_a_real_connection(port: Port) -> None:
    key, pem, _ = await port.enrol("VIN-LARGE")
    answer = await port.post(port.context(pem, key), bytes(2 * 1024 * 1024))
    assert answer.status_code == 413


async def test_operator_routes_do_not_exist_on_the_vehicle_port(port: Port) -> None:
    key, pem, _ = await port.enrol("VIN-CURIOUS")
    async with httpx.AsyncClient(base_url=port.url, verify=port.context(pem, key)) as http:
        for path in ("/api/v1/vehicles", "/metrics", "/schema/openapi.json", "/health/ready", "/"):
            assert (await http.get(path)).status_code == 404


async def test_downlink_pushes_a_new_gap_and_closes_on_revocation(port: Port) -> None:
    key, pem, _ = await port.enrol("VIN-DOWN")
    context = port.context(pem, key)
    async with connect(port.websocket_url(), ssl=context) as socket, asyncio.timeout(30):
        assert msgspec.json.decode(await socket.recv(), type=CheckInReply).requests == ()
        assert (await port.post(context, make_batch(3, stream="down/normal"))).status_code == 200
        wanted = msgspec.json.decode(await socket.recv(), type=CheckInReply).requests
        assert [(r.stream, r.first, r.last) for r in wanted] == [("down/normal", 1, 2)]
        await port.services.enrolment.revoke_vehicle("VIN-DOWN", "stolen", CLI)
        port.services.downlinks.close("VIN-DOWN")
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 4403
    with pytest.raises(InvalidStatus):
        async with connect(port.websocket_url(), ssl=context):
            pass


async def test_a_newer_downlink_ends_the_older_one(port: Port) -> None:
    key, pem, _ = await port.enrol("VIN-TWICE")
    context = port.context(pem, key)
    async with connect(port.websocket_url(), ssl=context) as older, asyncio.timeout(30):
        await older.recv()
        async with connect(port.websocket_url(), ssl=context) as newer:
            await newer.recv()
            with pytest.raises(ConnectionClosed) as closed:
                await older.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4409

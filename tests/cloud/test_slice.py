"""The whole way once, over real TLS: enrol, send a manifest, upload, check in, look."""

from __future__ import annotations

import ssl
from pathlib import Path

import httpx
import msgspec
import pytest

from cloud.app import build_services
from cloud.auth.audit import CLI
from cloud.web.server import serving
from gateway.wire.api import CheckInReply, EnrolReply
from tests.cloud.support import (
    PASSWORD,
    Vehicle,
    client_context,
    initialised,
    make_batch,
    make_check_in,
    make_csr,
    make_manifest,
)

pytestmark = pytest.mark.anyio


async def test_enrolled_vehicle_delivers_over_tls(tmp_path: Path) -> None:
    services = build_services(await initialised(tmp_path))
    async with serving(services) as addresses, httpx.AsyncClient(base_url=addresses.operator_url) as operator:
        login = await operator.post("/api/v1/login", json={"name": "admin", "password": PASSWORD})
        operator.headers["authorization"] = f"Bearer {login.json()['token']}"
        assert (await operator.post("/api/v1/vehicles", json={"id": "VIN1"})).status_code == 201
        token = (await operator.post("/api/v1/vehicles/VIN1/tokens", json={})).json()["token"]
        key, csr = make_csr()
        enrolled = await operator.post("/v1/enrol", json={"token": token, "vehicle": "VIN1", "csr_pem": csr})
        reply = msgspec.json.decode(enrolled.content, type=EnrolReply)
        context = client_context(reply.ca_pem.encode(), reply.certificate_pem, key, tmp_path)
        async with httpx.AsyncClient(base_url=reply.vehicle_url, verify=context) as http:
            vehicle = Vehicle("VIN1", http)
            assert (await vehicle.upload(make_batch(1))).needs_manifest
            await vehicle.send_manifest(make_manifest())
            ack = await vehicle.upload(make_batch(2))
            assert (ack.stream, ack.sequence, ack.contiguous, ack.needs_manifest) == ("spool/normal", 2, 2, False)
            answer = await vehicle.check_in(make_check_in())
            assert isinstance(answer, CheckInReply)
            assert answer.requests == ()
        shown = (await operator.get("/api/v1/vehicles/VIN1")).json()
        assert (shown["state"], shown["stored_items"]) == ("enrolled", 24)
        assert len(await services.spool.uncompacted(10)) == 2


async def test_connection_without_certificate_is_refused(tmp_path: Path) -> None:
    services = build_services(await initialised(tmp_path))
    async with serving(services) as addresses:
        context = client_context((tmp_path / "pki" / "ca.pem").read_bytes())
        async with httpx.AsyncClient(base_url=addresses.vehicle_url, verify=context) as http:
            with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError, httpx.ConnectError, ssl.SSLError)):
                await http.post("/v1/batches", content=make_batch(1))
        assert CLI.name == "cli"

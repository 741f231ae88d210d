"""Clients that mean harm on the operator port: slow ones, malformed ones, and readers whose login has ended."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httpx
import pytest

from cloud.app import build_services
from cloud.auth.audit import CLI
from cloud.web.listener import PatientHttpProtocol
from cloud.web.server import serving
from tests.cloud.support import PASSWORD, cloud_in, make_config, make_pki

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"GET /health/live HTTP/1.1\r\nHost: x\r\n",
        b"POST /api/v1/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 90\r\n\r\n{",
        b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=["nothing", "half a head", "half a body", "half a second request"],
)
async def test_a_connection_that_does_not_finish_its_request_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(PatientHttpProtocol, "head_s", 0.1)
    monkeypatch.setattr(PatientHttpProtocol, "body_s", 0.2)
    make_pki(tmp_path)
    async with serving(build_services(make_config(tmp_path))) as addresses:
        port = httpx.URL(addresses.operator_url).port
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(begun)
        async with asyncio.timeout(20):
            if begun.startswith(b"GET") and begun.endswith(b"\r\n\r\n"):
                await reader.readuntil(b"}")
                writer.write(b"GET /health/li")
            await reader.read()  # to the end: the server has closed
        writer.close()


async def test_an_event_stream_ends_with_the_login(tmp_path: Path) -> None:
    make_pki(tmp_path)
    services = build_services(make_config(tmp_path, live={"heartbeat_s": 0.05}))
    async with serving(services) as addresses, httpx.AsyncClient(base_url=addresses.operator_url) as client:
        await services.users.add("alice", PASSWORD, "viewer", CLI)
        token, _ = await services.users.make_token("alice")
        headers = {"authorization": f"Bearer {token}"}
        async with asyncio.timeout(20), client.stream("GET", "/api/v1/fleet/live", headers=headers) as stream:
            lines = stream.aiter_lines()
            beats = 0
            async for line in lines:
                beats += line.startswith("event: heartbeat")
                if beats == 3:
                    await services.users.change("alice", CLI, disabled=True)
        assert beats >= 3
        assert (await client.get("/api/v1/fleet", headers=headers)).status_code == 401


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/v1/login", b"[" * 100_000, 400),
        ("/api/v1/login", b'{"name":"a","password":' + b"[" * 100_000, 400),
        ("/api/v1/login", b'{"name":"\\ud800","password":"x"}', 400),
        ("/api/v1/login", b'{"name":NaN}', 400),
        ("/v1/enrol", b"[" * 100_000, 400),
        ("/console/static/%00", None, 404),
        ("/console/static/..%2f..%2fconfig.py", None, 404),
        ("/console/vehicles/%00", None, 404),
    ],
)
async def test_malformed_requests_are_refused_and_never_an_error_of_ours(
    tmp_path: Path, path: str, body: bytes | None, status: int
) -> None:
    async with cloud_in(tmp_path) as cloud:
        if body is None:
            answer = await cloud.operator.get(path)
        else:
            answer = await cloud.operator.post(path, content=body, headers={"content-type": "application/json"})
        assert answer.status_code == status, answer.text


async def test_rest_answers_are_neither_framed_nor_cached_and_tls_is_strict(tmp_path: Path) -> None:
    async with cloud_in(tmp_path, operator={"public_url": "https://fleet.example.org"}) as cloud:
        headers = (await cloud.operator.get("/api/v1/me")).headers
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store"
        assert headers["strict-transport-security"] == "max-age=31536000"


@pytest.mark.parametrize("algorithm", ["none", "HS512", "expired", "issuer", "version"])
async def test_forged_tokens_are_refused(tmp_path: Path, algorithm: str) -> None:
    import jwt

    async with cloud_in(tmp_path) as cloud:
        await cloud.services.users.add("alice", PASSWORD, "admin", CLI)
        claims: dict[str, object] = {"sub": "alice", "iss": "outrider", "exp": time.time() + 600, "ver": 1}
        wrong: dict[str, dict[str, object]] = {"expired": {"exp": 1}, "issuer": {"iss": "x"}, "version": {"ver": 2}}
        claims |= wrong.get(algorithm, {})
        secret = cloud.services.users.secret
        signed = algorithm if algorithm in ("none", "HS512") else "HS256"
        token = jwt.encode(claims, None if signed == "none" else secret, algorithm=signed)  # type: ignore[arg-type]  # no key for "none"
        answer = await cloud.operator.get("/api/v1/me", headers={"authorization": f"Bearer {token}"})
        assert answer.status_code == 401

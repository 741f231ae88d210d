"""Health, metrics, headers, OpenAPI and stopping."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from cloud.app import build_services
from cloud.log import configure, get_logger
from cloud.web.server import bind, serving
from tests.cloud.support import cloud_in, make_batch, make_config, make_pki

pytestmark = pytest.mark.anyio


async def test_ready_turns_when_the_service_stops(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        assert (await cloud.operator.get("/health/live")).json()["status"] == "ok"
        assert (await cloud.operator.get("/health/ready")).status_code == 200
        cloud.services.stop()
        answer = await cloud.operator.get("/health/ready")
        assert (answer.status_code, answer.json()["parts"]["writer"]) == (503, "not running")


async def test_metrics_count_and_name_no_vehicle(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        vehicle = await cloud.enrolled("VIN-SECRET")
        await vehicle.upload(make_batch(1))
        await cloud.operator.get("/api/v1/vehicles/VIN-SECRET")
        text = (await cloud.operator.get("/metrics")).text
        assert "outrider_ingest_batches_total 1.0" in text
        assert "outrider_ingest_items_total 12.0" in text
        assert 'outrider_http_requests_total{method="GET",port="operator",status="4xx"} 1.0' in text
        assert "VIN-SECRET" not in text


async def test_every_answer_has_security_headers_and_a_request_id(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        for path in ("/health/live", "/no-such-page", "/api/v1/me"):
            headers = (await cloud.operator.get(path)).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert len(headers["x-request-id"]) == 16
        given = await cloud.operator.get("/health/live", headers={"x-request-id": "abc-12345678"})
        assert given.headers["x-request-id"] == "abc-12345678"
        forged = await cloud.operator.get("/health/live", headers={"x-request-id": "a b<script>"})
        assert forged.headers["x-request-id"] != "a b<script>"


async def test_openapi_describes_the_rest_interface(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        viewer = await cloud.logged_in("viewer")
        answer = await viewer.get("/schema/openapi.json")
        assert answer.status_code == 200
        paths = answer.json()["paths"]
        assert "/api/v1/vehicles/{vehicle_id}/accounting" in paths
        assert all(
            "summary" in how for path, hows in paths.items() if path.startswith("/api/") for how in hows.values()
        )


async def test_a_busy_port_is_a_clear_error(tmp_path: Path) -> None:
    taken = bind("127.0.0.1", 0)
    taken.listen()
    port = taken.getsockname()[1]
    make_pki(tmp_path)
    services = build_services(make_config(tmp_path, operator={"port": port}))
    with pytest.raises(Exception, match=f"cannot listen on 127.0.0.1 port {port}"):
        async with serving(services):
            pass
    taken.close()


def test_logs_are_one_json_object_a_line_and_tracebacks_show_no_values(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    kept = root.handlers[:], root.level
    try:
        configure("json")
        secret = "hunter2"
        try:
            raise ValueError("no")
        except ValueError as error:
            get_logger("test").error("something_failed", vehicle="VIN1", exc_info=error)
        (line,) = capsys.readouterr().err.splitlines()
    finally:
        root.handlers[:] = kept[0]
        root.setLevel(kept[1])
    record = json.loads(line)
    assert (record["event"], record["vehicle"], record["level"]) == ("something_failed", "VIN1", "error")
    assert "ValueError: no" in record["exception"]
    assert secret not in line

"""kill -9 of the whole service: nothing that was acknowledged is lost, nothing is stored twice."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import httpx
import msgspec
import pytest

from gateway.wire.api import BATCHES, BatchAck, EnrolReply
from tests.cloud.support import client_context, make_batch, make_csr

pytestmark = pytest.mark.anyio
COMMAND = [sys.executable, "-m", "outrider", "cloud"]


def command(*arguments: str) -> str:
    """What a command printed."""
    return subprocess.run([*COMMAND, *arguments], check=True, capture_output=True, text=True).stdout


def start(config: Path) -> tuple[subprocess.Popen[str], str, str]:
    """A running service: (process, operator URL, vehicle URL)."""
    process = subprocess.Popen(
        [*COMMAND, "run", "--config", str(config)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    lines = [process.stdout.readline().split() for _ in range(2)]
    process.stdout.close()
    return process, lines[0][1], lines[1][1]


async def upload_until_killed(url: str, context: object, process: subprocess.Popen[str], first: int) -> set[int]:
    """Several senders at once; the process dies once some answers are in. Returns what was acknowledged."""
    acknowledged: set[int] = set()
    numbers = iter(range(first, first + 400))

    async def sender(http: httpx.AsyncClient) -> None:
        for sequence in numbers:
            try:
                answer = await http.post(BATCHES, content=make_batch(sequence))
            except httpx.HTTPError:
                return
            assert msgspec.json.decode(answer.content, type=BatchAck).sequence == sequence
            acknowledged.add(sequence)
            if len(acknowledged) == 25:
                process.send_signal(signal.SIGKILL)

    async with httpx.AsyncClient(base_url=url, verify=context) as http:  # type: ignore[arg-type]  # an SSLContext
        await asyncio.gather(*(sender(http) for _ in range(8)))
    process.wait(20)
    return acknowledged


async def test_acknowledged_batches_survive_kill_9_between_store_and_answer(tmp_path: Path) -> None:
    config = tmp_path / "cloud.toml"
    ports = ["--operator-port", "0", "--vehicle-port", "0", "--host", "127.0.0.1"]
    command("init", "--dir", str(tmp_path), *ports)
    made = command("token", "create", "--config", str(config), "--json", "VIN1")
    process, operator_url, vehicle_url = start(config)
    try:
        key, csr = make_csr()
        async with httpx.AsyncClient(base_url=operator_url) as operator:
            request = {"token": json.loads(made)["token"], "vehicle": "VIN1", "csr_pem": csr}
            enrolled = await operator.post("/v1/enrol", json=request)
        reply = msgspec.json.decode(enrolled.content, type=EnrolReply)
        context = client_context(reply.ca_pem.encode(), reply.certificate_pem, key, tmp_path)
        acknowledged = await upload_until_killed(vehicle_url, context, process, 1)
        process, _, vehicle_url = start(config)
        async with httpx.AsyncClient(base_url=vehicle_url, verify=context) as http:
            for sequence in range(1, max(acknowledged) + 1):
                ack = msgspec.json.decode(
                    (await http.post(BATCHES, content=make_batch(sequence))).content, type=BatchAck
                )
                assert ack.duplicate or sequence not in acknowledged
                assert ack.dead_letter == ""
            assert ack.contiguous >= max(acknowledged)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == os.EX_OK
    finally:
        if process.poll() is None:
            process.kill()
    _check_database(tmp_path / "state" / "cloud.db")


def _check_database(path: Path) -> None:
    """Every sequence once, and the totals say so."""
    with sqlite3.connect(path) as db:
        sequences = [row[0] for row in db.execute("SELECT sequence FROM batches ORDER BY sequence")]
        batches, items, contiguous = db.execute(
            "SELECT stored_batches, stored_items, contiguous FROM streams"
        ).fetchone()
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()
    assert sequences == list(range(1, len(sequences) + 1))
    assert (batches, items, contiguous) == (len(sequences), 12 * len(sequences), len(sequences))

"""Durable ingest against a do-nothing JSON endpoint of the same server, over the same TLS connections.

Server and client are processes of their own. Each client connection sends one request after the other; the batches
have 1,000 samples and are acknowledged after the commit. Run alone: ``python -m bench.ingest``.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

CONNECTIONS = 32
REQUESTS = 1_600  # of each kind, per round
ROUNDS = 3
BUDGET_RATIO = 0.4
VEHICLES = 8


def run() -> list[dict[str, Any]]:
    """The figures of one run; needs a few seconds."""
    with tempfile.TemporaryDirectory(prefix="outrider-bench-") as directory:
        server = subprocess.Popen(
            [sys.executable, "-m", "bench.ingest", "--serve", directory], stdout=subprocess.PIPE, text=True
        )
        try:
            assert server.stdout is not None
            facts = json.loads(server.stdout.readline())
            command = [sys.executable, "-m", "bench.ingest", "--load", json.dumps(facts)]
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
            measured = json.loads(done.stdout)
        finally:
            server.terminate()
            server.wait(20)
    return _rows(measured)


def _rows(measured: dict[str, list[float]]) -> list[dict[str, Any]]:
    durable, nothing = statistics.median(measured["batches_per_s"]), statistics.median(measured["nothing_per_s"])
    ratio = statistics.median(b / n for b, n in zip(measured["batches_per_s"], measured["nothing_per_s"], strict=True))
    return [
        {
            "name": "ingest: durable batches of 1,000 samples",
            "value": round(durable),
            "unit": "1/s",
            "peer": f"do-nothing JSON endpoint of the same server ({nothing:,.0f}/s)",
            "ratio": round(ratio, 2),
            "budget": f">= {BUDGET_RATIO}",
            "met": ratio >= BUDGET_RATIO,
        },
        {
            "name": f"ingest: p99 to the acknowledgement, {CONNECTIONS} connections",
            "value": round(statistics.median(measured["batch_p99_ms"]), 1),
            "unit": "ms",
            "peer": f"do-nothing JSON endpoint ({statistics.median(measured['nothing_p99_ms']):.1f} ms)",
            "ratio": None,
            "budget": "told",
            "met": True,
        },
    ]


async def _serve(directory: Path) -> None:
    from litestar import get

    from cloud.app import build_services
    from cloud.auth.audit import CLI
    from cloud.config import load_config
    from cloud.setup import InitOptions, init
    from cloud.web.server import serving

    @get("/v1/nothing")
    async def nothing() -> dict[str, bool]:
        return {"ok": True}

    result = await init(
        InitOptions(directory=directory, hosts=["127.0.0.1"], operator_port=0, vehicle_port=0, password="bench-bench")
    )
    with result.config.open("a", encoding="utf-8") as file:
        file.write("[ingest]\nbatches_per_s = 1e6\nbatches_burst = 1000000\nbytes_per_s = 1e12\n")
        file.write("bytes_burst = 1000000000000\n[lake]\ncompact_interval_s = 3600.0\n[storage]\nmin_free_bytes = 0\n")
    services = build_services(load_config(result.config))
    async with serving(services, [nothing]) as addresses:
        identities = []
        for number in range(VEHICLES):
            name = f"BENCH{number}"
            await services.vehicles.add(name, CLI)
            token = await services.enrolment.make_token(name, CLI)
            key, csr = _key_and_csr()
            issued = await services.enrolment.enrol(token.token, name, csr, "bench")
            path = directory / f"{name}.pem"
            path.write_text(key + issued.pem)
            identities.append(str(path))
        await services.manifests.put(_manifest().hash.hex(), _manifest().to_bytes(), "BENCH0", 0, 10)
        facts = {"url": addresses.vehicle_url, "ca": str(directory / "pki" / "ca.pem"), "identities": identities}
        print(json.dumps(facts), flush=True)
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(15, stop.set)
        await stop.wait()


def _key_and_csr() -> tuple[str, str]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, *form)
    return pem.decode(), csr.public_bytes(serialization.Encoding.PEM).decode()


def _manifest() -> Any:
    from gateway.wire.manifest import Manifest

    return Manifest(format=1, name="bench", buses=("can0",), messages=())


def _batch(stream: str, sequence: int) -> bytes:
    """1,000 samples: 10 signals, 100 rows, values that wander."""
    from gateway.wire.codec import encode_batch
    from gateway.wire.samples import SampleBlock

    rows, signals = 100, 10
    random = np.random.default_rng(sequence)
    steps = random.integers(-2, 3, (rows, signals)).cumsum(0)
    block = SampleBlock(
        row_timestamp_ns=1_700_000_000_000_000_000 + np.arange(rows, dtype=np.int64) * 100_000_000,
        row_message=np.zeros(rows, np.int32),
        row=np.repeat(np.arange(rows, dtype=np.int32), signals),
        signal=np.tile(np.arange(signals, dtype=np.int32), rows),
        raw=steps.astype(np.int64).reshape(-1),
        quality=np.zeros(rows * signals, np.uint8),
    )
    return encode_batch(
        stream=stream,
        sequence=sequence,
        items_before=1000 * (sequence - 1),
        manifest_hash=_manifest().hash,
        created_ns=1_700_000_000_000_000_000,
        samples=block,
        level=3,
    )


class _Connection:
    """A keep-alive connection that sends prepared requests; as little client as possible."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, request: bytes) -> float:
        """Milliseconds to the whole answer, which must be a 200."""
        started = time.perf_counter()
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.decode())
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await self._reader.readexactly(length)
        return (time.perf_counter() - started) * 1e3


async def _load(facts: dict[str, Any]) -> None:
    address = urlsplit(facts["url"])
    connections = []
    for number in range(CONNECTIONS):
        context = ssl.create_default_context(cafile=facts["ca"])
        context.load_cert_chain(facts["identities"][number % VEHICLES])
        pair = await asyncio.open_connection(address.hostname, address.port, ssl=context)
        connections.append(_Connection(*pair))
    host = f"Host: {address.netloc}\r\n"
    nothing = f"GET /v1/nothing HTTP/1.1\r\n{host}\r\n".encode()
    each = REQUESTS // CONNECTIONS
    result: dict[str, list[float]] = {
        k: [] for k in ("batches_per_s", "nothing_per_s", "batch_p99_ms", "nothing_p99_ms")
    }
    for round_number in range(ROUNDS + 1):
        streams = [
            [_upload(host, _batch(f"spool{number}/normal", round_number * each + i + 1)) for i in range(each)]
            for number in range(CONNECTIONS)
        ]
        idle_per_s, idle_p99 = await _measure(connections, [[nothing] * each] * CONNECTIONS)
        batch_per_s, batch_p99 = await _measure(connections, streams)
        if round_number:  # the first warms up
            result["nothing_per_s"].append(idle_per_s)
            result["nothing_p99_ms"].append(idle_p99)
            result["batches_per_s"].append(batch_per_s)
            result["batch_p99_ms"].append(batch_p99)
    print(json.dumps(result))


def _upload(host: str, body: bytes) -> bytes:
    return f"POST /v1/batches HTTP/1.1\r\n{host}Content-Length: {len(body)}\r\n\r\n".encode() + body


async def _measure(connections: list[_Connection], requests: list[list[bytes]]) -> tuple[float, float]:
    """(requests per second, p99 in ms)."""
    times: list[float] = []

    async def work(connection: _Connection, mine: list[bytes]) -> None:
        for request in mine:
            times.append(await connection.ask(request))

    started = time.perf_counter()
    await asyncio.gather(*(work(c, mine) for c, mine in zip(connections, requests, strict=True)))
    return len(times) / (time.perf_counter() - started), float(np.percentile(times, 99))


def _with_uvloop(main: Any) -> None:
    from cloud.cli import loop_factory

    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(main)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        _with_uvloop(_serve(Path(sys.argv[2])))
    elif sys.argv[1:2] == ["--load"]:
        _with_uvloop(_load(json.loads(sys.argv[2])))
    else:
        for row in run():
            print(json.dumps(row), file=sys.stdout)
        sys.exit(os.EX_OK)

"""A cloud in a directory, a real server on loopback, and a vehicle that speaks to it. Shared by the cloud's tests."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cloud.app import build_operator_app, build_services, build_vehicle_app, running
from cloud.auth.audit import CLI
from cloud.clock import Clock
from cloud.config import CloudConfig, load_config
from cloud.identity.authority import Authority, create_ca
from cloud.identity.peer import CERTIFICATE_KEY, TLS_EXTENSION
from cloud.services import Services
from cloud.setup import InitOptions, init
from gateway.wire.api import BATCHES, CHECK_IN, MANIFESTS, BatchAck, CheckIn, CheckInReply
from gateway.wire.codec import encode_batch
from gateway.wire.ledger import Ledger
from gateway.wire.manifest import Kind, Manifest, Message, Signal
from gateway.wire.samples import SampleBlock

PASSWORD = "correct horse battery"
#: Cheap password hashing: its cost is not what is tested.
FAST_HASH = {"argon2_time_cost": 1, "argon2_memory_kib": 64}
EPOCH_NS = 1_700_000_000_000_000_000


def make_config(directory: Path, **sections: dict[str, Any]) -> CloudConfig:
    """A configuration in ``directory``, any free ports, cheap hashing; ``sections`` override single keys."""
    config = CloudConfig(base_dir=str(directory))
    defaults: dict[str, dict[str, Any]] = {
        "operator": {"port": 0},
        "vehicle": {"port": 0},
        "sessions": FAST_HASH,
        "storage": {"min_free_bytes": 0},
    }
    for name in {*defaults, *sections}:
        values = {**defaults.get(name, {}), **sections.get(name, {})}
        section = msgspec.structs.replace(getattr(config, name), **values)
        config = msgspec.structs.replace(config, **{name: section})
    return config


def make_pki(directory: Path) -> Authority:
    """The files ``outrider cloud init`` makes, without database and users."""
    pki = directory / "pki"
    pki.mkdir(parents=True, exist_ok=True)
    certificate, key = create_ca("test CA", now_ns=_wall_ns())
    authority = Authority(certificate, key)
    chain, server_key = authority.issue_server(["127.0.0.1", "localhost"], now_ns=_wall_ns())
    for name, content in {
        "ca.pem": certificate,
        "ca.key": key,
        "vehicle-port.pem": chain,
        "vehicle-port.key": server_key,
        "session.key": b"0" * 64,
    }.items():
        (pki / name).write_bytes(content)
    return authority


def _wall_ns() -> int:
    import time

    return time.time_ns()


async def initialised(directory: Path) -> CloudConfig:
    """A directory as ``outrider cloud init`` leaves it."""
    result = await init(
        InitOptions(directory=directory, hosts=["127.0.0.1"], operator_port=0, vehicle_port=0, password=PASSWORD)
    )
    return load_config(result.config)


def make_csr(key: Any = None, name: str = "whatever") -> tuple[Any, str]:
    """A key and a CSR over it."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    algorithm = hashes.SHA256() if isinstance(key, ec.EllipticCurvePrivateKey) else None
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, algorithm)
    return key, csr.public_bytes(serialization.Encoding.PEM).decode()


def private_pem(key: Any) -> bytes:
    """The key unencrypted."""
    pem: bytes = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return pem


def make_manifest(name: str = "test", signals: int = 4) -> Manifest:
    """One bus, one message of ``signals`` bytes-wide signals."""
    fields = tuple(
        Signal(
            name=f"signal_{i}",
            start=8 * i,
            length=8,
            big_endian=False,
            kind=Kind.UNSIGNED,
            scale=0.5,
            offset=0.0,
            minimum=None,
            maximum=None,
            unit="km/h",
            labels={},
            is_multiplexer=False,
            mux=(),
        )
        for i in range(signals)
    )
    message = Message(
        name="message",
        bus=0,
        can_id=0x100,
        extended=False,
        fd=False,
        length=8,
        cycle_ms=100,
        pgn=None,
        sender="",
        comment="",
        signals=fields,
    )
    return Manifest(format=1, name=name, buses=("can0",), messages=(message,))


def make_block(rows: int, *, first_ns: int = EPOCH_NS, signals: int = 4) -> SampleBlock:
    """``rows`` rows 100 ms apart, every signal in each."""
    count = rows * signals
    return SampleBlock(
        row_timestamp_ns=first_ns + np.arange(rows, dtype=np.int64) * 100_000_000,
        row_message=np.zeros(rows, np.int32),
        row=np.repeat(np.arange(rows, dtype=np.int32), signals),
        signal=np.tile(np.arange(signals, dtype=np.int32), rows),
        raw=(np.arange(count, dtype=np.int64) * 7) % 251,
        quality=np.zeros(count, np.uint8),
    )


def make_batch(
    sequence: int,
    *,
    stream: str = "spool/normal",
    items_before: int | None = None,
    rows: int = 3,
    manifest: Manifest | None = None,
    created_ns: int = EPOCH_NS,
) -> bytes:
    """A batch of ``4 * rows`` items that follows ``sequence - 1`` equal ones."""
    return encode_batch(
        stream=stream,
        sequence=sequence,
        items_before=4 * rows * (sequence - 1) if items_before is None else items_before,
        manifest_hash=(manifest or make_manifest()).hash,
        created_ns=created_ns,
        samples=make_block(rows, first_ns=created_ns + sequence * 1_000_000_000),
    )


def make_check_in(**changes: Any) -> CheckIn:
    """A check-in of a vehicle that has nothing special to say."""
    values: dict[str, Any] = {
        "software": "test",
        "boot_id": "boot",
        "at_ns": EPOCH_NS,
        "started_ns": EPOCH_NS,
        "manifest_hash": make_manifest().hash.hex(),
        "ledger": Ledger(at_ns=EPOCH_NS),
    }
    return CheckIn(**{**values, **changes})


class Identified:
    """The vehicle application as one vehicle sees it: its certificate in the scope, as the TLS listener puts it."""

    def __init__(self, app: Any, der: bytes) -> None:
        self._app, self._der = app, der

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        extension = {TLS_EXTENSION: {CERTIFICATE_KEY: self._der}} if self._der else {}
        await self._app({**scope, "extensions": extension}, receive, send)


class LazyOperatorApp:
    """The operator application, built when first asked: it is the dearest part, and many tests do without."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._app: Any = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if self._app is None:
            self._app, _ = build_operator_app(self._services)
        await self._app(scope, receive, send)


@dataclass
class Vehicle:
    """A vehicle's side of the wire, in the same process or over TLS."""

    id: str
    http: httpx.AsyncClient

    async def upload(self, content: bytes) -> BatchAck:
        """Upload and expect an acknowledgement."""
        response = await self.http.post(BATCHES, content=content)
        assert response.status_code == 200, response.text
        return msgspec.json.decode(response.content, type=BatchAck)

    async def check_in(self, message: CheckIn) -> CheckInReply:
        """Check in and expect a reply."""
        response = await self.http.post(CHECK_IN, content=msgspec.json.encode(message))
        assert response.status_code == 200, response.text
        return msgspec.json.decode(response.content, type=CheckInReply)

    async def send_manifest(self, manifest: Manifest) -> None:
        """Bring a manifest."""
        response = await self.http.put(f"{MANIFESTS}/{manifest.hash.hex()}", content=manifest.to_bytes())
        assert response.status_code == 204, response.text


@dataclass
class Cloud:
    """A cloud in this process, without sockets."""

    services: Services
    operator: httpx.AsyncClient  # nobody logged in
    vehicle_app: Any

    async def enrolled(self, vehicle_id: str = "VIN1") -> Vehicle:
        """A vehicle with a certificate."""
        if not await self.services.vehicles.exists(vehicle_id):
            await self.services.vehicles.add(vehicle_id, CLI)
        token = await self.services.enrolment.make_token(vehicle_id, CLI)
        _, csr = make_csr()
        issued = await self.services.enrolment.enrol(token.token, vehicle_id, csr, "test")
        return self.vehicle(vehicle_id, issued.pem)

    def vehicle(self, vehicle_id: str, certificate_pem: str) -> Vehicle:
        """A vehicle that shows the given certificate."""
        certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
        der = certificate.public_bytes(serialization.Encoding.DER)
        transport = httpx.ASGITransport(Identified(self.vehicle_app, der), raise_app_exceptions=False)
        return Vehicle(vehicle_id, httpx.AsyncClient(transport=transport, base_url="https://vehicle-port"))

    async def logged_in(self, role: str, name: str = "") -> httpx.AsyncClient:
        """A client of the operator port with a bearer token of that role."""
        name = name or f"the-{role}"
        if all(user.name != name for user in await self.services.users.list()):
            await self.services.users.add(name, PASSWORD, role, CLI)
        token, _ = await self.services.users.make_token(name)
        client = self.anonymous()
        client.headers["authorization"] = f"Bearer {token}"
        return client

    def anonymous(self) -> httpx.AsyncClient:
        """Another client of the operator port."""
        transport = self.operator._transport
        return httpx.AsyncClient(transport=transport, base_url="http://operator-port")


@asynccontextmanager
async def cloud_in(directory: Path, clock: Clock | None = None, **sections: dict[str, Any]) -> AsyncIterator[Cloud]:
    """A running cloud without sockets; entering it again on the same directory is a restart."""
    if not (directory / "pki").exists():
        make_pki(directory)
    services = build_services(make_config(directory, **sections), clock)
    async with running(services):
        transport = httpx.ASGITransport(LazyOperatorApp(services), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://operator-port") as operator:
            yield Cloud(services, operator, build_vehicle_app(services))


def client_context(
    ca_pem: bytes, certificate_pem: str = "", key: Any = None, directory: Path | None = None
) -> ssl.SSLContext:
    """A vehicle's TLS context."""
    context = ssl.create_default_context(cadata=ca_pem.decode())
    if certificate_pem and directory is not None:
        path = directory / f"client-{abs(hash(certificate_pem))}.pem"
        path.write_bytes(private_pem(key) + certificate_pem.encode())
        context.load_cert_chain(str(path))
    return context

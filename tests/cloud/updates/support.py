"""A cloud with both repositories set up by the ceremony, images to sign for, and vehicles with ECUs that sign."""

from __future__ import annotations

import base64
import copy
import hashlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Targets

from cloud.app import build_operator_app, build_vehicle_app
from cloud.clock import ManualClock
from cloud.services import Services
from cloud.updates import ceremony
from cloud.updates.ceremony import Book, KeySet, Lives
from cloud.updates.images import SignRequest
from cloud.updates.keys import OnlineKeyFile
from gateway.wire import uptane
from gateway.wire.signing import public_of, sign
from gateway.wire.uptane import (
    MANIFEST_DOMAIN,
    REPORT_DOMAIN,
    DirectorCustom,
    EcuKey,
    EcuReport,
    InstalledImage,
    Inventory,
    Signed,
    UpdateReport,
    VehicleManifest,
)
from tests.cloud.support import Cloud, Vehicle, cloud_in

LIVES = Lives()
ROOTFS, BRAKES = "gateway-a1", "brakes-b2"


@dataclass
class Offline:
    """The release engineer's side in memory: a book and every private key."""

    cloud: Cloud
    book: Book = field(default_factory=Book)
    signers: dict[str, CryptoSigner] = field(default_factory=dict)
    history: dict[tuple[str, str], bytes] = field(default_factory=dict)

    def keys(self, count: int, threshold: int) -> KeySet:
        """New keys."""
        made = [CryptoSigner.generate_ed25519() for _ in range(count)]
        self.signers.update({signer.public_key.keyid: signer for signer in made})
        return KeySet(keys=[signer.public_key for signer in made], threshold=threshold)

    @property
    def now_ns(self) -> int:
        return self.cloud.services.clock.now_ns()

    def settle(self, signers: Iterable[CryptoSigner] | None = None) -> list[tuple[str, str]]:
        """Sign what is proposed with all keys, or only these."""
        ready = {s.public_key.keyid: s for s in (self.signers.values() if signers is None else signers)}
        for (repository, role), metadata in self.book.pending.items():
            for keyid in self.book.signers_of(repository, role) & ready.keys():
                metadata.sign(ready[keyid], append=True)
        done = self.book.settle()
        for repository, role in done:
            metadata = self.book.signed[repository, role]
            self.history[repository, f"{metadata.signed.version}.{role}.json"] = metadata.to_bytes()
        return done

    def files(self, repository: str) -> dict[str, bytes]:
        """All files ever settled."""
        return {name: content for (repo, name), content in self.history.items() if repo == repository}


@dataclass
class Rig:
    """The cloud, an admin, and the offline side."""

    cloud: Cloud
    admin: httpx.AsyncClient
    offline: Offline
    clock: ManualClock

    async def bring(self, repository: str, files: dict[str, bytes] | None = None, **more: Any) -> httpx.Response:
        """Bring metadata by REST."""
        content = self.offline.files(repository) if files is None else files
        body = {
            "repository": repository,
            "files": {n: base64.b64encode(c).decode() for n, c in content.items()},
            **more,
        }
        return await self.admin.post("/api/v1/updates/metadata", json=body)

    async def begin(self) -> None:
        """The first ceremony: roots of 2 of 3, targets of 1 of 2."""
        online = OnlineKeyFile(**(await self.admin.get("/api/v1/updates/online-keys")).json())
        offline = self.offline
        ceremony.begin(
            offline.book,
            offline.keys(3, 2),
            offline.keys(3, 2),
            offline.keys(2, 1),
            ceremony.online_keys(online),
            LIVES,
            self.clock.now_ns(),
        )
        assert len(offline.settle()) == 3
        for repository in ("director", "image"):
            answer = await self.bring(repository)
            assert answer.status_code == 200, answer.text

    async def upload(self, filename: str, content: bytes, **more: Any) -> int:
        """An image uploaded by REST; its number."""
        body = {
            "filename": filename,
            "kind": "rootfs",
            "hardware_ids": [ROOTFS],
            "version": "1.0",
            "length": len(content),
            **more,
        }
        answer = await self.admin.post("/api/v1/images", json=body)
        assert answer.status_code == 201, answer.text
        number = int(answer.json()["image"]["id"])
        headers = {"content-range": f"bytes 0-{len(content) - 1}/{len(content)}"}
        put = await self.admin.put(f"/api/v1/images/{number}/content", content=content, headers=headers)
        assert put.status_code == 200, put.text
        done = await self.admin.post(f"/api/v1/images/{number}/finish")
        assert done.status_code == 200, done.text
        return number

    async def sign_all(self, role: str = "targets") -> list[str]:
        """Sign for everything that is stored and bring it."""
        request = SignRequest(**msgspec.to_builtins(await self.cloud.services.updates.images.sign_request()))
        images = msgspec.convert(msgspec.to_builtins(request), SignRequest).images
        names = ceremony.sign_for(self.offline.book, role, images, LIVES, self.clock.now_ns())
        self.offline.settle()
        answer = await self.bring("image")
        assert answer.status_code == 200, answer.text
        return names

    async def image(self, filename: str, content: bytes, **more: Any) -> int:
        """An image that is signed for."""
        number = await self.upload(filename, content, **more)
        await self.sign_all()
        return number

    async def release(self, name: str, *images: int | dict[str, Any], **more: Any) -> int:
        """A published release."""
        items = [{"image_id": image} if isinstance(image, int) else image for image in images]
        made = await self.admin.post("/api/v1/releases", json={"name": name, "images": items, **more})
        assert made.status_code == 201, made.text
        number = int(made.json()["id"])
        done = await self.admin.post(f"/api/v1/releases/{number}/publish")
        assert done.status_code == 200, done.text
        return number

    async def assign(self, vehicle: str, release: int, **more: Any) -> httpx.Response:
        """Assign a release to one vehicle."""
        return await self.admin.post(f"/api/v1/vehicles/{vehicle}/update", json={"release_id": release, **more})

    async def state(self, vehicle: str) -> dict[str, Any]:
        """The update of a vehicle as the API shows it."""
        answer = await self.admin.get(f"/api/v1/vehicles/{vehicle}/update")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


@dataclass
class Ecu:
    """A simulated ECU with its own key."""

    name: str
    hardware_id: str
    image: InstalledImage = field(default_factory=lambda: InstalledImage(filename="", length=0, hashes={}))
    is_primary: bool = False
    counter: int = 0
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @property
    def told(self) -> EcuKey:
        key = public_of(self.key)
        return EcuKey(
            ecu=self.name,
            hardware_id=self.hardware_id,
            is_primary=self.is_primary,
            key_id=key.key_id,
            method=key.method,
            public=key.public,
        )

    def report(self, of: str, at_ns: int, **changes: Any) -> Signed:
        """A fresh report."""
        self.counter += 1
        report = EcuReport(
            vehicle=of,
            ecu=self.name,
            hardware_id=self.hardware_id,
            image=self.image,
            counter=self.counter,
            time_ns=at_ns,
        )
        return self.signed(msgspec.structs.replace(report, **changes), REPORT_DOMAIN)

    def signed(self, message: Any, domain: bytes) -> Signed:
        payload = msgspec.json.encode(message)
        return Signed(payload=payload, signatures=(sign(self.key, domain, payload),))


@dataclass
class Car:
    """A vehicle that speaks the update part of the vehicle port."""

    vehicle: Vehicle
    clock: ManualClock
    ecus: dict[str, Ecu]

    @property
    def id(self) -> str:
        return self.vehicle.id

    @property
    def primary(self) -> Ecu:
        return next(ecu for ecu in self.ecus.values() if ecu.is_primary)

    async def post(self, path: str, message: Any) -> httpx.Response:
        return await self.vehicle.http.post(path, content=msgspec.json.encode(message))

    async def register(self) -> httpx.Response:
        return await self.post(uptane.INVENTORY, Inventory(ecus=tuple(ecu.told for ecu in self.ecus.values())))

    def manifest(self, reports: Iterable[Signed] | None = None, **changes: Any) -> Signed:
        """A fresh manifest; ``reports`` instead of those of all ECUs."""
        told = tuple(e.report(self.id, self.clock.now_ns()) for e in self.ecus.values()) if reports is None else reports
        manifest = VehicleManifest(vehicle=self.id, primary=self.primary.name, reports=tuple(told))
        return self.primary.signed(msgspec.structs.replace(manifest, **changes), MANIFEST_DOMAIN)

    async def tell(self, manifest: Signed | None = None) -> httpx.Response:
        """Post a manifest."""
        return await self.post(uptane.MANIFEST, manifest or self.manifest())

    async def report(self, assignment: str, state: str, **more: Any) -> httpx.Response:
        """Post progress."""
        report = UpdateReport(assignment=assignment, state=state, at_ns=self.clock.now_ns(), **more)
        return await self.post(uptane.REPORT, report)

    async def get(self, path: str) -> httpx.Response:
        return await self.vehicle.http.get(path)

    async def director(self, role: str, version: int | None = None) -> Metadata[Any]:
        """A file of the Director."""
        name = f"{role}.json" if version is None else f"{version}.{role}.json"
        answer = await self.get(f"{uptane.DIRECTOR}/{name}")
        assert answer.status_code == 200, answer.text
        return Metadata.from_bytes(answer.content)

    async def targets(self) -> Targets:
        """The Director's Targets for this vehicle, by way of its Timestamp."""
        version = (await self.director("timestamp")).signed.snapshot_meta.version
        snapshot = await self.director("snapshot", version)
        found = await self.director("targets", snapshot.signed.meta["targets.json"].version)
        assert isinstance(found.signed, Targets)
        return found.signed

    def install(self, targets: Targets) -> None:
        """Do as the Director says, unchecked."""
        for entry in targets.targets.values():
            custom = msgspec.convert(entry.custom, DirectorCustom)
            for name in custom.ecus:
                self.ecus[name].image = InstalledImage(
                    filename=entry.path,
                    length=entry.length,
                    hashes=entry.hashes,
                    release_counter=custom.must_match.release_counter,
                    version=custom.must_match.version,
                )


def installed(filename: str, content: bytes, **more: Any) -> InstalledImage:
    """An installed image of that content."""
    hashes = {"sha256": hashlib.sha256(content).hexdigest(), "sha512": hashlib.sha512(content).hexdigest()}
    return InstalledImage(filename=filename, length=len(content), hashes=hashes, **more)


async def make_car(rig: Rig, vehicle_id: str = "VIN1", *, registered: bool = True) -> Car:
    """A car of a gateway and brakes."""
    ecus = {"gateway": Ecu("gateway", ROOTFS, is_primary=True), "brakes": Ecu("brakes", BRAKES)}
    car = Car(await rig.cloud.enrolled(vehicle_id), rig.clock, ecus)
    if registered:
        answer = await car.register()
        assert answer.status_code == 204, answer.text
    return car


@dataclass
class _Applications:
    """Operator and vehicle application: by far the dearest part of a cloud, and built once for all tests."""

    services: Services
    operator: Any
    vehicle: Any


_APPLICATIONS: list[_Applications] = []


def _applications(services: Services) -> _Applications:
    """The applications over these services: what theirs had is replaced."""
    if not _APPLICATIONS:
        own = copy.copy(services)
        _APPLICATIONS.append(_Applications(own, build_operator_app(own)[0], build_vehicle_app(own)))
    vars(_APPLICATIONS[0].services).update(vars(services))
    return _APPLICATIONS[0]


@asynccontextmanager
async def rig_in(directory: Path, *, begun: bool = True, **sections: Any) -> AsyncIterator[Rig]:
    """A running cloud with its repositories. Time is the real one's, so that certificates are good."""
    import time

    clock = ManualClock(time.time_ns())
    many = {"requests_per_s": 1e6, "requests_burst": 1_000_000}
    sections["updates"] = {**many, **sections.get("updates", {})}
    async with cloud_in(directory, clock, **sections) as started:
        applications = _applications(started.services)
        transport = httpx.ASGITransport(applications.operator, raise_app_exceptions=False)
        http = httpx.AsyncClient(transport=transport, base_url="http://operator-port")
        cloud = Cloud(started.services, http, applications.vehicle)
        admin = await cloud.logged_in("admin")
        rig = Rig(cloud, admin, Offline(cloud), clock)
        if begun:
            await rig.begin()
        yield rig

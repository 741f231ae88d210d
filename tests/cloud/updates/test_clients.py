"""Clients that are not ours, and the vehicle's own verifier, against the running cloud; key changes and compromises."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import msgspec
import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import DownloadHTTPError, RepositoryError
from tuf.api.metadata import Metadata, Root, TargetFile
from tuf.ngclient.fetcher import FetcherInterface
from tuf.ngclient.updater import Updater

from cloud.auth.audit import CLI
from cloud.updates import ceremony
from cloud.updates.bundle import write_bundle
from cloud.updates.keys import OnlineKeyFile
from cloud.updates.model import ImageRow
from cloud.updates.names import hashed_path
from gateway.uptane.usb import DirectoryFetcher
from gateway.uptane.verifier import UptaneVerifier
from gateway.wire import uptane
from gateway.wire.uptane import FileFacts, Signed, TimeRequest
from tests.cloud.updates.support import LIVES, Car, Rig, installed, make_car, rig_in

pytestmark = pytest.mark.anyio
OLD, NEW = b"root file system one" * 500, b"root file system two" * 500


class HttpFetcher(FetcherInterface):
    """python-tuf's own way of fetching, through the cloud's vehicle port; runs in a worker thread."""

    def __init__(self, car: Car) -> None:
        self._car = car

    def _fetch(self, url: str) -> Iterator[bytes]:
        answer = anyio.from_thread.run(self._car.get, url)
        if answer.status_code != 200:
            raise DownloadHTTPError(f"{url}: {answer.status_code}", answer.status_code)
        yield answer.content


async def foreign(rig: Rig, car: Car, repository: str, directory: Path, target: str = "") -> bytes:
    """Refresh python-tuf's client from the first root on, and fetch a target."""
    place = directory / repository
    (place / "targets").mkdir(parents=True, exist_ok=True)
    base = uptane.IMAGE if repository == "image" else uptane.DIRECTOR

    def work() -> bytes:
        updater = Updater(
            str(place),
            f"{base}/",
            str(place / "targets"),
            f"{uptane.TARGETS}/",
            HttpFetcher(car),
            bootstrap=rig.offline.files(repository)["1.root.json"],
        )
        updater.refresh()
        if not target:
            return b""
        info = updater.get_targetinfo(target)
        assert isinstance(info, TargetFile)
        return Path(updater.download_target(info)).read_bytes()

    return await anyio.to_thread.run_sync(work)


class PortFetcher:
    """The vehicle's ``Fetcher`` and ``TimeSource`` over the same port."""

    def __init__(self, car: Car) -> None:
        self._car = car

    async def metadata(self, repository: str, name: str, max_bytes: int) -> bytes | None:
        base = uptane.IMAGE if repository == "image" else uptane.DIRECTOR
        answer = await self._car.get(f"{base}/{name}")
        assert answer.status_code in (200, 404), answer.text
        assert len(answer.content) <= max_bytes
        return answer.content if answer.status_code == 200 else None

    async def target(self, file: FileFacts, offset: int) -> AsyncIterator[bytes]:
        path = hashed_path(file.filename, file.hashes["sha256"])
        answer = await self._car.vehicle.http.get(f"{uptane.TARGETS}/{path}", headers={"range": f"bytes={offset}-"})
        assert answer.status_code == 206
        yield answer.content

    async def attested_time(self, request: TimeRequest) -> Signed | None:
        answer = await self._car.post(uptane.TIME, request)
        return msgspec.json.decode(answer.content, type=Signed)


def verifier(rig: Rig, car: Car, directory: Path) -> UptaneVerifier:
    """The vehicle's verifier with the first roots."""
    return UptaneVerifier(
        vehicle=car.id,
        ecus={ecu.name: ecu.hardware_id for ecu in car.ecus.values()},
        primary="gateway",
        directory=directory,
        director_root=rig.offline.files("director")["1.root.json"],
        image_root=rig.offline.files("image")["1.root.json"],
    )


async def assigned(rig: Rig) -> Car:
    """A car on the old image, and the new one assigned to it."""
    car = await make_car(rig)
    await rig.image("gateway/rootfs-1.img", OLD, version="1.0", release_counter=1)
    new = await rig.image("gateway/rootfs-2.img", NEW, version="2.0", release_counter=1)
    car.ecus["gateway"].image = installed("gateway/rootfs-1.img", OLD, release_counter=1)
    assert (await car.tell()).status_code == 204
    assert (await rig.assign(car.id, await rig.release("summer", new))).status_code == 201
    return car


async def add_delta(rig: Rig, directory: Path) -> None:
    """A delta of the two images, whatever is in it, as the builder hands it over."""
    path = directory / "made.delta"
    path.write_bytes(b"a delta")
    async with rig.cloud.services.db.read() as session:
        base, target = [await session.get(ImageRow, number) for number in (1, 2)]
    assert base is not None
    assert target is not None
    assert await rig.cloud.services.updates.images.add_delta(base, target, path) is not None
    await rig.cloud.services.updates.director.offer_again(base.sha256, target.id)


async def test_a_foreign_client_accepts_both_repositories(tmp_path: Path) -> None:
    async with rig_in(tmp_path / "cloud") as rig:
        car = await assigned(rig)
        for repository in ("director", "image"):
            assert await foreign(rig, car, repository, tmp_path, "gateway/rootfs-2.img") == NEW
        await add_delta(rig, tmp_path)
        delta = next(one for one in (await car.targets()).targets["gateway/rootfs-2.img"].custom["deltas"])
        assert await foreign(rig, car, "image", tmp_path, delta["delta"]["filename"]) == b"a delta"


async def test_the_vehicles_verifier_takes_what_the_cloud_gives(tmp_path: Path) -> None:
    """The whole way: assigned, verified with delta and fallback, told, succeeded, nothing more to do."""
    async with rig_in(tmp_path / "cloud") as rig:
        car = await assigned(rig)
        ours, fetcher = verifier(rig, car, tmp_path / "vehicle"), PortFetcher(car)
        try:
            first = await ours.refresh(fetcher)
            assert [(one.ecu, one.image.filename) for one in first.targets] == [("gateway", "gateway/rootfs-2.img")]
            assert first.targets[0].fallback is not None
            assert first.targets[0].fallback.filename == "gateway/rootfs-1.img"
            await add_delta(rig, tmp_path)
            update = await ours.refresh(fetcher)
            offer = update.targets[0].deltas[0]
            assert b"".join([piece async for piece in fetcher.target(offer.delta, 0)]) == b"a delta"
            assert (update.release, update.assignment, update.sets[0].ecus) == ("summer", "1", ("gateway",))
            car.install(await car.targets())
            assert (await car.tell()).status_code == 204
            assert (await rig.state(car.id))["status"] == "succeeded"
            assert (await ours.refresh(fetcher)).targets == ()
        finally:
            ours.close()


async def test_a_bundle_is_verified_without_a_link_and_the_link_goes_on_after_it(tmp_path: Path) -> None:
    async with rig_in(tmp_path / "cloud") as rig:
        car = await assigned(rig)
        stick, services = tmp_path / "stick", rig.cloud.services
        view = await write_bundle(services, car.id, "summer", stick, CLI, days=30)
        assert view.good_until_ns > rig.clock.now_ns() + 14 * 86_400_000_000_000
        ours = verifier(rig, car, tmp_path / "vehicle")
        try:
            update = await ours.refresh(DirectoryFetcher(stick, car.id))
            assert update.targets[0].image.filename == "gateway/rootfs-2.img"
            content = [piece async for piece in DirectoryFetcher(stick, car.id).target(update.targets[0].image, 0)]
            assert b"".join(content) == NEW
            assert (await ours.refresh(PortFetcher(car))).assignment == update.assignment
        finally:
            ours.close()


async def test_roots_rotated_twelve_times_are_followed_by_a_client_of_the_first(tmp_path: Path) -> None:
    async with rig_in(tmp_path / "cloud") as rig:
        car = await assigned(rig)
        offline, before = rig.offline, dict(rig.offline.signers)
        for _ in range(12):
            for repository in ("director", "image"):
                keys = offline.keys(3, 2)
                ceremony.rotate(offline.book, repository, "root", keys, LIVES, rig.clock.now_ns())
                assert offline.settle() == [(repository, "root")]
                new = {key.keyid for key in keys.keys}
                offline.signers = {k: v for k, v in offline.signers.items() if k in new or k in _used(rig)}
        for repository in ("director", "image"):
            answer = await rig.bring(repository)
            assert (answer.status_code, len(answer.json()["added"])) == (200, 12)
            assert await foreign(rig, car, repository, tmp_path, "gateway/rootfs-2.img") == NEW
            await rig.bring(repository)
        ours = verifier(rig, car, tmp_path / "vehicle")
        try:
            assert len((await ours.refresh(PortFetcher(car))).targets) == 1
        finally:
            ours.close()
        root = offline.book.next("image", "root", Root)
        stale: Metadata[Any] = Metadata(root)
        for signer in before.values():
            stale.sign(signer, append=True)
        answer = await rig.bring("image", {f"{root.version}.root.json": stale.to_bytes()})
        assert (answer.status_code, "not signed" in answer.json()["detail"]) == (400, True)


def _used(rig: Rig) -> set[str]:
    """Ids of all keys that some offline role names now."""
    roots = [rig.offline.book.newest(repo, "root").signed for repo in ("director", "image")]
    return {keyid for root in roots for role in root.roles.values() for keyid in role.keyids}


async def test_stolen_online_keys_bring_no_software_and_are_replaced_by_a_new_root(tmp_path: Path) -> None:
    """A thief of all online keys cannot speak for the Image repository; a rotation makes what was stolen worthless."""
    async with rig_in(tmp_path / "cloud") as rig:
        car = await assigned(rig)
        updates = rig.cloud.services.updates
        stolen: list[CryptoSigner] = list(
            updates.keys.signers([str(key.key["keyid"]) for key in updates.keys.public()])
        )
        forged = rig.offline.book.next("image", "targets", type(rig.offline.book.newest("image", "targets").signed))
        forged.targets["gateway/evil.img"] = TargetFile(1, {"sha256": "0" * 64}, "gateway/evil.img")
        evil: Metadata[Any] = Metadata(forged)
        for signer in stolen:
            evil.sign(signer, append=True)
        answer = await rig.bring("image", {f"{forged.version}.targets.json": evil.to_bytes()})
        assert (answer.status_code, "not signed" in answer.json()["detail"]) == (400, True)
        viewer = await rig.cloud.logged_in("operator")
        assert (await viewer.post("/api/v1/updates/online-keys", json={"role": "director-targets"})).status_code == 403
        for role in ("director-targets", "director-snapshot", "director-timestamp", "director-time", "image-timestamp"):
            made = await rig.admin.post("/api/v1/updates/online-keys", json={"role": role})
            assert (made.status_code, made.json()["number"]) == (201, 2)
        assert (await rig.admin.post("/api/v1/updates/online-keys", json={"role": "root"})).status_code == 404
        before = (await car.director("timestamp")).signed.version
        assert await foreign(rig, car, "director", tmp_path) == b""
        online = OnlineKeyFile(**(await rig.admin.get("/api/v1/updates/online-keys")).json())
        book = rig.offline.book
        changed = ceremony.use_online(book, ceremony.online_keys(online), LIVES, rig.clock.now_ns())
        assert changed == [("director", "root"), ("image", "root")]
        rig.offline.settle()
        for repository in ("director", "image"):
            assert (await rig.bring(repository)).status_code == 200
            await foreign(rig, car, repository, tmp_path, "gateway/rootfs-2.img")
        now = await car.director("timestamp")
        assert now.signed.version > before
        assert not set(now.signatures) & {signer.public_key.keyid for signer in stolen}
        old: Metadata[Any] = Metadata(now.signed)
        for signer in stolen:
            old.sign(signer, append=True)
        with pytest.raises(RepositoryError):
            _root_of(rig, "director").verify_delegate("timestamp", old.signed_bytes, old.signatures)


def _root_of(rig: Rig, repository: str) -> Root:
    found: Root = rig.offline.book.signed[repository, "root"].signed
    return found


async def test_a_root_that_would_leave_the_cloud_unable_to_sign_is_refused(tmp_path: Path) -> None:
    async with rig_in(tmp_path / "cloud") as rig:
        root = rig.offline.book.next("director", "root", Root)
        stranger = CryptoSigner.generate_ed25519().public_key
        ceremony.set_role(root, "timestamp", ceremony.KeySet(keys=[stranger], threshold=1))
        rig.offline.book.propose("director", "root", root)
        rig.offline.settle()
        answer = await rig.bring("director")
        assert (answer.status_code, "has not the keys" in answer.json()["detail"]) == (400, True)


async def test_two_roots_without_the_threshold_of_the_one_before_are_refused(tmp_path: Path) -> None:
    async with rig_in(tmp_path / "cloud") as rig:
        offline = rig.offline
        ceremony.rotate(offline.book, "image", "root", offline.keys(1, 1), LIVES, rig.clock.now_ns())
        newest = offline.book.pending["image", "root"]
        newest.sign(offline.signers[newest.signed.roles["root"].keyids[0]])
        answer = await rig.bring("image", {"2.root.json": newest.to_bytes()})
        assert (answer.status_code, "not signed" in answer.json()["detail"]) == (400, True)

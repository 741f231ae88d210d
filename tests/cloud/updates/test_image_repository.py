"""The Image repository by real requests: what it takes, how it serves, and that it never goes stale or back (R, I)."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata

from cloud.updates import ceremony
from cloud.updates.ceremony import Delegation, KeySet
from cloud.updates.images import SignRequest
from gateway.wire import uptane
from gateway.wire.uptane import DELEGATION_HARDWARE_FIELD
from tests.cloud.updates.support import BRAKES, LIVES, ROOTFS, Rig, make_car, rig_in

pytestmark = pytest.mark.anyio
CONTENT = b"an image of some bytes" * 1000


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def sha512(content: bytes) -> str:
    return hashlib.sha512(content).hexdigest()


async def image_file(rig: Rig, car: Any, role: str, version: int | None = None) -> Metadata[Any]:
    name = f"{role}.json" if version is None else f"{version}.{role}.json"
    answer = await car.get(f"{uptane.IMAGE}/{name}")
    assert answer.status_code == 200, (name, answer.text)
    return Metadata.from_bytes(answer.content)


async def current(rig: Rig, car: Any) -> dict[str, Metadata[Any]]:
    """Timestamp, Snapshot and every role the Snapshot lists."""
    found = {"timestamp": await image_file(rig, car, "timestamp")}
    found["snapshot"] = await image_file(rig, car, "snapshot", found["timestamp"].signed.snapshot_meta.version)
    for name, meta in found["snapshot"].signed.meta.items():
        found[name.removesuffix(".json")] = await image_file(rig, car, name.removesuffix(".json"), meta.version)
    return found


def proposals(rig: Rig) -> Any:
    """The offline side's book and time."""
    return rig.offline.book, LIVES, rig.clock.now_ns()


async def supplier(rig: Rig, name: str = "acme", **more: Any) -> list[CryptoSigner]:
    """Delegate ``brakes/*`` to a supplier with one key of its own."""
    signer = CryptoSigner.generate_ed25519()
    values = {"paths": ["brakes/*"], "hardware_ids": [BRAKES], **more}
    by = values.pop("by", "targets")
    wanted = Delegation(name=name, keys=KeySet(keys=[signer.public_key], threshold=1), **values)
    book, lives, now_ns = proposals(rig)
    ceremony.delegate(book, by, wanted, lives, now_ns)
    return [signer]


async def sign_as(rig: Rig, role: str, names: list[str], signers: list[CryptoSigner]) -> httpx.Response:
    """Sign for stored images with a role's keys and bring it."""
    request: SignRequest = await rig.cloud.services.updates.images.sign_request()
    book, lives, now_ns = proposals(rig)
    chosen = [one for one in request.images if one.file.filename in names]
    ceremony.sign_for(book, role, chosen, lives, now_ns)
    rig.offline.settle([*rig.offline.signers.values(), *signers])
    return await rig.bring("image")


async def test_r1_each_repository_has_four_roles_with_unique_key_ids(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        car = await make_car(rig)
        for path in (uptane.IMAGE, uptane.DIRECTOR):
            root = Metadata.from_bytes((await car.get(f"{path}/1.root.json")).content).signed
            assert set(root.roles) == {"root", "targets", "snapshot", "timestamp"}
            assert all(role.threshold >= 1 and set(role.keyids) <= set(root.keys) for role in root.roles.values())
            assert len({str(key.keyval) for key in root.keys.values()}) == len(root.keys)
        assert (await car.get(f"{uptane.IMAGE}/2.root.json")).status_code == 404


async def test_r1_one_key_under_two_ids_is_refused(tmp_path: Path) -> None:
    """It would count twice towards a threshold."""
    async with rig_in(tmp_path) as rig:
        book, _, _ = proposals(rig)
        root = book.next("image", "root", type(book.newest("image", "root").signed))
        keyid = root.roles["root"].keyids[0]
        twin = type(root.keys[keyid])(
            "0" * 64, *(getattr(root.keys[keyid], n) for n in ("keytype", "scheme", "keyval"))
        )
        root.keys[twin.keyid] = twin
        root.roles["root"].keyids.append(twin.keyid)
        book.pending["image", "root"] = Metadata(root)
        rig.offline.settle()
        answer = await rig.bring("image")
        assert answer.status_code == 400
        assert "one key under two ids" in answer.json()["detail"]


async def test_r2_versions_grow_with_each_change_and_files_say_when_they_expire(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        car = await make_car(rig)
        before = await current(rig, car)
        await rig.image("gateway/a.img", CONTENT)
        after = await current(rig, car)
        assert after["targets"].signed.version == before["targets"].signed.version + 1
        for role in ("snapshot", "timestamp"):
            assert after[role].signed.version > before[role].signed.version
        for metadata in after.values():
            raw = metadata.to_dict()
            assert {"_type", "expires", "version"} <= set(raw["signed"])
            assert all(set(signature) >= {"keyid", "sig"} for signature in raw["signatures"])


async def test_r3_names_are_compared_in_nfc(tmp_path: Path) -> None:
    """What looks the same is the same name; metadata with another form is refused."""
    async with rig_in(tmp_path) as rig:
        nfd = unicodedata.normalize("NFD", "gateway/größe.img")
        first = await rig.upload(nfd, CONTENT)
        body = {"kind": "rootfs", "hardware_ids": [ROOTFS], "version": "1.0", "length": len(CONTENT)}
        for name in (nfd, unicodedata.normalize("NFC", nfd)):
            same = await rig.admin.post("/api/v1/images", json={**body, "filename": name})
            assert same.json()["image"]["id"] == first
            other = await rig.admin.post("/api/v1/images", json={**body, "filename": name, "version": "9"})
            assert other.status_code == 409
        await rig.sign_all()
        book, _, _ = proposals(rig)
        targets = book.next("image", "targets", type(book.newest("image", "targets").signed))
        targets.targets[nfd] = targets.targets.pop(unicodedata.normalize("NFC", nfd))
        book.propose("image", "targets", targets)
        rig.offline.settle()
        answer = await rig.bring("image")
        assert (answer.status_code, "NFC" in answer.json()["detail"]) == (400, True)


async def test_r4_images_are_served_under_each_hash_and_metadata_under_their_version(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        car = await make_car(rig)
        await rig.image("gateway/größe 2.img", CONTENT)
        entry = (await current(rig, car))["targets"].signed.targets["gateway/größe 2.img"]
        assert (entry.length, entry.hashes) == (len(CONTENT), {"sha256": sha256(CONTENT), "sha512": sha512(CONTENT)})
        for digest in entry.hashes.values():
            answer = await car.get(f"{uptane.TARGETS}/gateway/{digest}.{quote('größe 2.img')}")
            assert (answer.status_code, answer.content) == (200, CONTENT)
        for path in (
            "gateway/größe 2.img",
            f"gateway/{sha256(b'other')}.größe 2.img",
            f"{sha256(CONTENT)}.größe 2.img",
        ):
            assert (await car.get(f"{uptane.TARGETS}/{quote(path)}")).status_code == 404


async def test_r4_names_that_leave_a_folder_are_refused(tmp_path: Path) -> None:
    long = "a/" + "x" * 300
    async with rig_in(tmp_path, begun=False) as rig:
        for name in ("../etc/passwd", "a/../../b", "/abs", "a//b", "a/./b", "a\\b", "a/b\x00", "", long, "a?b", " a"):
            body = {"filename": name, "kind": "rootfs", "hardware_ids": [ROOTFS], "version": "1", "length": 1}
            assert (await rig.admin.post("/api/v1/images", json=body)).status_code == 400, name


async def test_r4_no_address_reaches_files_outside_the_store(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        car = await make_car(rig)
        for path in ("..%2f..%2fcloud.toml", "gateway/..%2f" + "0" * 64 + ".x", "%00", "0" * 64 + ".", "%ff%fe"):
            assert (await car.get(f"{uptane.TARGETS}/{path}")).status_code == 404


async def test_r5_entries_say_hardware_and_release_counter_as_stored(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        car = await make_car(rig)
        await rig.image("gateway/a.img", CONTENT, release_counter=7, version="7.1")
        entry = (await current(rig, car))["targets"].signed.targets["gateway/a.img"]
        told = {"hardware_ids": [ROOTFS], "release_counter": 7, "kind": "rootfs", "version": "7.1"}
        assert entry.custom["must_match"] == told
        book, _, _ = proposals(rig)
        targets = book.next("image", "targets", type(book.newest("image", "targets").signed))
        targets.targets["gateway/a.img"].custom["must_match"]["release_counter"] = 6
        book.propose("image", "targets", targets)
        rig.offline.settle()
        answer = await rig.bring("image")
        assert (answer.status_code, "release counter" in answer.json()["detail"]) == (400, True)


async def test_r10_delegations_are_prioritised_nested_and_limited(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        car = await make_car(rig)
        first = await supplier(rig)
        rig.offline.settle()
        await rig.upload("brakes/a.bin", CONTENT, kind="firmware", hardware_ids=[BRAKES])
        await rig.upload("brakes/b.bin", CONTENT + b"b", kind="firmware", hardware_ids=[BRAKES])
        assert (await sign_as(rig, "acme", ["brakes/a.bin"], first)).status_code == 200
        second = await supplier(rig, "acme-tier2", by="acme", paths=["brakes/b*"], terminating=True)
        rig.offline.settle([*rig.offline.signers.values(), *first])
        assert (await sign_as(rig, "acme-tier2", ["brakes/b.bin"], second)).status_code == 200
        found = await current(rig, car)
        roles = found["targets"].signed.delegations.roles
        assert list(roles) == ["deltas", "acme"]
        assert roles["acme"].unrecognized_fields[DELEGATION_HARDWARE_FIELD] == [BRAKES]
        assert found["acme"].signed.delegations.roles["acme-tier2"].terminating
        images = (await rig.admin.get("/api/v1/images")).json()["items"]
        assert {one["filename"]: (one["role"], one["state"]) for one in images} == {
            "brakes/a.bin": ("acme", "signed"),
            "brakes/b.bin": ("acme-tier2", "signed"),
        }


async def test_r11_the_snapshot_lists_every_targets_file_with_its_version(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        car = await make_car(rig)
        keys = await supplier(rig)
        rig.offline.settle()
        await rig.upload("brakes/a.bin", CONTENT, kind="firmware", hardware_ids=[BRAKES])
        await sign_as(rig, "acme", ["brakes/a.bin"], keys)
        found = await current(rig, car)
        assert set(found["snapshot"].signed.meta) == {"targets.json", "deltas.json", "acme.json"}
        for name, meta in found["snapshot"].signed.meta.items():
            content = (await car.get(f"{uptane.IMAGE}/{meta.version}.{name}")).content
            assert (meta.length, meta.hashes) == (len(content), {"sha256": sha256(content)})


async def test_r12_the_timestamp_has_the_version_length_and_hash_of_the_snapshot(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        car = await make_car(rig)
        meta = (await image_file(rig, car, "timestamp")).signed.snapshot_meta
        content = (await car.get(f"{uptane.IMAGE}/{meta.version}.snapshot.json")).content
        assert (meta.length, meta.hashes) == (len(content), {"sha256": sha256(content)})


async def test_online_metadata_is_made_again_before_it_expires(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        car, updates = await make_car(rig), rig.cloud.services.updates
        first = await current(rig, car)
        await updates.look()
        assert (await image_file(rig, car, "timestamp")).signed.version == first["timestamp"].signed.version
        for _ in range(12):
            rig.clock.advance_s(0.6 * 86_400)
            await updates.look()
            now = (await image_file(rig, car, "timestamp")).signed
            assert now.expires.timestamp() > rig.clock.now_ns() / 1e9
        later = await current(rig, car)
        assert later["snapshot"].signed.version > first["snapshot"].signed.version
        assert later["snapshot"].signed.meta["targets.json"] == first["snapshot"].signed.meta["targets.json"]


async def test_versions_never_go_back_when_the_database_is_restored(tmp_path: Path) -> None:
    """What was given out after the backup is outrun, though the cloud does not know of it."""
    async with rig_in(tmp_path) as rig:
        car = await make_car(rig)
        await rig.cloud.services.db.engine.dispose()
        backup = rig.cloud.services.db.path.read_bytes()
        for wal in tmp_path.rglob("cloud.db-wal"):
            backup_wal, wal_path = wal.read_bytes(), wal
        rig.clock.advance_s(10)
        await rig.image("gateway/a.img", CONTENT)
        lost = await current(rig, car)
        lost_director = (await car.director("timestamp")).signed.version
    rig.cloud.services.db.path.write_bytes(backup)
    wal_path.write_bytes(backup_wal)
    async with rig_in(tmp_path, begun=False) as again:
        again.clock.advance_s(1800)
        restored = await make_car(again, registered=False)
        again.offline.history = rig.offline.history
        assert (await again.admin.get("/api/v1/images")).json()["total"] == 0
        await again.cloud.services.updates.look()
        await again.upload("gateway/a.img", CONTENT)
        assert (await again.bring("image")).json()["added"] == ["2.targets.json"]
        now = await current(again, restored)
        assert now["targets"].signed.version == lost["targets"].signed.version
        for role in ("timestamp", "snapshot"):
            assert now[role].signed.version > lost[role].signed.version
        assert (await restored.director("timestamp")).signed.version > lost_director


async def test_i1_images_are_served_by_range_with_etag_and_resumed_with_if_range(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        car = await make_car(rig)
        await rig.image("gateway/a.img", CONTENT)
        url, http = f"{uptane.TARGETS}/gateway/{sha256(CONTENT)}.a.img", car.vehicle.http
        whole = await http.get(url)
        etag = whole.headers["etag"]
        assert (whole.status_code, whole.content, whole.headers["accept-ranges"]) == (200, CONTENT, "bytes")
        assert "immutable" in whole.headers["cache-control"]
        head = await http.head(url)
        assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(CONTENT)))
        cases = {
            "bytes=100-199": (206, CONTENT[100:200]),
            "bytes=21990-": (206, CONTENT[21990:]),
            "bytes=-10": (206, CONTENT[-10:]),
            "bytes=0-99999999": (206, CONTENT),
            "bytes=22000-": (416, b""),
            "bytes=5-2": (200, CONTENT),
            "bytes=0-1,5-6": (200, CONTENT),
            "lines=1-2": (200, CONTENT),
        }
        for value, (status, content) in cases.items():
            answer = await http.get(url, headers={"range": value})
            assert (answer.status_code, answer.content) == (status, content), value
        part = await http.get(url, headers={"range": "bytes=100-199"})
        assert part.headers["content-range"] == f"bytes 100-199/{len(CONTENT)}"
        same = await http.get(url, headers={"range": "bytes=0-9", "if-range": etag})
        other = await http.get(url, headers={"range": "bytes=0-9", "if-range": '"other"'})
        assert (same.status_code, other.status_code) == (206, 200)
        assert (await http.get(url, headers={"if-none-match": etag})).status_code == 304
        assert (await http.post(url)).status_code == 405


async def test_i1_images_and_metadata_are_for_vehicles_only(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        await rig.image("gateway/a.img", CONTENT)
        transport = httpx.ASGITransport(rig.cloud.vehicle_app)
        async with httpx.AsyncClient(transport=transport, base_url="https://vehicle-port") as nobody:
            for path in (
                f"{uptane.TARGETS}/gateway/{sha256(CONTENT)}.a.img",
                f"{uptane.IMAGE}/timestamp.json",
                f"{uptane.DIRECTOR}/timestamp.json",
            ):
                assert (await nobody.get(path)).status_code == 401
        car = await make_car(rig)
        await rig.admin.post(f"/api/v1/vehicles/{car.id}/revoke", json={"reason": "stolen"})
        assert (await car.get(f"{uptane.TARGETS}/gateway/{sha256(CONTENT)}.a.img")).status_code == 403


async def test_i1_what_is_not_signed_for_is_not_served(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        car = await make_car(rig)
        await rig.upload("gateway/a.img", CONTENT)
        assert (await car.get(f"{uptane.TARGETS}/gateway/{sha256(CONTENT)}.a.img")).status_code == 404


async def test_i2_a_supplier_writes_within_its_chain_of_delegations_only(tmp_path: Path) -> None:
    """Path and hardware id, for every link of the chain; a key that was taken away counts no more."""
    async with rig_in(tmp_path) as rig:
        keys = await supplier(rig)
        rig.offline.settle()
        await rig.bring("image")
        firmware: dict[str, Any] = {"kind": "firmware", "hardware_ids": [BRAKES]}
        await rig.upload("gateway/x.bin", CONTENT, **firmware)
        await rig.upload("brakes/y.bin", CONTENT, kind="firmware", hardware_ids=[BRAKES, ROOTFS])
        await rig.upload("brakes/z.bin", CONTENT, **firmware)
        for name in ("gateway/x.bin", "brakes/y.bin"):
            history, book = dict(rig.offline.history), dict(rig.offline.book.signed)
            answer = await sign_as(rig, "acme", [name], keys)
            assert answer.status_code == 400
            assert f"may not speak for '{name}'" in answer.json()["detail"]
            rig.offline.history, rig.offline.book.signed = history, book
        stranger = CryptoSigner.generate_ed25519()
        book, lives, now_ns = proposals(rig)
        request = await rig.cloud.services.updates.images.sign_request()
        ceremony.sign_for(book, "acme", [i for i in request.images if i.file.filename == "brakes/z.bin"], lives, now_ns)
        forged: Metadata[Any] = book.pending.pop(("image", "acme"))
        forged.sign(stranger)
        answer = await rig.bring("image", {"1.acme.json": forged.to_bytes()})
        assert (answer.status_code, "is not signed" in answer.json()["detail"]) == (400, True)
        assert (await sign_as(rig, "acme", ["brakes/z.bin"], keys)).status_code == 200
        await supplier(rig)
        rig.offline.settle()
        assert (await rig.bring("image")).status_code == 409
        answer = await rig.bring("image", drop=["brakes/*"])
        assert "no longer signed as its delegation asks" in answer.json()["warnings"][0]
        images = (await rig.admin.get("/api/v1/images?state=signed")).json()["items"]
        assert images == []


async def test_i2_nobody_but_an_operator_uploads_and_only_an_admin_brings_roots(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        viewer, operator = await rig.cloud.logged_in("viewer"), await rig.cloud.logged_in("operator")
        body = {"filename": "a", "kind": "rootfs", "hardware_ids": ["x"], "version": "1", "length": 1}
        assert (await viewer.post("/api/v1/images", json=body)).status_code == 403
        assert (await operator.post("/api/v1/images", json=body)).status_code == 201
        rig.admin = operator
        assert (await rig.bring("image")).status_code == 403
        targets = {name: content for name, content in rig.offline.files("image").items() if "root" not in name}
        assert (await rig.bring("image", targets)).status_code == 200


async def test_i3_names_are_never_used_for_other_content(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        await rig.image("gateway/a.img", CONTENT)
        body = {"filename": "gateway/a.img", "kind": "rootfs", "hardware_ids": [ROOTFS], "version": "1.0", "length": 3}
        answer = await rig.admin.post("/api/v1/images", json=body)
        assert (answer.status_code, "never used twice" in answer.json()["detail"]) == (409, True)
        assert (await rig.admin.delete("/api/v1/images/1")).status_code == 409


async def test_a_target_does_not_vanish_unless_it_is_named(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        await rig.image("gateway/a.img", CONTENT)
        book, lives, now_ns = proposals(rig)
        ceremony.sign_for(book, "targets", [], lives, now_ns, drop=["gateway/a.img"])
        rig.offline.settle()
        answer = await rig.bring("image")
        assert (answer.status_code, "would vanish" in answer.json()["detail"]) == (409, True)
        answer = await rig.bring("image", drop=["gateway/a.img"])
        assert (answer.status_code, answer.json()["dropped"]) == (200, ["gateway/a.img"])
        images = (await rig.admin.get("/api/v1/images")).json()["items"]
        assert [(one["state"], one["is_target"]) for one in images] == [("stored", False)]


async def test_metadata_that_does_not_stand_up_is_refused_whole(tmp_path: Path) -> None:
    """Truncated, of another kind, unsigned, too new, expired, or what only the cloud may make."""
    async with rig_in(tmp_path) as rig:
        await rig.upload("gateway/a.img", CONTENT)
        request = await rig.cloud.services.updates.images.sign_request()
        book, lives, now_ns = proposals(rig)
        ceremony.sign_for(book, "targets", request.images, lives, now_ns)
        unsigned = book.pending["image", "targets"].to_bytes()
        rig.offline.settle()
        good = rig.offline.files("image")["2.targets.json"]
        raw = json.loads(good)
        raw["signed"]["version"] = 9
        snapshot = await rig.cloud.services.updates.repositories.files("image")
        bad: dict[str, bytes] = {
            "2.targets.json": unsigned,
            "3.targets.json": good,
            "9.targets.json": json.dumps(raw).encode(),
            "2.root.json": good,
            "2.other.json": good,
            "2.deltas.json": good,
            "2.timestamp.json": snapshot["timestamp.json"],
            "two.targets.json": good,
            "2.targets": good,
            "2.../x.json": good,
        }
        for name, content in [*bad.items(), ("2.targets.json", good[:-20]), ("2.targets.json", b"[" * 100_000)]:
            answer = await rig.bring("image", {name: content})
            assert answer.status_code in (400, 409), (name, answer.text)
        rig.clock.advance_s(366 * 86_400)
        rig.admin = await rig.cloud.logged_in("admin")
        answer = await rig.bring("image", {"2.targets.json": good})
        assert (answer.status_code, "expired" in answer.json()["detail"]) == (400, True)
        assert (await rig.admin.get("/api/v1/images?state=signed")).json()["total"] == 0


async def test_uploads_go_on_where_they_ended_and_wrong_ones_are_refused(tmp_path: Path) -> None:
    async with rig_in(tmp_path, begun=False, updates={"max_chunk_bytes": 10_000, "max_image_bytes": 50_000}) as rig:
        admin = rig.admin
        body: dict[str, Any] = {
            "filename": "gateway/a.img",
            "kind": "rootfs",
            "hardware_ids": [ROOTFS],
            "version": "1.0",
            "length": len(CONTENT),
            "sha256": sha256(CONTENT),
        }
        url = f"/api/v1/images/{(await admin.post('/api/v1/images', json=body)).json()['image']['id']}"

        async def put(start: int, end: int, content: bytes | None = None, total: int = len(CONTENT)) -> httpx.Response:
            headers = {"content-range": f"bytes {start}-{end - 1}/{total}"}
            return await admin.put(f"{url}/content", content=content or CONTENT[start:end], headers=headers)

        assert (await put(0, 10_000)).json() == {"received": 10_000}
        assert (await put(12_000, 20_000)).status_code == 409
        assert (await put(0, 10_001)).status_code == 413
        assert (await put(10_000, 12_000, b"short")).status_code == 400
        assert (await put(10_000, 12_000, total=5)).status_code == 400
        assert (await put(21_000, 29_000, b"x" * 8_000)).status_code in (400, 409)
        assert (await admin.post(f"{url}/finish")).status_code == 409
        assert (await admin.post("/api/v1/images", json=body)).json()["received"] == 10_000
        assert (await put(5_000, 15_000)).json() == {"received": 15_000}
        assert (await put(15_000, 22_000, b"y" * 7_000)).json() == {"received": 22_000}
        answer = await admin.post(f"{url}/finish")
        assert (answer.status_code, "SHA-256" in answer.json()["detail"]) == (409, True)
        assert (await admin.get(url)).json()["received"] == 0
        for start in range(0, len(CONTENT), 10_000):
            await put(start, min(start + 10_000, len(CONTENT)))
        done = (await admin.post(f"{url}/finish")).json()
        assert (done["state"], done["sha256"], done["sha512"]) == ("stored", sha256(CONTENT), sha512(CONTENT))
        assert (await put(0, 10)).status_code == 409
        assert (await admin.post("/api/v1/images", json={**body, "filename": "b", "length": 50_001})).status_code == 413
        assert (await admin.delete(url)).status_code == 204
        assert (await admin.get(url)).status_code == 404


async def test_an_image_for_which_there_is_no_room_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    async with rig_in(tmp_path, begun=False, storage={"min_free_bytes": 1 << 60}) as rig:
        body = {"filename": "a", "kind": "rootfs", "hardware_ids": ["x"], "version": "1", "length": 1000}
        answer = await rig.admin.post("/api/v1/images", json=body)
        assert (answer.status_code, "do not fit" in answer.json()["detail"]) == (503, True)

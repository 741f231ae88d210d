"""The Director: what each vehicle is told to install, and which manifests it believes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import text
from tuf.api.metadata import Targets

from gateway.wire import uptane
from gateway.wire.signing import key_from_tuf, verify_threshold
from gateway.wire.uptane import (
    MANIFEST_DOMAIN,
    REPORT_DOMAIN,
    ROOT_TIME_FIELD,
    TARGETS_FIELD,
    TIME_DOMAIN,
    DirectorCustom,
    DirectorInstructions,
    InstalledImage,
    Inventory,
    Signed,
    SignedTime,
    TimeRequest,
    VehicleManifest,
)
from tests.cloud.support import make_check_in
from tests.cloud.updates.support import BRAKES, ROOTFS, Car, Ecu, Rig, installed, make_car, rig_in

pytestmark = pytest.mark.anyio


async def test_a_release_becomes_targets_and_a_manifest_ends_it(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        car = await make_car(rig)
        assert (await car.targets()).targets == {}
        rootfs = await rig.image("gateway/rootfs-2.img", b"rootfs two" * 100, version="2.0")
        brakes = await rig.image(
            "brakes/fw-2.bin", b"brakes two", version="2.0", kind="firmware", hardware_ids=[BRAKES]
        )
        release = await rig.release("summer", rootfs, brakes)
        answer = await rig.assign(car.id, release)
        assert answer.status_code == 201, answer.text
        targets = await car.targets()
        assert set(targets.targets) == {"gateway/rootfs-2.img", "brakes/fw-2.bin"}
        told = msgspec.convert(targets.unrecognized_fields[TARGETS_FIELD], DirectorInstructions)
        assert (told.vehicle, told.release, [one.ecus for one in told.sets]) == (
            "VIN1",
            "summer",
            [("brakes", "gateway")],
        )
        custom = msgspec.convert(targets.targets["brakes/fw-2.bin"].custom, DirectorCustom)
        assert custom.ecus == ("brakes",)
        assert (await car.report(told.assignment, "downloading", percent=40.0, bytes_per_s=1e6)).status_code == 204
        state = await rig.state(car.id)
        assert (state["status"], state["percent"], state["pending"]) == ("downloading", 40.0, ["brakes", "gateway"])
        car.install(targets)
        assert (await car.tell()).status_code == 204
        state = await rig.state(car.id)
        assert (state["status"], state["updated"], state["pending"]) == ("succeeded", ["brakes", "gateway"], [])
        assert (await car.targets()).targets == {}


async def ready(rig: Rig, **more: Any) -> tuple[Car, int]:
    """A registered car, and a release of a root file system and brakes firmware for it."""
    car = await make_car(rig)
    rootfs = await rig.upload("gateway/rootfs-2.img", b"rootfs two" * 100, version="2.0", release_counter=1)
    fields: dict[str, Any] = {"kind": "firmware", "hardware_ids": [BRAKES], "release_counter": 1}
    brakes = await rig.upload("brakes/fw-2.bin", b"brakes two", version="2.0", **fields)
    await rig.sign_all()
    return car, await rig.release("summer", rootfs, brakes, **more)


async def offered(rig: Rig) -> tuple[Car, Targets]:
    """The same, assigned and fetched."""
    car, release = await ready(rig)
    assert (await rig.assign(car.id, release)).status_code == 201
    return car, await car.targets()


async def test_r6_each_image_names_its_ecus_and_r5_hardware_and_counter(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        car, targets = await offered(rig)
        for name, ecu, hardware in (("gateway/rootfs-2.img", "gateway", ROOTFS), ("brakes/fw-2.bin", "brakes", BRAKES)):
            custom = msgspec.convert(targets.targets[name].custom, DirectorCustom)
            assert custom.ecus == (ecu,)
            assert (custom.must_match.hardware_ids, custom.must_match.release_counter) == ((hardware,), 1)
            listed = rig.offline.book.signed["image", "targets"].signed.targets[name]
            assert listed.hashes == targets.targets[name].hashes
            assert listed.custom["must_match"] == targets.targets[name].custom["must_match"]
        assert car.id == "VIN1"


async def test_r7_targets_name_their_vehicle_also_when_they_are_empty(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        for vehicle in ("VIN1", "VIN2"):
            car = await make_car(rig, vehicle)
            targets = await car.targets()
            assert (targets.targets, targets.unrecognized_fields[TARGETS_FIELD]["vehicle"]) == ({}, vehicle)


async def test_r9_the_director_never_delegates_and_names_no_ecu_twice(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        _, targets = await offered(rig)
        assert targets.delegations is None
        named = [ecu for entry in targets.targets.values() for ecu in entry.custom["ecus"]]
        assert sorted(named) == sorted(set(named)) == ["brakes", "gateway"]


async def test_d1_manifests_go_up_and_metadata_come_down(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        car = await make_car(rig)
        assert (await car.tell()).status_code == 204
        assert (await car.director("root", 1)).signed.version == 1
        assert (await car.get(f"{uptane.DIRECTOR}/2.root.json")).status_code == 404
        assert (await car.get(f"{uptane.DIRECTOR}/1.targets.json")).status_code == 404
        for name in ("targets.json", "1.timestamp.json", "x", "99999999999999999999.root.json", "..%2f1.root.json"):
            assert (await car.get(f"{uptane.DIRECTOR}/{name}")).status_code == 404, name


async def test_d2_the_vehicle_is_known_by_its_certificate_whatever_it_says(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        car, other = await make_car(rig), await make_car(rig, "VIN2")
        answer = await other.tell(car.manifest())
        assert (answer.status_code, answer.json()["type"]) == (422, "urn:outrider:problem:refused")
        version = (await car.director("timestamp")).signed.version
        assert (await other.get(f"{uptane.DIRECTOR}/{version}.targets.json")).status_code in (404, 200)
        mine = (await other.targets()).unrecognized_fields[TARGETS_FIELD]
        assert mine["vehicle"] == "VIN2"


async def test_d3_a_manifest_that_does_not_fit_the_inventory_is_dropped_with_the_reason(tmp_path: Path) -> None:
    """Every ECU present and no other, each signature, the Primary's above all, and sensible times."""
    async with rig_in(tmp_path) as rig:
        car = await make_car(rig)
        now_ns, hour_ns = rig.clock.now_ns(), 3_600_000_000_000
        gateway, brakes, stranger = car.ecus["gateway"], car.ecus["brakes"], Ecu("radio", "radio-c3")

        def told(**changes: Any) -> Signed:
            return car.manifest([gateway.report("VIN1", now_ns), brakes.report("VIN1", now_ns, **changes)])

        good = car.manifest()
        bad_value = msgspec.structs.replace(good.signatures[0], value=bytes(64))
        own = Ecu("brakes", BRAKES)
        empty = VehicleManifest(vehicle="VIN1", primary="gateway", reports=())
        cases: dict[str, Signed] = {
            "no report of brakes": car.manifest([gateway.report("VIN1", now_ns)]),
            "not in the inventory": car.manifest([e.report("VIN1", now_ns) for e in (gateway, brakes, stranger)]),
            "reports twice": car.manifest([e.report("VIN1", now_ns) for e in (gateway, brakes, brakes)]),
            "the signature of brakes": car.manifest([gateway.report("VIN1", now_ns), own.report("VIN1", now_ns)]),
            "the Primary's signature": brakes.signed(empty, MANIFEST_DOMAIN),
            "does not fit": msgspec.structs.replace(good, signatures=(bad_value,)),
            "of another vehicle": told(vehicle="VIN2"),
            "of vehicle 'VIN2'": car.manifest(vehicle="VIN2"),
            "its Primary is": car.manifest(primary="brakes"),
            "says hardware": told(hardware_id="brakes-b3"),
            "not plausible": told(time_ns=0),
            "is not plausible": told(time_ns=now_ns + 2 * hour_ns),
            "an attack that is not known": told(attack="gremlins"),
            "not described soundly": told(image=InstalledImage(filename="x", length=-1, hashes={})),
            "not described": told(image=InstalledImage(filename="x", length=1, hashes={"sha256": "nonsense"})),
            "cannot be read": car.primary.signed({"vehicle": 1}, MANIFEST_DOMAIN),
            "a report cannot be read": car.manifest([gateway.signed(["x"], REPORT_DOMAIN)]),
        }
        for reason, manifest in cases.items():
            answer = await car.tell(manifest)
            assert answer.status_code == 422, (reason, answer.text)
            assert reason in answer.json()["detail"]
            assert reason in (await rig.state(car.id))["manifest_problem"]
        for body in (b"", b"{}", b"[" * 10_000, b"\xff" * 100, b'{"payload": 5, "signatures": []}'):
            assert (await car.vehicle.http.post(uptane.MANIFEST, content=body)).status_code == 422
        assert (await car.vehicle.http.post(uptane.MANIFEST, content=b" " * 600_000)).status_code == 413
        assert (await car.tell(good)).status_code == 204  # what was dropped has used up no counter
        assert (await car.tell()).status_code == 204
        state = await rig.state(car.id)
        assert (state["manifest_problem"], state["manifest_ns"]) == ("", rig.clock.now_ns())


async def test_d3_nothing_of_a_dropped_manifest_is_kept(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        car, targets = await offered(rig)
        car.install(targets)
        car.ecus["brakes"].key, right = Ecu("x", "x").key, car.ecus["brakes"].key
        assert (await car.tell()).status_code == 422
        state = await rig.state(car.id)
        assert (state["status"], state["pending"]) == ("offered", ["brakes", "gateway"])
        car.ecus["brakes"].key = right
        assert (await car.tell()).status_code == 204
        assert (await rig.state(car.id))["status"] == "succeeded"


async def test_d4_a_report_counter_is_never_accepted_again(tmp_path: Path) -> None:
    """Neither the same manifest, nor an old report of one ECU in a new manifest, nor after a restart."""
    async with rig_in(tmp_path) as rig:
        car = await make_car(rig)
        first = car.manifest()
        assert (await car.tell(first)).status_code == 204
        answer = await car.tell(first)
        assert (answer.status_code, "a replay" in answer.json()["detail"]) == (422, True)
        old = car.ecus["brakes"].report(car.id, rig.clock.now_ns())
        assert (await car.tell()).status_code == 204
        mixed = car.manifest([car.primary.report(car.id, rig.clock.now_ns()), old])
        answer = await car.tell(mixed)
        assert "the counter of brakes" in answer.json()["detail"]
        last = car.manifest()
    async with rig_in(tmp_path, begun=False) as again:
        car = Car(await again.cloud.enrolled(car.id), again.clock, car.ecus)
        assert (await car.tell(last)).status_code == 204
        assert (await car.tell(last)).status_code == 422


async def test_d5_dependencies_and_conflicts_are_held_against_the_whole_vehicle(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        car = await make_car(rig)
        old = b"brakes one"
        fields: dict[str, Any] = {"kind": "firmware", "hardware_ids": [BRAKES]}
        await rig.upload("brakes/fw-1.bin", old, version="1.0", **fields)
        brakes = await rig.upload("brakes/fw-2.bin", b"brakes two", version="2.0", release_counter=3, **fields)
        rootfs = await rig.upload("gateway/rootfs-2.img", b"rootfs two", version="2.0")
        await rig.sign_all()
        car.ecus["brakes"].image = installed("brakes/fw-1.bin", old)
        assert (await car.tell()).status_code == 204

        async def attempt(name: str, rule: dict[str, Any], *more: int) -> str:
            release = await rig.release(name, {"image_id": rootfs, "rules": [rule]}, *more)
            answer = await rig.assign(car.id, release)
            if answer.status_code == 201:
                await rig.admin.post(f"/api/v1/vehicles/{car.id}/update/cancel")
            return "" if answer.status_code == 201 else str(answer.json()["detail"])

        two = {"rule": "requires", "hardware_id": BRAKES, "version": "2.0"}
        assert "requires version 2.0 on brakes, which would run 1.0" in await attempt("a", two)
        assert await attempt("b", two, brakes) == ""
        assert "release counter 3 or more" in await attempt("c", {**two, "version": "", "min_counter": 3})
        assert "there is none" in await attempt("d", {"rule": "requires", "hardware_id": "radar-1"})
        assert "conflicts with version 1.0 on brakes" in await attempt(
            "e", {**two, "rule": "conflicts", "version": "1.0"}
        )
        assert await attempt("f", {**two, "rule": "conflicts", "version": "1.0"}, brakes) == ""


async def test_d5_what_becomes_impossible_before_it_is_offered_fails_with_the_reason(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        car, release = await ready(rig)
        assert (await rig.assign(car.id, release)).status_code == 201
        newer = installed("brakes/fw-9.bin", b"brakes nine", version="9.0", release_counter=9)
        car.ecus["brakes"].image = newer
        assert (await car.tell()).status_code == 204
        assert (await car.targets()).targets == {}
        state = await rig.state(car.id)
        assert state["status"] == "failed"
        assert "brakes runs release counter 9" in state["detail"]
        assert "never go back" in (await rig.assign(car.id, release)).json()["detail"]


async def test_d6_metadata_is_made_for_the_vehicle_and_only_when_something_changes(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        car, release = await ready(rig)
        other = await make_car(rig, "VIN2")
        empty = (await car.director("timestamp")).signed
        assert (await car.director("timestamp")).signed == empty
        rig.clock.advance_s(60)
        assert (await car.director("timestamp")).signed == empty
        await rig.assign(car.id, release)
        full = await car.targets()
        assert full.version > empty.version
        assert (await car.targets()).version == full.version
        assert (await other.targets()).targets == {}
        rig.clock.advance_s(4 * 86_400)
        again = await car.targets()
        assert (again.version > full.version, again.targets) == (True, full.targets)
        assert again.expires.timestamp() * 1e9 > rig.clock.now_ns() + 6 * 86_400e9
        old = await car.director("targets", full.version)
        assert old.signed.version == full.version


async def test_d6_a_plan_stays_the_same_until_the_update_ends(tmp_path: Path) -> None:
    """An ECU that is done stays in its set, and the image to fall back to stays the old one."""
    async with rig_in(tmp_path) as rig:
        await rig.image("brakes/fw-1.bin", b"brakes one", kind="firmware", hardware_ids=[BRAKES], version="1.0")
        car, release = await ready(rig)
        car.ecus["brakes"].image = installed("brakes/fw-1.bin", b"brakes one")
        await car.tell()
        await rig.assign(car.id, release)
        before = await car.targets()
        fallback = msgspec.convert(before.targets["brakes/fw-2.bin"].custom, DirectorCustom).fallback
        assert fallback["brakes"].filename == "brakes/fw-1.bin"
        car.ecus["brakes"].image = installed("brakes/fw-2.bin", b"brakes two")
        assert (await car.tell()).status_code == 204
        state = await rig.state(car.id)
        assert (state["updated"], state["pending"]) == (["brakes"], ["gateway"])
        after = await car.targets()
        assert (after.version, after.targets) == (before.version, before.targets)


async def test_d7_the_first_inventory_is_registered_and_a_changed_one_waits_for_an_operator(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        car = await make_car(rig)
        assert (await car.register()).status_code == 204
        url = f"/api/v1/vehicles/{car.id}/inventory"
        shown = (await rig.admin.get(url)).json()
        assert [(e["name"], e["hardware_id"], e["is_primary"]) for e in shown["ecus"]] == [
            ("brakes", BRAKES, False),
            ("gateway", ROOTFS, True),
        ]
        assert (await car.tell()).status_code == 204
        car.ecus["brakes"] = Ecu("brakes", BRAKES)  # replaced in a workshop: another key
        assert (await car.register()).status_code == 409
        assert (await car.tell()).status_code == 422
        assert (await rig.state(car.id))["inventory_waits"]
        viewer = await rig.cloud.logged_in("viewer")
        assert (await viewer.post(f"{url}/accept")).status_code == 403
        assert (await rig.admin.post(f"{url}/accept")).status_code == 200
        assert (await car.tell()).status_code == 204
        assert (await rig.admin.post(f"{url}/accept")).status_code == 404
        audit = (await rig.admin.get("/api/v1/audit", params={"target": car.id})).json()["items"]
        actions = [one["action"] for one in audit if one["action"].startswith("inventory")]
        assert actions == ["inventory.accept", "inventory.differs", "inventory.register"]


async def test_d7_unsound_inventories_are_refused(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        car, other = await make_car(rig, registered=False), await make_car(rig, "VIN2")
        gateway, brakes = (ecu.told for ecu in car.ecus.values())
        change = msgspec.structs.replace
        for ecus in (
            (),
            (brakes,),
            (gateway, change(brakes, is_primary=True)),
            (gateway, change(brakes, ecu="gateway")),
            (gateway, change(brakes, key_id=gateway.key_id, public=gateway.public)),
            (gateway, change(brakes, key_id="0" * 64)),
            (gateway, change(brakes, public=b"short")),
            (gateway, change(brakes, method="rsa")),
            (gateway, change(brakes, hardware_id="")),
            tuple(change(gateway, ecu=str(i)) for i in range(200)),
        ):
            answer = await car.post(uptane.INVENTORY, Inventory(ecus=ecus))
            assert answer.status_code == 400, ecus
        car.ecus["brakes"].key = other.ecus["brakes"].key
        assert (await car.register()).status_code == 409
        assert (await car.tell()).status_code == 422
        assert (await rig.state(car.id))["inventory_waits"] is False


async def test_the_time_is_signed_for_one_question_of_one_vehicle(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        car = await make_car(rig)
        answer = await car.post(uptane.TIME, TimeRequest(b"n" * 32))
        signed = msgspec.json.decode(answer.content, type=Signed)
        root = (await car.director("root", 1)).signed
        keys = [root.keys[keyid] for keyid in root.unrecognized_fields[ROOT_TIME_FIELD]["keyids"]]
        known = [key_from_tuf(key.scheme, key.keyval["public"]) for key in keys]
        payload = verify_threshold(signed, TIME_DOMAIN, known, 1)
        told = msgspec.json.decode(payload, type=SignedTime)
        assert told == SignedTime(car.id, b"n" * 32, rig.clock.now_ns())
        for nonce in (b"", b"short", b"n" * 65):
            assert (await car.post(uptane.TIME, TimeRequest(nonce))).status_code == 400


async def test_the_check_in_reply_hints_at_a_new_assignment(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        car, release = await ready(rig)
        marks = [(await car.vehicle.check_in(make_check_in())).update_mark]
        await rig.assign(car.id, release)
        for _ in range(2):
            marks.append((await car.vehicle.check_in(make_check_in())).update_mark)
        await rig.admin.post(f"/api/v1/vehicles/{car.id}/update/cancel")
        marks.append((await car.vehicle.check_in(make_check_in())).update_mark)
        assert marks == ["", "1", "1", "1."]


async def test_assignments_end_once_by_failure_cancel_withdrawal_and_replacement(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        car, release = await ready(rig)

        async def begin(**more: Any) -> str:
            answer = await rig.assign(car.id, release, **more)
            assert answer.status_code == 201, answer.text
            await car.targets()
            return str(answer.json()["id"])

        first = await begin()
        assert (await rig.assign(car.id, release)).status_code == 409
        second = await begin(replace=True)
        assert (await car.report(first, "failed", detail="late")).status_code == 204
        assert (await rig.state(car.id))["status"] == "offered"
        await car.report(second, "installing", percent=10.0)
        await car.report(second, "rolled_back", detail="no heartbeat", attack="rollback", can_roll_back=True)
        await car.report(second, "succeeded", percent=100.0)
        state = await rig.state(car.id)
        assert (state["status"], state["detail"], state["attack"]) == ("rolled_back", "no heartbeat", "rollback")
        assert state["assignment"]["detail"] == "no heartbeat"
        third = await begin()
        await car.report(third, "succeeded", percent=100.0)
        assert (await rig.state(car.id))["status"] == "succeeded"  # the vehicle says so …
        assert (await rig.state(car.id))["assignment"]["state"] == "running"  # … and is not believed
        withdrawn = await rig.admin.post(f"/api/v1/releases/{release}/withdraw")
        assert withdrawn.json() == {"cancelled": 1}
        assert (await car.targets()).targets == {}
        assert (await rig.assign(car.id, release)).status_code == 409
        history = (await rig.admin.get(f"/api/v1/vehicles/{car.id}/updates")).json()
        assert [one["state"] for one in history] == ["cancelled", "rolled_back", "superseded"]
        for body in (b"{}", b'{"assignment": "x", "state": "failed", "at_ns": 1}', b"\xff"):
            assert (await car.vehicle.http.post(uptane.REPORT, content=body)).status_code == 400
        assert (await car.report(third, "dancing")).status_code == 400
        assert (await car.report("999999", "failed")).status_code == 204


async def test_a_rollback_is_an_assignment_of_the_older_images_with_the_same_counter(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        one = await rig.image("gateway/rootfs-1.img", b"rootfs one", version="1.0", release_counter=1)
        car, release = await ready(rig)
        older = await rig.release("spring", one)
        await rig.assign(car.id, release)
        car.install(await car.targets())
        await car.tell()
        assert (await rig.assign(car.id, older, is_rollback=True)).status_code == 201
        back = await car.targets()
        assert set(back.targets) == {"gateway/rootfs-1.img"}
        car.install(back)
        assert (await car.tell()).status_code == 204
        assert (await rig.state(car.id))["status"] == "succeeded"


async def test_vehicles_without_inventory_wait_and_strangers_are_not_assigned(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        _, release = await ready(rig)
        car = await make_car(rig, "VIN2", registered=False)
        assert (await rig.assign("VIN2", release)).status_code == 201
        assert (await car.targets()).targets == {}
        state = await rig.state("VIN2")
        assert (state["status"], "waiting for the vehicle" in state["detail"]) == ("assigned", True)
        assert (await car.register()).status_code == 204
        assert len((await car.targets()).targets) == 2
        assert (await rig.assign("NOBODY", release)).status_code == 404
        assert (await rig.assign("VIN2", 77)).status_code == 404
        assert (await rig.assign("VIN2", release, policy={"window_start_min": 5})).status_code == 400


async def test_payloads_are_assigned_by_their_name(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        car = await make_car(rig)
        scheme = await rig.image("schemes/fleet-2.json", b"{}", kind="scheme", version="2")
        release = await rig.release("schemes", scheme)
        assert "no image of the release fits" in (await rig.assign(car.id, release)).json()["detail"]
        assert (await car.tell(car.manifest(payloads={"schemes": installed("old", b"[]")}))).status_code == 204
        assert (await rig.assign(car.id, release)).status_code == 201
        custom = (await car.targets()).targets["schemes/fleet-2.json"].custom
        assert custom["ecus"] == ["schemes"]
        payloads = {"schemes": installed("schemes/fleet-2.json", b"{}")}
        assert (await car.tell(car.manifest(payloads=payloads))).status_code == 204
        assert (await rig.state(car.id))["status"] == "succeeded"


async def test_erasing_a_vehicle_forgets_its_ecus_and_updates(tmp_path: Path) -> None:
    async with rig_in(tmp_path) as rig:
        car, _ = await offered(rig)
        assert (await rig.admin.delete(f"/api/v1/vehicles/{car.id}")).status_code in (200, 204)
        async with rig.cloud.services.db.read() as session:
            for table in ("vehicle_ecus", "assignments", "vehicle_updates", "director_files", "assignment_plans"):
                assert (await session.scalar(text(f"SELECT count(*) FROM {table}"))) == 0, table

"""The way of an honest update, and what the standard asks of its steps (F1 to F13)."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path

import anyio
import pytest

from gateway.errors import ConfigError, NotNowError, TransportError
from gateway.update.model import AttackError
from gateway.wire.uptane import ATTACKS, InstallSet
from tests.gateway.uptane.repos import DAY_NS, Cloud, Image, delta, image, new_key, unreachable
from tests.gateway.uptane.rig import Vehicle


def files_of(asked: list[tuple[str, str]]) -> list[str]:
    """Requests as text."""
    return [f"{repository}/{name}" if name else repository for repository, name in asked]


def test_an_honest_update_is_verified_for_each_of_its_ecus(cloud: Cloud, vehicle: Vehicle) -> None:
    old = cloud.release(image("images/gateway-1.0.erofs"))
    offered = cloud.release(delta())
    offer = {"base_sha256": old.sha256, "base_length": len(old.content), "delta": offered.facts}
    new = cloud.release(image(), "gateway", fallback={"gateway": old.facts}, deltas=[offer])
    motor = image("images/motor.bin", hardware=["motor-3"], kind="firmware")
    cloud.release(motor, "motor", "motor-2")
    cloud.director.instruct(
        assignment="7", campaign="c", release="2.0", sets=[{"ecus": ["motor", "brakes", "motor-2"]}]
    )
    cloud.publish()
    update = vehicle.refresh()
    assert {target.ecu: target.image for target in update.targets} == {
        "gateway": new.facts,
        "motor": motor.facts,
        "motor-2": motor.facts,
    }
    gateway = next(target for target in update.targets if target.ecu == "gateway")
    assert gateway.deltas[0].delta == offered.facts
    assert gateway.fallback == old.facts
    assert gateway.fallback_must_match == old.must_match
    assert (update.assignment, update.campaign, update.release) == ("7", "c", "2.0")
    assert update.sets == (InstallSet(ecus=("motor", "motor-2")), InstallSet(ecus=("gateway",)))


def test_what_is_known_survives_a_restart_without_network(vehicle: Vehicle, wanted: Image) -> None:
    assert vehicle.verifier.known() is None
    update = vehicle.refresh()
    vehicle.restart()
    assert vehicle.verifier.known() == update
    assert update.targets[0].image == wanted.facts


def test_what_is_known_is_for_the_vehicle_it_was_verified_for(vehicle: Vehicle, wanted: Image) -> None:
    vehicle.refresh()
    vehicle.restart(ecus={"gateway": "gateway-2"})
    assert vehicle.verifier.known() is None


def test_damaged_knowledge_is_none_and_is_verified_again(vehicle: Vehicle, wanted: Image) -> None:
    update = vehicle.refresh()
    for damage in (b"", b"\0" * 400, b"x\n{}"):
        (vehicle.directory / "known.json").write_bytes(damage)
        vehicle.restart()
        assert vehicle.verifier.known() is None
        assert vehicle.refresh() == update


def test_f1_f2_f3_f4_f5_f7_f8_f9_f10_files_are_asked_for_in_the_order_of_the_standard(
    cloud: Cloud, vehicle: Vehicle, wanted: Image
) -> None:
    vehicle.refresh()
    assert files_of(vehicle.fetcher.asked) == [
        "time",
        "director/2.root.json",
        "director/timestamp.json",
        "director/2.snapshot.json",
        "director/2.targets.json",
        "image/2.root.json",
        "image/timestamp.json",
        "image/2.snapshot.json",
        "image/2.targets.json",
    ]


def test_f4_an_unchanged_director_snapshot_ends_it(cloud: Cloud, vehicle: Vehicle, wanted: Image) -> None:
    update = vehicle.refresh()
    cloud.director.publish_timestamp()
    assert vehicle.refresh() == update
    assert files_of(vehicle.fetcher.asked) == ["time", "director/2.root.json", "director/timestamp.json"]


def test_f4_a_verification_that_did_not_finish_is_not_taken_as_done(
    cloud: Cloud, vehicle: Vehicle, wanted: Image
) -> None:
    fetcher = cloud.fetcher(faults={("image", "timestamp.json"): unreachable})
    with pytest.raises(TransportError):
        vehicle.refresh(fetcher)
    assert vehicle.verifier.known() is None
    assert vehicle.refresh().targets[0].image == wanted.facts


def test_f6_nothing_to_do_ends_it_before_the_image_repository(cloud: Cloud, vehicle: Vehicle) -> None:
    assert vehicle.refresh().targets == ()
    assert "image" not in {repository for repository, _ in vehicle.fetcher.asked}
    assert vehicle.verifier.known() is not None


def test_f9_an_unchanged_image_snapshot_is_not_fetched_again(cloud: Cloud, vehicle: Vehicle, wanted: Image) -> None:
    vehicle.refresh()
    cloud.director.assign(wanted, "gateway")
    cloud.director.instruct(assignment="8")
    cloud.director.publish()
    assert vehicle.refresh().assignment == "8"
    asked = [name for repository, name in vehicle.fetcher.asked if repository == "image"]
    assert asked == ["2.root.json", "timestamp.json"]


def test_f12_an_error_names_the_attack_and_the_line(cloud: Cloud, vehicle: Vehicle, wanted: Image) -> None:
    cloud.clock.advance(days=8)
    error = vehicle.refused()
    assert error.attack in ATTACKS
    assert (error.attack, error.rule) == ("freeze", "CT4")
    assert "CT4: freeze attack" in str(error)
    told = vehicle.verifier.statistics()
    assert (told["attack"], told["rule"], told["refused"]) == ("freeze", "CT4", 1)


def test_f13_a_failure_leaves_a_vehicle_that_updates_later(cloud: Cloud, vehicle: Vehicle, wanted: Image) -> None:
    good = cloud.director.checkpoint(), cloud.image.checkpoint()
    every_file = [("director", name) for name in good[0]] + [("image", name) for name in good[1]]
    for key in [*every_file, ("*", "*")]:
        for fault in (unreachable, lambda _: None, lambda _: b"", lambda _: b"{}", lambda _: b"\0" * 1000):
            fetcher = cloud.fetcher(faults={key: fault})
            with contextlib.suppress(AttackError, TransportError):
                vehicle.refresh(fetcher)
    assert vehicle.refresh().targets[0].image == wanted.facts


def test_f13_a_vehicle_that_was_offline_for_years_updates_at_once(cloud: Cloud, vehicle: Vehicle) -> None:
    vehicle.refresh()
    cloud.clock.advance(days=900)
    for repository in (cloud.image, cloud.director):
        repository.publish_root(also=repository.signers["root"])
    new = cloud.release(image(), "gateway")
    cloud.publish()
    vehicle.restart()
    assert vehicle.refresh().targets[0].image == new.facts


def test_r13_p1_both_repositories_must_sign_every_image(cloud: Cloud, vehicle: Vehicle) -> None:
    only_director = image("images/only-director.erofs")
    cloud.director.assign(only_director, "gateway")
    cloud.publish()
    error = vehicle.refused()
    assert (error.attack, error.rule) == ("arbitrary software", "F11")
    cloud.director.nothing()
    cloud.release(image("images/only-image.erofs"))
    cloud.publish()
    assert vehicle.refresh().targets == ()


def test_p1_a_vehicle_without_a_sound_root_does_not_start(cloud: Cloud, tmp_path: Path) -> None:
    unsigned = cloud.director.sign(cloud.director.root, [])
    for root in (b"", b"{}", cloud.director.files["timestamp.json"], unsigned):
        with pytest.raises(ConfigError):
            Vehicle(cloud, tmp_path / "a", director_root=root)
        with pytest.raises(ConfigError):
            Vehicle(cloud, tmp_path / "a", image_root=root)
    with pytest.raises(ConfigError, match="Primary"):
        Vehicle(cloud, tmp_path / "a", primary="nobody")
    Vehicle(cloud, tmp_path / "a").verifier.close()


def test_one_verifier_at_a_time_has_the_directory(cloud: Cloud, vehicle: Vehicle) -> None:
    with pytest.raises(NotNowError):
        Vehicle(cloud, vehicle.directory)
    vehicle.verifier.close()
    Vehicle(cloud, vehicle.directory).verifier.close()


def test_refreshes_of_two_tasks_come_one_after_the_other(cloud: Cloud, vehicle: Vehicle, wanted: Image) -> None:
    async def both() -> list[str]:
        order: list[str] = []
        async with anyio.create_task_group() as tasks:
            for name in ("one", "two"):
                fetcher = cloud.fetcher(on_request=lambda *_, name=name: order.append(name))
                tasks.start_soon(vehicle.verifier.refresh, fetcher)
        return order

    groups = [name for name, _ in itertools.groupby(anyio.run(both))]
    assert sorted(groups) == ["one", "two"]


def test_a_cancelled_refresh_leaves_the_next_one_in_order(cloud: Cloud, vehicle: Vehicle, wanted: Image) -> None:
    async def cancelled(after: int) -> None:
        with anyio.CancelScope() as scope:

            def count(repository: str, name: str) -> None:
                nonlocal after
                after -= 1
                if not after:
                    scope.cancel()

            await vehicle.verifier.refresh(cloud.fetcher(on_request=count))

    for after in range(1, 9):
        anyio.run(cancelled, after)
        vehicle.restart()
    assert vehicle.refresh().targets[0].image == wanted.facts


def test_metadata_of_the_future_is_no_attack_and_time_stands_for_nothing_else(
    cloud: Cloud, vehicle: Vehicle, wanted: Image
) -> None:
    cloud.director.expires_days["timestamp"] = 30_000
    cloud.director.publish()
    assert vehicle.refresh().targets[0].image == wanted.facts
    assert vehicle.verifier.now_ns() // DAY_NS == cloud.clock.utc_ns() // DAY_NS


def test_keys_of_others_add_nothing(cloud: Cloud, vehicle: Vehicle, wanted: Image) -> None:
    signers = [*cloud.director.signers["timestamp"], new_key(), new_key()]
    cloud.director.publish_timestamp(signers)
    assert vehicle.refresh().targets[0].image == wanted.facts

"""Secure time: T1, T2, T4, and what a wrong clock can and cannot do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.errors import TransportError
from gateway.wire.uptane import ROOT_TIME_FIELD, Signed, TimeRequest
from tests.gateway.uptane.repos import DAY_NS, SECOND_NS, Cloud, Image, image, new_key
from tests.gateway.uptane.rig import Vehicle

YEAR_NS = 1_798_761_600 * SECOND_NS


@pytest.fixture
def clock_ns(vehicle: Vehicle, cloud: Cloud) -> Any:
    """Sets the vehicle's wall clock; the Director keeps the world's."""
    world_ns = cloud.clock.utc_now_ns

    def attest(request: TimeRequest) -> Signed:
        return cloud.director.sign_time(request, time_ns=world_ns)

    def change(utc_ns: int) -> Any:
        cloud.clock.utc_now_ns = utc_ns
        return attest

    return change


def test_t1_a_clock_at_1970_does_not_brick(cloud: Cloud, vehicle: Vehicle, wanted: Image, clock_ns: Any) -> None:
    attest = clock_ns(0)
    assert vehicle.refresh(cloud.fetcher(time_fault=attest)).targets[0].image == wanted.facts
    assert vehicle.verifier.now_ns() == YEAR_NS


def test_t1_t4_a_clock_at_1970_does_not_open(cloud: Cloud, vehicle: Vehicle, wanted: Image) -> None:
    vehicle.refresh()
    cloud.clock.advance(days=8)
    cloud.director.instruct(assignment="later")
    cloud.publish()
    vehicle.refresh()
    old = cloud.director.checkpoint()
    cloud.clock.advance(days=8)
    cloud.publish()
    vehicle.refresh()
    cloud.clock.utc_now_ns = 0
    vehicle.restart()
    cloud.director.files = old
    error = vehicle.refused(cloud.fetcher(has_time=False))
    assert error.attack in ("rollback", "freeze")
    fresh = Vehicle(cloud, vehicle.directory.parent / "fresh", build_time_ns=YEAR_NS + 16 * DAY_NS)
    assert fresh.refused(cloud.fetcher(has_time=False)).attack == "freeze"
    fresh.verifier.close()


def test_t2_time_is_never_before_the_software_was_built(cloud: Cloud, tmp_path: Path) -> None:
    cloud.clock.utc_now_ns = 0
    vehicle = Vehicle(cloud, tmp_path, build_time_ns=YEAR_NS + 500 * DAY_NS)
    assert vehicle.verifier.now_ns() == YEAR_NS + 500 * DAY_NS
    assert vehicle.refused(cloud.fetcher(has_time=False)).attack == "freeze"
    vehicle.verifier.close()


def test_t1_a_clock_far_ahead_refuses_until_time_is_attested_and_leaves_no_trace(
    cloud: Cloud, vehicle: Vehicle, wanted: Image, clock_ns: Any
) -> None:
    attest = clock_ns(YEAR_NS + 20_000 * DAY_NS)
    assert vehicle.refused(cloud.fetcher(has_time=False)).attack == "freeze"
    assert vehicle.refresh(cloud.fetcher(time_fault=attest)).targets[0].image == wanted.facts
    clock_ns(YEAR_NS)
    vehicle.restart()
    cloud.director.instruct(assignment="next")
    cloud.director.publish()
    assert vehicle.refresh(cloud.fetcher(has_time=False)).assignment == "next"


def test_t4_attested_time_is_carried_on_by_the_monotonic_clock(
    cloud: Cloud, vehicle: Vehicle, wanted: Image, clock_ns: Any
) -> None:
    attest = clock_ns(0)
    vehicle.refresh(cloud.fetcher(time_fault=attest))
    cloud.clock.monotonic_now_ns += 6 * DAY_NS
    assert vehicle.verifier.now_ns() == YEAR_NS + 6 * DAY_NS
    cloud.clock.monotonic_now_ns += 2 * DAY_NS
    assert vehicle.verifier.now_ns() == YEAR_NS + 8 * DAY_NS
    assert vehicle.refused(cloud.fetcher(has_time=False)).rule == "CT4"


def test_t4_old_attested_time_yields_to_a_later_clock(cloud: Cloud, vehicle: Vehicle, wanted: Image) -> None:
    vehicle.refresh()
    cloud.clock.monotonic_now_ns += 8 * DAY_NS
    cloud.clock.utc_now_ns += 300 * DAY_NS
    assert vehicle.verifier.now_ns() == YEAR_NS + 300 * DAY_NS


def test_t1_the_highest_attested_time_holds_over_restarts(cloud: Cloud, vehicle: Vehicle, wanted: Image) -> None:
    cloud.clock.advance(days=3)
    vehicle.refresh()
    cloud.clock.utc_now_ns = 0
    vehicle.restart()
    assert vehicle.verifier.now_ns() == YEAR_NS + 3 * DAY_NS
    assert not vehicle.verifier.statistics()["time_is_attested"]


def test_t1_attested_time_never_goes_back(cloud: Cloud, vehicle: Vehicle, wanted: Image) -> None:
    cloud.clock.advance(days=3)
    vehicle.refresh()
    back = cloud.fetcher(time_fault=lambda request: cloud.director.sign_time(request, time_ns=YEAR_NS))
    vehicle.refresh(back)
    assert vehicle.verifier.now_ns() == YEAR_NS + 3 * DAY_NS


@pytest.mark.parametrize(
    "lie",
    [
        {"nonce": b"x" * 32},
        {"vehicle": "vehicle-2"},
        {"signers": []},
        {"signers": "stranger"},
        {"signers": "timestamp"},
        {"time_ns": 0},
        {"time_ns": -5},
        {"time_ns": 2**63 - 1},
    ],
)
def test_t1_an_answer_to_another_question_or_by_other_keys_is_a_freeze(
    cloud: Cloud, vehicle: Vehicle, wanted: Image, lie: dict[str, Any]
) -> None:
    if isinstance(lie.get("signers"), str):
        lie = {"signers": [new_key()] if lie["signers"] == "stranger" else cloud.director.signers["timestamp"]}
    fetcher = cloud.fetcher(time_fault=lambda request: cloud.director.sign_time(request, **lie))
    error = vehicle.refused(fetcher)
    assert (error.attack, error.rule) == ("freeze", "T1")
    assert vehicle.refresh().targets[0].image == wanted.facts


def test_t1_garbage_signed_by_the_time_key_is_refused(cloud: Cloud, vehicle: Vehicle, wanted: Image) -> None:
    def garbage(request: TimeRequest) -> Signed:
        honest = cloud.director.sign_time(request)
        return msgspec.structs.replace(honest, payload=b"{}")

    assert vehicle.refused(cloud.fetcher(time_fault=garbage)).rule == "T1"


def test_t1_every_question_has_a_nonce_of_its_own(cloud: Cloud, vehicle: Vehicle, wanted: Image) -> None:
    seen: list[bytes] = []

    def note(request: TimeRequest) -> Signed:
        seen.append(request.nonce)
        return cloud.director.sign_time(request)

    for _ in range(3):
        vehicle.refresh(cloud.fetcher(time_fault=note))
    assert len(set(seen)) == 3
    assert all(len(nonce) >= 16 for nonce in seen)


def test_t1_an_answer_that_was_held_back_says_nothing(cloud: Cloud, vehicle: Vehicle, wanted: Image) -> None:
    def slow(request: TimeRequest) -> Signed:
        answer = cloud.director.sign_time(request)
        cloud.clock.advance(seconds=61)
        return answer

    vehicle.refresh(cloud.fetcher(time_fault=slow))
    assert not vehicle.verifier.statistics()["time_is_attested"]


def test_t1_a_time_server_that_does_not_answer_stops_nothing(cloud: Cloud, vehicle: Vehicle, wanted: Image) -> None:
    def fail(request: TimeRequest) -> Signed:
        raise TransportError("no answer")

    assert vehicle.refresh(cloud.fetcher(time_fault=fail)).targets[0].image == wanted.facts


def test_t1_a_new_time_key_counts_from_the_root_that_names_it(cloud: Cloud, vehicle: Vehicle, wanted: Image) -> None:
    vehicle.refresh()
    cloud.director.set_time_keys([new_key()])
    cloud.director.publish_root(also=cloud.director.signers["root"])
    vehicle.refresh()
    assert vehicle.verifier.statistics()["time_is_attested"]


def test_t1_thresholds_of_time_keys_hold(cloud: Cloud, vehicle: Vehicle, wanted: Image) -> None:
    one, two = new_key(), new_key()
    cloud.director.set_time_keys([one, two], threshold=2)
    cloud.director.publish_root()
    fetcher = cloud.fetcher(time_fault=lambda request: cloud.director.sign_time(request, signers=[one]))
    assert vehicle.refused(fetcher).rule == "T1"
    assert vehicle.refresh().targets[0].image == wanted.facts


@pytest.mark.parametrize("field", [{}, {"keyids": [], "threshold": 0}, {"keyids": "x", "threshold": 1}, 7])
def test_t1_a_malformed_time_role_attests_nothing(cloud: Cloud, vehicle: Vehicle, wanted: Image, field: object) -> None:
    cloud.director.root.unrecognized_fields[ROOT_TIME_FIELD] = field
    cloud.director.publish_root()
    assert vehicle.refused().rule == "T1"


def test_a_director_without_a_time_key_leaves_the_clock(cloud: Cloud, vehicle: Vehicle, wanted: Image) -> None:
    del cloud.director.root.unrecognized_fields[ROOT_TIME_FIELD]
    cloud.director.publish_root()
    assert vehicle.refresh().targets[0].image == wanted.facts
    assert not vehicle.verifier.statistics()["time_is_attested"]


def test_a_compromised_time_key_is_recovered_from_by_a_new_root(cloud: Cloud, vehicle: Vehicle) -> None:
    """It can drive the time up, which freezes the vehicle; the owner replaces it, and the time comes down."""
    far_ns = YEAR_NS + 10_000 * DAY_NS
    evil = cloud.fetcher(time_fault=lambda request: cloud.director.sign_time(request, time_ns=far_ns))
    assert vehicle.refused(evil).attack == "freeze"
    wanted = cloud.release(image(), "gateway")
    cloud.publish()
    vehicle.restart()
    assert vehicle.refused().attack == "freeze"
    cloud.director.set_time_keys([new_key()])
    cloud.director.publish_root()
    vehicle.restart()
    assert vehicle.refresh().targets[0].image == wanted.facts

"""A cut at any point of a refresh: no trusted version goes down, and the next refresh works (F13)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.disk import CrashFiles, crash_states
from tests.gateway.uptane.repos import Cloud, image
from tests.gateway.uptane.rig import Vehicle
from tests.support import LONG

DIRECTORY = Path("/data/uptane")


def versions(vehicle: Vehicle) -> dict[str, int]:
    """What is trusted."""
    told = vehicle.verifier.statistics()["versions"]
    return {f"{name} {role}": version for name, roles in told.items() for role, version in roles.items()}


@pytest.mark.parametrize("kind", ["first", "next", "rotated"])
def test_f13_a_power_cut_in_a_refresh_loses_no_trust(kind: str) -> None:
    cloud, files = Cloud(), CrashFiles()
    cloud.release(image("images/one"), "gateway")
    cloud.publish()
    vehicle = Vehicle(cloud, DIRECTORY, files=files)
    old = cloud.director.checkpoint(), cloud.image.checkpoint()
    before: dict[str, int] = {}
    if kind != "first":
        vehicle.refresh()
        before = versions(vehicle)
        cloud.director.nothing()
        cloud.release(image("images/two"), "gateway")
        if kind == "rotated":
            cloud.director.rotate("root", "timestamp", "snapshot", "targets")
            cloud.image.rotate("timestamp", "snapshot")
        cloud.publish()
    start = files.snapshot()
    files.log.clear()
    wanted = vehicle.refresh()
    newest = cloud.director.files, cloud.image.files
    cuts = 0
    for state in crash_states(start, files.log, seed=7, random_per_cut=2 if LONG else 1, every=1 if LONG else 3):
        cuts += 1
        again = Vehicle(cloud, DIRECTORY, files=state.files)
        assert not again.verifier.statistics()["floor_was_rebuilt"] or not before, state.what
        after = versions(again)
        assert all(after[role] >= version for role, version in before.items() if role in after), state.what
        if kind == "next":
            assert set(before) <= set(after), state.what
            reached = after["director timestamp"] > before["director timestamp"]
            cloud.director.files, cloud.image.files = old
            if reached:
                assert again.refused().attack == "rollback", f"{state.calls} {state.what}: rolled back"
            cloud.director.files, cloud.image.files = newest
        assert again.refresh() == wanted, state.what
    assert cuts > 20


def test_f13_trust_that_was_told_is_durable() -> None:
    """What a refresh has returned is still known when the power goes at that moment, whatever was not synced."""
    cloud, files = Cloud(), CrashFiles()
    cloud.release(image(), "gateway")
    cloud.publish()
    vehicle = Vehicle(cloud, DIRECTORY, files=files)
    start = files.snapshot()
    files.log.clear()
    wanted = vehicle.refresh()
    vehicle.raise_counters(gateway=1)
    end = len(files.log)
    last = [state for state in crash_states(start, files.log) if state.calls == end]
    assert last
    for state in last:
        again = Vehicle(cloud, DIRECTORY, files=state.files)
        assert again.verifier.known() == wanted
        assert again.verifier.counter("gateway") == 1
        assert versions(again) == versions(vehicle)


def test_the_floor_rises_before_the_metadata_it_stands_for_is_kept() -> None:
    cloud, files = Cloud(), CrashFiles()
    vehicle = Vehicle(cloud, DIRECTORY, files=files)
    vehicle.refresh()
    renamed = [call.target for call in files.log if call.kind == "rename"]
    floor = [renamed.index(DIRECTORY / "floor" / name) for name in ("a", "b")]
    assert max(floor) < renamed.index(DIRECTORY / "director" / "timestamp.json")
    assert renamed.index(DIRECTORY / "known.json") == len(renamed) - 1

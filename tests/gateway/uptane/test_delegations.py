"""resolve_delegations (RD1 to RD5) and R10, with a plain TUF client's view beside it where they differ."""

from __future__ import annotations

from typing import Any

import pytest
from tuf.api.metadata import SuccinctRoles, Targets

from gateway.errors import TransportError
from gateway.wire.uptane import DELEGATION_HARDWARE_FIELD, MULTI_ROLE_FIELD
from tests.gateway.uptane.repos import Cloud, Image, image, new_key, unreachable
from tests.gateway.uptane.rig import Vehicle

PATH = "supplier/brakes-2.bin"


def brakes(content: bytes = b"brakes", **more: Any) -> Image:
    """A supplier's image."""
    return image(PATH, content, hardware=["brake-7"], kind="firmware", **more)


def want(cloud: Cloud, each: Image, ecu: str = "brakes") -> None:
    """The Director wants exactly this, and all is published."""
    cloud.director.nothing()
    cloud.director.assign(each, ecu)
    cloud.publish()


def is_found(vehicle: Vehicle, each: Image) -> bool:
    """Whether the vehicle would install exactly this image."""
    return vehicle.refresh().targets[0].image == each.facts


def test_rd1_r10_the_first_delegation_in_the_order_speaks(cloud: Cloud, vehicle: Vehicle) -> None:
    first, second = brakes(b"first"), brakes(b"second")
    cloud.image.delegate("a", ["supplier/*"])
    cloud.image.delegate("b", ["supplier/*"])
    cloud.image.add_image(first, role="a")
    cloud.image.add_image(second, role="b")
    want(cloud, first)
    assert is_found(vehicle, first)
    want(cloud, second)
    assert (vehicle.refused().attack, vehicle.refused().rule) == ("mix-and-match", "F11")


def test_rd1_pre_order_a_child_of_the_first_comes_before_the_second(cloud: Cloud, vehicle: Vehicle) -> None:
    child, second = brakes(b"child"), brakes(b"second")
    cloud.image.delegate("a", ["supplier/*"])
    cloud.image.delegate("b", ["supplier/*"])
    cloud.image.delegate("a1", ["supplier/*"], parent="a")
    cloud.image.add_image(child, role="a1")
    cloud.image.add_image(second, role="b")
    want(cloud, child)
    assert is_found(vehicle, child)


def test_rd1_the_delegator_itself_comes_before_its_delegations(cloud: Cloud, vehicle: Vehicle) -> None:
    own, delegated = brakes(b"own"), brakes(b"delegated")
    cloud.image.delegate("a", ["supplier/*"])
    cloud.image.add_image(delegated, role="a")
    cloud.image.add_image(own)
    want(cloud, own)
    assert is_found(vehicle, own)


def test_rd1_search_goes_on_after_a_role_that_says_nothing(cloud: Cloud, vehicle: Vehicle) -> None:
    each = brakes()
    for name in ("a", "b", "c"):
        cloud.image.delegate(name, ["supplier/*"])
    cloud.image.add_image(each, role="c")
    want(cloud, each)
    assert is_found(vehicle, each)


@pytest.mark.parametrize("paths", [["other/*"], ["supplier/*/*"], ["*"], ["supplier/motor-*"], []])
def test_rd2_a_delegation_speaks_for_its_paths_only(cloud: Cloud, vehicle: Vehicle, paths: list[str]) -> None:
    each = brakes()
    cloud.image.delegate("a", paths)
    cloud.image.add_image(each, role="a")
    want(cloud, each)
    error = vehicle.refused()
    assert (error.attack, error.rule) == ("arbitrary software", "F11")
    assert ("image", "1.a.json") not in vehicle.fetcher.asked


@pytest.mark.parametrize(
    ("hardware", "is_right"), [(["brake-7"], True), (["brake-8"], False), ([], False), (None, True)]
)
def test_rd2_a_delegation_speaks_for_its_hardware_only(
    cloud: Cloud, vehicle: Vehicle, hardware: list[str] | None, is_right: bool
) -> None:
    each = brakes()
    cloud.image.delegate("a", ["supplier/*"], hardware=hardware)
    cloud.image.add_image(each, role="a")
    want(cloud, each)
    if is_right:
        assert is_found(vehicle, each)
    else:
        assert vehicle.refused().rule == "F11"


def test_rd2_hardware_is_that_of_each_ecu_by_itself(cloud: Cloud, vehicle: Vehicle) -> None:
    each = image(PATH, hardware=["brake-7", "motor-3"], kind="firmware")
    cloud.image.delegate("a", ["supplier/*"], hardware=["brake-7"])
    cloud.image.add_image(each, role="a")
    cloud.director.assign(each, "brakes", "motor")
    cloud.publish()
    assert "motor-3" in vehicle.refused().message


@pytest.mark.parametrize("field", ["brake-7", 7, {"brake-7": 1}, [7]])
def test_rd2_malformed_hardware_ids_let_nothing_through(cloud: Cloud, vehicle: Vehicle, field: object) -> None:
    each = brakes()
    cloud.image.delegate("a", ["supplier/*"])
    cloud.image.add_image(each, role="a")
    delegations = cloud.image.role("targets").delegations
    assert delegations is not None
    assert delegations.roles is not None
    delegations.roles["a"].unrecognized_fields[DELEGATION_HARDWARE_FIELD] = field
    want(cloud, each)
    assert vehicle.refused().rule == "RD4"


def test_rd3_a_terminating_delegation_ends_the_search(cloud: Cloud, vehicle: Vehicle) -> None:
    each = brakes()
    cloud.image.delegate("a", ["supplier/*"], terminating=True)
    cloud.image.delegate("b", ["supplier/*"])
    cloud.image.add_image(each, role="b")
    want(cloud, each)
    assert vehicle.refused().rule == "F11"
    assert ("image", "1.b.json") not in vehicle.fetcher.asked


def test_rd3_it_ends_the_search_from_deep_below_but_not_for_its_own_children(cloud: Cloud, vehicle: Vehicle) -> None:
    below, beside = brakes(b"below"), brakes(b"beside")
    cloud.image.delegate("a", ["supplier/*"])
    cloud.image.delegate("b", ["supplier/*"])
    cloud.image.delegate("a1", ["supplier/*"], parent="a", terminating=True)
    cloud.image.delegate("a2", ["supplier/*"], parent="a1")
    cloud.image.add_image(beside, role="b")
    want(cloud, beside)
    assert vehicle.refused().rule == "F11"
    cloud.image.add_image(below, role="a2")
    want(cloud, below)
    assert is_found(vehicle, below)


def test_rd3_one_that_does_not_match_ends_nothing(cloud: Cloud, vehicle: Vehicle) -> None:
    each = brakes()
    cloud.image.delegate("a", ["supplier/*"], terminating=True, hardware=["radio-1"])
    cloud.image.delegate("b", ["supplier/*"])
    cloud.image.add_image(each, role="b")
    want(cloud, each)
    assert is_found(vehicle, each)


@pytest.mark.parametrize("damage", ["gone", "garbage", "unsigned", "stranger", "expired", "old", "not in the snapshot"])
def test_rd4_a_bad_role_means_not_found_and_no_later_role_takes_its_place(
    cloud: Cloud, vehicle: Vehicle, damage: str
) -> None:
    first, second = brakes(b"first"), brakes(b"second")
    cloud.image.delegate("a", ["supplier/*"])
    cloud.image.delegate("b", ["supplier/*"])
    cloud.image.add_image(first, role="a")
    cloud.image.add_image(second, role="b")
    want(cloud, second)
    old = cloud.image.files[cloud.image.current("a")]
    cloud.image.role("a").targets.clear()
    cloud.image.publish()
    name, role = cloud.image.current("a"), cloud.image.delegated["a"]
    expected = "arbitrary software"
    if damage == "gone":
        del cloud.image.files[name]
        expected = "drop request"
    elif damage == "garbage":
        cloud.image.files[name] = b"\xff" * len(cloud.image.files[name])
        expected = "mix-and-match"
    elif damage in ("unsigned", "stranger"):
        signers = [] if damage == "unsigned" else [new_key()]
        cloud.image.replace_everywhere("a", cloud.image.sign(role, signers))
    elif damage == "expired":
        cloud.clock.advance(days=91)
        cloud.image.role("targets")
        cloud.image.role("b")
        cloud.director.role("targets")
        cloud.publish()
        expected = "freeze"
    elif damage == "old":
        cloud.image.files[name] = old
        expected = "endless data"
    else:
        del cloud.image.snapshot.meta["a.json"]
        cloud.image.publish_snapshot()
        cloud.image.publish_timestamp()
        expected = "mix-and-match"
    error = vehicle.refused()
    assert (error.attack, error.rule) == (expected, "RD4")
    assert "not found" in error.message


def test_rd4_a_bad_role_does_no_harm_to_images_it_does_not_speak_for(cloud: Cloud, vehicle: Vehicle) -> None:
    cloud.image.delegate("a", ["supplier/*"])
    wanted = cloud.release(image(), "gateway")
    cloud.publish()
    cloud.image.files[cloud.image.current("a")] = b"garbage"
    assert is_found(vehicle, wanted)


def test_rd4_a_role_that_cannot_be_had_now_is_no_verdict(cloud: Cloud, vehicle: Vehicle) -> None:
    each = brakes()
    cloud.image.delegate("a", ["supplier/*"])
    cloud.image.add_image(each, role="a")
    want(cloud, each)
    fetcher = cloud.fetcher(faults={("image", cloud.image.current("a")): unreachable})
    with pytest.raises(TransportError):
        vehicle.refresh(fetcher)
    assert is_found(vehicle, each)


def test_rd4_roles_that_delegate_in_a_circle_end(cloud: Cloud, vehicle: Vehicle) -> None:
    cloud.image.delegate("a", ["supplier/*"])
    cloud.image.delegate("b", ["supplier/*"], parent="a")
    cloud.image.delegate("a", ["supplier/*"], parent="b", signers=cloud.image.signers["a"])
    cloud.image.delegate("b", ["supplier/*"], parent="b", signers=cloud.image.signers["b"])
    want(cloud, brakes())
    assert vehicle.refused().rule == "F11"
    cloud.image.add_image(brakes(), role="b")
    want(cloud, brakes())
    assert is_found(vehicle, brakes())


def test_rd4_depth_and_number_of_roles_are_bounded(cloud: Cloud, vehicle: Vehicle) -> None:
    parent = "targets"
    for depth in range(20):
        cloud.image.delegate(f"deep-{depth}", ["supplier/*"], parent=parent)
        parent = f"deep-{depth}"
    cloud.image.add_image(brakes(), role="deep-13")
    want(cloud, brakes())
    assert is_found(vehicle, brakes())
    cloud.image.role("deep-13").targets.clear()
    cloud.image.add_image(brakes(b"x"), role="deep-19")
    want(cloud, brakes(b"x"))
    assert vehicle.refused().rule == "RD4"


def test_rd4_a_role_is_verified_for_every_delegator_that_leads_to_it(cloud: Cloud, vehicle: Vehicle) -> None:
    """The diamond: the second delegator gives the role other keys, which have not signed it."""
    each = brakes()
    cloud.image.delegate("a", ["supplier/*"])
    cloud.image.delegate("b", ["supplier-2/*"])
    cloud.image.delegate("shared", ["supplier/*"], parent="a")
    cloud.image.delegate("shared", ["supplier-2/*"], parent="b", signers=[new_key()])
    other = image("supplier-2/brakes.bin", hardware=["brake-7", "motor-3"], kind="firmware")
    cloud.image.add_image(each, other, role="shared")
    want(cloud, other)
    assert is_found(vehicle, other)
    want(cloud, each)
    assert vehicle.refused().rule == "RD4"
    cloud.director.assign(other, "motor")
    cloud.director.publish()
    assert vehicle.refused().rule == "RD4"


@pytest.mark.parametrize("name", ["../escape", "a/b", "..", "root.1", "é" * 20, "a b%2f?"])
def test_rd4_a_role_may_have_any_name_and_stays_in_its_folder(cloud: Cloud, vehicle: Vehicle, name: str) -> None:
    each = brakes()
    cloud.image.delegate(name, ["supplier/*"])
    cloud.image.add_image(each, role=name)
    want(cloud, each)
    assert is_found(vehicle, each)
    outside = [path for path in vehicle.directory.parent.rglob("*") if vehicle.directory not in (path, *path.parents)]
    assert outside == []


@pytest.mark.parametrize("name", ["x" * 201, "é" * 50])
def test_rd4_a_role_with_a_name_longer_than_files_have_is_not_found(cloud: Cloud, vehicle: Vehicle, name: str) -> None:
    cloud.image.delegate(name, ["supplier/*"])
    cloud.image.add_image(brakes(), role=name)
    want(cloud, brakes())
    assert vehicle.refused().rule == "RD4"


def test_r10_bins_by_hash_are_followed(cloud: Cloud, vehicle: Vehicle) -> None:
    each, signer = brakes(), new_key()
    bins = SuccinctRoles([signer.public_key.keyid], 1, 2, "bin")
    cloud.image.delegate("a", ["supplier/*"])
    delegations = cloud.image._delegations("a")
    delegations.roles, delegations.succinct_roles = None, bins
    delegations.keys = {signer.public_key.keyid: signer.public_key}
    for name in bins.get_roles():
        cloud.image.delegated[name] = Targets()
        cloud.image.signers[name] = [signer]
        cloud.image.role(name)
    cloud.image.add_image(each, role=bins.get_role_for_target(each.filename))
    want(cloud, each)
    assert is_found(vehicle, each)


def multi(cloud: Cloud, contents: dict[str, bytes | None], threshold: int, **more: Any) -> None:
    """Roles that must agree, and what each of them says."""
    cloud.image.delegate_multi("together", list(contents), ["supplier/*"], threshold=threshold, **more)
    for role, content in contents.items():
        if content is not None:
            cloud.image.add_image(brakes(content), role=role)


def test_rd5_enough_roles_that_agree_speak(cloud: Cloud, vehicle: Vehicle) -> None:
    multi(cloud, {"a": b"good", "b": b"other", "c": b"good"}, 2)
    want(cloud, brakes(b"good"))
    assert is_found(vehicle, brakes(b"good"))


@pytest.mark.parametrize("others", [{"b": b"other", "c": b"third"}, {"b": None, "c": None}])
def test_rd5_too_few_that_agree_say_nothing(cloud: Cloud, vehicle: Vehicle, others: dict[str, bytes | None]) -> None:
    multi(cloud, {"a": b"good", **others}, 2)
    want(cloud, brakes(b"good"))
    assert vehicle.refused().rule == "F11"


def test_rd5_of_two_groups_the_one_with_the_earliest_role_speaks(cloud: Cloud, vehicle: Vehicle) -> None:
    multi(cloud, {"a": b"first", "b": b"second", "c": b"second", "d": b"first"}, 2)
    want(cloud, brakes(b"first"))
    assert is_found(vehicle, brakes(b"first"))
    want(cloud, brakes(b"second"))
    assert vehicle.refused().rule == "F11"


def test_rd5_they_must_agree_in_all_that_is_signed(cloud: Cloud, vehicle: Vehicle) -> None:
    cloud.image.delegate_multi("together", ["a", "b"], ["supplier/*"], threshold=2)
    cloud.image.add_image(brakes(counter=1), role="a")
    cloud.image.add_image(brakes(counter=2), role="b")
    want(cloud, brakes(counter=2))
    assert vehicle.refused().rule == "F11"


def test_rd5_one_of_them_alone_is_trusted_neither_here_nor_by_a_plain_client(cloud: Cloud, vehicle: Vehicle) -> None:
    multi(cloud, {"a": b"evil", "b": None}, 2)
    want(cloud, brakes(b"evil"))
    assert vehicle.refused().rule == "F11"
    delegations = cloud.image.targets.delegations
    assert delegations is not None
    assert list(delegations.get_roles_for_target(PATH)) == []


def test_rd5_it_speaks_for_its_hardware_only_and_may_end_the_search(cloud: Cloud, vehicle: Vehicle) -> None:
    multi(cloud, {"a": b"good", "b": b"good"}, 2, hardware=["radio-1"], terminating=True)
    cloud.image.delegate("plain", ["supplier/*"])
    cloud.image.add_image(brakes(b"plain"), role="plain")
    want(cloud, brakes(b"plain"))
    assert is_found(vehicle, brakes(b"plain"))
    multi(cloud, {"d": None, "e": None}, 2, terminating=True)
    want(cloud, brakes(b"plain"))
    cloud.image.role("targets")
    cloud.director.instruct(assignment="again")
    cloud.publish()
    assert vehicle.refused().rule == "F11"


def test_rd5_a_member_may_delegate_on(cloud: Cloud, vehicle: Vehicle) -> None:
    multi(cloud, {"a": None, "b": b"good"}, 2)
    cloud.image.delegate("a1", ["supplier/*"], parent="a")
    cloud.image.add_image(brakes(b"good"), role="a1")
    want(cloud, brakes(b"good"))
    assert is_found(vehicle, brakes(b"good"))


def test_rd5_a_bad_member_means_not_found(cloud: Cloud, vehicle: Vehicle) -> None:
    multi(cloud, {"a": b"good", "b": b"good", "c": b"good"}, 2)
    want(cloud, brakes(b"good"))
    cloud.image.files[cloud.image.current("b")] = b"x"
    assert vehicle.refused().rule == "RD4"


@pytest.mark.parametrize(
    "entry",
    [
        {"threshold": 0},
        {"threshold": 3},
        {"threshold": "2"},
        {"roles": ["a", "a"]},
        {"roles": "ab"},
        {"paths": "supplier/*"},
        {DELEGATION_HARDWARE_FIELD: "brake-7"},
    ],
)
def test_rd5_a_malformed_entry_lets_nothing_through(cloud: Cloud, vehicle: Vehicle, entry: dict[str, Any]) -> None:
    multi(cloud, {"a": b"good", "b": b"good"}, 2)
    delegations = cloud.image.targets.delegations
    assert delegations is not None
    delegations.unrecognized_fields[MULTI_ROLE_FIELD][0].update(entry)
    want(cloud, brakes(b"good"))
    assert vehicle.refused().rule == "RD4"


def test_rd5_an_unknown_member_is_a_bad_role(cloud: Cloud, vehicle: Vehicle) -> None:
    multi(cloud, {"a": b"good", "b": b"good"}, 2)
    delegations = cloud.image.targets.delegations
    assert delegations is not None
    delegations.unrecognized_fields[MULTI_ROLE_FIELD][0]["roles"] = ["a", "nobody"]
    want(cloud, brakes(b"good"))
    assert vehicle.refused().rule == "RD4"


def test_rd5_members_that_lead_back_to_where_they_are_asked_end(cloud: Cloud, vehicle: Vehicle) -> None:
    multi(cloud, {"a": None, "b": b"good"}, 2)
    cloud.image.delegate_multi("again", ["a", "b"], ["supplier/*"], threshold=1, parent="a")
    want(cloud, brakes(b"good"))
    assert is_found(vehicle, brakes(b"good"))

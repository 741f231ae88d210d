"""A routing table is sound before anything is routed: what contradicts itself is refused with its place."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbc.manifest import Manifest
from gateway.errors import ConfigError
from gateway.firewall.can_rules import IdRange, RoutingTable, parse_routing
from simulator.cli_common import vehicle_manifest

BUSES = ("powertrain", "battery", "body", "chassis", "auxiliary")


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return vehicle_manifest()


def parse(text: str, manifest: Manifest) -> RoutingTable:
    return parse_routing(text.encode(), manifest, BUSES, path="routes.toml")


def test_numbers_ranges_and_message_names_are_resolved(manifest: Manifest) -> None:
    table = parse(
        """
        [[route]]
        name = "speed"
        from = "body"
        to = ["chassis", "powertrain"]
        ids = ["0x1A0", "0x200-0x20F", "body.KeyState", "0x18FEF100"]
        length = [4, 8]
        max_rate_hz = 100
        """,
        manifest,
    )
    (route,) = table.routes
    assert route.ids == (
        IdRange(False, 0x1A0, 0x1A0),
        IdRange(False, 0x200, 0x20F),
        IdRange(False, 752, 752),
        IdRange(True, 0x18FEF100, 0x18FEF100),
    )
    assert (route.lengths, route.max_rate_hz, route.has_limits) == ((4, 8), 100, True)


ROUTE = '[[route]]\nname = "{n}"\nfrom = "{a}"\nto = ["{b}"]\nids = ["{ids}"]\n'


def routes(*ways: tuple[str, str, str]) -> str:
    return "".join(ROUTE.format(n=f"r{i}", a=a, b=b, ids=ids) for i, (a, b, ids) in enumerate(ways))


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("route = 3", "$.route"),
        (ROUTE.format(n="x", a="no", b="body", ids="1"), "$.route[0].from"),
        (ROUTE.format(n="x", a="body", b="no", ids="1"), "$.route[0].to[0]"),
        (ROUTE.format(n="x", a="body", b="body", ids="1"), "$.route[0].to[0]"),
        (ROUTE.format(n="x", a="body", b="chassis", ids="0x2-0x1"), "$.route[0].ids[0]"),
        (ROUTE.format(n="x", a="body", b="chassis", ids="0x20000000"), "$.route[0].ids[0]"),
        (ROUTE.format(n="x", a="body", b="chassis", ids="1x"), "$.route[0].ids[0]"),
        (ROUTE.format(n="x", a="body", b="chassis", ids="NoSuchMessage"), "$.route[0].ids[0]"),
        (ROUTE.format(n="x", a="body", b="chassis", ids="1") + "length = 9\n", "$.route[0].length"),
        (ROUTE.format(n="x", a="body", b="chassis", ids="1") + "max_rate_hz = 0\n", "$.route[0].max_rate_hz"),
        (ROUTE.format(n="x", a="body", b="chassis", ids="1") + "speed = 0\n", "$.route[0]"),
        (routes(("body", "chassis", "1"), ("body", "chassis", "0-5")), "$.route[1].ids"),
        (routes(("body", "chassis", "1"), ("chassis", "body", "1")), "$.route[1].ids"),
        (routes(("body", "chassis", "1"), ("chassis", "battery", "1"), ("battery", "body", "0-9")), "$.route[2].ids"),
        (
            '[[origin]]\nname="a"\nbus="body"\nids=["1"]\n[[origin]]\nname="b"\nbus="chassis"\nids=["0-3"]\n',
            "$.origin[1].ids",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(text: str, where: str, manifest: Manifest) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, manifest)
    assert caught.value.where == where
    assert str(caught.value).startswith("routes.toml: ")


def test_the_same_identifier_may_go_on_to_a_third_bus(manifest: Manifest) -> None:
    table = parse(routes(("body", "chassis", "1"), ("chassis", "battery", "1")), manifest)
    assert [route.to for route in table.routes] == [("chassis",), ("battery",)]


@settings(deadline=None)
@given(st.tuples(st.integers(0, 0x7FF), st.integers(0, 0x7FF)).map(sorted))
def test_masks_match_exactly_the_range(bounds: list[int]) -> None:
    ids = IdRange(False, *bounds)
    masks = ids.masks()
    matched = {n for n in range(0x800) if any(n & mask == can_id & mask for can_id, mask in masks)}
    assert matched == set(range(bounds[0], bounds[1] + 1))
    assert sum(0x800 >> bin(mask).count("1") for _, mask in masks) == len(matched)  # none twice: a frame passes once

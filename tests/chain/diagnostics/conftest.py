"""A standing car for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chain.diagnostics.car import Car, car


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Car]:
    """Standing with the ignition on; simulator and gateway run."""
    with car(tmp_path_factory.mktemp("workshop")) as made:
        made.prepare()
        made.start("workshop")
        yield made

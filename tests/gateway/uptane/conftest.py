"""Fixtures of Uptane's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.uptane import fetch_server
from tests.gateway.uptane.repos import Cloud, Image, image
from tests.gateway.uptane.rig import Vehicle


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The gateway runs on asyncio."""
    return "asyncio"


@pytest.fixture(scope="session")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of an enrolled vehicle's identity."""
    return fetch_server.enrolled(tmp_path_factory.mktemp("vehicle"))


@pytest.fixture
def cloud() -> Cloud:
    """Both repositories, with nothing to do for the vehicle."""
    return Cloud()


@pytest.fixture
def vehicle(cloud: Cloud, tmp_path: Path) -> Iterator[Vehicle]:
    """A vehicle that has never asked."""
    made = Vehicle(cloud, tmp_path / "uptane")
    yield made
    made.verifier.close()


@pytest.fixture
def wanted(cloud: Cloud) -> Image:
    """An image for the gateway, published by both."""
    made = cloud.release(image(), "gateway")
    cloud.publish()
    return made

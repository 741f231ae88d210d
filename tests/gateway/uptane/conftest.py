"""Fixtures of Uptane's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gateway.uptane import fetch_server


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The gateway runs on asyncio."""
    return "asyncio"


@pytest.fixture(scope="session")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of an enrolled vehicle's identity."""
    return fetch_server.enrolled(tmp_path_factory.mktemp("vehicle"))

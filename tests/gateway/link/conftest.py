"""Fixtures of the link's tests."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The WebSocket runs on asyncio."""
    return "asyncio"

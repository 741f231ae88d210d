"""Fixtures of the chain's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.chain.roadside import RealCloud


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Cloud and WebSocket run on asyncio."""
    return "asyncio"


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[RealCloud]:
    """A cloud on loopback, started."""
    made = RealCloud(tmp_path / "cloud")
    await made.start()
    try:
        yield made
    finally:
        await made.stop()

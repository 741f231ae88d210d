"""Fixtures of the cloud's tests."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The cloud runs on asyncio (SQLAlchemy's async engine does)."""
    return "asyncio"

"""Fixtures every test may use, and the rule that CI runs everything.

With ``OUTRIDER_REQUIRE_ALL=1`` a skipped test is a failed one: a machine that cannot run a test must say so.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support import DATA, REQUIRE_ALL

pytest_plugins = ("tests.vcan.plugin",)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The recorded logs and DBC files (``OUTRIDER_DATA``, default ``../shared/data``), read in place."""
    if not (DATA / "can").is_dir():
        pytest.skip(f"no recorded data at {DATA}; set OUTRIDER_DATA")
    return DATA


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    """Turn skips into failures where everything is required."""
    outcome = yield
    report = outcome.get_result()
    if REQUIRE_ALL and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped although OUTRIDER_REQUIRE_ALL=1: {report.longrepr}"


def pytest_report_header() -> list[str]:
    """Tell what decides which tests run."""
    names = ("OUTRIDER_DATA", "OUTRIDER_REQUIRE_ALL", "OUTRIDER_GUEST", "OUTRIDER_BROWSER", "OUTRIDER_LONG")
    return ["outrider: " + " ".join(f"{n}={os.environ.get(n, '-')}" for n in names)]

"""Fixtures every test may use, and the rule that CI runs everything.

With ``OUTRIDER_REQUIRE_ALL=1`` a skipped test is a failed one: a machine that cannot run a test must say so.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support import DATA, REQUIRE_ALL, ROOT

pytest_plugins = ("tests.vcan.plugin",)


FAST_EXAMPLES = 5
#: Folders and files whose tests run processes, TLS or much data: ``make test-fast`` leaves them out.
SLOW_PLACES = (
    "boot",
    "bootctl",
    "chain",
    "cloud/accounting/test_summary.py",
    "cloud/campaigns",
    "cloud/console",
    "cloud/diagnostics",
    "cloud/identity/test_tls.py",
    "cloud/ingest/test_kill.py",
    "cloud/ingest/test_protocol_machine.py",
    "cloud/test_cli.py",
    "cloud/updates",
    "cloud/test_slice.py",
    "cloud/web/test_hostile_clients.py",
    "cloud/web/test_openapi_fuzz.py",
    "cloud/web/test_roles.py",
    "docs",
    "gateway/diag/test_router_any_order.py",
    "gateway/delta",
    "gateway/dtc",
    "gateway/doip/test_foreign.py",
    "gateway/isotp",
    "gateway/uds/test_with_ecus.py",
    "gateway/test_cli.py",
    "gateway/update",
    "gateway/uptane",
    "simulator/test_cli.py",
    "simulator/test_model.py",
    "simulator/test_scenario.py",
    "simulator/ecu",
    "test_command.py",
    "tester",
    "vcan",
)


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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow. With ``OUTRIDER_FAST=1`` property tests draw a few examples; the full run draws all."""
    slow = [ROOT / "tests" / place for place in SLOW_PLACES]
    is_fast = os.environ.get("OUTRIDER_FAST") == "1"
    for item in items:
        if any(place == item.path or place in item.path.parents for place in slow):
            item.add_marker(pytest.mark.slow)
        function = getattr(item, "obj", None)
        drawn = getattr(function, "_hypothesis_internal_use_settings", None)  # there is no public way to lower them
        if is_fast and isinstance(drawn, settings):
            few = settings(drawn, max_examples=min(drawn.max_examples, FAST_EXAMPLES))
            function._hypothesis_internal_use_settings = few  # type: ignore[union-attr]  # a test function, then


def pytest_report_header() -> list[str]:
    """Tell what decides which tests run."""
    names = (
        "OUTRIDER_DATA",
        "OUTRIDER_REQUIRE_ALL",
        "OUTRIDER_GUEST",
        "OUTRIDER_BROWSER",
        "OUTRIDER_LONG",
        "OUTRIDER_FAST",
    )
    return ["outrider: " + " ".join(f"{n}={os.environ.get(n, '-')}" for n in names)]

"""Where tests marked ``guest`` run.

They need vcan0 … vcan5. Where those exist (in the guest, or on a host that has them) they run like any other test.
Elsewhere they are deselected, and one item, ``test_suite_in_vcan_guest``, starts the guest once with all of them.
Inside, this plugin writes one JSON line per finished phase to ``OUTRIDER_GUEST_REPORT``, which that item reads.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import msgspec
import pytest

GUEST_ITEM = "test_suite_in_vcan_guest"
KNOWN_GUEST_TESTS = pytest.StashKey[list[str]]()


class Outcome(msgspec.Struct, frozen=True):
    """One phase of one test in the guest."""

    nodeid: str
    when: str
    outcome: str
    duration_s: float
    text: str = ""


def has_vcan() -> bool:
    """vcan0 exists in this network namespace."""
    try:
        socket.if_nametoindex("vcan0")
    except OSError:
        return False
    return True


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what cannot run here: guest tests without vcan, and the item that starts a guest with it."""
    here = has_vcan()
    keep: list[pytest.Item] = []
    drop: list[pytest.Item] = []
    for item in items:
        starts_guest = getattr(item, "originalname", item.name) == GUEST_ITEM
        misplaced = here if starts_guest else item.get_closest_marker("guest") is not None and not here
        (drop if misplaced else keep).append(item)
    # The guest takes minutes: begun first, it runs beside all others when there is a second worker.
    keep.sort(key=lambda item: getattr(item, "originalname", item.name) != GUEST_ITEM)
    items[:] = keep
    config.stash[KNOWN_GUEST_TESTS] = [item.nodeid for item in drop] if not here else []
    if drop:
        config.hook.pytest_deselected(items=drop)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say how deselected guest tests are run, unless the guest just ran them."""
    known = config.stash.get(KNOWN_GUEST_TESTS, [])
    ran = any(GUEST_ITEM in r.nodeid for key in ("passed", "failed") for r in terminalreporter.getreports(key))
    if known and not ran:
        terminalreporter.write_line(
            f"{len(known)} guest tests need vcan; run them with: tests/vcan/run -- python -m pytest -m guest …"
        )


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Inside the guest: tell the host as it happens, so that a hang shows which test hung."""
    path = os.environ.get("OUTRIDER_GUEST_REPORT")
    if not path:
        return
    text = "" if report.passed else report.longreprtext
    outcome = Outcome(report.nodeid, report.when, report.outcome, report.duration, text)
    with Path(path).open("a") as file:
        file.write(json.dumps(msgspec.to_builtins(outcome)) + "\n")

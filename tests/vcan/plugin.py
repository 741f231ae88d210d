"""Where tests marked ``guest``, ``kernel_isotp`` or ``car`` run.

They need vcan0 … vcan5, the latter also the kernel's ISO-TP. Where those exist (in the guest, or on a host that has
them) they run like any other test. Elsewhere they are deselected, and one item for each mark, named in ``STARTERS``,
starts a guest once with all of them. Tests marked ``car`` run whole vehicles of processes on fixed multicast groups and
therefore in a network namespace of their own. Inside, this plugin writes one JSON line per finished phase to
``OUTRIDER_GUEST_REPORT``, which that item reads.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import msgspec
import pytest

from tests.support import LONG

GUEST_ITEM = "test_suite_in_vcan_guest"
QEMU_ITEM = "test_suite_in_qemu_guest"
CAR_ITEM = "test_suite_in_namespace"
#: The mark of a test -> the item that starts a guest for it.
STARTERS = {"guest": GUEST_ITEM, "kernel_isotp": QEMU_ITEM, "car": CAR_ITEM}
KNOWN_GUEST_TESTS = pytest.StashKey[dict[str, list[str]]]()


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


def has_kernel_isotp() -> bool:
    """This kernel has CAN_ISOTP sockets."""
    try:
        socket.socket(socket.AF_CAN, socket.SOCK_DGRAM, socket.CAN_ISOTP).close()
    except OSError:
        return False
    return True


def _mark(item: pytest.Item) -> str:
    """The stronger of the item's marks; empty for an ordinary test."""
    return next((mark for mark in ("kernel_isotp", "guest", "car") if item.get_closest_marker(mark)), "")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what cannot run here: tests without what they need, and items that would start a guest with it."""
    here = {
        "guest": has_vcan(),
        "kernel_isotp": has_vcan() and has_kernel_isotp(),
        "car": os.environ.get("OUTRIDER_GUEST_PLACE") == "lo",
    }
    starters = {name: mark for mark, name in STARTERS.items()}
    keep: list[pytest.Item] = []
    drop: list[pytest.Item] = []
    known: dict[str, list[str]] = {mark: [] for mark in STARTERS}
    for item in items:
        if not LONG and item.get_closest_marker("long"):
            drop.append(item)
            continue
        started = starters.get(getattr(item, "originalname", item.name))
        mark = _mark(item)
        misplaced = here[started] if started else bool(mark) and not here[mark]
        (drop if misplaced else keep).append(item)
        if misplaced and not started:
            known[mark].append(item.nodeid)
    # The guests take minutes: begun first, they run beside all others when there is a second worker.
    keep.sort(key=lambda item: getattr(item, "originalname", item.name) not in starters)
    items[:] = keep
    config.stash[KNOWN_GUEST_TESTS] = known
    if drop:
        config.hook.pytest_deselected(items=drop)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say how deselected tests are run, unless a guest just ran them."""
    known = config.stash.get(KNOWN_GUEST_TESTS, {})
    reports = [r.nodeid for key in ("passed", "failed") for r in terminalreporter.getreports(key)]
    for mark, option in (("guest", ""), ("kernel_isotp", " --qemu"), ("car", " --lo")):
        if known.get(mark) and not any(STARTERS[mark] in nodeid for nodeid in reports):
            terminalreporter.write_line(
                f"{len(known[mark])} {mark} tests were left out; run them with: "
                f"tests/vcan/run{option} -- python -m pytest -m {mark} …"
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

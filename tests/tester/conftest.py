"""One simulated vehicle for all tests of the tool."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from outrider.cli import main
from tests.tester.support import Vehicle, simulated


class Done(NamedTuple):
    """What a command did."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:  # JSON is of any type
        """What ``--json`` printed."""
        return json.loads(self.out)


Uds = Callable[..., Done]


@pytest.fixture(scope="session")
def vehicle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vehicle]:
    """The simulated vehicle, standing still with ignition on."""
    with simulated(tmp_path_factory.mktemp("vehicle")) as running:
        yield running


@pytest.fixture(autouse=True)
def no_defaults_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither environment nor uds.toml of whoever runs the tests."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("OUTRIDER_UDS", raising=False)
    monkeypatch.delenv("OUTRIDER_UDS_VEHICLE", raising=False)


@pytest.fixture
def offline(capsys: pytest.CaptureFixture[str]) -> Uds:
    """``outrider uds …`` with nothing but what is given."""

    def run(*words: str) -> Done:
        capsys.readouterr()
        try:
            status = main(["uds", *words])
        except SystemExit as end:
            status = int(end.code or 0)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Done(status, captured.out, captured.err)

    return run


@pytest.fixture
def uds(vehicle: Vehicle, offline: Uds) -> Uds:
    """``outrider uds …`` on the simulated vehicle."""

    def run(*words: str) -> Done:
        return offline(*words, *vehicle.arguments)

    return run

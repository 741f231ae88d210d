"""Foreign testers pass a whole tour of each ECU: on its bus, through the connector, and by DoIP."""

from __future__ import annotations

import traceback
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.chain.diagnostics.car import ECUS, Car
from tests.chain.diagnostics.testers import WAYS, Way, connect
from tests.chain.diagnostics.tour import whole_tour

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
#: On vcan the way that needs no gateway; the others, in the slow guest, would take minutes.
PLACES = [pytest.param(way, marks=pytest.mark.guest if way == "direct" else pytest.mark.car) for way in WAYS]


@pytest.mark.parametrize("way", PLACES)
def test_foreign_testers_tour_every_ecu(workshop: Car, way: Way) -> None:
    """Two testers work at the same time, as in a workshop."""
    version = f"9.{WAYS.index(way)}"

    def tour(ecu: str) -> str:
        try:
            with connect(way, ecu) as tester:
                print(ecu, whole_tour(tester, workshop.simulator, way, version))
        except Exception as error:  # whatever it is: the other tours count as well
            return f"{ecu}: {''.join(traceback.format_exception(error)[-6:])}"
        return ""

    with ThreadPoolExecutor(2) as pool:
        problems = [problem for problem in pool.map(tour, ECUS) if problem]
    assert not problems, "\n".join(problems)

"""The checks and timings all services share."""

from __future__ import annotations

import pytest

from tests.simulator.ecu.support import Bench


@pytest.fixture
def bench() -> Bench:
    """A motor control unit."""
    return Bench("motor")


def test_default_session_tells_p2_and_p2_star(bench: Bench) -> None:
    """P2 in milliseconds, P2* in tens of them."""
    assert bench.one("10 01") == "50 01 00 32 01 F4"


def test_unknown_service(bench: Bench) -> None:
    assert bench.one("BA 00") == "7F BA 11"


def test_unknown_service_is_not_answered_functionally(bench: Bench) -> None:
    assert bench.one("BA 00", functional=True) == ""


def test_response_identifiers_and_empty_requests_are_ignored(bench: Bench) -> None:
    assert bench.ask("50 01") == [] == bench.ask("7F 22 31") == bench.ask(b"")


def test_subfunction_before_length(bench: Bench) -> None:
    assert bench.one("10") == "7F 10 13"
    assert bench.one("10 7A 00 00") == "7F 10 12"
    assert bench.one("10 03 00") == "7F 10 13"


def test_session_known_elsewhere_is_7e(bench: Bench) -> None:
    assert bench.one("10 02") == "7F 10 7E"
    assert bench.one("10 03").startswith("50 03")
    assert bench.one("10 02").startswith("50 02")


def test_programming_session_is_refused_while_moving(bench: Bench) -> None:
    bench.vehicle.values["powertrain.VehicleMotion.VehicleSpeed"] = 30.0
    bench.one("10 03")
    assert bench.one("10 02") == "7F 10 22"


def test_suppress_bit_drops_positive_answers_only(bench: Bench) -> None:
    assert bench.one("10 83") == ""
    assert bench.context.session == 3
    assert bench.one("10 FA") == "7F 10 12"


def test_session_ends_after_s3_without_requests(bench: Bench) -> None:
    bench.one("10 03")
    bench.advance(4.9)
    assert bench.one("3E 80", functional=True) == ""
    bench.advance(4.9)
    assert bench.context.session == 3
    bench.advance(0.2)
    assert bench.context.session == 1


def test_reset_is_answered_and_then_silent_for_the_boot_time(bench: Bench) -> None:
    assert bench.one("11 01") == "51 01"
    bench.advance(0.02)
    assert bench.one("3E 00") == ""
    assert bench.vehicle.silent["VCU"] == (True, True)
    bench.advance(1.6)
    assert bench.one("3E 00") == "7E 00"
    assert bench.vehicle.silent["VCU"] == (False, False)


def test_power_loss_and_return(bench: Bench) -> None:
    bench.one("10 03")
    bench.server.power_off(bench.now_s)
    assert bench.one("3E 00") == ""
    bench.server.power_on(bench.now_s)
    bench.advance(1.6)
    assert bench.one("3E 00") == "7E 00"
    assert bench.context.session == 1

"""Why a vehicle is silent: the decisive reason comes first."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from cloud.accounting.silence import DAY_NS, SECOND_NS, SilenceFacts, explain
from gateway.wire.api import BusState, CheckIn, SchemeState
from gateway.wire.ledger import Ledger, StreamLedger
from tests.cloud.support import EPOCH_NS, make_check_in

HEALTHY: CheckIn = make_check_in(
    schemes=(SchemeState("all", 1, "active"),), buses=(BusState("can0", "up", 100.0),), health={"uplink": "ok"}
)


def facts(check_in: CheckIn | None = HEALTHY, **changes: Any) -> SilenceFacts:
    values: dict[str, Any] = {
        "now_ns": EPOCH_NS + 10 * SECOND_NS,
        "state": "enrolled",
        "revoked_ns": None,
        "revoked_reason": "",
        "open_token_expires_ns": None,
        "valid_until_ns": EPOCH_NS + 80 * DAY_NS,
        "last_expired_ns": None,
        "last_batch_ns": EPOCH_NS,
        "check_in_ns": EPOCH_NS if check_in else None,
        "is_connected": True,
        "waiting_batches": 0,
        "dead_letters": 0,
        "has_disk_room": True,
        "silent_after_s": 300.0,
        "clock_skew_warn_s": 5.0,
        "certificate_warn_days": 14.0,
    }
    return SilenceFacts(check_in=check_in, **{**values, **changes})


def changed(**changes: Any) -> CheckIn:
    return msgspec.structs.replace(HEALTHY, **changes)


def test_a_healthy_vehicle_has_no_reason() -> None:
    silence = explain("VIN1", facts())
    assert (silence.silent, [r.code for r in silence.reasons]) == (False, ["none"])


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (facts(None, state="new"), "not_enrolled"),
        (facts(None, state="new", open_token_expires_ns=EPOCH_NS + DAY_NS), "not_enrolled"),
        (facts(state="revoked", revoked_ns=EPOCH_NS, revoked_reason="sold"), "revoked"),
        (facts(valid_until_ns=None, last_expired_ns=EPOCH_NS), "no_certificate"),
        (facts(None), "never_checked_in"),
        (facts(has_disk_room=False), "cloud_disk_full"),
        (facts(changed(stopping=True)), "stopped"),
        (facts(now_ns=EPOCH_NS + DAY_NS), "out_of_reach"),
        (facts(changed(buses=(BusState("can0", "down"), BusState("can1", "bus_off")))), "no_bus"),
        (facts(changed(buses=(BusState("can0", "up", 9.0), BusState("can1", "bus_off")))), "bus_state"),
        (facts(changed(buses=(BusState("can0", "up", 0.0),))), "no_traffic"),
        (facts(changed(schemes=(SchemeState("all", 1, "rejected", "no such signal"),))), "scheme_rejected"),
        (facts(changed(schemes=())), "no_scheme"),
        (facts(changed(budget_level=3)), "budget"),
        (facts(changed(health={"uplink": "failed: no route"})), "component_failed"),
        (facts(changed(ledger=Ledger(EPOCH_NS, refused_items=5))), "vehicle_disk_full"),
        (facts(waiting_batches=2), "no_manifest"),
        (facts(dead_letters=2), "dead_letters"),
        (facts(valid_until_ns=EPOCH_NS + 3 * DAY_NS), "certificate_expires"),
        (facts(changed(at_ns=EPOCH_NS - 3600 * SECOND_NS)), "clock"),
        (facts(changed(ledger=Ledger(EPOCH_NS, streams=(StreamLedger("normal", 5, pending=5),)))), "backlog"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_trouble_is_the_first_reason(given: SilenceFacts, code: str) -> None:
    reasons = explain("VIN1", given).reasons
    assert reasons[0].code == code
    assert all(reason.text.endswith((".", "?")) for reason in reasons)


def test_causes_come_before_notes() -> None:
    given = facts(changed(stopping=True, budget_level=1), dead_letters=1, has_disk_room=False)
    severities = [r.severity for r in explain("VIN1", given).reasons]
    assert severities == sorted(severities, key=["cause", "likely", "note"].index)
    assert severities[0] == "cause"


def test_silence_is_measured_from_the_newest_sign_of_life() -> None:
    late = facts(now_ns=EPOCH_NS + 301 * SECOND_NS)
    assert explain("VIN1", late).silent
    assert not explain("VIN1", facts(now_ns=late.now_ns, last_batch_ns=EPOCH_NS + 100 * SECOND_NS)).silent

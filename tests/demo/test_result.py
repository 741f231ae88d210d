"""The demo's verdict: any loss, any difference between sent, received, stored and held is a complaint."""

from __future__ import annotations

import msgspec
import pytest

from gateway.wire.ledger import BusLedger, Ledger, StreamLedger
from outrider.demo.result import Outcome, report

SOUND = Ledger(
    at_ns=1,
    buses=(BusLedger(bus="can0", received=100, undecodable=10, not_selected=20, selected=70),),
    streams=(StreamLedger(stream="normal", stored=500, acknowledged=500),),
    selected_items=500,
)


def outcome(ledger: Ledger = SOUND, *, sent: int = 100, cloud_items: int = 500) -> Outcome:
    return Outcome(vehicle="V", sent={"can0": sent}, ledger=ledger, cloud_items=cloud_items)


def changed(bus: dict[str, int] | None = None, stream: dict[str, int] | None = None, **rest: int) -> Ledger:
    replace = msgspec.structs.replace
    return replace(
        SOUND,
        buses=(replace(SOUND.buses[0], **(bus or {})),),
        streams=(replace(SOUND.streams[0], **(stream or {})),),
        **rest,
    )


def test_sound_outcome_has_no_complaint_and_says_so() -> None:
    assert outcome().complaints() == []
    assert "V: every frame and item is accounted for, nothing was lost" in report([outcome()])


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        (outcome(sent=101), "101 frames sent, 100 received"),
        (outcome(cloud_items=499), "500 items acknowledged, 499 in the cloud"),
        (outcome(changed(bus={"received": 101, "kernel_dropped": 1})), "1 dropped"),
        (outcome(changed(bus={"received": 103, "lost": 3})), "3 lost"),
        (outcome(changed(bus={"received": 101})), "1 frames or items unexplained"),
        (outcome(changed(stream={"acknowledged": 400, "pending": 100})), "500 items selected, 400 of 500 acknowledged"),
        (outcome(changed(stream={"acknowledged": 400, "evicted": 100})), "400 of 500 acknowledged"),
        (outcome(changed(stream={"dead_lettered": 1})), "dead letters"),
        (outcome(changed(selected_items=501, lost_items=1)), "501 items selected"),
    ],
)
def test_every_loss_is_a_complaint(bad: Outcome, complaint: str) -> None:
    assert complaint in "; ".join(bad.complaints())
    assert complaint in report([bad])

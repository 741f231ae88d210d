"""What came of a vehicle: sent, received, stored, held in the cloud; and whether anything is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from gateway.status import table
from gateway.wire.ledger import Ledger
from outrider.demo.processes import wait_until
from outrider.demo.stage import Cloud

REPORT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One vehicle at the end. ``sent`` is what its driver says it put on each bus.

    With ``has_ecus`` there is other traffic besides: what gateway and ECUs say to each other, which no DBC knows.
    """

    vehicle: str
    sent: Mapping[str, int]
    ledger: Ledger
    cloud_items: int  # items durable in the cloud
    has_ecus: bool = False

    def complaints(self) -> list[str]:
        """What was lost or does not add up; empty when everything is accounted for and nothing was lost."""
        found = []
        received = {bus.bus: bus.received - self.has_ecus * bus.undecodable for bus in self.ledger.buses}
        for name, sent in self.sent.items():
            if received.get(name, 0) != sent:
                found.append(f"{name}: {sent:,} frames sent, {received.get(name, 0):,} received")
        for bus in self.ledger.buses:
            if bus.kernel_dropped or bus.lost or bus.held:
                found.append(f"{bus.bus}: {bus.kernel_dropped:,} dropped, {bus.lost:,} lost, {bus.held:,} held")
        stored = sum(s.stored for s in self.ledger.streams)
        acknowledged = sum(s.acknowledged for s in self.ledger.streams)
        if self.ledger.unexplained:
            found.append(f"{self.ledger.unexplained:,} frames or items unexplained")
        if self.ledger.selected_items != acknowledged:
            found.append(f"{self.ledger.selected_items:,} items selected, {acknowledged:,} of {stored:,} acknowledged")
        if any(s.dead_lettered for s in self.ledger.streams):
            found.append("some batches are dead letters")
        if acknowledged != self.cloud_items:
            found.append(f"{acknowledged:,} items acknowledged, {self.cloud_items:,} in the cloud")
        return found


def report(outcomes: list[Outcome]) -> str:
    """The accounting table of all vehicles, and a verdict."""
    frames = table(
        ["frames", "sent", "received", "= dropped", "+ errors", "+ unknown", "+ not sel.", "+ selected", "+ lost"],
        [
            [
                f"{outcome.vehicle} {bus.bus}",
                f"{outcome.sent[bus.bus]:,}" if bus.bus in outcome.sent else "?",
                *_numbers(bus.received, bus.kernel_dropped, bus.errors, bus.undecodable),
                *_numbers(bus.not_selected, bus.selected, bus.lost),
            ]
            for outcome in outcomes
            for bus in outcome.ledger.buses
        ],
    )
    items = table(
        [
            "items",
            "selected",
            "= stored",
            "= acknowledged",
            "+ evicted",
            "+ pending",
            "in the cloud",
            "bytes",
            "B/item",
        ],
        [[outcome.vehicle, *_item_cells(outcome)] for outcome in outcomes],
    )
    lines = [frames, "", items, ""]
    for outcome in outcomes:
        complaints = outcome.complaints()
        verdict = "every frame and item is accounted for, nothing was lost"
        lines.append(f"{outcome.vehicle}: {'; '.join(complaints) if complaints else verdict}")
    return "\n".join(lines)


def _item_cells(outcome: Outcome) -> list[str]:
    ledger = outcome.ledger
    acknowledged = sum(s.acknowledged for s in ledger.streams)
    return [
        *_numbers(ledger.selected_items, sum(s.stored for s in ledger.streams), acknowledged),
        *_numbers(sum(s.evicted for s in ledger.streams), sum(s.pending for s in ledger.streams)),
        *_numbers(outcome.cloud_items, ledger.uploaded_bytes),
        f"{ledger.uploaded_bytes / acknowledged:.2f}" if acknowledged else "-",
    ]


def _numbers(*values: int) -> list[str]:
    return [f"{value:,}" for value in values]


def outcome_of(cloud: Cloud, vehicle: str, sent: Mapping[str, int], *, has_ecus: bool = False) -> Outcome:
    """What the cloud knows of a vehicle that has stopped."""
    wait_until(f"the last report of {vehicle}", lambda: cloud.has_stopped(vehicle), REPORT_S)
    answer = cloud.accounting(vehicle)
    ledger = msgspec.convert({**answer, "at_ns": answer["checked_in_ns"]}, Ledger)  # further fields are ignored
    return Outcome(
        vehicle=vehicle, sent=sent, ledger=ledger, cloud_items=int(answer["received_items"]), has_ecus=has_ecus
    )

"""F11: every image that the Director wants must be an image of the Image repository, too, equal in everything."""

from __future__ import annotations

from collections.abc import Mapping

from tuf.api.metadata import TargetFile

from gateway.update.model import AttackError, VerifiedTarget
from gateway.uptane.director import (
    DELTA_FOLDER,
    Order,
    Orders,
    checked_facts,
    facts_of,
    image_custom,
    raw_must_match,
)
from gateway.uptane.resolve import resolve
from gateway.uptane.steps import Steps
from gateway.uptane.trust import TrustedRepository
from gateway.wire.uptane import DeltaOffer, FileFacts, ImageCustom


class Comparison:
    """Checks orders against the Image repository; looks each name up once for each hardware id."""

    def __init__(self, image: TrustedRepository, ecus: Mapping[str, str], counters: Mapping[str, int]) -> None:
        """``ecus``: hardware id by ECU; ``counters``: the lowest release counter each ECU still accepts."""
        self._image, self._ecus, self._counters = image, ecus, counters
        self._found: dict[tuple[str, str], TargetFile] = {}

    def verify(self, orders: Orders) -> Steps[tuple[VerifiedTarget, ...]]:
        """All of them, or none.

        Raises:
            AttackError: the first that differs.
        """
        made: list[VerifiedTarget] = []
        for order in orders.images:
            for ecu in order.custom.ecus:
                made.append((yield from self._verify(order, ecu)))
        return tuple(made)

    def _verify(self, order: Order, ecu: str) -> Steps[VerifiedTarget]:
        hardware_id = self._ecus[ecu]
        target = yield from self._lookup(order.facts.filename, hardware_id)
        custom = self._equal(order.facts, target)
        if raw_must_match(target) != order.raw_must_match or custom.must_match != order.custom.must_match:
            text = f"{order.facts.filename!a}: Director and Image repository do not agree what it is"
            raise AttackError("mix-and-match", "F11", text)
        self._check_for(ecu, custom, order.facts.filename)
        deltas = []
        for offer in order.custom.deltas:
            deltas.append((yield from self._delta(offer, hardware_id)))
        fallback, fallback_custom = None, None
        if ecu in order.custom.fallback:
            fallback, fallback_custom = yield from self._fallback(order.custom.fallback[ecu], ecu)
        return VerifiedTarget(
            ecu=ecu,
            hardware_id=hardware_id,
            image=order.facts,
            must_match=custom.must_match,
            deltas=tuple(deltas),
            fallback=fallback,
            fallback_must_match=fallback_custom.must_match if fallback_custom else None,
        )

    def _lookup(self, path: str, hardware_id: str) -> Steps[TargetFile]:
        key = (path, hardware_id)
        if key not in self._found:
            self._found[key] = yield from resolve(self._image, path, hardware_id)
        return self._found[key]

    def _equal(self, wanted: FileFacts, target: TargetFile) -> ImageCustom:
        """Length and all hashes are equal, in number, too."""
        try:
            facts, custom = facts_of(target), image_custom(target)
        except ValueError as error:
            raise AttackError("arbitrary software", "R4", f"image: {wanted.filename!a}: {error}") from error
        if facts != wanted:
            text = f"{wanted.filename!a}: Director and Image repository differ in its length or hashes"
            raise AttackError("mix-and-match", "F11", text)
        return custom

    def _check_for(self, ecu: str, custom: ImageCustom, what: str) -> None:
        """The ECU's hardware id is named, and its release counter is not lower than before."""
        must = custom.must_match
        if self._ecus[ecu] not in must.hardware_ids:
            text = f"{what!a} is not for hardware {self._ecus[ecu]!a} of ECU {ecu!a}"
            raise AttackError("arbitrary software", "F11", text)
        floor = self._counters.get(ecu, 0)
        if must.release_counter < floor:
            text = f"{what!a} has release counter {must.release_counter}, ECU {ecu!a} is at {floor}"
            raise AttackError("rollback", "F11", text)

    def _delta(self, offer: DeltaOffer, hardware_id: str) -> Steps[DeltaOffer]:
        """A delta is a target of the Image repository; its own counter says nothing, the result's was checked."""
        try:
            facts = checked_facts(offer.delta, repr(offer.delta.filename[:100]))
            base = FileFacts(filename="base", length=offer.base_length, hashes={"sha256": offer.base_sha256})
            checked_facts(base, "the base of a delta")
            if not facts.filename.startswith(DELTA_FOLDER):
                raise ValueError(f"{facts.filename!a} is not in {DELTA_FOLDER}")
        except ValueError as error:
            raise AttackError("arbitrary software", "F11", f"director: {error}") from error
        custom = self._equal(facts, (yield from self._lookup(facts.filename, hardware_id)))
        if custom.must_match.kind != "delta" or hardware_id not in custom.must_match.hardware_ids:
            text = f"{facts.filename!a} is no delta for hardware {hardware_id!a}"
            raise AttackError("arbitrary software", "F11", text)
        return DeltaOffer(base_sha256=offer.base_sha256, base_length=offer.base_length, delta=facts)

    def _fallback(self, wanted: FileFacts, ecu: str) -> Steps[tuple[FileFacts, ImageCustom]]:
        """The image to go back to is verified as if it were to be installed."""
        try:
            facts = checked_facts(wanted, repr(wanted.filename[:100]))
        except ValueError as error:
            raise AttackError("arbitrary software", "F11", f"director: fallback: {error}") from error
        custom = self._equal(facts, (yield from self._lookup(facts.filename, self._ecus[ecu])))
        if custom.must_match.kind == "delta" or facts.filename.startswith(DELTA_FOLDER):
            raise AttackError("arbitrary software", "F11", f"{facts.filename!a}: a delta is no image to go back to")
        self._check_for(ecu, custom, facts.filename)
        return facts, custom

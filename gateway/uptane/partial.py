"""Partial verification (PV1, PV2): what a Secondary checks that has no room for more, or the Primary in its place.

The Director's Targets alone, with the keys of its Root: the Snapshot is not looked at. A Secondary behind a bus that
only carries firmware leaves this to the Primary, which has verified in full before; running it on the very bytes that
are kept for the Secondaries shows that what it hands on is what it verified.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from tuf.api.metadata import Metadata, Root, Targets

from gateway.update.model import AttackError, VerifiedTarget
from gateway.uptane.director import Order, read_orders
from gateway.uptane.floor import MAX_VERSION
from gateway.uptane.refusal import TUF_ERRORS, refusal, rules_of
from gateway.uptane.signers import good_signers
from gateway.wire.uptane import MAX_DIRECTOR_TARGETS_BYTES


@dataclass(frozen=True, slots=True)
class PartialBundle:
    """Metadata for Secondaries, as bytes."""

    director_root: bytes
    director_targets: bytes


def verify_partial(
    bundle: PartialBundle,
    *,
    vehicle: str,
    ecu: str,
    hardware_id: str,
    now_ns: int,
    previous_version: int = 0,
    release_counter: int = 0,
) -> VerifiedTarget | None:
    """Check the Director's Targets for one ECU.

    Args:
        bundle: the trusted Root of the Director, and Targets from outside.
        vehicle: the ECU's.
        ecu: its identifier.
        hardware_id: its hardware.
        now_ns: secure time.
        previous_version: of the Targets that the ECU trusted before.
        release_counter: the lowest that it accepts.

    Returns:
        The image for this ECU; None: none is wanted.

    Raises:
        AttackError: refused.
    """
    rules = rules_of("targets")
    if len(bundle.director_targets) > MAX_DIRECTOR_TARGETS_BYTES:
        raise AttackError(
            "endless data", "CG1", f"director: targets are longer than {MAX_DIRECTOR_TARGETS_BYTES} bytes"
        )
    try:
        root = Metadata[Root].from_bytes(bundle.director_root).signed
        metadata = Metadata[Targets].from_bytes(bundle.director_targets)
        targets = metadata.signed
        if not isinstance(root, Root) or not isinstance(targets, Targets):
            raise ValueError("not the metadata of a Root and Targets")
        signers = good_signers(root, "targets", metadata)
    except TUF_ERRORS as error:
        raise refusal(error, "director: targets", rules) from error
    needed = root.roles["targets"].threshold
    if len(signers) < needed:
        text = f"director: targets are signed by {len(signers)} different keys, {needed} are needed"
        raise AttackError("arbitrary software", "CG3", text)
    version: object = targets.version
    if not isinstance(version, int) or isinstance(version, bool) or not previous_version <= version <= MAX_VERSION:
        text = f"director: targets {str(version)[:30]} are older than {previous_version}"
        raise AttackError("rollback", "CG4", text)
    if targets.is_expired(datetime.fromtimestamp(now_ns // 1_000_000_000, UTC)):
        raise AttackError("freeze", "CG5", "director: targets have expired")
    orders = read_orders(targets, vehicle, {ecu: hardware_id}, is_whole=False)
    mine = [order for order in orders.images if ecu in order.custom.ecus]
    return _target(mine[0], ecu, hardware_id, release_counter) if mine else None


def _target(order: Order, ecu: str, hardware_id: str, release_counter: int) -> VerifiedTarget:
    must = order.custom.must_match
    if hardware_id not in must.hardware_ids:
        text = f"{order.facts.filename!a} is not for hardware {hardware_id!a} of ECU {ecu!a}"
        raise AttackError("arbitrary software", "N2", text)
    if must.release_counter < release_counter:
        text = (
            f"{order.facts.filename!a} has release counter {must.release_counter}, ECU {ecu!a} is at {release_counter}"
        )
        raise AttackError("rollback", "N4", text)
    return VerifiedTarget(ecu=ecu, hardware_id=hardware_id, image=order.facts, must_match=must)

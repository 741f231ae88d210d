"""What the Director wants, read from its verified Targets and checked by itself (CG6 to CG8, R5 to R7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
from tuf.api.metadata import TargetFile, Targets

from gateway.update.model import AttackError
from gateway.uptane.names import by_normal_name, image_name
from gateway.wire.uptane import (
    KINDS,
    TARGETS_FIELD,
    DirectorCustom,
    DirectorInstructions,
    FileFacts,
    ImageCustom,
    InstallSet,
)

DELTA_FOLDER = "deltas/"
MAX_LENGTH_BYTES = 1 << 50
_HEX_DIGITS = {"sha256": 64, "sha512": 128}


@dataclass(frozen=True, slots=True)
class Order:
    """An image that the Director wants on some ECUs."""

    facts: FileFacts
    custom: DirectorCustom
    raw_must_match: object


@dataclass(frozen=True, slots=True)
class Orders:
    """All of them."""

    instructions: DirectorInstructions
    images: tuple[Order, ...]


def checked_facts(facts: FileFacts, what: str) -> FileFacts:
    """The same facts with the name in normal form; every hash is one that can be checked (R4, V4).

    Raises:
        ValueError: they are not facts about a file.
    """
    if facts.length < 0 or facts.length > MAX_LENGTH_BYTES:
        raise ValueError(f"{what}: a length of {facts.length} bytes")
    if "sha256" not in facts.hashes:
        raise ValueError(f"{what}: there is no SHA-256")
    for algorithm, value in facts.hashes.items():
        digits = _HEX_DIGITS.get(algorithm)
        if digits is None:
            raise ValueError(f"{what}: hash {algorithm[:20]!a} is not known, so it cannot be checked")
        if len(value) != digits or not set(value) <= set("0123456789abcdef"):
            raise ValueError(f"{what}: {algorithm} is not {digits} lower-case hexadecimal digits")
    return FileFacts(filename=image_name(facts.filename), length=facts.length, hashes=dict(facts.hashes))


def facts_of(target: TargetFile) -> FileFacts:
    """A target of TUF metadata as facts. Raises ``ValueError`` as ``checked_facts``."""
    given = {"filename": target.path, "length": target.length, "hashes": target.hashes}
    return checked_facts(msgspec.convert(given, FileFacts), repr(target.path[:100]))


def image_custom(target: TargetFile) -> ImageCustom:
    """``custom`` of an entry of the Image repository. Raises ``ValueError``."""
    return msgspec.convert(target.custom, ImageCustom)


def raw_must_match(target: TargetFile) -> object:
    """What was signed as ``must_match``, to be compared as it is."""
    return target.custom.get("must_match") if isinstance(target.custom, dict) else None


def read_orders(targets: Targets, vehicle: str, ecus: Mapping[str, str], *, is_whole: bool = True) -> Orders:
    """Check the Director's Targets.

    Args:
        targets: verified.
        vehicle: ours; it must be named, also when there is nothing to do (R7).
        ecus: hardware id by ECU identifier: all of the vehicle, or only one's own in partial verification.
        is_whole: ``ecus`` are all (CG8 applies).

    Raises:
        AttackError: it delegates, names an ECU twice or one that is not ours, or is not for this vehicle.
    """
    if targets.delegations is not None:
        raise AttackError("arbitrary software", "CG6", "director: its targets delegate, which a Director never does")
    instructions = _instructions(targets, vehicle)
    try:
        by_normal_name(targets.targets)
    except ValueError as error:
        raise AttackError("mix-and-match", "R3", f"director: {error}") from error
    images = tuple(_order(target) for _, target in sorted(targets.targets.items()))
    seen: set[str] = set()
    for order in images:
        for ecu in order.custom.ecus:
            if ecu in seen:
                raise AttackError("mix-and-match", "CG7", f"director: ECU {ecu!a} shall get two images")
            seen.add(ecu)
            if is_whole and ecu not in ecus:
                text = f"director: ECU {ecu!a} is none of this vehicle"
                raise AttackError("mix-and-match", "CG8", text)
    return Orders(instructions, images)


def _instructions(targets: Targets, vehicle: str) -> DirectorInstructions:
    try:
        found = msgspec.convert(targets.unrecognized_fields.get(TARGETS_FIELD), DirectorInstructions)
    except msgspec.ValidationError as error:
        raise AttackError("mix-and-match", "R7", f"director: targets do not say whose they are: {error}") from error
    if found.vehicle != vehicle:
        raise AttackError("mix-and-match", "R7", f"director: targets are for vehicle {found.vehicle[:64]!a}")
    return found


def _order(target: TargetFile) -> Order:
    try:
        facts = facts_of(target)
    except ValueError as error:
        raise AttackError("arbitrary software", "R4", f"director: {error}") from error
    try:
        custom = msgspec.convert(target.custom, DirectorCustom)
        if not custom.ecus:
            raise ValueError("it is for no ECU")
        if custom.must_match.kind not in KINDS or custom.must_match.kind == "delta":
            raise ValueError(f"{custom.must_match.kind[:20]!a} is no kind of image")
        if facts.filename.startswith(DELTA_FOLDER):
            raise ValueError("a delta is no image")
    except ValueError as error:
        raise AttackError("arbitrary software", "R6", f"director: {facts.filename!a}: {error}") from error
    return Order(facts, custom, raw_must_match(target))


def install_sets(orders: Orders) -> tuple[InstallSet, ...]:
    """Sets that hold every ECU of the orders exactly once: those told, then each ECU that is in none by itself.

    Raises:
        AttackError: an ECU is in two sets (partial bundle installation).
    """
    wanted = [ecu for order in orders.images for ecu in order.custom.ecus]
    seen: set[str] = set()
    made: list[InstallSet] = []
    for each in orders.instructions.sets:
        for ecu in each.ecus:
            if ecu in seen:
                text = f"director: ECU {ecu!a} is in two install sets"
                raise AttackError("partial bundle installation", "CG7", text)
            seen.add(ecu)
        present = tuple(ecu for ecu in each.ecus if ecu in wanted)
        if present:
            made.append(InstallSet(ecus=present))
    made.extend(InstallSet(ecus=(ecu,)) for ecu in wanted if ecu not in seen)
    return tuple(made)

"""What a release means for one vehicle: which image goes to which ECU, in which sets, or why it cannot be (D5).

Pure: the vehicle's whole inventory and the release's images in, a ``Plan`` or ``Unsatisfiable`` out.

An image goes to every ECU whose hardware id it names; a payload (scheme, model …) goes to the payload slot it is named
for. Rules are held against what the vehicle *would* run: its inventory with the plan laid over it. A rule of an image
that stays, and that was broken before, does not stop an update that has nothing to do with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from gateway.wire.uptane import DeltaOffer, FileFacts, InstallPolicy, InstallSet, MustMatch

#: Kinds that ECUs run, as opposed to payloads the gateway uses.
ECU_KINDS = frozenset({"rootfs", "firmware"})


class Unsatisfiable(Exception):
    """This release cannot be installed on this vehicle; the text says why."""


class Rule(msgspec.Struct, frozen=True):
    """A dependency ("requires") or conflict ("conflicts") of an image with another ECU's."""

    rule: str
    hardware_id: str
    version: str = ""  # "": any
    min_counter: int | None = None


class KnownImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image of the repository."""

    id: int
    file: FileFacts
    must_match: MustMatch
    is_target: bool = True
    rules: tuple[Rule, ...] = ()


class ReleaseImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image of the release and where it goes."""

    image: KnownImage
    ecu: str = ""
    set_number: int = 0
    position: int = 0


class Unit(msgspec.Struct, frozen=True, kw_only=True):
    """An ECU or payload slot of the vehicle with what it runs."""

    name: str
    hardware_id: str
    sha256: str = ""
    length: int = 0
    version: str = ""
    release_counter: int = 0
    is_payload: bool = False
    is_primary: bool = False
    known: KnownImage | None = None  # the repository's image of that hash


class PlannedTarget(msgspec.Struct, frozen=True, kw_only=True):
    """One image for the ECUs that do not run it yet."""

    image_id: int
    file: FileFacts
    must_match: MustMatch
    ecus: tuple[str, ...]
    deltas: tuple[DeltaOffer, ...] = ()
    fallback: dict[str, FileFacts] = {}


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a vehicle shall install; ``wanted`` also names the ECUs that run the right image already."""

    targets: tuple[PlannedTarget, ...]
    sets: tuple[InstallSet, ...]
    wanted: dict[str, str]  # ECU or payload -> SHA-256
    policy: InstallPolicy = InstallPolicy()


#: (base SHA-256, image id) -> the delta that leads there, with the base's length.
Deltas = Mapping[tuple[str, int], DeltaOffer]


def make_plan(units: Sequence[Unit], images: Sequence[ReleaseImage], deltas: Deltas, policy: InstallPolicy) -> Plan:
    """Work out what to install.

    Raises:
        Unsatisfiable: nothing fits, two images fit one ECU, a step back in release counters, or a rule is broken.
    """
    chosen = _choose(units, images)
    if not chosen:
        raise Unsatisfiable("no image of the release fits any ECU of this vehicle")
    for unit in units:
        item = chosen.get(unit.name)
        if (
            item
            and item.image.must_match.release_counter < unit.release_counter
            and item.image.file.hashes["sha256"] != unit.sha256
        ):
            raise Unsatisfiable(
                f"{unit.name} runs release counter {unit.release_counter} ({unit.version or 'unknown version'});"
                f" {item.image.file.filename} has {item.image.must_match.release_counter}, and vehicles never go back"
            )
    _check_rules(units, chosen)
    by_name = {unit.name: unit for unit in units}
    differing = {
        name: item for name, item in chosen.items() if item.image.file.hashes["sha256"] != by_name[name].sha256
    }
    targets = tuple(_targets(differing, by_name, deltas))
    wanted = {name: item.image.file.hashes["sha256"] for name, item in chosen.items()}
    return Plan(targets=targets, sets=_sets(differing, by_name), wanted=wanted, policy=policy)


def _fits(unit: Unit, item: ReleaseImage) -> bool:
    must = item.image.must_match
    if item.ecu and item.ecu != unit.name:
        return False
    if unit.hardware_id not in must.hardware_ids or unit.is_payload != (must.kind not in ECU_KINDS):
        return False
    if must.kind in ECU_KINDS:
        return True
    return bool(item.ecu) or unit.name in {must.kind, f"{must.kind}s"} or _kind(unit) == must.kind


def _kind(unit: Unit) -> str:
    return unit.known.must_match.kind if unit.known else ""


def _choose(units: Sequence[Unit], images: Sequence[ReleaseImage]) -> dict[str, ReleaseImage]:
    chosen: dict[str, ReleaseImage] = {}
    for unit in units:
        fitting = [item for item in images if _fits(unit, item)]
        named = [item for item in fitting if item.ecu] or fitting
        if len({item.image.id for item in named}) > 1:
            names = " and ".join(sorted(item.image.file.filename for item in named)[:2])
            raise Unsatisfiable(f"{names} both fit {unit.name}; name the ECU of one of them")
        if named:
            chosen[unit.name] = named[0]
    return chosen


def _check_rules(units: Sequence[Unit], chosen: Mapping[str, ReleaseImage]) -> None:
    before = {unit.name: unit for unit in units}
    after = {unit.name: _after(unit, chosen.get(unit.name)) for unit in units}
    for name, unit in after.items():
        for rule in unit.known.rules if unit.known else ():
            reason = _broken(rule, name, after)
            is_old = before[name].sha256 == unit.sha256 and _broken(rule, name, before)
            if reason and not is_old:
                owner = unit.known.file.filename if unit.known else name
                raise Unsatisfiable(f"{owner} {reason}")


def _after(unit: Unit, item: ReleaseImage | None) -> Unit:
    if item is None:
        return unit
    image = item.image
    return msgspec.structs.replace(
        unit,
        sha256=image.file.hashes["sha256"],
        length=image.file.length,
        version=image.must_match.version,
        release_counter=image.must_match.release_counter,
        known=image,
    )


def _broken(rule: Rule, owner: str, units: Mapping[str, Unit]) -> str:
    """Why a rule does not hold; "" when it does."""
    others = [unit for name, unit in units.items() if name != owner and unit.hardware_id == rule.hardware_id]
    wish = f"version {rule.version}" if rule.version else "any version"
    if rule.min_counter is not None:
        wish = f"release counter {rule.min_counter} or more" + (f" in version {rule.version}" if rule.version else "")
    matching = [unit for unit in others if _matches(rule, unit)]
    if rule.rule == "requires" and not others:
        return f"requires an ECU with hardware id {rule.hardware_id}, and there is none"
    if rule.rule == "requires" and len(matching) < len(others):
        unit = next(unit for unit in others if unit not in matching)
        return f"requires {wish} on {unit.name}, which would run {unit.version or 'an unknown version'}"
    if rule.rule == "conflicts" and matching:
        return f"conflicts with {wish} on {matching[0].name}"
    return ""


def _matches(rule: Rule, unit: Unit) -> bool:
    if rule.version and rule.version != unit.version:
        return False
    return rule.min_counter is None or unit.release_counter >= rule.min_counter


def _targets(
    differing: Mapping[str, ReleaseImage], units: Mapping[str, Unit], deltas: Deltas
) -> Iterable[PlannedTarget]:
    by_image: dict[int, list[str]] = {}
    for name, item in sorted(differing.items()):
        by_image.setdefault(item.image.id, []).append(name)
    for image_id, names in sorted(by_image.items()):
        image = differing[names[0]].image
        offers = {offer.base_sha256: offer for n in names if (offer := deltas.get((units[n].sha256, image_id)))}
        present = {n: units[n].known for n in names}
        yield PlannedTarget(
            image_id=image_id,
            file=image.file,
            must_match=image.must_match,
            ecus=tuple(names),
            deltas=tuple(offers.values()),
            fallback={name: known.file for name, known in present.items() if known is not None and known.is_target},
        )


def _sets(differing: Mapping[str, ReleaseImage], units: Mapping[str, Unit]) -> tuple[InstallSet, ...]:
    """By set number; inside by position, the Primary last."""
    numbers = sorted({item.set_number for item in differing.values()})
    return tuple(
        InstallSet(
            ecus=tuple(
                sorted(
                    (name for name, item in differing.items() if item.set_number == number),
                    key=lambda name: (differing[name].position, units[name].is_primary, name),
                )
            )
        )
        for number in numbers
    )

"""From a verified update to steps in their order, and the checks that an ECU makes before it lets itself be changed.

Within a set the slot is written first: nothing runs from it yet, and an image that cannot be written then touches no
ECU. Then come the ECUs, as one step, since they change together or not at all, then the payloads in the order of the
set. What starts the new software, one switch of the slot or one restart, comes after all steps of the set.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import msgspec

from gateway.update.model import InstallError, VerifiedTarget, VerifiedUpdate
from gateway.wire.uptane import KINDS, FileFacts, InstallSet

ROOTFS, FIRMWARE = "rootfs", "firmware"


class KnownEcu(msgspec.Struct, frozen=True):
    """What may be installed on an ECU of this vehicle, or under a payload's name."""

    hardware_id: str
    kind: str


class Step(msgspec.Struct, frozen=True):
    """Targets that one installer takes at once; more than one only for ECUs over UDS."""

    kind: str
    targets: tuple[VerifiedTarget, ...]

    @property
    def ecus(self) -> tuple[str, ...]:
        """Whom it changes."""
        return tuple(target.ecu for target in self.targets)

    @property
    def name(self) -> str:
        """Unique in its set, the same after a restart."""
        return f"{self.kind}:{','.join(self.ecus)}"


def update_key(update: VerifiedUpdate) -> str:
    """Names an update by its assignment and content: another version of the same metadata is the same update."""
    content = sorted((t.ecu, t.image.filename, sorted(t.image.hashes.items())) for t in update.targets)
    sets = [one.ecus for one in update.sets]
    return hashlib.sha256(msgspec.json.encode([update.assignment, content, sets])).hexdigest()[:32]


def check_update(update: VerifiedUpdate, known: Mapping[str, KnownEcu], floor: Callable[[str], int]) -> None:
    """N1 to N4 of the standard, at the ECU, after and besides what the verifier has checked.

    Args:
        known: every ECU and payload by its identifier.
        floor: the release counter that an ECU must not go below.

    Raises:
        InstallError: not for us; nothing was begun and what was trusted before stays.
    """
    names = [target.ecu for target in update.targets]
    in_sets = [ecu for one in update.sets for ecu in one.ecus]
    if len(set(names)) != len(names) or len(set(in_sets)) != len(in_sets):
        raise InstallError("an ECU is named twice")
    for target in update.targets:
        _check_target(target, known, floor)
    for one in update.sets:
        stuck = [t.ecu for t in update.targets if t.ecu in one.ecus and t.fallback is None and _is_firmware(t)]
        if stuck and len(one.ecus) > 1:
            raise InstallError(f"the set could not be put back: there is no old image for {', '.join(stuck)}")
    if missing := set(in_sets) - set(names):
        raise InstallError(f"sets name ECUs without an image: {', '.join(sorted(missing))}")


def _is_firmware(target: VerifiedTarget) -> bool:
    return target.must_match.kind == FIRMWARE


def _check_target(target: VerifiedTarget, known: Mapping[str, KnownEcu], floor: Callable[[str], int]) -> None:
    name, facts = target.ecu, target.must_match
    ecu = known.get(name)
    if ecu is None:
        raise InstallError(f"there is no ECU {name!r} in this vehicle (N1)")
    if ecu.hardware_id not in facts.hardware_ids or target.hardware_id != ecu.hardware_id:
        wanted = ", ".join(facts.hardware_ids)
        raise InstallError(f"{name} is {ecu.hardware_id!r}, {target.image.filename} is for {wanted} (N2)")
    if facts.kind not in KINDS or facts.kind != ecu.kind:
        raise InstallError(f"{name} takes {ecu.kind}, {target.image.filename} is {facts.kind} (N3)")
    if facts.release_counter < floor(name):
        raise InstallError(f"{name}: release counter {facts.release_counter} is below {floor(name)} (N4)")


def without(update: VerifiedUpdate, done: frozenset[str]) -> VerifiedUpdate:
    """The same update without the ECUs that have their image already."""
    targets = tuple(t for t in update.targets if t.ecu not in done)
    left = {t.ecu for t in targets}
    kept = [tuple(ecu for ecu in one.ecus if ecu in left) for one in update.sets]
    sets = tuple(InstallSet(ecus=ecus) for ecus in kept if ecus)
    return msgspec.structs.replace(update, targets=targets, sets=sets)


def files_of(update: VerifiedUpdate) -> list[FileFacts]:
    """What is kept on this machine until the update is over: everything but full root file systems."""
    files = [t.image for t in update.targets if t.must_match.kind != ROOTFS]
    files += [t.fallback for t in update.targets if t.fallback is not None]
    return files + [offer.delta for t in update.targets for offer in t.deltas]


def set_targets(update: VerifiedUpdate, index: int) -> tuple[VerifiedTarget, ...]:
    """The targets of set ``index`` in its order; ECUs that are in no set come last, each by itself."""
    by_ecu = {target.ecu: target for target in update.targets}
    if index < len(update.sets):
        return tuple(by_ecu[ecu] for ecu in update.sets[index].ecus)
    in_sets = {ecu for one in update.sets for ecu in one.ecus}
    alone = [target for target in update.targets if target.ecu not in in_sets]
    return (alone[index - len(update.sets)],)


def set_count(update: VerifiedUpdate) -> int:
    """How many sets there are, with those of one ECU that the Director put in none."""
    in_sets = {ecu for one in update.sets for ecu in one.ecus}
    return len(update.sets) + sum(target.ecu not in in_sets for target in update.targets)


def steps_of(update: VerifiedUpdate, index: int) -> tuple[Step, ...]:
    """The steps of set ``index``: the slot, the ECUs together, each payload."""
    targets = set_targets(update, index)
    rootfs = [Step(ROOTFS, (t,)) for t in targets if t.must_match.kind == ROOTFS]
    firmware = tuple(t for t in targets if t.must_match.kind == FIRMWARE)
    payloads = [Step(t.must_match.kind, (t,)) for t in targets if t.must_match.kind not in (ROOTFS, FIRMWARE)]
    return (*rootfs, *([Step(FIRMWARE, firmware)] if firmware else []), *payloads)

"""Words and forms of the pages about releases and a vehicle's software. No HTTP, no HTML."""

from __future__ import annotations

import re

import msgspec

from cloud.errors import InvalidInput
from cloud.updates.assignments import AssignmentView, InventoryView, UpdateView
from cloud.updates.delta.jobs import DeltaJob
from cloud.updates.delta.tables import JobState
from cloud.updates.releases import ReleaseItem, ReleaseView, RuleFacts
from cloud.updates.repository import RoleView

_BADGES = {
    "succeeded": "good",
    "published": "good",
    "signed": "good",
    "done": "good",
    "installed": "good",
    "failed": "bad",
    "rolled_back": "bad",
    "withdrawn": "bad",
    "restored": "warn",
    "waiting": "warn",
    "stored": "warn",
    "uploading": "warn",
    "draft": "warn",
    "cancelled": "warn",
}
OPEN = ("assigned", "offered", "running")
#: status of a vehicle's update → in words.
STATUS_WORDS = {
    "none": "nothing was ever assigned",
    "assigned": "assigned; the vehicle has not fetched it yet",
    "offered": "offered; the vehicle knows of it",
    "waiting": "waiting for its conditions",
    "downloading": "downloading",
    "downloaded": "downloaded, not yet installed",
    "installing": "installing",
    "rebooting": "restarting into the new software",
    "verifying": "checking that it is well",
    "succeeded": "up to date",
    "failed": "failed; the vehicle runs what it ran before",
    "rolled_back": "went back to what it ran before",
    "cancelled": "cancelled",
    "superseded": "another update took its place",
}
DAY_NS = 86_400_000_000_000
_RULE = re.compile(r"(requires|conflicts)(?:\s+with)?\s+(\S+)(?:\s+(=|>=)\s*(\S.*))?")


class Difference(msgspec.Struct, frozen=True):
    """An ECU that the waiting inventory tells otherwise than the registered one."""

    ecu: str
    what: str
    hardware_id: str
    key_id: str


class RoleLine(msgspec.Struct, frozen=True):
    """A role of the repositories, and how urgent it is."""

    role: RoleView
    days: float
    kind: str
    words: str


def badge(state: str) -> str:
    """The kind of badge for a state of an image, a release, an update or an ECU."""
    return _BADGES.get(state, "")


def duration(seconds: float) -> str:
    """How long something will take, in words."""
    for limit, per, unit in ((100, 1, "s"), (6000, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / per:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"


def is_open(assignment: AssignmentView | None) -> bool:
    """Whether it can still be cancelled."""
    return assignment is not None and assignment.state in OPEN


def waits_for_consent(view: UpdateView) -> bool:
    """Whether only the driver's word is missing, or that among others."""
    return view.status == "waiting" and "consent" in view.detail


def differences(inventory: InventoryView, keys: dict[str, str]) -> list[Difference]:
    """What an operator is asked to accept: ECUs that came, went, or have another key or hardware.

    Args:
        inventory: what is registered, and what waits.
        keys: the registered key of each ECU.
    """
    if inventory.waiting is None:
        return []
    known = {ecu.name: ecu for ecu in inventory.ecus if not ecu.is_payload}
    told = {ecu.ecu: ecu for ecu in inventory.waiting.ecus}
    found = []
    for name, ecu in told.items():
        if name not in known:
            what = "new"
        elif known[name].hardware_id != ecu.hardware_id:
            what = f"other hardware (was {known[name].hardware_id})"
        elif known[name].is_primary != ecu.is_primary:
            what = "other part (primary or not)"
        elif keys.get(name) != ecu.key_id:
            what = "another key"
        else:
            continue
        found.append(Difference(name, what, ecu.hardware_id, ecu.key_id))
    found += [Difference(name, "gone", ecu.hardware_id, "") for name, ecu in known.items() if name not in told]
    return sorted(found, key=lambda difference: difference.ecu)


def deltas_of(release: ReleaseView, jobs: list[DeltaJob]) -> list[DeltaJob]:
    """The deltas to the images of a release."""
    targets = {item.image.id for item in release.images}
    return [job for job in jobs if job.target_image_id in targets]


def delta_words(jobs: list[DeltaJob]) -> str:
    """How far they are, for a list."""
    if not jobs:
        return ""
    done = sum(job.state == JobState.DONE for job in jobs)
    ended = sum(job.state in (JobState.DONE, JobState.NOT_USEFUL, JobState.FAILED) for job in jobs)
    running = next((job for job in jobs if job.state == JobState.RUNNING), None)
    if ended == len(jobs):
        return f"{done} ready" + (f", {ended - done} not kept" if ended > done else "")
    return f"{done} of {len(jobs)} ready" + (f", {running.percent:.0f} % of the next" if running else "")


def role_lines(roles: list[RoleView], now_ns: int, warn_days: float) -> list[RoleLine]:
    """Roles, the most urgent first. Those that are signed online are renewed by the cloud itself."""
    lines = []
    for one in roles:
        days = (one.expires_ns - now_ns) / DAY_NS
        if days <= 0:
            lines.append(RoleLine(one, days, "bad", "expired"))
        elif not one.is_online and days < warn_days:
            lines.append(RoleLine(one, days, "warn", "renew it soon"))
        else:
            lines.append(RoleLine(one, days, "good", "renewed by the cloud" if one.is_online else "good"))
    order = {"bad": 0, "warn": 1, "good": 2}
    return sorted(lines, key=lambda line: (order[line.kind], line.role.is_online, line.days))


def read_items(form: dict[str, str]) -> list[ReleaseItem]:
    """The images of a draft out of its form: ``use-7``, ``ecu-7`` (several by commas), ``set-7``, ``rules-7`` …

    Raises:
        InvalidInput: a number or a rule that cannot be read.
    """
    items = []
    for name in sorted(form, key=lambda name: (len(name), name)):
        found = re.fullmatch(r"use-([0-9]{1,15})", name)
        if found is None or form[name] != "yes":
            continue
        number = found[1]
        ecus = [part.strip() for part in form.get(f"ecu-{number}", "").split(",") if part.strip()] or [""]
        text = form.get(f"rules-{number}", "")
        # Nothing said is not "no rules": those the image has already stay, unless they were shown and taken out.
        is_told = bool(text.strip()) or form.get(f"ruled-{number}") == "yes"
        rules = read_rules(text, f"rules-{number}") if is_told else None
        for place, ecu in enumerate(ecus):
            items.append(
                ReleaseItem(
                    image_id=int(number),
                    ecu=ecu,
                    set_number=_count(form, f"set-{number}"),
                    position=_count(form, f"position-{number}"),
                    rules=rules if place == 0 else None,
                )
            )
    return items


def read_rules(text: str, where: str) -> list[RuleFacts]:
    """Rules as people write them, one a line: ``requires brakes-b2 >= 7``, ``conflicts with radio = 1.0``."""
    rules = []
    for line in filter(None, (line.strip() for line in text.splitlines())):
        found = _RULE.fullmatch(line)
        if found is None:
            usage = "say 'requires HARDWARE >= COUNTER' or 'conflicts HARDWARE = VERSION'"
            raise InvalidInput(f"{line[:60]!r}: {usage}", where=where)
        rule, hardware, sign, value = found.groups()
        if sign == ">=" and not re.fullmatch(r"[0-9]{1,15}", value.strip()):
            raise InvalidInput(f"{line[:60]!r}: a release counter is a whole number", where=where)
        rules.append(
            RuleFacts(
                rule,
                hardware,
                version=value.strip() if sign == "=" else "",
                min_counter=int(value) if sign == ">=" else None,
            )
        )
    return rules


def rule_text(rule: RuleFacts) -> str:
    """A rule as ``read_rules`` reads it."""
    text = f"{rule.rule} {rule.hardware_id}"
    if rule.version:
        return f"{text} = {rule.version}"
    return text if rule.min_counter is None else f"{text} >= {rule.min_counter}"


def form_of(release: ReleaseView) -> dict[str, str]:
    """The fields that give this draft."""
    form = {
        "name": release.name,
        "notes": release.notes,
        "needs_consent": "yes" if release.needs_consent else "",
        "is_critical": "yes" if release.is_critical else "",
    }
    for item in release.images:
        number = item.image.id
        earlier = form.get(f"ecu-{number}", "")
        form |= {
            f"use-{number}": "yes",
            f"ecu-{number}": f"{earlier}, {item.ecu}" if earlier else item.ecu,
            f"set-{number}": str(item.set_number),
            f"position-{number}": str(item.position),
            f"ruled-{number}": "yes",
            f"rules-{number}": "\n".join(rule_text(rule) for rule in item.rules),
        }
    return form


def _count(form: dict[str, str], name: str) -> int:
    text = form.get(name, "").strip() or "0"
    if not re.fullmatch(r"[0-9]{1,6}", text):
        raise InvalidInput("a whole number", where=name)
    return int(text)

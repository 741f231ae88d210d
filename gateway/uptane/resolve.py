"""Finding an image in the Image repository through its delegations (RD1 to RD5).

Pre-order, in the order listed, first hit wins. A delegation counts only if the image's path *and* the ECU's hardware
id match. A terminating one that matches ends the search. A role that cannot be verified ends it too: the image is not
found, rather than that the next role in the order may speak in its place.

Roles that must agree (TAP-3, ``MULTI_ROLE_FIELD``) come before a Targets file's plain delegations, in their own order.
Their members are roles of the same Targets file; those that shall speak only together have no paths of their own, so
that a plain TUF client trusts none of them alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import quote

import msgspec
from tuf.api.metadata import DelegatedRole, Delegations, Role, TargetFile, Targets

from gateway.update.model import AttackError
from gateway.uptane.steps import Steps
from gateway.uptane.trust import TrustedRepository
from gateway.wire.uptane import DELEGATION_HARDWARE_FIELD, MULTI_ROLE_FIELD

#: Roles looked at for one image, and how deep: what is beyond is not found.
MAX_ROLES, MAX_DEPTH = 64, 16
#: Of a role's name, percent-encoded: it becomes the name of a file.
MAX_ROLE_NAME_BYTES = 200


class MultiRole(msgspec.Struct, frozen=True):
    """One entry of ``MULTI_ROLE_FIELD``."""

    name: str
    roles: tuple[str, ...]
    threshold: int
    paths: tuple[str, ...]
    terminating: bool = False
    hardware_ids: tuple[str, ...] | None = msgspec.field(default=None, name=DELEGATION_HARDWARE_FIELD)

    def matches(self, path: str, hardware_id: str) -> bool:
        """Whether it speaks for the image on that hardware."""
        if self.hardware_ids is not None and hardware_id not in self.hardware_ids:
            return False
        # The pattern rules of plain delegations: "*" never matches a "/".
        return DelegatedRole(self.name, [], 1, False, list(self.paths)).is_delegated_path(path)


@dataclass(slots=True)
class _Search:
    """What is the same throughout one search."""

    repository: TrustedRepository
    path: str
    hardware_id: str
    visits_left: int = MAX_ROLES


@dataclass(slots=True)
class _Result:
    """What a part of the tree said."""

    target: TargetFile | None = None
    ends: bool = False  # a terminating delegation was followed


@dataclass(frozen=True, slots=True)
class _Plain:
    name: str
    terminating: bool


@dataclass(slots=True)
class _Votes:
    """Members of a multi-role delegation that say the same."""

    target: TargetFile
    count: int = field(default=1)


def resolve(repository: TrustedRepository, path: str, hardware_id: str) -> Steps[TargetFile]:
    """The entry of an image that may be installed on that hardware.

    Args:
        repository: the Image repository, with Targets loaded.
        path: normal form of the image's name.
        hardware_id: of the ECU.

    Raises:
        AttackError: it is not found; ``attack`` and the text say why.
    """
    search = _Search(repository, path, hardware_id)
    result = yield from _visit(search, "targets", "root", frozenset(), set())
    if result.target is None:
        text = f"image: {path!a} is no image for hardware {hardware_id!a} in the Image repository"
        raise AttackError("arbitrary software", "F11", text)
    return result.target


def _visit(search: _Search, role: str, delegator: str, above: frozenset[str], visited: set[str]) -> Steps[_Result]:
    """Look into one role and, if it says nothing itself, into those it delegates to."""
    targets = yield from _load(search, role, delegator, above)
    visited.add(role)
    try:
        target = search.repository.target(role, search.path)
    except ValueError as error:
        raise _bad(search, role, str(error)) from error
    if target is not None:
        return _Result(target)
    if targets.delegations is None:
        return _Result()
    above |= {role}
    for each in _delegations(search, role, targets.delegations):
        if isinstance(each, MultiRole):
            result = yield from _agree(search, each, role, above, visited)
        elif each.name in visited:
            result = _Result()
        else:
            result = yield from _visit(search, each.name, role, above, visited)
        if result.target is not None or result.ends:
            return result
        if each.terminating:
            return _Result(ends=True)
    return _Result()


def _load(search: _Search, role: str, delegator: str, above: frozenset[str]) -> Steps[Targets]:
    if search.visits_left <= 0 or len(above) >= MAX_DEPTH:
        raise _bad(search, role, f"more than {MAX_ROLES} roles, or {MAX_DEPTH} levels, of delegations")
    search.visits_left -= 1
    if len(quote(role, "")) > MAX_ROLE_NAME_BYTES:
        raise _bad(search, role[:40], "its name is too long")
    try:
        return (yield from search.repository.load_role(role, delegator))
    except AttackError as error:
        if role == "targets":
            raise
        text = f"image: {search.path!a} is not found: role {role!a} is bad: {error.message} ({error.rule})"
        raise AttackError(error.attack, "RD4", text) from error


def _bad(search: _Search, role: str, why: str) -> AttackError:
    text = f"image: {search.path!a} is not found: role {role!a}: {why}"
    return AttackError("arbitrary software", "RD4", text)


def _delegations(search: _Search, role: str, delegations: Delegations) -> Iterator[MultiRole | _Plain]:
    """Those that match, in order."""
    try:
        entries = msgspec.convert(delegations.unrecognized_fields.get(MULTI_ROLE_FIELD, []), list[MultiRole])
    except msgspec.ValidationError as error:
        raise _bad(search, role, f"{MULTI_ROLE_FIELD}: {error}") from error
    for entry in entries:
        if not 1 <= entry.threshold <= len(set(entry.roles)) or len(set(entry.roles)) != len(entry.roles):
            raise _bad(search, role, f"{entry.threshold} of {len(entry.roles)} roles of {entry.name!a} shall agree")
        if entry.matches(search.path, search.hardware_id):
            yield entry
    for name, terminating in delegations.get_roles_for_target(search.path):
        plain = delegations.succinct_roles if delegations.roles is None else delegations.roles[name]
        if plain is not None and _hardware_matches(search, name, plain):
            yield _Plain(name, terminating)


def _hardware_matches(search: _Search, name: str, role: Role) -> bool:
    field_ = role.unrecognized_fields.get(DELEGATION_HARDWARE_FIELD)
    if field_ is None:
        return True
    try:
        return search.hardware_id in msgspec.convert(field_, tuple[str, ...])
    except msgspec.ValidationError as error:
        raise _bad(search, name, f"{DELEGATION_HARDWARE_FIELD}: {error}") from error


def _agree(
    search: _Search, entry: MultiRole, delegator: str, above: frozenset[str], visited: set[str]
) -> Steps[_Result]:
    """RD5: enough members say the same; of several such groups the one with the earliest member wins."""
    votes: list[_Votes] = []
    for member in entry.roles:
        if member in above:
            continue
        result = yield from _visit(search, member, delegator, above, set(visited))
        if result.target is None:
            continue
        same = [vote for vote in votes if _says_the_same(vote.target, result.target)]
        if same:
            same[0].count += 1
        else:
            votes.append(_Votes(result.target))
    for vote in votes:
        if vote.count >= entry.threshold:
            return _Result(vote.target)
    return _Result()


def _says_the_same(one: TargetFile, other: TargetFile) -> bool:
    return (
        one.length == other.length
        and one.hashes == other.hashes
        and one.unrecognized_fields == other.unrecognized_fields
    )

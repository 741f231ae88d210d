"""The rules of the key ceremony: what the next version of an offline role says. Pure; files and keys are elsewhere.

Every change makes a new version of one or more roles. It counts when it is signed by the threshold of those who may
sign it; a root, by the thresholds of the root before it and of itself.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
from securesystemslib.signer import Key
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Role, Root, TargetFile, Targets

from cloud.errors import Conflict, InvalidInput, NotFound
from cloud.updates.images import SignImage
from cloud.updates.keys import ONLINE_ROLES, OnlineKeyFile
from cloud.updates.names import DELTAS_ROLE, check_role_name, check_target_name
from cloud.updates.trust import DIRECTOR, IMAGE, check_delegations, check_root
from cloud.updates.tuf import S_NS, is_signed, moment, plain, read_key
from gateway.wire.uptane import DELEGATION_HARDWARE_FIELD, ROOT_TIME_FIELD, ImageCustom

DAY_NS = 86_400 * S_NS
S = TypeVar("S", Root, Targets)
#: A role: its repository and name.
RoleId = tuple[str, str]


class Lives(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long offline roles live, in days."""

    root_days: int = 1_825
    targets_days: int = 365


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySet:
    """Keys of a role and how many must sign."""

    keys: Sequence[Key]
    threshold: int

    def check(self, what: str) -> None:
        """Raises ``InvalidInput``: the threshold cannot be reached."""
        if not 1 <= self.threshold <= len({key.keyid for key in self.keys}):
            raise InvalidInput(f"{what}: a threshold of {self.threshold} with {len(self.keys)} keys")


@dataclass(slots=True)
class Book:
    """All offline metadata: what is in force, and what has been proposed and is not signed by enough yet."""

    signed: dict[RoleId, Metadata[Any]] = field(default_factory=dict)
    pending: dict[RoleId, Metadata[Any]] = field(default_factory=dict)

    def newest(self, repository: str, role: str) -> Metadata[Any]:
        """The proposed version, else the one in force. ``NotFound`` when there is none."""
        found = self.pending.get((repository, role)) or self.signed.get((repository, role))
        if found is None:
            raise NotFound(f"there is no {role} of the {repository} repository")
        return found

    def next(self, repository: str, role: str, kind: type[S]) -> S:
        """A copy to change, one version on; a proposal that waits is changed further and loses its signatures."""
        newest = self.newest(repository, role)
        if not isinstance(newest.signed, kind):
            raise InvalidInput(f"{role} of the {repository} repository is no {kind.type}")
        draft: S = copy.deepcopy(newest.signed)
        if (repository, role) not in self.pending:
            draft.version += 1
        return draft

    def propose(self, repository: str, role: str, signed: Root | Targets) -> None:
        """Put a version up for signing."""
        if isinstance(signed, Root):
            check_root(repository, signed, f"{signed.version}.root.json")
        else:
            check_delegations(signed, f"{signed.version}.{role}.json")
        self.pending[repository, role] = Metadata(signed)

    def signers_of(self, repository: str, role: str) -> set[str]:
        """Ids of the keys whose signatures count for the newest version of a role."""
        return {keyid for delegator in self._delegators(repository, role) for keyid in _role(delegator, role).keyids}

    def is_complete(self, repository: str, role: str) -> bool:
        """Whether the proposed version has all signatures it needs."""
        proposed = self.pending[repository, role]
        delegators = self._delegators(repository, role)
        good = [is_signed(delegator, role, proposed) for delegator in delegators]
        return all(good) if role == "root" else any(good)

    def settle(self) -> list[RoleId]:
        """Proposals that are complete come into force; roots first, for others lean on them."""
        done = []
        for repository, role in sorted(self.pending, key=lambda one: (one[1] != "root", one[1] != "targets", one)):
            if role != "root" and (repository, "root") in self.pending:
                continue  # its root is still a proposal
            if self.is_complete(repository, role):
                self.signed[repository, role] = self.pending.pop((repository, role))
                done.append((repository, role))
        return done

    def _delegators(self, repository: str, role: str) -> list[Root | Targets]:
        root = self.newest(repository, "root")
        if role == "root":
            before = self.signed.get((repository, "root"))
            return [root.signed] if before is None or before is root else [before.signed, root.signed]
        if role == "targets":
            return [root.signed]
        names = {name for repo, name in (*self.signed, *self.pending) if repo == repository and name != "root"}
        found = [self.newest(repository, name).signed for name in sorted(names)]
        return [item for item in found if item.delegations and role in (item.delegations.roles or {})]


def _role(delegator: Root | Targets, role: str) -> Role:
    return delegator.get_delegated_role(role)


def online_keys(file: OnlineKeyFile) -> dict[str, Key]:
    """The cloud's public keys by role. ``InvalidInput`` when one is missing."""
    if missing := [role for role in ONLINE_ROLES if role not in file.keys]:
        raise InvalidInput(f"the file of online keys has none for {', '.join(missing)}")
    return {role: read_key(dict(file.keys[role]), role) for role in ONLINE_ROLES}


def begin(
    book: Book, director: KeySet, image: KeySet, targets: KeySet, online: Mapping[str, Key], lives: Lives, now_ns: int
) -> None:
    """Propose both roots and the first targets.json. Raises ``Conflict``: there is one already."""
    if book.signed or book.pending:
        raise Conflict("this directory has metadata already")
    for what, keys in (("director root", director), ("image root", image), ("image targets", targets)):
        keys.check(what)
    for repository, keys in ((DIRECTOR, director), (IMAGE, image)):
        root = Root(version=1, expires=moment(now_ns + lives.root_days * DAY_NS), consistent_snapshot=True)
        set_role(root, "root", keys)
        if repository == IMAGE:
            set_role(root, "targets", targets)
        _set_online(repository, root, online)
        book.propose(repository, "root", root)
    top = Targets(version=1, expires=moment(now_ns + lives.targets_days * DAY_NS))
    _set_deltas(top, online["image-deltas"])
    book.propose(IMAGE, "targets", top)


def set_role(root: Root, role: str, keys: KeySet) -> None:
    """Give a role of a root other keys; keys that serve nobody any more leave it."""
    keys.check(role)
    root.roles[role] = Role(list(dict.fromkeys(key.keyid for key in keys.keys)), keys.threshold)
    for key in keys.keys:
        root.keys[key.keyid] = key
    _forget_unused(root)


def _forget_unused(root: Root) -> None:
    used = {keyid for role in root.roles.values() for keyid in role.keyids}
    used |= set(root.unrecognized_fields.get(ROOT_TIME_FIELD, {}).get("keyids", []))
    for keyid in set(root.keys) - used:
        del root.keys[keyid]


def _set_online(repository: str, root: Root, online: Mapping[str, Key]) -> None:
    roles = ("targets", "snapshot", "timestamp") if repository == DIRECTOR else ("snapshot", "timestamp")
    if repository == DIRECTOR:
        key = online["director-time"]
        root.keys[key.keyid] = key
        root.unrecognized_fields[ROOT_TIME_FIELD] = {"keyids": [key.keyid], "threshold": 1}
    for role in roles:
        set_role(root, role, KeySet(keys=[online[f"{repository}-{role}"]], threshold=1))


def _set_deltas(targets: Targets, key: Key) -> None:
    """The cloud's own delegated role, before all others and final for its folder."""
    others = dict((targets.delegations.roles or {}) if targets.delegations else {})
    keys = dict(targets.delegations.keys) if targets.delegations else {}
    others.pop(DELTAS_ROLE, None)
    ours = DelegatedRole(DELTAS_ROLE, [key.keyid], 1, True, paths=[f"{DELTAS_ROLE}/*"])
    _set_delegations(targets, {**keys, key.keyid: key}, {DELTAS_ROLE: ours, **others})


def _set_delegations(targets: Targets, keys: Mapping[str, Key], roles: Mapping[str, DelegatedRole]) -> None:
    used = {keyid for role in roles.values() for keyid in role.keyids}
    fields = dict(targets.delegations.unrecognized_fields) if targets.delegations else {}
    targets.delegations = Delegations({k: v for k, v in keys.items() if k in used}, dict(roles), None, fields)


def use_online(book: Book, online: Mapping[str, Key], lives: Lives, now_ns: int) -> list[RoleId]:
    """Propose what is needed for the cloud's present online keys to count; nothing when they do."""
    changed: list[RoleId] = []
    for repository in (DIRECTOR, IMAGE):
        before = book.newest(repository, "root").signed
        root = book.next(repository, "root", Root)
        _set_online(repository, root, online)
        _forget_unused(root)
        if _says_more(before, root):
            root.expires = moment(now_ns + lives.root_days * DAY_NS)
            book.propose(repository, "root", root)
            changed.append((repository, "root"))
    before_top = book.newest(IMAGE, "targets").signed
    top = book.next(IMAGE, "targets", Targets)
    _set_deltas(top, online["image-deltas"])
    if _says_more(before_top, top):
        top.expires = moment(now_ns + lives.targets_days * DAY_NS)
        book.propose(IMAGE, "targets", top)
        changed.append((IMAGE, "targets"))
    return changed


def _says_more(before: Root | Targets, after: Root | Targets) -> bool:
    same = copy.deepcopy(after)
    same.version = before.version
    return bool(same.to_dict() != before.to_dict())


def rotate(book: Book, repository: str, role: str, keys: KeySet, lives: Lives, now_ns: int) -> list[RoleId]:
    """Propose other keys for ``root`` (either repository), the Image ``targets``, or a delegated role."""
    if role == "root" or (repository == IMAGE and role == "targets"):
        root = book.next(repository, "root", Root)
        set_role(root, role, keys)
        root.expires = moment(now_ns + lives.root_days * DAY_NS)
        book.propose(repository, "root", root)
        changed = [(repository, "root")]
        if role == "targets":
            changed += renew(book, [(IMAGE, "targets")], lives, now_ns)
        return changed
    raise InvalidInput(f"{role} of {repository} is not rotated here; suppliers' keys are changed by 'delegate'")


def renew(book: Book, roles: Iterable[RoleId], lives: Lives, now_ns: int) -> list[RoleId]:
    """Propose the same again with a later expiry."""
    changed = []
    for repository, role in roles:
        days = lives.root_days if role == "root" else lives.targets_days
        draft: Root | Targets
        draft = book.next(repository, role, Root) if role == "root" else book.next(repository, role, Targets)
        draft.expires = moment(now_ns + days * DAY_NS)
        book.propose(repository, role, draft)
        changed.append((repository, role))
    return changed


@dataclass(frozen=True, slots=True, kw_only=True)
class Delegation:
    """What a supplier may sign for (R10)."""

    name: str
    keys: KeySet
    paths: Sequence[str]
    hardware_ids: Sequence[str] = ()  # empty: any
    terminating: bool = False


def delegate(book: Book, by: str, wanted: Delegation, lives: Lives, now_ns: int) -> list[RoleId]:
    """Propose a delegation from ``by`` (``targets`` or another supplier), or a changed one in its old place."""
    check_role_name(wanted.name)
    if wanted.name == DELTAS_ROLE:
        raise InvalidInput(f"{DELTAS_ROLE} is the cloud's own")
    wanted.keys.check(wanted.name)
    if not wanted.paths:
        raise InvalidInput("a delegation names the paths it is for")
    for path in wanted.paths:
        check_target_name(path.replace("*", "x").replace("?", "x").replace("[", "x").replace("]", "x"), where="path")
    draft = book.next(IMAGE, by, Targets)
    fields: dict[str, Any] = {DELEGATION_HARDWARE_FIELD: sorted(wanted.hardware_ids)} if wanted.hardware_ids else {}
    ids = list(dict.fromkeys(key.keyid for key in wanted.keys.keys))
    role = DelegatedRole(
        wanted.name,
        ids,
        wanted.keys.threshold,
        wanted.terminating,
        paths=list(wanted.paths),
        unrecognized_fields=fields,
    )
    keys = {**(draft.delegations.keys if draft.delegations else {}), **{key.keyid: key for key in wanted.keys.keys}}
    roles = dict((draft.delegations.roles or {}) if draft.delegations else {})
    _set_delegations(draft, keys, {**roles, wanted.name: role})
    if (IMAGE, by) not in book.pending and not _says_more(book.newest(IMAGE, by).signed, draft):
        return []
    draft.expires = moment(now_ns + lives.targets_days * DAY_NS)
    book.propose(IMAGE, by, draft)
    return [(IMAGE, by)]


def undelegate(book: Book, by: str, name: str, lives: Lives, now_ns: int) -> list[RoleId]:
    """Propose that a supplier speaks for nothing any more. Raises ``NotFound``: it does not now."""
    draft = book.next(IMAGE, by, Targets)
    roles = dict((draft.delegations.roles or {}) if draft.delegations else {})
    if roles.pop(name, None) is None or name == DELTAS_ROLE or draft.delegations is None:
        raise NotFound(f"{by} delegates to no {name!r}")
    _set_delegations(draft, draft.delegations.keys, roles)
    draft.expires = moment(now_ns + lives.targets_days * DAY_NS)
    book.propose(IMAGE, by, draft)
    return [(IMAGE, by)]


def sign_for(
    book: Book,
    role: str,
    images: Iterable[SignImage],
    lives: Lives,
    now_ns: int,
    *,
    drop: Iterable[str] = (),
) -> list[str]:
    """Propose images as targets of a role; what it says already is passed over.

    Returns:
        The names that are new, changed or dropped; empty: nothing was proposed.

    Raises:
        Conflict: a name is signed for with other content; names are never used twice.
    """
    if role != "targets" and (IMAGE, role) not in book.signed and (IMAGE, role) not in book.pending:
        check_role_name(role)
        draft = Targets(version=1)
        is_new = True
    else:
        draft, is_new = book.next(IMAGE, role, Targets), False
    changed = []
    for image in images:
        entry = target_of(image)
        have = draft.targets.get(entry.path)
        if have is not None and have.to_dict() == entry.to_dict():
            continue
        if have is not None and (have.length, have.hashes) != (entry.length, entry.hashes):
            raise Conflict(f"{entry.path!r} is signed for with other content; give the new file another name")
        draft.targets[entry.path] = entry
        changed.append(entry.path)
    for name in drop:
        if draft.targets.pop(name, None) is None:
            raise NotFound(f"{role} does not sign for {name!r}")
        changed.append(name)
    if changed or is_new:
        draft.expires = moment(now_ns + lives.targets_days * DAY_NS)
        book.propose(IMAGE, role, draft)
    return changed


def target_of(image: SignImage) -> TargetFile:
    """An image as an entry of Targets. ``InvalidInput`` when it cannot be one."""
    name = check_target_name(image.file.filename)
    if set(image.file.hashes) != {"sha256", "sha512"}:
        raise InvalidInput(f"{name!r} has not both hashes")
    custom = plain(ImageCustom(must_match=image.must_match, description=image.description))
    return TargetFile(image.file.length, dict(image.file.hashes), name, {"custom": custom})

"""What a repository trusts, and whether files signed offline may join it: the write authorisation of both repositories.

Pure: bytes in, a new ``TrustedFiles`` out, or an error that says which rule was broken. The rules are those a vehicle
applies (root by thresholds of old and new keys, version exactly one more, delegations by path and hardware id), and a
few that only a repository can keep: nothing vanishes silently, each name is one image, what is listed is stored here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import msgspec
from tuf.api.metadata import DelegatedRole, Metadata, Root, TargetFile, Targets

from cloud.errors import Conflict, InvalidInput
from cloud.updates.names import DELTAS_ROLE, TOP_ROLES, check_role_name, check_target_name
from cloud.updates.tuf import is_signed, moment, read, verify
from gateway.wire.uptane import (
    DELEGATION_HARDWARE_FIELD,
    MAX_IMAGE_TARGETS_BYTES,
    MAX_ROOT_BYTES,
    ROOT_TIME_FIELD,
    ImageCustom,
    MustMatch,
)

MAX_DEPTH, MAX_ROLES = 8, 1_000
DIRECTOR, IMAGE = "director", "image"


class ImageFacts(msgspec.Struct, frozen=True):
    """An image as it is stored here, to be compared with what metadata says of it."""

    filename: str
    length: int
    sha256: str
    sha512: str
    must_match: MustMatch


#: The stored image of a name, or None.
Lookup = Callable[[str], ImageFacts | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedFiles:
    """A repository's offline-signed state. ``roles`` has ``targets`` and delegated roles, not the cloud's own."""

    repository: str
    root: Metadata[Root] | None = None
    roles: Mapping[str, Metadata[Targets]] = field(default_factory=dict)

    @property
    def top(self) -> Targets | None:
        """The top-level targets."""
        found = self.roles.get("targets")
        return found.signed if found else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The outcome of an import."""

    files: TrustedFiles
    added: Mapping[tuple[str, int], bytes]  # (role, version) -> content that was not there before
    signers: Mapping[str, str]  # target name -> the role that speaks for it
    dropped: Sequence[str]  # names no role lists any more
    warnings: Sequence[str]


def parse_name(name: str) -> tuple[str, int]:
    """``3.root.json`` → ("root", 3). ``InvalidInput`` for anything else."""
    number, _, rest = name.partition(".")
    role = rest.removesuffix(".json")
    if not (number.isascii() and number.isdigit() and rest.endswith(".json") and len(number) <= 16):
        raise InvalidInput(f"{name[:100]!r} is not named VERSION.ROLE.json", where="files")
    if role not in TOP_ROLES:
        check_role_name(role)
    return role, int(number)


def check_import(
    trusted: TrustedFiles,
    files: Mapping[str, bytes],
    *,
    now_ns: int,
    lookup: Lookup,
    own_keys: frozenset[str],
    may_drop: frozenset[str] = frozenset(),
) -> Accepted:
    """Check files against what is trusted, all together.

    Files that are there already, byte for byte, are passed over, so that a whole directory can be given again.

    Args:
        trusted: what is in force.
        files: by name, ``VERSION.ROLE.json``.
        now_ns: UTC.
        lookup: the stored images.
        own_keys: ids of the cloud's online keys; a root must let it sign.
        may_drop: names of targets that may vanish, or patterns of them (``*`` also stands for slashes).

    Raises:
        InvalidInput: a file is not what it must be.
        Conflict: it is sound, but does not follow what is here.
    """
    parsed = {parse_name(name): content for name, content in files.items()}
    refused = [role for role, _ in parsed if role in {"snapshot", "timestamp", DELTAS_ROLE}]
    if refused or (trusted.repository == DIRECTOR and any(role != "root" for role, _ in parsed)):
        raise InvalidInput("the cloud makes its online metadata itself; only offline roles are taken", where="files")
    added: dict[tuple[str, int], bytes] = {}
    root = _take_roots(trusted, parsed, added, now_ns, own_keys)
    if trusted.repository == DIRECTOR:
        return Accepted(files=replace(trusted, root=root), added=added, signers={}, dropped=(), warnings=())
    roles, warnings = _take_roles(trusted, root.signed, parsed, added, now_ns)
    state = TrustedFiles(repository=trusted.repository, root=root, roles=roles)
    signers = _check_targets(state, lookup, {role for role, _ in added})
    before = {name for role in trusted.roles.values() for name in role.signed.targets}
    dropped = sorted(before - set(signers))
    if surprising := [name for name in dropped if not any(fnmatchcase(name, pattern) for pattern in may_drop)]:
        shown = ", ".join(surprising[:5]) + (" …" if len(surprising) > 5 else "")
        raise Conflict(f"{len(surprising)} targets would vanish: {shown}; name them in 'drop' if that is meant")
    return Accepted(files=state, added=added, signers=signers, dropped=dropped, warnings=warnings)


def _take_roots(
    trusted: TrustedFiles,
    parsed: Mapping[tuple[str, int], bytes],
    added: dict[tuple[str, int], bytes],
    now_ns: int,
    own_keys: frozenset[str],
) -> Metadata[Root]:
    root = trusted.root
    for version in sorted(version for role, version in parsed if role == "root"):
        name, content = f"{version}.root.json", parsed["root", version]
        new = read(content, Root, name, MAX_ROOT_BYTES)
        if new.signed.version != version:
            raise InvalidInput(f"{name} says that it is version {new.signed.version}")
        if root is not None and version <= root.signed.version:
            continue  # history; what is stored is never replaced
        if root is not None:
            if version != root.signed.version + 1:
                raise Conflict(f"{name} does not follow version {root.signed.version}")
            verify(root.signed, "root", new, name)
        verify(new.signed, "root", new, name)
        check_root(trusted.repository, new.signed, name)
        root = new
        added["root", version] = content
    if root is None:
        raise Conflict(f"the {trusted.repository} repository has no root yet")
    if any(role == "root" for role, _ in added):
        if root.signed.is_expired(moment(now_ns)):
            raise InvalidInput(f"{root.signed.version}.root.json has expired")
        check_own_keys(trusted.repository, root.signed, own_keys)
    return root


def check_root(repository: str, root: Root, name: str) -> None:
    """What a root must have besides signatures (R1). Raises ``InvalidInput``."""
    if not root.consistent_snapshot:
        raise InvalidInput(f"{name} has no consistent_snapshot")
    keys = [(key.keytype, key.scheme, str(key.keyval)) for key in root.keys.values()]
    if len(set(keys)) != len(keys):
        raise InvalidInput(f"{name} has one key under two ids")
    for role, facts in root.roles.items():
        if facts.threshold > len(facts.keyids) or any(keyid not in root.keys for keyid in facts.keyids):
            raise InvalidInput(f"{name}: the role {role} cannot reach its threshold")
    offline = {"root"} if repository == DIRECTOR else {"root", "targets"}
    online = set(root.roles) - offline
    shared = {k for role in offline for k in root.roles[role].keyids} & {
        k for role in online for k in root.roles[role].keyids
    }
    if shared:
        raise InvalidInput(f"{name}: an offline role shares a key with an online one")
    if repository == DIRECTOR:
        time_keys(root, name)


def time_keys(root: Root, name: str = "root.json") -> tuple[list[str], int]:
    """Key ids and threshold of the time key. ``InvalidInput`` when the Director's root does not say."""
    told = root.unrecognized_fields.get(ROOT_TIME_FIELD)
    keyids = told.get("keyids") if isinstance(told, dict) else None
    threshold = told.get("threshold") if isinstance(told, dict) else None
    if (
        not isinstance(keyids, list)
        or type(threshold) is not int
        or not all(isinstance(k, str) and k in root.keys for k in keyids)
        or not 1 <= threshold <= len(set(keyids))
    ):
        raise InvalidInput(f"{name} names no sound time key in {ROOT_TIME_FIELD!r}")
    return keyids, threshold


def check_own_keys(repository: str, root: Root, own_keys: frozenset[str]) -> None:
    """The cloud must be able to sign what it makes. Raises ``InvalidInput``."""
    wanted = {role: (list(root.roles[role].keyids), root.roles[role].threshold) for role in ("snapshot", "timestamp")}
    if repository == DIRECTOR:
        wanted["targets"] = (list(root.roles["targets"].keyids), root.roles["targets"].threshold)
        wanted["time"] = time_keys(root)
    for role, (keyids, threshold) in wanted.items():
        if len(own_keys & set(keyids)) < threshold:
            raise InvalidInput(f"this cloud has not the keys that the {repository} root asks for {role}")


def _take_roles(
    trusted: TrustedFiles,
    root: Root,
    parsed: Mapping[tuple[str, int], bytes],
    added: dict[tuple[str, int], bytes],
    now_ns: int,
) -> tuple[dict[str, Metadata[Targets]], list[str]]:
    """The newest of each role, each checked against those who delegate to it."""
    roles: dict[str, Metadata[Targets]] = dict(trusted.roles)
    fresh: set[str] = set()
    for role, version in sorted(parsed, key=lambda pair: pair[1]):
        if role == "root":
            continue
        content, name = parsed[role, version], f"{version}.{role}.json"
        new = read(content, Targets, name, MAX_IMAGE_TARGETS_BYTES)
        if new.signed.version != version:
            raise InvalidInput(f"{name} says that it is version {new.signed.version}")
        have = roles.get(role)
        if have is not None and version <= have.signed.version:
            if version == have.signed.version and new.to_dict() != have.to_dict():
                raise Conflict(f"{name}: another file of that version is in force; raise the version")
            continue
        if have is not None and version != have.signed.version + 1:
            raise Conflict(f"{name} does not follow version {have.signed.version}")
        roles[role] = new
        fresh.add(role)
        added[role, version] = content
    if len(roles) > MAX_ROLES:
        raise InvalidInput(f"more than {MAX_ROLES} roles")
    return roles, _check_roles(root, roles, fresh, now_ns)


def _check_roles(root: Root, roles: Mapping[str, Metadata[Targets]], fresh: set[str], now_ns: int) -> list[str]:
    warnings: list[str] = []
    top = roles.get("targets")
    if top is None:
        if fresh:
            raise Conflict("there is no top-level targets metadata yet, so nobody can be delegated to")
        return ["there is no targets.json yet"]
    verify(root, "targets", top, f"{top.signed.version}.targets.json")
    delegators = _delegators(roles)
    for role, content in roles.items():
        name = f"{content.signed.version}.{role}.json"
        if role in fresh and content.signed.is_expired(moment(now_ns)):
            raise InvalidInput(f"{name} has expired")
        check_delegations(content.signed, name)
        if role == "targets":
            continue
        good = any(is_signed(delegator, role, content) for delegator in delegators.get(role, ()))
        if not good and role in fresh:
            if role not in delegators:
                raise InvalidInput(f"{name}: nobody delegates to {role!r}")
            verify(delegators[role][0], role, content, name)
        elif not good:
            warnings.append(f"{name} is no longer signed as its delegation asks; its targets are not offered")
    assert top.signed is not None
    if not _has_role(top.signed, DELTAS_ROLE):
        warnings.append(f"targets.json delegates to no role {DELTAS_ROLE!r}: no deltas will be offered")
    return warnings


def check_delegations(targets: Targets, name: str) -> None:
    """What a list of delegations must be (R10). Raises ``InvalidInput``."""
    delegations = targets.delegations
    if delegations is None:
        return
    if delegations.roles is None:
        raise InvalidInput(f"{name}: hash-bin delegations are not taken")
    for role_name, role in delegations.roles.items():
        check_role_name(role_name)
        if role.paths is None:
            raise InvalidInput(f"{name}: the delegation to {role_name} has no paths")
        if role.threshold > len(role.keyids) or any(keyid not in delegations.keys for keyid in role.keyids):
            raise InvalidInput(f"{name}: the role {role_name} cannot reach its threshold")
        hardware = role.unrecognized_fields.get(DELEGATION_HARDWARE_FIELD)
        if hardware is not None and not (isinstance(hardware, list) and all(isinstance(h, str) for h in hardware)):
            raise InvalidInput(f"{name}: the hardware ids of the delegation to {role_name} are no list of texts")


def _has_role(targets: Targets, role: str) -> bool:
    return bool(targets.delegations and targets.delegations.roles and role in targets.delegations.roles)


def _delegators(roles: Mapping[str, Metadata[Targets]]) -> dict[str, list[Targets]]:
    found: dict[str, list[Targets]] = {}
    for content in roles.values():
        if content.signed.delegations and content.signed.delegations.roles:
            for name in content.signed.delegations.roles:
                found.setdefault(name, []).append(content.signed)
    return found


def allows(role: DelegatedRole, name: str, hardware_ids: Sequence[str]) -> bool:
    """Whether a delegation covers an image: its path, and every one of its hardware ids."""
    limited = role.unrecognized_fields.get(DELEGATION_HARDWARE_FIELD)
    return role.is_delegated_path(name) and (limited is None or set(hardware_ids) <= set(limited))


def speakers(
    files: TrustedFiles, name: str, hardware_ids: Sequence[str], known: dict[tuple[str, str], bool] | None = None
) -> Iterator[tuple[str, TargetFile]]:
    """All (role, entry) that speak for an image along valid delegations, the one that counts first (I2).

    ``known`` remembers which delegations were checked, over many names.
    """
    good = {} if known is None else known

    def is_good(delegator: str, role: str) -> bool:
        if (delegator, role) not in good:
            good[delegator, role] = is_signed(files.roles[delegator].signed, role, files.roles[role])
        return good[delegator, role]

    def walk(role: str, depth: int, seen: set[str]) -> Iterator[tuple[str, TargetFile] | None]:
        content = files.roles.get(role)
        if content is None or depth > MAX_DEPTH or role in seen:
            return
        seen.add(role)
        if name in content.signed.targets:
            yield role, content.signed.targets[name]
        delegations = content.signed.delegations
        for child in (delegations.roles or {}).values() if delegations else ():
            if not allows(child, name, hardware_ids):
                continue
            if child.name in files.roles and is_good(role, child.name):
                for found in walk(child.name, depth + 1, seen):
                    yield found
                    if found is None:
                        return
            if child.terminating:
                yield None
                return

    for found in walk("targets", 0, set()):
        if found is None:
            return
        yield found


def _check_targets(files: TrustedFiles, lookup: Lookup, fresh: set[str]) -> dict[str, str]:
    """Each entry of a new file is a stored image and authorised; for each name in force, the role that counts."""
    signers: dict[str, str] = {}
    known: dict[tuple[str, str], bool] = {}
    for role, content in files.roles.items():
        for name, entry in content.signed.targets.items():
            custom = _custom(entry, f"{content.signed.version}.{role}.json")
            speaking = [speaker for speaker, _ in speakers(files, name, custom.must_match.hardware_ids, known)]
            if role in fresh:
                _check_entry(entry, custom, lookup(check_target_name(name, where=f"{role}: {name!r}"[:200])))
                if role not in speaking:
                    raise InvalidInput(f"{role} may not speak for {name!r}: no chain of delegations leads to it")
            if speaking:
                signers[name] = speaking[0]
    return signers


def _custom(entry: TargetFile, name: str) -> ImageCustom:
    try:
        return msgspec.convert(entry.custom, ImageCustom)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"{name}: the custom fields of {entry.path!r}: {error}") from error


def _check_entry(entry: TargetFile, custom: ImageCustom, stored: ImageFacts | None) -> None:
    if stored is None:
        raise InvalidInput(f"{entry.path!r} is not stored here; upload it first")
    if entry.length != stored.length or entry.hashes != {"sha256": stored.sha256, "sha512": stored.sha512}:
        raise InvalidInput(f"{entry.path!r}: length and hashes are not those of the stored file")
    if custom.must_match != stored.must_match:
        raise InvalidInput(f"{entry.path!r}: hardware ids, release counter, kind or version are not those stored")


def describe(metadata: Metadata[Any]) -> dict[str, Any]:
    """A role's facts for people."""
    return {"version": metadata.signed.version, "expires": metadata.signed.expires.isoformat()}

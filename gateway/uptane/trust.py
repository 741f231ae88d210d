"""One repository's metadata, verified in the order of the standard: everything in here is trusted at all times.

python-tuf's ``TrustedMetadataSet`` checks signatures, thresholds, versions, hashes and expiry, and keeps the order.
Around it are the checks it does not make: against the floor, against a second content of the same version, the hash
that a Timestamp owes (R12), sizes, and that a threshold is met by different keys and not by one key under several
names.

``TrustedMetadataSet`` is not part of python-tuf's public interface. It is used in this file only, and
``tests/gateway/uptane/test_hostile.py`` fails when its shape changes.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from tuf.api.exceptions import BadVersionNumberError, EqualVersionNumberError, ExpiredMetadataError
from tuf.api.metadata import Metadata, MetaFile, Root, Signed, Snapshot, TargetFile, Targets, Timestamp
from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
from tuf.ngclient.config import EnvelopeType

from gateway.errors import ConfigError, TransportError
from gateway.update.model import AttackError
from gateway.uptane.floor import MAX_VERSION, Mark, RepositoryMarks
from gateway.uptane.names import by_normal_name
from gateway.uptane.refusal import TUF_ERRORS, Rules, refusal, rules_of
from gateway.uptane.signers import digest_of, good_signers, is_outdated
from gateway.uptane.steps import Steps, fetch
from gateway.uptane.store import MetadataStore
from gateway.wire.uptane import (
    MAX_DIRECTOR_TARGETS_BYTES,
    MAX_IMAGE_TARGETS_BYTES,
    MAX_ROOT_BYTES,
    MAX_SNAPSHOT_BYTES,
    MAX_TIMESTAMP_BYTES,
)

#: New roots taken in one refresh; the next one goes on from there.
MAX_ROOTS = 256


class TrustedRepository:
    """The Director or the Image repository as far as it has been verified.

    Call ``load_roots``, ``set_time``, ``load_timestamp``, ``load_snapshot``, ``load_targets`` in this order, then
    ``flush``, also when one of them failed. All raise ``AttackError`` for what is refused; what was trusted stays so.
    """

    def __init__(self, name: str, bootstrap: bytes, store: MetadataStore, marks: RepositoryMarks) -> None:
        """``name``: "director" or "image". Raises ``ConfigError``: ``bootstrap`` is no Root that signs itself."""
        self.name = name
        self._store, self._marks = store, marks
        self._kept: dict[str, bytes] = {}  # verified in this run, not yet on disk
        self._kept_roots: dict[int, bytes] = {}
        self._raw: dict[str, bytes] = {}  # delegated roles, by name
        self._digests: dict[str, str] = {}
        self._names: dict[str, dict[str, str]] = {}
        try:
            self._set = TrustedMetadataSet(bootstrap, EnvelopeType.METADATA)
            self._check_signed("root", bootstrap, self._set.root)
        except (*TUF_ERRORS, AttackError) as error:
            raise ConfigError(f"the root of the {name} repository in the image is none: {error}") from error

    # What is trusted.

    @property
    def root(self) -> Root:
        """Root."""
        return self._set.root

    @property
    def snapshot(self) -> Snapshot:
        """Snapshot."""
        return self._set.snapshot

    @property
    def targets(self) -> Targets:
        """Top-level Targets."""
        return self._set.targets

    def digest(self, role: str) -> str:
        """SHA-256 of the signed part of a role that was loaded."""
        return self._digests[role]

    # Root.

    def load_roots(self) -> Steps[None]:
        """CR1 to CR3: one Root after the other, each signed by the one before and by itself."""
        self._meet_root_mark()
        while True:
            version = self.root.version + 1
            if self._load_stored_root(version):
                continue
            if len(self._kept_roots) >= MAX_ROOTS:
                raise AttackError("endless data", "CR1", f"{self.name}: more than {MAX_ROOTS} new roots at once")
            data = yield from self._fetch(f"{version}.root.json", MAX_ROOT_BYTES, rules_of("root"))
            if data is None:
                break
            self._update_root(data)
            self._kept_roots[version] = data
        mark = self._marks.marks.get("root")
        if mark is not None and self.root.version < mark.version:
            text = f"{self.name}: root {mark.version} was trusted, but only {self.root.version} can be had"
            raise AttackError("rollback", "CR3", text)

    def _load_stored_root(self, version: int) -> bool:
        data = self._store.read_root(version)
        if data is None:
            return False
        try:
            self._update_root(data)
        except AttackError:
            if self.root.version >= version:
                raise
            return False
        return True

    def _update_root(self, data: bytes) -> None:
        what = f"{self.name}: root {self.root.version + 1}"
        before = self.root
        mark = self._marks.marks.get("root")
        try:
            root = Metadata[Root].from_bytes(data)
            if mark is not None and root.signed.version == mark.version and digest_of(root) != mark.digest:
                raise AttackError("rollback", "CR3", f"{what} is not the one that was trusted before")
            if len(good_signers(before, "root", root)) < before.roles["root"].threshold:
                raise AttackError("arbitrary software", "CR2", f"{what} is not signed by the keys of the one before")
            self._set.update_root(data)
        except TUF_ERRORS as error:
            raise refusal(error, what, rules_of("root")) from error
        self._check_signed("root", data, self.root)
        self._meet_root_mark()

    def _meet_root_mark(self) -> None:
        """Raise the mark of Root; until the marked version is reached, nothing is written."""
        mark = self._marks.marks.get("root")
        version, digest = self.root.version, self._digests["root"]
        if mark is None or version > mark.version:
            self._marks.marks["root"] = Mark(version=version, digest=digest)
        elif version == mark.version and digest != mark.digest:
            text = f"{self.name}: root {version} is not the one that was trusted before"
            raise AttackError("rollback", "CR3", text)

    # Time, and what goes with new keys.

    def set_time(self, now_ns: int) -> None:
        """CR4: the final Root has not expired. CR5: marks of keys that are no longer in use are forgotten.

        Args:
            now_ns: secure time, for every expiry from here on.
        """
        self._set.reference_time = datetime.fromtimestamp(min(now_ns // 1_000_000_000, 253_402_300_799), UTC)
        if self.root.is_expired(self._set.reference_time):
            raise AttackError("freeze", "CR4", f"{self.name}: root {self.root.version} has expired")
        if any(self._is_mark_outdated(role, self.root) for role in ("timestamp", "snapshot")):
            for role in ("timestamp", "snapshot"):
                self._marks.marks.pop(role, None)
                self._store.remove(role)
            self._marks.listed = {}

    def _is_mark_outdated(self, role: str, delegator: Root | Targets, mark_name: str = "") -> bool:
        mark = self._marks.marks.get(mark_name or role)
        return mark is not None and is_outdated(mark.signers, delegator, delegator.get_delegated_role(role))

    # Timestamp.

    def load_timestamp(self) -> Steps[None]:
        """CT1 to CT4, and R12: the hash of the Snapshot is there."""
        rules, what = rules_of("timestamp"), f"{self.name}: timestamp"
        stored = self._store.read("timestamp")
        if stored is not None:
            try:
                self._set.update_timestamp(stored)
            except TUF_ERRORS:
                stored = stored if Timestamp.type in self._set else None
        data = yield from self._fetch("timestamp.json", MAX_TIMESTAMP_BYTES, rules)
        if data is None:
            raise TransportError(f"the {self.name} repository has no timestamp")
        try:
            self._set.update_timestamp(data)
        except EqualVersionNumberError as error:
            assert stored is not None
            if digest_of(Metadata[Timestamp].from_bytes(data)) != digest_of(Metadata[Timestamp].from_bytes(stored)):
                text = f"{what} {self._set.timestamp.version} is not the one seen before"
                raise AttackError("rollback", "CT3", text) from error
            data = stored
        except BadVersionNumberError as error:
            raise self._timestamp_rollback(data, error) from error
        except TUF_ERRORS as error:
            raise refusal(error, what, rules) from error
        signers = self._check_signed("timestamp", data, self.root)
        self._check_mark("timestamp", self._set.timestamp, rules)
        if self._set.timestamp.is_expired(self._set.reference_time):
            raise AttackError("freeze", "CT4", f"{what} has expired")
        self._check_meta(self._set.timestamp.snapshot_meta, what, MAX_SNAPSHOT_BYTES, "CS1")
        if "sha256" not in (self._set.timestamp.snapshot_meta.hashes or {}):
            raise AttackError("mix-and-match", "R12", f"{what} has no SHA-256 of the snapshot")
        self._keep("timestamp", data, self._set.timestamp, signers)

    def _timestamp_rollback(self, data: bytes, error: Exception) -> AttackError:
        new = Metadata[Timestamp].from_bytes(data).signed
        rule = "CT3" if new.version < self._set.timestamp.version else "CS4"
        return AttackError("rollback", rule, f"{self.name}: timestamp: {error}")

    # Snapshot.

    def load_snapshot(self) -> Steps[bool]:
        """CS1 to CS7. Whether it is another one than was trusted before (F4, F9)."""
        meta = self._set.timestamp.snapshot_meta
        stored = self._store.read("snapshot")
        if stored is not None and self._is_final_snapshot(stored, meta):
            signers = self._check_signed("snapshot", stored, self.root)
            self._check_snapshot_marks()
            self._keep("snapshot", stored, self._set.snapshot, signers, is_new=False)
            return False
        name = f"{meta.version}.snapshot.json"
        data = yield from self._fetch(name, meta.length or MAX_SNAPSHOT_BYTES, rules_of("snapshot"))
        if data is None:
            raise AttackError("drop request", "CS2", f"{self.name}: {name} is named by the timestamp but cannot be had")
        try:
            self._set.update_snapshot(data)
        except TUF_ERRORS as error:
            raise self._snapshot_refusal(data, meta, error) from error
        signers = self._check_signed("snapshot", data, self.root)
        self._check_snapshot_marks()
        is_new = self._is_above_mark("snapshot")
        self._keep("snapshot", data, self._set.snapshot, signers)
        self._marks.listed = {name: meta.version for name, meta in self._set.snapshot.meta.items()}
        return is_new

    def _is_final_snapshot(self, stored: bytes, meta: MetaFile) -> bool:
        """Load the stored one, if only as the base of comparison; whether it is the one that is wanted."""
        try:
            self._set.update_snapshot(stored, trusted=True)
            meta.verify_length_and_hashes(stored)
        except TUF_ERRORS:
            return False
        return True

    def _snapshot_refusal(self, data: bytes, meta: MetaFile, error: Exception) -> AttackError:
        what = f"{self.name}: snapshot"
        try:
            new = Metadata[Snapshot].from_bytes(data).signed
        except TUF_ERRORS:
            return refusal(error, what, rules_of("snapshot"))
        if isinstance(error, BadVersionNumberError):
            if new.version != meta.version:
                return AttackError(
                    "mix-and-match", "CS2", f"{what} is {new.version}, the timestamp names {meta.version}"
                )
            return AttackError("rollback", "CS5", f"{what} {new.version}: {error}")
        if "is missing info" in str(error):
            return AttackError("mix-and-match", "CS6", f"{what} {new.version}: {error}")
        return refusal(error, what, rules_of("snapshot"))

    def _check_snapshot_marks(self) -> None:
        """CS4 to CS6 against the floor: python-tuf compares with the stored file only, which may be lost."""
        self._check_mark("snapshot", self._set.snapshot, rules_of("snapshot"))
        listed = self._set.snapshot.meta
        for name, meta in listed.items():
            self._check_meta(meta, f"{self.name}: {name} in the snapshot", self._max_targets_bytes, "CG1")
        for name, version in self._marks.listed.items():
            if name not in listed:
                raise AttackError("mix-and-match", "CS6", f"{self.name}: the snapshot has dropped {name}")
            if listed[name].version < version:
                text = f"{self.name}: the snapshot has {name} {listed[name].version}, {version} was trusted"
                raise AttackError("rollback", "CS5", text)

    # Targets.

    @property
    def _max_targets_bytes(self) -> int:
        return MAX_DIRECTOR_TARGETS_BYTES if self.name == "director" else MAX_IMAGE_TARGETS_BYTES

    def load_targets(self) -> Steps[Targets]:
        """CG1 to CG5 for the top-level role."""
        return (yield from self.load_role("targets", "root"))

    def load_role(self, role: str, delegator: str) -> Steps[Targets]:
        """CG1 to CG5 for a role, with the keys that this delegator gives it.

        A role that was loaded for another delegator is verified again for this one.
        """
        if self._set.contains(role, delegator):
            return self._targets_of(role)
        what, rules = f"{self.name}: {role}", rules_of(role)
        meta = self.snapshot.meta.get(f"{role}.json")
        if meta is None:
            raise AttackError("mix-and-match", "CG2", f"{what} is not in the snapshot")
        stored = self._raw.get(role) or self._store.read(role)
        if stored is not None:
            try:
                return self._accept_role(role, delegator, stored)
            except AttackError:
                if role in self._raw:
                    raise
        name = f"{meta.version}.{quote(role, '')}.json"
        data = yield from self._fetch(name, meta.length or self._max_targets_bytes, rules)
        if data is None:
            raise AttackError("drop request", "CG2", f"{what}: {name} is in the snapshot but cannot be had")
        return self._accept_role(role, delegator, data)

    def target(self, role: str, path: str) -> TargetFile | None:
        """What a role that was loaded lists under a name in normal form.

        Raises:
            ValueError: a name is there twice, written in two ways.
        """
        targets = self._targets_of(role).targets
        if role not in self._names:
            self._names[role] = by_normal_name(targets)
        written = self._names[role].get(path)
        return None if written is None else targets[written]

    def _accept_role(self, role: str, delegator: str, data: bytes) -> Targets:
        rules, parent = rules_of(role), self._delegator(delegator)
        mark_name = role if delegator == "root" else f"{delegator} > {role}"
        try:
            if self._is_mark_outdated(role, parent, mark_name):
                del self._marks.marks[mark_name]
            targets = self._set.update_delegated_targets(data, role, delegator)
        except ExpiredMetadataError as error:
            raise refusal(error, f"{self.name}: {role}", rules) from error
        except BadVersionNumberError as error:
            raise AttackError("mix-and-match", rules.match, f"{self.name}: {error}") from error
        except TUF_ERRORS as error:
            raise refusal(error, f"{self.name}: {role}", rules) from error
        signers = self._check_signed(role, data, parent)
        self._check_mark(mark_name, targets, rules, self._digests[role])
        self._raw[role] = data
        self._keep(role, data, targets, signers, mark_name=mark_name)
        return targets

    def _delegator(self, name: str) -> Root | Targets:
        return self.root if name == "root" else self._targets_of(name)

    def _targets_of(self, role: str) -> Targets:
        made = self._set[role]
        assert isinstance(made, Targets)
        return made

    def load_marks(self) -> None:
        """Raise the marks to what the stored files prove, expired or not, after a floor was lost.

        Delegated roles are held by the versions that the Snapshot lists.

        Raises:
            AttackError: a file does not verify; what came before it counts.
        """
        self._set.reference_time = datetime.fromtimestamp(0, UTC)
        for role in ("timestamp", "snapshot", "targets"):
            data = self._store.read(role)
            if data is None:
                return
            try:
                if role == "timestamp":
                    self._set.update_timestamp(data)
                elif role == "snapshot":
                    self._set.update_snapshot(data)
                else:
                    self._set.update_targets(data)
            except TUF_ERRORS as error:
                raise refusal(error, f"{self.name}: stored {role}", rules_of(role)) from error
            signers = self._check_signed(role, data, self.root)
            self._keep(role, data, self._set[role], signers, is_new=False)
            if role == "snapshot":
                self._marks.listed = {name: meta.version for name, meta in self._set.snapshot.meta.items()}

    # Common.

    def _fetch(self, name: str, max_bytes: int, rules: Rules) -> Steps[bytes | None]:
        data = yield from fetch(self.name, name, max_bytes)
        if data is not None and len(data) > max_bytes:
            raise AttackError("endless data", rules.size, f"{self.name}: {name} is longer than {max_bytes} bytes")
        return data

    def _check_meta(self, meta: MetaFile, what: str, max_bytes: int, rule: str) -> None:
        """Numbers that python-tuf takes as they come."""
        for number in (meta.version, meta.length or 0):
            if not isinstance(number, int) or isinstance(number, bool) or number > MAX_VERSION:
                raise AttackError("arbitrary software", rule, f"{what}: {number!r} is no number of its kind")
        if (meta.length or 0) > max_bytes:
            text = f"{what}: {meta.length} bytes, at most {max_bytes} are taken"
            raise AttackError("endless data", rule, text)

    def _check_signed(self, role: str, data: bytes, delegator: Root | Targets) -> tuple[str, ...]:
        """The threshold by different keys, and a version that is a number. Gives the keys; notes the digest."""
        metadata: Metadata[Any] = Metadata.from_bytes(data)
        rules = rules_of(role)
        signers = good_signers(delegator, role, metadata)
        threshold = delegator.get_delegated_role(role).threshold
        if len(signers) < threshold:
            text = f"{self.name}: {role} is signed by {len(signers)} different keys, {threshold} are needed"
            raise AttackError("arbitrary software", rules.signature, text)
        version: object = metadata.signed.version
        if not isinstance(version, int) or isinstance(version, bool) or version > MAX_VERSION:
            raise AttackError("arbitrary software", rules.version, f"{self.name}: {role}: version {str(version)[:30]}")
        self._digests[role] = digest_of(metadata)
        return tuple(sorted(signers))

    def _check_mark(self, name: str, signed: Signed, rules: Rules, digest: str = "") -> None:
        mark = self._marks.marks.get(name)
        if mark is None:
            return
        if signed.version < mark.version:
            text = f"{self.name}: {name} {signed.version} is older than {mark.version}, which was trusted"
            raise AttackError("rollback", rules.version, text)
        if signed.version == mark.version and (digest or self._digests[name]) != mark.digest:
            text = f"{self.name}: {name} {signed.version} is not the one that was trusted before"
            raise AttackError("rollback", rules.version, text)

    def _is_above_mark(self, name: str) -> bool:
        mark = self._marks.marks.get(name)
        return mark is None or self._set.snapshot.version > mark.version

    def _keep(
        self,
        role: str,
        data: bytes,
        signed: Signed,
        signers: tuple[str, ...],
        *,
        mark_name: str = "",
        is_new: bool = True,
    ) -> None:
        """Trusted from here on: raise the mark, and have the file written by ``flush``."""
        mark = Mark(version=signed.version, digest=self._digests[role], signers=signers)
        self._marks.marks[mark_name or role] = mark
        if is_new:
            self._kept[role] = data

    def flush(self) -> None:
        """Write what was verified; the floor must have been saved before. Raises ``TransportError`` (the disk)."""
        mark = self._marks.marks.get("root")
        if mark is None or self.root.version >= mark.version:
            for version, data in sorted(self._kept_roots.items()):
                self._store.write_root(version, data)
            self._kept_roots.clear()
        for role, data in self._kept.items():
            if self._store.read(role) != data:
                self._store.write(role, data)
        self._kept.clear()
        if Snapshot.type in self._set:
            self._store.keep_only({name.removesuffix(".json") for name in self.snapshot.meta})

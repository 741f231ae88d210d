"""Both repositories in memory, and everything an attacker may do to them: the toolkit of the update tests.

``Repository`` is changed as a publisher would (``add_image``, ``delegate``, ``rotate``, then ``publish``); what is
published lies as bytes in ``files``, where an attacker changes it (``files.pop``, ``files[name] = …``, ``checkpoint``,
``restore``); ``sign`` makes bytes with any subset of keys. ``Cloud`` joins an Image repository, a Director for one
vehicle and the images; its ``fetcher()`` is the vehicle's view, with faults.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import msgspec
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    TOP_LEVEL_ROLE_NAMES,
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Role,
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from gateway.errors import TransportError
from gateway.update.model import AttackError
from gateway.wire import uptane as wire
from gateway.wire.uptane import (
    DELEGATION_HARDWARE_FIELD,
    MULTI_ROLE_FIELD,
    ROOT_TIME_FIELD,
    TARGETS_FIELD,
    TIME_DOMAIN,
    DirectorCustom,
    DirectorInstructions,
    FileFacts,
    ImageCustom,
    MustMatch,
)

SECOND_NS = 1_000_000_000
DAY_NS = 86_400 * SECOND_NS
YEAR_2027_NS = 1_798_761_600 * SECOND_NS

#: What a target is published with when a test does not care.
COUNTER, HARDWARE = 1, "gateway-1"


class ManualClock:
    """A clock that stands until it is moved; ``utc_now_ns`` may be set to anything, as a broken one would be."""

    def __init__(self, utc_now_ns: int = YEAR_2027_NS, monotonic_now_ns: int = 1_000 * SECOND_NS) -> None:
        self.utc_now_ns, self.monotonic_now_ns = utc_now_ns, monotonic_now_ns

    def utc_ns(self) -> int:
        """See ``gateway.runtime.clock.Clock``."""
        return self.utc_now_ns

    def monotonic_ns(self) -> int:
        """See ``gateway.runtime.clock.Clock``."""
        return self.monotonic_now_ns

    def advance(self, *, days: float = 0, seconds: float = 0) -> None:
        """Let time pass, on both."""
        step_ns = int(days * DAY_NS) + int(seconds * SECOND_NS)
        self.utc_now_ns += step_ns
        self.monotonic_now_ns += step_ns


def utc(time_ns: int) -> datetime:
    """As TUF metadata has it, in whole seconds."""
    return datetime.fromtimestamp(time_ns // SECOND_NS, UTC)


def new_key() -> CryptoSigner:
    """An Ed25519 key."""
    return CryptoSigner.generate_ed25519()


@dataclass(frozen=True)
class Image:
    """A file and what is signed about it."""

    filename: str
    content: bytes
    must_match: MustMatch
    algorithms: tuple[str, ...] = ("sha256", "sha512")

    @property
    def facts(self) -> FileFacts:
        """Name, length and hashes."""
        hashes = {name: hashlib.new(name, self.content).hexdigest() for name in self.algorithms}
        return FileFacts(filename=self.filename, length=len(self.content), hashes=hashes)

    @property
    def sha256(self) -> str:
        """Its hash, also when it is not among those published."""
        return hashlib.sha256(self.content).hexdigest()

    def target(self, custom: object) -> TargetFile:
        """The entry for a Targets file."""
        facts = self.facts
        return TargetFile(facts.length, dict(facts.hashes), facts.filename, {"custom": msgspec.to_builtins(custom)})


def image(
    filename: str = "images/gateway-2.0.erofs",
    content: bytes | None = None,
    *,
    hardware: Sequence[str] = (HARDWARE,),
    counter: int = COUNTER,
    kind: str = "rootfs",
    version: str = "2.0",
    algorithms: tuple[str, ...] = ("sha256", "sha512"),
) -> Image:
    """An image; its content follows from its name unless it is given."""
    must_match = MustMatch(hardware_ids=tuple(hardware), release_counter=counter, kind=kind, version=version)
    return Image(filename, f"content of {filename}".encode() if content is None else content, must_match, algorithms)


def delta(
    filename: str = "deltas/1.0-2.0.delta", content: bytes = b"a delta", *, counter: int = COUNTER, **more: Any
) -> Image:
    """A delta as a target of its own."""
    return image(filename, content, counter=counter, kind="delta", **more)


class Repository:
    """A TUF repository whose every part may be honest or not. Nothing is published until ``publish``."""

    def __init__(self, clock: ManualClock, *, thresholds: Mapping[str, tuple[int, int]] | None = None) -> None:
        """``thresholds``: by role, how many keys it has and how many must sign; 1 of 1 otherwise."""
        self.clock = clock
        self.signers: dict[str, list[CryptoSigner]] = {}
        self.files: dict[str, bytes] = {}
        self.expires_days = {"root": 365.0, "targets": 90.0, "snapshot": 30.0, "timestamp": 7.0}
        self.root = Root(consistent_snapshot=True)
        self.timestamp, self.snapshot, self.targets = Timestamp(), Snapshot(), Targets()
        self.delegated: dict[str, Targets] = {}
        self._drafts: set[str] = {"targets"}
        for role in sorted(TOP_LEVEL_ROLE_NAMES):
            keys, threshold = (thresholds or {}).get(role, (1, 1))
            self.set_keys(role, [new_key() for _ in range(keys)], threshold)
        self._is_first = True
        self.publish_root(first=True)

    # Keys.

    def set_keys(self, role: str, signers: list[CryptoSigner], threshold: int = 1) -> None:
        """Give a top-level role other keys, in the root that is next published."""
        self.signers[role] = signers
        self.root.roles[role] = Role([signer.public_key.keyid for signer in signers], threshold)
        for signer in signers:
            self.root.keys[signer.public_key.keyid] = signer.public_key

    def rotate(self, *roles: str) -> None:
        """New keys for these roles, and a root that says so, signed by the old and the new root keys."""
        before = list(self.signers["root"])
        for role in roles:
            old = self.root.roles[role]
            self.set_keys(role, [new_key() for _ in old.keyids], old.threshold)
        self._drafts |= {"targets"} & set(roles)
        self.publish_root(also=before)

    def publish_root(self, also: Iterable[CryptoSigner] = (), *, first: bool = False) -> bytes:
        """Publish the next root, signed by its own keys and ``also``."""
        if not first:
            self.root.version += 1
        self.root.expires = self._expiry("root")
        data = self.sign(self.root, [*self.signers["root"], *also])
        self.files[f"{self.root.version}.root.json"] = data
        return data

    def _expiry(self, role: str) -> datetime:
        return utc(self.clock.utc_now_ns + int(self.expires_days[role] * DAY_NS))

    def sign(self, signed: Signed, signers: Iterable[CryptoSigner]) -> bytes:
        """Metadata as bytes, signed with exactly these keys (none: unsigned)."""
        metadata: Metadata[Any] = Metadata(signed)
        for signer in {signer.public_key.keyid: signer for signer in signers}.values():
            metadata.sign(signer, append=True)
        return metadata.to_bytes()

    # What a publisher does.

    def role(self, name: str) -> Targets:
        """A Targets role to be changed; it gets a new version when it is published."""
        self._drafts.add(name)
        return self.targets if name == "targets" else self.delegated[name]

    def add_target(self, target: TargetFile, role: str = "targets") -> None:
        """List a file."""
        self.role(role).targets[target.path] = target

    def add_image(self, *images: Image, role: str = "targets") -> None:
        """List images as the Image repository does."""
        for each in images:
            self.add_target(each.target(ImageCustom(must_match=each.must_match)), role)

    def delegate(
        self,
        name: str,
        paths: Sequence[str],
        *,
        parent: str = "targets",
        terminating: bool = False,
        hardware: Sequence[str] | None = None,
        signers: list[CryptoSigner] | None = None,
        threshold: int = 1,
    ) -> None:
        """Delegate ``paths`` from ``parent`` to the role ``name``, last; a new role gets a key of its own."""
        if signers is None:
            signers = self.signers.get(name) or [new_key()]
        self.signers[name] = signers
        more: dict[str, Any] = {} if hardware is None else {DELEGATION_HARDWARE_FIELD: list(hardware)}
        keyids = [signer.public_key.keyid for signer in signers]
        delegations = self._delegations(parent)
        assert delegations.roles is not None
        delegations.roles[name] = DelegatedRole(name, keyids, threshold, terminating, list(paths), None, more)
        delegations.keys.update({signer.public_key.keyid: signer.public_key for signer in signers})
        self.delegated.setdefault(name, Targets())
        self._drafts.add(name)

    def delegate_multi(
        self,
        name: str,
        roles: Sequence[str],
        paths: Sequence[str],
        *,
        threshold: int,
        parent: str = "targets",
        terminating: bool = False,
        hardware: Sequence[str] | None = None,
    ) -> None:
        """Delegate to roles that must agree (TAP-3). Those that are not there are made, without paths of their own."""
        delegations = self._delegations(parent)
        for role in roles:
            if role not in (delegations.roles or {}):
                self.delegate(role, [], parent=parent)
        entry: dict[str, Any] = {"name": name, "roles": list(roles), "threshold": threshold, "paths": list(paths)}
        entry["terminating"] = terminating
        if hardware is not None:
            entry[DELEGATION_HARDWARE_FIELD] = list(hardware)
        delegations.unrecognized_fields.setdefault(MULTI_ROLE_FIELD, []).append(entry)

    def _delegations(self, parent: str) -> Delegations:
        role = self.role(parent)
        if role.delegations is None:
            role.delegations = Delegations({}, {})
        return role.delegations

    def publish(self, *, snapshot: bool = True) -> None:
        """Publish all that changed, each with the next version, then Snapshot and Timestamp."""
        for name in sorted(self._drafts):
            self.publish_targets(name)
        self._drafts.clear()
        if snapshot:
            self.publish_snapshot()
        self.publish_timestamp()
        self._is_first = False

    def publish_targets(self, name: str = "targets", signers: Iterable[CryptoSigner] | None = None) -> bytes:
        """Sign and store one Targets role; the Snapshot will list it."""
        role = self.targets if name == "targets" else self.delegated[name]
        self._step(role, f"{name}.json" in self.snapshot.meta and not self._is_first)
        role.expires = self._expiry("targets")
        data = self.sign(role, self.signers[name] if signers is None else signers)
        self.files[metadata_name(name, role.version)] = data
        self.snapshot.meta[f"{name}.json"] = MetaFile.from_data(role.version, data, ["sha256"])
        return data

    def publish_snapshot(self, signers: Iterable[CryptoSigner] | None = None) -> bytes:
        """Sign and store the Snapshot."""
        self._step(self.snapshot, not self._is_first)
        self.snapshot.expires = self._expiry("snapshot")
        data = self.sign(self.snapshot, self.signers["snapshot"] if signers is None else signers)
        self.files[metadata_name("snapshot", self.snapshot.version)] = data
        self.timestamp.snapshot_meta = MetaFile.from_data(self.snapshot.version, data, ["sha256"])
        return data

    def publish_timestamp(self, signers: Iterable[CryptoSigner] | None = None) -> bytes:
        """Sign and store the Timestamp."""
        self._step(self.timestamp, not self._is_first)
        self.timestamp.expires = self._expiry("timestamp")
        data = self.sign(self.timestamp, self.signers["timestamp"] if signers is None else signers)
        self.files["timestamp.json"] = data
        return data

    @staticmethod
    def _step(signed: Signed, again: bool) -> None:
        if again:
            signed.version += 1

    # What an attacker does.

    def checkpoint(self) -> dict[str, bytes]:
        """All that is published now, to be replayed later."""
        return dict(self.files)

    def restore(self, files: Mapping[str, bytes], *, keep_roots: bool = False) -> None:
        """Serve what was published before: a rollback, or a freeze when nothing else was."""
        roots = {name: data for name, data in self.files.items() if name.endswith(".root.json")} if keep_roots else {}
        self.files = {**files, **roots}

    def current(self, role: str) -> str:
        """The file name of a role's present version."""
        if role == "timestamp":
            return "timestamp.json"
        tops: dict[str, Signed] = {"root": self.root, "snapshot": self.snapshot, "targets": self.targets}
        return metadata_name(role, (tops.get(role) or self.delegated[role]).version)

    def replace_everywhere(self, name: str, data: bytes) -> None:
        """Put other bytes for a Targets role and make Snapshot and Timestamp fit, as who has their keys can."""
        version = Metadata[Targets].from_bytes(data).signed.version
        self.files[metadata_name(name, version)] = data
        self.snapshot.meta[f"{name}.json"] = MetaFile.from_data(version, data, ["sha256"])
        self.publish_snapshot()
        self.publish_timestamp()


def metadata_name(role: str, version: int) -> str:
    """The file name on the wire."""
    return "timestamp.json" if role == "timestamp" else f"{version}.{quote(role, '')}.json"


class DirectorRepository(Repository):
    """The Director, for one vehicle, with a time key."""

    def __init__(
        self, clock: ManualClock, vehicle: str, *, thresholds: Mapping[str, tuple[int, int]] | None = None
    ) -> None:
        self.vehicle = vehicle
        self.time_signers: list[CryptoSigner] = []
        super().__init__(clock, thresholds=thresholds)
        self.set_time_keys([new_key()])
        self.publish_root(first=True)
        self.instruct()

    def set_time_keys(self, signers: list[CryptoSigner], threshold: int = 1) -> None:
        """Other time keys, in the root that is next published."""
        self.time_signers = signers
        for signer in signers:
            self.root.keys[signer.public_key.keyid] = signer.public_key
        self.root.unrecognized_fields[ROOT_TIME_FIELD] = {
            "keyids": [signer.public_key.keyid for signer in signers],
            "threshold": threshold,
        }

    def instruct(self, *, vehicle: str | None = None, **fields: Any) -> None:
        """Set what goes with the targets (``DirectorInstructions``)."""
        instructions = DirectorInstructions(vehicle=self.vehicle if vehicle is None else vehicle, **fields)
        self.role("targets").unrecognized_fields[TARGETS_FIELD] = msgspec.to_builtins(instructions)

    def assign(self, each: Image, *ecus: str, **fields: Any) -> None:
        """Want ``each`` on ``ecus``; ``fields`` are those of ``DirectorCustom`` (deltas, fallback, must_match …)."""
        custom = DirectorCustom(**{"must_match": each.must_match, "ecus": ecus, **fields})
        self.add_target(each.target(custom))

    def nothing(self) -> None:
        """Want nothing."""
        self.role("targets").targets.clear()
        self.instruct()

    def sign_time(
        self,
        request: wire.TimeRequest,
        *,
        time_ns: int | None = None,
        vehicle: str | None = None,
        nonce: bytes | None = None,
        signers: Sequence[CryptoSigner] | None = None,
    ) -> wire.Signed:
        """The time, attested, honestly unless told otherwise."""
        answer = wire.SignedTime(
            vehicle=self.vehicle if vehicle is None else vehicle,
            nonce=request.nonce if nonce is None else nonce,
            time_ns=self.clock.utc_now_ns if time_ns is None else time_ns,
        )
        payload = msgspec.json.encode(answer)
        return wire.Signed(
            payload=payload,
            signatures=tuple(
                wire.Signature(
                    key_id=signer.public_key.keyid,
                    method=signer.public_key.scheme,
                    value=bytes.fromhex(signer.sign(TIME_DOMAIN + payload).signature),
                    digest=hashlib.sha256(payload).digest(),
                )
                for signer in (self.time_signers if signers is None else signers)
            ),
        )


@dataclass
class MemoryFetcher:
    """The vehicle's way to a ``Cloud``: a ``Fetcher`` and a ``TimeSource`` that may fail or lie.

    ``faults`` by ("director" or "image", file name) gets the honest answer and gives another one, or raises;
    ``("*", "*")`` sees all. ``asked`` is every request in its order.
    """

    cloud: Cloud
    faults: dict[tuple[str, str], Callable[[bytes | None], bytes | None]] = field(default_factory=dict)
    time_fault: Callable[[wire.TimeRequest], wire.Signed | None] | None = None
    has_time: bool = True
    respects_limits: bool = True
    chunk_bytes: int = 4096
    asked: list[tuple[str, str]] = field(default_factory=list)
    on_request: Callable[[str, str], None] | None = None

    async def metadata(self, repository: str, name: str, max_bytes: int) -> bytes | None:
        """See ``gateway.update.ports.Fetcher``."""
        self.asked.append((repository, name))
        if self.on_request is not None:
            self.on_request(repository, name)
        source = self.cloud.director if repository == "director" else self.cloud.image
        data = source.files.get(name)
        for key in ((repository, name), ("*", "*")):
            if key in self.faults:
                data = self.faults[key](data)
        if data is not None and len(data) > max_bytes and self.respects_limits:
            raise AttackError("endless data", "CR1", f"{repository}/{name}: more than {max_bytes} bytes")
        return data

    async def target(self, file: FileFacts, offset: int) -> AsyncIterator[bytes]:
        """See ``gateway.update.ports.Fetcher``."""
        folder, slash, base = file.filename.rpartition("/")
        name = f"{folder}{slash}{file.hashes['sha256']}.{base}"
        self.asked.append(("targets", name))
        content = self.cloud.blobs.get(name)
        if ("targets", name) in self.faults:
            content = self.faults["targets", name](content)
        if content is None:
            raise TransportError(f"there is no {name}")
        if self.respects_limits:
            content = content[: file.length]
        for start in range(offset, len(content), self.chunk_bytes):
            yield content[start : start + self.chunk_bytes]

    async def attested_time(self, request: wire.TimeRequest) -> wire.Signed | None:
        """See ``gateway.update.ports.TimeSource``."""
        self.asked.append(("time", ""))
        if not self.has_time:
            return None
        return self.time_fault(request) if self.time_fault is not None else self.cloud.director.sign_time(request)


def unreachable(_: bytes | None) -> bytes | None:
    """A fault: no answer."""
    raise TransportError("the connection was lost")


class Cloud:
    """An Image repository, a Director for one vehicle, and the images themselves."""

    def __init__(
        self,
        vehicle: str = "vehicle-1",
        *,
        thresholds: Mapping[str, tuple[int, int]] | None = None,
        deltas: bool = True,
    ) -> None:
        self.clock = ManualClock()
        self.vehicle = vehicle
        self.image = Repository(self.clock, thresholds=thresholds)
        self.director = DirectorRepository(self.clock, vehicle, thresholds=thresholds)
        self.blobs: dict[str, bytes] = {}
        if deltas:
            self.image.delegate("deltas", ["deltas/*"], terminating=True)
        self.publish()
        self.image_root, self.director_root = self.image.files["1.root.json"], self.director.files["1.root.json"]

    def store(self, *images: Image) -> None:
        """Put the bytes of images where vehicles fetch them: under each of their hashes."""
        for each in images:
            folder, slash, base = each.filename.rpartition("/")
            for value in each.facts.hashes.values():
                self.blobs[f"{folder}{slash}{value}.{base}"] = each.content

    def release(self, each: Image, *ecus: str, role: str | None = None, **fields: Any) -> Image:
        """Store an image, list it in the Image repository, assign it to ``ecus`` (or nobody). Not yet published."""
        self.store(each)
        self.image.add_image(each, role=role or ("deltas" if each.must_match.kind == "delta" else "targets"))
        if ecus:
            self.director.assign(each, *ecus, **fields)
        return each

    def publish(self) -> None:
        """Publish both."""
        self.image.publish()
        self.director.publish()

    def fetcher(self, **options: Any) -> MemoryFetcher:
        """The vehicle's view."""
        return MemoryFetcher(self, **options)


def flipped(data: bytes | None) -> bytes | None:
    """A fault: one byte in the middle is another one, as often as not inside a signature or a value."""
    if not data:
        return data
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]

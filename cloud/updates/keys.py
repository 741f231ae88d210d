"""The keys the cloud signs metadata with by itself, and nothing else: they cannot bring new software to a vehicle.

A directory of Ed25519 keys, ``ROLE.N.key``; the highest N of a role is its newest. The repositories' roots, signed with
keys that are never here, say which of them count. So a key is changed in two steps: a new one is made here and its
public half exported, and a new root names it; until then the old one goes on signing.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner

from cloud.errors import ConfigError, InvalidInput, NotFound
from cloud.updates.tuf import key_dict

#: What each key is for.
ONLINE_ROLES = (
    "director-targets",
    "director-snapshot",
    "director-timestamp",
    "director-time",
    "image-snapshot",
    "image-timestamp",
    "image-deltas",
)
_FILE = re.compile(r"([a-z-]+)\.([1-9][0-9]{0,5})\.key")


class OnlineKey(msgspec.Struct, frozen=True):
    """The public half of an online key."""

    role: str
    number: int
    key: dict[str, object]  # as TUF writes keys, with "keyid"


class OnlineKeyFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the ceremony needs of the cloud: the newest key of each online role."""

    format: str = "outrider online keys 1"
    keys: dict[str, dict[str, object]]


class OnlineKeys:
    """All online keys of one cloud."""

    def __init__(self, directory: Path) -> None:
        """Nothing is read before ``load``."""
        self._directory = directory
        self._signers: dict[str, CryptoSigner] = {}
        self._numbers: dict[tuple[str, int], str] = {}

    def ensure(self) -> list[str]:
        """Make the first key of each role that has none, then ``load``.

        Returns:
            Names of the files made.

        Raises:
            ConfigError: not readable, not writable, damaged.
        """
        made = []
        try:
            for role in ONLINE_ROLES:
                if not any(self._directory.glob(f"{role}.*.key")):
                    made.append(self._make(role, 1))
        except OSError as error:
            raise ConfigError(f"{error.filename or self._directory}: {error.strerror}") from error
        self.load()
        return made

    def load(self) -> None:
        """Read the directory; one that is not there has no keys. Raises ``ConfigError``: a file is damaged."""
        self._signers, self._numbers = {}, {}
        for path in sorted(self._directory.glob("*.key")):
            found = _FILE.fullmatch(path.name)
            if not found or found[1] not in ONLINE_ROLES:
                continue
            try:
                key = load_pem_private_key(path.read_bytes(), password=None)
            except OSError as error:
                raise ConfigError(f"{path}: {error.strerror}") from error
            except (ValueError, TypeError) as error:
                raise ConfigError(f"{path}: {error}") from error
            if not isinstance(key, Ed25519PrivateKey):
                raise ConfigError(f"{path}: not an Ed25519 key")
            signer = CryptoSigner(key)
            self._signers[signer.public_key.keyid] = signer
            self._numbers[found[1], int(found[2])] = signer.public_key.keyid

    def add(self, role: str) -> OnlineKey:
        """Make one more key of a role; it signs once a root names it.

        Raises:
            NotFound: no such role.
            InvalidInput: the file cannot be written.
        """
        if role not in ONLINE_ROLES:
            raise NotFound(f"there is no online role {role!r} ({', '.join(ONLINE_ROLES)})")
        try:
            self._make(role, 1 + max((n for r, n in self._numbers if r == role), default=0))
        except OSError as error:
            raise InvalidInput(f"{error.filename}: {error.strerror}") from error
        self.load()
        return next(key for key in reversed(self.public()) if key.role == role)

    def _make(self, role: str, number: int) -> str:
        """Of two processes that make the same key at once, one wins and the other's is gone."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        name = f"{role}.{number}.key"
        temporary = self._directory / f".{name}.{secrets.token_hex(4)}"
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(CryptoSigner.generate_ed25519().private_bytes)
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(temporary, self._directory / name)
        finally:
            temporary.unlink()
        return name

    def public(self) -> list[OnlineKey]:
        """All public halves by role, oldest first."""
        return [
            OnlineKey(role, number, key_dict(self._signers[keyid].public_key))
            for (role, number), keyid in sorted(self._numbers.items())
        ]

    def newest(self) -> OnlineKeyFile:
        """What is handed to the ceremony."""
        return OnlineKeyFile(keys={key.role: key.key for key in self.public()})

    def signers(self, keyids: Iterable[str]) -> Sequence[CryptoSigner]:
        """Those of the named keys that are here."""
        return [self._signers[keyid] for keyid in keyids if keyid in self._signers]

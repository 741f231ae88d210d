"""The ceremony's directory on the release engineer's machine, and private keys in files.

    ceremony.json        lives of roles, the cloud's online keys, whether it is for a bench only
    keys/NAME.key        private key, PEM (PKCS#8), encrypted unless it is for a bench
    keys/NAME.pub        its public half, JSON
    director/N.root.json, image/N.ROLE.json       in force, every version; what is uploaded to the cloud
    pending/REPOSITORY/N.ROLE.json                proposed, not signed by enough yet

Keys may as well be elsewhere (another directory, a stick in a safe): whoever has some runs ``sign`` with them.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner, Key
from tuf.api.metadata import Metadata, Root, Targets

from cloud.errors import Conflict, InvalidInput
from cloud.updates.ceremony import Book, Lives, RoleId
from cloud.updates.names import DELTAS_ROLE
from cloud.updates.trust import DIRECTOR, IMAGE, parse_name
from cloud.updates.tuf import key_dict, read, read_key
from gateway.wire.uptane import MAX_IMAGE_TARGETS_BYTES, MAX_ROOT_BYTES

#: Gives the passphrase of a key file; None: it has none.
Passphrase = Callable[[Path], bytes | None]
_KEY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``ceremony.json``."""

    format: str = "outrider ceremony 1"
    is_bench: bool = False
    lives: Lives = Lives()


def write_file(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Put a file in place, whole and durable."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def new_key(path: Path, passphrase: bytes | None) -> Key:
    """Make ``NAME.key`` and ``NAME.pub``; ``path`` is without suffix or with ``.key``.

    Raises:
        InvalidInput: the name cannot be one.
        Conflict: there is such a file.
    """
    path = path.with_name(path.name.removesuffix(".key"))
    if not _KEY_NAME.fullmatch(path.name):
        raise InvalidInput(f"{path.name!r} cannot name a key")
    private, public = path.with_name(f"{path.name}.key"), path.with_name(f"{path.name}.pub")
    if private.exists() or public.exists():
        raise Conflict(f"{private} exists")
    key = Ed25519PrivateKey.generate()
    encryption: serialization.KeySerializationEncryption = (
        serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    made = CryptoSigner(key).public_key
    write_file(private, pem, mode=0o600)
    write_file(public, msgspec.json.format(msgspec.json.encode(key_dict(made)), indent=2) + b"\n")
    return made


def load_signer(path: Path, passphrase: Passphrase) -> CryptoSigner:
    """A private key out of its file. ``InvalidInput``: not readable, or the passphrase is wrong."""
    try:
        content = path.read_bytes()
        secret = passphrase(path) if b"ENCRYPTED" in content else None
        key = serialization.load_pem_private_key(content, password=secret)
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise InvalidInput(f"{path}: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidInput(f"{path}: not an Ed25519 key")
    return CryptoSigner(key)


def load_public(path: Path) -> Key:
    """A public key out of its file. ``InvalidInput``: not readable, or none."""
    try:
        raw = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise InvalidInput(f"{path}: {error}") from error
    return read_key(raw, str(path))


class CeremonyDirectory:
    """One ceremony's files."""

    def __init__(self, directory: Path) -> None:
        """Reads ``ceremony.json`` where it is. ``InvalidInput``: it is damaged."""
        self.path = directory
        self.settings = Settings()
        file = directory / "ceremony.json"
        if file.exists():
            try:
                self.settings = msgspec.json.decode(file.read_bytes(), type=Settings)
            except msgspec.DecodeError as error:
                raise InvalidInput(f"{file}: {error}") from error

    @property
    def exists(self) -> bool:
        """Whether a ceremony has begun here."""
        return (self.path / "ceremony.json").exists()

    def must_exist(self) -> None:
        """``InvalidInput`` when none has begun here."""
        if not self.exists:
            raise InvalidInput(f"{self.path}: no ceremony.json; 'outrider cloud keys init' begins a ceremony")

    def save_settings(self, settings: Settings) -> None:
        """Write ``ceremony.json``."""
        self.settings = settings
        write_file(self.path / "ceremony.json", msgspec.json.format(msgspec.json.encode(settings), indent=2) + b"\n")

    def key_files(self) -> list[Path]:
        """Private keys in ``keys/``."""
        return sorted((self.path / "keys").glob("*.key"))

    def public_keys(self) -> dict[str, Key]:
        """Public keys in ``keys/`` by name."""
        return {
            path.name.removesuffix(".pub"): load_public(path) for path in sorted((self.path / "keys").glob("*.pub"))
        }

    def book(self) -> Book:
        """All metadata here. ``InvalidInput``: a file is damaged."""
        book = Book()
        for repository in (DIRECTOR, IMAGE):
            for place, into in ((self.path, book.signed), (self.path / "pending", book.pending)):
                for (role, version), content in sorted(self._files(place / repository), key=lambda item: item[0][1]):
                    into[repository, role] = parse(role, version, content)
        return book

    def files(self, repository: str) -> dict[str, bytes]:
        """Every file in force by name; what the cloud takes."""
        return {f"{version}.{role}.json": content for (role, version), content in self._files(self.path / repository)}

    def _files(self, folder: Path) -> list[tuple[tuple[str, int], bytes]]:
        return [(parse_name(path.name), path.read_bytes()) for path in sorted(folder.glob("*.json"))]

    def add(self, repository: str, files: Mapping[str, bytes]) -> list[str]:
        """Put files in force that are not here yet, as a cloud has them; offline roles only."""
        added = []
        for name, content in sorted(files.items()):
            if name == "timestamp.json" or parse_name(name)[0] in {"snapshot", DELTAS_ROLE}:
                continue
            path = self.path / repository / name
            if not path.exists():
                parse(*parse_name(name), content)
                write_file(path, content)
                added.append(name)
        return added

    def sign(self, book: Book, signers: Iterable[CryptoSigner]) -> list[RoleId]:
        """Add signatures to what is proposed, bring what is complete into force, and save.

        Returns:
            What came into force.
        """
        ready = {signer.public_key.keyid: signer for signer in signers}
        proposed = dict(book.pending)
        for (repository, role), metadata in proposed.items():
            for keyid in book.signers_of(repository, role) & ready.keys():
                metadata.sign(ready[keyid], append=True)
        done = book.settle()
        self._save(book, proposed)
        return done

    def _save(self, book: Book, proposed: Mapping[RoleId, Metadata[Any]]) -> None:
        for (repository, role), metadata in proposed.items():
            name = f"{metadata.signed.version}.{role}.json"
            is_done = (repository, role) not in book.pending
            folder = self.path / repository if is_done else self.path / "pending" / repository
            write_file(folder / name, metadata.to_bytes())
            if is_done:
                (self.path / "pending" / repository / name).unlink(missing_ok=True)


def parse(role: str, version: int, content: bytes) -> Metadata[Any]:
    """A metadata file of the directory."""
    kind: type[Root] | type[Targets] = Root if role == "root" else Targets
    limit = MAX_ROOT_BYTES if role == "root" else MAX_IMAGE_TARGETS_BYTES
    parsed: Metadata[Any] = read(content, kind, f"{version}.{role}.json", limit)
    if parsed.signed.version != version:
        raise InvalidInput(f"{version}.{role}.json says that it is version {parsed.signed.version}")
    return parsed

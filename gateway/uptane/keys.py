"""The private keys of this vehicle's ECUs, behind the ``EcuSigner`` port (P2).

Each ECU has a key of its own, made in the vehicle at the first start and never shown. What must not happen is that a
lost key is silently replaced: the cloud would then see an ECU under a new identity and could not tell a repair from an
attack. So the public halves stand in a *register* beside the keys. An ECU in the register whose key is missing, damaged
or another one is an error that a person must clear up; an ECU not in the register gets a new key.

Order on disk: the key first, then the register. A cut between the two leaves a key that the next start takes up.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bootctl.files import Files, RealFiles, replace_content
from gateway.errors import ConfigError, TransportError
from gateway.update.config import KeysSection
from gateway.update.ports import EcuSigner
from gateway.wire.signing import ED25519, SignatureError, check_key, public_of, sign
from gateway.wire.uptane import Signature

log = logging.getLogger(__name__)

REGISTER_FILE = "register.json"
KEY_SUFFIX = ".key.pem"
_ECU_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class RegisteredKey(msgspec.Struct, frozen=True, kw_only=True):
    """The public half of a key in the register."""

    key_id: str
    method: str
    public: bytes


class _Register(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The register's file."""

    keys: dict[str, RegisteredKey] = {}


class KeyRegister:
    """Which key each ECU has, durably."""

    def __init__(self, directory: Path, files: Files) -> None:
        """Read it.

        Raises:
            ConfigError: it is damaged: whose keys these are cannot be told.
            TransportError: the disk does not answer.
        """
        self.path, self._files = directory / REGISTER_FILE, files
        self.keys: dict[str, RegisteredKey] = {}
        content = read_or_none(files, self.path)
        if content is None:
            return
        try:
            self.keys = dict(msgspec.json.decode(content, type=_Register).keys)
            for key in self.keys.values():
                check_key(key)
        except (msgspec.DecodeError, UnicodeDecodeError, SignatureError) as error:
            message = f"the register of ECU keys is damaged ({error}); restore it, or register the ECUs anew"
            raise ConfigError(message, path=str(self.path)) from error

    def add(self, ecus: Mapping[str, RegisteredKey]) -> None:
        """From now on these ECUs have these keys.

        Raises:
            TransportError: not written; nothing has changed.
        """
        keys = {**self.keys, **ecus}
        if keys == self.keys:
            return
        try:
            replace_content(self._files, self.path, msgspec.json.encode(_Register(keys=keys)))
        except OSError as error:
            raise TransportError(f"{self.path}: {error.strerror or error}") from error
        self.keys = keys

    def check(self, ecu: str, found: RegisteredKey, where: str) -> None:
        """The key found is the one registered, if there is one. Raises ``ConfigError``."""
        registered = self.keys.get(ecu)
        if registered is not None and registered.key_id != found.key_id:
            message = f"ECU {ecu!r} is registered with key {registered.key_id[:16]}, this is {found.key_id[:16]}"
            raise ConfigError(message, path=where)


def read_or_none(files: Files, path: Path) -> bytes | None:
    """A file's content, None when there is no such file.

    Raises:
        TransportError: the disk does not answer: whether it is there is not known.
    """
    try:
        return files.read(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TransportError(f"{path}: {error.strerror or error}") from error


class FileSigner:
    """An Ed25519 key in memory, from its file."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        public = public_of(key)
        self._key, self.key_id, self.method, self.public = key, public.key_id, public.method, public.public

    def sign(self, domain: bytes, payload: bytes) -> Signature:
        """See ``EcuSigner``; never fails."""
        return sign(self._key, domain, payload)


def _load(content: bytes, path: Path) -> FileSigner:
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError) as error:
        message = "the ECU's private key is damaged; restore it, or register the ECU anew"
        raise ConfigError(message, path=str(path)) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"the ECU's private key is no {ED25519} key", path=str(path))
    return FileSigner(key)


def _make(files: Files, path: Path) -> FileSigner:
    key = Ed25519PrivateKey.generate()
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    try:
        replace_content(files, path, key.private_bytes(*form))
    except OSError as error:
        raise TransportError(f"{path}: {error.strerror or error}") from error
    return FileSigner(key)


def _open_files(directory: Path, ecus: Iterable[str], files: Files) -> dict[str, EcuSigner]:
    register = KeyRegister(directory, files)
    signers: dict[str, EcuSigner] = {}
    for ecu in ecus:
        path = directory / f"{ecu}{KEY_SUFFIX}"
        content = read_or_none(files, path)
        if content is None and ecu in register.keys:
            message = f"the private key of ECU {ecu!r} is gone; restore it, or register the ECU anew"
            raise ConfigError(message, path=str(path))
        signer = _make(files, path) if content is None else _load(content, path)
        if content is None:
            log.info("ecu_key_made", extra={"ecu": ecu, "key": signer.key_id[:16]})
        register.check(ecu, registered(signer), str(path))
        signers[ecu] = signer
    register.add({ecu: registered(signer) for ecu, signer in signers.items()})
    return signers


def registered(signer: EcuSigner) -> RegisteredKey:
    """What the register says of a key."""
    return RegisteredKey(key_id=signer.key_id, method=signer.method, public=signer.public)


def open_signers(
    section: KeysSection, ecus: Iterable[str], base: Path, files: Files | None = None
) -> dict[str, EcuSigner]:
    """The signers of all ECUs, their keys made first where an ECU never had one. Blocking.

    Args:
        section: ``[update.keys]``.
        ecus: identifiers of the Primary and all others.
        base: what relative paths are relative to.
        files: the disk.

    Raises:
        ConfigError: a key or the register is damaged, gone or another one; the token's settings are wrong.
        TransportError: the disk or the token does not answer.
    """
    names = list(dict.fromkeys(ecus))
    for name in names:
        if not _ECU_NAME.fullmatch(name):
            raise ConfigError(f"{name!r} is no identifier of an ECU: letters, digits, '.', '_', '-', at most 64")
    disk, directory = files or RealFiles(), base / section.directory
    if section.backend == "file":
        return _open_files(directory, names, disk)
    if section.backend == "pkcs11":
        return _open_token(section, names, base, KeyRegister(directory, disk))
    raise ConfigError(f"there is no key store {section.backend!r} (file, pkcs11)", where="$.update.keys.backend")


def _open_token(section: KeysSection, ecus: list[str], base: Path, register: KeyRegister) -> dict[str, EcuSigner]:
    try:
        from gateway.uptane.keys_pkcs11 import open_token_signers  # its library is not on every vehicle
    except ImportError as error:
        message = "tokens need python-pkcs11 (the extra 'hsm')"
        raise ConfigError(message, where="$.update.keys.backend") from error
    return open_token_signers(section, ecus, base, register)

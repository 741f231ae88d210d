"""The key to an ECU's programming session (0x27), behind a port: a file here, elsewhere an HSM or a key server."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC

from gateway.errors import ConfigError
from gateway.update.config import UpdateEcu

KEY_BYTES = (16, 24, 32)


class SeedKey(Protocol):
    """Makes the key that an ECU's seed asks for."""

    def key(self, ecu: str, level: int, seed: bytes) -> bytes:
        """The key. Blocking and short.

        Raises:
            TransportError: where it is kept does not answer.
            ConfigError: nobody gave one for this ECU.
        """


class FileSeedKey:
    """AES-CMAC (RFC 4493) of the seed with the key of the ECU's ``security_key_file``, read when it is needed."""

    def __init__(self, ecus: tuple[UpdateEcu, ...], base: Path) -> None:
        """``base``: where the file names in the configuration begin."""
        self._files = {ecu.name: base / ecu.security_key_file for ecu in ecus if ecu.security_key_file}

    def key(self, ecu: str, level: int, seed: bytes) -> bytes:
        """See ``SeedKey``."""
        mac = CMAC(AES(self.secret(ecu)))
        mac.update(seed)
        return mac.finalize()

    def secret(self, ecu: str) -> bytes:
        """The key in the file. Raises ``ConfigError``: none is named, it cannot be read, or holds no key."""
        path = self._files.get(ecu)
        if path is None:
            raise ConfigError(f"ECU {ecu} wants a key and security_key_file names none", where="$.update.ecus")
        try:
            secret = bytes.fromhex(path.read_text(encoding="ascii").strip())
        except OSError as error:
            raise ConfigError(error.strerror or str(error), path=str(path)) from error
        except ValueError:
            raise ConfigError("not hexadecimal digits", path=str(path)) from None
        if len(secret) not in KEY_BYTES:
            raise ConfigError(f"{len(secret)} bytes; an AES key has 16, 24 or 32", path=str(path))
        return secret

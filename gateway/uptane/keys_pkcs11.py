"""ECU keys in a token: EC P-256 pairs made inside it, found by label, never leaving (PKCS#11 through python-pkcs11).

What a token does to those who use it, and what is done about it:

* It may be away, or lose its sessions, at any time. Then signing fails with ``TransportError``; the next call has the
  library look again and opens a new session. Since the register tells the public halves, a vehicle starts without it.
* It locks itself after a few wrong PINs. So a PIN that was refused is not tried again until its file has another.
* Its sessions are not for several threads at once: one lock guards all calls.

The token is asked for bare ECDSA over a digest, which every token with P-256 has.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import threading
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pkcs11
import pkcs11.exceptions
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass
from pkcs11.util.ec import encode_ec_public_key, encode_named_curve_parameters

from gateway.errors import ConfigError, TransportError
from gateway.update.config import KeysSection
from gateway.update.ports import EcuSigner
from gateway.uptane.keys import KeyRegister, RegisteredKey
from gateway.wire.signing import ECDSA_P256, SignatureError, key_id_of, signature_by
from gateway.wire.uptane import Signature

log = logging.getLogger(__name__)

LABEL = "outrider ecu "
_PIN_ERRORS = (
    pkcs11.exceptions.PinIncorrect,
    pkcs11.exceptions.PinInvalid,
    pkcs11.exceptions.PinLenRange,
    pkcs11.exceptions.PinExpired,
    pkcs11.exceptions.PinLocked,
)
_ERRORS = (
    pkcs11.exceptions.PKCS11Error,
    pkcs11.exceptions.NoSuchToken,
    pkcs11.exceptions.NoSuchKey,
    pkcs11.exceptions.MultipleTokensReturned,
    pkcs11.exceptions.MultipleObjectsReturned,
    RuntimeError,
    OSError,
)
T = TypeVar("T")


class Token:
    """A token that may come and go. For all threads."""

    def __init__(self, module: str, label: str, pin_file: Path) -> None:
        self.label, self._module, self._pin_file = label, module, pin_file
        self._lock = threading.Lock()
        self._session: Any = None
        self._refused_pin = ""  # tried, and wrong
        self._is_stale = False  # what the library believes to be there may be gone

    def use(self, work: Callable[[Any], T]) -> T:
        """Do something in a session, in a new one if the present one is gone.

        Raises:
            TransportError: the token is away, locked, or does not do it.
        """
        with self._lock:
            if self._session is not None:
                try:
                    return work(self._session)
                except _ERRORS as error:
                    log.warning("token_session_lost", extra={"token": self.label, "error": _text(error)})
                    self._close()
                    self._is_stale = True
            try:
                self._session = self._open()
                return work(self._session)
            except _ERRORS as error:
                self._close()
                self._is_stale = True
                raise TransportError(f"token {self.label!r}: {_text(error)}") from error

    def close(self) -> None:
        """Log out. The next use opens it again."""
        with self._lock:
            self._close()

    def _open(self) -> Any:
        library = pkcs11.lib(self._module)
        try:
            pin = self._pin_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise TransportError(f"token {self.label!r}: the PIN cannot be read: {error}") from error
        if pin and pin == self._refused_pin:
            message = f"token {self.label!r}: it refused the PIN in {self._pin_file}, which has not changed since"
            raise TransportError(message)
        if self._is_stale:
            library.reinitialize()  # only then does every library see what came and went
            self._is_stale = False
        token = library.get_token(token_label=self.label)
        try:
            return token.open(rw=True, user_pin=pin)
        except pkcs11.exceptions.UserAlreadyLoggedIn:  # somebody else in this process: logins are the process's
            return token.open(rw=True)
        except _PIN_ERRORS:
            self._refused_pin = pin
            raise

    def _close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            try:
                session.close()
            except _ERRORS as error:
                log.debug("token_session_not_closed", extra={"error": _text(error)})


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


class TokenSigner:
    """One ECU's key in a token."""

    def __init__(self, token: Token, ecu: str, key: RegisteredKey) -> None:
        self._token, self._ecu = token, ecu
        self.key_id, self.method, self.public = key.key_id, key.method, key.public

    def close(self) -> None:
        """Log out, for all ECUs of this token. The next signature logs in again."""
        self._token.close()

    def sign(self, domain: bytes, payload: bytes) -> Signature:
        """See ``EcuSigner``."""
        return signature_by(self, self._sign, domain, payload)

    def _sign(self, data: bytes) -> bytes:
        digest = hashlib.sha256(data).digest()

        def in_token(session: Any) -> bytes:
            private = _private_key(session, self._ecu, self.key_id)
            return bytes(private.sign(digest, mechanism=Mechanism.ECDSA))

        raw = self._token.use(in_token)
        if len(raw) != 64:
            raise TransportError(f"token {self._token.label!r}: a signature of {len(raw)} bytes")
        return encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))


def _pairs(session: Any, ecu: str) -> dict[str, tuple[RegisteredKey, Any]]:
    """Whole pairs of that label by key id; halves, of an interrupted creation, do not count."""
    found = {}
    search = {Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.LABEL: LABEL + ecu}
    for public in list(session.get_objects(search)):
        private = _half(session, ecu, bytes(public[Attribute.ID]))
        try:
            der = encode_ec_public_key(public)
            key = RegisteredKey(key_id=key_id_of(ECDSA_P256, der), method=ECDSA_P256, public=der)
        except (SignatureError, ValueError):
            continue
        if private is not None:
            found[key.key_id] = key, private
    return found


def _half(session: Any, ecu: str, id_: bytes) -> Any:
    search = {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.LABEL: LABEL + ecu, Attribute.ID: id_}
    found = list(session.get_objects(search))
    return found[0] if len(found) == 1 else None


def _private_key(session: Any, ecu: str, key_id: str) -> Any:
    pairs = _pairs(session, ecu)
    if key_id not in pairs:
        raise pkcs11.exceptions.NoSuchKey(f"no key {key_id[:16]} for ECU {ecu!r}")
    return pairs[key_id][1]


def _make(session: Any, ecu: str) -> None:
    parameters = session.create_domain_parameters(
        KeyType.EC, {Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}, local=True
    )
    parameters.generate_keypair(
        id=secrets.token_bytes(16),
        label=LABEL + ecu,
        store=True,
        private_template={Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False},
    )


def _find_or_make(ecu: str, session: Any) -> RegisteredKey:
    """The one key of an ECU that is not registered yet."""
    pairs = _pairs(session, ecu)
    if not pairs:
        _make(session, ecu)
        pairs = _pairs(session, ecu)
        log.info("ecu_key_made", extra={"ecu": ecu, "key": next(iter(pairs), "")[:16]})
    if len(pairs) != 1:
        raise ConfigError(f"the token has {len(pairs)} keys for ECU {ecu!r}, and none is registered")
    return next(iter(pairs.values()))[0]


def open_token_signers(
    section: KeysSection, ecus: Iterable[str], base: Path, register: KeyRegister
) -> dict[str, EcuSigner]:
    """Signers over a token; the keys of ECUs that are not registered are made.

    A token that is away does not matter as long as all ECUs are registered: signing will wait for it.

    Raises:
        ConfigError: settings are missing, or it cannot be told which key is an ECU's.
        TransportError: a key has to be made or found, and the token does not answer.
    """
    for name in ("module", "token", "pin_file"):
        if not getattr(section, name):
            raise ConfigError("a token needs module, token and pin_file", where=f"$.update.keys.{name}")
    names = list(ecus)
    token = Token(section.module, section.token, base / section.pin_file)
    made = {ecu: token.use(partial(_find_or_make, ecu)) for ecu in names if ecu not in register.keys}
    register.add(made)
    return {ecu: TokenSigner(token, ecu, register.keys[ecu]) for ecu in names}

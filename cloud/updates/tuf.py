"""Small helpers over python-tuf's Metadata API: reading strictly, signing, times."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
from securesystemslib.signer import Key, Signer
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, Root, Signed, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from cloud.errors import InvalidInput

T = TypeVar("T", Root, Targets, Snapshot, Timestamp)
S_NS = 1_000_000_000
MAX_VERSION = (1 << 53) - 1


def moment(ns: int) -> datetime:
    """UTC ns as TUF writes times: whole seconds."""
    return datetime.fromtimestamp(ns // S_NS, UTC)


def to_ns(at: datetime) -> int:
    """The inverse of ``moment``."""
    return int(at.timestamp()) * S_NS


def read(content: bytes, kind: type[T], name: str, max_bytes: int) -> Metadata[T]:
    """Parse a metadata file of one kind.

    Raises:
        InvalidInput: too large, no metadata, or of another kind.
    """
    if len(content) > max_bytes:
        raise InvalidInput(f"{name} is larger than {max_bytes} bytes")
    try:
        parsed: Metadata[Any] = Metadata.from_bytes(content)
    except (DeserializationError, RecursionError) as error:
        cause = error.__cause__
        raise InvalidInput(f"{name} is no TUF metadata: {str(cause or error)[:200]}") from error
    if not isinstance(parsed.signed, kind):
        raise InvalidInput(f"{name} says that it is {parsed.signed.type}, not {kind.type}")
    if type(parsed.signed.version) is not int or parsed.signed.version > MAX_VERSION:
        raise InvalidInput(f"{name} has no sensible version")
    return parsed


def verify(delegator: Root | Targets, role: str, content: Metadata[Any], what: str) -> None:
    """Check the threshold of signatures.

    Raises:
        InvalidInput: not signed as the delegator asks.
    """
    try:
        delegator.verify_delegate(role, content.signed_bytes, content.signatures)
    except (UnsignedMetadataError, ValueError) as error:
        raise InvalidInput(f"{what} is not signed as it must be: {error}") from error


def is_signed(delegator: Root | Targets, role: str, content: Metadata[Any]) -> bool:
    """The same as an answer."""
    try:
        verify(delegator, role, content, role)
    except InvalidInput:
        return False
    return True


def signed_file(signed: Signed, signers: Iterable[Signer]) -> bytes:
    """Sign with each signer; the file's bytes."""
    metadata: Metadata[Any] = Metadata(signed)
    for signer in signers:
        metadata.sign(signer, append=True)
    return metadata.to_bytes()


def plain(value: object) -> Any:
    """A struct as JSON types, as it goes into ``custom`` fields."""
    return json.loads(msgspec.json.encode(value))


def key_dict(key: Key) -> dict[str, Any]:
    """A public key as JSON, with its id inside."""
    return {"keyid": key.keyid, **key.to_dict()}


def read_key(raw: dict[str, Any], where: str) -> Key:
    """The inverse of ``key_dict``. ``InvalidInput`` when it is no key."""
    try:
        fields = dict(raw)
        return Key.from_dict(str(fields.pop("keyid")), fields)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise InvalidInput(f"no public key: {error}", where=where) from error

"""Who has signed: keys by themselves, not by the names that metadata gives them."""

from __future__ import annotations

import hashlib
from typing import Any

from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Key
from tuf.api.metadata import Metadata, Role, Root, Targets


def fingerprint(key: Key) -> str:
    """A key by itself, whatever it is called."""
    text = f"{key.keytype} {key.scheme} {sorted(key.keyval.items())}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def good_signers(delegator: Root | Targets, role: str, metadata: Metadata[Any]) -> set[str]:
    """Fingerprints of the keys of ``role`` whose signatures are good. Raises as python-tuf (``TUF_ERRORS``)."""
    payload = metadata.signed_bytes
    good: set[str] = set()
    for key_id in delegator.get_delegated_role(role).keyids:
        if key_id not in metadata.signatures:
            continue
        key = delegator.get_key(key_id)
        try:
            key.verify_signature(metadata.signatures[key_id], payload)
        except UnverifiedSignatureError:
            continue
        good.add(fingerprint(key))
    return good


def is_outdated(signers: tuple[str, ...], delegator: Root | Targets, role: Role) -> bool:
    """Whether what ``signers`` signed would not be accepted with the keys that the role has now (CR5)."""
    present = set()
    for key_id in role.keyids:
        try:
            present.add(fingerprint(delegator.get_key(key_id)))
        except ValueError:
            continue
    return len(present & set(signers)) < role.threshold


def digest_of(metadata: Metadata[Any]) -> str:
    """SHA-256 of the signed part: the same for a file that only got another signature."""
    return hashlib.sha256(metadata.signed_bytes).hexdigest()

"""Which line of the standard a failed check belongs to, and which attack it stands against (F12)."""

from __future__ import annotations

from dataclasses import dataclass

from tuf.api.exceptions import (
    BadVersionNumberError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)

from gateway.update.model import AttackError

#: What python-tuf may raise on bytes from outside. Its own errors, and those of Python where a signed value has a type
#: that it does not look at.
TUF_ERRORS = (
    RepositoryError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    RecursionError,
    OverflowError,
)


@dataclass(frozen=True, slots=True)
class Rules:
    """The numbers of the checks of one role, as docs/reference/uptane.md has them."""

    size: str
    signature: str
    match: str
    version: str
    expiry: str


ROOT = Rules("CR1", "CR2", "CR3", "CR3", "CR4")
TIMESTAMP = Rules("CT1", "CT2", "CT2", "CT3", "CT4")
SNAPSHOT = Rules("CS1", "CS3", "CS2", "CS4", "CS7")
TARGETS = Rules("CG1", "CG3", "CG2", "CG4", "CG5")


def rules_of(role: str) -> Rules:
    """The checks of a role; every other name is that of a Targets role."""
    return {"root": ROOT, "timestamp": TIMESTAMP, "snapshot": SNAPSHOT}.get(role, TARGETS)


def refusal(error: Exception, what: str, rules: Rules) -> AttackError:
    """The error of ours for one of ``TUF_ERRORS`` about the file ``what``."""
    text = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
    if isinstance(error, ExpiredMetadataError):
        return AttackError("freeze", rules.expiry, f"{what} has expired")
    if isinstance(error, BadVersionNumberError):
        return AttackError("rollback", rules.version, f"{what}: {text}")
    if isinstance(error, LengthOrHashMismatchError):
        return AttackError("mix-and-match", rules.match, f"{what}: {text}")
    if isinstance(error, UnsignedMetadataError):
        return AttackError("arbitrary software", rules.signature, f"{what}: {text}")
    return AttackError("arbitrary software", rules.signature, f"{what} cannot be read: {text}")

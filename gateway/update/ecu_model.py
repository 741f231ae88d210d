"""What is kept on disk of ECUs and their sets, and what can go wrong with them. Values only."""

from __future__ import annotations

import msgspec

from gateway.errors import TransportError
from gateway.update.model import InstallError
from gateway.wire.uptane import FileFacts, InstalledImage, MustMatch


class EcuRefusedError(InstallError):
    """The ECU, or what is known of it, says no; trying the same again would end the same."""


class NotYetError(TransportError):
    """The ECU cannot be written now: a condition is missing, or another tester is at it. Nothing was changed."""


class SetNotWholeError(InstallError):
    """ECUs of a set run software that does not belong together, and it could not be mended now.

    ``runs`` tells what each runs: a version, or that it does not answer.
    """

    def __init__(self, message: str, runs: dict[str, str]) -> None:
        super().__init__(message)
        self.runs = runs


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What an ECU says of itself. An identifier that it does not have, or that is not configured, is ""."""

    version: str = ""
    digest: str = ""  # SHA-256 of its image, lower-case hexadecimal
    serial: str = ""


class EcuRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one ECU. ``image`` None: a write began and has not been found good since."""

    image: InstalledImage | None = None
    told: Told = Told()  # right after ``image`` was installed
    floor: int = 0  # lowest release counter that it may get


class FlashProgress(msgspec.Struct, frozen=True, kw_only=True):
    """Parts before ``part`` are in the ECU, of that one the first ``offset`` bytes. Advice: the ECU decides."""

    sha256: str
    serial: str = ""
    part: int = 0
    offset: int = 0
    payload_bytes: int = 0  # of one block


#: What became of an ECU of a set. "touched": a write may have begun.
STAGES = ("untouched", "touched", "installed", "restored")
#: "installed", "restored" and "broken" are ends; of a broken set, putting back may be tried again.
SET_STATES = ("installing", "restoring", "installed", "restored", "broken")


class SetMember(msgspec.Struct, frozen=True, kw_only=True):
    """One ECU of a set."""

    ecu: str
    image: FileFacts
    must_match: MustMatch
    fallback: FileFacts | None = None
    fallback_must_match: MustMatch | None = None
    stage: str = "untouched"
    failure: str = ""  # the last, for people


class SetJournal(msgspec.Struct, frozen=True, kw_only=True):
    """Where the change of a set is; written before what it says is begun."""

    id: str  # of its ECUs and images
    state: str
    members: tuple[SetMember, ...]  # in order of installation
    passes: int = 0
    restores: int = 0
    reason: str = ""  # why all is put back

    def member(self, ecu: str) -> SetMember:
        """The ECU's."""
        return next(member for member in self.members if member.ecu == ecu)

    def with_member(self, ecu: str, *, stage: str, failure: str = "") -> SetJournal:
        """The same with one ECU changed."""
        members = tuple(
            msgspec.structs.replace(m, stage=stage, failure=failure) if m.ecu == ecu else m for m in self.members
        )
        return msgspec.structs.replace(self, members=members)

    @property
    def is_touched(self) -> bool:
        """Whether any ECU may have been written."""
        return any(member.stage in ("touched", "installed") for member in self.members)

"""What the updater needs from around it, and what it hands out."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Protocol

from bootctl.files import BlockFile
from gateway.update.model import VerifiedTarget, VerifiedUpdate
from gateway.wire.uptane import FileFacts, InstalledImage, Signature, Signed, TimeRequest, UpdateReport

#: Told while something is fetched or installed: bytes done, bytes in all.
Progress = Callable[[int, int], None]


#: Told of each ECU of a set: its name, a state of ``EcuProgress``, bytes done, bytes in all.
SetProgress = Callable[[str, str, int, int], None]


class EcuSigner(Protocol):
    """The private key of one ECU, wherever it is kept."""

    key_id: str
    method: str
    public: bytes  # as in ``gateway.wire.uptane.EcuKey``

    def sign(self, domain: bytes, payload: bytes) -> Signature:
        """Sign ``domain + payload``. Blocking and short.

        Raises:
            TransportError: the key store does not answer.
        """


class Fetcher(Protocol):
    """Where metadata and images come from: the cloud, or a USB directory."""

    async def metadata(self, repository: str, name: str, max_bytes: int) -> bytes | None:
        """A metadata file ("director" or "image", "3.root.json"); None when there is none of that name.

        Raises:
            AttackError: more than ``max_bytes`` (endless data), or too slow (slow retrieval).
            TransportError: no answer; try again later.
        """

    def target(self, file: FileFacts, offset: int) -> AsyncIterator[bytes]:
        """The bytes of an image from ``offset``, never more than its length says. Raises as ``metadata``."""


class TimeSource(Protocol):
    """Who attests the time: the Director, with its time key."""

    async def attested_time(self, request: TimeRequest) -> Signed | None:
        """The answer as it came, unverified; None where nobody can be asked (offline).

        Raises:
            AttackError: the answer is too long or too slow.
            TransportError: no answer; try again later.
        """


class Verifier(Protocol):
    """Uptane's full verification (``gateway.uptane``)."""

    async def refresh(self, fetcher: Fetcher) -> VerifiedUpdate:
        """Fetch and check both repositories' metadata, cross-check all images, raise the floor.

        Raises:
            AttackError: refused; what was trusted before stays trusted, and the next refresh may succeed.
            TransportError: the repositories or the disk do not answer.
        """

    def known(self) -> VerifiedUpdate | None:
        """What the last successful refresh of this or an earlier run said, without network; None: nothing yet."""


class Installer(Protocol):
    """Installs one kind of target: the root file system, ECU firmware, or a payload."""

    async def prepare(self, target: VerifiedTarget, fetcher: Fetcher, progress: Progress) -> None:
        """Fetch what will be needed and check it; changes nothing that runs. Resumes. Raises as ``install``."""

    async def install(self, target: VerifiedTarget, fetcher: Fetcher, progress: Progress) -> None:
        """Put it in place, not yet in use (a slot) or in use (an ECU). After a cut, the same call goes on.

        Raises:
            AttackError: the content is not what was verified.
            InstallError: it could not be done; nothing of it is in use.
            TransportError: try again later.
        """

    async def restore(self, target: VerifiedTarget) -> None:
        """Put back what was there before ``install``. Raises ``InstallError``."""

    async def installed(self, ecu: str) -> InstalledImage | None:
        """What the ECU runs as far as it can be proved; None: it does not answer."""


class UpdateReporter(Protocol):
    """Who tells the cloud how it goes; keeps the newest while there is no link."""

    def tell(self, report: UpdateReport) -> None:
        """Never waits."""


class HealthCheck(Protocol):
    """One thing that must be well before a slot is good."""

    name: str

    async def check(self) -> str:
        """ "" when it is well, else what is not yet. Asked again until the time for checks is over."""


class Precondition(Protocol):
    """One thing that must hold before installation starts."""

    name: str

    def missing(self, now_ns: int) -> str:
        """ "" when it holds, else what is missing, for the person who waits. ``now_ns``: UTC."""


class Rebooter(Protocol):
    """Restarts the machine."""

    async def reboot(self, reason: str) -> None:
        """Ask for it; returns when it has been asked for. The process will be told to stop.

        Raises:
            TransportError: it could not be asked for.
        """

    async def restart(self, reason: str) -> None:
        """The same for the gateway's process alone: its service manager starts it again."""


class SetInstaller(Protocol):
    """Installs ECU firmware: several ECUs at once, all or nothing (``gateway.update.ecu_set``)."""

    async def prepare(self, targets: Sequence[VerifiedTarget], fetcher: Fetcher, progress: SetProgress) -> None:
        """Fetch and check everything, forward and back. Raises as ``Installer.prepare``."""

    async def install(self, targets: Sequence[VerifiedTarget], fetcher: Fetcher, progress: SetProgress) -> None:
        """All of them. After a cut the same call goes on, forward or back.

        Raises:
            AttackError, InstallError: every ECU runs what it ran before, or the text says which does not.
            TransportError: not now, and nothing was changed; try again later.
        """

    async def restore(self, targets: Sequence[VerifiedTarget], progress: SetProgress) -> None:
        """Put back what ``install`` began or finished; nothing where it was never begun. Raises ``InstallError``."""

    def confirm(self, targets: Sequence[VerifiedTarget]) -> None:
        """These are final: the way back is given up. Blocks. Raises ``TransportError``: call it again."""


class SlotDevices(Protocol):
    """Where slots are."""

    def path(self, slot: str) -> Path:
        """The block device or file of a slot. Raises ``ConfigError``."""


class TargetStore(Protocol):
    """Verified files of updates, kept by their hash."""

    async def fetch(self, file: FileFacts, fetcher: Fetcher, progress: Progress) -> None:
        """Have it here, whole and with every hash right; goes on where an earlier try ended.

        Raises:
            AttackError: the content is not what was verified.
            InstallError: there is no room for it.
            TransportError: try again later.
        """

    def open(self, file: FileFacts) -> BlockFile:
        """A file that ``fetch`` has brought, for reading. Raises ``InstallError``: it is not here."""

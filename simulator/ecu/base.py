"""What most services of simulated ECUs have in common; a convenience, not part of the contract."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from simulator.ecu.context import EcuContext
from simulator.ecu.description import EcuDescription, ServiceDescription
from simulator.ecu.service import Access, Call, Later, SubFunction


class BaseService:
    """Fills in what a plain service does not need. Subclasses set ``SID`` and ``MIN_LENGTH`` and write ``handle``."""

    SID = 0
    MIN_LENGTH = 1
    #: The sub-function is judged by ``handle``, after its parameters (0x31).
    LATE_SUBFUNCTION = False

    def __init__(self, context: EcuContext, description: EcuDescription) -> None:
        """Raises ``KeyError`` if the description does not list the service."""
        self.context = context
        self.description = description
        self.entry: ServiceDescription = next(s for s in description.services if s.sid == self.SID)

    @property
    def sid(self) -> int:
        """See ``Service``."""
        return self.SID

    @property
    def access(self) -> Access:
        """See ``Service``."""
        return self.context.access(self.entry.access)

    @property
    def min_length(self) -> int:
        """See ``Service``."""
        return self.MIN_LENGTH

    def subfunctions(self) -> Mapping[int, SubFunction] | None:
        """See ``Service``."""
        return None

    def chosen(self, every: Mapping[int, SubFunction]) -> dict[int, SubFunction]:
        """Those of ``every`` sub-function that the description lists; all if it lists none."""
        wanted = self.entry.subfunctions
        return {number: sub for number, sub in every.items() if not wanted or number in wanted}

    def handle(self, call: Call) -> bytes | Later:
        """See ``Service``."""
        raise NotImplementedError

    def session_changed(self, session: int, now_s: float) -> None:
        """See ``Service``."""

    def reset(self, now_s: float) -> None:
        """See ``Service``."""

    def tick(self, now_s: float) -> Collection[bytes]:
        """See ``Service``."""
        return ()

    def describe(self) -> Mapping[str, object]:
        """See ``Service``; what the server tells of every service is not repeated here."""
        return {}

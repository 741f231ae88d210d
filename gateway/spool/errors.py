"""What can go wrong in the spool. Damaged content is never among it: that is counted, not raised."""

from __future__ import annotations

from gateway.errors import NotNowError, TransportError


class SpoolError(TransportError):
    """The disk refused an operation; nothing is half done, and trying again later may help."""


class SpoolFull(SpoolError):
    """No room even after everything of equal or lower priority was evicted; nothing was written."""


class SpoolBusy(NotNowError):
    """Another process has the spool open."""

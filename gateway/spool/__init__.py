"""Store and forward: batches on disk until the cloud has them. ``docs/reference/spool-format.md`` has the format."""

from gateway.spool.errors import SpoolBusy, SpoolError, SpoolFull
from gateway.spool.spool import Spool, SpoolLimits

__all__ = ["Spool", "SpoolBusy", "SpoolError", "SpoolFull", "SpoolLimits"]

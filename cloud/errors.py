"""What can go wrong in the cloud, by who must act. None of these knows HTTP; ``cloud.web.problems`` maps them."""

from __future__ import annotations


class CloudError(Exception):
    """Base of all errors of the cloud that a caller may handle. The message is written for the caller to read."""


class InvalidInput(CloudError):
    """The caller sent something that can never be accepted; ``where`` names the field."""

    def __init__(self, message: str, *, where: str = "") -> None:
        super().__init__(f"{message} - at {where}" if where else message)
        self.where = where


class NotFound(CloudError):
    """Nothing has that name."""


class Conflict(CloudError):
    """The thing exists already, or is in a state that does not allow this."""


class Refused(CloudError):
    """The request can be read, but what it says does not stand up to its checks; nothing of it was taken."""


class NotAuthenticated(CloudError):
    """Nobody proved who is calling."""


class NotAllowed(CloudError):
    """The caller is known and may not do this."""


class TooLarge(CloudError):
    """The body exceeds ``limit_bytes``."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"the body is larger than {limit_bytes} bytes")
        self.limit_bytes = limit_bytes


class TooMany(CloudError):
    """A rate limit; trying again after ``retry_after_s`` may work."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unavailable(CloudError):
    """The cloud cannot do this now (disk full, stopping); trying again after ``retry_after_s`` may work."""

    def __init__(self, message: str, *, retry_after_s: float = 5.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ConfigError(CloudError):
    """A file the operator wrote is wrong; the message names the file and the key."""


class StorageError(CloudError):
    """The database cannot be opened or is of another version."""


class DamagedFile(CloudError):
    """A file of the lake is missing or cannot be read; the message names it."""

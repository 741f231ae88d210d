"""What can go wrong in the gateway, by who must act."""

from __future__ import annotations


class GatewayError(Exception):
    """Base of all errors of the gateway that a caller may handle."""


class PeerError(GatewayError):
    """The other side is wrong: a malformed message, a refused certificate, an unknown answer."""


class TransportError(GatewayError):
    """A bus, a link or a disk failed; trying again later may help."""


class NotNowError(GatewayError):
    """The request is sound but cannot be done in the present state."""


class ConfigError(GatewayError):
    """A file the integrator wrote is wrong. ``path`` is the file, ``where`` the key (``$.buses[0].bitrate_bps``)."""

    def __init__(self, message: str, *, path: str = "", where: str = "") -> None:
        super().__init__(": ".join(part for part in (path, message) if part) + (f" - at {where}" if where else ""))
        self.path, self.where = path, where

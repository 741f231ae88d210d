"""Raw frames as both sides see them: ``dbc.frames`` under the contract's name."""

from dbc.frames import BRS, ERROR, ESI, EXTENDED, FD, REMOTE, FrameBatch

__all__ = ["BRS", "ERROR", "ESI", "EXTENDED", "FD", "REMOTE", "FrameBatch"]

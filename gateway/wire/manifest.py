"""The manifest as both sides see it: ``dbc.manifest`` under the contract's name."""

from dbc.manifest import Kind, Manifest, ManifestError, Message, MuxBranch, Signal

__all__ = ["Kind", "Manifest", "ManifestError", "Message", "MuxBranch", "Signal"]

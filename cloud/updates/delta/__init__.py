"""Deltas between images: built in the background (``jobs``), each by a process of its own (``worker``)."""

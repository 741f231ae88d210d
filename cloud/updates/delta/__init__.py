"""Deltas between images: built in the background, kept while they are useful."""

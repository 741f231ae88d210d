"""Diagnostics of a fleet: fault memory as vehicles report it, statistics, words for codes, and remote jobs."""

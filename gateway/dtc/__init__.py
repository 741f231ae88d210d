"""Fault memory: test results in, status bytes, snapshots and reports out."""

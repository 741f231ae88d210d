"""Requests and answers of ISO 14229-1 as values: bytes in, bytes out. No I/O.

Each function makes a ``Query``: the request, what its positive answer must begin with, and how to read that answer.
"""

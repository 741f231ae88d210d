"""Secured data transmission (0x84, ISO 14229-1:2020): a whole request, protected, inside another. Both ends' codec.

What protects is not ours: a ``Protection`` encrypts and signs, with whatever both ends agreed on. The layout is that of
the 2020 edition; the 2013 one had no more than "security data", which ``raw`` requests can carry.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntFlag
from typing import Protocol

from gateway.uds.codec.query import Answer, Query, Reader, byte, number
from gateway.uds.errors import MalformedAnswer
from gateway.uds.names import POSITIVE_BIT, Sid


class Administrative(IntFlag):
    """administrativeParameter: what was done to the message."""

    IS_REQUEST = 1 << 0
    PRE_ESTABLISHED_KEY = 1 << 3
    ENCRYPTED = 1 << 4
    SIGNED = 1 << 5
    SIGN_ANSWER = 1 << 6


class SecuredMessage(Answer, frozen=True):
    """The fields of a 0x84 PDU. ``content``: SID and data of the inner PDU, as protected; ``counter`` stops replays."""

    administrative: int
    calculation: int  # which algorithm signs and encrypts; the parties know
    counter: int
    content: bytes
    signature: bytes = b""

    def encode(self) -> bytes:
        """The PDU after its SID.

        Raises:
            ValueError: a field that does not fit.
        """
        return self.signed_part() + self.content + self.signature

    def signed_part(self) -> bytes:
        """The header, which a signature covers along with the content."""
        return (
            number(self.administrative, 2, "administrative parameter")
            + byte(self.calculation, "calculation")
            + number(len(self.signature), 2, "length of the signature")
            + number(self.counter, 2, "anti-replay counter")
        )


def read_secured(reader: Reader) -> SecuredMessage:
    """After the SID."""
    administrative, calculation = reader.number(2, "administrative parameter"), reader.number(1, "calculation")
    signature_bytes, counter = reader.number(2, "length of the signature"), reader.number(2, "anti-replay counter")
    if reader.left < signature_bytes + 1:
        raise reader.fail("no room for the inner message before the signature")
    content = reader.take(reader.left - signature_bytes, "inner message")
    return SecuredMessage(administrative, calculation, counter, content, reader.rest())


class Protection(Protocol):
    """What both ends agreed on, with its keys and counters."""

    def protect(self, inner: bytes) -> SecuredMessage:
        """A request, protected."""

    def verify(self, message: SecuredMessage) -> bytes:
        """The inner answer, once it is proved genuine and fresh.

        Raises:
            ValueError: it is neither.
        """


def secured(inner: bytes, protection: Protection) -> Query[bytes]:
    """0x84: carry ``inner``; answers the inner answer, which may be a negative one."""
    message = protection.protect(inner)

    def read(reader: Reader) -> bytes:
        return _verified(protection.verify, read_secured(reader), reader)

    return Query(bytes([Sid.SECURED_DATA]) + message.encode(), (bytes([Sid.SECURED_DATA | POSITIVE_BIT]),), read)


def _verified(verify: Callable[[SecuredMessage], bytes], message: SecuredMessage, reader: Reader) -> bytes:
    try:
        return verify(message)
    except ValueError as error:
        failure: MalformedAnswer = reader.fail(f"not proved genuine: {error}")
        raise failure from error

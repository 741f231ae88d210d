"""Service 0x84: a request inside a request, signed with AES-CMAC and protected against replay.

Of the administrative parameter the ECU takes: bit 0 request, bit 3 pre-established key, bit 5 signed, bit 6 signature
on the response requested. Encryption (bit 4) is refused. The signature is over everything before it, without the SID.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC

from simulator.ecu.base import BaseService
from simulator.ecu.context import EcuContext
from simulator.ecu.description import DescriptionError, EcuDescription
from simulator.ecu.service import Call, Later, Nrc, Refusal

REQUEST, PRE_ESTABLISHED, ENCRYPTED, SIGNED, SIGN_RESPONSE = 1 << 0, 1 << 3, 1 << 4, 1 << 5, 1 << 6
CALCULATION = 0x00
#: Administrative parameter, calculation, length of the signature, anti-replay counter, one byte of the request.
HEAD_BYTES = 7
NOT_ALLOWED, VERIFICATION_FAILED = 0x39, 0x3A
MAC_BYTES = 16
COUNTER = "secured.counter"


def cmac(key: bytes, content: bytes) -> bytes:
    """AES-CMAC, RFC 4493."""
    mac = CMAC(AES(key))
    mac.update(content)
    return mac.finalize()


class SecuredData(BaseService):
    """0x84. The anti-replay counter must rise; the highest seen is non-volatile."""

    SID = 0x84
    MIN_LENGTH = 1 + HEAD_BYTES + 1

    def __init__(self, context: EcuContext, description: EcuDescription) -> None:
        """Raises ``DescriptionError`` without a key of 16 bytes."""
        super().__init__(context, description)
        try:
            self._key = bytes.fromhex(description.secured_key)
            cmac(self._key, b"")
        except ValueError:
            raise DescriptionError(f"{description.name}: service 0x84 needs 'secured_key', 16 bytes in hex") from None

    def handle(self, call: Call) -> bytes | Later:
        """See ``Service``."""
        data = call.data
        administrative, calculation = int.from_bytes(data[:2], "big"), data[2]
        length, counter = int.from_bytes(data[3:5], "big"), int.from_bytes(data[5:7], "big")
        if len(data) < HEAD_BYTES + 1 + length:
            raise Refusal(Nrc.INCORRECT_LENGTH)
        wanted = REQUEST | SIGNED
        if administrative & wanted != wanted or administrative & ~(wanted | PRE_ESTABLISHED | SIGN_RESPONSE):
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        if calculation != CALCULATION or length != MAC_BYTES:
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        inner, mac = data[HEAD_BYTES : len(data) - length], data[len(data) - length :]
        if not hmac.compare_digest(cmac(self._key, data[: len(data) - length]), mac):
            raise Refusal(VERIFICATION_FAILED)
        if counter <= int(self.context.nv.get(COUNTER, -1)):
            raise Refusal(VERIFICATION_FAILED)
        self.context.nv.set(COUNTER, counter)
        self.context.nv.save()
        if inner[0] == self.SID or inner[0] & 0x40:
            raise Refusal(NOT_ALLOWED)
        result = self.context.execute(inner, call.now_s)
        sign = bool(administrative & SIGN_RESPONSE)
        if isinstance(result, Later):
            finish = result.finish
            return Later(duration_s=result.duration_s, finish=lambda now_s: self._wrap(finish(now_s), counter, sign))
        return self._wrap(result or b"", counter, sign)

    def _wrap(self, answer: bytes, counter: int, sign: bool) -> bytes:
        administrative = PRE_ESTABLISHED | (SIGNED if sign else 0)
        length = MAC_BYTES if sign else 0
        out = administrative.to_bytes(2, "big") + bytes([CALCULATION]) + length.to_bytes(2, "big")
        out += counter.to_bytes(2, "big") + answer
        return out + (cmac(self._key, out) if sign else b"")

    def describe(self) -> Mapping[str, object]:
        """See ``Service``. The key is no secret: the vehicle is a toy."""
        return {"signature": "AES-CMAC", "key": self.description.secured_key, "encryption": False}

"""Service 0x29: certificates (APCE) and challenge and response (ACR), Ed25519, one or both sides proving themselves.

Proof of ownership is the signature of the other side's challenge: of ``challengeServer`` in APCE, of
``challengeServer`` and ``challengeClient`` joined in ACR. A challenge is good for one proof. Session keys are not made.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, SignatureAlgorithmOID

from simulator.ecu.authority import SCOPE, certificate, private_key
from simulator.ecu.base import BaseService
from simulator.ecu.context import EcuContext
from simulator.ecu.description import DescriptionError, EcuDescription
from simulator.ecu.service import Access, Call, Later, Nrc, Refusal, SubFunction

DEAUTHENTICATE, VERIFY_ONE, VERIFY_BOTH, PROOF, TRANSMIT, CHALLENGE, PROVE_ONE, PROVE_BOTH, CONFIGURATION = range(9)
#: Return values, ISO 14229-1:2020 B.5.
ACCEPTED, APCE, DEAUTHENTICATED, CERTIFICATE_VERIFIED_PROVE, COMPLETE, CERTIFICATE_VERIFIED = (
    0x00,
    2,
    0x10,
    0x11,
    0x12,
    0x13,
)
TIME, SIGNATURE, CHAIN, TYPE, FORMAT, CONTENT, SCOPE_NRC, REVOKED, OWNERSHIP = range(0x50, 0x59)
#: Ed25519 (1.3.101.112) as BER, padded.
ALGORITHM = bytes.fromhex("06032B6570").ljust(16, b"\x00")
CHALLENGE_BYTES = 32
MAX_CERTIFICATE_BYTES = 2048
#: Verifying takes an ECU a while.
VERIFY_S = 0.12


class _Fields:
    """Parameters of a request, taken from the front."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, count: int) -> bytes:
        if len(self._data) - self._at < count:
            raise Refusal(Nrc.INCORRECT_LENGTH)
        self._at += count
        return self._data[self._at - count : self._at]

    def sized(self) -> bytes:
        return self.take(int.from_bytes(self.take(2), "big"))

    def end(self) -> None:
        if self._at != len(self._data):
            raise Refusal(Nrc.INCORRECT_LENGTH)


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


class Authentication(BaseService):
    """0x29. Being authenticated ends with the default session, a reset, or sub-function 0."""

    SID = 0x29
    MIN_LENGTH = 2

    def __init__(self, context: EcuContext, description: EcuDescription) -> None:
        """Raises ``DescriptionError`` if the description says nothing of authentication."""
        super().__init__(context, description)
        if description.authentication is None:
            raise DescriptionError(f"{description.name}: service 0x29 needs the table 'authentication'")
        self._settings = description.authentication
        self._authority = description.authentication.authority
        self._authority_key = private_key(self._authority, "authority").public_key()
        self._key = private_key(self._authority, f"ecu:{description.name}")
        self._challenge: bytes | None = None  # that we gave
        self._tester: Ed25519PublicKey | None = None  # of the certificate that was verified
        self._by_certificate = False
        self._stored: dict[int, bytes] = {}

    def subfunctions(self) -> Mapping[int, SubFunction]:
        """See ``Service``."""
        access = Access(sessions=frozenset(self._settings.sessions))
        every = {n: SubFunction(access=access) for n in range(CONFIGURATION + 1)}
        every[DEAUTHENTICATE] = every[CONFIGURATION] = SubFunction(access=access, length=2)
        return self.chosen(every)

    def handle(self, call: Call) -> bytes | Later:
        """See ``Service``."""
        assert call.sub is not None
        fields = _Fields(call.data)
        if call.sub == DEAUTHENTICATE:
            self.context.authenticated = False
            self._forget()
            return bytes([DEAUTHENTICATE, DEAUTHENTICATED])
        if call.sub == CONFIGURATION:
            return bytes([CONFIGURATION, APCE])
        if call.sub in (VERIFY_ONE, VERIFY_BOTH):
            return self._verify(call.sub, fields)
        if call.sub == TRANSMIT:
            return self._transmit(fields)
        if call.sub == CHALLENGE:
            return self._request_challenge(fields)
        return self._prove(call.sub, fields)

    # -- certificates

    def _verify(self, sub: int, fields: _Fields) -> Later:
        configuration, given, challenge = fields.take(1)[0], fields.sized(), fields.sized()
        fields.end()
        if configuration != 0:
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        if not given or len(given) > MAX_CERTIFICATE_BYTES or (sub == VERIFY_BOTH and len(challenge) < 16):
            raise Refusal(Nrc.INCORRECT_LENGTH)
        self._forget()

        def finish(now_s: float) -> bytes:
            self._tester = self.check(given)
            self._by_certificate = True
            self._challenge = self.context.random(CHALLENGE_BYTES)
            out = bytes([sub, CERTIFICATE_VERIFIED_PROVE]) + _sized(self._challenge)
            if sub == VERIFY_BOTH:
                own = certificate(self._authority, f"ecu:{self.description.name}", at=self._now(), client=False)
                out += _sized(own) + _sized(self._key.sign(challenge))
            return out + _sized(b"")

        return Later(duration_s=VERIFY_S, finish=finish)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self.context.vehicle.utc_s(), UTC)

    def check(self, given: bytes) -> Ed25519PublicKey:
        """The key of a certificate that is believed. Raises ``Refusal`` (0x50-0x57)."""
        try:
            found = x509.load_der_x509_certificate(given)
            key = found.public_key()
            units = found.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
            issuers = found.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
            begin, end = found.not_valid_before_utc, found.not_valid_after_utc
            usages = [
                usage
                for extension in found.extensions
                if isinstance(extension.value, x509.ExtendedKeyUsage)
                for usage in extension.value
            ]
            algorithm = found.signature_algorithm_oid
        except (ValueError, UnsupportedAlgorithm, x509.UnsupportedGeneralNameType, x509.DuplicateExtension):
            raise Refusal(FORMAT) from None
        if [issuer.value for issuer in issuers] != [self._authority]:
            raise Refusal(CHAIN)
        if algorithm != SignatureAlgorithmOID.ED25519:
            raise Refusal(SIGNATURE)
        try:
            self._authority_key.verify(found.signature, found.tbs_certificate_bytes)
        except InvalidSignature:
            raise Refusal(SIGNATURE) from None
        if not begin <= self._now() <= end:
            raise Refusal(TIME)
        if ExtendedKeyUsageOID.CLIENT_AUTH not in usages or not isinstance(key, Ed25519PublicKey):
            raise Refusal(TYPE)
        if [unit.value for unit in units] != [SCOPE]:
            raise Refusal(SCOPE_NRC)
        return key

    def _transmit(self, fields: _Fields) -> Later:
        number, given = int.from_bytes(fields.take(2), "big"), fields.sized()
        fields.end()
        if number > 3:
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        if not given or len(given) > MAX_CERTIFICATE_BYTES:
            raise Refusal(Nrc.INCORRECT_LENGTH)

        def finish(now_s: float) -> bytes:
            self.check(given)
            self._stored[number] = given
            return bytes([TRANSMIT, CERTIFICATE_VERIFIED])

        return Later(duration_s=VERIFY_S, finish=finish)

    # -- challenge and response

    def _request_challenge(self, fields: _Fields) -> bytes:
        configuration, algorithm = fields.take(1)[0], fields.take(16)
        fields.end()
        if configuration != 0 or algorithm != ALGORITHM:
            raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
        self._forget()
        self._tester = private_key(self._authority, "tester").public_key()
        self._challenge = self.context.random(CHALLENGE_BYTES)
        return bytes([CHALLENGE, ACCEPTED]) + ALGORITHM + _sized(self._challenge) + _sized(b"")

    def _prove(self, sub: int, fields: _Fields) -> bytes | Later:
        if self._challenge is None or self._tester is None or self._by_certificate != (sub == PROOF):
            raise Refusal(Nrc.REQUEST_SEQUENCE_ERROR)
        challenge, tester = self._challenge, self._tester
        theirs = b""
        if sub == PROOF:
            proof, _ephemeral = fields.sized(), fields.sized()
        else:
            algorithm = fields.take(16)
            proof, theirs, _additional = fields.sized(), fields.sized(), fields.sized()
            if algorithm != ALGORITHM:
                raise Refusal(Nrc.REQUEST_OUT_OF_RANGE)
            if len(theirs) < 16:
                raise Refusal(Nrc.INCORRECT_LENGTH)
        fields.end()
        self._forget()

        def finish(now_s: float) -> bytes:
            try:
                tester.verify(proof, challenge + theirs)
            except InvalidSignature:
                raise Refusal(OWNERSHIP) from None
            self.context.authenticated = True
            out = bytes([sub, COMPLETE])
            if sub != PROOF:
                out += ALGORITHM
            if sub == PROVE_BOTH:
                out += _sized(self._key.sign(theirs + challenge))
            return out + _sized(b"")

        return Later(duration_s=VERIFY_S, finish=finish)

    def _forget(self) -> None:
        self._challenge, self._tester, self._by_certificate = None, None, False

    def session_changed(self, session: int, now_s: float) -> None:
        """See ``Service``."""
        self._forget()

    def reset(self, now_s: float) -> None:
        """See ``Service``."""
        self._stored.clear()

    def describe(self) -> Mapping[str, object]:
        """See ``Service``."""
        return {"authority": self._authority, "algorithm": "Ed25519", "configuration": "APCE and ACR"}

"""Authentication (0x29): every task of ISO 14229-1:2020. Certificates and signatures are bytes here."""

from __future__ import annotations

from gateway.uds.codec.query import Answer, Query, Reader, byte, number, query, sized
from gateway.uds.names import Sid

ALGORITHM_BYTES = 16

_DEAUTHENTICATE, _UNIDIRECTIONAL, _BIDIRECTIONAL, _OWNERSHIP, _CERTIFICATE = range(5)
_CHALLENGE, _VERIFY_UNIDIRECTIONAL, _VERIFY_BIDIRECTIONAL, _CONFIGURATION = range(5, 9)

#: authenticationReturnParameter
RETURN_NAMES = {
    0x00: "request accepted",
    0x01: "general reject",
    0x02: "configuration: certificates (PKI)",
    0x03: "configuration: challenge and response, asymmetric",
    0x04: "configuration: challenge and response, symmetric",
    0x10: "de-authentication successful",
    0x11: "certificate verified, ownership to be proved",
    0x12: "ownership proved, authentication complete",
    0x13: "certificate verified",
}


class Authentication(Answer, frozen=True):
    """What the ECU says; what a task does not carry is empty. ``result``: see ``RETURN_NAMES``."""

    task: int
    result: int
    challenge: bytes = b""
    certificate: bytes = b""
    proof: bytes = b""
    ephemeral_key: bytes = b""
    session_key_info: bytes = b""
    algorithm: bytes = b""
    additional: bytes = b""  # what the ECU needs besides in the proof

    @property
    def is_complete(self) -> bool:
        """Whether the tester is authenticated now."""
        return self.result == 0x12


#: Fields of the answer after task and return value, in order; "algorithm" is 16 bytes, others carry their length.
_FIELDS: dict[int, tuple[str, ...]] = {
    _DEAUTHENTICATE: (),
    _UNIDIRECTIONAL: ("challenge", "ephemeral_key"),
    _BIDIRECTIONAL: ("challenge", "certificate", "proof", "ephemeral_key"),
    _OWNERSHIP: ("session_key_info",),
    _CERTIFICATE: (),
    _CHALLENGE: ("algorithm", "challenge", "additional"),
    _VERIFY_UNIDIRECTIONAL: ("algorithm", "session_key_info"),
    _VERIFY_BIDIRECTIONAL: ("algorithm", "proof", "session_key_info"),
    _CONFIGURATION: (),
}


def _read(reader: Reader) -> Authentication:
    task, result = reader.number(1, "task"), reader.number(1, "return value")
    fields: dict[str, bytes] = {}
    for name in _FIELDS.get(task, ()):
        fields[name] = reader.take(ALGORITHM_BYTES, name) if name == "algorithm" else reader.sized(name)
    reader.end()
    return Authentication(task, result, **fields)


def _query(task: int, *parts: bytes) -> Query[Authentication]:
    return query(bytes([Sid.AUTHENTICATION, task]) + b"".join(parts), 1, _read)


def _algorithm(indicator: bytes) -> bytes:
    if len(indicator) != ALGORITHM_BYTES:
        raise ValueError(f"an algorithm indicator has {ALGORITHM_BYTES} bytes")
    return indicator


def deauthenticate() -> Query[Authentication]:
    """00: give up the rights."""
    return _query(_DEAUTHENTICATE)


def verify_certificate(
    certificate: bytes, challenge: bytes = b"", *, configuration: int = 0, is_bidirectional: bool = False
) -> Query[Authentication]:
    """01, or 02 both ways: show a certificate, get a challenge."""
    task = _BIDIRECTIONAL if is_bidirectional else _UNIDIRECTIONAL
    parts = byte(configuration, "configuration"), sized(certificate, "certificate"), sized(challenge, "challenge")
    return _query(task, *parts)


def prove_ownership(proof: bytes, ephemeral_key: bytes = b"") -> Query[Authentication]:
    """03: prove that the certificate's key is ours."""
    return _query(_OWNERSHIP, sized(proof, "proof"), sized(ephemeral_key, "ephemeral key"))


def transmit_certificate(evaluation: int, certificate: bytes) -> Query[Authentication]:
    """04: hand over a certificate to be evaluated."""
    return _query(_CERTIFICATE, number(evaluation, 2, "evaluation"), sized(certificate, "certificate"))


def request_challenge(algorithm: bytes, *, configuration: int = 0) -> Query[Authentication]:
    """05: begin challenge and response without certificates."""
    return _query(_CHALLENGE, byte(configuration, "configuration"), _algorithm(algorithm))


def verify_ownership(
    algorithm: bytes,
    proof: bytes,
    challenge: bytes = b"",
    additional: bytes = b"",
    *,
    is_bidirectional: bool = False,
) -> Query[Authentication]:
    """06, or 07 both ways: answer the challenge."""
    task = _VERIFY_BIDIRECTIONAL if is_bidirectional else _VERIFY_UNIDIRECTIONAL
    parts = sized(proof, "proof"), sized(challenge, "challenge"), sized(additional, "additional parameter")
    return _query(task, _algorithm(algorithm), *parts)


def configuration() -> Query[Authentication]:
    """08: which way of authentication the ECU wants."""
    return _query(_CONFIGURATION)

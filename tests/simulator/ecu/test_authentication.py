"""0x29 and 0x84: who proves what to whom."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st
from udsoncan.Response import Response
from udsoncan.services.Authentication import Authentication

from simulator.ecu.authentication import ALGORITHM
from simulator.ecu.authority import certificate, private_key
from simulator.ecu.secured import cmac
from tests.simulator.ecu.support import Bench

WORLD = "outrider-test"
NOW = datetime.fromtimestamp(1_767_600_000, UTC)


@pytest.fixture
def bench() -> Bench:
    """A battery controller."""
    return Bench("battery")


def sized(data: bytes) -> bytes:
    """With its length in front."""
    return len(data).to_bytes(2, "big") + data


def interpret(answer: str) -> Authentication.ResponseData:
    """As udsoncan reads it."""
    response = Response.from_payload(bytes.fromhex(answer))
    return Authentication.interpret_response(response).service_data


def request(task: int, **parameters: bytes | int) -> bytes:
    """As udsoncan writes it."""
    payload: bytes = Authentication.make_request(task, **parameters).get_payload()  # type: ignore[arg-type]  # as named
    return payload


def proven(bench: Bench) -> str:
    """The tester shows its certificate and proves that it is its own."""
    good = certificate(WORLD, "tester", at=NOW)
    first = interpret(bench.one(request(1, communication_configuration=0, certificate_client=good)))
    assert first.return_value == 0x11
    assert first.challenge_server is not None
    proof = private_key(WORLD, "tester").sign(first.challenge_server)
    return bench.one(request(3, proof_of_ownership_client=proof, ephemeral_public_key_client=b""))


def test_certificate_and_proof_authenticate(bench: Bench) -> None:
    bench.one("10 03")
    assert bench.one("22 03 03") == "7F 22 34"
    assert interpret(proven(bench)).return_value == 0x12
    assert bench.one("22 03 03").startswith("62 03 03")


def test_authentication_survives_a_change_between_sessions_but_not_the_default_one(bench: Bench) -> None:
    proven(bench)
    bench.one("10 03")
    assert bench.one("22 03 03").startswith("62")
    bench.one("10 01")
    bench.one("10 03")
    assert bench.one("22 03 03") == "7F 22 34"


def test_leaving(bench: Bench) -> None:
    bench.one("10 03")
    proven(bench)
    assert interpret(bench.one("29 00")).return_value == 0x10
    assert bench.one("22 03 03") == "7F 22 34"


def test_both_sides_prove_themselves(bench: Bench) -> None:
    good, mine = certificate(WORLD, "tester", at=NOW), b"c" * 32
    answer = bench.one(request(2, communication_configuration=0, certificate_client=good, challenge_client=mine))
    found = interpret(answer)
    assert found.certificate_server is not None
    assert found.proof_of_ownership_server is not None
    own = x509.load_der_x509_certificate(found.certificate_server)
    private_key(WORLD, "authority").public_key().verify(own.signature, own.tbs_certificate_bytes)
    key = own.public_key()
    assert isinstance(key, Ed25519PublicKey)
    key.verify(found.proof_of_ownership_server, mine)


def test_challenge_and_response_of_both(bench: Bench) -> None:
    first = interpret(bench.one(request(5, communication_configuration=0, algorithm_indicator=ALGORITHM)))
    assert first.challenge_server is not None
    mine = b"m" * 32
    proof = private_key(WORLD, "tester").sign(first.challenge_server + mine)
    found = interpret(
        bench.one(request(7, algorithm_indicator=ALGORITHM, proof_of_ownership_client=proof, challenge_client=mine))
    )
    assert found.return_value == 0x12
    assert found.proof_of_ownership_server is not None
    ecu = private_key(WORLD, "ecu:battery").public_key()
    ecu.verify(found.proof_of_ownership_server, mine + first.challenge_server)
    with pytest.raises(InvalidSignature):
        ecu.verify(found.proof_of_ownership_server, mine)
    assert bench.context.authenticated


@pytest.mark.parametrize(
    ("given_", "nrc"),
    [
        (b"no certificate", 0x54),
        (certificate("stranger", "tester", at=NOW), 0x52),
        (certificate(WORLD, "tester", at=NOW, signer="tester"), 0x51),
        (certificate(WORLD, "tester", at=NOW - timedelta(days=9), valid=timedelta(days=1)), 0x50),
        (certificate(WORLD, "tester", at=NOW + timedelta(days=9), valid=timedelta(days=1)), 0x50),
        (certificate(WORLD, "tester", at=NOW, client=False), 0x53),
        (certificate(WORLD, "tester", at=NOW, scope="catering"), 0x56),
    ],
)
def test_a_certificate_is_refused(bench: Bench, given_: bytes, nrc: int) -> None:
    assert bench.one(b"\x29\x01\x00" + sized(given_) + sized(b"")) == f"7F 29 {nrc:02X}"
    assert bench.one(b"\x29\x03" + sized(b"p" * 64) + sized(b"")) == "7F 29 24"


def test_a_wrong_proof_uses_up_the_challenge(bench: Bench) -> None:
    good = certificate(WORLD, "tester", at=NOW)
    first = interpret(bench.one(b"\x29\x01\x00" + sized(good) + sized(b"")))
    assert bench.one(b"\x29\x03" + sized(b"p" * 64) + sized(b"")) == "7F 29 58"
    assert first.challenge_server is not None
    proof = private_key(WORLD, "tester").sign(first.challenge_server)
    assert bench.one(b"\x29\x03" + sized(proof) + sized(b"")) == "7F 29 24"
    assert not bench.context.authenticated


def test_a_challenge_of_one_way_is_no_good_for_the_other(bench: Bench) -> None:
    interpret(bench.one(b"\x29\x01\x00" + sized(certificate(WORLD, "tester", at=NOW)) + sized(b"")))
    body = ALGORITHM + sized(b"p" * 64) + sized(b"c" * 32) + sized(b"")
    assert bench.one(b"\x29\x06" + body) == "7F 29 24"


def test_an_altered_certificate_is_never_believed(bench: Bench) -> None:
    good = certificate(WORLD, "tester", at=NOW)
    for at in range(0, len(good), 7):
        bad = bytearray(good)
        bad[at] ^= 0x01
        assert bench.one(b"\x29\x01\x00" + sized(bytes(bad)) + sized(b"")).startswith("7F 29 5")


@pytest.mark.parametrize(
    ("request_", "nrc"),
    [("29 01", 0x13), ("29 01 00 00 05 00", 0x13), ("29 00 00", 0x13), ("29 09", 0x12), ("29 05 01" + "00" * 16, 0x31)],
)
def test_authentication_is_refused(bench: Bench, request_: str, nrc: int) -> None:
    assert bench.one(request_) == f"7F 29 {nrc:02X}"


def secured(bench: Bench, inner: str, counter: int, *, flags: int = 0x61) -> bytes:
    """A request in 0x84, signed."""
    head = flags.to_bytes(2, "big") + b"\x00" + (16).to_bytes(2, "big") + counter.to_bytes(2, "big")
    body = head + bytes.fromhex(inner)
    return b"\x84" + body + cmac(bytes.fromhex(bench.server.description.secured_key), body)


def test_secured_request_is_answered_and_signed(bench: Bench) -> None:
    answer = bytes.fromhex(bench.one(secured(bench, "22 F1 86", 7)))
    assert answer[:8] == bytes.fromhex("C4 0028 00 0010 0007")
    assert answer[8:-16] == bytes.fromhex("62 F186 01")
    assert answer[-16:] == cmac(bytes.fromhex(bench.server.description.secured_key), answer[1:-16])


def test_secured_negative_answer_is_inside(bench: Bench) -> None:
    assert bytes.fromhex(bench.one(secured(bench, "22 DE AD", 1, flags=0x21)))[8:] == bytes.fromhex("7F 22 31")


def test_secured_long_work_is_pending(bench: Bench) -> None:
    bench.one("10 03")
    bench.ask(secured(bench, "31 01 02 00", 1))
    sent = bench.advance(2.0)
    assert sent[0] == "7F 84 78"
    assert "71 01 02 00" in sent[-1]


def test_replay_is_refused_also_after_a_restart(bench: Bench) -> None:
    first = secured(bench, "22 F1 86", 7)
    bench.one(first)
    assert bench.one(first) == "7F 84 3A"
    bench.power_cycle()
    assert bench.one(first) == "7F 84 3A"
    assert bench.one(secured(bench, "22 F1 86", 8)).startswith("C4")


def test_secured_within_secured(bench: Bench) -> None:
    assert bench.one(secured(bench, "84 00", 1)) == "7F 84 39"


def test_encryption_is_refused(bench: Bench) -> None:
    assert bench.one(secured(bench, "22 F1 86", 1, flags=0x71)) == "7F 84 31"


@settings(deadline=None)
@given(at=st.integers(1, 26), bit=st.integers(0, 7))
def test_an_altered_secured_request_does_nothing(at: int, bit: int) -> None:
    bench = Bench("battery")
    altered = bytearray(secured(bench, "10 03", 5))
    altered[min(at, len(altered) - 1)] ^= 1 << bit
    assert bench.one(bytes(altered)).startswith("7F 84")
    assert bench.context.session == 1

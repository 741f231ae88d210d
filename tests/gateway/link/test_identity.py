"""An identity is a key and a certificate that fit, replaced as one, readable by the owner alone."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.errors import ConfigError, PeerError
from gateway.link.backoff import Backoff
from gateway.link.client import Refusal, classify
from gateway.link.identity import CLIENT_FILE, Identity, KeyRequest, make_key_request
from gateway.wire.api import EnrolReply

BEGIN = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
END = datetime.datetime(2026, 4, 1, tzinfo=datetime.UTC)


def certificate_for(request: KeyRequest) -> str:
    ca_key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.load_pem_x509_csr(request.csr_pem.encode())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
    builder = x509.CertificateBuilder().subject_name(csr.subject).issuer_name(name).public_key(csr.public_key())
    builder = builder.serial_number(7).not_valid_before(BEGIN).not_valid_after(END)
    return builder.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def enrolled(directory: Path) -> tuple[Identity, KeyRequest]:
    identity, request = Identity(directory), make_key_request("VIN1")
    pem = certificate_for(request)
    identity.store("VIN1", request, EnrolReply(pem, pem, "https://localhost:8443"))
    return identity, request


def test_private_key_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    identity, _ = enrolled(tmp_path / "id")
    assert identity.exists
    assert identity.facts().vehicle == "VIN1"
    assert (tmp_path / "id" / CLIENT_FILE).stat().st_mode & 0o077 == 0
    assert isinstance(identity.tls_context(), ssl.SSLContext)


def test_certificate_over_another_key_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    identity, mine, other = Identity(tmp_path / "id"), make_key_request("VIN1"), make_key_request("VIN1")
    pem = certificate_for(other)
    with pytest.raises(PeerError, match="not over the key"):
        identity.store("VIN1", mine, EnrolReply(pem, pem, "https://localhost:8443"))
    with pytest.raises(PeerError, match="no certificate"):
        identity.store("VIN1", mine, EnrolReply("garbage", pem, "https://localhost:8443"))
    assert not identity.exists


def test_renewal_is_due_after_two_thirds_of_the_life(tmp_path: Path) -> None:
    identity, _ = enrolled(tmp_path / "id")
    due = BEGIN + (END - BEGIN) * 2 / 3
    assert not identity.needs_renewal(int((due - datetime.timedelta(seconds=1)).timestamp() * 1e9))
    assert identity.needs_renewal(int((due + datetime.timedelta(seconds=1)).timestamp() * 1e9))


def test_renewed_pair_replaces_the_old_one_and_a_refused_one_leaves_it(tmp_path: Path) -> None:
    identity, _ = enrolled(tmp_path / "id")
    before = (tmp_path / "id" / CLIENT_FILE).read_bytes()
    fresh = make_key_request("VIN1")
    with pytest.raises(PeerError):
        identity.renew(fresh, certificate_for(make_key_request("VIN1")), "")
    assert (tmp_path / "id" / CLIENT_FILE).read_bytes() == before
    pem = certificate_for(fresh)
    identity.renew(fresh, pem, pem)
    assert (tmp_path / "id" / CLIENT_FILE).read_bytes() == fresh.key_pem + pem.encode()
    assert sorted(p.name for p in (tmp_path / "id").iterdir()) == ["ca.pem", "client.pem", "identity.json"]


def test_missing_or_damaged_identity_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gateway enrol"):
        Identity(tmp_path).facts()
    identity, _ = enrolled(tmp_path / "id")
    (tmp_path / "id" / CLIENT_FILE).write_text("cut")
    with pytest.raises(ConfigError, match="unusable"):
        identity.tls_context()
    with pytest.raises(ConfigError, match=r"client\.pem"):
        identity.certificate()


@pytest.mark.parametrize(
    ("status", "refusal"),
    [
        (401, Refusal.IDENTITY),
        (403, Refusal.IDENTITY),
        (413, Refusal.TOO_LARGE),
        (429, Refusal.LATER),
        (500, Refusal.LATER),
        (503, Refusal.LATER),
        (302, Refusal.OTHER),
        (404, Refusal.OTHER),
    ],
)
def test_answers_are_sorted_by_what_helps(status: int, refusal: Refusal) -> None:
    error = classify(status, "7", b'{"detail": "because", "n": {"x": [1]}}')
    assert (error.refusal, error.retry_after_s, error.detail) == (refusal, 7.0, "because")


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b"\xff\xfe", b'{"detail": 5}'])
def test_unreadable_answer_is_still_an_answer(body: bytes) -> None:
    error = classify(502, "Fri, 31 Dec 1999 23:59:59 GMT", body)
    assert (error.refusal, error.retry_after_s) == (Refusal.LATER, 0.0)


def test_backoff_grows_to_its_ceiling_jitters_and_honours_the_server() -> None:
    low, high = Backoff(1, 60, lambda: 0.0), Backoff(1, 60, lambda: 0.999999)
    assert [low.failed() for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert [round(high.failed(), 2) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert low.failed(at_least_s=100) == 100
    low.succeeded()
    assert low.failed() == 0.5

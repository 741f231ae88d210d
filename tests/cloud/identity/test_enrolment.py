"""Tokens are good once, for one vehicle, for a while; CSRs are taken for their key alone."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from cloud.clock import ManualClock
from cloud.db import Base
from cloud.errors import InvalidInput
from cloud.identity.authority import Authority, check_vehicle_id, create_ca
from tests.cloud.support import Cloud, cloud_in, make_batch, make_check_in, make_csr, make_manifest

NOW_NS = 1_700_000_000_000_000_000
DAY_NS = 86_400_000_000_000


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority(*create_ca("test CA", now_ns=NOW_NS))


def issue(authority: Authority, csr: str) -> x509.Certificate:
    issued = authority.issue_vehicle(csr, "VIN1", now_ns=NOW_NS, life_ns=90 * DAY_NS)
    return x509.load_pem_x509_certificate(issued.pem.encode())


def test_certificate_names_the_vehicle_and_nothing_of_the_csr(authority: Authority) -> None:
    key, _ = make_csr()
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "VIN2")]))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("cloud.example")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate = issue(authority, csr.public_bytes(serialization.Encoding.PEM).decode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [(type(n), n.value) for n in names] == [(x509.UniformResourceIdentifier, "urn:outrider:vehicle:VIN1")]
    assert certificate.subject.rfc4514_string() == "CN=VIN1"
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_certificate_lives_as_long_as_configured_and_never_longer_than_the_ca(authority: Authority) -> None:
    _, csr = make_csr()
    days = (issue(authority, csr).not_valid_after_utc - issue(authority, csr).not_valid_before_utc).days
    assert days == 90
    issued = authority.issue_vehicle(csr, "VIN1", now_ns=NOW_NS, life_ns=100_000 * DAY_NS)
    certificate = x509.load_pem_x509_certificate(issued.pem.encode())
    assert certificate.not_valid_after_utc == authority.certificate.not_valid_after_utc


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()])
def test_p256_and_ed25519_keys_are_taken(authority: Authority, key: Any) -> None:
    _, csr = make_csr(key)
    assert issue(authority, csr).public_key() == key.public_key()


@pytest.mark.parametrize("kind", ["rsa", "p384", "secp256k1"])
def test_other_keys_are_refused(authority: Authority, kind: str) -> None:
    key: Any = (
        rsa.generate_private_key(65537, 2048)
        if kind == "rsa"
        else ec.generate_private_key(ec.SECP384R1() if kind == "p384" else ec.SECP256K1())
    )
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    with pytest.raises(InvalidInput, match="P-256 or Ed25519"):
        issue(authority, csr.public_bytes(serialization.Encoding.PEM).decode())


def test_csr_with_a_broken_signature_is_refused(authority: Authority) -> None:
    _, csr = make_csr()
    der = bytearray(x509.load_pem_x509_csr(csr.encode()).public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    body = base64.encodebytes(bytes(der)).decode()
    broken = f"-----BEGIN CERTIFICATE REQUEST-----\n{body}-----END CERTIFICATE REQUEST-----\n"
    with pytest.raises(InvalidInput):
        issue(authority, broken)


@given(st.text(max_size=200))
def test_any_text_as_csr_is_refused_in_words(text: str) -> None:
    with pytest.raises(InvalidInput):
        Authority(*create_ca("x", now_ns=NOW_NS)).issue_vehicle(text, "VIN1", now_ns=NOW_NS, life_ns=DAY_NS)


@pytest.mark.parametrize("name", ["", "a/b", "../x", "a b", "-a", "ä", "a" * 65, "a\n", "a:b", "%2e"])
def test_vehicle_ids_that_could_mean_something_in_a_path_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        check_vehicle_id(name)


async def enrol(cloud: Cloud, token: str, vehicle: str = "VIN1") -> tuple[int, str]:
    _, csr = make_csr()
    answer = await cloud.operator.post("/v1/enrol", json={"token": token, "vehicle": vehicle, "csr_pem": csr})
    return answer.status_code, answer.text


async def new_token(cloud: Cloud, vehicle: str = "VIN1", **order: int) -> str:
    operator = await cloud.logged_in("operator")
    await operator.post("/api/v1/vehicles", json={"id": vehicle})
    answer = await operator.post(f"/api/v1/vehicles/{vehicle}/tokens", json=order)
    assert answer.status_code == 201
    token: str = answer.json()["token"]
    return token


@pytest.mark.anyio
async def test_token_is_good_once_even_for_two_at_the_same_time(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        token = await new_token(cloud)
        answers = await asyncio.gather(*(enrol(cloud, token) for _ in range(5)))
        assert sorted(status for status, _ in answers) == [200, 403, 403, 403, 403]
        viewer = await cloud.logged_in("viewer")
        assert len((await viewer.get("/api/v1/vehicles/VIN1/certificates")).json()) == 1


@pytest.mark.anyio
async def test_token_is_good_for_its_vehicle_only_and_not_spent_on_another(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        token = await new_token(cloud)
        await new_token(cloud, "VIN2")
        assert (await enrol(cloud, token, "VIN2"))[0] == 403
        assert (await enrol(cloud, token))[0] == 200


@pytest.mark.anyio
async def test_token_expires_and_can_be_withdrawn(tmp_path: Path) -> None:
    clock = ManualClock()
    async with cloud_in(tmp_path, clock) as cloud:
        token = await new_token(cloud, ttl_s=10)
        clock.advance_s(11)
        assert (await enrol(cloud, token))[0] == 403
        token = await new_token(cloud)
        operator = await cloud.logged_in("operator")
        tokens = (await operator.get("/api/v1/vehicles/VIN1/tokens")).json()
        assert [t["state"] for t in tokens] == ["open", "expired"]
        path = f"/api/v1/vehicles/VIN1/tokens/{tokens[0]['id']}"
        assert (await operator.delete(path)).status_code == 204
        assert (await enrol(cloud, token))[0] == 403


@pytest.mark.anyio
async def test_bad_csr_does_not_spend_the_token(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        token = await new_token(cloud)
        body = {"token": token, "vehicle": "VIN1", "csr_pem": "nonsense"}
        assert (await cloud.operator.post("/v1/enrol", json=body)).status_code == 400
        assert (await enrol(cloud, token))[0] == 200


@pytest.mark.anyio
async def test_attempts_to_enrol_are_limited(tmp_path: Path) -> None:
    async with cloud_in(tmp_path, ManualClock(), authority={}, ingest={"enrol_attempts": 3}) as cloud:
        statuses = [(await enrol(cloud, "ort_guess"))[0] for _ in range(5)]
        assert statuses == [403, 403, 403, 429, 429]


@pytest.mark.anyio
async def test_secrets_of_tokens_are_stored_nowhere(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        token = await new_token(cloud)
        operator = await cloud.logged_in("operator")
        assert token not in (await operator.get("/api/v1/vehicles/VIN1/tokens")).text
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert not any(token.encode() in p.read_bytes() for p in files)


@pytest.mark.anyio
async def test_revoked_vehicle_needs_reinstating_and_a_new_token(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        token = await new_token(cloud)
        operator = await cloud.logged_in("operator")
        await operator.post("/api/v1/vehicles/VIN1/revoke", json={})
        assert (await enrol(cloud, token))[0] == 403
        assert (await operator.post("/api/v1/vehicles/VIN1/tokens", json={})).status_code == 409
        await operator.post("/api/v1/vehicles/VIN1/reinstate")
        assert (await enrol(cloud, token))[0] == 403
        assert (await enrol(cloud, await new_token(cloud)))[0] == 200


@pytest.mark.anyio
async def test_erasing_a_vehicle_leaves_nothing_but_the_audit_trail(tmp_path: Path) -> None:
    async with cloud_in(tmp_path) as cloud:
        vehicle = await cloud.enrolled("VIN-ERASE")
        await vehicle.send_manifest(make_manifest())
        await vehicle.upload(make_batch(1))
        await vehicle.upload(b"garbage")
        await vehicle.check_in(make_check_in())
        admin = await cloud.logged_in("admin")
        assert (await admin.delete("/api/v1/vehicles/VIN-ERASE")).status_code == 204
        assert (await admin.get("/api/v1/vehicles/VIN-ERASE")).status_code == 404
        left = {}
        async with cloud.services.db.read() as session:
            for table in Base.metadata.sorted_tables:
                column = next((c for c in ("vehicle_id", "id") if c in table.columns), None)
                if column is None or table.name in {"audit", "lake_deletions"}:  # these say that it was erased
                    continue
                query = text(f"SELECT count(*) FROM {table.name} WHERE {column} = 'VIN-ERASE'")
                left[table.name] = (await session.execute(query)).scalar_one()
        assert len(left) > 10
        assert {name: count for name, count in left.items() if count} == {}
        answer = await vehicle.http.post("/v1/batches", content=make_batch(2))
        assert answer.status_code == 403

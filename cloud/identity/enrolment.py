"""Enrolment by one-time token, renewal under the present certificate, and revocation."""

from __future__ import annotations

import hashlib
import secrets

import msgspec
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from cloud.auth.audit import Actor, record
from cloud.clock import Clock
from cloud.config import Authority as AuthorityConfig
from cloud.db import Database
from cloud.errors import Conflict, InvalidInput, NotAllowed, NotFound, TooMany
from cloud.identity.authority import Authority, Issued, check_vehicle_id
from cloud.identity.signing import OrderSigner
from cloud.registry.model import CertificateRow, EnrolTokenRow, VehicleRow, VehicleState

TOKEN_PREFIX = "ort_"
BAD_TOKEN = "the token is unknown, used, expired, or made for another vehicle"
MAX_REASON_CHARS = 400


class TokenView(msgspec.Struct, frozen=True):
    """A token without its secret."""

    id: int
    vehicle: str
    created_ns: int
    created_by: str
    expires_ns: int
    state: str  # "open", "used", "expired", "withdrawn"


class NewToken(msgspec.Struct, frozen=True):
    """The only moment a token is seen."""

    id: int
    vehicle: str
    token: str
    expires_ns: int


class CertificateView(msgspec.Struct, frozen=True):
    """A certificate the CA has issued."""

    serial: str
    issued_ns: int
    not_before_ns: int
    not_after_ns: int
    issued_for: str
    state: str  # "valid", "expired", "revoked"
    revoked_ns: int | None
    revoked_reason: str


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


class Enrolment:
    """Who may speak for a vehicle."""

    def __init__(self, db: Database, clock: Clock, config: AuthorityConfig) -> None:
        self._db, self._clock, self._config = db, clock, config
        self.authority: Authority | None = None  # set when the service opens
        self.signer: OrderSigner | None = None  # likewise

    @property
    def ca_pem(self) -> str:
        """The trust anchor vehicles get."""
        return self._authority.pem

    @property
    def order_key(self) -> str:
        """The public key (hexadecimal) whose orders vehicles shall obey."""
        return self.signer.public_hex if self.signer else ""

    @property
    def _authority(self) -> Authority:
        if self.authority is None:
            raise RuntimeError("the CA is not loaded")
        return self.authority

    async def make_token(self, vehicle_id: str, actor: Actor, *, ttl_s: int | None = None) -> NewToken:
        """A token for one enrolment of one vehicle.

        Raises:
            NotFound: no such vehicle.
            Conflict: it is revoked.
            InvalidInput: the lifetime is out of range.
        """
        life_s = self._config.token_ttl_s if ttl_s is None else ttl_s
        if not 1 <= life_s <= self._config.token_ttl_max_s:
            raise InvalidInput(f"a token lives 1 to {self._config.token_ttl_max_s} seconds", where="ttl_s")
        token = TOKEN_PREFIX + secrets.token_urlsafe(32)
        now_ns = self._clock.now_ns()
        async with self._db.write() as session:
            vehicle = await _vehicle(session, vehicle_id)
            if vehicle.state == VehicleState.REVOKED:
                raise Conflict(f"vehicle {vehicle_id} is revoked; reinstate it first")
            row = EnrolTokenRow(
                vehicle_id=vehicle_id,
                hash=_hash(token),
                created_ns=now_ns,
                created_by=actor.name[:64],
                expires_ns=now_ns + life_s * 1_000_000_000,
            )
            session.add(row)
            record(session, actor, now_ns, "token.create", vehicle_id, f"lives {life_s} s")
            await session.flush()
            return NewToken(row.id, vehicle_id, token, row.expires_ns)

    async def tokens(self, vehicle_id: str, limit: int = 100) -> list[TokenView]:
        """The vehicle's newest tokens, newest first."""
        now_ns = self._clock.now_ns()
        async with self._db.read() as session:
            await _vehicle(session, vehicle_id)
            rows = await session.scalars(
                select(EnrolTokenRow)
                .where(EnrolTokenRow.vehicle_id == vehicle_id)
                .order_by(EnrolTokenRow.id.desc())
                .limit(limit)
            )
            return [
                TokenView(r.id, r.vehicle_id, r.created_ns, r.created_by, r.expires_ns, _token_state(r, now_ns))
                for r in rows
            ]

    async def withdraw_token(self, vehicle_id: str, token_id: int, actor: Actor) -> None:
        """Make an open token useless.

        Raises:
            NotFound: the vehicle has no such token.
            Conflict: it is used, expired or withdrawn already.
        """
        now_ns = self._clock.now_ns()
        async with self._db.write() as session:
            row = await session.get(EnrolTokenRow, token_id)
            if row is None or row.vehicle_id != vehicle_id:
                raise NotFound(f"vehicle {vehicle_id} has no token {token_id}")
            state = _token_state(row, now_ns)
            if state != "open":
                raise Conflict(f"the token is {state}")
            row.withdrawn_ns = now_ns
            record(session, actor, now_ns, "token.withdraw", vehicle_id, f"token {token_id}")

    async def enrol(self, token: str, vehicle_id: str, csr_pem: str, address: str) -> Issued:
        """Trade a token for the first certificate. Token and certificate change in one transaction, so that of two
        calls with one token at most one succeeds.

        Raises:
            InvalidInput: bad id or CSR; the token stays good.
            NotAllowed: the token is not good for this vehicle.
        """
        issued = self._issue(csr_pem, check_vehicle_id(vehicle_id))
        now_ns = self._clock.now_ns()
        actor = Actor(f"vehicle:{vehicle_id}", address)
        async with self._db.write() as session:
            consumed = await session.execute(
                update(EnrolTokenRow)
                .where(
                    EnrolTokenRow.hash == _hash(token),
                    EnrolTokenRow.vehicle_id == vehicle_id,
                    EnrolTokenRow.used_ns.is_(None),
                    EnrolTokenRow.withdrawn_ns.is_(None),
                    EnrolTokenRow.expires_ns > now_ns,
                )
                .values(used_ns=now_ns)
                .execution_options(synchronize_session=False)
                .returning(EnrolTokenRow.id)
            )
            token_ids = consumed.scalars().all()
            vehicle = await session.get(VehicleRow, vehicle_id)
            if not token_ids or vehicle is None:
                raise NotAllowed(BAD_TOKEN)
            if vehicle.state == VehicleState.REVOKED:
                raise NotAllowed("this vehicle is revoked")
            vehicle.state = VehicleState.ENROLLED
            vehicle.enrolled_ns = now_ns
            self._register(session, issued, vehicle_id, "enrolment")
            record(session, actor, now_ns, "vehicle.enrol", vehicle_id, f"certificate {issued.serial}")
        return issued

    async def renew(self, vehicle_id: str, csr_pem: str, address: str) -> Issued:
        """A new certificate for a vehicle whose present one was just checked. The old one stays valid.

        Raises:
            InvalidInput: bad CSR.
            NotAllowed: revoked meanwhile.
            TooMany: too many certificates are valid at once.
        """
        issued = self._issue(csr_pem, vehicle_id)
        now_ns = self._clock.now_ns()
        async with self._db.write() as session:
            vehicle = await session.get(VehicleRow, vehicle_id)
            if vehicle is None or vehicle.state != VehicleState.ENROLLED:
                raise NotAllowed("this vehicle is revoked")
            valid = await session.scalar(
                select(func.count()).where(
                    CertificateRow.vehicle_id == vehicle_id,
                    CertificateRow.revoked_ns.is_(None),
                    CertificateRow.not_after_ns > now_ns,
                )
            )
            if (valid or 0) >= self._config.max_certificates_per_vehicle:
                raise TooMany(f"{valid} certificates of this vehicle are valid already", retry_after_s=3600)
            self._register(session, issued, vehicle_id, "renewal")
            actor = Actor(f"vehicle:{vehicle_id}", address)
            record(session, actor, now_ns, "certificate.renew", vehicle_id, f"certificate {issued.serial}")
        return issued

    def _issue(self, csr_pem: str, vehicle_id: str) -> Issued:
        life_ns = self._config.vehicle_certificate_days * 86_400_000_000_000
        return self._authority.issue_vehicle(csr_pem, vehicle_id, now_ns=self._clock.now_ns(), life_ns=life_ns)

    def _register(self, session: AsyncSession, issued: Issued, vehicle_id: str, issued_for: str) -> None:
        session.add(
            CertificateRow(
                serial=issued.serial,
                vehicle_id=vehicle_id,
                issued_ns=self._clock.now_ns(),
                not_before_ns=issued.not_before_ns,
                not_after_ns=issued.not_after_ns,
                issued_for=issued_for,
            )
        )

    async def certificates(self, vehicle_id: str, limit: int = 200) -> list[CertificateView]:
        """The vehicle's newest certificates, newest first."""
        now_ns = self._clock.now_ns()
        async with self._db.read() as session:
            await _vehicle(session, vehicle_id)
            rows = await session.scalars(
                select(CertificateRow)
                .where(CertificateRow.vehicle_id == vehicle_id)
                .order_by(CertificateRow.issued_ns.desc(), CertificateRow.serial)
                .limit(limit)
            )
            return [_certificate_view(row, now_ns) for row in rows]

    async def revoke_certificate(self, vehicle_id: str, serial: str, reason: str, actor: Actor) -> CertificateView:
        """End one certificate; in force at the vehicle's next request. Revoking twice keeps the first time.

        Raises:
            NotFound: the vehicle has no such certificate.
        """
        now_ns = self._clock.now_ns()
        async with self._db.write() as session:
            row = await session.get(CertificateRow, serial.lower())
            if row is None or row.vehicle_id != vehicle_id:
                raise NotFound(f"vehicle {vehicle_id} has no certificate {serial}")
            if row.revoked_ns is None:
                row.revoked_ns, row.revoked_reason = now_ns, reason[:MAX_REASON_CHARS]
                record(session, actor, now_ns, "certificate.revoke", vehicle_id, f"certificate {serial}: {reason}")
            return _certificate_view(row, now_ns)

    async def revoke_vehicle(self, vehicle_id: str, reason: str, actor: Actor) -> None:
        """End all certificates and open tokens of a vehicle; in force at its next request.

        Raises:
            NotFound: no such vehicle.
        """
        now_ns = self._clock.now_ns()
        async with self._db.write() as session:
            vehicle = await _vehicle(session, vehicle_id)
            if vehicle.state == VehicleState.REVOKED:
                return
            vehicle.state, vehicle.revoked_ns = VehicleState.REVOKED, now_ns
            vehicle.revoked_reason = reason[:MAX_REASON_CHARS]
            await session.execute(
                update(CertificateRow)
                .where(CertificateRow.vehicle_id == vehicle_id, CertificateRow.revoked_ns.is_(None))
                .values(revoked_ns=now_ns, revoked_reason=f"vehicle revoked: {reason}"[:MAX_REASON_CHARS])
                .execution_options(synchronize_session=False)
            )
            await session.execute(
                update(EnrolTokenRow)
                .where(
                    EnrolTokenRow.vehicle_id == vehicle_id,
                    EnrolTokenRow.used_ns.is_(None),
                    EnrolTokenRow.withdrawn_ns.is_(None),
                )
                .values(withdrawn_ns=now_ns)
                .execution_options(synchronize_session=False)
            )
            record(session, actor, now_ns, "vehicle.revoke", vehicle_id, reason)

    async def reinstate_vehicle(self, vehicle_id: str, actor: Actor) -> None:
        """Let a revoked vehicle enrol again, with a new token; its old certificates stay revoked.

        Raises:
            NotFound: no such vehicle.
            Conflict: it is not revoked.
        """
        now_ns = self._clock.now_ns()
        async with self._db.write() as session:
            vehicle = await _vehicle(session, vehicle_id)
            if vehicle.state != VehicleState.REVOKED:
                raise Conflict(f"vehicle {vehicle_id} is not revoked")
            vehicle.state, vehicle.revoked_ns, vehicle.revoked_reason = VehicleState.NEW, None, ""
            record(session, actor, now_ns, "vehicle.reinstate", vehicle_id)


async def _vehicle(session: AsyncSession, vehicle_id: str) -> VehicleRow:
    vehicle = await session.get(VehicleRow, vehicle_id)
    if vehicle is None:
        raise NotFound(f"there is no vehicle {vehicle_id!r}")
    return vehicle


def _token_state(row: EnrolTokenRow, now_ns: int) -> str:
    if row.used_ns is not None:
        return "used"
    if row.withdrawn_ns is not None:
        return "withdrawn"
    return "expired" if row.expires_ns <= now_ns else "open"


def _certificate_view(row: CertificateRow, now_ns: int) -> CertificateView:
    state = "revoked" if row.revoked_ns is not None else "expired" if row.not_after_ns <= now_ns else "valid"
    return CertificateView(
        row.serial,
        row.issued_ns,
        row.not_before_ns,
        row.not_after_ns,
        row.issued_for,
        state,
        row.revoked_ns,
        row.revoked_reason,
    )

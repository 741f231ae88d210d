"""Users, passwords, sessions and bearer tokens. Speaks structs and ``cloud.errors``; knows nothing of HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets

import jwt
import msgspec
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from cloud.auth.audit import Actor, record
from cloud.auth.model import Operator, Role, SessionRow, UserRow
from cloud.clock import Clock
from cloud.config import Sessions
from cloud.db import Database
from cloud.errors import Conflict, InvalidInput, NotAllowed, NotAuthenticated, NotFound, TooMany
from cloud.ingest.limits import Buckets

USER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
MIN_PASSWORD_CHARS, MAX_PASSWORD_CHARS = 10, 1024
ISSUER = "outrider"
BAD_LOGIN = "name or password is wrong"


class UserView(msgspec.Struct, frozen=True):
    """A user without secrets."""

    name: str
    role: str
    disabled: bool
    created_ns: int
    last_login_ns: int | None


def _view(row: UserRow) -> UserView:
    return UserView(row.name, row.role, row.disabled, row.created_ns, row.last_login_ns)


def check_password(password: str) -> str:
    """The password, when it may be used. Long, not complicated."""
    if not MIN_PASSWORD_CHARS <= len(password) <= MAX_PASSWORD_CHARS:
        raise InvalidInput(f"a password has {MIN_PASSWORD_CHARS} to {MAX_PASSWORD_CHARS} characters", where="password")
    return password


def _role(label: str) -> Role:
    try:
        return Role.of(label)
    except KeyError:
        raise InvalidInput("the role is viewer, operator or admin", where="role") from None


class Users:
    """The operators of one cloud."""

    def __init__(self, db: Database, clock: Clock, config: Sessions) -> None:
        self._db, self._clock, self._config = db, clock, config
        self._hasher = PasswordHasher(
            time_cost=config.argon2_time_cost, memory_cost=config.argon2_memory_kib, parallelism=1
        )
        self._nobody = self._hasher.hash(secrets.token_hex(16))
        rate = config.login_attempts / config.login_window_s
        self._by_name = Buckets(rate, config.login_attempts, capacity=10_000)
        self._by_address = Buckets(rate, config.login_attempts, capacity=10_000)
        self._hashing = asyncio.Semaphore(2)  # each hash takes tens of MiB
        self.secret = b""  # set when the service opens

    async def login(self, name: str, password: str, actor: Actor) -> Operator:
        """Check name and password.

        Raises:
            TooMany: this name or address tried too often.
            NotAuthenticated: wrong, or the user is disabled; never tells which.
        """
        now_ns = self._clock.monotonic_ns()
        wait_s = max(self._by_name.try_take(name[:64], now_ns), self._by_address.try_take(actor.address or "-", now_ns))
        if wait_s > 0:
            raise TooMany("too many attempts to log in", retry_after_s=wait_s)
        async with self._db.read() as session:
            row = await session.get(UserRow, name)
        good = await self._verify(row.password_hash if row else self._nobody, password)
        if row is None or not good or row.disabled:
            raise NotAuthenticated(BAD_LOGIN)
        async with self._db.write() as session:
            fresh = await session.get(UserRow, name)
            if fresh is None:
                raise NotAuthenticated(BAD_LOGIN)
            fresh.last_login_ns = self._clock.now_ns()
            record(session, actor, self._clock.now_ns(), "user.login", name)
        return Operator(row.name, Role.of(row.role))

    async def _verify(self, password_hash: str, password: str) -> bool:
        def verify() -> bool:
            try:
                return self._hasher.verify(password_hash, password[:MAX_PASSWORD_CHARS])
            except (VerificationError, InvalidHashError):
                return False

        async with self._hashing:
            return await asyncio.to_thread(verify)

    async def _hash(self, password: str) -> str:
        check_password(password)
        async with self._hashing:
            return await asyncio.to_thread(self._hasher.hash, password)

    async def start_session(self, name: str) -> tuple[str, float]:
        """A new browser session: ``(cookie value, seconds it lives)``. The user's oldest ones end beyond a limit."""
        cookie = secrets.token_urlsafe(32)
        now_ns = self._clock.now_ns()
        life_s = self._config.cookie_hours * 3600
        async with self._db.write() as session:
            user = await session.get(UserRow, name)
            if user is None:
                raise NotAuthenticated(BAD_LOGIN)
            await session.execute(delete(SessionRow).where(SessionRow.expires_ns <= now_ns))
            old = await session.scalars(
                select(SessionRow.hash)
                .where(SessionRow.user_name == name)
                .order_by(SessionRow.created_ns.desc())
                .offset(self._config.max_sessions_per_user - 1)
            )
            await session.execute(delete(SessionRow).where(SessionRow.hash.in_(old.all())))
            session.add(
                SessionRow(
                    hash=_hash_token(cookie),
                    user_name=name,
                    user_version=user.version,
                    created_ns=now_ns,
                    expires_ns=now_ns + int(life_s * 1e9),
                )
            )
        return cookie, life_s

    async def end_session(self, cookie: str) -> None:
        """Forget a session; an unknown one is no error."""
        async with self._db.write() as session:
            await session.execute(delete(SessionRow).where(SessionRow.hash == _hash_token(cookie)))

    async def from_cookie(self, cookie: str) -> Operator | None:
        """The operator of a session that is alive."""
        async with self._db.read() as session:
            found = (
                await session.execute(
                    select(UserRow, SessionRow).join(SessionRow).where(SessionRow.hash == _hash_token(cookie))
                )
            ).first()
        if found is None:
            return None
        user, row = found
        if row.expires_ns <= self._clock.now_ns() or user.disabled or user.version != row.user_version:
            return None
        return Operator(user.name, Role.of(user.role), by_cookie=True)

    async def make_token(self, name: str) -> tuple[str, int]:
        """A bearer token for REST: ``(JWT, expiry in UTC ns)``."""
        async with self._db.read() as session:
            user = await session.get(UserRow, name)
        if user is None:
            raise NotAuthenticated(BAD_LOGIN)
        now_s = self._clock.now_ns() // 1_000_000_000
        expires_s = now_s + int(self._config.token_minutes * 60)
        claims = {"sub": name, "iss": ISSUER, "iat": now_s, "exp": expires_s, "ver": user.version}
        return jwt.encode(claims, self.secret, algorithm="HS256"), expires_s * 1_000_000_000

    async def from_token(self, token: str) -> Operator | None:
        """The operator of a bearer token that is valid now and whose user still has the same password and role."""
        try:
            claims = jwt.decode(
                token,
                self.secret,
                algorithms=["HS256"],
                issuer=ISSUER,
                options={"verify_exp": False, "verify_iat": False, "require": ["sub", "exp", "ver"]},
            )
            name, expires_s, version = str(claims["sub"]), float(claims["exp"]), int(claims["ver"])
        except (jwt.InvalidTokenError, TypeError, ValueError):
            return None
        if expires_s * 1e9 <= self._clock.now_ns():
            return None
        async with self._db.read() as session:
            user = await session.get(UserRow, name)
        if user is None or user.disabled or user.version != version:
            return None
        return Operator(user.name, Role.of(user.role))

    async def list(self) -> list[UserView]:
        """All users by name."""
        async with self._db.read() as session:
            return [_view(row) for row in await session.scalars(select(UserRow).order_by(UserRow.name))]

    async def add(self, name: str, password: str, role: str, actor: Actor) -> UserView:
        """Create a user.

        Raises:
            InvalidInput: bad name, password or role.
            Conflict: the name is taken.
        """
        if not USER_NAME.fullmatch(name):
            raise InvalidInput("a user name has 1 to 64 of A-Z a-z 0-9 . _ @ -", where="name")
        row = UserRow(
            name=name,
            password_hash=await self._hash(password),
            role=_role(role).label,
            disabled=False,
            version=1,
            created_ns=self._clock.now_ns(),
        )
        async with self._db.write() as session:
            if await session.get(UserRow, name) is not None:
                raise Conflict(f"there is a user {name!r} already")
            session.add(row)
            record(session, actor, self._clock.now_ns(), "user.add", name, f"role={role}")
        return _view(row)

    async def change(
        self,
        name: str,
        actor: Actor,
        *,
        password: str | None = None,
        role: str | None = None,
        disabled: bool | None = None,
    ) -> UserView:
        """Change what is given; ends all sessions and tokens of the user.

        Raises:
            NotFound: no such user.
            Conflict: it would leave no admin who can log in.
        """
        password_hash = None if password is None else await self._hash(password)
        async with self._db.write() as session:
            row = await self._get(session, name)
            was_admin = _is_active_admin(row)
            if password_hash is not None:
                row.password_hash = password_hash
            if role is not None:
                row.role = _role(role).label
            if disabled is not None:
                row.disabled = disabled
            row.version += 1
            await session.execute(delete(SessionRow).where(SessionRow.user_name == name))
            if was_admin:
                await self._keep_an_admin(session)
            changed = ", ".join(
                text
                for text, given in (
                    ("password", password is not None),
                    (f"role={role}", role is not None),
                    (f"disabled={disabled}", disabled is not None),
                )
                if given
            )
            record(session, actor, self._clock.now_ns(), "user.change", name, changed)
        return _view(row)

    async def change_own_password(self, name: str, old: str, new: str, actor: Actor) -> None:
        """Like ``change`` for the caller's own password, which must be given.

        Raises:
            NotAllowed: the old password is wrong.
            TooMany: tried too often.
        """
        wait_s = self._by_name.try_take(name, self._clock.monotonic_ns())
        if wait_s > 0:
            raise TooMany("too many attempts", retry_after_s=wait_s)
        async with self._db.read() as session:
            row = await self._get(session, name)
        if not await self._verify(row.password_hash, old):
            raise NotAllowed("the old password is wrong")
        await self.change(name, actor, password=new)

    async def remove(self, name: str, actor: Actor) -> None:
        """Delete a user. Raises as ``change``."""
        async with self._db.write() as session:
            row = await self._get(session, name)
            was_admin = _is_active_admin(row)
            await session.delete(row)
            await session.flush()
            if was_admin:
                await self._keep_an_admin(session)
            record(session, actor, self._clock.now_ns(), "user.remove", name)

    async def _get(self, session: AsyncSession, name: str) -> UserRow:
        row = await session.get(UserRow, name)
        if row is None:
            raise NotFound(f"there is no user {name!r}")
        return row

    async def _keep_an_admin(self, session: AsyncSession) -> None:
        admins = await session.scalar(
            select(func.count()).where(UserRow.role == Role.ADMIN.label, UserRow.disabled.is_(False))
        )
        if not admins:
            raise Conflict("the last admin must stay")


def _is_active_admin(row: UserRow) -> bool:
    return row.role == Role.ADMIN.label and not row.disabled


def _hash_token(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()

"""How the ceremony reaches a cloud: by REST, or straight into the database of the machine it runs on."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import httpx
import msgspec

from cloud.app import build_services, running
from cloud.auth.audit import CLI
from cloud.config import load_config
from cloud.errors import Conflict, InvalidInput, NotAllowed, NotFound, Unavailable
from cloud.services import Services
from cloud.updates.images import SignRequest
from cloud.updates.keys import OnlineKeyFile
from cloud.updates.repository import Taken

T = TypeVar("T")
TIMEOUT_S = 60.0


class CloudDoor(Protocol):
    """What the ceremony asks of a cloud. Raises errors of ``cloud.errors``."""

    def online_keys(self) -> OnlineKeyFile:
        """The cloud's public keys."""

    def sign_request(self) -> SignRequest:
        """What is to be signed."""

    def pull(self, repository: str) -> dict[str, bytes]:
        """The metadata in force, by file name."""

    def push(self, repository: str, files: Mapping[str, bytes], drop: Iterable[str] = ()) -> Taken:
        """Bring signed metadata."""


class RestDoor:
    """Over HTTP with a bearer token."""

    def __init__(self, url: str, token: str, transport: httpx.BaseTransport | None = None) -> None:
        """``transport`` is for tests."""
        headers = {"authorization": f"Bearer {token}"}
        self._http = httpx.Client(
            base_url=f"{url.rstrip('/')}/api/v1", headers=headers, timeout=TIMEOUT_S, transport=transport
        )

    def online_keys(self) -> OnlineKeyFile:
        """See ``CloudDoor``."""
        return self._ask("GET", "/updates/online-keys", OnlineKeyFile)

    def sign_request(self) -> SignRequest:
        """See ``CloudDoor``."""
        return self._ask("GET", "/updates/sign-request", SignRequest)

    def pull(self, repository: str) -> dict[str, bytes]:
        """See ``CloudDoor``."""
        found = self._ask("GET", f"/updates/metadata/{repository}", dict[str, str])
        return {name: base64.b64decode(content) for name, content in found.items()}

    def push(self, repository: str, files: Mapping[str, bytes], drop: Iterable[str] = ()) -> Taken:
        """See ``CloudDoor``."""
        content = {name: base64.b64encode(data).decode() for name, data in files.items()}
        body = {"repository": repository, "files": content, "drop": list(drop)}
        return self._ask("POST", "/updates/metadata", Taken, body)

    def _ask(self, method: str, path: str, kind: type[T], body: object = None) -> T:
        try:
            answer = self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise Unavailable(f"{self._http.base_url}: {error}") from error
        if answer.status_code >= 400:
            raise _error(answer)
        try:
            return msgspec.json.decode(answer.content, type=kind)
        except msgspec.DecodeError as error:
            raise InvalidInput(f"{self._http.base_url} answered something else: {error}") from error


def _error(answer: httpx.Response) -> Exception:
    try:
        detail = str(answer.json().get("detail") or answer.json().get("title"))
    except ValueError:
        detail = answer.text[:200]
    kinds: dict[int, Callable[[str], Exception]] = {401: NotAllowed, 403: NotAllowed, 404: NotFound, 409: Conflict}
    make = kinds.get(answer.status_code, InvalidInput if answer.status_code < 500 else Unavailable)
    return make(f"the cloud answered {answer.status_code}: {detail}")


class LocalDoor:
    """Into the database that a configuration names; a running cloud sees it at once."""

    def __init__(self, config: Path) -> None:
        """``config``: the cloud's ``cloud.toml``."""
        self._config = config

    def online_keys(self) -> OnlineKeyFile:
        """See ``CloudDoor``."""

        async def work(services: Services) -> OnlineKeyFile:
            return services.updates.keys.newest()

        return self._run(work)

    def sign_request(self) -> SignRequest:
        """See ``CloudDoor``."""
        return self._run(lambda services: services.updates.images.sign_request())

    def pull(self, repository: str) -> dict[str, bytes]:
        """See ``CloudDoor``."""
        return self._run(lambda services: services.updates.repositories.files(repository))

    def push(self, repository: str, files: Mapping[str, bytes], drop: Iterable[str] = ()) -> Taken:
        """See ``CloudDoor``."""
        return self._run(lambda services: services.updates.repositories.take(repository, files, CLI, may_drop=drop))

    def _run(self, work: Callable[[Services], Awaitable[T]]) -> T:
        async def main() -> T:
            services = build_services(load_config(self._config))
            async with running(services, background=False):
                return await work(services)

        return asyncio.run(main())


def decode_file(path: Path, kind: type[T]) -> T:
    """A JSON file of the ceremony. ``InvalidInput``: not readable, or something else."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror}") from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidInput(f"{path}: {error}") from error


def pretty(value: Any) -> bytes:
    """A JSON file for people to look at."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"

"""The person in the vehicle: consent, cancelling, looking now; one JSON line on a Unix socket, one JSON line back.

Requests are ``{"do": "status"}``, ``{"do": "consent", "assignment": "17", "by": "driver"}``, ``{"do": "cancel"}`` and
``{"do": "look"}``. Whoever may write to the socket (the gateway's user and group) is believed.
"""

from __future__ import annotations

import logging
import socket
import stat
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import msgspec
from anyio.abc import SocketStream, TaskStatus

from gateway.errors import GatewayError, NotNowError, PeerError, TransportError
from gateway.update.service import UpdateService

log = logging.getLogger(__name__)

MAX_LINE_BYTES = 4096
ANSWER_MAX_BYTES = 1024 * 1024
LINE_S = 10.0


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What somebody wants."""

    do: str
    assignment: str = ""
    by: str = ""


class ControlServer:
    """A component."""

    name, drain_s, optional = "update-control", 0.0, True

    def __init__(self, path: Path, service: UpdateService) -> None:
        self._path, self._service = path, service

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Serve until cancelled.

        Raises:
            TransportError: the socket cannot be made.
        """
        try:
            await anyio.to_thread.run_sync(self._make_room)
            async with await anyio.create_unix_listener(self._path, mode=0o660) as listener:
                task_status.started()
                await listener.serve(self._serve)
        except OSError as error:
            raise TransportError(f"update socket {self._path}: {error.strerror or error}") from error
        finally:
            self._path.unlink(missing_ok=True)

    def _make_room(self) -> None:
        """Remove the socket of a gateway that was killed; the verifier's lock has kept out one that runs."""
        try:
            if not stat.S_ISSOCK(self._path.lstat().st_mode):
                raise TransportError(f"update socket {self._path}: a file or folder of that name is there")
        except FileNotFoundError:
            return
        self._path.unlink()

    async def _serve(self, stream: SocketStream) -> None:
        try:
            async with stream:
                with anyio.move_on_after(LINE_S):
                    line = b""
                    while not line.endswith(b"\n") and len(line) <= MAX_LINE_BYTES:
                        line += await stream.receive(MAX_LINE_BYTES)
                    await stream.send(msgspec.json.encode(await self._answer(line)) + b"\n")
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return

    async def _answer(self, line: bytes) -> dict[str, object]:
        try:
            request = msgspec.json.decode(line, type=Request)
        except msgspec.DecodeError as error:
            return {"ok": False, "error": f"not understood: {error}"}
        try:
            if request.do == "consent":
                await self._service.give_consent(request.assignment, request.by or "a person in the vehicle")
            elif request.do == "cancel":
                self._service.cancel()
            elif request.do == "look":
                self._service.look_now()
            elif request.do != "status":
                return {"ok": False, "error": f"nothing is called {request.do[:40]!r}"}
        except GatewayError as error:
            return {"ok": False, "error": str(error)}
        return {"ok": True, "status": self._service.statistics()}


def ask(path: Path, timeout_s: float = 10.0, **request: str) -> dict[str, Any]:
    """Ask a running gateway; its status afterwards.

    Raises:
        NotNowError: no gateway is there, or what was asked for is not possible now.
        PeerError: its answer is not understood.
    """
    answer = bytearray()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(timeout_s)
            sock.connect(str(path))
            sock.sendall(msgspec.json.encode(request) + b"\n")
            while (chunk := sock.recv(65536)) and len(answer) <= ANSWER_MAX_BYTES:
                answer += chunk
    except OSError as error:
        raise NotNowError(f"no gateway takes updates at {path} ({error.strerror or error})") from error
    try:
        found = msgspec.json.decode(bytes(answer), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise PeerError(f"{path}: the answer is not understood: {error}") from error
    if not found.get("ok"):
        raise NotNowError(str(found.get("error", "refused")))
    status: dict[str, Any] = found.get("status") or {}
    return status

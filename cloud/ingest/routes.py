"""The vehicle port's routes. Identity comes from the TLS certificate alone; see docs/reference/vehicle-interface.md."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import msgspec
from litestar import Request, Response, WebSocket, asgi, post, put, websocket
from litestar.exceptions import WebSocketDisconnect
from litestar.params import FromPath
from litestar.types import Receive, Scope, Send

from cloud.errors import CloudError, InvalidInput, NotAllowed, NotAuthenticated, TooLarge, TooMany, Unavailable
from cloud.identity.peer import PeerCertificate
from cloud.ingest.downlink import CLOSE_NOT_ALLOWED, CLOSE_REVOKED, CLOSE_STOPPING, Line
from cloud.ingest.uploads import Claim
from cloud.services import Services
from cloud.web.inject import Injected
from cloud.web.problems import send_problem
from gateway.wire import api
from gateway.wire.diagnostics import MAX_RESULT_BYTES, RESULTS, DiagnosticResult

STREAM_HEADER, SEQUENCE_HEADER, ITEMS_HEADER = b"outrider-stream", b"outrider-sequence", b"outrider-items"
#: How often an idle downlink looks whether its certificate still counts and whether a gap has become old enough.
DOWNLINK_PERIOD_S = 5.0
T = TypeVar("T")


class ClientGone(Exception):
    """The vehicle closed the connection before its body was complete; there is nobody to answer."""


async def read_body(scope: Scope, receive: Receive, limit_bytes: int, timeout_s: float) -> bytes:
    """The whole body, never holding more than ``limit_bytes`` of it.

    Raises:
        TooLarge: ``Content-Length`` says so (nothing was read), or more came than it said.
        TooMany: it came too slowly.
        ClientGone: the connection ended.
    """
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value[:20]) > limit_bytes:
            raise TooLarge(limit_bytes)
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise ClientGone
                chunk: bytes = message["body"]
                size += len(chunk)
                if size > limit_bytes:
                    raise TooLarge(limit_bytes)
                chunks.append(chunk)
                if not message.get("more_body", False):
                    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
    except TimeoutError:
        raise TooMany(f"the body took longer than {timeout_s:.0f} s", retry_after_s=1) from None


async def _discard(receive: Receive, limit_bytes: int) -> None:
    """Read on for a moment, so that the answer is not lost in a reset of the connection."""
    try:
        async with asyncio.timeout(2.0):
            while limit_bytes > 0:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
                limit_bytes -= len(message["body"])
    except TimeoutError:
        return


@asgi(api.BATCHES, copy_scope=False)
async def upload_batch(scope: Scope, receive: Receive, send: Send) -> None:
    """``POST /v1/batches``: see ``gateway.wire.api``. Bare ASGI, since most requests of the cloud come here."""
    services: Services = scope["litestar_app"].state.services
    limits = services.config.ingest
    try:
        if scope.get("method") != "POST":
            await send({"type": "http.response.start", "status": 405, "headers": [(b"allow", b"POST")]})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        peer = services.register.identify(scope, services.clock.now_ns())
        services.uploads.admit(peer.vehicle_id)
        content = await read_body(scope, receive, limits.max_batch_bytes, limits.body_timeout_s)
        ack = await services.uploads.take(peer.vehicle_id, content, _claim(scope))
    except ClientGone:
        return
    except (NotAuthenticated, NotAllowed, TooLarge, TooMany) as error:
        await _discard(receive, 2 * limits.max_batch_bytes)
        await send_problem(scope, send, error, close=True)
        return
    except CloudError as error:
        await send_problem(scope, send, error)
        return
    if ack.needs_manifest or ack.contiguous < ack.sequence:
        services.downlinks.notify(peer.vehicle_id)
    body = msgspec.json.encode(ack)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _claim(scope: Scope) -> Claim | None:
    headers = dict(scope["headers"])
    try:
        return Claim(
            headers[STREAM_HEADER].decode("ascii"),
            int(headers[SEQUENCE_HEADER][:20]),
            int(headers.get(ITEMS_HEADER, b"0")[:20]),
        )
    except (KeyError, ValueError):
        return None


def _identify(request: Request[Any, Any, Any] | WebSocket[Any, Any, Any], services: Services) -> PeerCertificate:
    return services.register.identify(request.scope, services.clock.now_ns())


def _take_small(services: Services, vehicle_id: str) -> None:
    wait_s = services.small_requests.try_take(vehicle_id, services.clock.monotonic_ns())
    if wait_s > 0:
        raise TooMany("this vehicle asks more often than it may", retry_after_s=wait_s)


async def _body(request: Request[Any, Any, Any], services: Services, limit_bytes: int) -> bytes:
    try:
        return await read_body(request.scope, request.receive, limit_bytes, services.config.ingest.body_timeout_s)
    except ClientGone:
        raise InvalidInput("the body ended early") from None


def _decode(content: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(str(error)) from error


@put(api.MANIFESTS + "/{manifest_hash:str}", status_code=204)
async def put_manifest(request: Request[Any, Any, Any], services: Injected, manifest_hash: FromPath[str]) -> None:
    """Store the manifest that batches name."""
    peer = _identify(request, services)
    _take_small(services, peer.vehicle_id)
    limits = services.config.ingest
    content = await _body(request, services, limits.max_manifest_bytes)
    had_waited = await services.manifests.put(
        manifest_hash, content, peer.vehicle_id, services.clock.now_ns(), limits.max_manifests_per_vehicle
    )
    if had_waited:
        await services.tell_released(manifest_hash)


@post(api.CHECK_IN, status_code=200)
async def check_in(request: Request[Any, Any, Any], services: Injected) -> Response[bytes]:
    """Take the vehicle's report; answer with what the cloud wants."""
    peer = _identify(request, services)
    _take_small(services, peer.vehicle_id)
    content = await _body(request, services, services.config.ingest.max_check_in_bytes)
    reply = await services.check_ins.take(peer.vehicle_id, _decode(content, api.CheckIn), content)
    return Response(msgspec.json.encode(reply), media_type="application/json")


@post(api.CERTIFICATE, status_code=200)
async def renew_certificate(request: Request[Any, Any, Any], services: Injected) -> Response[bytes]:
    """A new certificate under the present one."""
    peer = _identify(request, services)
    _take_small(services, peer.vehicle_id)
    wanted = _decode(await _body(request, services, 64 * 1024), api.RenewRequest)
    address = request.client.host if request.client else ""
    issued = await services.enrolment.renew(peer.vehicle_id, wanted.csr_pem, address)
    reply = api.RenewReply(issued.pem, services.enrolment.ca_pem, services.enrolment.order_key)
    return Response(msgspec.json.encode(reply), media_type="application/json")


@post(RESULTS, status_code=204)
async def post_result(request: Request[Any, Any, Any], services: Injected) -> None:
    """What came of an order; the same again changes nothing."""
    peer = _identify(request, services)
    _take_small(services, peer.vehicle_id)
    result = _decode(await _body(request, services, MAX_RESULT_BYTES), DiagnosticResult)
    address = request.client.host if request.client else ""
    diagnostics = services.diagnostics
    job_id = await diagnostics.delivery.take_result(peer.vehicle_id, result, address)
    diagnostics.tell_job(job_id, peer.vehicle_id)
    services.downlinks.notify(peer.vehicle_id)


@websocket(api.DOWNLINK)
async def downlink(socket: WebSocket[Any, Any, Any], services: Injected) -> None:
    """Push the cloud's wishes whenever they change, until the vehicle leaves or is revoked."""
    try:
        peer = _identify(socket, services)
        line = services.downlinks.open(peer.vehicle_id)
    except (NotAuthenticated, NotAllowed) as error:
        await socket.close(code=CLOSE_NOT_ALLOWED, reason=str(error))
        return
    except Unavailable as error:
        await socket.close(code=CLOSE_STOPPING, reason=str(error))
        return
    await socket.accept()
    listening = asyncio.ensure_future(_until_gone(socket))
    listening.add_done_callback(lambda _: line.wake.set())
    try:
        code = await _push(socket, services, peer, line, listening)
        if not listening.done():
            await socket.close(code=code)
    except (WebSocketDisconnect, RuntimeError):  # it left while we were sending
        return
    finally:
        services.downlinks.release(line)
        listening.cancel()
        await asyncio.wait([listening])


async def _push(
    socket: WebSocket[Any, Any, Any],
    services: Services,
    peer: PeerCertificate,
    line: Line,
    listening: asyncio.Future[None],
) -> int:
    """Returns the code to close with."""
    last: api.CheckInReply | None = None
    while not listening.done():
        if line.close_code:
            return line.close_code
        try:
            services.register.check(peer, services.clock.now_ns())
        except NotAllowed:
            return CLOSE_REVOKED
        line.wake.clear()
        wishes = await services.check_ins.wishes(peer.vehicle_id)
        if last is None or msgspec.structs.replace(wishes, now_ns=last.now_ns) != last:
            await socket.send_data(msgspec.json.encode(wishes), mode="text")
            last = wishes
        try:
            async with asyncio.timeout(DOWNLINK_PERIOD_S):
                await line.wake.wait()
        except TimeoutError:
            continue
    return 1000


async def _until_gone(socket: WebSocket[Any, Any, Any]) -> None:
    """Read and ignore what the vehicle says, until it leaves; uvicorn bounds the size of each message."""
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return


VEHICLE_ROUTES = [upload_batch, put_manifest, check_in, renew_certificate, post_result, downlink]

"""Two uvicorn servers in one event loop, one per port. Stops cleanly on SIGTERM and SIGINT."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import uvicorn
from litestar.types import ASGIApp, ControllerRouterHandler

from cloud.app import build_operator_app, build_services, build_vehicle_app, running
from cloud.config import CloudConfig
from cloud.errors import ConfigError
from cloud.log import get_logger
from cloud.services import Services
from cloud.web.listener import (
    CertificateHttpProtocol,
    CertificateWebSocketProtocol,
    PatientHttpProtocol,
    operator_tls_context,
    vehicle_tls_context,
)

log = get_logger("cloud.server")
GRACE_S = 10
#: Beyond it the operator port answers 503, so that whoever opens many there leaves descriptors to the vehicles.
OPERATOR_CONNECTIONS_MAX = 1_000
WS_MAX_BYTES = 64 * 1024


class _Server(uvicorn.Server):
    """A server whose signals are somebody else's business."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the servers listen."""

    operator_url: str
    vehicle_url: str


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. ``ConfigError`` names the address that cannot be had."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.set_inheritable(False)
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error
    return listener


def _url(scheme: str, listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _server(app: ASGIApp, context: ssl.SSLContext | None, *, with_certificates: bool) -> _Server:
    config = uvicorn.Config(
        app,
        http=CertificateHttpProtocol if with_certificates else PatientHttpProtocol,
        ws=CertificateWebSocketProtocol if with_certificates else "none",
        ws_max_size=WS_MAX_BYTES,
        ws_per_message_deflate=False,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=1024,
        limit_concurrency=None if with_certificates else OPERATOR_CONNECTIONS_MAX,
        timeout_keep_alive=120 if with_certificates else 30,
        timeout_graceful_shutdown=GRACE_S,
        h11_max_incomplete_event_size=64 * 1024,
    )
    config.load()
    config.ssl = context
    return _Server(config)


@asynccontextmanager
async def serving(
    services: Services, extra_vehicle_routes: Sequence[ControllerRouterHandler] = ()
) -> AsyncIterator[Addresses]:
    """Run the services and both servers while the block lasts. More routes on the vehicle port are for measuring.

    Raises:
        ConfigError, StorageError: it cannot start.
    """
    config = services.config
    vehicle_context = vehicle_tls_context(
        config.path(config.vehicle.certificate),
        config.path(config.vehicle.key),
        config.path(config.authority.certificate),
    )
    operator_context = None
    if config.operator.certificate:
        operator_context = operator_tls_context(
            config.path(config.operator.certificate), config.path(config.operator.key)
        )
    with contextlib.ExitStack() as sockets:
        operator_socket = sockets.enter_context(bind(config.operator.host, config.operator.port))
        vehicle_socket = sockets.enter_context(bind(config.vehicle.host, config.vehicle.port))
        addresses = Addresses(
            _url("https" if operator_context else "http", operator_socket),
            config.vehicle.public_url or _url("https", vehicle_socket),
        )
        services.vehicle_url = addresses.vehicle_url
        async with running(services):
            operator_app, metrics = build_operator_app(services)
            vehicle_app = build_vehicle_app(services, metrics, extra_vehicle_routes)
            servers = [
                (_server(operator_app, operator_context, with_certificates=False), operator_socket),
                (_server(vehicle_app, vehicle_context, with_certificates=True), vehicle_socket),
            ]
            tasks = [asyncio.ensure_future(server.serve(sockets=[listener])) for server, listener in servers]
            try:
                while not all(server.started for server, _ in servers):
                    await asyncio.sleep(0.01)
                    for task in tasks:
                        if task.done():
                            task.result()
                log.info("cloud_started", operator=addresses.operator_url, vehicle=addresses.vehicle_url)
                yield addresses
            finally:
                services.stop()
                for server, _ in servers:
                    server.should_exit = True
                await asyncio.gather(*tasks, return_exceptions=True)
                log.info("cloud_stopped")


async def serve(config: CloudConfig, started: Callable[[Addresses], None]) -> None:
    """Serve until SIGTERM or SIGINT; a second one ends at once. Raises as ``serving``."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def asked() -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked)
    async with serving(build_services(config)) as addresses:
        started(addresses)
        await stop.wait()

"""Keeps the cloud informed and hears what it wants: check-ins by period, one WebSocket for what cannot wait."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol
from urllib.parse import urlsplit

import anyio
import msgspec
from anyio.abc import TaskStatus
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from gateway.errors import GatewayError
from gateway.link.backoff import Backoff
from gateway.link.client import CloudClient, RefusedError
from gateway.link.identity import Identity, make_key_request
from gateway.link.uplink import Uplink
from gateway.runtime import Clock, ComponentHealth, HealthBoard
from gateway.telemetry.desk import SpoolDesk
from gateway.wire.api import DOWNLINK, CheckIn, CheckInReply, RenewRequest
from gateway.wire.orders import SignedOrder

log = logging.getLogger(__name__)

PUSH_MAX_BYTES = 256 * 1024
FINAL_CHECK_IN_S = 5.0
CHECK_IN_MIN_S, CHECK_IN_MAX_S = 0.5, 86_400.0  # what the cloud may set; beyond it our own period stays
CLOCK_SKEW_WARNING_NS = 60 * 1_000_000_000

#: Builds the report as of now; the argument says whether this is the last one before a stop.
Report = Callable[[bool], Awaitable[CheckIn]]


class OrderSink(Protocol):
    """Who takes orders; ``gateway.command.desk.OrderDesk`` is one."""

    def offer(self, orders: Sequence[SignedOrder], cloud_ns: int) -> None:
        """Orders of a reply, which may have been offered before, and the cloud's time in it. Must not wait."""


class UpdateHints(Protocol):
    """Who looks for updates; ``gateway.update.service.UpdateService`` is one."""

    def hint(self, mark: str) -> None:
        """The mark of a reply, which may be the one before. Must not wait."""


class Wishes:
    """Carries out what a ``CheckInReply`` asks for, whichever way it came."""

    def __init__(self, uplink: Uplink, desk: SpoolDesk, clock: Clock, orders: OrderSink | None = None) -> None:
        self._uplink, self._desk, self._clock, self.orders = uplink, desk, clock, orders
        self.updates: UpdateHints | None = None
        self.clock_skew_ns: int | None = None
        self._is_skewed = False
        self.check_in_s: float | None = None

    async def fulfil(self, reply: CheckInReply) -> None:
        """Hand over orders, queue re-requests, forget confirmed evictions, have the manifest offered."""
        if self.orders is not None:
            self.orders.offer(reply.orders, reply.now_ns)
        if self.updates is not None:
            self.updates.hint(reply.update_mark)
        self.clock_skew_ns = self._clock.utc_ns() - reply.now_ns
        is_skewed = abs(self.clock_skew_ns) > CLOCK_SKEW_WARNING_NS
        if is_skewed and not self._is_skewed:
            log.warning("clock_differs_from_cloud", extra={"skew_s": self.clock_skew_ns // 1_000_000_000})
        self._is_skewed = is_skewed
        if reply.check_in_s is None or CHECK_IN_MIN_S <= reply.check_in_s <= CHECK_IN_MAX_S:
            self.check_in_s = reply.check_in_s
        self._uplink.request(reply.requests)
        await self._desk.confirm_evicted(reply.evicted_known)
        if reply.needs_manifest:
            self._uplink.want_manifest()


class CheckInSender:
    """Reports at start, by period and at the stop."""

    name, optional, drain_s = "check-in", False, 0.0

    def __init__(
        self,
        *,
        client: CloudClient,
        report: Report,
        wishes: Wishes,
        uplink: Uplink,
        backoff: Backoff,
        health: HealthBoard,
        clock: Clock,
        period_s: float,
    ) -> None:
        self._client, self._report, self._wishes, self._uplink = client, report, wishes, uplink
        self._backoff, self._health, self._clock, self._period_s = backoff, health, clock, period_s

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Check in until cancelled, and once more then; a failure is tried again sooner than the period."""
        self._health.register(self.name, self._clock.monotonic_ns(), limit_s=None)
        task_status.started()
        try:
            await self._report_by_period()
        finally:
            with anyio.move_on_after(FINAL_CHECK_IN_S, shield=True):
                try:
                    await self.check_in(is_last=True)
                except GatewayError as error:
                    log.info("last_check_in_failed", extra={"error": str(error)})

    async def _report_by_period(self) -> None:
        while True:
            pause_s = self._wishes.check_in_s or self._period_s
            try:
                await self.check_in(is_last=False)
            except GatewayError as error:
                at_least_s = error.retry_after_s if isinstance(error, RefusedError) else 0.0
                pause_s = max(at_least_s, min(pause_s, self._backoff.failed()))
                if self._health.report(self.name, ComponentHealth.DEGRADED, str(error)):
                    log.warning("check_in_failed", extra={"error": str(error)})
            else:
                self._backoff.succeeded()
                self._health.report(self.name, ComponentHealth.OK)
            await anyio.sleep(pause_s)

    async def check_in(self, *, is_last: bool) -> None:
        """One report and what follows from the answer.

        Raises:
            GatewayError: the cloud was not reached or did not accept it.
        """
        message = await self._report(is_last)
        reply = await self._client.check_in(message)
        self._uplink.reported_not_found(message.not_found)
        await self._wishes.fulfil(reply)


class _Direct(connect):
    """A connection to the address we know and to no other: redirects are not followed."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        """Refuse."""
        return exc


class Downlink:
    """One WebSocket under the vehicle's identity; without it the check-ins carry the same messages, only later."""

    name, drain_s, optional = "downlink", 0.0, True

    def __init__(
        self, *, client: CloudClient, wishes: Wishes, backoff: Backoff, health: HealthBoard, clock: Clock
    ) -> None:
        self._client, self._wishes, self._backoff, self._health, self._clock = client, wishes, backoff, health, clock

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Stay connected until cancelled."""
        self._health.register(self.name, self._clock.monotonic_ns(), limit_s=None)
        task_status.started()
        url = "wss://" + urlsplit(self._client.base_url).netloc + DOWNLINK
        while True:
            try:
                if await self._listen_until_renewed(url):
                    continue
                why = "closed by the cloud"
            except (OSError, WebSocketException, GatewayError, msgspec.DecodeError, UnicodeDecodeError) as error:
                why = str(error) or type(error).__name__
            pause_s = self._backoff.failed()
            if self._health.report(self.name, ComponentHealth.DEGRADED, f"polling instead: {why}"):
                log.info("downlink_lost", extra={"error": why})
            await anyio.sleep(pause_s)

    async def _listen_until_renewed(self, url: str) -> bool:
        """One connection. True when it was left for a new certificate, which the next one is to show."""
        renewed, failures, is_renewed = self._client.renewed, list[Exception](), False

        async def leave() -> None:
            nonlocal is_renewed
            await renewed.wait()
            is_renewed = True
            tg.cancel_scope.cancel()

        async with anyio.create_task_group() as tg:
            tg.start_soon(leave)
            try:
                await self._listen(url)
            except Exception as error:  # raised again below, without the group around it
                failures.append(error)
            tg.cancel_scope.cancel()
        if failures:
            raise failures[0]
        return is_renewed

    async def _listen(self, url: str) -> None:
        async with _Direct(
            url, ssl=self._client.tls_context(), max_size=PUSH_MAX_BYTES, open_timeout=20, proxy=None
        ) as socket:
            self._health.report(self.name, ComponentHealth.OK)
            async for message in socket:
                raw = message if isinstance(message, bytes) else message.encode()
                await self._wishes.fulfil(msgspec.json.decode(raw, type=CheckInReply))
                self._backoff.succeeded()


class CertificateKeeper:
    """Renews the certificate when two thirds of its life have passed."""

    name, drain_s, optional = "certificate", 0.0, True

    def __init__(
        self,
        *,
        client: CloudClient,
        identity: Identity,
        vehicle: str,
        health: HealthBoard,
        clock: Clock,
        period_s: float,
    ) -> None:
        self._client, self._identity, self._vehicle = client, identity, vehicle
        self._health, self._clock, self._period_s = health, clock, period_s

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Look once an hour; a renewal that fails is tried at the next look."""
        self._health.register(self.name, self._clock.monotonic_ns(), limit_s=None)
        task_status.started()
        while True:
            try:
                if self._identity.needs_renewal(self._clock.utc_ns()) or not self._identity.has_asked_for_order_key:
                    await self.renew()
                self._health.report(self.name, ComponentHealth.OK)
            except GatewayError as error:
                why = self._explain(error)
                self._health.report(self.name, ComponentHealth.DEGRADED, why)
                log.error("certificate_not_renewed", extra={"error": why})
            await anyio.sleep(self._period_s)

    def _explain(self, error: GatewayError) -> str:
        try:
            ended = self._identity.expired_at(self._clock.utc_ns())
        except GatewayError:
            ended = None
        if ended is None:
            return str(error)
        return f"expired on {ended:%Y-%m-%d %H:%M} UTC; enrol again (outrider gateway enrol --force)"

    async def renew(self) -> None:
        """A new key, a new certificate, from now on used for every connection.

        Raises:
            GatewayError: the old one stays in use.
        """
        request = make_key_request(self._vehicle)
        reply = await self._client.renew(RenewRequest(request.csr_pem))
        self._identity.renew(request, reply.certificate_pem, reply.ca_pem, reply.order_key)
        await self._client.refresh()
        log.info("certificate_renewed")

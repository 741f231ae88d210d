"""The other ECUs while one is flashed: asked to set no trouble codes for its silence, and, where wanted, to be silent.

They fall back by themselves (S3, 5 s) should the gateway die; at the end, whatever the end, they are told. An ECU that
does not take part is left alone: this is politeness, not safety.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager

import anyio

from gateway.errors import GatewayError
from gateway.uds.client import UdsClient
from gateway.uds.names import Session
from gateway.update.ecu_links import EcuLinks

log = logging.getLogger(__name__)

MAX_QUIETED = 32  # each costs a session of the router
ASK_S, LEAVE_S = 3.0, 3.0
ENABLE_ALL, DISABLE_ALL, NORMAL_MESSAGES = 0x00, 0x03, 0x01


@asynccontextmanager
async def quiet(links: EcuLinks, names: Collection[str], how: str) -> AsyncIterator[None]:
    """Keep ``names`` in the extended session with codes frozen (``how`` "dtc"), messages off too ("messages").

    Nothing is asked with "none". Never raises by itself.
    """
    async with AsyncExitStack() as stack:
        joined: list[UdsClient] = []
        if how != "none":
            for name in list(names)[:MAX_QUIETED]:
                try:
                    client = await stack.enter_async_context(links.client(name))
                except GatewayError as error:
                    log.info("ecu_not_quieted", extra={"ecu": name, "why": str(error)})
                    continue
                joined.append(client)
            async with anyio.create_task_group() as tasks:
                for client in joined:
                    tasks.start_soon(_ask, client, how)
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                async with anyio.create_task_group() as tasks:
                    for client in joined:
                        tasks.start_soon(_leave, client, how)


async def _ask(client: UdsClient, how: str) -> None:
    with anyio.move_on_after(ASK_S):
        try:
            await client.session(Session.EXTENDED)
            await client.dtc_setting(on=False)
            if how == "messages":
                await client.communication_control(DISABLE_ALL, NORMAL_MESSAGES)
        except GatewayError as error:
            log.info("ecu_not_quieted", extra={"ecu": client.name, "why": str(error)})


async def _leave(client: UdsClient, how: str) -> None:
    """The default session switches all of it on again; ECUs that do not know that are told each."""
    if client.current_session == Session.DEFAULT:
        return
    with anyio.move_on_after(LEAVE_S):
        steps: list[Callable[[], Awaitable[object]]] = [
            lambda: client.dtc_setting(on=True),
            lambda: client.session(Session.DEFAULT),
        ]
        if how == "messages":
            steps.insert(0, lambda: client.communication_control(ENABLE_ALL, NORMAL_MESSAGES))
        for step in steps:
            try:
                await step()
            except GatewayError as error:
                log.debug("ecu_not_told_the_end", extra={"ecu": client.name, "why": str(error)})

"""Who is there."""

from __future__ import annotations

from gateway.errors import GatewayError
from gateway.uds.client import UdsClient
from gateway.uds.errors import NegativeResponse
from tester.connect import Bench
from tester.errors import NotThereError
from tester.vehicle import Ecu


async def is_present(client: UdsClient) -> bool:
    """Whether an ECU answers "tester present", if only by refusing it."""
    try:
        await client.tester_present()
    except NegativeResponse:
        return True
    except GatewayError:
        return False
    return True


async def present(bench: Bench) -> list[Ecu]:
    """The vehicle's ECUs that answer.

    Raises:
        NotThereError: none does.
        TransportError: a connection cannot be opened.
    """
    from tester.running import for_each

    async def ask(_ecu: Ecu, client: UdsClient) -> bool:
        return await is_present(client)

    outcomes = await for_each(bench, bench.reachable(), ask)
    found = [outcome.ecu for outcome in outcomes if outcome.value]
    if not found:
        for outcome in outcomes:
            if outcome.error is not None:
                raise outcome.error
        raise NotThereError("no ECU answers; is the ignition on and the connection right?")
    return found

"""Remote diagnostics: carries out an order's steps on the ECUs, as one tester among others.

Each request goes through the router and its firewall like any tester's, under port "cloud" and the name of who asked;
what the policy does not allow is a result, not an error. Steps are done one after the other, ECUs too: a remote job has
time, and the bus has other users.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Protocol

import anyio
import msgspec

from gateway.diag.config import EcuConfig
from gateway.diag.ports import Tester
from gateway.diag.remote_watch import PORT, RefusalWatch
from gateway.errors import GatewayError, PeerError
from gateway.uds.channel import DiagnosticChannel
from gateway.uds.client import UdsClient
from gateway.uds.errors import NegativeResponse, NoAnswer, PendingTooLong
from gateway.uds.names import Nrc, Session, did_name
from gateway.uds.timing import Timing
from gateway.wire.diagnostics import ALL_ECUS, MAX_STEPS, DiagnosticOrder, Step, StepResult, step_problem
from gateway.wire.orders import Order

GATEWAY = "gateway"
#: What ``identify`` asks for; fingerprints, dates of calibration and the like are left to ``read_did``.
IDENTIFICATION_DIDS = (
    0xF180, 0xF181, 0xF187, 0xF188, 0xF189, 0xF18A, 0xF18B, 0xF18C, 0xF190, 0xF191, 0xF192, 0xF193, 0xF194, 0xF195,
    0xF197, 0xF19E,
)  # fmt: skip
TESTER_ADDRESS = 0x0EC0
MAX_CODES = 2_000  # of one ECU
STEP_S = 300.0  # one step on one ECU may take so long
ROUTING_MS = 1_000  # for the router's queue and other testers' requests, on top of P2


class RemoteRouter(Protocol):
    """What is needed of the router; ``gateway.diag.router.Router`` is one."""

    def open_channel(self, tester: Tester, target: int) -> DiagnosticChannel:
        """A channel to one ECU over a session of its own."""


class _Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a step found on one ECU."""

    data: bytes = b""
    dtcs: tuple[tuple[int, int], ...] = ()
    values: dict[str, str] = {}
    detail: str = ""


class RemoteDiagnostics:
    """The ``OrderHandler`` of kind ``diagnostics``."""

    def __init__(
        self,
        router: RemoteRouter,
        ecus: Sequence[EcuConfig],
        *,
        watch: RefusalWatch | None = None,
        own_address: int = 0x1001,
    ) -> None:
        """``watch`` is what the router asks as its firewall; without it a refusal looks like the ECU's own."""
        self._router, self._watch, self._own_address = router, watch, own_address
        self._ecus = {ecu.name: ecu for ecu in ecus}

    def check(self, order: Order) -> None:
        """See ``OrderHandler``."""
        wanted = _read(order)
        if not 1 <= len(wanted.steps) <= MAX_STEPS:
            raise PeerError(f"{len(wanted.steps)} steps, 1 to {MAX_STEPS} are done")
        for number, step in enumerate(wanted.steps):
            if problem := step_problem(step):
                raise PeerError(f"step {number}: {problem}")

    async def execute(self, order: Order) -> tuple[StepResult, ...]:
        """See ``OrderHandler``."""
        wanted = _read(order)
        tester = Tester(
            port=PORT,
            address=TESTER_ADDRESS,
            name=wanted.requested_by[:80] or "cloud",
            peer=f"order {order.id}",
            is_secure=True,
        )
        results: list[StepResult] = []
        async with AsyncExitStack() as stack:
            clients = _Clients(self, tester, stack)
            for number, step in enumerate(wanted.steps):
                names = [*self._ecus, GATEWAY] if step.ecu == ALL_ECUS else [step.ecu]
                done = [await self._do(clients, number, step, name) for name in names]
                results += done
                if wanted.stop_on_error and any(r.outcome != "ok" for r in done):
                    break
            await clients.leave_sessions()
        return tuple(results)

    def target_of(self, name: str) -> int | None:
        """The logical address; None for a name nobody has."""
        if name == GATEWAY:
            return self._own_address
        return self._ecus[name].logical_address if name in self._ecus else None

    def open(self, tester: Tester, name: str, target: int) -> tuple[DiagnosticChannel, Timing]:
        """A channel and the timing of an ECU. Raises ``GatewayError``."""
        ecu = self._ecus.get(name)
        timing = Timing(latency_ms=ROUTING_MS, max_total_ms=int(STEP_S * 1000))
        if ecu is not None:
            timing = msgspec.structs.replace(
                timing, p2_ms=ecu.p2_ms, p2_star_ms=ecu.p2_star_ms, max_pending=ecu.max_pending
            )
        return self._router.open_channel(tester, target), timing

    async def _do(self, clients: _Clients, number: int, step: Step, name: str) -> StepResult:
        target = self.target_of(name)
        if target is None:
            known = ", ".join([*self._ecus, GATEWAY])
            return StepResult(step=number, ecu=name, outcome="failed", detail=f"no such ECU here; there are {known}")
        self._refusal(clients.tester, target)
        try:
            client = await clients.get(name, target)  # its task group must not begin within the time limit's scope
            with anyio.fail_after(STEP_S):
                found = await _STEPS[step.do](client, step)
        except NegativeResponse as error:
            if refusal := self._refusal(clients.tester, target):
                return StepResult(step=number, ecu=name, outcome="refused", detail=refusal, nrc=error.nrc)
            return StepResult(step=number, ecu=name, outcome="negative", detail=error.name, nrc=error.nrc)
        except (NoAnswer, PendingTooLong) as error:
            if refusal := self._refusal(clients.tester, target):
                return StepResult(step=number, ecu=name, outcome="refused", detail=refusal)
            return StepResult(step=number, ecu=name, outcome="no_answer", detail=str(error)[:300])
        except TimeoutError:
            return StepResult(step=number, ecu=name, outcome="no_answer", detail=f"not done within {STEP_S:.0f} s")
        except (GatewayError, ValueError) as error:
            return StepResult(step=number, ecu=name, outcome="failed", detail=str(error)[:300])
        return StepResult(
            step=number,
            ecu=name,
            outcome="ok",
            detail=found.detail,
            data=found.data,
            dtcs=found.dtcs,
            values=found.values,
        )

    def _refusal(self, tester: Tester, target: int) -> str:
        """The rule that refused the last request, "" when none did."""
        decision = self._watch.take(tester, target) if self._watch else None
        if decision is None:
            return ""
        return f"rule {decision.rule!r}" + (f": {decision.detail}" if decision.detail else "")


class _Clients:
    """One client per ECU for as long as the order takes, so that a session outlives a step."""

    def __init__(self, owner: RemoteDiagnostics, tester: Tester, stack: AsyncExitStack) -> None:
        self._owner, self.tester, self._stack = owner, tester, stack
        self._clients: dict[str, UdsClient] = {}

    async def get(self, name: str, target: int) -> UdsClient:
        """The client of an ECU. Raises ``GatewayError``."""
        if name not in self._clients:
            channel, timing = self._owner.open(self.tester, name, target)
            self._stack.push_async_callback(channel.aclose)
            self._clients[name] = await self._stack.enter_async_context(UdsClient(channel, timing=timing))
        return self._clients[name]

    async def leave_sessions(self) -> None:
        """Back to the default session where a step left it; an ECU that does not answer falls back by itself."""
        for client in self._clients.values():
            if client.current_session != Session.DEFAULT:
                with anyio.move_on_after(2.0):
                    try:
                        await client.session(Session.DEFAULT)
                    except GatewayError:
                        continue


def _read(order: Order) -> DiagnosticOrder:
    try:
        return msgspec.json.decode(order.body, type=DiagnosticOrder)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PeerError(f"the order is not understood: {error}"[:300]) from error


def text_of(content: bytes) -> str:
    """Printable text as such, all else in hexadecimal."""
    plain = content.rstrip(b"\x00 ")
    if plain and all(0x20 <= byte <= 0x7E for byte in plain):
        return plain.decode("ascii")
    return content.hex(" ").upper()


#: All of a status byte but the two bits that tell of tests not yet completed: those every healthy code has.
FAILED_EVER = 0xAF


async def _read_dtcs(client: UdsClient, step: Step) -> _Outcome:
    found = (await client.read_dtcs(FAILED_EVER if step.parameter is None else step.parameter)).dtcs
    detail = f"the first {MAX_CODES} of {len(found)}" if len(found) > MAX_CODES else ""
    return _Outcome(dtcs=tuple((d.code, d.status) for d in found[:MAX_CODES]), detail=detail)


async def _clear_dtcs(client: UdsClient, step: Step) -> _Outcome:
    await client.clear(0xFFFFFF if step.parameter is None else step.parameter)
    return _Outcome()


async def _read_did(client: UdsClient, step: Step) -> _Outcome:
    did = step.parameter or 0
    content = await client.read_did(did)
    return _Outcome(data=content, values={did_name(did) or f"{did:04X}": text_of(content)})


async def _identify(client: UdsClient, step: Step) -> _Outcome:
    """All identification the ECU has, one by one; those it does not have are left out."""
    values: dict[str, str] = {}
    refusal: NegativeResponse | None = None
    for did in IDENTIFICATION_DIDS:
        try:
            values[did_name(did) or f"{did:04X}"] = text_of(await client.read_did(did))
        except NegativeResponse as error:
            if error.nrc != Nrc.OUT_OF_RANGE:
                refusal = error
    if not values and refusal is not None:
        raise refusal
    return _Outcome(values=values)


async def _extended(client: UdsClient) -> str:
    """Routines live in the extended session; where it is refused the ECU may still take the routine."""
    if client.current_session == Session.DEFAULT:
        try:
            await client.session(Session.EXTENDED)
        except NegativeResponse as error:
            return f"extended session refused: {error.name}"
    return ""


async def _start_routine(client: UdsClient, step: Step) -> _Outcome:
    note = await _extended(client)
    return _Outcome(data=await client.start_routine(step.parameter or 0, step.data), detail=note)


async def _stop_routine(client: UdsClient, step: Step) -> _Outcome:
    note = await _extended(client)
    return _Outcome(data=await client.stop_routine(step.parameter or 0, step.data), detail=note)


async def _routine_result(client: UdsClient, step: Step) -> _Outcome:
    note = await _extended(client)
    return _Outcome(data=await client.routine_result(step.parameter or 0), detail=note)


async def _reset(client: UdsClient, step: Step) -> _Outcome:
    seconds = await client.reset(1 if step.parameter is None else step.parameter)
    return _Outcome(detail="" if seconds is None else f"down within {seconds} s")


_STEPS: Mapping[str, Callable[[UdsClient, Step], Awaitable[_Outcome]]] = {
    "read_dtcs": _read_dtcs,
    "clear_dtcs": _clear_dtcs,
    "read_did": _read_did,
    "identify": _identify,
    "start_routine": _start_routine,
    "stop_routine": _stop_routine,
    "routine_result": _routine_result,
    "reset": _reset,
}

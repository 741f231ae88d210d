"""The diagnostic router: all ports' requests to all ECUs pass here, one conversation per ECU, judged by the firewall.

Addresses are DoIP logical addresses. A functional request becomes one frame on each bus; where the firewall keeps it
from one ECU of a bus, the others of that bus are asked one by one. When a tester leaves with a session open at an ECU,
or falls silent for longer than S3, the router sends that ECU back to its default session before anyone else may write,
so that nobody inherits what another tester unlocked.

Per ECU there are two tasks, per session none. Everything is bounded by ``RouterLimits``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import groupby

import anyio
from anyio.abc import TaskStatus

from gateway.diag.config import EcuConfig
from gateway.diag.ports import Tester, TooLongError, UdsServer, UnknownTargetError, UnreachableError
from gateway.diag.router_local import OwnTarget
from gateway.diag.router_model import RouterLimits, RouterStatistics, Timing
from gateway.diag.router_session import RouterChannel, Session, wait_accepted
from gateway.diag.router_target import EcuTarget, Queued, Target
from gateway.errors import NotNowError, TransportError
from gateway.firewall.ports import Decision, DiagnosticFirewall, Verdict
from gateway.firewall.state import key_of
from gateway.runtime import Clock, ComponentHealth, HealthBoard
from gateway.uds.channel import DiagnosticChannel, FunctionalChannel

#: Makes the channel to one ECU; called again after it ended.
OpenChannel = Callable[[EcuConfig], Awaitable[DiagnosticChannel]]
#: Makes what sends to all ECUs of one bus and functional identifier. The router only sends through it: answers come
#: through the ECUs' own channels.
OpenFunctional = Callable[[Sequence[EcuConfig]], Awaitable[FunctionalChannel]]

GOODBYE_LOOK_MS = 20


class Router:
    """Implements ``gateway.diag.ports.DiagnosticRouter``; a component."""

    name, drain_s, optional = "diagnostic-router", 0.0, False

    def __init__(
        self,
        ecus: Sequence[EcuConfig],
        *,
        open_channel: OpenChannel,
        open_functional: OpenFunctional,
        firewall: DiagnosticFirewall,
        clock: Clock,
        own: UdsServer | None = None,
        own_address: int = 0x1001,
        functional_address: int = 0xE400,
        limits: RouterLimits | None = None,
        health: HealthBoard | None = None,
    ) -> None:
        """``functional_address`` reaches the gateway itself and all ECUs with a ``functional_id``."""
        self._limits = limits or RouterLimits()
        self._firewall, self._clock, self._health = firewall, clock, health
        self._open_functional = open_functional
        self._functional_address = functional_address
        self._ecus = {ecu.logical_address: ecu for ecu in ecus}
        self._targets: dict[int, Target] = {}
        for ecu in ecus:
            self._targets[ecu.logical_address] = self._ecu_target(ecu, partial(open_channel, ecu))
        if own is not None:
            self._targets[own_address] = OwnTarget(
                own, own_address, firewall=firewall, clock=clock, limits=self._limits
            )
        self._groups = _groups([ecu for ecu in ecus if ecu.functional_id is not None])
        self._senders: dict[int, FunctionalChannel] = {}  # by number of the group
        self._sessions: set[Session] = set()
        self._dropped = 0
        self._someone_left = anyio.Event()

    def _ecu_target(self, ecu: EcuConfig, open_channel: Callable[[], Awaitable[DiagnosticChannel]]) -> EcuTarget:
        return EcuTarget(
            ecu.name,
            ecu.logical_address,
            open_channel=open_channel,
            timing=Timing(ecu.p2_ms, ecu.p2_star_ms, self._limits.p2_margin_ms),
            max_pending=ecu.max_pending,
            firewall=self._firewall,
            clock=self._clock,
            limits=self._limits,
        )

    # what ports see

    @property
    def targets(self) -> Collection[int]:
        """See ``DiagnosticRouter``."""
        return self._targets.keys()

    def functional_targets(self, address: int) -> Collection[int]:
        """See ``DiagnosticRouter``."""
        if address != self._functional_address:
            return ()
        ecus = [ecu.logical_address for group in self._groups for ecu in group]
        return (*ecus, *(a for a, target in self._targets.items() if isinstance(target, OwnTarget)))

    def name_of(self, target: int) -> str:
        """The ECU's name.

        Raises:
            UnknownTargetError: none has this address.
        """
        return self._target(target).name

    def address_of(self, name: str) -> int:
        """The logical address of an ECU by its name.

        Raises:
            UnknownTargetError: no ECU is called so.
        """
        for address, target in self._targets.items():
            if target.name == name:
                return address
        raise UnknownTargetError(f"no ECU is called {name!r}")

    def open_session(self, tester: Tester) -> Session:
        """See ``DiagnosticRouter``.

        Raises:
            NotNowError: too many sessions are open.
        """
        if len(self._sessions) >= self._limits.max_sessions:
            raise NotNowError(f"{len(self._sessions)} diagnostic sessions are open, no more can be")
        session = Session(self, tester, self._limits, self._left)
        self._sessions.add(session)
        return session

    def open_channel(self, tester: Tester, target: int) -> RouterChannel:
        """A channel to one ECU for clients inside the gateway, over a session of its own.

        Raises:
            UnknownTargetError: no ECU has this address.
            NotNowError: too many sessions are open.
        """
        found = self._target(target)
        ecu = self._ecus.get(target)
        longest = 4095 if ecu is None or ecu.addressing != "extended" else 4094
        return RouterChannel(self.open_session(tester), target, found.name, longest)

    def statistics(self) -> RouterStatistics:
        """The numbers at this moment."""
        dropped = self._dropped + sum(session.dropped for session in self._sessions)
        targets = {address: target.statistics() for address, target in self._targets.items()}
        ports = Counter(session.tester.port for session in self._sessions)
        return RouterStatistics(sessions=len(self._sessions), ports=dict(ports), inbox_dropped=dropped, targets=targets)

    def _target(self, address: int) -> Target:
        target = self._targets.get(address)
        if target is None:
            raise UnknownTargetError(f"no ECU has the address {address:#06x}")
        return target

    # routing

    async def route(self, session: Session, address: int, pdu: bytes) -> None:
        """What ``Session.send`` does."""
        if self.functional_targets(address):
            own = [target for target in self._targets.values() if isinstance(target, OwnTarget)]
            await self._route_functional(session, pdu, range(len(self._groups)), own)
            return
        target = self._target(address)
        if not pdu:  # ISO 14229-1 knows no empty request: nothing to answer
            return
        request = Queued(session, pdu)
        is_next = not target.queue and not target.is_busy
        target.submit(request)
        if is_next:
            await wait_accepted(request.accepted, self._limits.accept_within_ms)

    async def route_functional(self, session: Session, functional_id: int, pdu: bytes) -> None:
        """What ``Session.send_functional`` does."""
        numbers = [n for n, group in enumerate(self._groups) if group[0].functional_id == functional_id]
        if not numbers:
            raise UnknownTargetError(f"no ECU hears functional requests to {functional_id:#x}")
        await self._route_functional(session, pdu, numbers, ())

    async def _route_functional(
        self, session: Session, pdu: bytes, numbers: Collection[int], own: Collection[OwnTarget]
    ) -> None:
        """To all groups and the gateway itself; what fails for one does not keep it from the others.

        Raises:
            TransportError, NotNowError, TooLongError: nobody got it.
        """
        if not pdu:
            return
        failures: list[Exception] = []
        tried = 0
        for number in numbers:
            group = self._groups[number]
            tried += 1
            try:
                await self._route_to_group(session, pdu, number, group)
            except (TransportError, NotNowError, TooLongError) as error:
                failures.append(error)
        for target in own:
            tried += 1
            target.submit(Queued(session, pdu, is_functional=True))
        if failures and len(failures) == tried:
            raise failures[0]

    async def _route_to_group(self, session: Session, pdu: bytes, number: int, group: Sequence[EcuConfig]) -> None:
        """One frame for all if all may have it; else those that may are asked one by one."""
        sender = self._senders.get(number)
        if sender is None:
            raise UnreachableError(f"bus {group[0].bus} cannot be reached")
        allowed: list[tuple[EcuTarget, Decision]] = []
        for ecu in group:
            target = self._ecu(ecu.logical_address)
            decision = self._firewall.judge(
                session.tester, target.address, pdu, is_functional=True, now_ns=self._clock.monotonic_ns()
            )
            if decision.verdict is Verdict.ALLOW:
                allowed.append((target, decision))
            else:
                target.answer_refused(session, pdu, decision, is_functional=True)
        if len(allowed) < len(group):
            for target, decision in allowed:  # who must wait is judged again at its turn
                is_next = not target.queue and not target.is_busy
                target.submit(Queued(session, pdu, is_functional=True, decision=decision if is_next else None))
            return
        conversations = [target.expect_functional(session, pdu) for target, _ in allowed]
        try:
            await sender.send(pdu)
        except ValueError as error:
            for conversation in conversations:
                conversation.is_done = True
            raise TooLongError(str(error)) from error
        except TransportError as error:
            for conversation in conversations:
                conversation.is_done = True
            raise UnreachableError(f"bus {group[0].bus}: {error}") from error

    def is_receiving_for(self, session: Session, address: int) -> bool:
        """What ``Session.is_receiving_from`` does."""
        target = self._targets.get(address)
        return isinstance(target, EcuTarget) and target.is_receiving_for(session)

    def _ecu(self, address: int) -> EcuTarget:
        target = self._targets[address]
        if not isinstance(target, EcuTarget):
            raise RuntimeError(f"{address:#06x} is no ECU on a bus")
        return target

    # lifecycle

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Serve until cancelled. ECUs that cannot be reached are tried again; they stop nothing."""
        if self._health is not None:
            self._health.register(self.name, self._clock.monotonic_ns(), limit_s=None)
        serving: list[anyio.CancelScope] = []
        async with anyio.create_task_group() as tg:
            try:
                for target in self._targets.values():
                    tg.start_soon(self._run_target, target, serving)
                for number, group in enumerate(self._groups):
                    tg.start_soon(self._keep_sender, number, group)
                tg.start_soon(self._keep_house)
                await anyio.lowlevel.checkpoint()
                task_status.started()
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await self._say_goodbye()
                for scope in serving:
                    scope.cancel()

    @staticmethod
    async def _run_target(target: Target, serving: list[anyio.CancelScope]) -> None:
        """A target outlives the stop by as long as it takes to close what is open there."""
        with anyio.CancelScope(shield=True) as scope:
            serving.append(scope)
            await target.run()

    async def _say_goodbye(self) -> None:
        """All testers leave; ECUs with a session open are sent back to their default one, as far as time allows."""
        for session in list(self._sessions):
            session.close()
        for _ in range(self._limits.goodbye_ms // GOODBYE_LOOK_MS + 1):
            if not self._close_abandoned():
                break
            await anyio.sleep(GOODBYE_LOOK_MS / 1000)

    async def _keep_sender(self, number: int, group: Sequence[EcuConfig]) -> None:
        """Open what sends to a group, again and again until it works."""
        pause_ms = self._limits.reopen_first_ms
        while True:
            try:
                channel = await self._open_functional(group)
            except TransportError:  # the ECUs' own channels log it
                await anyio.sleep(pause_ms / 1000)
                pause_ms = min(2 * pause_ms, self._limits.reopen_max_ms)
                continue
            self._senders[number] = channel
            try:
                await anyio.sleep_forever()
            finally:
                del self._senders[number]
                with anyio.CancelScope(shield=True):
                    await channel.aclose()

    async def _keep_house(self) -> None:
        """Close what testers left open; tell health."""
        while True:
            self._close_abandoned()
            self._report()
            someone_left = self._someone_left
            with anyio.move_on_after(self._limits.housekeeping_ms / 1000):
                await someone_left.wait()

    def _close_abandoned(self) -> int:
        """Begin to close what testers left open; returns how many ECUs that concerns."""
        busy = [address for address, target in self._targets.items() if target.is_busy]
        found = self._firewall.abandoned(self._clock.monotonic_ns(), busy=busy)
        for address, tester in found:
            target = self._targets[address]
            if target.is_reachable:
                target.close_session_of(tester)
            else:
                self._firewall.closed(address, is_certain=False)
        return len(found)

    def _report(self) -> None:
        if self._health is None:
            return
        missing = [target.name for target in self._targets.values() if not target.is_reachable]
        state = ComponentHealth.DEGRADED if missing else ComponentHealth.OK
        self._health.report(self.name, state, f"no channel to {', '.join(missing)}" if missing else "")

    def _left(self, session: Session) -> None:
        self._sessions.discard(session)
        self._dropped += session.dropped
        for target in self._targets.values():
            target.forget(session)
        if not any(key_of(other.tester) == key_of(session.tester) for other in self._sessions):
            self._firewall.left(session.tester, now_ns=self._clock.monotonic_ns())
            self._someone_left.set()
            self._someone_left = anyio.Event()


def _groups(ecus: Iterable[EcuConfig]) -> list[tuple[EcuConfig, ...]]:
    """ECUs that hear the same functional frame."""

    def key(ecu: EcuConfig) -> tuple[str, int, bool]:
        return ecu.bus, ecu.functional_id or 0, ecu.extended_id or ecu.addressing == "normal_fixed"

    return [tuple(group) for _, group in groupby(sorted(ecus, key=key), key=key)]


def names_of(ecus: Sequence[EcuConfig], own_address: int = 0x1001) -> Mapping[str, int]:
    """What firewall rules may call the targets."""
    return {**{ecu.name: ecu.logical_address for ecu in ecus}, "gateway": own_address}

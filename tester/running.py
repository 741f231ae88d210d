"""From a parsed command line to an exit status: open the bench, run, report what went wrong.

A command is an ``async def work(args, bench) -> int``; ``on_bench(work)`` makes the function that argparse runs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Generic, TypeVar

import anyio
import msgspec

from gateway.errors import GatewayError
from gateway.uds.client import UdsClient
from tester.connect import Bench
from tester.errors import RefusedError, TesterError, UsageError
from tester.options import load_defaults, vehicle_of, vias_of, waits_of
from tester.output import error_json, exit_status, note, say_json
from tester.session_log import SessionLog
from tester.vehicle import Ecu, Vehicle

T = TypeVar("T")
Work = Callable[[argparse.Namespace, Bench], Awaitable[int]]

AT_ONCE = 12  # ECUs asked at the same time
INTERRUPTED = 130


class Outcome(msgspec.Struct, Generic[T], frozen=True):
    """What came of one ECU: ``value``, or ``error``."""

    ecu: Ecu
    value: T | None = None
    error: Exception | None = None


@asynccontextmanager
async def bench_of(args: argparse.Namespace) -> AsyncIterator[Bench]:
    """The bench that the shared arguments describe.

    Raises:
        TesterError: they are wrong.
    """
    defaults = load_defaults()
    with ExitStack() as files:
        observers = [files.enter_context(SessionLog(Path(args.trace)))] if args.trace else []
        bench = Bench(
            vehicle_of(args, defaults), vias_of(args, defaults), waits=waits_of(args, defaults), observers=observers
        )
        async with AsyncExitStack() as stack:
            yield await stack.enter_async_context(bench)


def on_bench(work: Work) -> Callable[[argparse.Namespace], int]:
    """A function for ``set_defaults(run=…)``."""

    async def main(args: argparse.Namespace) -> int:
        task = asyncio.current_task()
        loop = asyncio.get_running_loop()
        if task is not None:
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                loop.add_signal_handler(signal.SIGTERM, task.cancel)
        async with bench_of(args) as bench:
            return await work(args, bench)

    def run(args: argparse.Namespace) -> int:
        return guarded(args, lambda: asyncio.run(main(args)))

    return run


def offline(work: Callable[[argparse.Namespace, Vehicle], int]) -> Callable[[argparse.Namespace], int]:
    """Likewise, for what only looks at the vehicle file."""

    def run(args: argparse.Namespace) -> int:
        return guarded(args, lambda: work(args, vehicle_of(args, load_defaults())))

    return run


def guarded(args: argparse.Namespace, run: Callable[[], int]) -> int:
    """Run, and turn errors into a message and a status."""
    try:
        return run()
    except (KeyboardInterrupt, asyncio.CancelledError):
        return INTERRUPTED
    except (TesterError, GatewayError, ValueError) as error:
        if isinstance(error, ValueError) and type(error) is not ValueError:
            raise
        return fail(args, error)


def fail(args: argparse.Namespace, error: Exception) -> int:
    """Say what went wrong; the status."""
    if getattr(args, "json", False):
        say_json({"error": error_json(error)})
    note(f"outrider uds: {error}")
    return exit_status(error)


def need_write(args: argparse.Namespace, plan: str) -> bool:
    """Say what will be done; whether to do it. False: ``--dry-run``.

    Raises:
        RefusedError: neither ``--write`` nor ``--dry-run``.
    """
    if getattr(args, "dry_run", False):
        note(f"would {plan}")
        return False
    if not args.write:
        raise RefusedError(f"would {plan}; add --write to do it")
    note(plan)
    return True


async def chosen(args: argparse.Namespace, bench: Bench) -> list[Ecu]:
    """The ECUs of ``--ecu``; without, all that can be reached, of a generic vehicle those that answer.

    Raises:
        UsageError: no such ECU, or none at all.
    """
    named: Sequence[str] = [args.ecu] if isinstance(args.ecu, str) else args.ecu or []
    if named:
        return list({ecu.name: ecu for ecu in map(bench.ecu, named)}.values())
    if bench.vehicle.is_generic:
        return await answering(bench)
    found = bench.reachable()
    if not found:
        raise UsageError("no --via leads to any ECU of the vehicle")
    return found


async def answering(bench: Bench) -> list[Ecu]:
    """Those of a vehicle that answer "tester present".

    Raises:
        NotThereError: nobody does.
    """
    from tester.discover import present

    return await present(bench)


async def for_each(
    bench: Bench, ecus: Sequence[Ecu], work: Callable[[Ecu, UdsClient], Awaitable[T]]
) -> list[Outcome[T]]:
    """Do something with each ECU, several at a time; in the order given, an error beside its ECU."""
    outcomes: dict[str, Outcome[T]] = {}
    limit = anyio.Semaphore(AT_ONCE)

    async def one(ecu: Ecu) -> None:
        async with limit:
            try:
                client = await bench.client(ecu)
                outcomes[ecu.name] = Outcome(ecu, await work(ecu, client))
            except (GatewayError, TesterError) as error:
                outcomes[ecu.name] = Outcome(ecu, None, error)

    try:
        async with anyio.create_task_group() as tasks:
            for ecu in ecus:
                tasks.start_soon(one, ecu)
    except* Exception as group:  # a mistake of ours, or of an argument: as it would be without concurrency
        raise group.exceptions[0] from None
    return [outcomes[ecu.name] for ecu in ecus]


def conclude(outcomes: Sequence[Outcome[T]]) -> int:
    """Say each error; the status of the first."""
    failed = [(outcome.ecu.name, outcome.error) for outcome in outcomes if outcome.error is not None]
    for name, error in failed:
        note(f"{name}: {error}")
    return exit_status(failed[0][1]) if failed else 0

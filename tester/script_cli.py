"""``outrider uds script``: run a file of requests and expectations."""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from gateway.uds.client import KeyFunction, UdsClient
from tester.connect import Bench
from tester.errors import FileError, RefusedError, UsageError
from tester.keys import key_function
from tester.options import add_connection, add_write
from tester.output import note, say, say_json
from tester.raw_cli import changes_something
from tester.running import on_bench
from tester.script import ScriptError, Step, parse_script, to_bytes
from tester.script_run import ScriptRun, StepResult, junit

MAX_SCRIPT_BYTES = 4 * 1024 * 1024
FAILED = 1


def add_script_command(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """``outrider uds script``."""
    parser = subparsers.add_parser(
        "script", help="run a file of requests and expectations",
        description="Run a script: lines such as `ecu motor`, `send 22 F190`, `expect 62 F190 *`, `expect nrc 31`, "
        "`save NAME FROM`, `wait S`, `retry N S`, `repeat N ... end`, `session 03`, `unlock 01`, `set NAME VALUE`. "
        "Exit status 0: all as expected, 1: not. Scripts that may change something need --write.",
    )  # fmt: skip
    parser.add_argument("file", type=Path, metavar="FILE", help="the script")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a variable of the script")
    parser.add_argument("--keep-going", action="store_true", help="go on after a failure")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write the results as JUnit XML")
    add_connection(parser)
    add_write(parser)
    parser.set_defaults(run=on_bench(_script))


def load_script(path: Path) -> tuple[Step, ...]:
    """The steps of a file.

    Raises:
        FileError: it cannot be read or has wrong lines.
    """
    try:
        if path.stat().st_size > MAX_SCRIPT_BYTES:
            raise FileError(path, f"larger than {MAX_SCRIPT_BYTES} bytes")
        return parse_script(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileError(path, error.strerror or str(error), is_missing=True) from error
    except UnicodeDecodeError as error:
        raise FileError(path, "not UTF-8") from error
    except ScriptError as error:
        raise FileError(path, f"cannot be run:\n{error}") from error


def writing_steps(steps: tuple[Step, ...]) -> list[Step]:
    """Steps that may change something; one with variables may."""
    found = []
    for step in steps:
        found += writing_steps(step.inner)
        if step.verb == "send":
            is_open = any("$" in word for word in step.words[:1])
            plain = tuple(word for word in step.words if "$" not in word)
            if is_open or (plain and changes_something(to_bytes(plain))):
                found.append(step)
        elif step.verb == "unlock":
            found.append(step)
    return found


async def _script(args: argparse.Namespace, bench: Bench) -> int:
    steps = load_script(args.file)
    variables = {}
    for pair in args.set:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--set {pair}: expected NAME=VALUE")
        variables[name] = value
    writing = writing_steps(steps)
    if writing and not args.write and not args.dry_run:
        step = writing[0]
        raise RefusedError(f"line {step.line} may change something: {step.verb} {' '.join(step.words)}; add --write")
    if args.dry_run:
        note(f"{args.file}: sound; {len(writing)} steps may change something")
        return 0

    async def client_of(name: str) -> UdsClient:
        return await bench.client(bench.ecu(name))

    def key_of(name: str, level: int) -> KeyFunction:
        return key_function(bench.ecu(name), level)

    def on_result(result: StepResult) -> None:
        if not args.json:
            mark = "ok  " if result.passed else "FAIL"
            asked = " ".join(result.request[i : i + 2] for i in range(0, min(len(result.request), 24), 2))
            say(f"{mark} {result.line:>4}  {result.ecu:<10} {asked:<24} {result.problem or result.text}".rstrip())

    ecu = args.ecu[0] if args.ecu else ""
    run = ScriptRun(client_of, key_of, ecu=ecu, variables=variables, keep_going=args.keep_going, on_result=on_result)
    report = await run.run(steps, args.file.name)
    if args.junit:
        try:
            args.junit.write_text(junit(report), encoding="utf-8")
        except OSError as error:
            raise FileError(args.junit, error.strerror or str(error)) from error
    if args.json:
        say_json({**msgspec.to_builtins(report), "failed": report.failed})
    else:
        say(f"{len(report.results)} steps, {report.failed} failed, {report.seconds:.2f} s")
    return FAILED if report.failed else 0

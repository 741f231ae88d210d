"""What the groups of ``outrider cloud`` share: exit statuses, printing, and work on a cloud's database."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from cloud.app import build_services, running
from cloud.config import load_config
from cloud.errors import CloudError, ConfigError, Conflict, InvalidInput, NotFound, StorageError
from cloud.services import Services
from cloud.setup import CONFIG_NAME

EXIT: dict[type[CloudError], int] = {
    ConfigError: os.EX_CONFIG,
    StorageError: os.EX_IOERR,
    InvalidInput: os.EX_DATAERR,
    NotFound: os.EX_DATAERR,
    Conflict: os.EX_DATAERR,
}


def add_config(parser: argparse.ArgumentParser) -> None:
    """``--config``."""
    parser.add_argument("--config", type=Path, default=Path(CONFIG_NAME), metavar="FILE", help="default: ./cloud.toml")


def add_json(parser: argparse.ArgumentParser) -> None:
    """``--json``."""
    parser.add_argument("--json", action="store_true", help="machine-readable output")


def guarded(work: Callable[[], int]) -> int:
    """Run and turn errors into a line on stderr and an exit status."""
    try:
        return work()
    except CloudError as error:
        print(f"outrider cloud: {error}", file=sys.stderr)
        return EXIT.get(type(error), os.EX_SOFTWARE)
    except OSError as error:
        print(f"outrider cloud: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        return os.EX_CANTCREAT if isinstance(error, PermissionError) else os.EX_IOERR


def with_services(args: argparse.Namespace, work: Callable[[Services], Awaitable[int]]) -> int:
    """Work on the database of ``args.config``, perhaps beside a running service."""

    async def main() -> int:
        services = build_services(load_config(args.config))
        async with running(services, background=False):
            return await work(services)

    return guarded(lambda: asyncio.run(main()))


def print_json(value: Any) -> None:
    """For machines."""
    print(json.dumps(msgspec.to_builtins(value), indent=2))


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """Aligned columns on stdout."""
    widths = [max(len(line[i]) for line in [header, *rows]) for i in range(len(header))]
    for line in [header, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())

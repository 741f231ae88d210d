"""The part of a gateway that flashes ECUs, as a process that can be killed: buses, router, firewall, store, set.

``python -m tests.chain.updates.ecu_driver CONFIG TARGETS``: installs the set in the JSON file TARGETS, goes on where a
killed one stopped, prints one JSON line per step, and ends with 0 (all new), 3 (all old) or 4 (not whole).
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import msgspec

from gateway.config import load_config
from gateway.diag.buses import DiagnosticBuses
from gateway.diag.router import Router, names_of
from gateway.firewall.core import Firewall
from gateway.firewall.policy import default_policy
from gateway.firewall.rules import compile_policy
from gateway.firewall.state import VehicleFacts
from gateway.runtime import SystemClock
from gateway.update.config import FlashingSection, UpdateEcu
from gateway.update.ecu import EcuInstaller
from gateway.update.ecu_key import FileSeedKey
from gateway.update.ecu_links import RouterLinks
from gateway.update.ecu_model import SetNotWholeError
from gateway.update.ecu_reservation import EcuReservation
from gateway.update.ecu_set import EcuSet
from gateway.update.ecu_store import EcuStore
from gateway.update.model import InstallError, VerifiedTarget
from gateway.uptane.download_store import DownloadStore
from gateway.wire.uptane import FileFacts

ALL_NEW, ALL_OLD, NOT_WHOLE = 0, 3, 4


class Plan(msgspec.Struct, kw_only=True):
    """What to do, and with what."""

    ecus: tuple[UpdateEcu, ...]
    targets: tuple[VerifiedTarget, ...]


class Folder:
    """A ``Fetcher`` of files that lie beside the plan."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def metadata(self, repository: str, name: str, max_bytes: int) -> bytes | None:
        return None

    async def target(self, file: FileFacts, offset: int) -> AsyncIterator[bytes]:
        content = (self._directory / file.filename).read_bytes()
        for at in range(offset, len(content), 65_536):
            yield content[at : at + 65_536]


def say(**what: object) -> None:
    print(json.dumps(what), flush=True)


def tell(ecu: str, state: str, done: int, total: int) -> None:
    say(ecu=ecu, state=state, done=done, total=total)


async def drive(config_path: Path, plan_path: Path) -> int:
    config, plan = load_config(config_path), msgspec.json.decode(plan_path.read_bytes(), type=Plan)
    section, base = config.diagnostics, plan_path.parent
    firewall = Firewall(
        compile_policy(default_policy(), names_of(section.ecus)),
        vehicle=lambda now_ns: VehicleFacts(is_standing=True, was_standing=True, speed_kmh=0.0),
        record=lambda entry: None,
    )
    reservation = EcuReservation(firewall, {ecu.name: ecu.logical_address for ecu in section.ecus})
    buses = DiagnosticBuses(config.buses, kernel=section.kernel_isotp)
    router = Router(
        section.ecus, open_channel=buses.open_channel, open_functional=buses.open_functional, firewall=reservation,
        clock=SystemClock(),
    )  # fmt: skip
    installer = EcuInstaller(
        plan.ecus, links=RouterLinks(router, section.ecus), images=DownloadStore(base / "images", keep_free_bytes=0),
        store=EcuStore(base / "ecus"), key=FileSeedKey(plan.ecus, base), reservation=reservation,
        limits=FlashingSection(pause_s=1.0, save_every_bytes=2048),
    )  # fmt: skip
    done = ALL_NEW
    async with anyio.create_task_group() as tasks:
        for component in (buses, router):
            await tasks.start(lambda *, task_status, run=component.run: run(task_status=task_status))
        ecus = EcuSet(installer)
        try:
            await ecus.prepare(plan.targets, Folder(base), tell)
            await ecus.install(plan.targets, Folder(base), tell)
        except SetNotWholeError as error:
            say(failed=str(error))
            done = NOT_WHOLE
        except InstallError as error:
            say(failed=str(error))
            done = ALL_OLD
        tasks.cancel_scope.cancel()
    return done


if __name__ == "__main__":
    sys.exit(anyio.run(drive, Path(sys.argv[1]), Path(sys.argv[2])))

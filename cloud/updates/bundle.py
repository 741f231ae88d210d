"""An update on a stick: a directory with everything a vehicle needs to verify and install without a link.

    director/N.root.json …, director/timestamp.json, director/N.snapshot.json, director/N.targets.json
    image/N.root.json …, image/timestamp.json, image/N.snapshot.json, image/N.targets.json, delegated roles
    targets/folder/SHA256.name

It is for one vehicle, as the Director's metadata are, and the same checks are made of it as of a link.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterable
from pathlib import Path

import msgspec
from tuf.api.metadata import Metadata

from cloud.auth.audit import Actor, record
from cloud.errors import Conflict, InvalidInput
from cloud.services import Services
from cloud.updates.assignments import AssignOrder
from cloud.updates.director import open_assignment
from cloud.updates.model import AssignmentPlanRow
from cloud.updates.names import hashed_path
from cloud.updates.plan import Plan
from cloud.updates.tuf import to_ns
from gateway.wire.uptane import FileFacts

DAY_NS = 86_400_000_000_000


class BundleView(msgspec.Struct, frozen=True):
    """What was written."""

    directory: str
    vehicle: str
    release: str
    files: int
    bytes: int
    good_until_ns: int


async def write_bundle(
    services: Services, vehicle_id: str, release_name: str, directory: Path, actor: Actor, *, days: float
) -> BundleView:
    """Assign the release to the vehicle, unless it is, and write the bundle.

    Raises:
        InvalidInput: the directory is not empty.
        NotFound, Conflict: as for an assignment.
    """
    if directory.exists() and any(directory.iterdir()):
        raise InvalidInput(f"{directory} is not empty")
    updates = services.updates
    release = await updates.releases.by_name(release_name)
    async with services.db.read() as session:
        there = await session.run_sync(open_assignment, vehicle_id)
    if there is None or there.release_id != release.id:
        await updates.assignments.assign(vehicle_id, AssignOrder(release_id=release.id), actor)
    life_ns = int(days * DAY_NS)
    parts = {
        "director": await updates.director.long_lived(vehicle_id, life_ns),
        "image": await updates.repositories.long_lived(life_ns),
    }
    async with services.db.write() as session:
        there = await session.run_sync(open_assignment, vehicle_id)
        row = await session.get(AssignmentPlanRow, there.id) if there else None
        if there is None or row is None:
            raise Conflict(f"{vehicle_id} cannot install {release.name} now; has it registered its ECUs?")
        plan = msgspec.json.decode(row.plan, type=Plan)
        record(session, actor, services.clock.now_ns(), "update.bundle", vehicle_id, release.name)
    images = _images(plan)
    for folder, files in parts.items():
        for name, content in files.items():
            await asyncio.to_thread(_write, directory / folder / name, content)
    for image in images:
        sha256 = image.hashes["sha256"]
        source = await asyncio.to_thread(updates.store.local, sha256)
        await asyncio.to_thread(_copy, source, directory / "targets" / hashed_path(image.filename, sha256))
    count = sum(len(files) for files in parts.values()) + len(images)
    size = sum(len(c) for files in parts.values() for c in files.values()) + sum(image.length for image in images)
    return BundleView(str(directory), vehicle_id, release.name, count, size, _good_until(parts.values()))


def _images(plan: Plan) -> list[FileFacts]:
    """Images, their deltas and what the vehicle may have to go back to, each once."""
    found: dict[str, FileFacts] = {}
    for target in plan.targets:
        wanted = [target.file, *(offer.delta for offer in target.deltas), *target.fallback.values()]
        found.update({file.filename: file for file in wanted})
    return list(found.values())


def _good_until(parts: Iterable[dict[str, bytes]]) -> int:
    """When the first of the files expires; of roots only the newest counts."""
    ends = []
    for files in parts:
        roots = [name for name in files if name.endswith(".root.json")]
        newest = max(roots, key=lambda name: int(name.partition(".")[0]))
        for name, content in files.items():
            if name == newest or name not in roots:
                parsed = Metadata.from_bytes(content)
                ends.append(to_ns(parsed.signed.expires))
    return min(ends)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _copy(source: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, path)

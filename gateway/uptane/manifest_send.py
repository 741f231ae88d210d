"""Delivery of manifests and of the inventory to the cloud."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Protocol

import anyio.to_thread
import msgspec

from bootctl.files import Files, RealFiles, replace_content
from gateway.errors import PeerError, TransportError
from gateway.link.client import Refusal, RefusedError
from gateway.update.ports import EcuSigner
from gateway.uptane.manifest import EcuState, ManifestBuilder
from gateway.wire.uptane import EcuKey, InstalledImage, Inventory, Signed

log = logging.getLogger(__name__)

INVENTORY_FILE = "inventory-told.json"
CONFLICT, UNPROCESSABLE = 409, 422


class ManifestLink(Protocol):
    """What is needed of ``CloudClient``."""

    async def send_vehicle_manifest(self, signed: Signed) -> None:
        """Deliver a vehicle version manifest. Raises ``TransportError, RefusedError, PeerError``."""

    async def send_inventory(self, inventory: Inventory) -> None:
        """Tell the ECUs. Raises as ``send_vehicle_manifest``."""


class ManifestSender:
    """Builds and delivers. Each attempt is a manifest of its own, with fresh numbers: none is ever sent twice."""

    def __init__(
        self,
        link: ManifestLink,
        builder: ManifestBuilder,
        *,
        hardware: Mapping[str, str],
        now_ns: Callable[[], int],
        inventory: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """Make a sender.

        Args:
            link: the cloud.
            builder: used by nobody else.
            hardware: hardware id of each ECU.
            now_ns: the latest time known (UTC), best the attested one.
            inventory: asked for before each manifest, which would be dropped if the cloud did not know the ECUs:
                ``InventoryDesk.tell``, with the inventory bound.
        """
        self._link, self._builder, self._hardware, self._now_ns = link, builder, dict(hardware), now_ns
        self._inventory = inventory

    async def send(self, ecus: Mapping[str, InstalledImage | None], details: Mapping[str, str]) -> None:
        """Tell the cloud what runs now; returns when it has taken it.

        Args:
            ecus: what each runs, None where it does not answer; names that are no ECU with a key are payloads.
            details: why installations failed, by ECU (N9).

        Raises:
            TransportError: not delivered; try again later.
            PeerError: the Director dropped it; the text says why.
        """
        if self._inventory is not None:
            await self._inventory()
        known = self._builder.ecus
        payloads = {name: image for name, image in ecus.items() if name not in known and image is not None}
        states = [
            EcuState(ecu=ecu, hardware_id=self._hardware.get(ecu, ""), image=ecus.get(ecu), detail=details.get(ecu, ""))
            for ecu in known
        ]
        build = partial(self._builder.build, states, payloads, time_ns=self._now_ns())
        built = await anyio.to_thread.run_sync(build)
        try:
            await self._link.send_vehicle_manifest(built.signed)
        except RefusedError as error:
            if error.status == UNPROCESSABLE:
                log.error("vehicle_manifest_refused", extra={"reason": error.detail})
                raise PeerError(f"the Director dropped the vehicle manifest: {error.detail}") from error
            raise _as_transport(error) from error
        await anyio.to_thread.run_sync(self._builder.delivered, built)


def _as_transport(error: RefusedError) -> TransportError | PeerError:
    """A refusal that time may heal, or one that it will not."""
    healing = (Refusal.LATER, Refusal.IDENTITY)
    return TransportError(str(error)) if error.refusal in healing else PeerError(str(error))


class InventoryAnswer(Enum):
    """How the cloud and this vehicle stand about its ECUs."""

    KNOWN = "known"  # the cloud had it before; nothing was sent
    TAKEN = "taken"
    CONFLICT = "conflict"  # another one is registered: an operator must agree


def inventory_of(
    primary: str,
    hardware: Mapping[str, str],
    signers: Mapping[str, EcuSigner],
    factory: Mapping[str, InstalledImage] | None = None,
) -> Inventory:
    """The ECUs of this vehicle with their keys (P2, D7), in the order of their names.

    Args:
        primary: which is the Primary.
        hardware: hardware id of each ECU.
        signers: key of each.
        factory: what they run when they are first told of.
    """
    images = factory or {}
    keys = [
        EcuKey(
            ecu=ecu,
            hardware_id=hardware_id,
            is_primary=ecu == primary,
            key_id=signers[ecu].key_id,
            method=signers[ecu].method,
            public=signers[ecu].public,
            image=images.get(ecu),
        )
        for ecu, hardware_id in sorted(hardware.items())
    ]
    return Inventory(ecus=tuple(keys))


class _Told(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    digest: str


class InventoryDesk:
    """Tells the inventory once, and again when ECUs or keys change; software that changes is the manifest's matter."""

    def __init__(self, link: ManifestLink, path: Path, files: Files | None = None) -> None:
        self._link, self._path, self._files = link, path, files or RealFiles()

    async def tell(self, inventory: Inventory, *, again: bool = False) -> InventoryAnswer:
        """Make sure that the cloud knows it. To be called before each manifest; cheap when nothing changed.

        A conflict is told at every call until it ends. Whoever enrols the vehicle anew, with another cloud or under
        another name, has it told with ``again``.

        Raises:
            TransportError: not delivered; try again later.
            PeerError: refused; the text says why.
        """
        digest = _digest(inventory)
        if not again and self._told() == digest:
            return InventoryAnswer.KNOWN
        try:
            await self._link.send_inventory(inventory)
        except RefusedError as error:
            if error.status == CONFLICT:
                log.warning("inventory_conflict", extra={"reason": error.detail})
                return InventoryAnswer.CONFLICT
            raise _as_transport(error) from error
        try:
            replace_content(self._files, self._path, msgspec.json.encode(_Told(digest)))
        except OSError as error:  # it will be told once more than needed
            log.warning("inventory_mark_failed", extra={"path": str(self._path), "error": str(error)})
        return InventoryAnswer.TAKEN

    def _told(self) -> str:
        try:
            return msgspec.json.decode(self._files.read(self._path), type=_Told).digest
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return ""


def _digest(inventory: Inventory) -> str:
    bare = [msgspec.structs.replace(ecu, image=None) for ecu in inventory.ecus]
    return hashlib.sha256(msgspec.json.encode(bare)).hexdigest()

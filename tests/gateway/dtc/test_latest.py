"""What the latest signals need of a bus."""

from __future__ import annotations

import msgspec
import pytest

from dbc.manifest import WILDCARD_SA, Manifest, Message
from gateway.dtc.latest import LatestSignals
from tests.gateway.manifests import MANIFEST, message, signal


def _manifest(can_id: int, pgn: int) -> Manifest:
    group: Message = msgspec.structs.replace(message("Group", can_id, signal("value", 0, 8)), extended=True, pgn=pgn)
    return msgspec.structs.replace(MANIFEST, messages=(group,))


def _passes(manifest: Manifest, can_id: int) -> bool:
    """Whether a frame passes what is wanted, as the kernel compares it."""
    wanted = LatestSignals(manifest, [0]).wanted()["can0"]
    filters = [(entry[0], entry[2] if len(entry) > 2 else 0x1FFFFFFF) for entry in wanted]
    return any(can_id & mask == wanted_id & mask for wanted_id, mask in filters)


def test_a_standard_message_is_wanted_by_its_identifier() -> None:
    assert LatestSignals(MANIFEST, [0]).wanted() == {"can0": {(0x100, False)}}


@pytest.mark.parametrize("can_id", [0x18FEF100 | WILDCARD_SA, 0x0CFEF103, 0x1CFEF1A0])
def test_a_j1939_message_of_any_sender_passes_the_filter_in_every_priority(can_id: int) -> None:
    assert _passes(_manifest(0x18FEF100 | WILDCARD_SA, 0xFEF1), can_id)


def test_a_j1939_message_of_one_sender_passes_from_no_other() -> None:
    manifest = _manifest(0x18FEF103, 0xFEF1)
    assert _passes(manifest, 0x0CFEF103)
    assert not _passes(manifest, 0x18FEF104)
    assert not _passes(manifest, 0x18FEF203)


def test_a_j1939_message_to_one_address_passes_with_any_destination() -> None:
    manifest = _manifest(0x18EA0003, 0xEA00)
    assert _passes(manifest, 0x18EAFF03)
    assert not _passes(manifest, 0x18EB0003)

"""When both copies of the floor are lost: what can be had again, from metadata that still verifies.

Fail closed but updatable: versions come back from the stored metadata, if it verifies along the chain from the Root in
the image (an expired file is as good a mark as any); release counters from the images that the last known update names
as those that run now; the service raises them again from what runs at every start. The highest attested time is lost,
so the time the software was built is the least until time is attested again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping

from gateway.errors import GatewayError
from gateway.update.model import VerifiedUpdate
from gateway.uptane.floor import FloorRecord
from gateway.uptane.steps import Answer, Step
from gateway.uptane.store import MetadataStore
from gateway.uptane.trust import TrustedRepository


def rebuild(
    record: FloorRecord,
    roots: Mapping[str, bytes],
    stores: Mapping[str, MetadataStore],
    known: VerifiedUpdate | None,
) -> None:
    """Raise the marks of an empty record as far as the disk proves it. Never fails: what does not verify is left."""
    for name, bootstrap in roots.items():
        repository = TrustedRepository(name, bootstrap, stores[name], record.marks_of(name))
        with contextlib.suppress(GatewayError):
            _answer_none(repository.load_roots())
        with contextlib.suppress(GatewayError):
            repository.load_marks()
    for target in known.targets if known else ():
        if target.fallback_must_match is not None:
            counter = target.fallback_must_match.release_counter
            record.counters[target.ecu] = max(counter, record.counters.get(target.ecu, 0))


def _answer_none(steps: Generator[Step, Answer, None]) -> None:
    """There is nothing but the disk."""
    for _ in steps:
        pass

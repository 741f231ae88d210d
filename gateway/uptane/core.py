"""Full verification (F1 to F13), as steps: see ``steps`` for how it asks, ``verifier`` for who answers.

What one refresh found is kept as a *known update* with the digests it rests on. While the Director's Snapshot and
Targets are the same, nothing else is asked for (F4). Metadata that was verified before a later step failed stays
trusted, and the next refresh starts from there (F13).
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from bootctl.files import Files, replace_content
from gateway.errors import GatewayError, TransportError
from gateway.update.model import VerifiedUpdate
from gateway.uptane.compare import Comparison
from gateway.uptane.director import install_sets, read_orders
from gateway.uptane.floor import Floor, seal, unseal
from gateway.uptane.partial import PartialBundle
from gateway.uptane.rebuild import rebuild
from gateway.uptane.steps import Steps, ask_time
from gateway.uptane.store import MetadataStore
from gateway.uptane.time import SecureTime
from gateway.uptane.trust import TrustedRepository

log = logging.getLogger(__name__)


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What the last successful refresh said, and what it rests on."""

    basis: str
    update: VerifiedUpdate


_KNOWN = msgspec.json.Decoder(Known)


class Core:
    """Verification over a directory. One at a time; the caller has the lock."""

    def __init__(
        self,
        *,
        vehicle: str,
        ecus: Mapping[str, str],
        directory: Path,
        director_root: bytes,
        image_root: bytes,
        files: Files,
        time: SecureTime,
    ) -> None:
        """Arguments as for ``UptaneVerifier``. Raises ``ConfigError``: a root in the image is none."""
        self._vehicle, self._ecus, self._files, self._time = vehicle, dict(ecus), files, time
        self._roots = {"director": director_root, "image": image_root}
        self._stores = {name: MetadataStore(files, directory / name) for name in self._roots}
        self._known_path = directory / "known.json"
        setup = msgspec.json.encode((vehicle, sorted(self._ecus.items()), director_root, image_root))
        self._setup = hashlib.sha256(setup).hexdigest()
        self.floor = Floor(files, directory / "floor")
        is_first = all(store.is_empty for store in self._stores.values())
        self.was_rebuilt = self.floor.was_lost or (self.floor.is_new and not is_first)
        for name in self._roots:
            self._repository(name)
        if self.was_rebuilt:
            known = self._load_known()
            rebuild(self.floor.record, self._roots, self._stores, known.update if known else None)
            log.error("uptane_floor_rebuilt")
            with contextlib.suppress(TransportError):
                self.floor.save()
        self._known = self._load_known()

    def _repository(self, name: str) -> TrustedRepository:
        marks = self.floor.record.marks_of(name)
        return TrustedRepository(name, self._roots[name], self._stores[name], marks)

    # The known update.

    def _load_known(self) -> Known | None:
        try:
            return _KNOWN.decode(unseal(self._files.read(self._known_path)))
        except (OSError, ValueError):
            return None

    def known(self) -> VerifiedUpdate | None:
        """What the last successful refresh said, if this vehicle may still install it; None otherwise."""
        if self._known is None or not self._known.basis.startswith(self._setup):
            return None
        for target in self._known.update.targets:
            if target.must_match.release_counter < self.floor.record.counters.get(target.ecu, 0):
                return None
        return self._known.update

    def _keep(self, known: Known) -> VerifiedUpdate:
        if known != self._known:
            try:
                replace_content(self._files, self._known_path, seal(msgspec.json.encode(known)))
            except OSError as error:
                raise TransportError(f"{self._known_path}: {error.strerror or error}") from error
            self._known = known
        return known.update

    def partial_bundle(self) -> PartialBundle | None:
        """The Director's newest trusted Root and Targets, as they were signed."""
        mark = self.floor.record.director.marks.get("root")
        targets = self._stores["director"].read("targets")
        if mark is None or targets is None:
            return None
        root = self._stores["director"].read_root(mark.version) or self._roots["director"]
        return PartialBundle(director_root=root, director_targets=targets)

    # Verification.

    def refresh(self) -> Steps[VerifiedUpdate]:
        """F1 to F13 in this order.

        Raises:
            AttackError: refused.
            TransportError: the disk does not answer, or what the caller threw in.
        """
        director = self._repository("director")
        with self._flushed(director):
            yield from self._load_time_and_roots(director)
            yield from director.load_timestamp()
            is_new = yield from director.load_snapshot()
            targets = yield from director.load_targets()
            orders = read_orders(targets, self._vehicle, self._ecus)
            sets = install_sets(orders)
        basis = f"{self._setup} {director.digest('targets')}"
        known = self.known()
        if not is_new and known is not None and self._known is not None and self._known.basis == basis:
            return known
        update = VerifiedUpdate(
            assignment=orders.instructions.assignment,
            campaign=orders.instructions.campaign,
            release=orders.instructions.release,
            sets=sets,
            policy=orders.instructions.policy,
            director_version=targets.version,
        )
        if orders.images:
            image = self._repository("image")
            with self._flushed(image):
                yield from image.load_roots()
                image.set_time(self._time.now_ns(self.floor.record))
                yield from image.load_timestamp()
                yield from image.load_snapshot()
                yield from image.load_targets()
                comparison = Comparison(image, self._ecus, dict(self.floor.record.counters))
                found = yield from comparison.verify(orders)
            update = msgspec.structs.replace(update, targets=found)
        return self._keep(Known(basis=basis, update=update))

    def _load_time_and_roots(self, director: TrustedRepository) -> Steps[None]:
        """F1, F2. The time is asked for first, and judged by the newest Root: its keys may have been replaced."""
        answer = None
        try:
            answer = yield from ask_time(self._time.request())
        except TransportError as error:
            log.debug("uptane_time_unknown", extra={"reason": str(error)})
        is_in_time = self._time.received()
        yield from director.load_roots()
        if self._time.forget_outdated(director.root, self.floor.record):
            log.warning("uptane_time_floor_forgotten")
        if answer is not None and is_in_time:
            self._time.accept(answer, self._vehicle, director.root, self.floor.record)
        director.set_time(self._time.now_ns(self.floor.record))

    @contextlib.contextmanager
    def _flushed(self, repository: TrustedRepository) -> Iterator[None]:
        """Write what was verified, the floor first, whatever came after it."""
        try:
            yield
        except BaseException:
            # The first error is the one to tell; a disk that fails now fails again in the next refresh.
            with contextlib.suppress(GatewayError):
                self._flush(repository)
            raise
        self._flush(repository)

    def _flush(self, repository: TrustedRepository) -> None:
        self.floor.save()
        repository.flush()

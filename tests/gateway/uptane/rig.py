"""A vehicle's verifier over a ``Cloud``, on a real folder or a model disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from bootctl.files import Files, RealFiles
from gateway.update.model import AttackError, VerifiedUpdate
from gateway.uptane.verifier import UptaneVerifier
from tests.gateway.uptane.repos import Cloud, MemoryFetcher

ECUS = {"gateway": "gateway-1", "brakes": "brake-7", "motor": "motor-3", "motor-2": "motor-3"}


class Vehicle:
    """A verifier that may be restarted, and every refresh of it with a fetcher of its own."""

    def __init__(
        self,
        cloud: Cloud,
        directory: Path,
        *,
        files: Files | None = None,
        ecus: dict[str, str] | None = None,
        **more: Any,
    ) -> None:
        self.cloud, self.directory, self.files = cloud, directory, files or RealFiles()
        self._ecus, self._more = ecus or ECUS, more
        self.verifier = self._made()
        self.fetcher = cloud.fetcher()

    def _made(self) -> UptaneVerifier:
        options: dict[str, Any] = {
            "vehicle": self.cloud.vehicle,
            "ecus": self._ecus,
            "primary": "gateway",
            "directory": self.directory,
            "director_root": self.cloud.director_root,
            "image_root": self.cloud.image_root,
            "files": self.files,
            "clock": self.cloud.clock,
        }
        return UptaneVerifier(**{**options, **self._more})

    def restart(self, **more: Any) -> None:
        """The process ends and starts again."""
        self.verifier.close()
        self._more |= more
        self.verifier = self._made()

    def refresh(self, fetcher: MemoryFetcher | None = None) -> VerifiedUpdate:
        """One refresh; the requests of this one are in ``fetcher.asked``."""
        self.fetcher = fetcher or self.cloud.fetcher()
        return anyio.run(self.verifier.refresh, self.fetcher)

    def refused(self, fetcher: MemoryFetcher | None = None) -> AttackError:
        """One refresh that must be refused; what was known before still is."""
        before = self.verifier.known()
        with pytest.raises(AttackError) as caught:
            self.refresh(fetcher)
        assert self.verifier.known() == before
        return caught.value

    def raise_counters(self, **counters: int) -> None:
        """As after a good installation."""
        self.verifier.raise_counters({name.replace("_", "-"): value for name, value in counters.items()})

"""Partial verification in place of the ECUs (PV1, PV2), before anything is written to them.

The Primary has verified in full. This reads the Director's Targets once more, as bytes, under the present time, as each
ECU would: should what the Primary hands on differ from what was signed, for a defect or a bit that fell over in memory,
it ends here.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.runtime import Clock
from gateway.update.model import AttackError, InstallError, VerifiedTarget
from gateway.uptane.partial import PartialBundle, verify_partial


class PartialVerification:
    """A ``PartialCheck``."""

    def __init__(self, bundle: Callable[[], PartialBundle | None], vehicle: str, clock: Clock) -> None:
        """``bundle``: the verifier's; ``clock``: secure time, not the machine's."""
        self._bundle, self._vehicle, self._clock = bundle, vehicle, clock

    def __call__(self, target: VerifiedTarget) -> None:
        """Raises ``AttackError``, or ``InstallError``: there is no metadata to check with."""
        bundle = self._bundle()
        if bundle is None:
            raise InstallError(f"{target.ecu}: there is no verified metadata of the Director (PV2)")
        found = verify_partial(
            bundle, vehicle=self._vehicle, ecu=target.ecu, hardware_id=target.hardware_id,
            now_ns=self._clock.utc_ns(),
        )  # fmt: skip
        if found is None or found.image != target.image or found.must_match != target.must_match:
            message = f"{target.ecu}: the Director's Targets do not want {target.image.filename} for it"
            raise AttackError("mix-and-match", "PV2", message)

"""The vehicle version manifest: what each ECU runs, signed by the ECU, and all of it signed by the Primary (V1).

A manifest is made after every attempt to update, also after one that failed (N9), and whenever the cloud should know.
An attack that was seen stays noted, on disk, until a manifest that names it has been delivered: neither a dead link nor
the ignition may hide it.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import msgspec

from bootctl.files import Files, RealFiles, replace_content
from gateway.errors import ConfigError, TransportError
from gateway.update.model import AttackError
from gateway.update.ports import EcuSigner
from gateway.uptane.manifest_counters import ReportCounters
from gateway.wire.uptane import (
    ATTACKS,
    MANIFEST_DOMAIN,
    MAX_ECUS,
    MAX_MANIFEST_BYTES,
    REPORT_DOMAIN,
    EcuReport,
    InstalledImage,
    Signed,
    VehicleManifest,
)

log = logging.getLogger(__name__)

ATTACKS_FILE = "attacks-seen.json"
MAX_DETAIL_CHARS, SHORT_DETAIL_CHARS = 400, 40
#: For an ECU that does not answer: it has a report all the same, or the Director would drop the manifest (D3).
UNKNOWN_IMAGE = InstalledImage(filename="", length=0, hashes={})
NO_ANSWER = "the ECU does not answer"


class EcuState(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one ECU now."""

    ecu: str
    hardware_id: str
    image: InstalledImage | None  # None: it does not answer
    attack: str = ""  # of ATTACKS; "": the one noted, if any
    detail: str = ""  # why an installation failed


class Noted(msgspec.Struct, frozen=True):
    """An attack on an ECU's software, and how it was seen."""

    attack: str
    detail: str = ""


class BuiltManifest(msgspec.Struct, frozen=True, kw_only=True):
    """A manifest, and which notes it carries."""

    signed: Signed
    noted: dict[str, Noted]


class _Notes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    attacks: dict[str, Noted] = {}


class AttackNotes:
    """Attacks seen that the cloud has not heard of, durably; the newest of each ECU."""

    def __init__(self, path: Path, files: Files | None = None) -> None:
        """Read them. A damaged file is logged and begun anew: it is no reason not to report.

        Raises:
            TransportError: the disk does not answer.
        """
        self._path, self._files = path, files or RealFiles()
        self._now: dict[str, Noted] = {}
        try:
            self._now = dict(msgspec.json.decode(self._files.read(path), type=_Notes).attacks)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise TransportError(f"{path}: {error.strerror or error}") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            log.error("attack_notes_damaged", extra={"path": str(path), "error": str(error)})

    @property
    def now(self) -> Mapping[str, Noted]:
        """What is to be told, by ECU."""
        return dict(self._now)

    def note(self, ecu: str, attack: str, detail: str) -> None:
        """An attack was seen. One that a full disk does not take is kept in memory and logged.

        Raises:
            ValueError: the attack has no such name.
        """
        if attack not in ATTACKS:
            raise ValueError(f"there is no attack named {attack!r}")
        noted = Noted(attack, detail[:MAX_DETAIL_CHARS])
        if self._now.get(ecu) != noted:
            self._now[ecu] = noted
            self._keep()

    def delivered(self, noted: Mapping[str, Noted]) -> None:
        """The cloud has heard of these; one seen since then stays."""
        left = {ecu: note for ecu, note in self._now.items() if noted.get(ecu) != note}
        if left != self._now:
            self._now = left
            self._keep()

    def _keep(self) -> None:
        try:
            replace_content(self._files, self._path, msgspec.json.encode(_Notes(self._now)))
        except OSError as error:
            log.warning("attack_notes_not_kept", extra={"path": str(self._path), "error": str(error)})


class ManifestBuilder:
    """Makes manifests. Blocking: signs with each ECU's key, and writes now and then."""

    def __init__(
        self,
        vehicle: str,
        primary: str,
        signers: Mapping[str, EcuSigner],
        counters: ReportCounters,
        notes: AttackNotes,
    ) -> None:
        """Make a builder.

        Args:
            vehicle: its id.
            primary: the identifier of the Primary among the ECUs.
            signers: the key of every ECU of the inventory.
            counters: where reports get their numbers.
            notes: attacks seen.

        Raises:
            ConfigError: the Primary has no key, or there are too many ECUs.
        """
        if primary not in signers or not 1 <= len(signers) <= MAX_ECUS:
            raise ConfigError(f"{len(signers)} ECUs with keys, the Primary {primary!r} must be one, {MAX_ECUS} may be")
        self._vehicle, self._primary, self._signers = vehicle, primary, dict(signers)
        self._counters, self._notes = counters, notes

    @property
    def ecus(self) -> tuple[str, ...]:
        """Whose reports every manifest must have."""
        return tuple(self._signers)

    def saw(self, error: AttackError, ecus: Collection[str] = ()) -> None:
        """Note an attack for the next manifest: for these ECUs, or the Primary, who saw it."""
        for ecu in ecus or (self._primary,):
            self._notes.note(ecu, error.attack, f"{error.rule}: {error.message}")

    def build(
        self,
        states: Sequence[EcuState],
        payloads: Mapping[str, InstalledImage] | None = None,
        *,
        time_ns: int,
    ) -> BuiltManifest:
        """A manifest of all ECUs; one of which nothing is said is reported as not answering.

        Args:
            states: what each ECU runs.
            payloads: manifests, schemes, models, configuration in use, by name.
            time_ns: the latest time known (UTC).

        Raises:
            ValueError: an ECU without a key, or twice.
            TransportError: a key or the disk does not answer.
        """
        by_ecu = {state.ecu: state for state in states}
        if len(by_ecu) != len(states) or not by_ecu.keys() <= self._signers.keys():
            raise ValueError("an ECU stands in it twice, or has no key")
        noted = {ecu: note for ecu, note in self._notes.now.items() if ecu in self._signers}
        numbers = self._counters.take(len(self._signers))
        signed = self._sign(by_ecu, noted, payloads or {}, numbers, time_ns, MAX_DETAIL_CHARS)
        if len(msgspec.json.encode(signed)) > MAX_MANIFEST_BYTES:
            numbers = self._counters.take(len(self._signers))
            signed = self._sign(by_ecu, noted, payloads or {}, numbers, time_ns, SHORT_DETAIL_CHARS)
        return BuiltManifest(signed=signed, noted=noted)

    def delivered(self, manifest: BuiltManifest) -> None:
        """The cloud has taken it: its attacks need not be told again."""
        self._notes.delivered(manifest.noted)

    def _sign(
        self,
        states: Mapping[str, EcuState],
        noted: Mapping[str, Noted],
        payloads: Mapping[str, InstalledImage],
        numbers: range,
        time_ns: int,
        detail_chars: int,
    ) -> Signed:
        reports = []
        for (ecu, signer), number in zip(self._signers.items(), numbers, strict=True):
            state = states.get(ecu) or EcuState(ecu=ecu, hardware_id="", image=None)
            note = noted.get(ecu, Noted(""))
            detail = state.detail or note.detail or ("" if state.image else NO_ANSWER)
            report = EcuReport(
                vehicle=self._vehicle,
                ecu=ecu,
                hardware_id=state.hardware_id,
                image=state.image or UNKNOWN_IMAGE,
                counter=number,
                time_ns=time_ns,
                attack=state.attack or note.attack,
                detail=detail[:detail_chars],
            )
            reports.append(_signed(signer, REPORT_DOMAIN, msgspec.json.encode(report)))
        manifest = VehicleManifest(
            vehicle=self._vehicle, primary=self._primary, reports=tuple(reports), payloads=dict(payloads)
        )
        return _signed(self._signers[self._primary], MANIFEST_DOMAIN, msgspec.json.encode(manifest))


def _signed(signer: EcuSigner, domain: bytes, payload: bytes) -> Signed:
    return Signed(payload=payload, signatures=(signer.sign(domain, payload),))

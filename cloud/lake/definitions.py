"""What a raw integer meant when it was recorded: scale, offset, unit and labels, frozen per version of a signal.

A signal keeps its *series* (its name ``bus.message.signal``) through all manifests. What may change between manifests
is its *definition*; each stored sample names the definition it was recorded under, so that a new scale never rewrites
the past. Reading the lake needs definitions only, never a manifest.
"""

from __future__ import annotations

import hashlib
import math
from functools import cached_property

import msgspec
import numpy as np
from numpy.typing import NDArray

from gateway.wire.manifest import Kind, Manifest, Signal


class Definition(msgspec.Struct, frozen=True, dict=True):
    """How to read the raw integers of a series: ``physical = raw * scale + offset``."""

    name: str  # the series: bus.message.signal
    kind: Kind
    length: int  # bits
    scale: float = 1.0
    offset: float = 0.0
    unit: str = ""
    labels: dict[int, str] = {}
    cycle_ms: int | None = None  # the message's declared period
    comment: str = ""

    @cached_property
    def encoded(self) -> bytes:
        """Canonical JSON; labels in the order of their numbers."""
        ordered = msgspec.structs.replace(self, labels=dict(sorted(self.labels.items())))
        return msgspec.json.encode(ordered)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the content: equal definitions of different manifests are one."""
        return hashlib.sha256(self.encoded).digest()

    @property
    def digits(self) -> int:
        """Decimals worth showing: as many as one step of the raw value can change, at most 6."""
        if self.kind in (Kind.FLOAT32, Kind.FLOAT64):
            return 6
        return max(_decimals(self.scale), _decimals(self.offset))

    def physical(self, raw: NDArray[np.int64]) -> NDArray[np.float64]:
        """Physical values of raw integers (bit patterns for floats and unsigned 64-bit signals)."""
        if self.kind is Kind.FLOAT64:
            values = raw.view(np.float64)
        elif self.kind is Kind.FLOAT32:
            values = (raw & 0xFFFFFFFF).astype(np.uint32).view(np.float32).astype(np.float64)
        elif self.kind is Kind.UNSIGNED and self.length >= 64:
            values = raw.view(np.uint64).astype(np.float64)
        else:
            values = raw.astype(np.float64)
        if self.scale == 1.0 and self.offset == 0.0:
            return values
        with np.errstate(over="ignore", invalid="ignore"):
            scaled: NDArray[np.float64] = values * self.scale + self.offset
        return scaled

    def value(self, raw: int) -> float:
        """The physical value of one raw integer."""
        return float(self.physical(np.array([raw], np.int64))[0])

    def label(self, raw: int) -> str:
        """The value table's text for a raw integer, empty when there is none."""
        if self.kind is Kind.UNSIGNED and self.length >= 64 and raw < 0:
            raw += 1 << 64
        return self.labels.get(raw, "")


def _decimals(number: float) -> int:
    """Decimals needed to write ``number`` exactly, at most 6."""
    if not math.isfinite(number) or number == 0:
        return 0
    for places in range(6):
        if abs(round(number, places) - number) <= abs(number) * 1e-9:
            return places
    return 6


def define(name: str, signal: Signal, cycle_ms: int | None) -> Definition:
    """The definition of a manifest's signal under its series name."""
    return Definition(
        name=name,
        kind=signal.kind,
        length=signal.length,
        scale=signal.scale,
        offset=signal.offset,
        unit=signal.unit,
        labels=signal.labels,
        cycle_ms=cycle_ms,
        comment=signal.comment,
    )


def definitions_of(manifest: Manifest) -> list[Definition]:
    """The definitions of all signals of a manifest, in numbering order."""
    return [
        define(name, signal, manifest.messages[message].cycle_ms)
        for name, signal, message in zip(manifest.signal_names, manifest.signals, manifest.signal_message, strict=True)
    ]


def decode_definition(content: bytes) -> Definition:
    """From ``Definition.encoded``; ``msgspec.DecodeError`` when damaged."""
    return msgspec.json.decode(content, type=Definition)


def clean(value: float) -> float | None:
    """A number as people wrote the scale (0.30000000000000004 is 0.3); None for what is not finite."""
    return float(f"{value:.12g}") if math.isfinite(value) else None

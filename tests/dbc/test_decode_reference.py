"""Decoding equals cantools, value for value, on every database and recorded log at hand."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from cantools.database.can import Database, Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dbc.decode import Decoder
from dbc.frames import EXTENDED, FrameBatch
from dbc.integrity import Rule, Verifier
from dbc.load import compile_manifest
from dbc.logs import open_log
from dbc.manifest import Kind
from tests.dbc.decode_support import load_reference, pattern, samples
from tests.support import DBC_DIR, LONG

pytestmark = pytest.mark.data

#: cantools cannot load it: an unterminated NS_ block.
_REJECTED = "kona_ev_pcan.dbc"
Named = tuple[int, str, int]
FILES = [path.name for path in sorted(DBC_DIR.glob("*.dbc")) if path.name != _REJECTED] or ["absent"]


class Case:
    """One file as cantools and as our loader read it."""

    _cache: ClassVar[dict[Path, Case]] = {}

    def __init__(self, path: Path) -> None:
        self.reference: Database = load_reference(path)
        self.by_id = {(m.frame_id, m.is_extended_frame): m for m in self.reference.messages if not _lost_selector(m)}
        self.manifest, _ = compile_manifest({"can0": [path]})
        self.decoder = Decoder(self.manifest)
        owners = [self.manifest.messages[m].name for m in self.manifest.signal_message]
        self.names = [f"{m}.{s.name}" for m, s in zip(owners, self.manifest.signals, strict=True)]
        self.singles = {i for i, s in enumerate(self.manifest.signals) if s.kind is Kind.FLOAT32}
        self.selectors = {m.name: _selectors(m) for m in self.reference.messages}

    @classmethod
    def of(cls, path: Path) -> Case:
        if path not in cls._cache:
            cls._cache[path] = cls(path)
        return cls._cache[path]

    def ours(self, batch: FrameBatch) -> list[Named]:
        """Our samples with names, as the order of signals may differ from cantools'."""
        return sorted(
            (frame, self.names[signal], _quiet(raw) if signal in self.singles else raw)
            for frame, signal, raw in samples(self.decoder.decode(batch))
        )

    def theirs(self, batch: FrameBatch, at: int) -> list[Named] | None:
        """cantools' samples of one frame; None where it loses the whole frame, or does not know it."""
        m = self.by_id.get((int(batch.can_id[at]), bool(batch.flags[at] & EXTENDED)))
        if m is None:
            return None
        try:
            found = m.decode(
                bytes(batch.data[at, : batch.length[at]]), decode_choices=False, scaling=False, allow_truncated=True
            )
        except Exception:  # an unlisted selector value, a signal past the declared length; what is raised varies
            return None
        assert isinstance(found, dict)
        return [(at, f"{m.name}.{s.name}", pattern(s, found[s.name])) for s in m.signals if s.name in found]

    def compare(self, batch: FrameBatch) -> int:
        """Assert equality on the frames cantools decodes; returns the number of samples compared."""
        expected = [self.theirs(batch, at) for at in range(len(batch))]
        known = np.array([e is not None for e in expected], np.bool_)
        rows = sorted(row for e in expected if e is not None for row in e)
        ours = [row for row in self.ours(batch) if known[row[0]]]
        different = sorted(set(ours) ^ set(rows))[:5]
        assert (len(ours), different) == (len(rows), [])
        return len(rows)


def _quiet(raw: int) -> int:
    """A float32 pattern as it is after a trip through Python's float, which quiets a signalling NaN."""
    is_nan = raw & 0x7F80_0000 == 0x7F80_0000 and raw & 0x007F_FFFF
    return raw | 0x0040_0000 if is_nan else raw


def _lost_selector(m: Message) -> bool:
    """cantools does not find a selector that a long-name attribute renames, and drops what hangs on it."""
    return bool({s.multiplexer_signal for s in m.signals} - {s.name for s in m.signals} - {None})


def _selectors(m: Message) -> list[tuple[int, int, bool, list[int]]]:
    """Start, length, byte order and listed values of each selector."""
    multiplexers = [s for s in m.signals if s.is_multiplexer]
    return [
        (
            s.start,
            s.length,
            s.byte_order == "big_endian",
            [
                v
                for t in m.signals
                for v in (t.multiplexer_ids or [])
                if len(multiplexers) == 1 or t.multiplexer_signal == s.name
            ],
        )
        for s in multiplexers
    ]


def random_frames(case: Case, seed: int, per_message: int) -> FrameBatch:
    """Payloads of random bits and lengths, with selector values that choose something, of all messages."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[int, int, int, int, bytes]] = []
    for m in case.reference.messages:
        flags = EXTENDED if m.is_extended_frame else 0
        for _ in range(per_message):
            payload = bytearray(rng.integers(0, 256, m.length, dtype=np.uint8))
            for start, size, big_endian, values in case.selectors[m.name]:
                if values and rng.integers(8):
                    _put(payload, start, size, big_endian, int(rng.choice(values)))
            length = int(rng.integers(0, m.length + 1)) if rng.integers(4) == 0 else m.length
            rows.append((0, 0, m.frame_id, flags, bytes(payload[:length])))
    return FrameBatch.from_rows(rows)


def _put(payload: bytearray, start: int, length: int, big_endian: bool, value: int) -> None:
    at = 8 * (start // 8) + 7 - start % 8 if big_endian else start
    for i in range(length):
        bit = value >> (length - 1 - i if big_endian else i) & 1
        byte, inside = divmod(at + i, 8)
        mask = 1 << (7 - inside if big_endian else inside)
        payload[byte] = payload[byte] & ~mask | (mask if bit else 0)


@pytest.mark.parametrize("name", FILES)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60 if LONG else 3, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_random_payloads_decode_as_cantools_does(data_dir: Path, name: str, seed: int) -> None:
    case = Case.of(data_dir / "can" / "dbc" / name)
    case.compare(random_frames(case, seed, 4))


@pytest.mark.parametrize(
    ("log", "database", "least"),
    [
        ("rav4_2016_bus0_60s.log.xz", "toyota_new_mc_pt_generated.dbc", 200_000),
        ("rav4_2016_bus1_radar_60s.log.xz", "toyota_adas.dbc", 100_000),
        ("thinkcity_candump.log", "ThinkCity.dbc", 1_800),
        ("SYNTH_hyundai_canfd_40k.log.xz", "hyundai_canfd_generated.dbc", 100_000),
    ],
)
def test_recorded_logs_decode_as_cantools_does(data_dir: Path, log: str, database: str, least: int) -> None:
    """Every seventh batch of the log; the whole log in a long run."""
    case = Case.of(data_dir / "can" / "dbc" / database)
    compared = 0
    with open_log(data_dir / "can" / "logs" / log) as reader:
        for number, batch in enumerate(reader):
            if LONG or number % 7 == 0:
                compared += case.compare(batch)
    assert compared >= (least if LONG else least // 100)


def test_checksums_of_the_recorded_toyota_hold(data_dir: Path) -> None:
    """Messages with a CHECKSUM signal in the last byte of eight; a few identifiers use it for something else."""
    manifest = Case.of(data_dir / "can" / "dbc" / "toyota_new_mc_pt_generated.dbc").manifest
    rules = {
        number: Rule(number, m.can_id, "toyota", s)
        for number, m in enumerate(manifest.messages)
        for s in m.signals
        if s.name == "CHECKSUM" and not m.extended
    }
    decoder = Decoder(manifest, [])
    good: dict[str, int] = {}
    bad: dict[str, int] = {}
    with open_log(data_dir / "can" / "logs" / "rav4_2016_bus0_60s.log.xz") as reader:
        for batch in reader:
            numbers = decoder.decode(batch).message
            verdict = Verifier(rules.values()).check(batch, numbers)
            for number in set(numbers.tolist()) & rules.keys():
                name = manifest.messages[number].name
                right = verdict.checksum_ok[numbers == number]
                good[name] = good.get(name, 0) + int(np.count_nonzero(right))
                bad[name] = bad.get(name, 0) + int(np.count_nonzero(~right))
    assert bad == dict.fromkeys(good, 0)
    assert len(good) >= 5


def test_signalling_nan_keeps_its_bits() -> None:
    """cantools cannot show it; ours hands on what was on the bus."""
    path = DBC_DIR / "cantools_floating_point.dbc"
    if not path.exists():
        pytest.skip(f"no recorded data at {path.parent}; set OUTRIDER_DATA")
    case = Case.of(path)
    number = next(i for i, s in enumerate(case.manifest.signals) if s.kind is Kind.FLOAT32)
    message = case.manifest.messages[case.manifest.signal_message[number]]
    flags = EXTENDED if message.extended else 0
    payload = bytes.fromhex("b1bdb47fb1bdb47f")
    decoded = case.decoder.decode(FrameBatch.from_rows([(0, 0, message.can_id, flags, payload)]))
    assert decoded.raw.tolist() == [0x7FB4BDB1, 0x7FB4BDB1]
    case.compare(FrameBatch.from_rows([(0, 0, message.can_id, flags, payload)]))

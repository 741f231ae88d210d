"""Whatever the bytes: a report, never an exception, and a manifest that survives its own round trip."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dbc.load import LoadedDatabase, compile_databases, load_dbc
from dbc.load.grammar import KEYWORDS
from dbc.manifest import Manifest, ManifestError
from tests.support import LONG

EXAMPLES = 3_000 if LONG else 300
SAMPLE = """VERSION "v"
NS_ :
  CM_
BS_:
BU_: A B
VAL_TABLE_ T 1 "one" 0 "zero" ;
BO_ 2566844926 M: 8 A
 SG_ S M : 0|8@1+ (1,0) [0|0] "u" B
 SG_ T m1M : 7|8@0- (0.5,-1) [-9|9] "" A,B
 SG_ U m0 : 8|32@1- (1E-3,0) [0|0] "" B
BO_TX_BU_ 2566844926 : A,B;
CM_ "file";
CM_ SG_ 2566844926 S "two
lines";
BA_DEF_ BO_ "VFrameFormat" ENUM "StandardCAN","ExtendedCAN","reserved","J1939PG";
BA_DEF_DEF_ "VFrameFormat" "J1939PG";
BA_ "VFrameFormat" BO_ 2566844926 3;
VAL_ 2566844926 S 1 "one" 2 "two" ;
SIG_VALTYPE_ 2566844926 U : 1;
SG_MUL_VAL_ 2566844926 U T 0-0, 4-7;
SIG_GROUP_ 2566844926 G 1 : S T;
"""
PIECES = (
    sorted(KEYWORDS) + SAMPLE.split() + list('"\\;:,|@+-()[] \n\t/.0mM') + ["//", "99999999999999999999", "é", "\0"]
)


def must_be_usable(loaded: LoadedDatabase) -> None:
    """All invariants that consumers of a loaded database rely on."""
    manifest, _ = compile_databases({"bus": [loaded]})
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest
    assert len(manifest.signal_index) == len(manifest.signals)
    for message in manifest.messages:
        assert 0 <= message.can_id <= (0x1FFFFFFF if message.extended else 0x7FF)
        assert 0 <= message.length <= 64
        for signal in message.signals:
            assert 1 <= signal.length <= 64
            assert 0 <= signal.start < 512
            assert signal.scale != 0
            assert all(-(1 << 63) <= value < 1 << 63 for value in signal.labels)
            assert all(branch.selector < len(message.signals) for branch in signal.mux)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=60))
def test_statement_salad(pieces: list[str]) -> None:
    """Any sequence of the pieces that DBC files are made of."""
    must_be_usable(load_dbc(" ".join(pieces).encode()))


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.text(max_size=200) | st.binary(max_size=200))
def test_arbitrary_text(text: str | bytes) -> None:
    must_be_usable(load_dbc(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text))


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.data())
def test_any_cut_and_splice_of_a_good_file(data: st.DataObject) -> None:
    """Up to eight deletions, insertions and copies anywhere in a file that uses every statement."""
    text = SAMPLE
    for _ in range(data.draw(st.integers(1, 8))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 30)))
        at = data.draw(st.integers(0, len(text)))
        new = data.draw(st.sampled_from(["", text[at : at + 40], *PIECES]))
        text = text[:start] + new + text[end:]
    must_be_usable(load_dbc(text.encode()))


def test_one_bad_line_costs_one_line() -> None:
    """A line of any statement replaced by nonsense leaves every message that is not in it."""
    lines = SAMPLE.splitlines()
    for number, line in enumerate(lines):
        broken = "\n".join([*lines[:number], "?? " + line.replace('"', ""), *lines[number + 1 :]])
        loaded = load_dbc(broken.encode())
        if "BO_ 2566844926 M:" in line:
            continue
        assert [m.name for m in loaded.messages] == ["M"]
        assert len(loaded.messages[0].signals) == 3 - ("SG_ " in line and "@" in line)


@pytest.mark.data
@pytest.mark.parametrize("name", ["vw_mqb.dbc", "cantools_vehicle.dbc", "tesla_model3_party.dbc", "kona_ev_pcan.dbc"])
def test_mutated_real_files(data_dir: Path, name: str) -> None:
    """Seeded damage: bytes flipped, runs deleted, runs moved."""
    content = (data_dir / "can" / "dbc" / name).read_bytes()
    messages = len(load_dbc(content).messages)
    for seed in range(60 if LONG else 12):
        damaged = damage(content, random.Random(seed))
        loaded = load_dbc(damaged)
        must_be_usable(loaded)
        assert len(loaded.messages) >= messages - 40, f"seed {seed}"


def damage(content: bytes, choose: random.Random) -> bytes:
    """At most twelve faults of at most twenty bytes."""
    data = bytearray(content)
    for _ in range(choose.randint(1, 12)):
        at = choose.randrange(len(data))
        run = choose.randint(1, 20)
        match choose.randrange(4):
            case 0:
                data[at] = choose.randrange(256)
            case 1:
                del data[at : at + run]
            case 2:
                data[at:at] = data[(other := choose.randrange(len(data))) : other + run]
            case _:
                data[at:at] = choose.choice([b'"', b"\n", b";", b"\\", b"BO_ ", b"SG_ ", b'CM_ "'])
    return bytes(data)


@pytest.mark.parametrize(
    "unit",
    [
        'CM_ "',
        'CM_ SG_ 1 A "\\"',
        "//" * 50 + "\n",
        'VAL_ 1 A 1 "\\" ',
        'BA_DEF_ BO_ "x" ENUM "a" "b" ',
        "SG_MUL_VAL_ 1 A B 1-1 , ",
        "BO_ 1 M: 8 X SG_ A : ",
        'SG_ A m0 : 0|1@1+ (1,0) [0|0] "" a,\n',
        "EV_ x \n",
        "EV_ x ",
        "BA_ ; ",
        'VAL_ 1 A 1 "x" y ',
        'CM_ SG_ 1 A "x" y" ',
        "NS_ : BS_ BS_ \n",
        " \n\t ",
        "1 1 1 ",
        "\\",
        '"',
    ],
)
@pytest.mark.timeout(60)
def test_repetition_does_not_take_more_than_its_share_of_time(unit: str) -> None:
    """200 kB of one piece, and as much of a line without statements; backtracking or searching anew would not end."""
    text = unit * (200_000 // len(unit)) + "\n" + "x y " * 50_000
    assert load_dbc(text.encode()).defects


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_damaged_manifest_files_are_refused(data: st.DataObject) -> None:
    """Every byte string is a manifest or a ManifestError."""
    content = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "grow"])):
            case "flip":
                content[at] ^= data.draw(st.integers(1, 255))
            case "cut":
                del content[at:]
            case _:
                content[at:at] = data.draw(st.binary(max_size=8))
        if not content:
            break
    try:
        manifest = Manifest.from_bytes(bytes(content))
    except ManifestError:
        return
    assert manifest.signal_names is not None


GOOD = compile_databases({"bus": [load_dbc(SAMPLE.encode())]})[0].to_bytes()

"""Several files on several buses become one manifest: numbered, named, identified, and the same every time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import zstandard

from dbc.load import compile_databases, compile_manifest, load_dbc
from dbc.manifest import MAGIC, Kind, Manifest, ManifestError, Message, MuxBranch, Signal, load_manifest
from tests.support import DBC_DIR, ROOT

SG = "(1,0) [0|0]"
FILES = sorted(path.name for path in DBC_DIR.glob("*.dbc")) if DBC_DIR.is_dir() else ["(no data)"]


def text(*messages: tuple[int, str], signal: str = "S") -> bytes:
    return "".join(f'BO_ {i} {name}: 8 X\n SG_ {signal} : 0|8@1+ {SG} ""\n' for i, name in messages).encode()


def test_buses_messages_and_signals_are_numbered_in_order() -> None:
    manifest, reports = compile_databases(
        {"pt": [load_dbc(text((1, "A"), (2, "B"))), load_dbc(text((3, "C")))], "body": [load_dbc(text((1, "A")))]},
        "car",
    )
    assert (manifest.name, manifest.buses) == ("car", ("pt", "body"))
    assert [(m.bus, m.can_id) for m in manifest.messages] == [(0, 1), (0, 2), (0, 3), (1, 1)]
    assert manifest.signal_names == ("pt.A.S", "pt.B.S", "pt.C.S", "body.A.S")
    assert [report.defects for report in reports] == [(), (), ()]


def test_second_file_of_a_bus_does_not_redefine_an_identifier() -> None:
    first, second = load_dbc(text((1, "A")), "one.dbc"), load_dbc(text((1, "Other"), (2, "B")), "two.dbc")
    manifest, reports = compile_databases({"pt": [first, second]})
    assert [m.name for m in manifest.messages] == ["A", "B"]
    assert reports[0].defects == ()
    assert [(d.code, d.message) for d in reports[1].defects] == [("duplicate_id", "Other")]
    assert "one.dbc" in reports[1].defects[0].text
    assert not reports[1].sound


def test_the_same_message_in_two_files_is_no_loss() -> None:
    manifest, reports = compile_databases({"pt": [load_dbc(text((1, "A"))), load_dbc(text((1, "A")))]})
    assert len(manifest.messages) == 1
    assert [d.code for d in reports[1].defects] == ["repeated_message"]
    assert reports[1].sound


def test_messages_of_one_name_get_their_identifier_as_suffix() -> None:
    files = [load_dbc(text((0x10, "A"))), load_dbc(text((0x20, "A"), (0x30, "A_20")))]
    manifest, reports = compile_databases({"pt": files})
    assert len(set(manifest.signal_names)) == 3
    assert manifest.signal_names[:2] == ("pt.A.S", "pt.A_20.S")
    assert [d.code for d in reports[1].defects] == ["duplicate_message_name"] * 2


def test_one_identifier_on_two_buses_is_two_messages() -> None:
    manifest, reports = compile_databases({"a": [load_dbc(text((1, "A")))], "b": [load_dbc(text((1, "A")))]})
    assert len(manifest.messages) == 2
    assert all(report.sound for report in reports)


@pytest.mark.parametrize("bus", ["", "a.b", "a b", "a=b", "é"])
def test_bus_names_are_words(bus: str) -> None:
    with pytest.raises(ValueError, match="bus name"):
        compile_databases({bus: []})


def test_no_more_buses_than_a_frame_can_name() -> None:
    assert len(compile_databases({f"can{i}": [] for i in range(256)})[0].buses) == 256
    with pytest.raises(ValueError, match="at most 256"):
        compile_databases({f"can{i}": [] for i in range(257)})


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        compile_manifest({"pt": [tmp_path / "none.dbc"]})


def test_same_files_same_hash_wherever_they_lie(tmp_path: Path) -> None:
    """Also in another process, whose hashes of strings differ."""
    content = text((1, "A"), (2, "B")) + b'VAL_ 1 S 3 "c" 1 "a" 2 "b";\n'
    hashes = set()
    for seed in ("1", "2"):
        path = tmp_path / seed / "some.dbc"
        path.parent.mkdir()
        path.write_bytes(content)
        code = (
            f"from dbc.load import compile_manifest; print(compile_manifest({{'pt': [{str(path)!r}]}})[0].hash.hex())"
        )
        command = [sys.executable, "-c", code]
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        hashes.add(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)
    assert len(hashes) == 1
    assert hashes.pop().strip() == compile_manifest({"pt": [path]})[0].hash.hex()


@pytest.mark.parametrize("change", [b"VERSION", b'CM_ SG_ 1 S "x";', b'VAL_ 1 S 1 "x";'])
def test_content_that_decoding_or_display_needs_changes_the_hash(change: bytes) -> None:
    before = compile_databases({"pt": [load_dbc(text((1, "A")))]})[0]
    after = compile_databases({"pt": [load_dbc(text((1, "A")) + change)]})[0]
    assert (before.hash == after.hash) == (change == b"VERSION")


@pytest.mark.data
@pytest.mark.parametrize("name", FILES)
def test_real_files_survive_the_manifest_file(data_dir: Path, tmp_path: Path, name: str) -> None:
    manifest, _ = compile_manifest({"bus": [data_dir / "can" / "dbc" / name]})
    path = tmp_path / "vehicle.manifest"
    path.write_bytes(manifest.to_bytes())
    read = load_manifest(path)
    assert read == manifest
    assert read.hash == manifest.hash
    assert len(read.signal_index) == len(read.signals)


@pytest.mark.data
def test_all_real_files_on_one_bus(data_dir: Path) -> None:
    """Nothing but reports, however much the files disagree."""
    paths = sorted((data_dir / "can" / "dbc").glob("*.dbc"))
    manifest, reports = compile_manifest({"bus": paths})
    assert len(reports) == len(paths)
    identifiers = [(m.can_id, m.extended) for m in manifest.messages]
    assert len(set(identifiers)) == len(identifiers)
    assert len(manifest.signal_index) == len(manifest.signals)
    lost = sum(d.code in ("duplicate_id", "repeated_message") for report in reports for d in report.defects)
    assert sum(len(report.messages) for report in reports) - lost == len(manifest.messages)


@pytest.mark.parametrize(
    "content",
    [b"", MAGIC, MAGIC[:-1] + b"\x02", b"ORMF", MAGIC + b"\x28\xb5\x2f\xfd", MAGIC + b"\0" * 40, b"PK\x03\x04" * 10],
)
def test_what_is_no_manifest_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.manifest"
    path.write_bytes(content)
    with pytest.raises(ManifestError, match=r"broken\.manifest"):
        load_manifest(path)


def test_a_manifest_cut_anywhere_is_refused() -> None:
    content = compile_databases({"pt": [load_dbc(text(*((i, f"M{i}") for i in range(50))))]})[0].to_bytes()
    for end in range(len(content)):
        with pytest.raises(ManifestError):
            Manifest.from_bytes(content[:end])


def test_a_manifest_with_any_byte_changed_is_refused() -> None:
    """The file carries a checksum; damage does not become another scale or bit position."""
    content = compile_databases({"pt": [load_dbc(text((1, "A"), (2, "B")))]})[0].to_bytes()
    for at in range(len(content)):
        for change in (1, 0x80, 0xFF):
            damaged = bytearray(content)
            damaged[at] ^= change
            try:
                read = Manifest.from_bytes(bytes(damaged))
            except ManifestError:
                continue
            assert read.to_bytes() == content  # a bit of the compressor's header that means nothing


SIGNAL = compile_databases({"b": [load_dbc(text((1, "A")))]})[0].messages[0].signals[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"length": 0},
        {"length": 65},
        {"start": -1},
        {"start": 512},
        {"start": 505},
        {"start": 511, "big_endian": True, "length": 9},
        {"kind": Kind.FLOAT32},
        {"kind": Kind.FLOAT64, "length": 32},
        {"scale": 0.0},
        {"scale": float("nan")},
        {"offset": float("inf")},
        {"initial": 1 << 63},
        {"labels": {1 << 63: "x"}},
        {"mux": (MuxBranch(0, ((0, 0),)),)},
        {"mux": (MuxBranch(7, ((0, 0),)),)},
        {"mux": (MuxBranch(-1, ((0, 0),)),)},
    ],
)
def test_signals_no_decoder_could_work_with_are_refused(changes: dict[str, object]) -> None:
    """A stranger's manifest, well-formed but absurd, is refused where it is read."""
    good = compile_databases({"b": [load_dbc(text((1, "A")))]})[0]
    signal = msgspec.structs.replace(SIGNAL, **changes)
    message = msgspec.structs.replace(good.messages[0], signals=(signal,))
    with pytest.raises(ManifestError, match=r"A\.S"):
        Manifest.from_bytes(msgspec.structs.replace(good, messages=(message,)).to_bytes())


@pytest.mark.parametrize(
    "changes",
    [{"bus": 1}, {"bus": -1}, {"can_id": 0x800}, {"can_id": -1}, {"can_id": 1 << 29, "extended": True}, {"length": 65}],
)
def test_messages_no_bus_could_carry_are_refused(changes: dict[str, object]) -> None:
    good = compile_databases({"b": [load_dbc(text((1, "A")))]})[0]
    message = msgspec.structs.replace(good.messages[0], **changes)
    with pytest.raises(ManifestError, match="message A"):
        Manifest.from_bytes(msgspec.structs.replace(good, messages=(message,)).to_bytes())


def test_ambiguous_names_are_refused() -> None:
    good = compile_databases({"b": [load_dbc(text((1, "A")))]})[0]
    twice = msgspec.structs.replace(good, messages=good.messages * 2)
    with pytest.raises(ManifestError, match="one name"):
        Manifest.from_bytes(twice.to_bytes())
    with pytest.raises(ManifestError, match="one name"):
        Manifest.from_bytes(msgspec.structs.replace(good, buses=("b", "b")).to_bytes())


@pytest.mark.parametrize("tells_size", [True, False])
def test_a_manifest_that_unpacks_to_gigabytes_is_refused(tells_size: bool) -> None:
    """Without unpacking it: the size in the frame's header is looked at, or the output is bounded."""
    chunk, compressor = b"\0" * (1 << 20), zstandard.ZstdCompressor(level=1)
    size = 65 << 20
    stream = compressor.compressobj(size=size) if tells_size else compressor.compressobj()
    packed = b"".join(stream.compress(chunk) for _ in range(65)) + stream.flush()
    assert len(packed) < 100_000
    with pytest.raises(ManifestError):
        Manifest.from_bytes(MAGIC + packed)


def test_the_manual_has_the_content_and_hash_of_its_example() -> None:
    """docs/reference/manifest-format.md, byte by byte."""
    manual = (ROOT / "docs" / "reference" / "manifest-format.md").read_text()
    source, content = manual.split("## An example")[1].split("```")[1:4:2]
    manifest, reports = compile_databases({"can0": [load_dbc(source.encode())]}, "car")
    assert reports[0].defects == ()
    assert manifest.encoded == bytes.fromhex(content)
    assert f"`{manifest.hash.hex()}`" in manual


@pytest.mark.parametrize("struct", [Manifest, Message, Signal, MuxBranch])
def test_the_manual_lists_the_fields_in_their_order(struct: type[msgspec.Struct]) -> None:
    manual = (ROOT / "docs" / "reference" / "manifest-format.md").read_text()
    table = manual.split(f"**{struct.__name__}**")[1].split("\n\n")[1]
    rows = [line.split("|")[2].strip() for line in table.splitlines()[2:]]
    assert rows == list(struct.__struct_fields__)

"""KCD, SYM and ARXML through cantools: the same messages as from DBC, and a report where cantools gives up."""

from __future__ import annotations

import sys
from pathlib import Path

import cantools
import pytest

from dbc.load import compile_databases, compile_manifest, load_dbc, load_file
from dbc.manifest import Kind, Message, MuxBranch

SG = "(1,0) [0|0]"
SAMPLE = f"""VERSION "1"
BO_ 256 Simple: 8 Ecu
 SG_ Speed : 7|16@0- (0.5,-10) [-100|100] "km/h" Ecu
 SG_ State : 16|4@1+ {SG} "" Ecu
BO_ 2566844926 Muxed: 8 Ecu
 SG_ Selector M : 0|8@1+ {SG} "" Ecu
 SG_ A m0 : 8|16@1+ {SG} "" Ecu
 SG_ B m1 : 8|32@1- {SG} "" Ecu
CM_ SG_ 256 Speed "over ground";
VAL_ 256 State 0 "off" 1 "on" ;
SIG_VALTYPE_ 2566844926 B : 1;
BA_DEF_ BO_ "GenMsgCycleTime" INT 0 10000;
BA_DEF_DEF_ "GenMsgCycleTime" 0;
BA_ "GenMsgCycleTime" BO_ 256 100;
"""
TWO_BUSES = """<NetworkDefinition xmlns="http://kayak.2codeornot2code.org/1.0"><Document/>
<Bus name="Motor"><Message id="0x10" name="A" length="8"><Signal name="S" offset="0" length="8"/></Message></Bus>
<Bus name="Body"><Message id="0x10" name="B" length="8"><Signal name="S" offset="8" length="4"/></Message></Bus>
</NetworkDefinition>"""


def write(folder: Path, suffix: str, content: str) -> Path:
    path = folder / f"sample.{suffix}"
    path.write_text(content)
    return path


def as_foreign(folder: Path, suffix: str) -> Path:
    database = cantools.database.can.Database(strict=False)
    database.add_dbc_string(SAMPLE)
    return write(folder, suffix, database.as_kcd_string() if suffix == "kcd" else database.as_sym_string())


@pytest.mark.parametrize("suffix", ["kcd", "sym"])
def test_same_messages_as_from_dbc(tmp_path: Path, suffix: str) -> None:
    loaded = load_file(as_foreign(tmp_path, suffix))
    assert (loaded.format, loaded.defects) == (suffix, ())
    theirs = {message.name: message for message in loaded.messages}
    for ours in load_dbc(SAMPLE.encode()).messages:
        assert_same_layout(ours, theirs[ours.name])


def assert_same_layout(ours: Message, theirs: Message) -> None:
    assert (ours.can_id, ours.extended, ours.fd, ours.length) == (
        theirs.can_id,
        theirs.extended,
        theirs.fd,
        theirs.length,
    )
    assert ours.cycle_ms == theirs.cycle_ms
    assert [s.name for s in ours.signals] == [s.name for s in theirs.signals]
    for one, other in zip(ours.signals, theirs.signals, strict=True):
        assert (one.start, one.length, one.big_endian, one.kind) == (
            other.start,
            other.length,
            other.big_endian,
            other.kind,
        )
        assert (one.scale, one.offset, one.unit, one.mux) == (other.scale, other.offset, other.unit, other.mux)
        assert (one.labels, one.is_multiplexer) == (other.labels, other.is_multiplexer)


def test_multiplexing_and_floats(tmp_path: Path) -> None:
    muxed = next(m for m in load_file(as_foreign(tmp_path, "kcd")).messages if m.name == "Muxed")
    assert [s.mux for s in muxed.signals] == [(), (MuxBranch(0, ((0, 0),)),), (MuxBranch(0, ((1, 1),)),)]
    assert muxed.signals[2].kind is Kind.FLOAT32


def test_buses_that_a_file_tells_apart(tmp_path: Path) -> None:
    path = write(tmp_path, "kcd", TWO_BUSES)
    assert load_file(path).buses == ("Body", "Motor")
    manifest, reports = compile_manifest({"Motor": [path], "Body": [path]})
    assert manifest.signal_names == ("Motor.A.S", "Body.B.S")
    assert all(report.defects == () for report in reports)


def test_a_bus_that_the_file_does_not_have_gets_all_it_has(tmp_path: Path) -> None:
    manifest, reports = compile_manifest({"can0": [write(tmp_path, "kcd", TWO_BUSES)]})
    assert [d.code for d in reports[0].defects] == ["unknown_bus", "duplicate_id"]
    assert [m.name for m in manifest.messages] == ["A"]


@pytest.mark.parametrize("suffix", ["kcd", "sym", "arxml"])
@pytest.mark.parametrize(
    "content",
    [
        "",
        "garbage",
        "<NetworkDefinition",
        "<AUTOSAR/>",
        "FormatVersion=6.0\n{SEND}\n[M]\nID=zz",
        "\0\x80",
        "<!DOCTYPE x>",
    ],
)
def test_what_cantools_cannot_read_is_a_report(tmp_path: Path, suffix: str, content: str) -> None:
    loaded = load_file(write(tmp_path, suffix, content))
    assert loaded.messages == ()
    assert {d.code for d in loaded.defects} <= {"unreadable", "no_messages"}
    assert not loaded.sound


def test_xml_bombs_do_not_go_off(tmp_path: Path) -> None:
    """Entities that multiply are refused by the XML parser, or at least bounded."""
    entities = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 12))
    content = f'<!DOCTYPE x [<!ENTITY e0 "ha">{entities}]><NetworkDefinition>&e11;</NetworkDefinition>'
    assert not load_file(write(tmp_path, "kcd", content)).sound


@pytest.mark.parametrize(
    ("signal", "code"),
    [
        ('<Signal name="S" offset="0" length="65"/>', "signal_too_long"),
        ('<Signal name="S" offset="60" length="8"/>', "signal_past_end"),
        ('<Signal name="S" offset="0"/><Signal name="T" offset="0"/>', "overlapping_signals"),
        ('<Signal name="S" offset="0" length="8"><Value slope="0"/></Signal>', "zero_scale"),
        ('<Signal name="S.x" offset="0" length="8"/>', "bad_name"),
    ],
)
def test_defects_of_foreign_files(tmp_path: Path, signal: str, code: str) -> None:
    message = f'<Message id="0x10" name="A" length="8">{signal}</Message>'
    content = (
        f'<NetworkDefinition xmlns="http://kayak.2codeornot2code.org/1.0"><Document/><Bus name="b">{message}</Bus>'
    )
    loaded = load_file(write(tmp_path, "kcd", content + "</NetworkDefinition>"))
    assert [d.code for d in loaded.defects] == [code]
    assert compile_databases({"b": [loaded]})[0].messages[0].name == "A"


def test_other_suffixes_are_read_as_dbc(tmp_path: Path) -> None:
    loaded = load_file(write(tmp_path, "txt", SAMPLE))
    assert (loaded.format, len(loaded.messages), loaded.defects) == ("dbc", 2, ())


def test_without_cantools_dbc_files_load_and_others_say_what_they_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cantools", None)
    monkeypatch.delitem(sys.modules, "dbc.load.foreign", raising=False)
    assert load_file(write(tmp_path, "dbc", SAMPLE)).sound
    loaded = load_file(write(tmp_path, "kcd", TWO_BUSES))
    assert [d.code for d in loaded.defects] == ["unreadable"]
    assert "cantools" in loaded.defects[0].text


@pytest.mark.parametrize("bad", [[0], [7], [3, 4], list(range(10))])
def test_kcd_messages_that_cannot_be_read_are_left_out(tmp_path: Path, bad: list[int]) -> None:
    """The message is named, and all others are kept, unless none is left."""
    messages = "".join(
        f'<Message id="{i}" name="M{i}" length="8"><Signal name="S" offset="{"?" if i in bad else 0}"/></Message>'
        for i in range(10)
    )
    content = TWO_BUSES[: TWO_BUSES.index("<Bus")] + f'<Bus name="b">{messages}</Bus></NetworkDefinition>'
    loaded = load_file(write(tmp_path, "kcd", content))
    assert [m.name for m in loaded.messages] == [f"M{i}" for i in range(10) if i not in bad]
    left_out = [d.message for d in loaded.defects if d.code == "unreadable" and d.message]
    assert left_out == ([f"M{i}" for i in bad] if len(bad) < 10 else [])
    assert not loaded.sound


def test_sym_messages_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    good = as_foreign(tmp_path, "sym").read_text()
    broken = good.rstrip() + "\n\n[Broken]\nID=7FFh\nDLC=8\nVar=V unsigned 0,0\n"
    loaded = load_file(write(tmp_path, "sym", broken))
    assert [d.message for d in loaded.defects] == ["", "Broken"]
    assert sorted(m.name for m in loaded.messages) == ["Muxed", "Simple"]

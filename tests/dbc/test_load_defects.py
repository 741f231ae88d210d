"""Each defect: the smallest file that has it, what the report says, and that the rest of the file is there."""

from __future__ import annotations

from pathlib import Path

import pytest

import dbc.load
from dbc.load import load_dbc
from dbc.load.codes import MEANINGS, SEVERITIES, Severity
from dbc.load.model import MAX_DEFECTS_PER_CODE
from tests.support import ROOT

OK = 'BO_ 9 Ok: 8 E\n SG_ A : 0|8@1+ (1,0) [0|0] "" E\n'
SG = "(1,0) [0|0]"
TWO_SELECTORS = f'BO_ 1 M: 8 E\n SG_ A M : 0|8@1+ {SG} ""\n SG_ B M : 8|8@1+ {SG} ""\n'
CLASSIC_12 = 'BO_ 1 M: 12 E\nBA_DEF_ BO_ "VFrameFormat" ENUM "StandardCAN";\nBA_ "VFrameFormat" BO_ 1 0;'
ONE_SELECTOR = f'BO_ 1 M: 8 E\n SG_ S M : 0|8@1+ {SG} ""\n SG_ B m1 : 8|8@1+ {SG} ""\n'
CIRCLE = TWO_SELECTORS.replace(" M :", " m0M :") + "SG_MUL_VAL_ 1 A B 0-0;\nSG_MUL_VAL_ 1 B A 0-0;"

#: code, the defective text, its line in that text, message and signal that the report names
CASES: list[tuple[str, str, int, str, str]] = [
    ("ambiguous_multiplexer", TWO_SELECTORS + f' SG_ C m1 : 16|8@1+ {SG} ""', 4, "M", "C"),
    ("bad_attribute", 'BO_ 1 M: 8 E\nBA_ "GenMsgCycleTime" BO_ 1 -5;', 2, "", ""),
    ("bad_float_length", f'BO_ 1 M: 8 E\n SG_ F : 0|16@1- {SG} ""\nSIG_VALTYPE_ 1 F : 1;', 3, "M", "F"),
    ("bad_id", "BO_ 3758096384 M: 8 E", 1, "M", ""),
    ("bad_id", "BO_ 99999999999 M: 8 E", 1, "", ""),
    ("bad_initial_value", f'BO_ 1 M: 8 E\n SG_ I : 0|8@1+ {SG} ""\nBA_ "GenSigStartValue" SG_ 1 I 256;', 2, "M", "I"),
    ("bad_label", 'VAL_ 9 A 99999999999999999999 "x" 1 "one" ;', 1, "", ""),
    ("bad_length", "BO_ 1 M: 65 E", 1, "M", ""),
    ("bad_name", f'BO_ 1 M: 8 E\n SG_ Batt.Volt-1 : 0|8@1+ {SG} ""', 2, "M", "Batt.Volt-1"),
    ("bad_range", 'BO_ 1 M: 8 E\n SG_ R : 0|8@1+ (1,0) [9|1] ""', 2, "M", "R"),
    ("bad_range", 'BO_ 1 M: 8 E\n SG_ R : 0|8@1+ (1,0) [a|b] ""', 2, "M", "R"),
    ("bad_range", 'BO_ 1 M: 8 E\n SG_ R : 0|8@1+ (1,0) ""', 2, "M", "R"),
    ("bad_scale", 'BO_ 1 M: 8 E\n SG_ S : 0|8@1+ (0,5,0) [0|0] ""', 2, "M", "S"),
    ("bad_scale", 'BO_ 1 M: 8 E\n SG_ S : 0|8@1+ (1e999,0) [0|0] ""', 2, "M", "S"),
    ("bad_scale", 'BO_ 1 M: 8 E\n SG_ S : 0|8@1+ (nan,0) [0|0] ""', 2, "M", "S"),
    ("comment_without_signal", 'CM_ SG_ 9 "which signal?";', 1, "", ""),
    ("comment_without_signal", 'CM_ 9 "what?";', 1, "", ""),
    ("duplicate_id", "BO_ 1 M: 8 E\nBO_ 1 N: 8 E", 2, "N", ""),
    ("duplicate_label", 'VAL_ 9 A 1 "one" 1 "uno";', 1, "Ok", "A"),
    ("duplicate_labels", 'VAL_ 9 A 1 "one";\nVAL_ 9 A 1 "uno";', 2, "", "A"),
    ("duplicate_message_name", "BO_ 1 M: 8 E\nBO_ 2 M: 8 E", 2, "M", ""),
    ("duplicate_signal_name", f'BO_ 1 M: 8 E\n SG_ D : 0|8@1+ {SG} ""\n SG_ D : 8|8@1+ {SG} ""', 3, "M", "D"),
    ("extended_bit_missing", "BO_ 417001749 M: 8 E", 1, "M", ""),
    ("fd_format_missing", CLASSIC_12, 1, "M", ""),
    ("float_length_mismatch", f'BO_ 1 M: 8 E\n SG_ F : 0|64@1- {SG} ""\nSIG_VALTYPE_ 1 F : 1;', 3, "M", "F"),
    ("irregular_message", "BO_ 1 M 8 E", 1, "", ""),
    ("irregular_signal", f'BO_ 1 M: 8 E\n SG_ Ä : 0|8@1+ {SG} ""', 2, "M", "Ä"),
    ("j1939_standard_id", 'BO_ 1 M: 8 E\nBA_DEF_DEF_ "VFrameFormat" "J1939PG";', 1, "M", ""),
    ("j1939_transport", 'BO_ 2566844926 M: 39 E\nBA_DEF_DEF_ "VFrameFormat" "J1939PG";', 1, "M", ""),
    ("label_out_of_range", 'VAL_ 9 A 256 "x";', 1, "Ok", "A"),
    ("malformed_attribute", 'BA_ "X" BO_ 9 ;', 1, "", ""),
    ("malformed_attribute", 'BA_DEF_ SG_ X INT 0 1;', 1, "", ""),
    ("malformed_attribute", 'BA_DEF_DEF_ X 1;', 1, "", ""),
    ("malformed_comment", 'CM_ SG_ Nine A "which message?";', 1, "", ""),
    ("malformed_comment", "CM_ BO_ 9 unquoted;", 1, "", ""),
    ("malformed_labels", 'VAL_ 9 A 1 one 2 "two";', 1, "", ""),
    ("malformed_labels", 'VAL_ 9 A 1 "one" 2 two;', 1, "", ""),
    ("malformed_labels", 'VAL_TABLE_ 1 "one";', 1, "", ""),
    ("malformed_message", "BO_ one M: 8 E", 1, "", ""),
    ("malformed_message", "BO_ 1 M: -1 E", 1, "", ""),
    ("malformed_message", "BO_", 1, "", ""),
    ("malformed_mux_values", "SG_MUL_VAL_ 9 A 1-2;", 1, "", ""),
    ("malformed_mux_values", "SG_MUL_VAL_ 9 A A 2-1;", 1, "", ""),
    ("malformed_namespace", "NS_", 1, "", ""),
    ("malformed_nodes", "BU_ E", 1, "", ""),
    ("malformed_signal", f'BO_ 1 M: 8 E\n SG_ A 0|8@1+ {SG} ""', 2, "M", ""),
    ("malformed_signal", f'BO_ 1 M: 8 E\n SG_ A x1 : 0|8@1+ {SG} ""', 2, "M", "A"),
    ("malformed_signal", f'BO_ 1 M: 8 E\n SG_ A : 0|8 {SG} ""', 2, "M", "A"),
    ("malformed_signal", f'BO_ 1 M: 8 E\n SG_ A : 0|8@2+ {SG} ""', 2, "M", "A"),
    ("malformed_signal", f'BO_ 1 M: 8 E\n SG_ A : 0|9999999999@1+ {SG} ""', 2, "M", "A"),
    ("malformed_value_type", "SIG_VALTYPE_ 9 A : 7;", 1, "", ""),
    ("malformed_version", "VERSION 1", 1, "", ""),
    ("mark_without_number", f'BO_ 1 M: 8 E\n SG_ B m : 8|8@1+ {SG} ""', 2, "M", "B"),
    ("missing_semicolon", 'VAL_ 9 A 1 "one"', 1, "", ""),
    ("missing_semicolon", 'CM_ SG_ 9 A "text"', 1, "", ""),
    ("missing_semicolon", 'BA_ "X" BO_ 9 1', 1, "", ""),
    ("missing_semicolon", "SIG_GROUP_ 9 G 1 : A", 1, "", ""),
    ("missing_sender", "BO_ 1 M: 8", 1, "M", ""),
    ("missing_sign", f'BO_ 1 M: 8 E\n SG_ N : 0|8@1 {SG} ""', 2, "M", "N"),
    ("missing_unit", f"BO_ 1 M: 8 E\n SG_ U : 0|8@1+ {SG}", 2, "M", "U"),
    ("multiplexer_cycle", CIRCLE, 2, "M", "A"),
    ("mux_value_mismatch", ONE_SELECTOR + "SG_MUL_VAL_ 1 B S 2-3;", 4, "M", "B"),
    ("mux_without_selector", f'BO_ 1 M: 8 E\n SG_ B m1 : 8|8@1+ {SG} ""', 2, "M", "B"),
    ("name_starts_with_digit", f'BO_ 1 M: 8 E\n SG_ 12V : 0|8@1+ {SG} ""', 2, "M", "12V"),
    ("name_starts_with_digit", "BO_ 1 12V: 8 E", 1, "12V", ""),
    ("namespace_without_end", "NS_ :\n CM_\n\n", 1, "", ""),
    ("nul_characters", 'VERSION "\0"', 0, "", ""),
    ("number_without_leading_digit", 'BO_ 1 M: 8 E\n SG_ P : 0|8@1+ (.25,0) [0|0] ""', 2, "M", "P"),
    ("orphan_signal", f'SG_ O : 0|8@1+ {SG} ""', 1, "", "O"),
    ("overlapping_signals", f'BO_ 1 M: 8 E\n SG_ B : 0|8@1+ {SG} ""\n SG_ C : 7|8@0+ {SG} ""', 3, "M", "C"),
    ("signal_out_of_frame", f'BO_ 1 M: 64 E\n SG_ W : 505|8@1+ {SG} ""', 2, "M", "W"),
    ("signal_out_of_frame", f'BO_ 1 M: 64 E\n SG_ W : 999999999|8@1+ {SG} ""', 2, "M", "W"),
    ("signal_past_end", f'BO_ 1 M: 2 E\n SG_ P : 8|9@1+ {SG} ""', 2, "M", "P"),
    ("signal_past_end", f'BO_ 1 M: 2 E\n SG_ P : 8|2@0+ {SG} ""', 2, "M", "P"),
    ("signal_too_long", f'BO_ 1 M: 16 E\n SG_ L : 0|65@1+ {SG} ""', 2, "M", "L"),
    ("stray_semicolon", f'BO_ 1 M: 8 E\n SG_ A : 0|8@1+ {SG} "" E;', 2, "", ""),
    ("unescaped_quote", 'CM_ SG_ 9 A "the "real" one";', 1, "", ""),
    ("unknown_line", "who knows\nwhat this is", 1, "", ""),
    ("unknown_multiplexer", f'BO_ 1 M: 8 E\n SG_ B m1 : 8|8@1+ {SG} ""\nSG_MUL_VAL_ 1 B S 1-1;', 3, "M", "B"),
    ("unknown_node", "BU_: X\nBO_ 1 M: 8 Y", 2, "M", ""),
    ("unknown_table", "VAL_ 9 A Table;", 1, "Ok", "A"),
    ("unterminated_string", 'CM_ SG_ 9 A "no end;', 1, "", ""),
    ("unused_attribute", 'BA_ "X" SG_ 9 B 1;', 1, "Ok", "B"),
    ("unused_attribute", 'BA_ "X" BO_ 8 1;', 1, "", ""),
    ("unused_comment", 'CM_ SG_ 9 B "text";', 1, "Ok", "B"),
    ("unused_comment", 'CM_ BO_ 8 "text";', 1, "", ""),
    ("unused_labels", 'VAL_ 8 A 1 "one";', 1, "", "A"),
    ("unused_mux_values", "SG_MUL_VAL_ 9 B A 1-1;", 1, "Ok", "B"),
    ("unused_value_type", "SIG_VALTYPE_ 9 B : 1;", 1, "Ok", "B"),
    ("zero_length", f'BO_ 1 M: 8 E\n SG_ Z : 0|0@1+ {SG} ""', 2, "M", "Z"),
    ("zero_scale", 'BO_ 1 M: 8 E\n SG_ Z : 0|8@1+ (0,0) [0|0] ""', 2, "M", "Z"),
]  # fmt: skip

#: Told by other tests: of bytes, of several files, of other formats, of sheer size.
ELSEWHERE = {
    "defects_omitted", "file_too_large", "multiplexer_too_deep", "no_messages", "not_a_database", "not_utf8",
    "repeated_message", "undecodable_text", "unknown_bus", "unreadable",
}  # fmt: skip


@pytest.mark.parametrize(("code", "text", "line", "message", "signal"), CASES)
def test_is_reported_where_it_is(code: str, text: str, line: int, message: str, signal: str) -> None:
    """The report names line, message and signal; what follows the defect is loaded."""
    loaded = load_dbc((text + "\n" + OK).encode())
    found = [defect for defect in loaded.defects if defect.code == code and defect.line == line]
    assert len(found) == 1, loaded.defects
    assert (found[0].message, found[0].signal) == (message, signal)
    assert found[0].text
    last = loaded.messages[-1]
    assert (last.name, last.can_id, [s.name for s in last.signals]) == ("Ok", 9, ["A"])


@pytest.mark.parametrize(("code", "text"), [case[:2] for case in CASES])
def test_is_reported_in_files_with_other_line_ends(code: str, text: str) -> None:
    """CRLF and old Macintosh line ends change nothing."""
    unix = load_dbc((text + "\n" + OK).encode())
    for end in ("\r\n", "\r"):
        assert load_dbc((text + "\n" + OK).replace("\n", end).encode()) == unix
    assert code in {defect.code for defect in unix.defects}


def test_every_code_has_a_case() -> None:
    assert {case[0] for case in CASES} | ELSEWHERE == set(SEVERITIES)


def test_every_code_is_used() -> None:
    """No code in the list that no loader reports."""
    folder = Path(dbc.load.__file__).parent
    source = "".join(path.read_text() for path in folder.glob("*.py") if path.name != "codes.py")
    assert {code for code in SEVERITIES if f'"{code}"' not in source} == set()


def test_the_manual_lists_every_code_as_it_is() -> None:
    """docs/reference/dbc-defects.md has one row per code, with its severity and meaning."""
    manual = (ROOT / "docs" / "reference" / "dbc-defects.md").read_text()
    rows = [line for line in manual.splitlines() if line.startswith("| `")]
    assert rows == [f"| `{code}` | {severity} | {MEANINGS[code]} |" for code, severity in SEVERITIES.items()]


def test_endless_defects_are_counted_not_listed() -> None:
    count = MAX_DEFECTS_PER_CODE + 7
    loaded = load_dbc((OK + 'CM_ BO_ 9 "x"\n' * count).encode())
    listed = [defect for defect in loaded.defects if defect.code == "missing_semicolon"]
    assert len(listed) == MAX_DEFECTS_PER_CODE
    assert [d.text for d in loaded.defects if d.code == "defects_omitted"] == [
        "7 more of missing_semicolon are not listed"
    ]


def test_too_deep_multiplexing() -> None:
    signals = "".join(f' SG_ S{i} m0M : {i}|1@1+ {SG} ""\n' for i in range(30))
    values = "".join(f"SG_MUL_VAL_ 1 S{i + 1} S{i} 0-0;\n" for i in range(29))
    loaded = load_dbc(f"BO_ 1 M: 8 E\n{signals}{values}".encode())
    assert "multiplexer_too_deep" in {defect.code for defect in loaded.defects}
    assert len(loaded.messages[0].signals) == 30


@pytest.mark.parametrize(
    ("content", "codes"),
    [
        (b"", {"no_messages"}),
        (b"\x00\xff\x80garbage\x00", {"no_messages", "not_utf8", "nul_characters", "unknown_line"}),
        (b"ORMF\x01whatever", {"not_a_database"}),
        (b"\xef\xbb\xbf" + OK.encode(), set()),
        (b"\xff\xfe" + OK.encode("utf-16-le"), set()),
        (b"\xfe\xff" + OK.encode("utf-16-be"), set()),
        (b"\xef\xbb\xbf" + OK.replace("Ok", "\xd6k").encode("latin-1"), {"undecodable_text"}),
        (OK.replace('""', '"\xb0C"').encode("cp1252"), {"not_utf8"}),
        (OK.replace('""', '"\xb0C"').encode(), set()),
    ],
)
def test_bytes_that_are_not_plain_text(content: bytes, codes: set[str]) -> None:
    found = {defect.code for defect in load_dbc(content).defects}
    assert codes <= found if "undecodable_text" in codes else codes == found


def test_both_encodings_give_the_same_unit() -> None:
    text = OK.replace('""', '"\xb0C"')
    units = [load_dbc(text.encode(encoding)).messages[0].signals[0].unit for encoding in ("utf-8", "cp1252")]
    assert units == ["°C", "°C"]


def test_severities_are_what_they_promise() -> None:
    """A file with nothing but warnings and notes lost nothing; one with an error is not sound."""
    assert not load_dbc(b"BO_ 1 M: 8 E\nwhat?\n").sound
    warned = load_dbc(b"BO_ 1 M: 65 E\n")
    assert warned.sound
    assert warned.count(Severity.WARNING) == 1


def test_a_comment_without_its_signal_does_not_replace_the_message_s_own() -> None:
    text = OK + 'CM_ SG_ 9 "which?";\nCM_ BO_ 9 "own";\nCM_ 9 "what?";\n'
    assert load_dbc(text.encode()).messages[0].comment == "own"
    assert load_dbc((OK + 'CM_ SG_ 9 "which?";').encode()).messages[0].comment == "which?"

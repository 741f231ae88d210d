"""What well-formed statements come to: layouts, texts, attributes, multiplexing, J1939 and CAN FD."""

from __future__ import annotations

import struct

import pytest

from dbc.load import load_dbc
from dbc.load.j1939 import pgn_of
from dbc.manifest import WILDCARD_SA, Kind, Message, MuxBranch, Signal

SG = "(1,0) [0|0]"
HEAD = 'VERSION "1.2"\n\nNS_ :\n\tNS_DESC_\n\tCM_\n\nBS_:\n\nBU_: A B\n\n'
ONE = f'BO_ 9 M: 8 A\n SG_ S : 0|8@1+ {SG} "" B\n'


def messages(text: str) -> list[Message]:
    """The messages of a file that must have no defect at all."""
    loaded = load_dbc((HEAD + text).encode())
    assert loaded.defects == ()
    assert loaded.version == "1.2"
    return list(loaded.messages)


def message(text: str) -> Message:
    found = messages(text)
    assert len(found) == 1
    return found[0]


def signal(text: str) -> Signal:
    found = message(text).signals
    assert len(found) == 1
    return found[0]


def test_signal_layout_and_scaling() -> None:
    found = signal('BO_ 9 M: 8 A\n SG_ Speed : 7|16@0- (0.01,-40) [-40|287.67] "km/h" A,B\n')
    assert (found.name, found.start, found.length, found.big_endian) == ("Speed", 7, 16, True)
    assert (found.kind, found.scale, found.offset) == (Kind.SIGNED, 0.01, -40.0)
    assert (found.minimum, found.maximum, found.unit) == (-40.0, 287.67, "km/h")


@pytest.mark.parametrize(
    "text",
    [
        f'BO_ 9 M : 8 A SG_ S : 0|8@1+ {SG} "" B',
        f'BO_   9\tM:8 A\n\n\n\tSG_ S:0|8@1+{SG}""B\n',
        'BO_ 9 M: 8\nA\n SG_ S : 0 | 8 @ 1 + ( 1 , 0 ) [ 0 | 0 ] "" B ,\n A\n',
        f'// first\nBO_ 9 M: 8 A // second\n SG_ S : 0|8@1+ {SG} "" B // third\n// last',
        f'BO_ 9 M: 8 A\n SG_ S : 0|8@1+ {SG} "" B  ,  A  \nBO_TX_BU_ 9 : A,B;',
        f'BO_ 9 M: 8 A\n SG_ S : 0|8@1+ {SG} ""\n',
    ],
)
def test_white_space_and_comments_mean_nothing(text: str) -> None:
    found = message(text)
    assert (found.name, found.can_id, found.length, found.sender) == ("M", 9, 8, "A")
    assert [(s.name, s.start, s.length) for s in found.signals] == [("S", 0, 8)]


def test_statements_may_come_before_what_they_describe() -> None:
    found = signal('CM_ SG_ 9 S "early";\nVAL_ 9 S 1 "one";\nBO_ 9 M: 8 A\n' + f' SG_ S : 0|8@1+ {SG} ""\n')
    assert (found.comment, found.labels) == ("early", {1: "one"})


def test_comments_keep_lines_quotes_and_what_looks_like_statements() -> None:
    text = 'CM_ SG_ 9 S "He said \\"go\\";\nBO_ 7 Not: 8 A\n\nCM_ SG_ 9 S ";\n'
    text += 'CM_ BO_ 9 "message";\nCM_ "file";\nCM_ BU_ A "node";'
    found = message(ONE + text)
    assert found.comment == "message"
    assert found.signals[0].comment == 'He said "go";\nBO_ 7 Not: 8 A\n\nCM_ SG_ 9 S '


def test_labels() -> None:
    text = f'BO_ 9 M: 8 A\n SG_ S : 0|8@1- {SG} ""\nVAL_ 9 S -1 "minus \\"one\\"" 0 "" 2.0 "two";'
    assert signal(text).labels == {-1: 'minus "one"', 0: "", 2: "two"}


def test_labels_of_a_table_and_of_an_environment_variable() -> None:
    text = 'VAL_TABLE_ OnOff 1 "on" 0 "off" ;\nVAL_ 9 S OnOff;\nVAL_ Variable 0 "x" ;'
    assert signal(ONE + text).labels == {0: "off", 1: "on"}


def test_raw_values_of_labels_and_starts_are_those_that_travel() -> None:
    """A float's as its bit pattern, an unsigned one above 2**63 - 1 as a negative number."""
    text = f"""BO_ 9 M: 24 A
 SG_ F : 0|32@1- {SG} ""
 SG_ D : 64|64@1- {SG} ""
 SG_ U : 128|64@1+ {SG} ""
SIG_VALTYPE_ 9 F : 1;
SIG_VALTYPE_ 9 D :2;
VAL_ 9 F 1 "one" -2 "minus two";
VAL_ 9 D -1 "minus one";
VAL_ 9 U 18446744073709551615 "invalid";
BA_DEF_ SG_ "GenSigStartValue" FLOAT 0 0;
BA_ "GenSigStartValue" SG_ 9 F 0.5;
BA_ "GenSigStartValue" SG_ 9 U 18446744073709551615;
"""
    single, double, unsigned = message(text).signals
    assert (single.kind, double.kind, unsigned.kind) == (Kind.FLOAT32, Kind.FLOAT64, Kind.UNSIGNED)
    assert single.labels == {0x3F800000: "one", 0xC0000000: "minus two"}
    assert double.labels == {struct.unpack("<q", struct.pack("<d", -1.0))[0]: "minus one"}
    assert unsigned.labels == {-1: "invalid"}
    assert (single.initial, double.initial, unsigned.initial) == (0x3F000000, None, -1)


def test_attributes_and_defaults() -> None:
    text = f"""BO_ 8 N: 8 A
BO_ 9 M: 8 B
 SG_ S : 0|8@1+ {SG} ""
 SG_ C : 8|4@1+ {SG} ""
BA_DEF_ BO_  "GenMsgCycleTime" INT 0 10000;
BA_DEF_ SG_  "GenSigStartValue" INT 0 255;
BA_DEF_ SG_  "SPN" INT 0 524287;
BA_DEF_ SG_  "OutriderRole" ENUM  "none","counter","checksum","actuator";
BA_DEF_ BO_  "OutriderChecksum" STRING ;
BA_DEF_ BO_  "OutriderChecksumDataId" INT 0 65535;
BA_DEF_REL_ BU_SG_REL_  "GenSigTimeoutTime" INT 0 65535;
BA_DEF_DEF_  "GenMsgCycleTime" 100;
BA_DEF_DEF_  "GenSigStartValue" 0;
BA_DEF_DEF_  "SPN" 0;
BA_DEF_DEF_  "OutriderRole" "none";
BA_DEF_DEF_  "OutriderChecksum" "";
BA_DEF_DEF_  "OutriderChecksumDataId" 0;
BA_ "GenMsgCycleTime" BO_ 9 20;
BA_ "OutriderChecksum" BO_ 9 "crc8_sae_j1850";
BA_ "OutriderChecksumDataId" BO_ 9 4660;
BA_ "GenSigStartValue" SG_ 9 S 7;
BA_ "SPN" SG_ 9 S 190;
BA_ "OutriderRole" SG_ 9 S "actuator";
BA_ "OutriderRole" SG_ 9 C 1;
BA_ "Unheard" BU_ A "of";
BA_ "OfTheFile" 5;
"""
    by_default, stated = messages(text)
    assert (by_default.cycle_ms, by_default.checksum, by_default.checksum_data_id) == (100, "", 0)
    assert (stated.cycle_ms, stated.checksum, stated.checksum_data_id) == (20, "crc8_sae_j1850", 0x1234)
    first, second = stated.signals
    assert (first.initial, first.spn, first.role) == (7, 190, "actuator")
    assert (second.initial, second.spn, second.role) == (None, None, "counter")


def test_long_names() -> None:
    text = f"""BO_ 9 M_0000: 8 A
 SG_ S_0000 : 0|8@1+ {SG} ""
BA_ "SystemMessageLongSymbol" BO_ 9 "MessageOfManyWords";
BA_ "SystemSignalLongSymbol" SG_ 9 S_0000 "SignalOfManyWords";
BA_ "SystemNodeLongSymbol" BU_ A "NodeOfManyWords";
VAL_ 9 S_0000 1 "one";
"""
    found = message(text)
    assert (found.name, found.sender) == ("MessageOfManyWords", "NodeOfManyWords")
    assert (found.signals[0].name, found.signals[0].labels) == ("SignalOfManyWords", {1: "one"})


def test_signals_of_no_message_are_left_out() -> None:
    text = f'BO_ 3221225472 VECTOR__INDEPENDENT_SIG_MSG: 0 Vector__XXX\n SG_ Lost : 0|8@1+ {SG} ""\n'
    assert message(text + ONE + 'VAL_ 3221225472 Lost 1 "x";\nCM_ SG_ 3221225472 Lost "y";').name == "M"


def test_nobody_sends() -> None:
    assert message("BO_ 9 M: 8 Vector__XXX\n").sender == ""


def test_extended_identifiers_have_no_flag_bit() -> None:
    found = message('BO_ 2566844926 M: 8 A\nCM_ BO_ 2566844926 "x";')
    assert (found.can_id, found.extended, found.comment) == (0x18FEF1FE, True, "x")
    small = message("BO_ 2147483657 M: 8 A\n")
    assert (small.can_id, small.extended) == (9, True)


def test_standard_and_extended_identifier_of_one_number_are_two_messages() -> None:
    found = messages('BO_ 9 M: 8 A\nBO_ 2147483657 N: 8 A\nCM_ BO_ 9 "m";\nCM_ BO_ 2147483657 "n";')
    assert [(m.name, m.extended, m.comment) for m in found] == [("M", False, "m"), ("N", True, "n")]


@pytest.mark.parametrize(("of_message", "of_comment"), [(417001749, 2564485397), (2564485397, 417001749)])
def test_references_find_their_message_whichever_lacks_the_flag_bit(of_message: int, of_comment: int) -> None:
    loaded = load_dbc(f'BO_ {of_message} M: 8 A\nCM_ BO_ {of_comment} "text";'.encode())
    assert [(m.can_id, m.extended, m.comment) for m in loaded.messages] == [(417001749, True, "text")]


# CAN FD and J1939


@pytest.mark.parametrize(
    ("text", "fd"),
    [
        ("BO_ 9 M: 8 A\n", False),
        ("BO_ 9 M: 9 A\n", True),
        ('BO_ 9 M: 8 A\nBA_DEF_ BO_ "VFrameFormat" INT 0 15;\nBA_ "VFrameFormat" BO_ 9 14;', True),
        ('BO_ 9 M: 8 A\nBA_ "VFrameFormat" BO_ 9 14;', True),
        ('BO_ 9 M: 8 A\nBA_DEF_ BO_ "VFrameFormat" ENUM "A","StandardCAN_FD";\nBA_ "VFrameFormat" BO_ 9 1;', True),
        ('BO_ 9 M: 8 A\nBA_DEF_DEF_ "VFrameFormat" "StandardCAN_FD";', True),
        ('BO_ 9 M: 8 A\nBA_DEF_DEF_ "VFrameFormat" "StandardCAN";', False),
    ],
)
def test_fd_by_format_or_length(text: str, fd: bool) -> None:
    assert message(text).fd is fd


@pytest.mark.parametrize(
    ("can_id", "pgn"),
    [
        (0x0CF00400, 0xF004),  # EEC1: PDU2, the low byte of the number belongs to it
        (0x18FEF1FE, 0xFEF1),
        (0x18EAFF00, 0xEA00),  # request: PDU1, the byte 0xFF is a destination
        (0x18EF1234, 0xEF00),
        (0x19F00400, 0x1F004),  # data page
        (0x1BF00400, 0x3F004),  # extended data page too
        (0x1FFFFFFF, 0x3FFFF),
    ],
)
def test_parameter_group_number(can_id: int, pgn: int) -> None:
    assert pgn_of(can_id) == pgn


J1939_ID = 0x98FEF1FE


@pytest.mark.parametrize(
    ("text", "pgn"),
    [
        ("", None),
        ('BA_ "ProtocolType" "J1939";', 0xFEF1),
        ('BA_DEF_DEF_ "ProtocolType" "J1939";', 0xFEF1),
        ('BA_ "ProtocolType" "";\nBA_DEF_DEF_ "ProtocolType" "J1939";', None),
        ('BA_DEF_DEF_ "VFrameFormat" "J1939PG";', 0xFEF1),
        (f'BA_ "VFrameFormat" BO_ {J1939_ID} 3;', 0xFEF1),
        (f'BA_ "ProtocolType" "J1939";\nBA_ "VFrameFormat" BO_ {J1939_ID} 1;', None),
    ],
)
def test_j1939_where_the_file_says_so(text: str, pgn: int | None) -> None:
    """A message's own frame format counts more than the protocol of the file."""
    found = message(f"BO_ {J1939_ID} M: 8 A\n{text}")
    assert found.pgn == pgn
    assert found.can_id & 0xFF == WILDCARD_SA


# Multiplexing

MUXED = f"""BO_ 9 M: 8 A
 SG_ S M : 0|8@1+ {SG} ""
 SG_ A m0 : 8|8@1+ {SG} ""
 SG_ B m1 : 8|8@1+ {SG} ""
 SG_ Always : 16|8@1+ {SG} ""
"""


def test_simple_multiplexing() -> None:
    found = message(MUXED)
    assert [s.is_multiplexer for s in found.signals] == [True, False, False, False]
    assert [s.mux for s in found.signals] == [(), (MuxBranch(0, ((0, 0),)),), (MuxBranch(0, ((1, 1),)),), ()]


def test_ranges_of_multiplexor_values() -> None:
    found = message(MUXED + "SG_MUL_VAL_ 9 A S 0-0, 4-7,10-4294967295;\n")
    assert found.signals[1].mux == (MuxBranch(0, ((0, 0), (4, 7), (10, 4294967295))),)
    assert found.signals[2].mux == (MuxBranch(0, ((1, 1),)),)


def test_cascaded_multiplexors_bring_the_conditions_of_all_above() -> None:
    text = f"""BO_ 9 M: 8 A
 SG_ Leaf m5 : 16|8@1+ {SG} ""
 SG_ Middle m3M : 8|8@1+ {SG} ""
 SG_ Top M : 0|8@1+ {SG} ""
SG_MUL_VAL_ 9 Leaf Middle 5-5;
SG_MUL_VAL_ 9 Middle Top 3-3;
"""
    found = message(text)
    assert found.signals[0].mux == (MuxBranch(2, ((3, 3),)), MuxBranch(1, ((5, 5),)))
    assert found.signals[1].mux == (MuxBranch(2, ((3, 3),)),)
    assert [s.is_multiplexer for s in found.signals] == [False, True, True]


def test_independent_multiplexors() -> None:
    text = f"""BO_ 9 M: 8 A
 SG_ X M : 0|8@1+ {SG} ""
 SG_ Y M : 8|8@1+ {SG} ""
 SG_ A m0 : 16|8@1+ {SG} ""
 SG_ B m0 : 24|8@1+ {SG} ""
SG_MUL_VAL_ 9 A X 0-0;
SG_MUL_VAL_ 9 B Y 0-0;
"""
    found = message(text)
    assert [s.mux for s in found.signals[2:]] == [(MuxBranch(0, ((0, 0),)),), (MuxBranch(1, ((0, 0),)),)]


def test_signals_of_different_multiplexor_values_may_share_bits() -> None:
    assert len(message(MUXED).signals) == 4


def test_signals_of_one_multiplexor_value_may_not_share_bits() -> None:
    text = MUXED.replace("m1", "m0")
    assert [(d.code, d.signal) for d in load_dbc(text.encode()).defects] == [("overlapping_signals", "B")]


def test_dropped_signals_leave_selectors_where_they_belong() -> None:
    """Selectors are indices into the signals that are kept."""
    text = MUXED.replace(" SG_ S M", f' SG_ Gone : 0|0@1+ {SG} ""\n SG_ S M')
    loaded = load_dbc(text.encode())
    assert {d.code for d in loaded.defects} == {"zero_length"}
    found = loaded.messages[0]
    assert [s.name for s in found.signals] == ["S", "A", "B", "Always"]
    assert found.signals[2].mux == (MuxBranch(0, ((1, 1),)),)


def test_two_signals_of_one_name_share_what_describes_the_name() -> None:
    text = MUXED.replace("SG_ B m1", "SG_ A m1") + 'VAL_ 9 A 1 "one";\n'
    found = load_dbc(text.encode()).messages[0]
    assert [(s.name, s.labels, s.mux[0].ranges) for s in found.signals[1:3]] == [
        ("A", {1: "one"}, ((0, 0),)),
        ("A_2", {1: "one"}, ((1, 1),)),
    ]

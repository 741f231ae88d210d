"""Every defect that a report can name: its code, how severe it is, and what it means.

Codes are stable: scripts that read reports may rely on them. docs/reference/dbc-defects.md lists them for people.
"""

from __future__ import annotations

from enum import StrEnum


class Severity(StrEnum):
    """How much a defect costs."""

    ERROR = "error"  # something the file states is not in the result
    WARNING = "warning"  # kept, perhaps repaired; likely not what its author meant
    NOTE = "note"  # worth knowing, nothing wrong with the result


_ERRORS = {
    "bad_attribute": "an attribute that matters has a value it cannot have; it is ignored",
    "bad_float_length": "a float of neither 32 nor 64 bits; the signal is dropped",
    "bad_id": "an identifier of more than 29 bits; the message is dropped",
    "bad_initial_value": "a start value (GenSigStartValue) that the signal cannot hold; it is ignored",
    "bad_label": "a labelled value that no raw value reaches; the label is dropped",
    "bad_scale": "a factor or offset that is no finite number; the signal is dropped",
    "duplicate_id": "two messages have one identifier; the later one is dropped",
    "file_too_large": "the file is larger than any database and was not read",
    "malformed_attribute": "a BA_, BA_DEF_ or BA_DEF_DEF_ statement that cannot be read; it is dropped",
    "malformed_comment": "a CM_ statement that cannot be read; it is dropped",
    "malformed_labels": "a VAL_ or VAL_TABLE_ statement that cannot be read; its values from there on are dropped",
    "malformed_message": "a BO_ statement that cannot be read; the message is dropped with its signals",
    "malformed_mux_values": "an SG_MUL_VAL_ statement that cannot be read; it is dropped",
    "malformed_namespace": "an NS_ statement without a colon",
    "malformed_nodes": "a BU_ statement without a colon",
    "malformed_signal": "an SG_ statement that cannot be read; the signal is dropped",
    "malformed_value_type": "a SIG_VALTYPE_ statement that cannot be read; it is dropped",
    "malformed_version": "a VERSION statement without a string",
    "multiplexer_cycle": "multiplexors that select each other; the conditions are dropped",
    "multiplexer_too_deep": "more multiplexors above one another than is sane; the conditions are dropped",
    "no_messages": "nothing in the file could be used",
    "not_a_database": "the file is something else, such as a compiled manifest",
    "orphan_signal": "an SG_ statement before any BO_; it is dropped",
    "signal_out_of_frame": "a signal beyond byte 63; it is dropped",
    "signal_too_long": "a signal of more than 64 bits; it is dropped",
    "unknown_line": "text that is no statement of a DBC file; it is skipped",
    "unknown_multiplexer": "SG_MUL_VAL_ names a multiplexor that the message does not have; it is dropped",
    "unknown_table": "VAL_ names a table that VAL_TABLE_ does not define",
    "unreadable": "cantools cannot read the KCD, SYM or ARXML file; the reason is in the text",
    "unused_labels": "VAL_ for a signal or message that the file does not have",
    "unused_mux_values": "SG_MUL_VAL_ for a signal or message that the file does not have",
    "unused_value_type": "SIG_VALTYPE_ for a signal or message that the file does not have",
    "zero_length": "a signal of no bits; it is dropped",
}

_WARNINGS = {
    "ambiguous_multiplexer": "several multiplexors, and the file does not tell which one a signal depends on",
    "bad_length": "a message of more than 64 bytes; cut to 64",
    "bad_name": "a name with characters that names cannot have; they become underscores",
    "bad_range": "a minimum and maximum that are missing, no numbers or the wrong way round; left out",
    "comment_without_signal": "CM_ SG_ without a signal, or CM_ with a bare identifier; kept for the message",
    "duplicate_label": "one value has two texts; the later is used",
    "duplicate_labels": "two VAL_ statements for one signal; the later is used",
    "duplicate_message_name": "two messages of one name on a bus; the later gets its identifier as a suffix",
    "duplicate_signal_name": "two signals of one name in a message; the later gets a number as a suffix",
    "extended_bit_missing": "an identifier of more than 11 bits without bit 31, which marks 29 bits; read as extended",
    "fd_format_missing": "more than 8 bytes although VFrameFormat says classic CAN; read as CAN FD",
    "float_length_mismatch": "SIG_VALTYPE_ says float or double and the length says the other; the length decides",
    "irregular_message": "a BO_ statement that is not well-formed but can be understood",
    "irregular_signal": "an SG_ statement that is not well-formed but can be understood",
    "j1939_standard_id": "a J1939 message with an 11-bit identifier; matched by the identifier",
    "label_out_of_range": "a label for a value that the signal cannot hold; kept",
    "mark_without_number": "a multiplexing mark m without its number; SG_MUL_VAL_ decides, else always decoded",
    "missing_semicolon": "a statement that does not end in its semicolon; kept",
    "missing_sender": "a BO_ statement without a sender; kept",
    "missing_sign": "an SG_ statement without + or -; read as unsigned",
    "missing_unit": "an SG_ statement without a unit in quotes; read as no unit",
    "mux_value_mismatch": "SG_MUL_VAL_ leaves out the value of the signal's own mark; SG_MUL_VAL_ is used",
    "mux_without_selector": "a multiplexed signal in a message without multiplexor; decoded in every frame",
    "name_starts_with_digit": "a name that begins with a digit; kept",
    "namespace_without_end": "the NS_ list is followed by neither BS_ nor BU_",
    "nul_characters": "NUL characters in the text; read as spaces",
    "number_without_leading_digit": "a number such as .25; understood",
    "overlapping_signals": "two signals that can be present together share bits; both are kept",
    "signal_past_end": "a signal beyond the length of its message; only longer frames carry it",
    "stray_semicolon": "a semicolon that ends nothing",
    "undecodable_text": "bytes that are not of the encoding which the byte order mark tells",
    "unescaped_quote": "a comment with quotes in it that are not escaped; kept",
    "unknown_bus": "the file tells buses apart, and none of them is the one it is put on; all are put on it",
    "unterminated_string": "a comment without its closing quote; kept up to the next statement",
    "unused_attribute": "BA_ for a signal or message that the file does not have",
    "unused_comment": "CM_ for a signal or message that the file does not have",
    "zero_scale": "a factor of 0, which would make all values the same; read as 1",
}

_NOTES = {
    "defects_omitted": "defects of one code were too many to list; the text tells how many",
    "j1939_transport": "a J1939 message of more than 8 bytes travels in several frames, which are not put together",
    "not_utf8": "the file is not UTF-8; read as Windows-1252",
    "repeated_message": "another file of the bus has the very same message",
    "unknown_node": "a sender that BU_ does not name; told once for each sender",
}

#: code -> severity
SEVERITIES: dict[str, Severity] = {
    **dict.fromkeys(_ERRORS, Severity.ERROR),
    **dict.fromkeys(_WARNINGS, Severity.WARNING),
    **dict.fromkeys(_NOTES, Severity.NOTE),
}

#: code -> what it means
MEANINGS: dict[str, str] = {**_ERRORS, **_WARNINGS, **_NOTES}

"""From the bytes of a file to its text: encodings, byte order marks and line ends."""

from __future__ import annotations

from dbc.load.model import DefectLog

_MARKS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))


def decode_text(content: bytes, log: DefectLog) -> str:
    """The file as text with ``\\n`` line ends; never fails.

    UTF-8 is tried first, because other bytes are hardly ever valid UTF-8 by accident; what is not UTF-8 is read as
    Windows-1252, in which most DBC files are written.
    """
    text = _decode(content, log)
    if "\0" in text:
        log.add("nul_characters", 0, "the file contains NUL characters; they are read as spaces")
        text = text.replace("\0", " ")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _decode(content: bytes, log: DefectLog) -> str:
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            text = content[len(mark) :].decode(encoding, "replace")
            if "\ufffd" in text:
                log.add("undecodable_text", 0, f"the file's byte order mark says {encoding}, but not all of it is")
            return text
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        log.add("not_utf8", line, "not UTF-8; the file is read as Windows-1252")
        return content.decode("cp1252", "replace")

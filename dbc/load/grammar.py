"""Regular expressions for the statements of a DBC file.

Each matches one whole statement from its keyword on, over several lines where the format allows it. They accept
what is well-formed, also without the final semicolon; what they do not match is the parser's business. None of them
can take exponential time: no two neighbouring repetitions match the same text, or they are possessive.
"""

from __future__ import annotations

import re

_USED = "BA_ BA_DEF_ BA_DEF_DEF_ BO_ BS_ BU_ CM_ NS_ SG_ SG_MUL_VAL_ SIG_VALTYPE_ VAL_ VAL_TABLE_ VERSION"
_UNUSED = (
    "BA_DEF_DEF_REL_ BA_DEF_REL_ BA_DEF_SGTYPE_ BA_REL_ BA_SGTYPE_ BO_TX_BU_ BU_BO_REL_ BU_EV_REL_ BU_SG_REL_ CAT_ "
    "CAT_DEF_ ENVVAR_DATA_ EV_ EV_DATA_ FILTER NS_DESC_ SGTYPE_ SGTYPE_VAL_ SIG_GROUP_ SIG_TYPE_REF_ SIGTYPE_VALTYPE_"
)
#: Known, and of no use for decoding, encoding or display: skipped up to their semicolon without a word.
IGNORED = frozenset(_UNUSED.split())
KEYWORDS = frozenset(_USED.split()) | IGNORED

_ANY_KEYWORD = "|".join(sorted(KEYWORDS, key=len, reverse=True))
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_STRING = r'"([^"\\]*(?:\\"?[^"\\]*)*)"'  # a backslash escapes a quote, nothing else
_STRING_1 = r'"([^"\\\n]*(?:\\"?[^"\\\n]*)*)"'  # within one line
_END = r"\s*(;)?"


def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.ASCII)


BLANK = _compile(r"(?:\s+|//[^\n]*)*")
WORD = _compile(r"\w+")
LINE_START = re.compile(rf"^[ \t]*(?={_ANY_KEYWORD}\b)(?=[A-Z_]+(?:\s|:|\"|$))", re.MULTILINE | re.ASCII)
REST_OF_LINE = _compile(r"[^\n]*")

NUMBER = _compile(_NUMBER)
VERSION = _compile(rf"VERSION\s+{_STRING_1}")
NODES = _compile(r"BU_\s*:([^\n]*(?:\n[ \t]+\w+[ \t]*(?=\n))*)")
NS_HEAD = _compile(r"NS_\s*:")
NS_WORD = _compile(rf"\s*(?:(?:{_ANY_KEYWORD})|[A-Z]\w*_)[ \t]*(?=\n|$|(?:{_ANY_KEYWORD})\b)")
BS = _compile(r"BS_[ \t]*:?[^\n]*")
MESSAGE = _compile(rf"BO_\s+(\d+)\s+(\w+)\s*:\s*(\d+)(?:\s+(?!(?:{_ANY_KEYWORD})\b)(\w+))?[ \t]*")
MESSAGE_LOOSE = _compile(r"BO_\s+(-?\w+)\s+([^\s:]+)\s*:?\s*(\w+)?[ \t]*([^\s]+)?[ \t]*")
_RECEIVERS = rf"(?:(?!(?:{_ANY_KEYWORD})\b)[\w]+[ \t]*+(?:,\s*)?)*+"
SIGNAL = _compile(
    r"SG_\s+(\w+)(?:\s+(M|m\d+M?))?\s*:\s*(\d+)\s*\|\s*(\d+)\s*@\s*([01])\s*([+-])"
    rf"\s*\(\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\)\s*\[\s*({_NUMBER})\s*\|\s*({_NUMBER})\s*\]"
    rf"\s*{_STRING_1}[ \t]*{_RECEIVERS}"
)
SIGNAL_HEAD = _compile(r"SG_[ \t]+([^\s:]+)(?:[ \t]+([^\s:]+))?[ \t]*:[ \t]*([^\n]*)")
SIGNAL_LAYOUT = _compile(r"(\d+)\s*\|\s*(\d+)\s*@\s*([01])\s*([+-])?")
SIGNAL_SCALE = _compile(rf"\(\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\)")
SIGNAL_RANGE = _compile(rf"\[\s*({_NUMBER})\s*\|\s*({_NUMBER})\s*\]")
QUOTED = _compile(_STRING_1)
COMMENT = _compile(rf"CM_\s+(?:(BO_)\s+(\d+)\s+|(SG_)\s+(\d+)\s+(\w+)\s+|(?:BU_|EV_)\s+\w+\s+)?{_STRING}{_END}")
COMMENT_BARE = _compile(rf"CM_\s+(?:SG_\s+)?(\d+)\s+{_STRING}\s*;")
COMMENT_HEAD = _compile(r'CM_\s+(?:(BO_)\s+(\d+)\s+|(SG_)\s+(\d+)\s+(\w+)\s+|(?:BU_|EV_)\s+\w+\s+)?"')
PAIR = _compile(rf"\s*([-+]?\d+(?:\.0*)?)\s*{_STRING}")
LABELS = _compile(rf"VAL_\s+(\d+)\s+(\w+)((?:\s*[-+]?\d+(?:\.0*)?\s*{_STRING})*){_END}")
LABELS_TABLE = _compile(rf"VAL_\s+(\d+)\s+(\w+)\s+(?!(?:{_ANY_KEYWORD})\b)([A-Za-z_]\w*){_END}")
LABELS_ENVIRONMENT = _compile(rf"VAL_\s+[A-Za-z_]\w*((?:\s*[-+]?\d+\s*{_STRING})*){_END}")
TABLE = _compile(rf"VAL_TABLE_\s+(\w+)((?:\s*[-+]?\d+(?:\.0*)?\s*{_STRING})*){_END}")
VALUE_TYPE = _compile(rf"SIG_VALTYPE_\s+(\d+)\s+(\w+)\s*:?\s*(\d+){_END}")
MUX_VALUES = _compile(rf"SG_MUL_VAL_\s+(\d+)\s+(\w+)\s+(\w+)\s+(\d+\s*-\s*\d+(?:(?:\s*,\s*|\s+)\d+\s*-\s*\d+)*){_END}")
MUX_RANGE = _compile(r"(\d+)\s*-\s*(\d+)")
DEFINITION = _compile(
    rf"BA_DEF_\s+(?:BO_|SG_|BU_|EV_)?\s*{_STRING_1}\s+([A-Z]+)((?:\s*+(?:,\s*+)?(?:{_STRING_1}|{_NUMBER}))*+){_END}"
)
DEFAULT = _compile(rf"BA_DEF_DEF_\s+{_STRING_1}\s+(?:({_NUMBER})|{_STRING}){_END}")
ATTRIBUTE = _compile(
    rf"BA_\s+{_STRING_1}\s+(?:(BO_)\s+(\d+)\s+|(SG_)\s+(\d+)\s+(\w+)\s+|(BU_|EV_)\s+(\w+)\s+)?"
    rf"(?:({_NUMBER})|{_STRING}){_END}"
)
IGNORED_STATEMENT = _compile(r'\w+[^;"]*+(?:"[^"]*+"[^;"]*+)*+;')

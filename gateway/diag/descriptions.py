"""Names and layouts of the ECUs' identifiers, from the JSON that ``outrider sim describe --json`` prints.

Of each ECU its ``dids`` are used: ``{"0102": {"name": …, "bytes": 4, "fields": [{"bytes", "encoding", "scale",
"offset", "unit", "values"}]}}``. Everything else is ignored, so that any tool may write the file. Identifiers of many
fields are told as bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from gateway.diag.poll_details import USUAL_EXTENDED, DidLayout, EcuLayout
from gateway.errors import ConfigError

MAX_FILE_BYTES = 16 * 1024 * 1024


class _Field(msgspec.Struct, frozen=True):
    bytes: int
    encoding: str = "uint"
    scale: float = 1.0
    offset: float = 0.0
    unit: str = ""
    values: dict[str, str] = {}


class _Did(msgspec.Struct, frozen=True):
    name: str = ""
    bytes: int | None = None
    fields: tuple[_Field, ...] = ()


class _Ecu(msgspec.Struct, frozen=True):
    ecu: str
    dids: dict[str, _Did] = {}


class _File(msgspec.Struct, frozen=True):
    ecus: tuple[_Ecu, ...]


def load_descriptions(path: Path) -> Mapping[str, EcuLayout]:
    """ECU name to layout.

    Raises:
        ConfigError: the file cannot be read or is something else.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror or error}", path=str(path)) from error
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"larger than {MAX_FILE_BYTES} bytes", path=str(path))
    try:
        file = msgspec.json.decode(content, type=_File)
        return {ecu.ecu: _layout(ecu) for ecu in file.ecus}
    except (msgspec.DecodeError, ValueError) as error:  # ValueError: an identifier that is no hexadecimal number
        raise ConfigError(f"no description of ECUs: {error}", path=str(path)) from error


def _layout(ecu: _Ecu) -> EcuLayout:
    dids: dict[int, DidLayout] = {}
    for text, did in ecu.dids.items():
        if did.bytes is None or did.bytes <= 0:
            continue
        number = int(text, 16)
        name = did.name or f"{number:04X}"
        field = did.fields[0] if len(did.fields) == 1 and did.fields[0].bytes == did.bytes else None
        if field is None or field.encoding not in ("uint", "int", "ascii"):
            continue  # its length is learnt by reading; its bytes are told as they are
        dids[number] = DidLayout(
            name=name,
            length=did.bytes,
            factor=field.scale,
            offset=field.offset,
            unit=field.unit,
            is_signed=field.encoding == "int",
            is_text=field.encoding == "ascii",
            labels={int(raw, 0): label for raw, label in field.values.items()},
        )
    return EcuLayout(dids=dids, extended=USUAL_EXTENDED)

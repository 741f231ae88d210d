"""Names and layouts of the ECUs' identifiers, from the JSON that ``outrider sim describe --json`` prints.

Of each ECU its ``dids`` are used: ``{"0102": {"name": …, "bytes": 4, "fields": [{"name", "bytes", "encoding", "scale",
"offset", "unit", "values"}]}}``, and the words for its trouble codes, ``{"services": {"19": {"details": {"codes":
{"0AA61A": …}}}}}``. Everything else is ignored, so that any tool may write the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast, get_args

import msgspec

from gateway.diag.poll_details import USUAL_EXTENDED, Coding, DidLayout, EcuLayout
from gateway.errors import ConfigError

MAX_FILE_BYTES = 16 * 1024 * 1024
CODINGS = frozenset(get_args(Coding))


class _Field(msgspec.Struct, frozen=True):
    bytes: int
    name: str = ""
    encoding: str = "uint"
    scale: float = 1.0
    offset: float = 0.0
    unit: str = ""
    values: dict[str, str] = {}


class _Did(msgspec.Struct, frozen=True):
    name: str = ""
    bytes: int | None = None
    fields: tuple[_Field, ...] = ()


class _Details(msgspec.Struct, frozen=True):
    codes: dict[str, str] = {}


class _Service(msgspec.Struct, frozen=True):
    details: _Details = _Details()


class _Services(msgspec.Struct, frozen=True):
    read_dtcs: _Service = msgspec.field(default=_Service(), name="19")


class _Ecu(msgspec.Struct, frozen=True):
    ecu: str
    dids: dict[str, _Did] = {}
    services: _Services = _Services()


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
        lengths = [field.bytes for field in did.fields]
        if did.bytes is None or sum(lengths) != did.bytes or min(lengths, default=0) <= 0:
            continue  # its length is learnt by reading; its bytes are told as they are
        number = int(text, 16)
        name = did.name or f"{number:04X}"
        fields = tuple(_field(field) for field in did.fields)
        if len(fields) == 1:
            dids[number] = msgspec.structs.replace(fields[0], name=name)
        else:
            dids[number] = DidLayout(name=name, length=did.bytes, parts=fields)
    texts = {int(code, 16): text for code, text in ecu.services.read_dtcs.details.codes.items()}
    return EcuLayout(dids=dids, extended=USUAL_EXTENDED, texts=texts)


def _field(field: _Field) -> DidLayout:
    is_known = field.encoding in CODINGS and (field.encoding != "float32" or field.bytes == 4)
    return DidLayout(
        name=field.name,
        length=field.bytes,
        factor=field.scale,
        offset=field.offset,
        unit=field.unit,
        coding=cast(Coding, field.encoding) if is_known else "hex",
        labels={int(raw, 0): label for raw, label in field.values.items()},
    )

"""ODX and PDX files as a vehicle: ECUs, identifiers with scalings and units, texts of codes, routines.

Only what a request says plainly is taken: a constant service, a constant identifier, then fields of whole bytes.
Everything else (multiplexers, tables, lengths that depend on content, formulas) is counted and named, never guessed.
``odxtools`` is asked for only here.
"""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from gateway.diag.config import EcuConfig
from tester.errors import FileError, missing_package
from tester.values import Encoding, Field
from tester.vehicle import Access, Did, Ecu, Routine, Vehicle

MAX_UNPACKED_BYTES = 1 << 30
READ, WRITE, ROUTINE = 0x22, 0x2E, 0x31
_ENCODINGS: Mapping[str, Encoding] = {
    "A_UINT32": "uint", "A_INT32": "int", "A_FLOAT32": "float32", "A_FLOAT64": "float64", "A_ASCIISTRING": "ascii",
    "A_UTF8STRING": "ascii", "A_BYTEFIELD": "hex",
}  # fmt: skip


class NotUnderstood(Exception):
    """A part of the model that has no place in a vehicle file; the message is the reason, for counting."""


class Import(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a file. ``left_out``: how many of what, by reason."""

    vehicle: Vehicle
    services: int
    taken: int
    left_out: Mapping[str, int]
    examples: Mapping[str, str]  # one service for each reason


def import_odx(path: Path, addresses: Mapping[str, tuple[int, int]] | None = None) -> Import:
    """Read a file.

    Args:
        path: PDX or ODX.
        addresses: request and response identifier by ECU, before what the file says.

    Raises:
        FileError: it cannot be read.
        NotThereError: ``odxtools`` is not installed.
    """
    database = _load(path)
    layers = list(database.ecu_variants) or list(database.base_variants)
    if not layers:
        raise FileError(path, "no ECU variant and no base variant in it")
    reader = _Reader(addresses or {})
    ecus = [reader.ecu(layer, number) for number, layer in enumerate(layers)]
    name = str(getattr(database, "short_name", "") or path.stem)
    return Import(
        vehicle=Vehicle(name=name, ecus=tuple(ecus)), services=reader.services, taken=reader.taken,
        left_out=dict(reader.left_out), examples=reader.examples,
    )  # fmt: skip


def _load(path: Path) -> Any:
    try:
        import odxtools
        from odxtools.exceptions import OdxError
    except ModuleNotFoundError as error:
        raise missing_package(str(error.name), "odx") from error
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if sum(info.file_size for info in archive.infolist()) > MAX_UNPACKED_BYTES:
                    raise FileError(path, f"unpacks to more than {MAX_UNPACKED_BYTES} bytes")
            return odxtools.load_pdx_file(str(path), use_weakrefs=False)
        return odxtools.load_odx_file(str(path), use_weakrefs=False)
    except OSError as error:
        raise FileError(path, error.strerror or str(error), is_missing=True) from error
    except (OdxError, SyntaxError, ValueError, KeyError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise FileError(path, f"no ODX data: {error}") from error  # XML errors are SyntaxErrors


class _Reader:
    def __init__(self, addresses: Mapping[str, tuple[int, int]]) -> None:
        self._addresses = {name.lower(): pair for name, pair in addresses.items()}
        self.services = self.taken = 0
        self.left_out: Counter[str] = Counter()
        self.examples: dict[str, str] = {}

    def ecu(self, layer: Any, number: int) -> Ecu:
        """One diagnostic layer."""
        name = str(layer.short_name)
        dids: dict[int, Did] = {}
        routines: dict[int, Routine] = {}
        for service in layer.services:
            self.services += 1
            try:
                self._service(service, dids, routines)
                self.taken += 1
            except NotUnderstood as reason:
                self._leave_out(str(reason), f"{name}.{service.short_name}")
        return Ecu(
            link=self._link(layer, name, number), title=str(getattr(layer, "long_name", "") or ""), dids=dids,
            routines=routines, dtc_texts=self._texts(layer),
        )  # fmt: skip

    def _leave_out(self, reason: str, example: str) -> None:
        self.left_out[reason] += 1
        self.examples.setdefault(reason, example)

    def _link(self, layer: Any, name: str, number: int) -> EcuConfig:
        request, response = self._addresses.get(name.lower(), (None, None))
        request = request or _asked(layer.get_can_receive_id)
        response = response or _asked(layer.get_can_send_id)
        logical = _asked(layer.get_doip_logical_ecu_address)
        if not request or not response:
            request = response = 0
            if not logical:
                self._leave_out("addresses of an ECU (give --address)", name)
        return EcuConfig(
            name=name, bus="", logical_address=logical or 0x7000 + number, request_id=request, response_id=response,
            extended_id=max(request, response) > 0x7FF, functional_id=_asked(layer.get_can_func_req_id),
        )  # fmt: skip

    def _texts(self, layer: Any) -> dict[int, str]:
        texts: dict[int, str] = {}
        for dop in getattr(layer.diag_data_dictionary_spec, "dtc_dops", ()) or ():
            for dtc in getattr(dop, "dtcs", ()) or ():
                number = int(dtc.trouble_code)
                text = " ".join(str(getattr(dtc.text, "text", dtc.text) or "").split())
                if 0 <= number <= 0xFFFFFF and text:
                    texts[number] = text[:400]
                else:
                    self._leave_out("codes without text or longer than 24 bits", str(dtc.short_name))
        return texts

    def _service(self, service: Any, dids: dict[int, Did], routines: dict[int, Routine]) -> None:
        head, rest = _constants(service.request)
        if not head:
            raise NotUnderstood("services that do not begin with a constant")
        words = str(getattr(service, "long_name", "") or service.short_name).replace("_", " ")
        if head[0] == READ and len(head) == 3 and not rest:
            number = int.from_bytes(head[1:3], "big")
            fields, size = self._answer(service)
            before = dids.get(number)
            dids[number] = Did(
                number=number, name=words, bytes=size, fields=fields, read=Access(),
                write=before.write if before else None,
            )  # fmt: skip
        elif head[0] == WRITE and len(head) == 3:
            number = int.from_bytes(head[1:3], "big")
            fields, size = _fields(rest, 3)
            before = dids.get(number)
            if before is None:
                dids[number] = Did(number=number, name=words, bytes=size, fields=fields, write=Access())
            else:
                dids[number] = msgspec.structs.replace(before, write=Access())
        elif head[0] == ROUTINE and len(head) >= 4:
            number = int.from_bytes(head[2:4], "big")
            before_routine = routines.get(number)
            actions = {head[1] & 0x7F, *(before_routine.actions if before_routine else ())}
            routines[number] = Routine(
                number=number, name=before_routine.name if before_routine else words, actions=tuple(sorted(actions))
            )
        elif head[0] in (READ, WRITE, ROUTINE):
            raise NotUnderstood("services whose identifier is not constant")
        else:
            raise NotUnderstood(f"services 0x{head[0]:02X}, which need no description")

    @staticmethod
    def _answer(service: Any) -> tuple[tuple[Field, ...], int | None]:
        answers = list(service.positive_responses)
        if len(answers) != 1:
            raise NotUnderstood("services with none or several positive answers")
        parameters = list(answers[0].parameters)
        skipped = 0
        while parameters and skipped < 3:
            size = _bits(parameters[0])
            if size is None or size % 8:
                raise NotUnderstood("answers that do not repeat the identifier")
            skipped += size // 8
            parameters = parameters[1:]
        return _fields(parameters, 3)


def _asked(getter: Any) -> int | None:
    """A communication parameter; None where the file has none or an odd one."""
    try:
        found = getter()
    except Exception:  # odxtools raises whatever comes along for parameters that are incomplete
        return None
    return found if isinstance(found, int) else None


def _bits(parameter: Any) -> int | None:
    try:
        size = parameter.get_static_bit_length()
    except Exception:  # see ``_asked``
        return None
    return size if isinstance(size, int) else None


def _constants(request: Any) -> tuple[bytes, list[Any]]:
    """The constant beginning of a request, and the parameters after it."""
    head, parameters = b"", list(request.parameters) if request is not None else []
    while parameters and parameters[0].parameter_type == "CODED-CONST":
        size, value = _bits(parameters[0]), parameters[0].coded_value
        if size is None or size % 8 or not isinstance(value, int) or value < 0:
            break
        head += value.to_bytes(size // 8, "big")
        parameters = parameters[1:]
    return head, parameters


def _fields(parameters: Iterable[Any], start: int) -> tuple[tuple[Field, ...], int | None]:
    """Fields one after the other, and their length together.

    Raises:
        NotUnderstood: something that is no such field.
    """
    fields: list[Field] = []
    at = start
    for parameter in parameters:
        place = getattr(parameter, "byte_position", None)
        if place is not None and place < at:
            raise NotUnderstood("fields that overlap or share bytes")
        if place is not None and place > at:
            fields.append(Field(bytes=place - at, name="reserved", encoding="hex"))
            at = place
        field = _field(parameter)
        fields.append(field)
        at += field.bytes
    return tuple(fields), at - start


def _field(parameter: Any) -> Field:
    size, name = _bits(parameter), str(parameter.short_name)
    if size is None or size <= 0:
        raise NotUnderstood("fields whose length depends on content")
    if size % 8 or getattr(parameter, "bit_position", None):
        raise NotUnderstood("fields of single bits")
    dop = getattr(parameter, "dop", None)
    if parameter.parameter_type == "RESERVED" or (dop is None and parameter.parameter_type == "CODED-CONST"):
        return Field(bytes=size // 8, name=name, encoding="hex")
    coded = getattr(dop, "diag_coded_type", None)
    encoding = _ENCODINGS.get(str(getattr(getattr(coded, "base_data_type", None), "value", "")))
    if dop is None or coded is None or encoding is None:
        raise NotUnderstood("structures, multiplexers and tables")
    if encoding in ("uint", "int") and getattr(coded, "is_highlow_byte_order", True) is False and size > 8:
        raise NotUnderstood("little-endian numbers")
    scale, offset, values = _scaling(dop.compu_method)
    unit = getattr(dop, "unit", None)
    return Field(
        bytes=size // 8, name=name, encoding=encoding, scale=scale, offset=offset, values=values,
        unit=str(getattr(unit, "display_name", "") or ""),
    )  # fmt: skip


def _scaling(method: Any) -> tuple[float, float, dict[str, str]]:
    category = str(method.category.value)
    if category == "IDENTICAL":
        return 1.0, 0.0, {}
    if category == "LINEAR":
        segment = method.segment
        if not segment.factor or not segment.denominator:
            raise NotUnderstood("scalings without slope")
        return segment.factor / segment.denominator, segment.offset / segment.denominator, {}
    if category == "TEXTTABLE":
        values = {}
        for scale in method.compu_internal_to_phys.compu_scales:
            low = getattr(scale.lower_limit, "value", None)
            high = getattr(scale.upper_limit, "value", low)
            text = getattr(scale.compu_const, "value", None)
            if not isinstance(low, int) or low != high or text is None:
                raise NotUnderstood("tables of words for ranges")
            values[str(low)] = str(text)
        return 1.0, 0.0, values
    raise NotUnderstood(f"scalings of kind {category}")

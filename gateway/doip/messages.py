"""The messages of ISO 13400-2 (2012 and 2019): types and bytes. No I/O; ``stream`` finds them in a stream.

Codes stay plain integers in the messages, so that a value we have no name for is kept and told; the enumerations name
those of the standard.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from enum import IntEnum

import msgspec

from gateway.errors import PeerError

HEADER_BYTES = 8
V2012, V2019, V_ANY = 0x02, 0x03, 0xFF  # V_ANY: a tester that does not know yet, identification requests only
VERSIONS = (V2012, V2019)

HEADER = struct.Struct(">BBHI")


class PayloadType(IntEnum):
    """What a message is (ISO 13400-2, overview of payload types)."""

    HEADER_NACK = 0x0000
    IDENTIFICATION_REQUEST = 0x0001
    IDENTIFICATION_REQUEST_EID = 0x0002
    IDENTIFICATION_REQUEST_VIN = 0x0003
    VEHICLE_IDENTITY = 0x0004
    ACTIVATION_REQUEST = 0x0005
    ACTIVATION_RESPONSE = 0x0006
    ALIVE_CHECK_REQUEST = 0x0007
    ALIVE_CHECK_RESPONSE = 0x0008
    ENTITY_STATUS_REQUEST = 0x4001
    ENTITY_STATUS = 0x4002
    POWER_MODE_REQUEST = 0x4003
    POWER_MODE = 0x4004
    DIAGNOSTIC = 0x8001
    DIAGNOSTIC_ACK = 0x8002
    DIAGNOSTIC_NACK = 0x8003


IDENTIFICATION_REQUESTS = frozenset(
    (
        PayloadType.IDENTIFICATION_REQUEST,
        PayloadType.IDENTIFICATION_REQUEST_EID,
        PayloadType.IDENTIFICATION_REQUEST_VIN,
    )
)


class HeaderNackCode(IntEnum):
    """Why a header was refused. After the first and the last of them a stream cannot go on."""

    INCORRECT_PATTERN = 0x00
    UNKNOWN_TYPE = 0x01
    TOO_LARGE = 0x02
    OUT_OF_MEMORY = 0x03
    INVALID_LENGTH = 0x04


FATAL = frozenset((HeaderNackCode.INCORRECT_PATTERN, HeaderNackCode.INVALID_LENGTH))


class ActivationType(IntEnum):
    """Kinds of routing activation that we know."""

    DEFAULT = 0x00
    REGULATION = 0x01
    CENTRAL_SECURITY = 0xE0


class ActivationCode(IntEnum):
    """Answers to a routing activation."""

    UNKNOWN_SOURCE = 0x00
    ALL_SOCKETS_IN_USE = 0x01
    DIFFERENT_SOURCE = 0x02  # this connection is another tester's already
    SOURCE_IN_USE = 0x03  # on another connection, and alive
    MISSING_AUTHENTICATION = 0x04
    REJECTED_CONFIRMATION = 0x05
    UNSUPPORTED_TYPE = 0x06
    TLS_REQUIRED = 0x07
    ACTIVATED = 0x10
    CONFIRMATION_REQUIRED = 0x11


class DiagnosticNackCode(IntEnum):
    """Why a diagnostic message was not routed."""

    INVALID_SOURCE = 0x02
    UNKNOWN_TARGET = 0x03
    TOO_LARGE = 0x04
    OUT_OF_MEMORY = 0x05
    UNREACHABLE = 0x06
    UNKNOWN_NETWORK = 0x07
    TRANSPORT_ERROR = 0x08


class PowerModeCode(IntEnum):
    """Whether the vehicle is ready for diagnostics."""

    NOT_READY = 0x00
    READY = 0x01
    NOT_SUPPORTED = 0x02


class NodeType(IntEnum):
    """What kind of DoIP entity answers."""

    GATEWAY = 0x00
    NODE = 0x01


class MalformedError(PeerError):
    """A payload that cannot be what its type says."""


class HeaderNack(msgspec.Struct, frozen=True):
    """0x0000."""

    code: int


class IdentificationRequest(msgspec.Struct, frozen=True):
    """0x0001, 0x0002 with an EID, 0x0003 with a VIN: who is there?"""

    eid: bytes | None = None
    vin: bytes | None = None


class VehicleIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """0x0004: announcement and answer to an identification request. ``sync_status`` is absent in short ones."""

    vin: bytes
    logical_address: int
    eid: bytes
    gid: bytes
    further_action: int = 0
    sync_status: int | None = 0


class ActivationRequest(msgspec.Struct, frozen=True):
    """0x0005."""

    source: int
    activation_type: int = ActivationType.DEFAULT
    oem: bytes | None = None  # 4 bytes


class ActivationResponse(msgspec.Struct, frozen=True):
    """0x0006."""

    tester: int
    entity: int
    code: int
    oem: bytes | None = None


class AliveCheckRequest(msgspec.Struct, frozen=True):
    """0x0007."""


class AliveCheckResponse(msgspec.Struct, frozen=True):
    """0x0008."""

    source: int


class EntityStatusRequest(msgspec.Struct, frozen=True):
    """0x4001."""


class EntityStatus(msgspec.Struct, frozen=True):
    """0x4002. ``max_data_bytes`` is the longest request the entity takes; absent in short ones."""

    node_type: int
    max_sockets: int
    open_sockets: int
    max_data_bytes: int | None


class PowerModeRequest(msgspec.Struct, frozen=True):
    """0x4003."""


class PowerMode(msgspec.Struct, frozen=True):
    """0x4004."""

    mode: int


class Diagnostic(msgspec.Struct, frozen=True):
    """0x8001: a PDU from ``source`` to ``target``, in either direction."""

    source: int
    target: int
    data: bytes


class DiagnosticAck(msgspec.Struct, frozen=True):
    """0x8002; ``source`` is the target of what is acknowledged."""

    source: int
    target: int
    code: int = 0
    previous: bytes = b""


class DiagnosticNack(msgspec.Struct, frozen=True):
    """0x8003; ``source`` is the target of what is refused."""

    source: int
    target: int
    code: int
    previous: bytes = b""


Message = (
    HeaderNack
    | IdentificationRequest
    | VehicleIdentity
    | ActivationRequest
    | ActivationResponse
    | AliveCheckRequest
    | AliveCheckResponse
    | EntityStatusRequest
    | EntityStatus
    | PowerModeRequest
    | PowerMode
    | Diagnostic
    | DiagnosticAck
    | DiagnosticNack
)

#: Payload lengths by type: the exact ones, or (shortest, None) without an upper limit of its own.
LENGTHS: dict[int, tuple[int, int | None] | frozenset[int]] = {
    PayloadType.HEADER_NACK: frozenset((1,)),
    PayloadType.IDENTIFICATION_REQUEST: frozenset((0,)),
    PayloadType.IDENTIFICATION_REQUEST_EID: frozenset((6,)),
    PayloadType.IDENTIFICATION_REQUEST_VIN: frozenset((17,)),
    PayloadType.VEHICLE_IDENTITY: frozenset((32, 33)),
    PayloadType.ACTIVATION_REQUEST: frozenset((7, 11)),
    PayloadType.ACTIVATION_RESPONSE: frozenset((9, 13)),
    PayloadType.ALIVE_CHECK_REQUEST: frozenset((0,)),
    PayloadType.ALIVE_CHECK_RESPONSE: frozenset((2,)),
    PayloadType.ENTITY_STATUS_REQUEST: frozenset((0,)),
    PayloadType.ENTITY_STATUS: frozenset((3, 7)),
    PayloadType.POWER_MODE_REQUEST: frozenset((0,)),
    PayloadType.POWER_MODE: frozenset((1,)),
    PayloadType.DIAGNOSTIC: (5, None),
    PayloadType.DIAGNOSTIC_ACK: (5, None),
    PayloadType.DIAGNOSTIC_NACK: (5, None),
}
ADDRESSES_BYTES = 4  # source and target in front of a diagnostic PDU


def length_fits(payload_type: int, length: int) -> bool:
    """Whether a message of this known type can have a payload of ``length`` bytes."""
    lengths = LENGTHS[payload_type]
    return length in lengths if isinstance(lengths, frozenset) else length >= lengths[0]


def frame(payload_type: int, payload: bytes, version: int = V2012) -> bytes:
    """A header and what follows it."""
    return HEADER.pack(version, version ^ 0xFF, payload_type, len(payload)) + payload


def _fixed(value: bytes, length: int) -> bytes:
    if len(value) != length:
        raise ValueError(f"{length} bytes expected, not {len(value)}")
    return value


def encode(message: Message, version: int = V2012) -> bytes:
    """The bytes of a message.

    Raises:
        ValueError, struct.error: a field of ours does not fit its place.
    """
    return frame(*_pack(message), version)


def _pack(message: Message) -> tuple[PayloadType, bytes]:
    match message:
        case Diagnostic(source, target, data):
            return PayloadType.DIAGNOSTIC, struct.pack(">HH", source, target) + data
        case DiagnosticAck(source, target, code, previous):
            return PayloadType.DIAGNOSTIC_ACK, struct.pack(">HHB", source, target, code) + previous
        case DiagnosticNack(source, target, code, previous):
            return PayloadType.DIAGNOSTIC_NACK, struct.pack(">HHB", source, target, code) + previous
        case ActivationRequest(source, kind, oem):
            tail = b"" if oem is None else _fixed(oem, 4)
            return PayloadType.ACTIVATION_REQUEST, struct.pack(">HB4x", source, kind) + tail
        case ActivationResponse(tester, entity, code, oem):
            tail = b"" if oem is None else _fixed(oem, 4)
            return PayloadType.ACTIVATION_RESPONSE, struct.pack(">HHB4x", tester, entity, code) + tail
        case AliveCheckResponse(source):
            return PayloadType.ALIVE_CHECK_RESPONSE, struct.pack(">H", source)
        case HeaderNack(code):
            return PayloadType.HEADER_NACK, bytes((code,))
        case PowerMode(mode):
            return PayloadType.POWER_MODE, bytes((mode,))
        case IdentificationRequest() | VehicleIdentity() | EntityStatus():
            return _pack_identity(message)
        case _:
            return _EMPTY[type(message)], b""


_EMPTY: dict[type, PayloadType] = {
    AliveCheckRequest: PayloadType.ALIVE_CHECK_REQUEST,
    EntityStatusRequest: PayloadType.ENTITY_STATUS_REQUEST,
    PowerModeRequest: PayloadType.POWER_MODE_REQUEST,
}


def _pack_identity(message: IdentificationRequest | VehicleIdentity | EntityStatus) -> tuple[PayloadType, bytes]:
    match message:
        case IdentificationRequest(eid, vin):
            if eid is not None:
                return PayloadType.IDENTIFICATION_REQUEST_EID, _fixed(eid, 6)
            if vin is not None:
                return PayloadType.IDENTIFICATION_REQUEST_VIN, _fixed(vin, 17)
            return PayloadType.IDENTIFICATION_REQUEST, b""
        case VehicleIdentity():
            payload = _fixed(message.vin, 17) + struct.pack(">H", message.logical_address)
            payload += _fixed(message.eid, 6) + _fixed(message.gid, 6) + bytes((message.further_action,))
            if message.sync_status is not None:
                payload += bytes((message.sync_status,))
            return PayloadType.VEHICLE_IDENTITY, payload
        case EntityStatus(kind, most, now, data):
            payload = bytes((kind, most, now)) + (b"" if data is None else struct.pack(">I", data))
            return PayloadType.ENTITY_STATUS, payload


def decode(payload_type: int, payload: bytes) -> Message:
    """The message in a payload.

    Raises:
        MalformedError: no such type, or the length is not one it can have.
    """
    if payload_type not in LENGTHS:
        raise MalformedError(f"unknown payload type 0x{payload_type:04X}")
    if not length_fits(payload_type, len(payload)):
        raise MalformedError(f"payload type 0x{payload_type:04X} with {len(payload)} bytes")
    return _DECODERS[payload_type](payload)


def _identity(payload: bytes) -> VehicleIdentity:
    return VehicleIdentity(
        vin=payload[:17],
        logical_address=int.from_bytes(payload[17:19], "big"),
        eid=payload[19:25],
        gid=payload[25:31],
        further_action=payload[31],
        sync_status=payload[32] if len(payload) > 32 else None,
    )


def _status(payload: bytes) -> EntityStatus:
    data_bytes = int.from_bytes(payload[3:7], "big") if len(payload) > 3 else None
    return EntityStatus(payload[0], payload[1], payload[2], data_bytes)


def _u16(payload: bytes, at: int = 0) -> int:
    return payload[at] << 8 | payload[at + 1]


_DECODERS: dict[int, Callable[[bytes], Message]] = {
    PayloadType.HEADER_NACK: lambda p: HeaderNack(p[0]),
    PayloadType.IDENTIFICATION_REQUEST: lambda p: IdentificationRequest(),
    PayloadType.IDENTIFICATION_REQUEST_EID: lambda p: IdentificationRequest(eid=p),
    PayloadType.IDENTIFICATION_REQUEST_VIN: lambda p: IdentificationRequest(vin=p),
    PayloadType.VEHICLE_IDENTITY: _identity,
    PayloadType.ACTIVATION_REQUEST: lambda p: ActivationRequest(_u16(p), p[2], p[7:] or None),
    PayloadType.ACTIVATION_RESPONSE: lambda p: ActivationResponse(_u16(p), _u16(p, 2), p[4], p[9:] or None),
    PayloadType.ALIVE_CHECK_REQUEST: lambda p: AliveCheckRequest(),
    PayloadType.ALIVE_CHECK_RESPONSE: lambda p: AliveCheckResponse(_u16(p)),
    PayloadType.ENTITY_STATUS_REQUEST: lambda p: EntityStatusRequest(),
    PayloadType.ENTITY_STATUS: _status,
    PayloadType.POWER_MODE_REQUEST: lambda p: PowerModeRequest(),
    PayloadType.POWER_MODE: lambda p: PowerMode(p[0]),
    PayloadType.DIAGNOSTIC: lambda p: Diagnostic(_u16(p), _u16(p, 2), p[4:]),
    PayloadType.DIAGNOSTIC_ACK: lambda p: DiagnosticAck(_u16(p), _u16(p, 2), p[4], p[5:]),
    PayloadType.DIAGNOSTIC_NACK: lambda p: DiagnosticNack(_u16(p), _u16(p, 2), p[4], p[5:]),
}

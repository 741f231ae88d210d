"""What a DoIP entity answers to a datagram. No I/O, no state.

Answers and nacks of others are never answered: our own announcements come back to us as broadcasts, and two entities
would otherwise nack each other for ever.
"""

from __future__ import annotations

from gateway.doip.messages import (
    HEADER_BYTES,
    LENGTHS,
    V2012,
    VERSIONS,
    EntityStatusRequest,
    HeaderNack,
    HeaderNackCode,
    IdentificationRequest,
    MalformedError,
    Message,
    PayloadType,
    PowerMode,
    PowerModeRequest,
    decode,
    encode,
    length_fits,
)
from gateway.doip.model import Entity
from gateway.doip.stream import Refused, parse_header

ASKED_BY_UDP = frozenset(
    (
        PayloadType.IDENTIFICATION_REQUEST,
        PayloadType.IDENTIFICATION_REQUEST_EID,
        PayloadType.IDENTIFICATION_REQUEST_VIN,
        PayloadType.ENTITY_STATUS_REQUEST,
        PayloadType.POWER_MODE_REQUEST,
    )
)
ANSWERS = frozenset(
    (PayloadType.HEADER_NACK, PayloadType.VEHICLE_IDENTITY, PayloadType.ENTITY_STATUS, PayloadType.POWER_MODE)
)


def answer_datagram(data: bytes, entity: Entity) -> bytes | None:
    """The answer to one datagram; None where there is none. Any bytes are taken."""
    if len(data) < HEADER_BYTES:
        return None
    header = parse_header(data)
    if header.payload_type in ANSWERS:
        return None
    version = header.version if header.version in VERSIONS else V2012
    if isinstance(header, Refused):
        return encode(HeaderNack(header.code), version)
    if (code := _refusal(header.payload_type, header.length, len(data) - HEADER_BYTES)) is not None:
        return encode(HeaderNack(code), version)
    try:
        message = decode(header.payload_type, data[HEADER_BYTES:])
    except MalformedError:  # judged above; kept so that no datagram can end the node
        return None
    reply = _reply(message, entity)
    return None if reply is None else encode(reply, version)


def _refusal(payload_type: int, length: int, came: int) -> HeaderNackCode | None:
    if payload_type not in LENGTHS or payload_type not in ASKED_BY_UDP:
        return HeaderNackCode.UNKNOWN_TYPE
    if length != came or not length_fits(payload_type, length):
        return HeaderNackCode.INVALID_LENGTH
    return None


def _reply(message: Message, entity: Entity) -> Message | None:
    match message:
        case IdentificationRequest(eid, vin):
            facts = entity.facts
            is_meant = eid in (None, facts.eid) and vin in (None, facts.vin)
            return facts.identity if is_meant else None
        case EntityStatusRequest():
            return entity.status()
        case PowerModeRequest():
            return PowerMode(entity.power_mode())
        case _:
            return None

"""Who the vehicle is on the network, the bounds of the node, and its numbers."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from enum import Enum
from pathlib import Path

import msgspec

from gateway.diag.config import DoipSection
from gateway.doip.messages import ActivationType, EntityStatus, NodeType, PowerModeCode, VehicleIdentity
from gateway.errors import ConfigError

INTERFACES = Path("/sys/class/net")
UNKNOWN_VIN = b"\xff" * 17
SYNC_INCOMPLETE = 0x10


class VehicleFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What identification answers say."""

    vin: bytes  # 17 bytes; UNKNOWN_VIN when there is none
    eid: bytes
    gid: bytes
    logical_address: int

    @property
    def identity(self) -> VehicleIdentity:
        """The announcement."""
        sync = SYNC_INCOMPLETE if self.vin == UNKNOWN_VIN else 0x00
        return VehicleIdentity(
            vin=self.vin, logical_address=self.logical_address, eid=self.eid, gid=self.gid, sync_status=sync
        )


def vehicle_facts(config: DoipSection, vehicle: str, *, interfaces: Path = INTERFACES) -> VehicleFacts:
    """What the configuration says, completed: the vehicle's name as VIN if it can be one, an interface's MAC as EID,
    the EID as GID (the gateway is the group's master).

    Raises:
        ConfigError: a VIN, EID or GID that cannot be one.
    """
    if config.vin and not re.fullmatch(r"[A-HJ-NPR-Z0-9]{17}", config.vin):
        raise ConfigError(f"{config.vin!r} is no VIN: 17 letters and digits without I, O, Q", where=_WHERE + "vin")
    vin = config.vin or (vehicle if re.fullmatch(r"[A-Z0-9]{17}", vehicle) else "")
    eid = _hex6(config.eid, "eid") or _mac(interfaces) or _made_up(vehicle)
    return VehicleFacts(
        vin=vin.encode() or UNKNOWN_VIN,
        eid=eid,
        gid=_hex6(config.gid, "gid") or eid,
        logical_address=config.logical_address,
    )


_WHERE = "$.diagnostics.doip."


def _hex6(text: str, key: str) -> bytes:
    digits = re.sub(r"[:\-]", "", text)
    if digits and not re.fullmatch(r"[0-9A-Fa-f]{12}", digits):
        raise ConfigError(f"{text!r} is not 12 hexadecimal digits", where=_WHERE + key)
    return bytes.fromhex(digits)


def _mac(interfaces: Path) -> bytes:
    for file in sorted(interfaces.glob("*/address")):
        try:
            address = bytes.fromhex(file.read_text().strip().replace(":", ""))
        except (OSError, ValueError):
            continue
        if len(address) == 6 and any(address):
            return address
    return b""


def _made_up(vehicle: str) -> bytes:
    """Stable for a vehicle, marked as locally administered: better than all zeros, which several would share."""
    digest = hashlib.sha256(vehicle.encode()).digest()
    return bytes((digest[0] & 0xFC | 0x02,)) + digest[1:6]


class NodeLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of the node that the standard has no names for."""

    requests_in_flight: int = 16  # of one tester, taken and not yet routed; beyond: nack 0x05
    held_answers: int = 64  # of one ECU, while a request to it is being routed; beyond: the oldest goes, counted
    write_buffer_bytes: int = 256 * 1024  # what a tester has not read; beyond: no more is sent or read
    write_stall_ms: int = 5000  # a tester that reads nothing for so long is disconnected
    receive_bytes: int = 1024 * 1024  # announced payloads of all connections together; beyond: header nack 0x03
    linger_ms: int = 1000  # for a last answer to leave before the connection is cut
    announce_count: int = 3
    announce_interval_ms: int = 500
    announce_wait_ms: int = 500  # the first announcement comes after a random part of this


class Verdict(Enum):
    """What an authoriser says to a routing activation that is sound otherwise."""

    ALLOWED = "allowed"
    AUTHENTICATE = "authenticate"  # code 0x04; the tester may try again on this connection
    CONFIRM = "confirm"  # code 0x11; somebody in the vehicle has to agree (``DoipNode.confirm``)
    REJECTED = "rejected"  # code 0x05
    TLS_REQUIRED = "tls_required"  # code 0x07


class Applicant(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks for routing."""

    source: int
    activation_type: int
    oem: bytes | None
    is_tls: bool
    is_secure: bool  # TLS with a verified client certificate
    name: str  # the certificate's subject
    peer: str


Authorise = Callable[[Applicant], Verdict]


def authorise(applicant: Applicant) -> Verdict:
    """The built-in answer: central security is for testers with a verified certificate."""
    if applicant.activation_type != ActivationType.CENTRAL_SECURITY or applicant.is_secure:
        return Verdict.ALLOWED
    return Verdict.AUTHENTICATE if applicant.is_tls else Verdict.TLS_REQUIRED


class Entity(msgspec.Struct, frozen=True, kw_only=True):
    """What UDP answers are made of."""

    facts: VehicleFacts
    power_mode: Callable[[], PowerModeCode]
    open_sockets: Callable[[], int]
    max_sockets: int
    max_data_bytes: int

    def status(self) -> EntityStatus:
        """The figures at this moment."""
        return EntityStatus(NodeType.GATEWAY, self.max_sockets, min(self.open_sockets(), 255), self.max_data_bytes)


class NodeStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """The node's numbers since its start, and its connections now."""

    open: int
    active: int
    accepted: int
    evicted: int  # not activated, closed to make room
    refused: dict[int, int]  # routing activations by code
    header_nacks: dict[int, int]
    closed: dict[str, int]  # connections by reason
    requests: int
    nacks: dict[int, int]  # diagnostic messages by code
    answers: int
    answers_dropped: int
    datagrams: int
    datagrams_ignored: int

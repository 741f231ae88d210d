"""The configuration of diagnostics (``[diagnostics]`` and below). Values only; unknown keys are refused.

Without an ``[[diagnostics.ecus]]`` nothing of it runs.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

LogicalAddress = Annotated[int, Meta(ge=1, le=0xFFFF)]
Byte = Annotated[int, Meta(ge=0, le=0xFF)]
Identifier = Annotated[int, Meta(ge=0, le=0x1FFFFFFF)]
Milliseconds = Annotated[int, Meta(ge=1, le=3_600_000)]


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Common rules of all sections."""


class EcuConfig(_Section, frozen=True):
    """One ECU on a bus (``[[diagnostics.ecus]]``). ``request_id`` is what we send with, ``response_id`` what it sends.

    ``normal_fixed`` needs ``target_address`` and ``source_address`` instead of identifiers; ``extended`` needs both
    identifiers and both addresses; ``mixed`` needs identifiers (11 bit) and ``address_extension``.
    """

    name: str
    bus: str
    logical_address: LogicalAddress  # DoIP, and the key of firewall rules
    addressing: Literal["normal", "normal_fixed", "extended", "mixed"] = "normal"
    request_id: Identifier = 0
    response_id: Identifier = 0
    extended_id: bool = False
    target_address: Byte = 0
    source_address: Byte = 0xF1
    address_extension: Byte = 0
    functional_id: Identifier | None = None  # 0x7DF, 0x18DB33F1; without one it hears no functional requests
    tx_dl: int = 8  # above 8: CAN FD
    padded: bool = True  # frames are filled up to 8 bytes
    padding: Byte = 0xCC
    block_size: Byte = 16
    st_min: Byte = 0
    p2_ms: Milliseconds = 50  # until the first answer; 150 covers a busy gateway
    p2_star_ms: Milliseconds = 5000
    max_pending: Annotated[int, Meta(ge=1, le=10_000)] = 120  # answers 0x78 in a row before giving up
    poll: bool = True  # read its DTCs on the schedule
    emissions: bool = False  # answers OBD (SAE J1979)


class PollSection(_Section, frozen=True):
    """``[diagnostics.poll]``: reading the ECUs' DTCs."""

    period_s: float = 60.0  # each ECU once in this time; 0: never
    first_s: float = 10.0  # after the start
    status_mask: Byte = 0x0C  # pending and confirmed: fewer changes than 0xFF
    snapshots: bool = True  # read those of DTCs that are new or changed


class DoipSection(_Section, frozen=True):
    """``[diagnostics.doip]``: the edge node of ISO 13400-2."""

    enabled: bool = False
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 13400  # UDP and TCP; 0: any free one (tests)
    tls_port: Annotated[int, Meta(ge=0, le=65535)] | None = None  # 3496 in the standard; None: no TLS
    tls_certificate: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""  # demand a client certificate of this CA; its subject names the tester
    require_tls: bool = False  # plain connections get routing activation code 0x07
    announce: bool = True
    announce_address: str = ""  # where announcements go, e.g. 255.255.255.255; empty: the loopback broadcast
    logical_address: LogicalAddress = 0x1001  # the gateway's own
    functional_address: LogicalAddress = 0xE400
    vin: str = ""  # 17 characters; empty: the vehicle's name, if it has 17
    eid: str = ""  # 12 hexadecimal digits; empty: the MAC address of an interface
    gid: str = ""
    testers: tuple[tuple[int, int], ...] = ((0x0E00, 0x0FFF),)  # ranges of source addresses that may activate
    max_connections: Annotated[int, Meta(ge=1, le=255)] = 8
    max_pending_connections: Annotated[int, Meta(ge=1, le=1024)] = 16  # accepted, not yet activated
    max_request_bytes: Annotated[int, Meta(ge=8, le=1 << 24)] = 4096
    initial_inactivity_ms: Milliseconds = 2000
    general_inactivity_ms: Milliseconds = 300_000
    alive_check_ms: Milliseconds = 500


class ObdPortSection(_Section, frozen=True):
    """``[diagnostics.obd_port]``: the CAN side of the diagnostic connector, a bus that carries nothing else."""

    enabled: bool = False
    interface: str = "socketcan"
    channel: str = ""
    tester_address: LogicalAddress = 0x0EF1  # who testers on this bus are to the firewall


class FirewallSection(_Section, frozen=True):
    """``[diagnostics.firewall]``: the policy in front of all ports."""

    policy: str = ""  # a file; empty: the built-in policy (reading allowed, writing only at standstill after 0x27)
    mode: Literal["enforce", "observe"] = "enforce"
    audit_directory: str = "audit"
    audit_max_bytes: Annotated[int, Meta(ge=4096, le=1 << 30)] = 4 * 1024 * 1024


class VehicleStateSection(_Section, frozen=True):
    """``[diagnostics.vehicle_state]``: the signals that tell whether the car moves. Unknown counts as moving."""

    speed_signal: str = ""
    second_speed_signal: str = ""  # from another ECU, in the same unit: while the first one is programmed or boots
    speed_unit: Literal["km/h", "m/s", "mph"] = "km/h"
    standstill_below: float = 1.0  # in that unit
    max_age_ms: Milliseconds = 2000  # a speed older than this is unknown
    voltage_signal: str = ""
    odometer_signal: str = ""
    ignition_signal: str = ""  # above 0: an operation cycle runs; empty: from the gateway's start to its stop


class MonitorsSection(_Section, frozen=True):
    """``[diagnostics.monitors]``: the gateway's own DTCs."""

    rules: str = ""  # a file of monitor rules; empty: none
    directory: str = "dtc"  # where the DTC memory is kept
    max_entries: Annotated[int, Meta(ge=1, le=10_000)] = 64


class DiagnosticsSection(_Section, frozen=True):
    """``[diagnostics]``."""

    ecus: tuple[EcuConfig, ...] = ()
    poll: PollSection = PollSection()
    doip: DoipSection = DoipSection()
    obd_port: ObdPortSection = ObdPortSection()
    firewall: FirewallSection = FirewallSection()
    vehicle_state: VehicleStateSection = VehicleStateSection()
    monitors: MonitorsSection = MonitorsSection()
    descriptions: str = ""  # a file with the names and layouts of the ECUs' identifiers, for snapshots and results
    kernel_isotp: Literal["auto", "never", "always"] = "auto"
    remote: bool = True  # obey signed orders of the cloud, as far as the policy allows

    @property
    def is_wanted(self) -> bool:
        """Whether anything of it is configured."""
        return bool(self.ecus or self.doip.enabled or self.obd_port.enabled or self.monitors.rules)

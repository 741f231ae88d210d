"""An ECU as text: what it has and answers, as a TOML file (docs/reference/ecu-description.md). No behaviour here."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

FOLDER = Path(__file__).parent.parent / "data" / "ecus"

Byte = Annotated[int, msgspec.Meta(ge=0, le=0xFF)]
Word = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
SessionId = Annotated[int, msgspec.Meta(ge=1, le=0x7E)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=3600)]
Milliseconds = Annotated[int, msgspec.Meta(ge=1, le=655_350)]
Encoding = Literal["uint", "int", "ascii", "hex", "bcd", "float32"]


class DescriptionError(ValueError):
    """A description that cannot be used; the message names the file and the key."""


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class TransportDescription(_Strict, frozen=True, kw_only=True):
    """How the ECU is reached. ``kind`` extended: ``target_address``; normal_fixed: both addresses, 29 bit."""

    bus: str
    kind: Literal["normal", "extended", "normal_fixed"] = "normal"
    request_id: int = 0
    response_id: int = 0
    functional_id: int = 0  # 0: none
    target_address: Byte = 0
    tester_address: Byte = 0xF1
    fd: bool = False
    frame_bytes: Literal[8, 12, 16, 20, 24, 32, 48, 64] = 8
    padding: Byte | None = 0xCC
    separation_ms: Annotated[int, msgspec.Meta(ge=0, le=127)] = 0
    block_size: Byte = 16
    max_length: Annotated[int, msgspec.Meta(ge=7, le=1 << 20)] = 4095
    periodic_id: int = 0  # UUDT frames of 0x2A; 0: periodic data comes on the response identifier


class TimingDescription(_Strict, frozen=True, kw_only=True):
    """P2 as told in the answer to 0x10; ``pending_share`` of P2* after which a 0x78 is repeated."""

    p2_ms: Milliseconds = 50
    p2_star_ms: Milliseconds = 5000
    s3_s: Seconds = 5.0
    boot_s: Seconds = 1.5
    pending_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    pending_limit: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 1000


class AccessDescription(_Strict, frozen=True, kw_only=True):
    """Where something may be used; ``sessions`` empty: in all the ECU has. ``standstill``: 0x22 while it moves."""

    sessions: tuple[SessionId, ...] = ()
    security: Byte = 0
    authenticated: bool = False
    standstill: bool = False


class SessionDescription(_Strict, frozen=True, kw_only=True):
    """A session and from which others it can be entered (empty: from all)."""

    id: SessionId
    name: str
    reached_from: tuple[SessionId, ...] = ()
    standstill: bool = False
    security: Byte = 0


class ServiceDescription(_Strict, frozen=True, kw_only=True):
    """A service the ECU has, where it has it, and (empty: all that are implemented) with which sub-functions."""

    sid: Byte
    access: AccessDescription = AccessDescription()
    subfunctions: tuple[Byte, ...] = ()


class SecurityDescription(_Strict, frozen=True, kw_only=True):
    """A level of 0x27 (odd: its seed sub-function). ``algorithm`` and ``constant``: see ``simulator.ecu.keys``."""

    level: Annotated[int, msgspec.Meta(ge=1, le=0x7D)]
    name: str = ""
    seed_bytes: Annotated[int, msgspec.Meta(ge=2, le=32)] = 4
    algorithm: str = "xor_rotate"
    constant: str = "A55A5AA5"
    attempts: Annotated[int, msgspec.Meta(ge=1, le=255)] = 3
    delay_s: Seconds = 10.0
    boot_delay_s: Seconds = 10.0  # after a reset or loss of power; not when the simulation starts
    sessions: tuple[SessionId, ...] = (2, 3)


class AuthenticationDescription(_Strict, frozen=True, kw_only=True):
    """Service 0x29. ``authority``: whose certificates are believed, see ``simulator.ecu.authority``."""

    authority: str = "outrider-test"
    sessions: tuple[SessionId, ...] = (1, 2, 3)


class FieldDescription(_Strict, frozen=True, kw_only=True):
    """A part of a DID: ``raw = (physical - offset) / scale``, big endian. ``signal``: ``bus.Message.Signal``."""

    name: str = ""
    bytes: Annotated[int, msgspec.Meta(ge=1, le=4095)] = 1
    encoding: Encoding = "uint"
    scale: float = 1.0
    offset: float = 0.0
    unit: str = ""
    signal: str = ""
    value: str | float | int = 0
    minimum: float | None = None
    maximum: float | None = None
    values: dict[str, str] = {}  # raw number (as text) to its meaning


class IoDescription(_Strict, frozen=True, kw_only=True):
    """0x2F: the fields' signals are overridden. ``options``: control parameters; ``mask``: bit 7 is the first field."""

    access: AccessDescription = AccessDescription(sessions=(3,))
    options: tuple[Literal[0, 1, 2, 3], ...] = (0, 1, 2, 3)
    defaults: tuple[float, ...] = ()  # by field, for "reset to default"; 0 where none is told
    mask: bool = False


class DidDescription(_Strict, frozen=True, kw_only=True):
    """A data identifier. ``source`` names what is neither signal nor constant."""

    id: Word
    name: str
    fields: Annotated[tuple[FieldDescription, ...], msgspec.Meta(min_length=1)]
    source: Literal["", "vin", "session"] = ""
    read: AccessDescription | None = AccessDescription()
    write: AccessDescription | None = None
    io: IoDescription | None = None
    in_boot: bool = False
    periodic: bool = False
    write_ms: Annotated[int, msgspec.Meta(ge=0, le=60_000)] = 0
    write_once: bool = False

    @property
    def length(self) -> int:
        """Bytes of its value."""
        return sum(field.bytes for field in self.fields)


class RoutineDescription(_Strict, frozen=True, kw_only=True):
    """A routine of 0x31; ``effect`` is the name of a factory in ``simulator.ecu.services.ROUTINE_EFFECTS``."""

    id: Word
    name: str
    effect: str = "record"
    duration_s: Seconds = 0.0
    option_bytes: Annotated[int, msgspec.Meta(ge=0, le=4000)] = 0
    can_stop: bool = False
    has_results: bool = False
    signal: str = ""  # what the effect reads or overrides
    value: float = 0.0
    result: str = ""  # hex, the constant part of the status record
    access: AccessDescription = AccessDescription(sessions=(3,))
    in_boot: bool = False
    settings: dict[str, Any] = {}


class MemoryRegion(_Strict, frozen=True, kw_only=True):
    """A range of addresses for 0x23 and 0x3D; ``read`` or ``write`` None: refused. The content is non-volatile."""

    name: str
    start: int
    bytes: Annotated[int, msgspec.Meta(ge=1, le=1 << 24)]
    fill: Byte = 0xFF
    read: AccessDescription | None = AccessDescription(sessions=(3,))
    write: AccessDescription | None = None
    volatile: bool = False


class MemoryDescription(_Strict, frozen=True, kw_only=True):
    """The memory map. ``address_bytes``/``size_bytes``: those of addressAndLengthFormatIdentifier that are accepted."""

    address_bytes: tuple[Byte, ...] = (4,)
    size_bytes: tuple[Byte, ...] = (2, 4)
    regions: tuple[MemoryRegion, ...] = ()


class BootDescription(_Strict, frozen=True, kw_only=True):
    """What the boot loader answers: services by identifier. DIDs and routines are marked ``in_boot``."""

    services: tuple[Byte, ...] = (0x10, 0x11, 0x22, 0x27, 0x2E, 0x31, 0x34, 0x35, 0x36, 0x37, 0x3E)


class QuirkDescription(_Strict, frozen=True, kw_only=True):
    """Misbehaviour on purpose; all off. May be switched at run time through the control socket."""

    no_padding: bool = False
    slow_ms: Annotated[int, msgspec.Meta(ge=0, le=60_000)] = 0
    pending_for_ever: tuple[Byte, ...] = ()  # services that answer 0x78 and nothing else
    busy_times: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0  # 0x21 this often before each first answer
    wrong_length: tuple[Byte, ...] = ()  # services whose positive answers lose their last byte
    wrong_sid: bool = False
    mute: tuple[Byte, ...] = ()  # services that are not answered at all
    constant_seed: bool = False


class LinkDescription(_Strict, frozen=True, kw_only=True):
    """0x87: fixed baud rates (identifiers of ISO 14229-1 table B.3) and whether any other is accepted."""

    fixed: tuple[Byte, ...] = (0x11, 0x12, 0x13)


class EcuDescription(_Strict, frozen=True, kw_only=True):
    """One ECU. ``dtcs``, ``obd`` and ``flash`` are read by the modules of those names."""

    name: Annotated[str, msgspec.Meta(pattern="^[a-z][a-z0-9_]{0,31}$")]
    title: str
    node: str  # the sender in the DBC whose messages 0x28 and resets silence
    logical_address: Word
    transport: TransportDescription
    sessions: tuple[SessionDescription, ...]
    services: tuple[ServiceDescription, ...]
    timing: TimingDescription = TimingDescription()
    security: tuple[SecurityDescription, ...] = ()
    authentication: AuthenticationDescription | None = None
    secured_key: str = ""  # of service 0x84, 16 bytes in hex
    dids: tuple[DidDescription, ...] = ()
    routines: tuple[RoutineDescription, ...] = ()
    memory: MemoryDescription = MemoryDescription()
    boot: BootDescription = BootDescription()
    link: LinkDescription = LinkDescription()
    quirks: QuirkDescription = QuirkDescription()
    network_messages: tuple[str, ...] = ()  # of the node's messages, those that count as network management
    unsupported: dict[str, str] = {}  # service (hex) to the declared reason why the ECU lacks it
    dtcs: tuple[dict[str, Any], ...] = ()
    dtc_settings: dict[str, Any] = {}
    obd: dict[str, Any] | None = None
    flash: dict[str, Any] | None = None

    @property
    def session_ids(self) -> frozenset[int]:
        """All sessions the ECU has."""
        return frozenset(session.id for session in self.sessions)

    @property
    def boot_sessions(self) -> frozenset[int]:
        """Sessions in which the boot loader runs instead of the application."""
        return frozenset({2}) if self.flash is not None else frozenset()

    def did(self, number: int) -> DidDescription | None:
        """The DID with this number."""
        return next((did for did in self.dids if did.id == number), None)


def ecu_names() -> list[str]:
    """The ECUs that ship with the simulated vehicle."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_description(name: str) -> EcuDescription:
    """A shipped ECU by name, or one from a file (anything with a ``/`` or ending in ``.toml``).

    Raises:
        DescriptionError: no such ECU, not TOML, or a key that is wrong; the message names both.
    """
    path = Path(name) if name.endswith(".toml") or "/" in name else FOLDER / f"{name}.toml"
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DescriptionError(f"no ECU {name!r}; there are {', '.join(ecu_names())}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DescriptionError(f"{path}: {error}") from error
    return parse_description(text, str(path))


def parse_description(text: str, source: str) -> EcuDescription:
    """From TOML text; ``source`` names it in messages.

    Raises:
        DescriptionError: as ``load_description``.
    """
    try:
        description = msgspec.convert(tomllib.loads(text), EcuDescription)
    except tomllib.TOMLDecodeError as error:
        raise DescriptionError(f"{source}: {error}") from error
    except msgspec.ValidationError as error:
        raise DescriptionError(f"{source}: {error}") from error
    _check(description, source)
    return description


def _check(description: EcuDescription, source: str) -> None:
    for key, numbers in (
        ("sessions", [s.id for s in description.sessions]),
        ("services", [s.sid for s in description.services]),
        ("security", [s.level for s in description.security]),
        ("dids", [d.id for d in description.dids]),
        ("routines", [r.id for r in description.routines]),
    ):
        twice = _repeated(numbers)
        if twice is not None:
            raise DescriptionError(f"{source}: {key}: {twice:#x} is there twice")
    if 1 not in description.session_ids:
        raise DescriptionError(f"{source}: sessions: the default session (1) is missing")
    for level in description.security:
        if level.level % 2 == 0:
            raise DescriptionError(f"{source}: security: level {level.level:#x} is even; seeds have odd sub-functions")


def _repeated(numbers: Sequence[int]) -> int | None:
    seen: set[int] = set()
    for number in numbers:
        if number in seen:
            return number
        seen.add(number)
    return None

"""The shape of a diagnostic service in a simulated ECU: the server does the common checks, handlers the rest.

Order of checks as in ISO 14229-1, 8.7 (figures "general server response behaviour"): service known, session, security,
minimum length, sub-function known, its session, its security, then the handler: exact length, range, conditions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol


class Nrc(IntEnum):
    """Negative response codes, ISO 14229-1 annex A.1."""

    GENERAL_REJECT = 0x10
    SERVICE_NOT_SUPPORTED = 0x11
    SUBFUNCTION_NOT_SUPPORTED = 0x12
    INCORRECT_LENGTH = 0x13
    RESPONSE_TOO_LONG = 0x14
    BUSY_REPEAT_REQUEST = 0x21
    CONDITIONS_NOT_CORRECT = 0x22
    REQUEST_SEQUENCE_ERROR = 0x24
    NO_RESPONSE_FROM_SUBNET = 0x25
    FAILURE_PREVENTS_EXECUTION = 0x26
    REQUEST_OUT_OF_RANGE = 0x31
    SECURITY_ACCESS_DENIED = 0x33
    AUTHENTICATION_REQUIRED = 0x34
    INVALID_KEY = 0x35
    EXCEEDED_ATTEMPTS = 0x36
    DELAY_NOT_EXPIRED = 0x37
    UPLOAD_DOWNLOAD_NOT_ACCEPTED = 0x70
    TRANSFER_DATA_SUSPENDED = 0x71
    PROGRAMMING_FAILURE = 0x72
    WRONG_BLOCK_COUNTER = 0x73
    RESPONSE_PENDING = 0x78
    SUBFUNCTION_NOT_IN_SESSION = 0x7E
    SERVICE_NOT_IN_SESSION = 0x7F
    RPM_TOO_HIGH = 0x81
    VEHICLE_SPEED_TOO_HIGH = 0x88
    VOLTAGE_TOO_HIGH = 0x92
    VOLTAGE_TOO_LOW = 0x93


class Refusal(Exception):
    """A handler's negative answer. ``nrc`` may be any byte (0x50-0x5D of service 0x29 are not in ``Nrc``)."""

    def __init__(self, nrc: int) -> None:
        super().__init__(f"NRC {nrc:#04x}")
        self.nrc = nrc


class NoAnswer(Exception):  # no error: a request that is not answered at all
    """A handler's silence, as OBD services keep it for what they do not support. Never for UDS services."""


class Session(IntEnum):
    """Diagnostic sessions every ECU may have; a description may add more (0x40-0x7E)."""

    DEFAULT = 1
    PROGRAMMING = 2
    EXTENDED = 3
    SAFETY = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Where something may be used. ``security``: the 0x27 level that must be unlocked (0: none).

    ``authenticated``: a tester must have proven itself by 0x29 (0x34 otherwise).
    """

    sessions: frozenset[int] = frozenset({1, 2, 3})
    security: int = 0
    authenticated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SubFunction:
    """A supported sub-function, with the length of the whole request (SID included); None: the handler checks."""

    access: Access = field(default_factory=Access)
    length: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request that passed the common checks. ``data`` is the request without SID (and without sub-function)."""

    sid: int
    sub: int | None  # sub-function without the suppress bit
    data: bytes
    is_functional: bool
    session: int
    unlocked: int  # security level, 0: locked
    now_s: float  # of the vehicle's time; monotonic


@dataclass(frozen=True, slots=True, kw_only=True)
class Later:
    """Work that takes ``duration_s``: the server sends 0x78 by the rules of P2/P2*, then what ``finish`` returns.

    ``finish`` gets the time and may raise ``Refusal``. While it runs other requests get 0x21 (TesterPresent none).
    """

    duration_s: float
    finish: Callable[[float], bytes]


class Service(Protocol):
    """A service of one ECU. A positive answer is given without the response SID (and with the sub-function echo)."""

    @property
    def sid(self) -> int:
        """Service identifier."""

    @property
    def access(self) -> Access:
        """Where the service exists at all (0x7F, 0x33 otherwise)."""

    @property
    def min_length(self) -> int:
        """Of the whole request, SID included."""

    def subfunctions(self) -> Mapping[int, SubFunction] | None:
        """Those supported in any session; None for a service without sub-functions."""

    def handle(self, call: Call) -> bytes | Later:
        """The positive answer after the SID.

        Raises:
            Refusal: the negative answer.
        """

    def session_changed(self, session: int, now_s: float) -> None:
        """Any 0x10 (also to the same session), S3 expiry or reset: forget what ends with a session."""

    def reset(self, now_s: float) -> None:
        """The ECU boots: volatile state is gone."""

    def tick(self, now_s: float) -> Collection[bytes]:
        """Called about every 10 ms; messages to send unasked (0x2A, 0x86), whole PDUs."""

    def describe(self) -> Mapping[str, object]:
        """What it answers, exactly, for ``outrider sim describe``; JSON types only."""

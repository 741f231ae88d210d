"""The messages of the vehicle interface (JSON over HTTPS and one WebSocket) and its paths.

| request | body → answer |
|---|---|
| ``POST /v1/enrol`` (operator port, no certificate) | ``EnrolRequest`` → ``EnrolReply`` |
| ``POST /v1/batches`` | batch bytes → ``BatchAck`` (200), or problem details |
| ``PUT /v1/manifests/{hash hex}`` | manifest file → 204 |
| ``POST /v1/check-in`` | ``CheckIn`` → ``CheckInReply`` |
| ``POST /v1/certificate`` | ``RenewRequest`` → ``RenewReply`` |
| ``POST /v1/diagnostics/results`` | ``DiagnosticResult`` → 204 |
| ``GET /v1/downlink`` (WebSocket) | ``CheckInReply`` pushed whenever something in it changes |

Answers to ``POST /v1/batches``: 200 durable (also a duplicate, or a batch kept as dead letter); 413 larger than
allowed; 429 or 503 with ``Retry-After`` (seconds) try again; 401/403 certificate unknown, revoked or of another
vehicle. Anything but 200 leaves the batch with the vehicle.
"""

from __future__ import annotations

import msgspec

from gateway.wire.ledger import Ledger
from gateway.wire.orders import SignedOrder

BATCHES = "/v1/batches"
MANIFESTS = "/v1/manifests"
CHECK_IN = "/v1/check-in"
CERTIFICATE = "/v1/certificate"
DOWNLINK = "/v1/downlink"
ENROL = "/v1/enrol"

BATCH_MEDIA_TYPE = "application/vnd.outrider.batch"
MANIFEST_MEDIA_TYPE = "application/vnd.outrider.manifest"
MAX_BATCH_BYTES = 1024 * 1024
MAX_BATCH_UNPACKED_BYTES = 64 * 1024 * 1024


class EnrolRequest(msgspec.Struct, frozen=True):
    """A vehicle asks for its first certificate with the operator's one-time token."""

    token: str
    vehicle: str  # the VIN or another id; must be the one the token was made for
    csr_pem: str


class EnrolReply(msgspec.Struct, frozen=True):
    """The certificate chain and where to go with it."""

    certificate_pem: str
    ca_pem: str  # trust anchor for the vehicle port
    vehicle_url: str  # https://host:port of the vehicle port
    order_key: str = ""  # Ed25519 public key (raw, hexadecimal) whose orders the vehicle obeys; empty: none


class RenewRequest(msgspec.Struct, frozen=True):
    """A new CSR, sent under the certificate that is about to expire."""

    csr_pem: str


class RenewReply(msgspec.Struct, frozen=True):
    """The new certificate; the old one stays valid until it expires."""

    certificate_pem: str
    ca_pem: str
    order_key: str = ""


class BatchAck(msgspec.Struct, frozen=True):
    """The batch is durable in the cloud.

    ``contiguous`` is the highest sequence up to which the cloud holds the stream whole (evicted ranges it was told of
    count as held); ``dead_letter`` names why the cloud could not read the batch, which it keeps all the same.
    """

    stream: str
    sequence: int
    contiguous: int
    duplicate: bool = False
    needs_manifest: bool = False
    dead_letter: str = ""


class SequenceRange(msgspec.Struct, frozen=True):
    """Sequences ``first`` to ``last``, both included, of a stream."""

    stream: str
    first: int
    last: int


class SchemeState(msgspec.Struct, frozen=True):
    """A scheme as the vehicle applies it."""

    id: str
    version: int
    state: str  # "active", "expired", "not_started", "rejected"
    detail: str = ""
    selected_items: int = 0
    over_budget_items: int = 0
    triggers: int = 0


class BusState(msgspec.Struct, frozen=True):
    """A bus as the vehicle sees it."""

    name: str
    state: str  # "up", "down", "bus_off", "error_passive", "ended", "stopped"
    frames_per_s: float = 0.0
    last_frame_ns: int = 0
    detail: str = ""


class CheckIn(msgspec.Struct, frozen=True, kw_only=True):
    """Sent at start, every ``check_in_s``, and at a clean stop."""

    software: str
    boot_id: str
    at_ns: int
    started_ns: int
    manifest_hash: str  # hex
    ledger: Ledger
    schemes: tuple[SchemeState, ...] = ()
    buses: tuple[BusState, ...] = ()
    evicted: tuple[SequenceRange, ...] = ()  # all ranges not yet confirmed by a reply
    not_found: tuple[SequenceRange, ...] = ()  # answers to re-requests that cannot be served
    health: dict[str, str] = {}  # component -> "ok", "degraded: …", "failed: …"
    budget_level: int = 0
    stopping: bool = False
    spool_id: str = ""  # with it the ledger's stream names are the full ones: <spool id>/<stream>


class CheckInReply(msgspec.Struct, frozen=True, kw_only=True):
    """What the cloud wants. The same message is pushed over the WebSocket."""

    now_ns: int  # the cloud's clock, for the vehicle to see a wrong one
    requests: tuple[SequenceRange, ...] = ()  # send these again
    evicted_known: tuple[SequenceRange, ...] = ()  # need not be told again
    needs_manifest: bool = False
    check_in_s: float | None = None  # overrides the vehicle's period
    orders: tuple[SignedOrder, ...] = ()  # not yet answered ones; see ``gateway.wire.orders``
    update_mark: str = ""  # changes whenever the Director has new metadata for this vehicle; only a hint to look

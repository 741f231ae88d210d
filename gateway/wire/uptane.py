"""Updates between vehicle and cloud: Uptane 2.1.0 with TUF metadata as python-tuf writes it, and our custom fields.

| request on the vehicle port | body → answer |
|---|---|
| ``GET /v1/uptane/director/{file}`` | this vehicle's: ``N.root.json``, ``timestamp.json``, ``N.snapshot.json`` … |
| ``GET /v1/uptane/image/{file}`` | the Image repository's metadata, delegated roles included; the same for all |
| ``GET /v1/uptane/targets/{path}`` | an image as ``folder/SHA256.name``; ``Range``, ``ETag``, immutable |
| ``POST /v1/uptane/time`` | ``TimeRequest`` → ``Signed`` over ``SignedTime`` |
| ``POST /v1/uptane/inventory`` | ``Inventory`` → 204; 409: not what is registered, an operator must agree |
| ``POST /v1/uptane/manifest`` | ``Signed`` over ``VehicleManifest`` → 204; 422 refused, with the reason |
| ``POST /v1/uptane/report`` | ``UpdateReport`` (progress, for people; unsigned) → 204 |

What is signed by ECUs and by the time key travels as the exact bytes that were signed (``Signed``), never re-encoded.
TUF metadata is signed as TUF does it. "Hashes" are lower-case hexadecimal by algorithm: ``sha256``, ``sha512``.
"""

from __future__ import annotations

import msgspec

DIRECTOR = "/v1/uptane/director"
IMAGE = "/v1/uptane/image"
TARGETS = "/v1/uptane/targets"
TIME = "/v1/uptane/time"
INVENTORY = "/v1/uptane/inventory"
MANIFEST = "/v1/uptane/manifest"
REPORT = "/v1/uptane/report"

#: Put before a payload when signing, so that a signature means nothing elsewhere.
REPORT_DOMAIN = b"outrider ecu report 1\n"
MANIFEST_DOMAIN = b"outrider vehicle manifest 1\n"
TIME_DOMAIN = b"outrider time 1\n"

MAX_MANIFEST_BYTES = 512 * 1024
MAX_REPORT_BYTES = 64 * 1024
MAX_ECUS = 150
#: Sizes of metadata a vehicle takes: X, Y and Z of the standard's procedures.
MAX_ROOT_BYTES, MAX_TIMESTAMP_BYTES, MAX_SNAPSHOT_BYTES = 512_000, 16_384, 2_000_000
MAX_DIRECTOR_TARGETS_BYTES, MAX_IMAGE_TARGETS_BYTES = 1_000_000, 5_000_000

#: ``unrecognized_fields`` keys in TUF metadata that are ours.
ROOT_TIME_FIELD = "x-outrider-time"  # Director root: {"keyids": [...], "threshold": n}, keys among root's keys
TARGETS_FIELD = "x-outrider"  # Director targets: DirectorInstructions
DELEGATION_HARDWARE_FIELD = "x-outrider-hardware-ids"  # delegated role: list of hardware ids it may speak for
MULTI_ROLE_FIELD = "x-outrider-multi-roles"  # delegations: list of {"name", "roles", "threshold", "paths", ...} (TAP-3)

#: What a target is, which decides who installs it.
KINDS = ("rootfs", "firmware", "manifest", "scheme", "model", "config", "delta")

#: The attacks of the standard, as they are named in errors, logs and reports.
ATTACKS = (
    "rollback",
    "freeze",
    "arbitrary software",
    "mix-and-match",
    "endless data",
    "slow retrieval",
    "partial bundle installation",
    "drop request",
    "eavesdrop",
    "denial of service",
)


class MustMatch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Equal in both repositories, or the image is refused (R5, F11).

    ``release_counter`` says which releases are a step back: a vehicle never goes to a lower one. Releases that may
    replace each other in both directions (so that a campaign can be rolled back) share one.
    """

    hardware_ids: tuple[str, ...]
    release_counter: int
    kind: str
    version: str  # for people; compared for equality only


class ImageCustom(msgspec.Struct, frozen=True, kw_only=True):
    """``custom`` of a target in the Image repository. Unknown fields are kept and ignored."""

    must_match: MustMatch
    description: str = ""


class FileFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A file that is also a target of the Image repository, to be fetched as its hashes say."""

    filename: str  # target path in the Image repository
    length: int
    hashes: dict[str, str]


class DeltaOffer(msgspec.Struct, frozen=True, kw_only=True):
    """A delta that makes the image out of another one. Checked whole before it is parsed."""

    base_sha256: str  # of the whole base image
    base_length: int
    delta: FileFacts


class DirectorCustom(msgspec.Struct, frozen=True, kw_only=True):
    """``custom`` of a target in the Director's Targets."""

    must_match: MustMatch
    ecus: tuple[str, ...]  # identifiers of the ECUs that shall install it (R6)
    deltas: tuple[DeltaOffer, ...] = ()
    fallback: dict[str, FileFacts] = {}  # per ECU: the image it runs now, to go back to when its set fails


class InstallSet(msgspec.Struct, frozen=True, kw_only=True):
    """ECUs that change together or not at all, in the order of installation."""

    ecus: tuple[str, ...]


class InstallPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What must hold before installation starts, besides the vehicle's own preconditions."""

    needs_consent: bool = False
    is_critical: bool = False  # may be downloaded over any link
    window_start_min: int | None = None  # minutes after midnight, vehicle-local time; None: any time
    window_end_min: int | None = None  # may be before the start: over midnight
    window_days: tuple[int, ...] = ()  # 0 Monday … 6 Sunday; empty: every day
    not_before_ns: int = 0
    deadline_ns: int = 0  # 0: none; later, it is not begun


class DirectorInstructions(msgspec.Struct, frozen=True, kw_only=True):
    """``TARGETS_FIELD`` of the Director's Targets, always there: it says whose they are (R7)."""

    vehicle: str
    assignment: str = ""  # what reports of it name; "" when there is nothing to do
    campaign: str = ""
    release: str = ""
    sets: tuple[InstallSet, ...] = ()  # one after the other; an ECU in none comes last, by itself
    policy: InstallPolicy = InstallPolicy()


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """One signature (V1). ``value`` is over domain + payload; ``digest`` is of the payload."""

    key_id: str  # TUF key id
    method: str  # TUF scheme: "ed25519", "ecdsa-sha2-nistp256"
    value: bytes
    hash_function: str = "sha256"
    digest: bytes = b""


class Signed(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes and who signed them. In JSON, bytes are base64."""

    payload: bytes
    signatures: tuple[Signature, ...]


class InstalledImage(msgspec.Struct, frozen=True, kw_only=True):
    """What an ECU runs: for the Primary what was booted and read back, not what was written."""

    filename: str
    length: int
    hashes: dict[str, str]
    release_counter: int = 0
    version: str = ""


class EcuReport(msgspec.Struct, frozen=True, kw_only=True):
    """An ECU's version report, signed with its own key."""

    vehicle: str
    ecu: str
    hardware_id: str
    image: InstalledImage
    counter: int  # higher in every report of this ECU (D4)
    time_ns: int  # the latest time it knows
    attack: str = ""  # one of ATTACKS, when one was seen since the last report
    detail: str = ""  # what was seen, or why an installation failed


class VehicleManifest(msgspec.Struct, frozen=True, kw_only=True):
    """The vehicle version manifest, signed by the Primary."""

    vehicle: str
    primary: str
    reports: tuple[Signed, ...]
    payloads: dict[str, InstalledImage] = {}  # manifests, schemes, models, configuration in use, by name


class EcuKey(msgspec.Struct, frozen=True, kw_only=True):
    """An ECU of the vehicle and its public key."""

    ecu: str
    hardware_id: str
    is_primary: bool
    key_id: str
    method: str
    public: bytes  # raw Ed25519, or DER SubjectPublicKeyInfo for the others
    image: InstalledImage | None = None  # from the factory


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """All ECUs of a vehicle, told once after enrolment (D7)."""

    ecus: tuple[EcuKey, ...]


class TimeRequest(msgspec.Struct, frozen=True):
    """A question for the time that cannot be answered with an old answer."""

    nonce: bytes  # 16 or more


class SignedTime(msgspec.Struct, frozen=True):
    """The answer, signed with the Director's time key."""

    vehicle: str
    nonce: bytes
    time_ns: int


#: Where an update of a vehicle is. The last four are ends.
UPDATE_STATES = (
    "waiting",  # preconditions, window or consent are missing; ``detail`` says which
    "downloading",
    "downloaded",
    "installing",
    "rebooting",  # on trial from here
    "verifying",  # health checks
    "succeeded",
    "failed",  # nothing was changed, or all was put back before a reboot
    "rolled_back",  # it booted and was not healthy, or did not boot
    "cancelled",
)


class EcuProgress(msgspec.Struct, frozen=True, kw_only=True):
    """One ECU, or payload, of an update."""

    ecu: str
    state: str  # "pending", "downloading", "installing", "installed", "failed", "restored"
    version: str = ""
    percent: float = 0.0


class UpdateReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a vehicle tells of its update, for people. The proof is the manifest."""

    assignment: str
    state: str
    at_ns: int
    percent: float = 0.0
    bytes_done: int = 0
    bytes_total: int = 0
    bytes_per_s: float = 0.0
    eta_s: float | None = None
    detail: str = ""
    attack: str = ""
    ecus: tuple[EcuProgress, ...] = ()
    can_roll_back: bool = False
    used_delta: bool | None = None  # None: not yet known

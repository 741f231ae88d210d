"""The cloud's configuration: one TOML file decoded into one frozen type; unknown keys are refused.

Paths in the file are relative to the file. Secrets are paths, never values. Defaults suit a bench.
"""

from __future__ import annotations

import math
import tomllib
from pathlib import Path

import msgspec

from cloud.errors import ConfigError
from gateway.wire.api import MAX_BATCH_BYTES, MAX_BATCH_UNPACKED_BYTES
from gateway.wire.orders import MAX_LIFE_S

MAX_DAYS = 100_000


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every section."""


class OperatorPort(Section, frozen=True):
    """Console, REST, enrolment, health and metrics. Plain HTTP unless a certificate is named."""

    host: str = "127.0.0.1"
    port: int = 8080  # 0: any free port
    public_url: str = ""  # as browsers see it, where that differs from host and port
    certificate: str = ""  # PEM chain
    key: str = ""


class VehiclePort(Section, frozen=True):
    """Where vehicles deliver; always TLS with client certificates."""

    host: str = "127.0.0.1"
    port: int = 8443
    public_url: str = ""  # what an enrolled vehicle is told; "" for https://<host>:<port>
    certificate: str = "pki/vehicle-port.pem"
    key: str = "pki/vehicle-port.key"


class Authority(Section, frozen=True):
    """The internal CA that signs vehicle certificates."""

    certificate: str = "pki/ca.pem"
    key: str = "pki/ca.key"
    order_key: str = "pki/order.key"  # signs what vehicles obey; made at the first start
    vehicle_certificate_days: int = 90
    max_certificates_per_vehicle: int = 20  # valid at the same time
    token_ttl_s: int = 24 * 3600
    token_ttl_max_s: int = 30 * 24 * 3600


class Storage(Section, frozen=True):
    """Where data lives."""

    database: str = "state/cloud.db"
    lake: str = "lake"
    busy_timeout_ms: int = 10_000
    min_free_bytes: int = 256 * 1024 * 1024  # below this, batches are answered 503


class Sessions(Section, frozen=True):
    """Operators' logins."""

    secret: str = "pki/session.key"  # signs bearer tokens
    cookie_hours: float = 12.0
    token_minutes: float = 60.0
    login_attempts: int = 10  # per name and per address, within the window
    login_window_s: float = 300.0
    max_sessions_per_user: int = 20
    argon2_time_cost: int = 3
    argon2_memory_kib: int = 65_536


class IngestLimits(Section, frozen=True):
    """What one vehicle may send, and how much is held for it."""

    max_batch_bytes: int = MAX_BATCH_BYTES
    max_unpacked_bytes: int = MAX_BATCH_UNPACKED_BYTES
    max_manifest_bytes: int = 8 * 1024 * 1024
    max_manifests_per_vehicle: int = 200
    max_check_in_bytes: int = 1024 * 1024
    batches_per_s: float = 50.0
    batches_burst: int = 1_000
    bytes_per_s: float = 4.0 * 1024 * 1024
    bytes_burst: int = 64 * 1024 * 1024
    small_requests_per_s: float = 5.0  # check-ins, renewals, manifests
    small_requests_burst: int = 60
    max_ranges_per_stream: int = 10_000  # a stream more torn than this must first fill its gaps
    max_streams_per_vehicle: int = 600
    max_dead_letters_per_vehicle: int = 200
    max_dead_letter_bytes_per_vehicle: int = 32 * 1024 * 1024
    max_waiting_per_vehicle: int = 20_000  # batches whose manifest is unknown
    receipt_days: float = 30.0  # row per compacted batch; older ones become one number per stream; 0 keeps them
    body_timeout_s: float = 60.0
    enrol_attempts: int = 20  # per address and per vehicle, within the window
    enrol_window_s: float = 600.0
    group_commit_max: int = 256
    queue_max: int = 4_096
    listener_queue_max: int = 1_024
    max_requests_per_reply: int = 200  # ranges asked for again in one reply
    downlinks_max: int = 20_000


class Lake(Section, frozen=True):
    """Compaction, roll-ups and retention. A number of days of 0 keeps for ever."""

    compact_interval_s: float = 5.0
    compact_after_s: float = 120.0  # a vehicle's oldest waiting batch is at most this old …
    compact_items: int = 500_000  # … or this many items wait
    compact_batches: int = 500  # batches taken at once
    compact_bytes: int = 64 * 1024 * 1024
    max_file_rows: int = 5_000_000
    merge_min_files: int = 4
    merge_interval_s: float = 300.0
    raw_days: float = 90.0
    black_box_days: float = 30.0
    minute_days: float = 400.0
    hour_days: float = 0.0
    events_days: float = 400.0
    retention_interval_s: float = 3600.0
    compression_level: int = 9


class History(Section, frozen=True):
    """Bounds of a query."""

    max_points: int = 20_000
    default_points: int = 2_000
    max_signals: int = 64
    timeout_s: float = 30.0
    concurrent_queries: int = 2


class Live(Section, frozen=True):
    """Latest values and their streams."""

    client_queue_max: int = 8_192  # signals (or vehicles) with something new that wait for one slow reader
    clients_max: int = 200
    heartbeat_s: float = 15.0
    stale_after_s: float = 120.0


class Fleet(Section, frozen=True):
    """When a vehicle is worth a look."""

    silent_after_s: float = 300.0
    clock_skew_warn_s: float = 5.0
    certificate_warn_days: float = 14.0
    check_in_s: float = 0.0  # 0: the vehicle's own period
    audit_days: float = 730.0


class Diagnostics(Section, frozen=True):
    """Faults, and what operators may ask of vehicles."""

    history_days: float = 400.0  # changes of faults, faults that are gone, jobs; 0 keeps for ever
    max_faults_per_vehicle: int = 2_000
    max_changes_per_vehicle: int = 20_000
    write_role: str = "admin"  # who may clear, run routines and reset: "operator" or "admin"
    order_ttl_s: int = 24 * 3600  # an order nobody gave another life
    order_ttl_max_s: int = 30 * 24 * 3600
    max_vehicles_per_job: int = 100_000
    catch_up_s: float = 2.0  # how often to look for what the lake knows and the fault memory does not


class Updates(Section, frozen=True):
    """Image repository and Director."""

    directory: str = "updates"  # images and uploads on their way
    keys: str = "pki/uptane"  # online keys; made at the first start
    max_image_bytes: int = 8 * 1024**3
    max_chunk_bytes: int = 64 * 1024 * 1024  # in one request of an upload
    max_images: int = 100_000
    requests_per_s: float = 20.0  # metadata, time, manifests and reports of one vehicle
    requests_burst: int = 300
    image_timestamp_s: float = 86_400.0  # lives of what is signed online; made again at half of it
    image_snapshot_s: float = 7 * 86_400.0
    image_deltas_s: float = 30 * 86_400.0
    director_s: float = 7 * 86_400.0
    refresh_s: float = 60.0  # how often to look for what expires
    warn_days: float = 30.0  # offline metadata that expires sooner is warned of
    keep_metadata_days: float = 30.0
    manifest_ahead_s: float = 3_600.0  # a report may be so far ahead of the cloud's clock, or behind the one before
    max_deltas_per_image: int = 8


class Campaigns(Section, frozen=True):
    """Rollouts."""

    tick_s: float = 5.0  # how often all campaigns are looked at
    recount_s: float = 60.0  # how often what changes slowly is counted: silence, time-outs, late joiners
    slice_vehicles: int = 5_000  # assigned in one transaction; ingest waits for it
    slices_per_tick: int = 1  # of one campaign
    needs_approval: bool = True  # by an admin
    four_eyes: bool = False  # who approves must not be who has made it
    price_per_mb: float = 0.0  # of mobile data, for forecasts; in your currency


class CloudConfig(Section, frozen=True):
    """The whole file."""

    operator: OperatorPort = OperatorPort()
    vehicle: VehiclePort = VehiclePort()
    authority: Authority = Authority()
    storage: Storage = Storage()
    sessions: Sessions = Sessions()
    ingest: IngestLimits = IngestLimits()
    lake: Lake = Lake()
    history: History = History()
    live: Live = Live()
    fleet: Fleet = Fleet()
    diagnostics: Diagnostics = Diagnostics()
    campaigns: Campaigns = Campaigns()
    updates: Updates = Updates()
    log_format: str = "text"  # or "json"
    base_dir: str = "."  # set by ``load_config``; not a key of the file

    def path(self, name: str) -> Path:
        """A path of the file, absolute."""
        return (Path(self.base_dir) / name).absolute()


_MAY_BE_ZERO = {
    "check_in_s",
    "min_free_bytes",
    "receipt_days",
    "audit_days",
    "history_days",
    "warn_days",
    "max_deltas_per_image",
    "price_per_mb",
} | {key for key in Lake.__struct_fields__ if key.endswith("_days")}


#: Sections whose values are numbers of at least 0, besides texts.
_NUMERIC_SECTIONS = (
    "authority",
    "storage",
    "sessions",
    "ingest",
    "history",
    "live",
    "fleet",
    "lake",
    "diagnostics",
    "updates",
    "campaigns",
)


def load_config(path: Path) -> CloudConfig:
    """Read and check a configuration file.

    Raises:
        ConfigError: not readable, not TOML, an unknown key, a wrong type or value; names file and key.
    """
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if "base_dir" in raw:
        raise ConfigError(f"{path}: Object contains unknown field `base_dir`")
    try:
        config = msgspec.convert(raw, CloudConfig)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {error}") from error
    _check_values(path, config)
    return msgspec.structs.replace(config, base_dir=str(path.absolute().parent))


def _check_values(path: Path, config: CloudConfig) -> None:
    """Numbers must make sense: ports in range, all others not negative, rates and limits above zero."""
    for port, where in ((config.operator.port, "operator"), (config.vehicle.port, "vehicle")):
        if not 0 <= port <= 65535:
            raise ConfigError(f"{path}: {port} is no port - at $.{where}.port")
    if bool(config.operator.certificate) != bool(config.operator.key):
        raise ConfigError(f"{path}: certificate and key go together - at $.operator")
    if config.log_format not in {"text", "json"}:
        raise ConfigError(f"{path}: {config.log_format!r} is neither 'text' nor 'json' - at $.log_format")
    for section in _NUMERIC_SECTIONS:
        for key, value in msgspec.to_builtins(getattr(config, section)).items():
            if isinstance(value, str | bool):
                continue
            may_be_zero = key in _MAY_BE_ZERO
            if not math.isfinite(value) or (key.endswith("_days") and value > MAX_DAYS):
                raise ConfigError(f"{path}: {value} is too much - at $.{section}.{key}")
            if value < 0 or (value == 0 and not may_be_zero):
                raise ConfigError(f"{path}: must be more than {'-1' if may_be_zero else '0'} - at $.{section}.{key}")
    if config.diagnostics.write_role not in {"operator", "admin"}:
        role = config.diagnostics.write_role
        raise ConfigError(f"{path}: {role!r} is neither 'operator' nor 'admin' - at $.diagnostics.write_role")
    if config.diagnostics.order_ttl_max_s > MAX_LIFE_S:
        raise ConfigError(f"{path}: vehicles obey nothing older than {MAX_LIFE_S} s - at $.diagnostics.order_ttl_max_s")
    if config.campaigns.price_per_mb > 1e6 or max(config.campaigns.tick_s, config.campaigns.recount_s) > 86_400:
        raise ConfigError(f"{path}: a day at most, and a price below a million - at $.campaigns")
    if not 1 <= config.lake.compression_level <= 22:
        raise ConfigError(f"{path}: Zstandard has levels 1 to 22 - at $.lake.compression_level")

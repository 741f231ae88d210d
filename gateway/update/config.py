"""``[update]``: software for the vehicle. Absent: the gateway takes none."""

from __future__ import annotations

import msgspec


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Common rules of all sections."""


class SlotsSection(_Section, frozen=True):
    """``[update.slots]``: the root file systems and the boot loader that chooses; ``outrider boot`` reads the same."""

    backend: str = "file"  # "uboot", "grub", "efi" or "file"
    config: str = ""  # uboot: fw_env.config; grub: the environment block; file: the state file
    current: str = ""  # the running slot; "": from the kernel's command line (rauc.slot= or outrider.slot=)
    tries: int = 3
    devices: dict[str, str] = {}  # slot name -> block device or file


class KeysSection(_Section, frozen=True):
    """``[update.keys]``: private keys of this vehicle's ECUs."""

    backend: str = "file"  # or "pkcs11"
    directory: str = "keys"  # file: one key per ECU, made at the first start
    module: str = ""  # pkcs11: the token's library
    token: str = ""  # its label
    pin_file: str = ""


class UpdateEcu(_Section, frozen=True):
    """``[[update.ecus]]``: an ECU that is updated over UDS. Addresses are those of ``[[diagnostics.ecus]]``.

    Of identifiers, routines and the security level, 0 says that the ECU has none.
    """

    name: str
    hardware_id: str
    hardware_did: int | None = 0xF191  # read and compared before it is flashed; None: it has none
    version_did: int = 0xF189
    security_level: int | None = 0x11  # of 0x27; None: none is needed
    security_key_file: str = ""  # AES-128 key, 32 hexadecimal digits, of the seed-key routine
    load_address: int | None = None  # for plain binaries; others carry their own
    compress: bool = False
    reset_s: float = 30.0  # how long it may take to come back
    serial_did: int | None = 0xF18C  # tells an ECU that was replaced; None: it has none
    digest_did: int | None = None  # SHA-256 of the image it runs, where the ECU tells: the best proof
    version_is_release: bool = True  # what ``version_did`` reads must be the release's version
    preconditions_routine: int | None = 0x0203  # each 0: the ECU has none
    erase_routine: int | None = 0xFF00
    check_routine: int | None = 0x0202  # without one an interrupted download begins again
    dependencies_routine: int | None = 0xFF01
    max_block_bytes: int = 0  # a limit besides the ECU's own; 0: none
    quiet: str = "dtc"  # what other ECUs are asked meanwhile: "none", "dtc" (no new codes), "messages" (nor messages)


class FlashingSection(_Section, frozen=True):
    """``[update.flashing]``: how hard it is tried to flash ECUs, and to put back what they ran."""

    attempts: int = 3  # of one ECU in a row, when it is lost in the middle
    passes: int = 5  # of a whole set, restarts of the gateway included; then all ECUs are put back
    restores: int = 10  # of putting back, restarts included; then the set waits for another update
    restores_in_a_row: int = 2  # before the next start of the gateway
    pause_s: float = 10.0  # between two of these
    save_every_bytes: int = 65_536  # of progress on disk; as much is sent again at most


class PayloadSection(_Section, frozen=True):
    """``[[update.payloads]]``: a manifest, scheme, model or configuration that is replaced by itself."""

    name: str  # its ECU identifier for Uptane: "schemes", "manifest", …
    kind: str  # of ``gateway.wire.uptane.KINDS``
    path: str  # where it is used from; the version before is kept beside it
    hardware_id: str = ""  # "": the gateway's


class Condition(_Section, frozen=True):
    """``[[update.conditions]]``: a signal that must be in a range before installation starts."""

    name: str  # for the person who waits: "parked", "battery"
    signal: str  # ``bus.message.signal`` or as schemes name signals
    at_least: float | None = None
    at_most: float | None = None
    max_age_s: float = 10.0  # older values count as missing, unless the bus sleeps and ``may_be_silent``
    may_be_silent: bool = False


class HealthSection(_Section, frozen=True):
    """``[update.health]``: what a slot on trial must show before it is good."""

    within_s: float = 300.0  # else it is given up
    steady_s: float = 10.0  # all well for so long
    buses: tuple[str, ...] = ()  # frames on each of these; empty: none is asked
    ecus: tuple[str, ...] = ()  # each answers a tester-present
    cloud: bool = True  # the update service answered
    components: bool = True  # no required component of the gateway has failed
    command: tuple[str, ...] = ()  # the integrator's own; exit status 0 is well


class UpdateSection(_Section, frozen=True):
    """``[update]``."""

    primary: str = ""  # the gateway's own ECU identifier; "": no updates at all
    hardware_id: str = ""
    directory: str = "update"  # trusted metadata, floor, progress, fetched files; on the data partition
    director_root: str = "uptane/director.root.json"  # in the read-only image
    image_root: str = "uptane/image.root.json"
    factory: str = ""  # what was installed when the vehicle was made: JSON, ECU -> InstalledImage
    control_socket: str = "update.sock"  # for consent and cancelling by a person in the vehicle; "": none
    offline_directory: str = ""  # where a USB stick appears; "": no offline updates
    poll_s: float = 3600.0  # besides the cloud's hint
    report_s: float = 10.0  # between reports of progress
    time_max_age_s: float = 7 * 86_400.0  # how long an attested time is good enough by the monotonic clock
    min_bytes_per_s: float = 5_000.0  # slower than this for ``slow_s`` is an attack
    slow_s: float = 60.0
    max_image_bytes: int = 8 * 1024**3
    keep_free_bytes: int = 64 * 1024 * 1024
    segment_bytes: int = 1024 * 1024  # of progress while a full image is written
    links: str = "any"  # "any" or "wifi": what big files come over; critical updates take any
    utc_offset_min: int = 0  # vehicle-local time for maintenance windows, where no zone file is given
    timezone: str = ""  # IANA name
    conditions_within_s: float = 7 * 86_400.0  # waited for, then reported as failed
    attempts: int = 3  # of an update that fails here, before it is reported as failed
    reboot_command: tuple[str, ...] = ("systemctl", "reboot")
    restart_command: tuple[str, ...] = ()  # after a new payload; empty: the gateway ends and is started again
    slots: SlotsSection = SlotsSection()
    keys: KeysSection = KeysSection()
    ecus: tuple[UpdateEcu, ...] = ()
    flashing: FlashingSection = FlashingSection()
    payloads: tuple[PayloadSection, ...] = ()
    conditions: tuple[Condition, ...] = ()
    health: HealthSection = HealthSection()

    @property
    def is_wanted(self) -> bool:
        """Whether the gateway takes updates."""
        return bool(self.primary)

"""The configuration file: what is refused, and that the message names the file and the key."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from gateway.config import MAX_SOCKET_PATH_BYTES, Config, load_config, status_socket_path
from gateway.errors import ConfigError
from tests.support import ROOT

SOUND = """
vehicle = "BENCH-1"
[[buses]]
name = "can0"
channel = "can0"
[collect]
manifest = "vehicle.manifest"
schemes = ["everything.toml"]
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "gateway.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_shortest_file_is_sound(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, SOUND))
    assert config.vehicle == "BENCH-1"
    assert config.buses[0].interface == "socketcan"
    assert config.link.identity_directory is None


UPDATE = '[update]\nprimary = "gateway"\nhardware_id = "board"\n'
PAYLOAD = '[[update.payloads]]\nname = "{}"\nkind = "{}"\npath = "s.toml"\n'
CONDITION = '[[update.conditions]]\nname = "parked"\nsignal = "can0.speed.speed"\n'

WRONG = [
    # section or top-level text to add, or (old, new); the key the message names; a part of the message
    (("BENCH-1", "a vehicle"), "$.vehicle", "letters"),
    (('vehicle = "BENCH-1"', "vehicle = 3"), "$.vehicle", "Expected str"),
    (('vehicle = "BENCH-1"', "vehcle = 'x'"), "", "vehcle"),
    (('channel = "can0"', 'chanel = "can0"'), "$.buses[0]", "chanel"),
    (('channel = "can0"', 'interface = "socketcan"'), "$.buses[0]", "channel"),
    (('name = "can0"', 'name = "a.b"'), "$.buses[0]", "name"),
    (('name = "can0"', 'name = "can0"\nreceive_buffer_bytes = 0'), "$.buses[0]", "receive_buffer_bytes"),
    (('name = "can0"', 'name = "can0"\nfilters = "on"'), "$.buses[0].filters", "'on'"),
    (('name = "can0"', 'name = "can0"\nfd = "yes"'), "$.buses[0].fd", "Expected bool"),
    (('["everything.toml"]', '"everything.toml"'), "$.collect.schemes", "Expected array"),
    (('["everything.toml"]', "[]"), "$.collect.schemes", "at least one"),
    (('manifest = "vehicle.manifest"', ""), "$.collect", "manifest"),
    ('[[buses]]\nname = "can0"\nchannel = "can1"', "$.buses[1].name", "twice"),
    ("[telemetry]\ncritical_period_s = nan", "$.telemetry.critical_period_s", "from"),
    ("[telemetry]\nnormal_period_s = inf", "$.telemetry.normal_period_s", "from"),
    ("[telemetry]\nbulk_period_s = 0", "$.telemetry.bulk_period_s", "from"),
    ("[telemetry]\ndrain_s = -1", "$.telemetry.drain_s", "from"),
    ("[telemetry]\nmax_batch_bytes = 1000000000", "$.telemetry.max_batch_bytes", "from"),
    ("[telemetry]\nchannel_depth = 0", "$.telemetry.channel_depth", "from"),
    ("[telemetry]\nchannel_depth = 1.5", "$.telemetry.channel_depth", "Expected int"),
    ("[spool]\nmax_bytes = -5", "$.spool.max_bytes", "from"),
    ("[spool]\nmax_bytes = 999999999999999999999999", "$.spool.max_bytes", ""),
    ("[spool]\nmax_bytes = 1000", "$.spool.max_bytes", "four segments"),
    ("[link]\nwindow = 0", "$.link.window", "from"),
    ("[link]\nbackoff_first_s = 10\nbackoff_max_s = 5", "$.link.backoff_max_s", "backoff_first_s"),
    ('[link]\nurl = "http://cloud"', "$.link.url", "https://"),
    ('[link]\nurl = "https://"', "$.link.url", "https://"),
    ("[read]\ntick_ms = -1", "$.read", "tick_ms"),
    ("[replay]\nspeed = nan", "$.replay", "speed"),
    ("[budget]\nbytes_per_day = -1", "$.budget.bytes_per_day", ">= 0"),
    ("[budget]\npacing = 2.0", "$.budget.pacing", "<= 1"),
    ("[limits]\nmax_held_frames = 0", "$.limits.max_held_frames", "1"),
    ("[limits]\nmax_scheme = 5", "$.limits", "max_scheme"),
    ("[runtime]\nexit_when_replayed = 1", "$.runtime.exit_when_replayed", "Expected bool"),
    ("[nonsense]\na = 1", "", "nonsense"),
    ('[update]\nhardware_id = "board"', "$.update.primary", "missing"),
    ('[update]\nprimary = "gateway"', "$.update.hardware_id", "missing"),
    ('[update]\nprimary = "the gateway"\nhardware_id = "board"', "$.update.primary", "letters"),
    (UPDATE + "segment_bytes = 100", "$.update.segment_bytes", "from"),
    (UPDATE + 'links = "lte"', "$.update.links", "any or wifi"),
    (UPDATE + 'timezone = "Europe/Atlantis"', "$.update.timezone", "time zone"),
    (UPDATE + "reboot_command = []", "$.update.reboot_command", "missing"),
    (UPDATE + 'directory = ""', "$.update.directory", "missing"),
    (UPDATE + '[update.slots]\nbackend = "lilo"', "$.update.slots.backend", "uboot"),
    (UPDATE + '[update.slots.devices]\nA = "/dev/a"', "$.update.slots.devices", "two slots"),
    (UPDATE + '[update.slots.devices]\nA = "/dev/a"\nB = "/dev/a"', "$.update.slots.devices", "of its own"),
    (UPDATE + '[update.slots]\ncurrent = "C"\ndevices = { A = "a", B = "b" }', "$.update.slots.current", "'C'"),
    (UPDATE + '[update.keys]\nbackend = "pkcs11"', "$.update.keys.module", "missing"),
    (UPDATE + '[[update.ecus]]\nname = "brake"\nhardware_id = "b1"', "$.update.ecus[0].name", "diagnostics.ecus"),
    (UPDATE + PAYLOAD.format("gateway", "scheme"), "$.update.payloads[0].name", "already"),
    (UPDATE + PAYLOAD.format("s", "scheme") * 2, "$.update.payloads[1].name", "already"),
    (UPDATE + PAYLOAD.format("s", "rootfs"), "$.update.payloads[0].kind", "manifest, scheme"),
    (UPDATE + CONDITION + "at_least = 2.0\nat_most = 1.0", "$.update.conditions[0].at_most", "at least"),
    (UPDATE + CONDITION, "$.update.conditions[0]", "at_least or at_most"),
    (UPDATE + '[update.health]\nbuses = ["can9"]', "$.update.health.buses[0]", "can0"),
    (UPDATE + '[update.health]\necus = ["brake"]', "$.update.health.ecus[0]", "brake"),
    (UPDATE + "[update.health]\nwithin_s = 5.0", "$.update.health.within_s", "steady_s"),
]


@pytest.mark.parametrize(("change", "key", "part"), WRONG, ids=lambda value: None)
def test_wrong_value_names_file_and_key(tmp_path: Path, change: str | tuple[str, str], key: str, part: str) -> None:
    text = SOUND + change if isinstance(change, str) else SOUND.replace(*change)
    assert text != SOUND
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert key in message
    assert part in message


def test_file_that_is_no_toml_names_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gateway\.toml: .*line 2"):
        load_config(write(tmp_path, "\nvehicle = \n"))


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"", b"\x00" * 100])
def test_junk_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "gateway.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(str(path))):
        load_config(path)


def test_missing_file_and_folder_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "nothing.toml")
    with pytest.raises(ConfigError, match="Is a directory"):
        load_config(tmp_path)


def test_too_many_buses_are_refused(tmp_path: Path) -> None:
    more = "".join(f'[[buses]]\nname = "b{i}"\nchannel = "can0"\n' for i in range(32))
    with pytest.raises(ConfigError, match="at most 32"):
        load_config(write(tmp_path, SOUND + more))


def test_socket_path_has_the_kernels_limit(tmp_path: Path) -> None:
    fitting = "a" * (MAX_SOCKET_PATH_BYTES - len(str(tmp_path)) - 1)
    sound = load_config(write(tmp_path, SOUND + f'[runtime]\nstatus_socket = "{fitting}"'))
    assert status_socket_path(sound, tmp_path) == tmp_path / fitting
    long = load_config(write(tmp_path, SOUND + f'[runtime]\nstatus_socket = "{fitting}a"'))
    with pytest.raises(ConfigError, match="status_socket"):
        status_socket_path(long, tmp_path)
    none = load_config(write(tmp_path, SOUND + '[runtime]\nstatus_socket = ""'))
    assert status_socket_path(none, tmp_path) is None


# The manual

MANUAL = (ROOT / "docs" / "reference" / "gateway-config.md").read_text(encoding="utf-8")
UNITS = {"": 1, "MiB": 1024**2}


def documented() -> dict[str, str]:
    """Key to default, as the manual's tables have them."""
    found: dict[str, str] = {}
    section = ""
    for line in MANUAL.splitlines():
        if header := re.match(r"`\[+([\w.]+)\]+`", line):
            section = header[1] + "."
        if row := re.match(r"\| `(\w+)` \| ([^|]*)\|", line):
            found[section + row[1]] = row[2].strip().strip("`")
    return found


def actual() -> dict[str, object]:
    """Key to default, as the types have them; ``...`` where it is required."""
    found: dict[str, object] = {}
    _collect(Config, "", found)
    return found


def _collect(section: type[msgspec.Struct], prefix: str, found: dict[str, object]) -> None:
    for key in msgspec.structs.fields(section):
        inner = key.type
        if prefix + key.name in ("buses", "diagnostics.ecus", "update.ecus", "update.payloads", "update.conditions"):
            inner = inner.__args__[0]
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            _collect(inner, f"{prefix}{key.name}.", found)
        else:
            factory = key.default_factory
            empty = factory() if factory is not msgspec.NODEFAULT else ...
            found[prefix + key.name] = empty if key.default is msgspec.NODEFAULT else key.default


def test_manual_has_every_key_and_no_other() -> None:
    assert sorted(documented()) == sorted(actual())


def test_manual_tells_the_defaults() -> None:
    manual = documented()
    wrong = {}
    for key, default in actual().items():
        text = manual.get(key, "")
        if default is ...:
            same = text == "required"
        elif default is None or default in ("", {}, ()):
            same = text in ("", "none", "from enrolment")
        elif isinstance(default, bool):
            same = text == str(default).lower()
        elif isinstance(default, (int, float)):
            number, _, unit = text.partition(" ")
            value = int(number, 16) if number.startswith("0x") else float(number or "nan")
            same = value * UNITS[unit] == default
        elif isinstance(default, tuple) and all(isinstance(part, str) for part in default):
            same = text == ", ".join(default)
        elif isinstance(default, tuple):
            same = text == ", ".join(f"{first:#06X}-{last:#06X}".replace("X", "x") for first, last in default)
        else:
            same = text == default
        if not same:
            wrong[key] = (text, default)
    assert not wrong

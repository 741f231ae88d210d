"""Keys of ECUs in files: made once, kept, never silently another one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from securesystemslib.signer._key import SSlibKey

from bootctl.files import Files, RealFiles
from gateway.errors import ConfigError, GatewayError, TransportError
from gateway.update.config import KeysSection
from gateway.uptane.keys import KEY_SUFFIX, REGISTER_FILE, open_signers
from gateway.wire.signing import SignatureError, verify_signed
from gateway.wire.uptane import REPORT_DOMAIN, Signed
from tests.crash.disk import CrashFiles, crash_states

ECUS = ("gateway", "brakes", "motor")
SECTION = KeysSection()
BASE = Path("/data")


def ids(base: Path = BASE, files: Files | None = None, ecus: tuple[str, ...] = ECUS) -> dict[str, str]:
    return {ecu: signer.key_id for ecu, signer in open_signers(SECTION, ecus, base, files).items()}


def test_p2_every_ecu_has_a_key_of_its_own_and_keeps_it(tmp_path: Path) -> None:
    first = ids(tmp_path)
    assert len(set(first.values())) == len(ECUS)
    assert ids(tmp_path) == first
    assert ids(tmp_path, ecus=(*ECUS, "door")).items() >= first.items()


def test_p2_private_keys_are_readable_by_the_owner_only(tmp_path: Path) -> None:
    ids(tmp_path)
    names = sorted(os.listdir(tmp_path / "keys"))
    assert names == ["brakes" + KEY_SUFFIX, "gateway" + KEY_SUFFIX, "motor" + KEY_SUFFIX, REGISTER_FILE]
    for path in (tmp_path / "keys").iterdir():
        assert path.stat().st_mode & 0o077 == 0
    assert (tmp_path / "keys").stat().st_mode & 0o077 == 0


def test_p2_signatures_verify_under_the_ids_of_tuf(tmp_path: Path) -> None:
    signers = open_signers(SECTION, ECUS, tmp_path)
    signed = Signed(payload=b"p", signatures=(signers["brakes"].sign(REPORT_DOMAIN, b"p"),))
    assert verify_signed(signed, REPORT_DOMAIN, signers["brakes"]) == b"p"
    with pytest.raises(SignatureError):
        verify_signed(signed, REPORT_DOMAIN, signers["motor"])
    one = signers["motor"]
    key = SSlibKey.from_dict(
        one.key_id, {"keytype": "ed25519", "scheme": one.method, "keyval": {"public": one.public.hex()}}
    )
    assert key.keyid == SSlibKey.from_crypto(key._crypto_key()).keyid


@pytest.mark.parametrize("damage", [b"", b"garbage", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_p2_a_damaged_key_is_an_error_and_stays_as_it_is(damage: bytes, tmp_path: Path) -> None:
    ids(tmp_path)
    path = tmp_path / "keys" / ("motor" + KEY_SUFFIX)
    path.write_bytes(damage)
    with pytest.raises(ConfigError, match="damaged"):
        ids(tmp_path)
    assert path.read_bytes() == damage


def test_p2_a_key_that_is_gone_or_another_is_an_error_once_registered(tmp_path: Path) -> None:
    ids(tmp_path)
    path = tmp_path / "keys" / ("motor" + KEY_SUFFIX)
    motor = path.read_bytes()
    path.unlink()
    with pytest.raises(ConfigError, match="gone"):
        ids(tmp_path)
    assert not path.exists()
    path.write_bytes((tmp_path / "keys" / ("brakes" + KEY_SUFFIX)).read_bytes())
    with pytest.raises(ConfigError, match="is registered with key"):
        ids(tmp_path)
    path.write_bytes(motor)
    assert len(ids(tmp_path)) == len(ECUS)


@pytest.mark.parametrize(
    "damage", [b"", b"{}x", b'{"keys":{"motor":{"key_id":"1","method":"ed25519","public":"AAAA"}}}']
)
def test_p2_a_damaged_register_is_an_error(damage: bytes, tmp_path: Path) -> None:
    ids(tmp_path)
    (tmp_path / "keys" / REGISTER_FILE).write_bytes(damage)
    with pytest.raises(ConfigError, match="register"):
        ids(tmp_path)


def test_p2_names_that_are_no_files_are_refused(tmp_path: Path) -> None:
    for name in ("../x", "", "a/b", ".hidden", "x" * 65, "ü"):
        with pytest.raises(ConfigError, match="identifier"):
            ids(tmp_path, ecus=("gateway", name))


def test_p2_settings_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no key store"):
        open_signers(KeysSection(backend="vault"), ECUS, tmp_path)
    with pytest.raises(ConfigError, match="a token needs"):
        open_signers(KeysSection(backend="pkcs11", module="x.so", token="car"), ECUS, tmp_path)


def test_p2_a_full_disk_makes_no_half_key() -> None:
    for room in range(0, 701, 50):
        disk = CrashFiles(capacity_bytes=room)
        with pytest.raises(TransportError):
            ids(files=disk)
        disk.capacity_bytes = 1 << 20
        assert len(ids(files=disk)) == len(ECUS)


def test_p2_a_disk_that_does_not_answer_makes_no_new_key() -> None:
    disk = CrashFiles()
    first = ids(files=disk)
    path = BASE / "keys" / ("motor" + KEY_SUFFIX)
    disk.broken[path] = 5
    with pytest.raises(TransportError):
        ids(files=disk)
    disk.broken.clear()
    assert ids(files=disk) == first


def test_p2_a_power_cut_while_keys_are_made_neither_bricks_nor_replaces_a_registered_key() -> None:
    disk = CrashFiles()
    start = disk.snapshot()
    made = ids(files=disk)
    cuts = 0
    for state in crash_states(start, disk.log):
        cuts += 1
        is_registered = state.files.exists(BASE / "keys" / REGISTER_FILE)
        after = ids(files=state.files)
        assert set(after) == set(ECUS)
        assert not is_registered or after == made
        assert ids(files=state.files) == after
    assert cuts > 15


def test_p2_errors_are_those_of_the_gateway(tmp_path: Path) -> None:
    (tmp_path / "keys").write_bytes(b"a file where the folder should be")
    with pytest.raises(GatewayError):
        open_signers(SECTION, ECUS, tmp_path, RealFiles())

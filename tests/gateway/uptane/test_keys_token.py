"""Keys of ECUs in a token: SoftHSM with a store of its own."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import ConfigError, TransportError
from gateway.update.config import KeysSection
from gateway.update.ports import EcuSigner
from gateway.uptane.keys import REGISTER_FILE, open_signers
from gateway.wire.signing import ECDSA_P256, check_key, verify_signed
from gateway.wire.uptane import REPORT_DOMAIN, Signed

keys_pkcs11 = pytest.importorskip("gateway.uptane.keys_pkcs11")

MODULES = [Path("/usr/lib/softhsm/libsofthsm2.so"), Path("/usr/lib64/pkcs11/libsofthsm2.so")]
MODULE = next((path for path in MODULES if path.exists()), None)
pytestmark = pytest.mark.skipif(MODULE is None, reason="needs SoftHSM")
PIN, WRONG_PIN = "5678", "9999"
LABEL = "car"


class Softhsm:
    """A token in a folder. The library keeps its settings for as long as the process lives, so all tests share one."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.tokens = directory, directory / "tokens"
        self.tokens.mkdir()
        settings = directory / "softhsm2.conf"
        settings.write_text(f"directories.tokendir = {self.tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
        os.environ["SOFTHSM2_CONF"] = str(settings)
        self.pin_file = directory / "pin"
        self.give_pin(PIN)

    def make(self, label: str) -> None:
        """Another token."""
        command = ["softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", "1234", "--pin", PIN]
        subprocess.run(command, check=True, capture_output=True)

    def give_pin(self, pin: str) -> None:
        """What the gateway will find."""
        self.pin_file.write_text(pin + "\n")

    def take_away(self) -> None:
        """Pull it out."""
        self.tokens.rename(self.directory / "away")
        self.tokens.mkdir()

    def put_back(self) -> None:
        """And in again."""
        self.tokens.rmdir()
        (self.directory / "away").rename(self.tokens)

    def section(self, label: str) -> KeysSection:
        """Its settings."""
        return KeysSection(backend="pkcs11", module=str(MODULE), token=label, pin_file=str(self.pin_file))


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Softhsm:
    made = Softhsm(tmp_path_factory.mktemp("softhsm"))
    made.make(LABEL)
    return made


def signers(token: Softhsm, base: Path, *ecus: str) -> dict[str, EcuSigner]:
    made = open_signers(token.section(LABEL), ecus, base)
    OPENED.extend(made.values())
    return made


OPENED: list[Any] = []


@pytest.fixture(autouse=True)
def logged_out() -> Iterator[None]:
    """Logins are the process's: none may stay for the next test."""
    yield
    for signer in OPENED:
        signer.close()
    OPENED.clear()


def assert_signs(signer: EcuSigner) -> None:
    signed = Signed(payload=b"p", signatures=(signer.sign(REPORT_DOMAIN, b"p"),))
    assert verify_signed(signed, REPORT_DOMAIN, signer) == b"p"


def test_p2_keys_are_made_in_the_token_once_and_found_again(token: Softhsm, tmp_path: Path) -> None:
    first = signers(token, tmp_path, "once-a", "once-b")
    for signer in first.values():
        assert signer.method == ECDSA_P256
        check_key(signer)
        assert_signs(signer)
    assert first["once-a"].key_id != first["once-b"].key_id
    again = signers(token, tmp_path, "once-a", "once-b")
    assert {ecu: signer.key_id for ecu, signer in again.items()} == {ecu: s.key_id for ecu, s in first.items()}
    assert [path.name for path in (tmp_path / "keys").iterdir()] == [REGISTER_FILE]  # nothing private outside


def test_p2_a_key_that_a_cut_kept_out_of_the_register_is_taken_up(token: Softhsm, tmp_path: Path) -> None:
    first = signers(token, tmp_path, "cut")["cut"]
    (tmp_path / "keys" / REGISTER_FILE).unlink()
    assert signers(token, tmp_path, "cut")["cut"].key_id == first.key_id


def test_p2_a_token_that_is_away_fails_signing_and_works_when_it_is_back(token: Softhsm, tmp_path: Path) -> None:
    signer = signers(token, tmp_path, "away")["away"]
    assert_signs(signer)
    token.take_away()
    try:
        for _ in range(2):
            with pytest.raises(TransportError, match="token 'car'"):
                signer.sign(REPORT_DOMAIN, b"p")
        restarted = signers(token, tmp_path, "away")["away"]  # a vehicle starts without it
        assert restarted.key_id == signer.key_id
        with pytest.raises(TransportError):
            signers(token, tmp_path, "away", "new-one")  # but makes no key without it
    finally:
        token.put_back()
    assert_signs(signer)
    assert_signs(restarted)


def test_p2_a_wrong_pin_is_tried_once_and_not_until_the_token_locks_itself(token: Softhsm, tmp_path: Path) -> None:
    fresh = signers(token, tmp_path, "pin")["pin"]
    assert_signs(fresh)
    token.give_pin(WRONG_PIN)
    try:
        assert_signs(fresh)  # a session that is open stays so
        assert isinstance(fresh, keys_pkcs11.TokenSigner)
        fresh.close()
        for attempt in range(30):
            with pytest.raises(TransportError, match="has not changed" if attempt else "Pin"):
                fresh.sign(REPORT_DOMAIN, b"p")
        token.pin_file.unlink()
        with pytest.raises(TransportError, match="cannot be read"):
            fresh.sign(REPORT_DOMAIN, b"p")
    finally:
        token.give_pin(PIN)
    assert_signs(fresh)


# A search that fails complains once more when the library forgets it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_p2_a_lost_session_is_opened_anew(token: Softhsm, tmp_path: Path) -> None:
    signer = signers(token, tmp_path, "session")["session"]
    assert_signs(signer)
    signer._token._session.close()  # type: ignore[attr-defined]  # as a token does that was reset
    assert_signs(signer)


def test_p2_another_token_under_the_same_name_does_not_sign_for_the_ecu(token: Softhsm, tmp_path: Path) -> None:
    signer = signers(token, tmp_path, "other")["other"]
    token.take_away()
    try:
        token.make(LABEL)
        with pytest.raises(TransportError, match="no key"):
            signer.sign(REPORT_DOMAIN, b"p")
    finally:
        for path in sorted(token.tokens.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        token.put_back()
    assert_signs(signer)


def test_p2_two_keys_for_one_ecu_and_none_registered_is_for_a_person_to_decide(token: Softhsm, tmp_path: Path) -> None:
    store = keys_pkcs11.Token(str(MODULE), LABEL, token.pin_file)
    for _ in range(2):
        store.use(lambda session: keys_pkcs11._make(session, "double"))  # as two machines that share a token would
    with pytest.raises(ConfigError, match="2 keys"):
        signers(token, tmp_path, "double")
    store.close()


def test_p2_a_library_that_is_none_is_told(token: Softhsm, tmp_path: Path) -> None:
    section = KeysSection(backend="pkcs11", module="/nowhere.so", token=LABEL, pin_file=str(token.pin_file))
    with pytest.raises(TransportError, match="nowhere"):
        open_signers(section, ["library"], tmp_path)


def test_p2_threads_sign_at_once(token: Softhsm, tmp_path: Path) -> None:
    made = list(signers(token, tmp_path, "thread-a", "thread-b").values())
    failures: list[BaseException] = []

    def work(signer: EcuSigner) -> None:
        try:
            for _ in range(10):
                assert_signs(signer)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(made[i % 2],)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures

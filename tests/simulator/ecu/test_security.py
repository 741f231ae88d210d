"""Seed and key: attempts, delays, and that none of it is forgotten."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.ecu.keys import ALGORITHMS, SeedSource, aes_cmac, xor_rotate
from simulator.ecu.service import Nrc
from tests.simulator.ecu.support import Bench, unlock


@pytest.fixture
def bench() -> Bench:
    """A motor control unit in the extended session."""
    bench = Bench("motor")
    bench.one("10 03")
    return bench


def test_levels_exist_in_their_sessions_only() -> None:
    bench = Bench("motor")
    assert bench.one("27 01") == "7F 27 7E"
    bench.one("10 03")
    assert bench.one("27 11") == "7F 27 7E"
    assert bench.one("27 05") == "7F 27 12"


def test_key_without_seed(bench: Bench) -> None:
    assert bench.one("27 02 00 00 00 00") == "7F 27 24"


def test_key_of_another_level(bench: Bench) -> None:
    bench.one("27 01")
    assert bench.one("27 04" + "00" * 16) == "7F 27 24"


def test_right_key_unlocks_and_gives_a_zero_seed(bench: Bench) -> None:
    unlock(bench, 1)
    assert bench.one("27 01") == "67 01 00 00 00 00"
    assert bench.context.unlocked == 1


def test_lengths(bench: Bench) -> None:
    assert bench.one("27 01 00") == "7F 27 13"
    bench.one("27 01")
    assert bench.one("27 02 00") == "7F 27 13"


def test_a_seed_is_good_for_one_key(bench: Bench) -> None:
    bench.one("27 01")
    assert bench.one("27 02 00 00 00 00") == "7F 27 35"
    assert bench.one("27 02 00 00 00 00") == "7F 27 24"


def test_a_new_seed_replaces_the_old(bench: Bench) -> None:
    old = bytes.fromhex(bench.one("27 01"))[2:]
    bench.one("27 01")
    key = xor_rotate(old, bytes.fromhex("4D4F5431"))
    assert bench.one(b"\x27\x02" + key) == "7F 27 35"


def fail(bench: Bench, times: int) -> str:
    """Wrong keys; the last answer."""
    answer = ""
    for _ in range(times):
        bench.one("27 01")
        answer = bench.one("27 02 FF FF FF FF")
    return answer


def test_lockout_after_the_last_attempt(bench: Bench) -> None:
    assert fail(bench, 2) == "7F 27 35"
    assert fail(bench, 1) == "7F 27 36"
    assert bench.one("27 01") == "7F 27 37"
    bench.one("10 03")
    assert bench.one("27 01") == "7F 27 37"


def test_one_more_attempt_after_the_delay(bench: Bench) -> None:
    fail(bench, 3)
    for _ in range(11):
        bench.advance(1.0)
        bench.one("3E 80")
    assert fail(bench, 1) == "7F 27 36"
    assert bench.one("27 01") == "7F 27 37"


def test_a_right_key_forgives(bench: Bench) -> None:
    fail(bench, 2)
    unlock(bench, 1)
    bench.one("10 03")
    assert fail(bench, 2) == "7F 27 35"


@pytest.mark.parametrize("how", ["reset", "power", "restart"])
def test_lockout_survives(bench: Bench, how: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("nv")
    bench = Bench("motor", folder=folder)
    bench.one("10 03")
    fail(bench, 3)
    if how == "reset":
        bench.one("11 01")
        bench.advance(1.6)
    elif how == "power":
        bench.power_cycle()
    else:
        bench = Bench("motor", folder=folder)  # nobody saved: it must be on disk already
    bench.one("10 03")
    assert bench.one("27 01") == "7F 27 37"


def test_resetting_between_wrong_keys_gains_nothing(bench: Bench) -> None:
    """Each boot starts the delay, so that a reset is no way to more attempts."""
    fail(bench, 2)
    bench.one("11 01")
    bench.advance(1.6)
    bench.one("10 03")
    assert bench.one("27 01") == "7F 27 37"


def test_delay_after_boot_even_without_wrong_keys(bench: Bench) -> None:
    bench.power_cycle()
    bench.one("10 03")
    assert bench.one("27 01") == "7F 27 37"


def test_levels_count_apart(bench: Bench) -> None:
    fail(bench, 3)
    unlock(bench, 3)


def test_any_session_request_locks_again(bench: Bench) -> None:
    unlock(bench, 1)
    bench.one("10 03")
    assert bench.context.unlocked == 0


def test_seeds_do_not_repeat(bench: Bench) -> None:
    seeds = {bench.one("27 01") for _ in range(10_000)}
    assert len(seeds) == 10_000


@settings(deadline=None)
@given(st.integers(2, 32), st.integers())
def test_seed_source_is_a_permutation(length: int, start: int) -> None:
    source = SeedSource(random.Random(start).randbytes, length)
    seeds = [source.next() for _ in range(200)]
    assert len(set(seeds)) == 200
    assert all(len(seed) == length and any(seed) for seed in seeds)


def test_short_seeds_repeat_only_after_all_were_given() -> None:
    source = SeedSource(random.Random(1).randbytes, 2)
    assert len({source.next() for _ in range(65_535)}) == 65_535


def test_cmac_of_the_rfc() -> None:
    """RFC 4493, example 2."""
    key = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
    assert aes_cmac(bytes.fromhex("6bc1bee22e409f96e93d7e117393172a"), key).hex() == "070a16b46b4d4144f79bdd9dd04a287c"


@settings(deadline=None)
@given(st.sampled_from(["xor", "xor_rotate"]), st.binary(min_size=2, max_size=32), st.binary(min_size=1, max_size=16))
def test_keys_have_the_length_of_seeds(name: str, seed: bytes, constant: bytes) -> None:
    assert len(ALGORITHMS[name](seed, constant)) == len(seed)


def test_exhausted_is_told_once(bench: Bench) -> None:
    assert fail(bench, 3).endswith(f"{Nrc.EXCEEDED_ATTEMPTS:02X}")
    assert bench.one("27 02 00 00 00 00") == "7F 27 24"

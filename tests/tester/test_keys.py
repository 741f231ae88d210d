"""From seed to key."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.diag.config import EcuConfig
from simulator.ecu.keys import ALGORITHMS as SIMULATED
from tester.errors import FileError, UsageError
from tester.keys import ALGORITHMS, key_function
from tester.vehicle import Ecu, SecurityLevel

LIBRARY = """
int GenerateKeyEx(const unsigned char *seed, unsigned int size, unsigned int level, const char *variant,
                  unsigned char *key, unsigned int most, unsigned int *length) {
    if (level == 9) return 3;
    for (unsigned int i = 0; i < size && i < most; i++) key[i] = seed[i] + level;
    *length = size;
    return 0;
}
"""


def ecu(*levels: SecurityLevel) -> Ecu:
    link = EcuConfig(name="m", bus="", logical_address=1, request_id=0x7E0, response_id=0x7E8)
    return Ecu(link=link, levels={level.level: level for level in levels})


@given(st.binary(min_size=1, max_size=32), st.binary(min_size=16, max_size=16))
def test_algorithms_are_those_of_the_simulated_ecus(seed: bytes, constant: bytes) -> None:
    assert set(ALGORITHMS) == set(SIMULATED)
    for name, algorithm in ALGORITHMS.items():
        assert algorithm(seed, constant) == SIMULATED[name](seed, constant)


def test_the_vehicle_file_says_how_and_arguments_overrule() -> None:
    known = ecu(SecurityLevel(level=1, algorithm="xor", constant="FF"))
    assert key_function(known, 1)(1, b"\x01\x02") == b"\xfe\xfd"
    assert key_function(known, 1, constant="01")(1, b"\x01\x02") == b"\x00\x03"
    assert key_function(known, 1, key="AA BB")(1, b"\x01\x02") == b"\xaa\xbb"


def test_a_python_file_makes_keys(tmp_path: Path) -> None:
    (tmp_path / "keys.py").write_text("def two(level, seed):\n    return seed[::-1]\n"
                                      "def three(level, seed, constant):\n    return constant\n"
                                      "def wrong(level, seed):\n    return 'text'\n")  # fmt: skip
    file = tmp_path / "keys.py"
    assert key_function(ecu(), 1, algorithm=f"{file}:two")(1, b"\x01\x02") == b"\x02\x01"
    assert key_function(ecu(), 1, algorithm=f"{file}:three", constant="77")(1, b"\x01") == b"\x77"
    with pytest.raises(FileError, match="not bytes"):
        key_function(ecu(), 1, algorithm=f"{file}:wrong")(1, b"\x01")


def test_a_makers_library_makes_keys(tmp_path: Path) -> None:
    (tmp_path / "key.c").write_text(LIBRARY)
    library = tmp_path / "key.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(tmp_path / "key.c")], check=True)
    make = key_function(ecu(), 1, algorithm=str(library))
    assert make(1, b"\x01\x02\x03\x04") == b"\x02\x03\x04\x05"
    with pytest.raises(FileError, match="answered 3"):
        make(9, b"\x01")


@pytest.mark.parametrize(
    ("algorithm", "error"),
    [("", UsageError), ("rot13", UsageError), ("xor", UsageError), ("no.such:thing", FileError),
     ("json:nothing", FileError), ("missing.so", FileError), ("libc.so.6.so", FileError)],
)  # fmt: skip
def test_what_cannot_make_a_key_is_told(algorithm: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        key_function(ecu(), 1, algorithm=algorithm)(1, b"\x01")

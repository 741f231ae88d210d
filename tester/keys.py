"""From seed to key: algorithms by name, a user's Python function, a shared library, or a key typed in.

* ``xor``, ``xor_rotate``, ``aes_cmac``: with the level's ``constant`` from the vehicle file;
* ``module:function`` or ``file.py:function``: called with (level, seed), or (level, seed, constant) if it takes three;
* ``file.so`` (``.dll``, ``.dylib``): ``GenerateKeyEx`` as makers deliver it for J2534 tools;
* ``--key HEX``: for who has a key server, after ``unlock --seed-only``.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path

from gateway.uds.client import KeyFunction
from tester.errors import FileError, UsageError
from tester.values import parse_hex
from tester.vehicle import Ecu

MAX_KEY_BYTES = 4096


def _repeated(constant: bytes, length: int) -> bytes:
    if not constant:
        raise UsageError("the algorithm needs a constant")
    return (constant * (length // len(constant) + 1))[:length]


def xor(seed: bytes, constant: bytes) -> bytes:
    """Seed XOR constant, the constant repeated."""
    return bytes(s ^ c for s, c in zip(seed, _repeated(constant, len(seed)), strict=True))


def xor_rotate(seed: bytes, constant: bytes) -> bytes:
    """``xor``, then the whole big-endian number rotated left by three bits."""
    width = 8 * len(seed)
    mixed = int.from_bytes(xor(seed, constant), "big")
    rotated = (mixed << 3 | mixed >> (width - 3)) & ((1 << width) - 1)
    return rotated.to_bytes(len(seed), "big")


def aes_cmac(seed: bytes, constant: bytes) -> bytes:
    """AES-CMAC (RFC 4493) of the seed; the constant is the AES key."""
    from cryptography.hazmat.primitives.ciphers.algorithms import AES
    from cryptography.hazmat.primitives.cmac import CMAC

    if len(constant) not in (16, 24, 32):
        raise UsageError(f"aes_cmac needs a constant of 16, 24 or 32 bytes, not {len(constant)}")
    mac = CMAC(AES(constant))
    mac.update(seed)
    return mac.finalize()


ALGORITHMS: dict[str, Callable[[bytes, bytes], bytes]] = {"xor": xor, "xor_rotate": xor_rotate, "aes_cmac": aes_cmac}


def key_function(
    ecu: Ecu, level: int, *, algorithm: str = "", constant: str = "", key: str = "", base: Path | None = None
) -> KeyFunction:
    """How to make the key of a level: what was given, else what the vehicle file says.

    Raises:
        UsageError: nobody said how, or an algorithm that does not exist.
        FileError: a library or module that cannot be used.
    """
    if key:
        try:
            given = parse_hex(key)
        except ValueError as error:
            raise UsageError(f"--key: {error}") from error
        return lambda _level, _seed: given
    known = ecu.levels.get(level)
    name = algorithm or (known.algorithm if known else "")
    secret = _constant(constant or (known.constant if known else ""))
    if not name:
        levels = ", ".join(f"{n:02X}" for n in ecu.levels) or "none"
        raise UsageError(
            f"{ecu.name}: no key algorithm for level {level:02X} (known: {levels}); give --algorithm or --key"
        )
    if name in ALGORITHMS:
        chosen = ALGORITHMS[name]
        return lambda _level, seed: chosen(seed, secret)
    if name.endswith((".so", ".dll", ".dylib")):
        return _library(Path(name) if base is None else base / name)
    if ":" in name:
        return _python(name, secret)
    raise UsageError(f"no key algorithm {name!r}: one of {', '.join(ALGORITHMS)}, module:function, or a shared library")


def _constant(text: str) -> bytes:
    try:
        return parse_hex(text) if text else b""
    except ValueError as error:
        raise UsageError(f"the key constant: {error}") from error


def _python(name: str, constant: bytes) -> KeyFunction:
    place, _, attribute = name.rpartition(":")
    try:
        if place.endswith(".py"):
            spec = importlib.util.spec_from_file_location("outrider_user_key", place)
            if spec is None or spec.loader is None:
                raise ImportError(f"{place} cannot be loaded")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
        function: Callable[..., object] = getattr(module, attribute)
        arguments = len(inspect.signature(function).parameters)
    except (ImportError, AttributeError, OSError, SyntaxError, TypeError, ValueError) as error:
        raise FileError(name, f"no key function: {error}") from error

    def key(level: int, seed: bytes) -> bytes:
        made = function(level, seed, constant) if arguments >= 3 else function(level, seed)
        if not isinstance(made, bytes | bytearray):
            raise FileError(name, f"returned {type(made).__name__}, not bytes")
        return bytes(made)

    return key


def _library(path: Path) -> KeyFunction:
    """``int GenerateKeyEx(seed, seedSize, level, variant, key, maxKeySize, *keySize)``; 0 is success."""
    try:
        function = ctypes.CDLL(str(path.resolve() if path.exists() else path)).GenerateKeyEx
    except (OSError, AttributeError) as error:
        raise FileError(path, f"no key library: {error}", is_missing=not path.exists()) from error
    function.restype = ctypes.c_int
    function.argtypes = [
        ctypes.c_char_p, ctypes.c_uint, ctypes.c_uint, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_uint,
        ctypes.POINTER(ctypes.c_uint),
    ]  # fmt: skip

    def key(level: int, seed: bytes) -> bytes:
        buffer, length = ctypes.create_string_buffer(MAX_KEY_BYTES), ctypes.c_uint(0)
        status = function(seed, len(seed), level, b"", buffer, MAX_KEY_BYTES, ctypes.byref(length))
        if status != 0 or not 0 < length.value <= MAX_KEY_BYTES:
            raise FileError(path, f"GenerateKeyEx answered {status} and {length.value} bytes")
        return buffer.raw[: length.value]

    return key

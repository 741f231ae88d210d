"""Seeds and keys of service 0x27: algorithms by the names descriptions use (docs/reference/ecu-description.md)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC

#: (seed, constant) to key.
KeyAlgorithm = Callable[[bytes, bytes], bytes]


def _cycle(constant: bytes, length: int) -> bytes:
    return (constant * (length // max(1, len(constant)) + 1))[:length]


def xor(seed: bytes, constant: bytes) -> bytes:
    """Each byte of the seed with the constant's, repeated."""
    return bytes(a ^ b for a, b in zip(seed, _cycle(constant, len(seed)), strict=True))


def xor_rotate(seed: bytes, constant: bytes) -> bytes:
    """The XOR with the constant, as a big-endian number rotated left by three bits."""
    bits = 8 * len(seed)
    number = int.from_bytes(xor(seed, constant), "big")
    return ((number << 3 | number >> bits - 3) & (1 << bits) - 1).to_bytes(len(seed), "big")


def aes_cmac(seed: bytes, constant: bytes) -> bytes:
    """AES-CMAC (RFC 4493) of the seed; the constant is the 16-byte key. The whole MAC is the key."""
    mac = CMAC(AES(constant))
    mac.update(seed)
    return mac.finalize()


ALGORITHMS: dict[str, KeyAlgorithm] = {"xor": xor, "xor_rotate": xor_rotate, "aes_cmac": aes_cmac}


class SeedSource:
    """Seeds that nobody can foresee and that never repeat: a counter through a keyed permutation."""

    def __init__(self, random: Callable[[int], bytes], length: int) -> None:
        self._key = random(16)
        self._length = length
        self._count = int.from_bytes(random(length), "big")

    def next(self) -> bytes:
        """The next seed; all zeros, which means "unlocked", is left out."""
        while True:
            self._count = (self._count + 1) % (1 << 8 * self._length)
            seed = self._permuted(self._count.to_bytes(self._length, "big"))
            if any(seed):
                return seed

    def _permuted(self, block: bytes) -> bytes:
        """Six Feistel rounds over the two halves, which may differ by a byte in length."""
        left, right = block[: len(block) // 2], block[len(block) // 2 :]
        for round_ in range(6):
            source, target = (left, right) if round_ % 2 else (right, left)
            mask = hashlib.blake2s(bytes([round_]) + source, key=self._key, digest_size=len(target)).digest()
            changed = bytes(a ^ b for a, b in zip(target, mask, strict=True))
            left, right = (left, changed) if round_ % 2 else (changed, right)
        return left + right

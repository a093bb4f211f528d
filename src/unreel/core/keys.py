"""Keyed randomness: a draw is a pure function of its address, never of what was drawn before it.

The address of a draw is (seed, epoch, sample id, view or ``shared``, operation, attempt). Nothing in unreel reads
a global generator, so worker count, process count, restarts and neighbouring rows cannot change a draw.
"""

from __future__ import annotations

import hashlib
import math
import struct
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

KeyPart: TypeAlias = int | str

_TWO_POW_53 = float(1 << 53)

# SplitMix64 (Steele, Lea & Flood 2014): increment and multipliers of its finaliser, as signed 64-bit values.
_GOLDEN, _MIX_1, _MIX_2 = (n - (1 << 64) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _mix(x: torch.Tensor) -> torch.Tensor:
    """The finaliser of SplitMix64 on int64, which wraps; a shift of a negative number is made a logical one."""
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * _MIX_1
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * _MIX_2
    return x ^ ((x >> 31) & ((1 << 33) - 1))


class Key:
    """The address of a random draw; ``key.child("flip")`` is a different, independent address.

    Two keys with equal parts give equal draws on every machine. A key has no state: asking twice gives the same
    number twice, so draws that must differ need different children.
    """

    __slots__ = ("_above", "_hash", "_state", "parts")

    def __init__(self, *parts: KeyPart) -> None:
        self.parts = parts
        self._above: Key | None = None
        self._hash: hashlib.blake2b | None = None
        self._state: bytes | None = None

    def child(self, *parts: KeyPart) -> Key:
        """The address below this one."""
        below = Key(*self.parts, *parts)
        below._above = self
        return below

    def _hashed(self) -> hashlib.blake2b:
        """The parts, hashed one after another: a child goes on where its parent's hash ends."""
        if self._hash is None:
            digest = hashlib.blake2b(digest_size=16) if self._above is None else self._above._hashed().copy()
            for part in self.parts[0 if self._above is None else len(self._above.parts) :]:
                # Tagged and length-prefixed, so that ("1",) and (1,), or ("ab", "c") and ("a", "bc"), differ.
                if isinstance(part, str):
                    raw, tag = part.encode("utf-8", "surrogateescape"), b"s"
                else:
                    raw, tag = str(int(part)).encode(), b"i"
                digest.update(tag + struct.pack("<I", len(raw)) + raw)
            self._hash, self._above = digest, None
        return self._hash

    def _bytes(self) -> bytes:
        if self._state is None:
            self._state = self._hashed().digest()
        return self._state

    def bits(self) -> int:
        """63 uniform bits, as a non-negative integer that fits a torch int64."""
        return int.from_bytes(self._bytes()[:8], "little") >> 1

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A float uniform on [low, high)."""
        unit = (int.from_bytes(self._bytes()[:8], "little") >> 11) / _TWO_POW_53
        return low + (high - low) * unit

    def integer(self, low: int, high: int) -> int:
        """An integer uniform on low, …, high − 1. Raises ValueError when the range is empty."""
        if high <= low:
            raise ValueError(f"Key.integer needs low < high, got [{low}, {high})")
        return low + int(self.uniform() * (high - low))

    def bernoulli(self, probability: float) -> bool:
        """True with the given probability; 0 is never, 1 is always."""
        return self.uniform() < probability

    def permutation(self, n: int) -> NDArray[np.int64]:
        """A uniform permutation of 0, …, n − 1."""
        return self.numpy().permutation(n).astype(np.int64)

    def numpy(self) -> np.random.Generator:
        """A fresh NumPy generator for draws that need many numbers."""
        return np.random.Generator(np.random.Philox(key=int.from_bytes(self._bytes(), "little")))

    def torch(self, device: torch.device | str = "cpu") -> torch.Generator:
        """A fresh torch generator on ``device``."""
        generator = torch.Generator(device=device)
        generator.manual_seed(self.bits())
        return generator

    def __reduce__(self) -> tuple[type[Key], tuple[KeyPart, ...]]:
        return Key, self.parts

    def __repr__(self) -> str:
        return f"Key({', '.join(repr(p) for p in self.parts)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and self._bytes() == other._bytes()

    def __hash__(self) -> int:
        return hash(self._bytes())


def uniforms(key: Key, ids: torch.Tensor, *shape: int) -> torch.Tensor:
    """Draws uniform on [0, 1) for many samples at once: row i depends on ``key`` and ``ids[i]`` only.

    For draws inside a method's ``forward``: whichever process holds a sample, in whatever order, its draw is the same.

    Args:
        key: the address above the samples, such as ``batch.key.child("dropout")``.
        ids: (B,) int64, such as ``batch.sample_id``; the device of the result.
        shape: shape of one sample's draw.
    Returns: (B, shape…) float32, 24 random bits each.
    """
    count = math.prod(shape)
    start = _mix(ids.to(torch.int64) + _GOLDEN) ^ key.bits()
    steps = torch.arange(1, count + 1, device=ids.device, dtype=torch.int64) * _GOLDEN
    bits = _mix(_mix(start)[:, None] + steps)
    return (((bits >> 40) & 0xFFFFFF).to(torch.float32) / (1 << 24)).reshape(len(ids), *shape)

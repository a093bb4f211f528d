"""Keyed randomness: a draw is a pure function of its address, never of what was drawn before it.

The address of a draw is (seed, epoch, sample id, view or ``shared``, operation, attempt). Nothing in unreel reads
a global generator, so worker count, process count, restarts and neighbouring rows cannot change a draw.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

KeyPart: TypeAlias = int | str

_TWO_POW_53 = float(1 << 53)


class Key:
    """The address of a random draw; ``key.child("flip")`` is a different, independent address.

    Two keys with equal parts give equal draws on every machine. A key has no state: asking twice gives the same
    number twice, so draws that must differ need different children.
    """

    __slots__ = ("_state", "parts")

    def __init__(self, *parts: KeyPart) -> None:
        self.parts = parts
        self._state: bytes | None = None

    def child(self, *parts: KeyPart) -> Key:
        """The address below this one."""
        return Key(*self.parts, *parts)

    def _bytes(self) -> bytes:
        if self._state is None:
            digest = hashlib.blake2b(digest_size=16)
            for part in self.parts:
                # Tagged and length-prefixed, so that ("1",) and (1,), or ("ab", "c") and ("a", "bc"), differ.
                if isinstance(part, str):
                    raw, tag = part.encode(), b"s"
                else:
                    raw, tag = str(int(part)).encode(), b"i"
                digest.update(tag + struct.pack("<I", len(raw)) + raw)
            self._state = digest.digest()
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

    def __repr__(self) -> str:
        return f"Key({', '.join(repr(p) for p in self.parts)})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and self._bytes() == other._bytes()

    def __hash__(self) -> int:
        return hash(self._bytes())

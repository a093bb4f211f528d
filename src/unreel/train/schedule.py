"""Learning rates as functions of the step: no state, so a resumed run is at the right place by itself."""

from __future__ import annotations

import math
from collections.abc import Callable

from unreel.core.errors import UsageError


def warmup_cosine(step: int, base_lr: float, total_steps: int, warmup_steps: int = 0) -> float:
    """Cosine decay over all steps, with a linear start (cvrl.md §5).

    η(t) = ½·η₀·(1 + cos(π·t/T)) for every t, except that below W it is the line from 0 to η(W). The cosine starts at
    step 0, not at W: the peak is η(W) < η₀.

    Args:
        step: optimiser steps done, from 0; beyond ``total_steps`` the rate stays 0.
        base_lr: η₀. total_steps: T ≥ 1. warmup_steps: 0 ≤ W ≤ T.
    Raises: UsageError for a range that makes no sense.
    """
    if total_steps < 1 or not 0 <= warmup_steps <= total_steps:
        raise UsageError(
            f"warm-up and length must satisfy 0 <= warmup_steps <= total_steps and 1 <= total_steps, "
            f"got {warmup_steps} and {total_steps}"
        )
    if step < 0:
        raise UsageError(f"a step is counted from 0, got {step}")

    def cosine(t: int) -> float:
        return 0.5 * base_lr * (1.0 + math.cos(math.pi * min(t, total_steps) / total_steps))

    if step < warmup_steps:
        return cosine(warmup_steps) * step / warmup_steps
    return cosine(step)


def constant(lr: float) -> Callable[[int], float]:
    """The same rate at every step."""
    return lambda step: lr


def multistep(base_lr: float, milestones: dict[int, float]) -> Callable[[int], float]:
    """``base_lr``, times each milestone's factor once its step is reached (later factors multiply earlier ones)."""

    def rate(step: int) -> float:
        return base_lr * math.prod(factor for at, factor in milestones.items() if step >= at)

    return rate

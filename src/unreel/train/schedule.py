"""Learning rates as functions of the step, so that a resumed run is at the right place by itself.

One has a state, ``Plateau``: what it has been shown decides. The trainer keeps it in the checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias

from unreel.core.checks import Amount, Fraction, NotNegative, Positive, checked
from unreel.core.errors import UsageError

ScheduleName: TypeAlias = Literal["cosine", "constant", "multistep", "plateau"]
Schedule: TypeAlias = Callable[[int], float]

# Relative improvement that counts as one: torch's ReduceLROnPlateau, which TCGL's release uses as it is.
_THRESHOLD = 1e-4


def warmup_cosine(
    step: int, base_lr: float, total_steps: int, warmup_steps: int = 0, *, final_lr: float = 0.0
) -> float:
    """Cosine decay over all steps, with a linear start (docs/methods/cvrl.md, Training).

    η(t) = η₁ + ½·(η₀ − η₁)·(1 + cos(π·t/T)) for every t, except that below W it is the line from 0 to η(W). The cosine
    starts at step 0, not at W: the peak is η(W) < η₀.

    Args:
        step: optimiser steps done, from 0; beyond ``total_steps`` the rate stays η₁.
        base_lr: η₀. total_steps: T ≥ 1. warmup_steps: 0 ≤ W ≤ T. final_lr: η₁ ≥ 0.
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
        return final_lr + 0.5 * (base_lr - final_lr) * (1.0 + math.cos(math.pi * min(t, total_steps) / total_steps))

    if step < warmup_steps:
        return cosine(warmup_steps) * step / warmup_steps
    return cosine(step)


class Plateau:
    """The rate goes down once a measured value no longer does; decides as torch's ``ReduceLROnPlateau`` does.

    A schedule that is told values: after each validation the trainer calls ``observe``. A value counts as better when
    it is below the best by a relative 1e-4.

    Args:
        base_lr: the rate at the start.
        patience: steps without a better value that are borne; the first value after them lowers the rate.
        factor: what the rate is multiplied by. min_lr: it never goes below this (docs/methods/tcgl.md, Training: 1e-7).
        warmup_steps: a linear start from 0.
    Raises: UsageError for values out of range.
    """

    @checked
    def __init__(
        self,
        base_lr: float,
        *,
        patience: Amount,
        factor: Fraction = 0.1,
        min_lr: NotNegative = 0.0,
        warmup_steps: int = 0,
    ) -> None:
        self.lr, self.patience, self.factor, self.min_lr = base_lr, patience, factor, min_lr
        self.warmup_steps = warmup_steps
        self.best = math.inf
        self._since = 0  # the step of the best value or of the last cut, whichever came later

    def __call__(self, step: int) -> float:
        return self.lr * min(1.0, step / self.warmup_steps) if self.warmup_steps else self.lr

    def observe(self, value: float, step: int) -> None:
        """A value measured after ``step`` steps, lower being better; one that is not a number is no better."""
        margin = _THRESHOLD * abs(self.best) if math.isfinite(self.best) else 0.0
        if value < self.best - margin:
            self.best, self._since = value, step
        elif step - self._since > self.patience:
            self.lr, self._since = max(self.lr * self.factor, min(self.min_lr, self.lr)), step

    def state_dict(self) -> dict[str, float]:
        return {"lr": self.lr, "best": self.best, "since": self._since}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.lr, self.best, self._since = float(state["lr"]), float(state["best"]), int(state["since"])


@checked
def per_epoch(schedule: Schedule, steps_per_epoch: Positive, *, after: int = 0) -> Schedule:
    """``schedule`` in steps of whole epochs: during an epoch the rate stays what it is at its first step.

    With a cosine over E epochs this is lr(e) = f + ½·(b − f)·(1 + cos(π·e/E)), e = 0 … E − 1 (docs/methods/moco.md,
    Training).

    Args:
        schedule: by step. steps_per_epoch: need not be whole. after: until this step (a warm-up) every step counts.
    Raises: UsageError for an epoch without steps.
    """

    def rate(step: int) -> float:
        first = math.ceil(math.floor(step / steps_per_epoch) * steps_per_epoch)
        return schedule(step if step < after else max(after, min(step, first)))

    return rate


@checked
def make_schedule(
    name: ScheduleName,
    base_lr: float,
    total_steps: int,
    warmup_steps: int = 0,
    *,
    final_lr: float = 0.0,
    milestones: Sequence[int] = (),
    milestone_factor: float = 0.1,
    plateau_factor: float = 0.1,
    plateau_patience: int = 0,
    min_lr: float = 0.0,
    steps_per_epoch: float | None = None,
) -> Schedule:
    """Learning rate by step.

    Args:
        name: "cosine": ``warmup_cosine``. The others have a linear warm-up to ``base_lr``, then "constant" stays,
            "multistep" multiplies by ``milestone_factor`` at each of ``milestones`` (steps), and "plateau" is a
            ``Plateau`` with ``plateau_patience`` in steps.
        base_lr, total_steps, warmup_steps: the range.
        final_lr: where "cosine" ends.
        steps_per_epoch: "cosine" moves once per epoch of so many steps (``per_epoch``); None: at each step.
    Raises: UsageError for an unknown name, a warm-up longer than the run, or an argument of another schedule.
    """
    warmup_cosine(0, base_lr, total_steps, warmup_steps)  # refuses a range that makes no sense now, not at step 0
    if final_lr and name != "cosine":
        raise UsageError(f"final_lr is where the schedule 'cosine' ends; {name!r} has none")
    if steps_per_epoch is not None and name != "cosine":
        raise UsageError(f"the schedule 'cosine' can move per epoch; {name!r} is not asked")
    if bool(milestones) != (name == "multistep"):
        owner = f"milestones belong to the schedule 'multistep', not to {name!r}"
        raise UsageError(owner if milestones else "the schedule 'multistep' needs milestones")
    if name == "cosine":
        cosine = partial(
            warmup_cosine, base_lr=base_lr, total_steps=total_steps, warmup_steps=warmup_steps, final_lr=final_lr
        )
        return cosine if steps_per_epoch is None else per_epoch(cosine, steps_per_epoch, after=warmup_steps)
    if name == "plateau":
        return Plateau(
            base_lr, patience=plateau_patience, factor=plateau_factor, min_lr=min_lr, warmup_steps=warmup_steps
        )

    def flat(step: int) -> float:
        reached = (milestone_factor for milestone in {*milestones} if step >= milestone)
        return base_lr * math.prod(reached) * (min(1.0, step / warmup_steps) if warmup_steps else 1.0)

    return flat

"""Held-out videos while training goes on: what is measured, what lowers the rate, which weights are kept.

A measurement is a function of the weights alone: the same draws every time, evaluation mode, no gradient. Whole
batches are shared out to the processes and computed as if each were alone, and the results are added in one order, so
two processes find what one does and all decide the same.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from unreel.core.checks import Count, checked
from unreel.core.distributed import alone, gather_objects, rank, world_size
from unreel.core.errors import DataError, UsageError, nearest
from unreel.core.keys import Key
from unreel.core.modules import evaluating
from unreel.data.batch import Batch
from unreel.methods.method import Method
from unreel.train.backend import Backend
from unreel.train.feed import place
from unreel.train.schedule import Plateau

log = logging.getLogger(__name__)


@runtime_checkable
class ValidationBatches(Protocol):
    """Batches by number, as ``unreel.data.validation.ValidationLoader`` reads them; a list of batches serves too."""

    def __len__(self) -> int:
        """Number of batches."""

    def iterate(self, numbers: Sequence[int], *, draw: int = -1) -> Iterator[Batch | None]:
        """The batches of these numbers; None where none of a batch's videos can be read.

        ``draw``: −1 gives the same draws every time, another number draws anew for each.
        """


@contextmanager
def eval_mode(module: nn.Module) -> Generator[None, None, None]:
    """Evaluation mode without gradient; each part goes back to its own mode."""
    with evaluating(module), torch.no_grad():  # a method may keep parts (norms) in evaluation
        yield


def higher_is_better(name: str) -> bool:
    """Accuracies are to be high; losses, entropies and all other values are to be low."""
    return "accuracy" in name


def measure(
    method: Method, batches: ValidationBatches | Sequence[Batch], *, backend: Backend, seed: int = 0, draw: int = -1
) -> dict[str, float]:
    """Loss and logs of ``method`` over all batches, each video weighing the same: "val_loss", "val_<name>".

    The method's ``validation_views`` are applied (its training views where it has none); batch operations are not.
    The same on every process. Raises DataError when no video can be read.
    """
    views = method.views if method.validation_views is None or draw >= 0 else method.validation_views
    mine = range(rank(), len(batches), world_size())
    found: list[tuple[int, int, dict[str, float]]] = []
    given = batches.iterate(mine, draw=draw) if isinstance(batches, ValidationBatches) else (batches[i] for i in mine)
    with alone(), eval_mode(method), torch.random.fork_rng(devices=backend.held):
        for number, batch in zip(mine, given, strict=True):
            if batch is None:
                continue
            key = Key(seed, "validation", number)
            batch = backend.lay_out(replace(place(views, batch, backend.target), key=key))
            torch.manual_seed(key.bits())
            with backend.autocast():
                output = method(batch)
            values = {"loss": output.loss, **output.logs}
            found.append((number, len(batch), {name: float(v) for name, v in values.items()}))
    sums: dict[str, float] = {}
    weights: dict[str, int] = {}
    for _, size, values_of in sorted((entry for part in gather_objects(found) for entry in part), key=lambda e: e[0]):
        for name, value in values_of.items():
            sums[name] = sums.get(name, 0.0) + size * value
            weights[name] = weights.get(name, 0) + size
    if not sums:
        raise DataError("no validation video could be read; `unreel data index DATA --decode` lists what is damaged")
    return {f"val_{name}": total / weights[name] for name, total in sums.items()}


class Validation:
    """What ``fit`` asks every so many steps.

    Args:
        batches: the held-out videos.
        every: steps between measurements; the last step is measured too.
        select: "last", or the value whose best measurement decides which weights are left ("val_loss",
            "val_accuracy", …). Of equal ones the first wins.
        plateau: told of ``plateau_metric`` after every measurement; the same object is ``fit``'s schedule.
        plateau_metric: which value that is.
        fresh: draw crops and times anew at every measurement, as TCGL's release does; noisy (docs/methods/tcgl.md,
            Where we differ).
    Raises: UsageError for a value that is not "last" and does not begin with "val_".
    """

    @checked
    def __init__(
        self,
        batches: ValidationBatches | Sequence[Batch],
        *,
        every: Count,
        select: str = "last",
        plateau: Plateau | None = None,
        plateau_metric: str = "val_loss",
        fresh: bool = False,
    ) -> None:
        if not len(batches):
            raise UsageError("validation needs at least one batch of held-out videos")
        for what, name in (("select", select), ("plateau_metric", plateau_metric)):
            if not name.startswith("val_") and (what, name) != ("select", "last"):
                raise UsageError(f"{what}: expected {'last or ' * (what == 'select')}val_loss or val_…, got {name!r}")
        self.batches, self.every, self.select = batches, every, select
        self.plateau, self.plateau_metric, self.fresh = plateau, plateau_metric, fresh
        self.best_value, self.best_step = math.nan, -1
        self._best: dict[str, Any] | None = None

    @property
    def settings(self) -> dict[str, object]:
        """Plain values that make a run what it is."""
        settings: dict[str, object] = {"every": self.every, "select": self.select, "fresh": self.fresh}
        if self.plateau is not None:
            p = self.plateau
            settings |= {"plateau": self.plateau_metric, "patience": p.patience, "factor": p.factor, "min_lr": p.min_lr}
        return settings

    def check_names(self, logged: Sequence[str]) -> None:
        """Raise UsageError, at the first step, for a value that the method does not log."""
        known = ["val_loss", *(f"val_{name}" for name in logged)]
        for what, name in (("select", self.select), ("plateau_metric", self.plateau_metric)):
            if (what == "plateau_metric" and self.plateau is None) or name in (*known, "last"):
                continue
            close = nearest(name, known) or known
            raise UsageError(f"{what}: this method has no value {name!r}; it has {', '.join(close)}")

    def due(self, step: int, total_steps: int) -> bool:
        """Whether to measure after ``step`` steps."""
        return step % self.every == 0 or step == total_steps

    def run(self, method: Method, step: int, *, backend: Backend, seed: int = 0) -> dict[str, float]:
        """Measure, keep the weights if they are the best, and tell the plateau. The same on every process."""
        values = measure(method, self.batches, backend=backend, seed=seed, draw=step if self.fresh else -1)
        if self.select != "last":
            value = values.get(self.select, math.nan)
            better = value > self.best_value if higher_is_better(self.select) else value < self.best_value
            if better or (self._best is None and math.isfinite(value)):
                self.best_value, self.best_step = value, step
                self._best = {n: t.detach().cpu().clone() for n, t in method.state_dict().items()}
        if self.plateau is not None:
            watched = values.get(self.plateau_metric, math.nan)
            self.plateau.observe(-watched if higher_is_better(self.plateau_metric) else watched, step)
        return values

    def leave_selected(self, method: Method) -> None:
        """Put the weights that were best into the method; with "last" it stays as it is."""
        if self._best is not None:
            method.load_state_dict(self._best)
        elif self.select != "last":
            log.warning("no measurement of %s was a number, so the last weights are kept", self.select)

    def state_dict(self) -> dict[str, Any]:
        """What resuming needs, the best weights included: they are on disk whenever the checkpoint is."""
        return {
            "best": self._best,
            "best_value": self.best_value,
            "best_step": self.best_step,
            "plateau": None if self.plateau is None else self.plateau.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._best = state["best"]
        self.best_value, self.best_step = float(state["best_value"]), int(state["best_step"])
        if self.plateau is not None:
            self.plateau.load_state_dict(state["plateau"])

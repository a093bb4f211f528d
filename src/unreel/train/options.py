"""The settings of a training run: how long, at what rate, what validation decides, what is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from unreel.core.checks import Count, Fraction, NotNegative, Positive, Range, Share
from unreel.core.errors import UsageError, unknown_name
from unreel.data.batch import Batch
from unreel.train.feed import Loader, steps_per_epoch
from unreel.train.schedule import Plateau, Schedule, ScheduleName, make_schedule
from unreel.train.validation import Validation, ValidationBatches


@dataclass(frozen=True)
class Training:
    """What makes a run's result what it is, beside its method, data and optimiser.

    Args:
        epochs, steps: how long; exactly one. warmup_epochs, warmup_steps: the linear start; steps win.
        schedule: "cosine" (to ``final_lr``), "constant", "multistep" (times ``milestone_factor`` at each of
            ``milestones``, epochs), "plateau" (see ``Plateau``; docs/methods/tcgl.md, Training), or a function from
            step to learning rate; the base rate is the optimiser's.
        schedule_per: "epoch" lets "cosine" move at the beginning of each epoch only (docs/methods/moco.md, Training).
        plateau_metric, plateau_factor, plateau_patience, min_lr: what "plateau" watches, by what it lowers the rate,
            after how many epochs without a better value, and how far.
        validate_every: epochs between measurements of held-out videos; the end is measured too. They are the metrics
            "val_loss" and "val_<name>".
        validation_draws: "fixed" draws the same clips every time, "fresh" others.
        select: which weights the encoder is left with: "last", or the best of "val_loss", "val_accuracy", ….
            The last ones stay in the checkpoint.
        part_way: where the encoder is left between the weights that the run began with (0) and those that training
            reached (1). Half way often keeps more of what good weights know.
        seed, accumulate, max_grad_norm: as in ``fit``.
    """

    epochs: Annotated[float, Range(gt=0, unit="epochs")] | None = None
    steps: Annotated[int, Range(ge=1, unit="steps")] | None = None
    schedule: ScheduleName | Schedule = "cosine"
    warmup_epochs: Annotated[float, Range(ge=0, unit="epochs")] = 0.0
    warmup_steps: Annotated[int, Range(ge=0, unit="steps")] | None = None
    final_lr: NotNegative = 0.0
    schedule_per: Literal["step", "epoch"] = "step"
    milestones: tuple[Annotated[float, Range(gt=0, unit="epochs")], ...] = ()
    milestone_factor: Positive = 0.1
    plateau_metric: str = "val_loss"
    plateau_factor: Fraction = 0.1
    plateau_patience: Annotated[float, Range(ge=0, unit="epochs")] = 50.0
    min_lr: NotNegative = 0.0
    validate_every: Annotated[float, Range(gt=0, unit="epochs")] = 1.0
    validation_draws: Literal["fixed", "fresh"] = "fixed"
    select: str = "last"
    part_way: Share = 1.0
    seed: int = 0
    accumulate: Count = 1
    max_grad_norm: Positive | None = None

    def total_steps(self, loader: Loader) -> int:
        """Optimiser steps of the run.

        Raises: UsageError unless there is one of ``steps`` and ``epochs``, or when the loader has no length.
        """
        if (self.epochs is None) == (self.steps is None):
            raise UsageError("say how long to train: either steps or epochs")
        return max(1, self._steps_of(self.epochs, "epochs", loader)) if self.epochs is not None else self.steps or 1

    def num_warmup(self, loader: Loader) -> int:
        """Optimiser steps of the warm-up. Raises UsageError when it is longer than the run."""
        total, steps, given = self.total_steps(loader), self.warmup_steps, f"warmup_steps {self.warmup_steps}"
        if steps is None:
            steps = self._steps_of(self.warmup_epochs, "warmup_epochs", loader) if self.warmup_epochs else 0
            given = f"warmup_epochs {self.warmup_epochs:g}"
        if steps > total:
            whole, unit = (f"epochs {self.epochs:g}", "epochs") if self.steps is None else (f"steps {total}", "steps")
            raise UsageError(
                f"{given} ({steps} steps) is longer than the whole run, {whole} ({total} steps); set warmup_{unit} to "
                "less"
            )
        return steps

    def rate(self, loader: Loader, base_lr: float) -> Schedule:
        """The learning rate by step. Raises UsageError for settings that belong to another schedule."""
        if self.schedule_per not in ("step", "epoch"):
            raise unknown_name("schedule_per", self.schedule_per, ("step", "epoch"))
        if callable(self.schedule):
            if self.schedule_per == "epoch":
                raise UsageError("schedule_per epoch belongs to the schedule 'cosine', not to a function of the step")
            return self.schedule
        patience = self.plateau_patience if self.schedule == "plateau" else 0
        per_epoch = self.schedule_per == "epoch"
        return make_schedule(
            self.schedule,
            base_lr,
            self.total_steps(loader),
            self.num_warmup(loader),
            final_lr=self.final_lr,
            milestones=[self._steps_of(m, "milestones", loader) for m in self.milestones],
            milestone_factor=self.milestone_factor,
            plateau_factor=self.plateau_factor,
            plateau_patience=self._steps_of(patience, "plateau_patience", loader) if patience else 0,
            min_lr=self.min_lr,
            steps_per_epoch=_length(loader, "schedule_per epoch") / self.accumulate if per_epoch else None,
        )

    def validation(
        self, batches: ValidationBatches | Sequence[Batch] | None, loader: Loader, rate: Schedule
    ) -> Validation | None:
        """What to ask of held-out videos; None without them. Raises UsageError for settings that need them."""
        if batches is None:
            if self.schedule == "plateau" or self.select != "last":
                wanted = "schedule plateau" if self.schedule == "plateau" else f"select {self.select}"
                raise UsageError(f"{wanted} needs held-out videos: set validation to a number of videos or to a share")
            return None
        return Validation(
            batches,
            every=max(1, self._steps_of(self.validate_every, "validate_every", loader)),
            select=self.select,
            plateau=rate if isinstance(rate, Plateau) else None,
            plateau_metric=self.plateau_metric,
            fresh=self.validation_draws == "fresh",
        )

    def _steps_of(self, epochs: float, what: str, loader: Loader) -> int:
        return round(epochs * _length(loader, what) / self.accumulate)


def _length(loader: Loader, what: str) -> int:
    length = steps_per_epoch(loader)
    if length is None:
        instead = f"; give {what.replace('epochs', 'steps')}" if what.endswith("epochs") else ""
        raise UsageError(f"{what} cannot be counted: the loader has no length{instead}")
    return length


@dataclass(frozen=True)
class Keeping:
    """What a run writes and when it stops: nothing that changes one bit of its result.

    Args:
        log_every: steps between records; each holds means over the steps since the last.
        checkpoint_every: save whenever this many steps are done; None leaves it to time.
        checkpoint_every_s: save when this many seconds have passed since the last checkpoint.
        keep_checkpoints: how many to keep; two survive a broken last one.
        probe_every: steps between questions to an online probe, see ``Monitor``.
        stop_after: stop and save once this many steps are done.
    """

    log_every: Annotated[int, Range(ge=1, unit="steps")] = 10
    checkpoint_every: Annotated[int, Range(ge=1, unit="steps")] | None = None
    checkpoint_every_s: Annotated[float, Range(ge=0, unit="s")] = 600.0
    keep_checkpoints: Count = 2
    probe_every: Annotated[int, Range(ge=1, unit="steps")] | None = None
    stop_after: int | None = None

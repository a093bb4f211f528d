"""The method contract: a pre-training objective with its encoder, its times and its views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from unreel.data.batch import Batch
from unreel.data.contracts import Sampler, SupportsViews
from unreel.nn.encoder import Encoder
from unreel.views.batch_ops import BatchOperation


class LossOutput(NamedTuple):
    """A scalar to minimise, and detached scalars to log."""

    loss: Tensor
    logs: dict[str, Tensor]


class StepsDone(NamedTuple):
    """Where training is: optimiser steps done of those planned."""

    step: int
    total_steps: int
    epoch: int = 0

    @property
    def fraction(self) -> float:
        """Share of the run that is done, in [0, 1]."""
        return self.step / self.total_steps if self.total_steps else 0.0


class Method(nn.Module):
    """Base of every method.

    Pure in the batch: no trainer, device or logger inside; everything needed for resume is in ``state_dict()``.
    ``forward`` takes a batch whose views have been applied (float clips in [0, 1]).

    Attributes:
        encoder: what pre-training leaves.
        sampler: which times each view reads.
        views: how each view is drawn and applied.
        validation_views: how they are in validation during training, where the draws are always the same; None: as in
            training. For a method whose target does not lie in the views' randomness, the centre without it.
        target_columns: label columns of the manifest that come as ``batch.targets[column]``, (B,) int64, and their
            classes in the order of the codes.
        batch_operations: run after the views, in order; the only place where samples mix.
        sidecars: names of the computed facts that must exist before the run starts.
        aligned: names of masks that follow the views' geometry, see ``unreel.data.objects``: "masks" or "file.mask".
    """

    encoder: Encoder
    sampler: Sampler
    views: SupportsViews
    validation_views: SupportsViews | None = None
    target_columns: Mapping[str, Sequence[str]] = {}
    batch_operations: Sequence[BatchOperation] = ()
    sidecars: tuple[str, ...] = ()
    aligned: tuple[str, ...] = ()

    def forward(self, batch: Batch) -> LossOutput:
        """The loss of one (local) batch; negatives are gathered over processes, with gradient."""
        raise NotImplementedError(f"{type(self).__name__} must write forward")

    def on_step_begin(self, progress: StepsDone) -> None:
        """Before the forward pass: teacher updates, freezing, pacing."""

    def on_gradients(self) -> None:
        """After backward, before the optimiser's step: gradients may be inspected or cancelled."""

    def on_step_end(self, progress: StepsDone, applied: bool) -> None:
        """After the optimiser; ``applied`` is False when the step was skipped, and then queues must not move."""

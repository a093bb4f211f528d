"""The method contract: a pre-training objective with its encoder and the parts it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from unreel.data.batch import Batch
from unreel.data.contracts import Sampler, SupportsViews
from unreel.data.manifest import Manifest
from unreel.methods.parts import Part, build_parts
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
        return self.step / self.total_steps if self.total_steps else 0.0


@dataclass(frozen=True)
class DataFacts:
    """What a method may ask of the data before it is built.

    Attributes:
        manifest: the rows to learn from, those held out for validation included.
        num_trained: how many of them are trained on, whatever their length.
    """

    manifest: Manifest
    num_trained: int


class Method(nn.Module):
    """Base of every method.

    Pure in the batch: no trainer, device or logger inside; everything needed for resume is in ``state_dict()``.
    ``forward`` takes a batch whose views have been applied (float clips in [0, 1]).

    A method is given its parts already built: ``CVRL(encoder, clips=PairSampler(16, 2), temperature=0.1)``. One that
    is not given is built with the defaults that the class declares in ``parts``.

    Attributes:
        parts: builder and defaults of each part, by name: ``clips`` (which times are read), ``views`` (how they are
            drawn and applied), ``objects`` (object-aware views), ``head``, and a method's own.
        encoder: what pre-training leaves. Its ``input_spec`` is set to the clips and views it is given.
        sampler: which times each view reads; the part ``clips``.
        views: how each view is drawn and applied.
        validation_views: how they are in validation during training, where the draws are always the same; None: as in
            training. For a method whose target does not lie in the views' randomness, the centre without it.
        target_columns: label columns of the manifest that come as ``batch.targets[column]``, (B,) int64, and their
            classes in the order of the codes.
        batch_operations: run after the views, in order; the only place where samples mix.
        sidecars: names of the computed facts that must exist before the run starts.
        aligned: names of masks that follow the views' geometry, see ``unreel.data.objects``: "masks" or "file.mask".
    """

    parts: ClassVar[Mapping[str, Part]] = {}

    encoder: Encoder
    sampler: Sampler
    views: SupportsViews
    validation_views: SupportsViews | None = None
    target_columns: Mapping[str, Sequence[str]] = {}
    batch_operations: Sequence[BatchOperation] = ()
    sidecars: tuple[str, ...] = ()
    aligned: tuple[str, ...] = ()

    def __init__(self, encoder: Encoder | None = None, **parts: Any) -> None:
        super().__init__()
        if encoder is None:  # a method that puts everything in place itself
            return
        self.encoder = encoder
        built = build_parts(self.parts, encoder, parts)
        self.sampler = built.pop("clips")
        self.views = built.pop("views")
        self.validation_views = self.views_of_validation(self.views)
        objects = built.pop("objects", None)
        for name, part in built.items():
            setattr(self, name, part)
        if objects is not None:
            objects.change(self)
        fed = {
            "num_frames": getattr(self.sampler, "clip_frames", None),
            "stride_frames": getattr(self.sampler, "stride", None),
            "size_px": getattr(self.views, "size", None),
        }
        known = {name: value for name, value in fed.items() if value is not None}
        encoder.input_spec = replace(encoder.input_spec, **known)

    def views_of_validation(self, views: Any) -> SupportsViews | None:
        """What ``validation_views`` are, for the views given; None where they are the same."""
        return None

    @classmethod
    def from_data(cls, facts: DataFacts, settings: Mapping[str, Any]) -> dict[str, object]:
        """Settings of the method that follow from the data, such as its classes; ``settings`` are those chosen."""
        return {}

    @classmethod
    def chance(cls, settings: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
        """What the logged values are by chance, by name, where a run's complete settings determine it."""
        return {}

    def forward(self, batch: Batch) -> LossOutput:
        """The loss of one (local) batch; negatives are gathered over processes, with gradient."""
        raise NotImplementedError(f"{type(self).__name__} must write forward")

    def on_step_begin(self, progress: StepsDone) -> None:
        """Before the forward pass: teacher updates, freezing, pacing."""

    def on_gradients(self) -> None:
        """After backward, before the optimiser's step: gradients may be inspected or cancelled."""

    def on_step_end(self, progress: StepsDone, applied: bool) -> None:
        """After the optimiser; ``applied`` is False when the step was skipped, and then queues must not move."""

"""The task contract: data with parts, a target, and metrics that know which way is up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

from unreel.core.registry import Registry
from unreel.data.sampling import ClipPlan
from unreel.media import Decoder
from unreel.protocols.features import ClipSource, Embeddings
from unreel.protocols.protocol import FeatureSet, Outcomes
from unreel.stats.intervals import Statistic


class Resampled(NamedTuple):
    """A metric of a set of samples, as ``bootstrap_ci`` takes it, and the score of looking at nothing."""

    statistic: Statistic
    chance: float


@dataclass(frozen=True)
class Metric:
    """One way to score outcomes.

    ``statistic`` is ``None`` for a mean over samples, whose per-sample values are ``Outcomes.values[name]``; else it
    makes a function of sample indices (balanced accuracy, macro F1), which intervals resample. ``higher_is_better`` is
    ``None`` for a diagnostic, of which neither is better.
    """

    name: str
    higher_is_better: bool | None = True
    statistic: Callable[[Outcomes], Resampled] | None = None


class Parts(NamedTuple):
    """Labelled features by role. ``validation`` is ``None`` where the data has none of its own."""

    train: FeatureSet
    validation: FeatureSet | None
    test: FeatureSet


@runtime_checkable
class Task(Protocol):
    """What is asked of frozen features: which sources, which part is which, what is right, how it is scored.

    Parts never share a group; a task raises DataError, naming the groups, where the data would have it otherwise.
    """

    @property
    def name(self) -> str:
        """Short name in reports."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know of the data (rows left out, where the split comes from)."""

    def clips(self, plan: ClipPlan, *, decoder: Decoder | None = None) -> ClipSource:
        """The sources to embed, cut by a plan."""

    def parts(self, embeddings: Embeddings) -> Parts:
        """Embeddings of those sources as training, validation and test features.

        Raises: DataError when a part has no readable sample.
        """

    def metrics(self, outcomes: Outcomes) -> tuple[Metric, ...]:
        """The metrics that apply to a protocol's outcomes, the primary one first."""


TASKS: Registry[Callable[..., Task]] = Registry("task")
"""Tasks by name; each can be built without this by calling it."""

"""The task contract: data with parts, a target, and metrics that know which way is up."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from unreel.core.errors import UsageError
from unreel.core.registry import Registry
from unreel.data.manifest import Manifest
from unreel.data.sampling import ClipPlan
from unreel.media import Decoder
from unreel.protocols.clips import ClipSource
from unreel.protocols.features import Embeddings
from unreel.protocols.head import HeadCard, Predictions
from unreel.protocols.samples import FeatureSet, Truth
from unreel.stats.intervals import Statistic


@dataclass(frozen=True)
class Outcomes:
    """What a head's predictions are worth on each of the N test samples.

    Attributes:
        predictions, truth: what was said, and what is right.
        values: metric name → (N,) outcome per sample; the score is the mean.
        chance: metric name → the score without looking at the input (``chance_rule`` says how it is reached).
        primary: the metric quoted when one number is asked for.
        notes: what a reader should know, of the head and of these samples (a class absent from training).
    """

    predictions: Predictions
    truth: Truth
    values: Mapping[str, NDArray[np.float64]]
    chance: Mapping[str, float]
    primary: str
    notes: tuple[str, ...] = ()
    chance_rule: str = ""

    @property
    def card(self) -> HeadCard:
        """The head's."""
        return self.predictions.card

    @property
    def protocol(self) -> str:
        """The name of what fitted the head."""
        return self.card.protocol

    @property
    def n(self) -> int:
        return len(self.truth)

    def score(self, metric: str | None = None) -> float:
        """Mean outcome of a metric (the primary one by default)."""
        name = self.primary if metric is None else metric
        if name not in self.values:
            raise UsageError(f"{self.protocol} has no metric {name!r}; it has {', '.join(self.values)}")
        return float(self.values[name].mean())


class Resampled(NamedTuple):
    """A metric of a set of samples, as ``bootstrap_ci`` takes it, and the score of looking at nothing."""

    statistic: Statistic
    chance: float


class Measured(NamedTuple):
    """A metric of some outcomes: its value, the score of looking at nothing, and what intervals resample."""

    value: float
    chance: float
    source: NDArray[np.float64] | Statistic


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

    def measure(self, outcomes: Outcomes) -> Measured:
        """What the metric says of outcomes."""
        if self.statistic is None:
            chance = float(outcomes.chance[self.name])
            return Measured(outcomes.score(self.name), chance, outcomes.values[self.name])
        made = self.statistic(outcomes)
        return Measured(float(made.statistic(np.arange(outcomes.n))), made.chance, made.statistic)


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

    def score(self, predictions: Predictions, truth: Truth) -> Outcomes:
        """What a head's predictions are worth. Chance knows the head's training counts and nothing else.

        Raises: UsageError for predictions of a kind that the task does not score, or of other samples.
        """

    def metrics(self, outcomes: Outcomes) -> tuple[Metric, ...]:
        """The metrics that apply to a protocol's outcomes, the primary one first."""


def source_name(data: object) -> str:
    """Where the data of a task is from: the path of a table or folder, or what else there is to say."""
    if isinstance(data, str | os.PathLike):
        return os.path.abspath(data)
    if isinstance(data, Manifest):
        return os.path.abspath(data.table) if data.table else data.root
    if isinstance(data, Sequence) and data and all(isinstance(item, str | os.PathLike) for item in data):
        return str(os.path.commonpath([os.path.abspath(item) for item in data]))
    return "clips in memory"


TASKS: Registry[Callable[..., Task]] = Registry("task")
"""Tasks by name; each can be built without this by calling it."""

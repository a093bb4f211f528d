"""From outcomes to scores: intervals that resample groups, controls beside, paired differences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unreel.stats.intervals import Interval, PairedDifference, Statistic, bootstrap_ci, exact_proportion_ci
from unreel.stats.intervals import paired_bootstrap as paired
from unreel.tasks.baselines import BASELINES
from unreel.tasks.records import Record
from unreel.tasks.scores import Score
from unreel.tasks.task import Task


@dataclass(frozen=True)
class Resampling:
    """How intervals are made: at ``level``, of ``num_resamples`` bootstraps."""

    level: float = 0.95
    num_resamples: int = 2000

    def _options(self, groups: NDArray[Any], seed: int) -> dict[str, Any]:
        return {"groups": groups, "level": self.level, "num_resamples": self.num_resamples, "seed": seed}

    def interval(
        self, values: NDArray[np.float64] | Statistic, groups: NDArray[Any], *, seed: int = 0
    ) -> tuple[Interval | None, str]:
        """The interval of a mean or statistic over whole groups, None for fewer than two; and how it was made."""
        num_groups = len(np.unique(groups))
        if num_groups < 2:
            return None, "none: fewer than two groups"
        found = bootstrap_ci(values, **self._options(groups, seed))
        # All right or all wrong: a bootstrap would claim certainty from any n, the exact binomial does not.
        if found.low == found.high and found.low in (0.0, 1.0):
            found = exact_proportion_ci(int(found.low) * num_groups, num_groups, level=self.level)
            return found, f"exact binomial over {num_groups} groups (all outcomes are equal)"
        return found, f"percentile bootstrap over {num_groups} groups, {self.num_resamples} resamples"

    def difference(
        self,
        a: NDArray[np.float64] | Statistic,
        b: NDArray[np.float64] | Statistic,
        groups: NDArray[Any],
        *,
        seed: int = 0,
    ) -> PairedDifference | None:
        """a − b on the same samples; None for fewer than two groups."""
        if len(np.unique(groups)) < 2:
            return None
        return paired(a, b, **self._options(groups, seed))


def scores_of(task: Task, records: Mapping[str, Record], resampling: Resampling) -> list[Score]:
    """Scores of one protocol for every encoder by name; those of "encoder" and of external ones carry their controls.

    All records are of the same test samples, "encoder" among them.
    """
    scores: list[Score] = []
    main = records["encoder"].outcomes
    seed = records["encoder"].seed
    groups = main.truth.groups if main.truth.groups is not None else np.arange(main.n).astype(str)
    for place, metric in enumerate(task.metrics(main)):
        measured = {name: metric.measure(record.outcomes) for name, record in records.items()}
        for name, mine in measured.items():
            interval, rule = resampling.interval(mine.source, groups, seed=seed)
            references, differences = {}, {}
            for other, theirs in measured.items():
                # Controls are not compared with one another, nor an encoder with what it is the reference of.
                if name in BASELINES or other in (name, "encoder"):
                    continue
                references[other] = theirs.value
                difference = resampling.difference(mine.source, theirs.source, groups, seed=seed)
                if difference is not None:
                    differences[other] = difference
            outcomes = records[name].outcomes
            scores.append(
                Score(
                    encoder=name,
                    protocol=outcomes.protocol,
                    metric=metric.name,
                    value=mine.value,
                    n=main.n,
                    n_groups=len(np.unique(groups)),
                    n_train=records[name].n_train,
                    chance=mine.chance,
                    interval=interval,
                    interval_rule=rule,
                    chance_rule=outcomes.chance_rule,
                    higher_is_better=metric.higher_is_better,
                    primary=place == 0,
                    references=references,
                    differences=differences,
                    settings=dict(outcomes.card.settings),
                )
            )
    return scores

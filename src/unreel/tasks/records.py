"""A record: what one encoder answered to one task by one protocol, as plain values, and the scores made of records."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unreel.core.checks import from_plain
from unreel.core.errors import DataError
from unreel.data.batch import Fault
from unreel.protocols.head import HeadCard, Predictions
from unreel.protocols.samples import Truth
from unreel.stats.intervals import Interval, Statistic, bootstrap_ci, exact_proportion_ci, paired_bootstrap
from unreel.tasks.baselines import BASELINES
from unreel.tasks.scores import Score, plain
from unreel.tasks.task import Outcomes, Task

_FORMAT = 1
_PLAIN = ("chance", "primary", "chance_rule")
_OWN = ("about", "seed", "n_train", "n_val", "scores", "faults", "notes")


@dataclass(frozen=True)
class Record:
    """Everything that a score, its interval and its differences need.

    Attributes:
        about: what tells this from other records: the task's words, the encoder's digest, clips, pooling.
        seed: seed for the split where the data have none, for selection, and for resampling.
        n_train, n_val: sizes of the parts.
        outcomes: per test sample. scores: metric → value, n, chance, direction (None: it has none).
        faults: what could not be read.
    """

    about: Mapping[str, str]
    seed: int
    n_train: int
    n_val: int
    outcomes: Outcomes
    scores: Mapping[str, Mapping[str, Any]]
    faults: tuple[Mapping[str, str], ...] = ()
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> str:
        """One line; equal records are equal bytes. Of a classifier its answers are kept: no score needs more."""
        found = self.outcomes
        said = found.predictions
        outcomes = {
            **{name: getattr(found, name) for name in _PLAIN},
            "notes": found.notes,
            "values": found.values,
            "kind": said.kind,
            "card": asdict(said.card),
            "answers": None if said.scores is None else said.scores.argmax(1),
            **asdict(found.truth),
        }
        own = {name: getattr(self, name) for name in _OWN}
        return json.dumps(plain({"format": _FORMAT, **own, "outcomes": outcomes}), ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, name: str = "the record") -> Record:
        """A record again. Raises DataError, which speaks of ``name``, where it is none."""
        try:
            values = json.loads(text)
            if values.pop("format") != _FORMAT:
                raise DataError(f"{name} was written by another version of unreel; delete it and run again")
            found = values.pop("outcomes")
            card = from_plain(HeadCard, found["card"])
            scores = None if found["answers"] is None else np.eye(len(card.classes))[found["answers"]]
            truth = {k: None if found[k] is None else np.array(found[k]) for k in ("labels", "groups", "ids")}
            outcomes = Outcomes(
                Predictions(found["kind"], card, scores=scores),
                Truth(**truth),  # type: ignore[arg-type]
                {k: np.array(v, dtype=np.float64) for k, v in found["values"].items()},
                notes=tuple(found["notes"]),
                **{k: found[k] for k in _PLAIN},
            )
            values |= {k: tuple(values[k]) for k in ("faults", "notes")}
            return cls(**values, outcomes=outcomes)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{name} is not a whole record ({error}); delete it and run again") from None


def record_of(
    task: Task,
    outcomes: Outcomes,
    *,
    about: Mapping[str, str],
    seed: int,
    sizes: Mapping[str, int],
    faults: Sequence[Fault],
) -> Record:
    """The record of a task's outcomes; ``sizes``: of the parts, "n_train" and "n_val"."""
    scores = {}
    for metric in task.metrics(outcomes):
        value, chance, _ = metric.measure(outcomes)
        facts = {"value": value, "n": outcomes.n, "chance": chance, "higher_is_better": metric.higher_is_better}
        scores[metric.name] = facts
    unreadable = tuple({"path": f.path, "cause": f.cause, "message": f.message} for f in faults)
    return Record(about, seed, sizes["n_train"], sizes["n_val"], outcomes, scores, unreadable, tuple(task.notes))


@dataclass(frozen=True)
class Resampling:
    """How intervals are made: at ``level``, of ``num_resamples`` bootstraps."""

    level: float = 0.95
    num_resamples: int = 2000

    def interval(
        self, values: NDArray[np.float64] | Statistic, groups: NDArray[Any], *, seed: int = 0
    ) -> tuple[Interval | None, str]:
        """The interval of a mean or statistic over whole groups, None for fewer than two; and how it was made."""
        num_groups = len(np.unique(groups))
        if num_groups < 2:
            return None, "none: fewer than two groups"
        found = bootstrap_ci(values, groups=groups, seed=seed, **vars(self))
        # All right or all wrong: a bootstrap would claim certainty from any n, the exact binomial does not.
        if found.low == found.high and found.low in (0.0, 1.0):
            found = exact_proportion_ci(int(found.low) * num_groups, num_groups, level=self.level)
            return found, f"exact binomial over {num_groups} groups (all outcomes are equal)"
        return found, f"percentile bootstrap over {num_groups} groups, {self.num_resamples} resamples"


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
                if interval is not None:
                    options = {"groups": groups, "seed": seed, **vars(resampling)}
                    differences[other] = paired_bootstrap(mine.source, theirs.source, **options)
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

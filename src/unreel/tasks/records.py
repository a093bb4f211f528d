"""A record: what one encoder answered to one task by one protocol, as plain values that scores are made from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from unreel.core.errors import DataError
from unreel.data.batch import Fault
from unreel.protocols.head import HeadCard, Predictions
from unreel.protocols.samples import Truth
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
            card = HeadCard.from_dict(found["card"])
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
    sizes: tuple[int, int],
    faults: Sequence[Fault],
) -> Record:
    """The record of a task's outcomes; ``sizes``: of the training and the validation part."""
    scores = {}
    for metric in task.metrics(outcomes):
        value, chance, _ = metric.measure(outcomes)
        scores[metric.name] = {
            "value": value,
            "n": outcomes.n,
            "chance": chance,
            "higher_is_better": metric.higher_is_better,
        }
    unreadable = tuple({"path": f.path, "cause": f.cause, "message": f.message} for f in faults)
    return Record(about, seed, *sizes, outcomes, scores, unreadable, tuple(task.notes))


def plain(value: Any) -> Any:
    """Numbers and names for JSON, whatever arrays and tuples they came in."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value.tolist() if hasattr(value, "tolist") else value

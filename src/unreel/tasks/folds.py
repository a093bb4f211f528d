"""Folds: parts that take turns, and what was said of them in one list, as if it had been one test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unreel.metrics.retrieval import Neighbours
from unreel.protocols.head import HeadCard, Predictions
from unreel.protocols.samples import Truth
from unreel.tasks.task import Outcomes, Task


def folds_of(task: Task) -> Sequence[Task]:
    """The tasks of a task's folds, each with parts of its own; the task itself where it has none."""
    return getattr(task, "folds", ()) or (task,)


def pooled(outcomes: Sequence[Outcomes], *, unit: str = "fold") -> Outcomes:
    """Outcomes of several tests as those of one; a single one is as it was.

    Metrics that not every test has are left out. Chance is the mean over samples. The card counts the training samples
    of all tests, and has for each setting the value of all, or a list of them. A class that a fit has not seen has the
    lowest score there.

    Args:
        outcomes: of one protocol. unit: what tells the tests apart, for notes.
    """
    if len(outcomes) == 1:
        return outcomes[0]
    first = outcomes[0]
    shares = np.array([o.n for o in outcomes]) / sum(o.n for o in outcomes)
    names = [name for name in first.values if all(name in o.values for o in outcomes)]
    card = _card([o.card for o in outcomes], unit)
    return Outcomes(
        _predictions([o.predictions for o in outcomes], card),
        Truth(
            np.concatenate([o.truth.labels for o in outcomes]),
            _joined([o.truth.groups for o in outcomes]),
            _joined([o.truth.ids for o in outcomes]),
        ),
        {name: np.concatenate([o.values[name] for o in outcomes]) for name in names},
        {name: float(shares @ [o.chance[name] for o in outcomes]) for name in names},
        first.primary,
        _told([o.notes for o in outcomes], unit),
        first.chance_rule,
    )


def _joined(arrays: Sequence[NDArray[Any] | None]) -> NDArray[Any] | None:
    found = [a for a in arrays if a is not None]
    return np.concatenate(found) if len(found) == len(arrays) else None


def _told(notes: Sequence[Sequence[str]], unit: str) -> tuple[str, ...]:
    """Notes of several tests: those of all once, the others with the number of the test."""
    everyone = [note for note in notes[0] if all(note in own for own in notes)]
    others = [f"{unit} {i}: {note}" for i, own in enumerate(notes, 1) for note in own if note not in everyone]
    return (*dict.fromkeys(everyone), *others)


def _card(cards: Sequence[HeadCard], unit: str) -> HeadCard:
    counts: dict[Any, int] = {}
    for card in cards:
        for name, count in zip(card.classes, card.counts, strict=True):
            counts[name] = counts.get(name, 0) + count
    settings: dict[str, object] = {}
    for name in dict.fromkeys(key for card in cards for key in card.settings):
        values = [card.settings.get(name) for card in cards]
        settings[name] = values[0] if all(value == values[0] for value in values) else values
    classes = sorted(counts)
    return replace(
        cards[0],
        classes=tuple(classes),
        counts=tuple(counts[name] for name in classes),
        settings=settings,
        notes=_told([card.notes for card in cards], unit),
    )


def _predictions(said: Sequence[Predictions], card: HeadCard) -> Predictions:
    if said[0].kind == "neighbours":
        return _neighbours(said, card)
    where: Mapping[Any, int] = {name: i for i, name in enumerate(card.classes)}

    def spread(values: NDArray[np.float64], classes: Sequence[Any], missing: float) -> NDArray[np.float64]:
        wide = np.full((len(values), len(where)), missing)
        wide[:, [where[name] for name in classes]] = values
        return wide

    scores = [spread(p.scores, p.card.classes, -np.inf) for p in said if p.scores is not None]
    chances = [spread(p.probabilities, p.card.classes, 0.0) for p in said if p.probabilities is not None]
    probabilities = np.concatenate(chances) if len(chances) == len(said) else None
    return Predictions(said[0].kind, card, scores=np.concatenate(scores), probabilities=probabilities)


def _neighbours(said: Sequence[Predictions], card: HeadCard) -> Predictions:
    """Neighbours in galleries set one after the other; the order beyond the nearest is not kept."""
    galleries = [p.gallery for p in said if p.gallery is not None]
    found = [p.neighbours for p in said if p.neighbours is not None]
    width = min(n.indices.shape[1] for n in found)
    starts = np.cumsum([0, *(len(g.labels) for g in galleries[:-1])])
    moved = [
        np.where(n.indices[:, :width] < 0, -1, n.indices[:, :width] + start)
        for n, start in zip(found, starts, strict=True)
    ]
    similarities = np.concatenate([n.similarities[:, :width] for n in found])
    gallery = replace(
        galleries[0],
        queries=np.concatenate([g.queries for g in galleries]),
        vectors=galleries[0].vectors[:0],
        labels=np.concatenate([g.labels for g in galleries]),
        ids=np.concatenate([g.ids for g in galleries]),
        query_ids=None,
        query_groups=None,
        groups=None,
    )
    return Predictions("neighbours", card, neighbours=Neighbours(np.concatenate(moved), similarities), gallery=gallery)

"""What a run's own records say is wrong with it: an accuracy that falls, embeddings that are all alike."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

log = logging.getLogger(__name__)

_RECORDS = 10  # fewer tell nothing
_WINDOW = 5  # records that are averaged
_FALL = 3  # a mean this many times nearer to chance than the best has fallen
_CLEAR = 4  # times chance: a best below that was none
_ALIKE = 1e-5  # share of the embeddings' energy; those of random weights have a thousand times as much


def findings(records: Iterable[Mapping[str, Any]], chance: Mapping[str, float] | None = None) -> list[str]:
    """Sentences on accuracies that fell far below their best, or to chance. ``chance``: by name, where known.

    Each is a mean over several records, so that one batch says nothing.
    """
    told = []
    rows = list(records)
    for name in dict.fromkeys(n for row in rows for n in row if "accuracy" in n and not n.startswith("probe.")):
        points = [(int(r["step"]), float(r[name])) for r in rows if r.get(name) is not None]
        if len(points) < _RECORDS:
            continue
        steps, values = np.array(points).T
        means = np.convolve(values, np.ones(_WINDOW) / _WINDOW, "valid")
        best, last, level = int(means.argmax()), float(means[-1]), (chance or {}).get(name)
        # Of two answers nobody is right four times as often as by chance: half of what is left to gain is clear of it.
        clear = _CLEAR * 0.025 if level is None else min(_CLEAR * level, (1 + level) / 2)
        blind = level or 0.0
        if means[best] < clear or last - blind >= (means[best] - blind) / _FALL:
            continue
        now = f"{100 * last:.2g} %" + ("" if level is None else f" (chance is {100 * level:.2g} %)")
        told.append(
            f"{name.replace('_', ' ')} fell from {100 * means[best]:.2g} % near step {steps[best + _WINDOW // 2]:.0f} "
            f"to {now}: the encoder no longer tells apart what it did. Usual causes are a learning rate too high, "
            "a teacher too fast, a queue whose keys are easy to tell by their age, and embeddings that "
            "have collapsed. Compare it with random weights (unreel evaluate) before you use it."
        )
    return told


def watch(
    chance: Mapping[str, float], before: Sequence[Mapping[str, Any]] = ()
) -> Callable[[Mapping[str, float]], None]:
    """A ``Monitor``'s echo that warns in the log, once per quantity. ``before``: records of a run that goes on."""
    records: list[Mapping[str, Any]] = list(before)
    said = {text.split(" fell ")[0] for text in findings(records, chance)}

    def look(record: Mapping[str, float]) -> None:
        records.append(record)
        for text in findings(records, chance):
            name = text.split(" fell ")[0]
            if name not in said:
                said.add(name)
                log.warning("step %d: %s", record["step"], text)

    return look


def spread(vectors: ArrayLike) -> float:
    """Share of the energy of embeddings (N, D) that differs between samples, in [0, 1]; 0 where all are the same."""
    values: NDArray[np.float64] = np.asarray(vectors, dtype=np.float64)
    energy = float((values**2).sum(1).mean())
    return float(values.var(0).sum()) / energy if energy > 0 else 0.0


def collapsed(vectors: ArrayLike) -> bool:
    """Whether embeddings (N, D) of two or more samples are all but equal."""
    return len(np.asarray(vectors)) > 1 and spread(vectors) < _ALIKE

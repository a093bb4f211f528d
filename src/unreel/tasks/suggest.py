"""Which files to label next: those that stand for most of what no label covers yet."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unreel.core.checks import Count, checked
from unreel.core.text import shown
from unreel.data.columns import ANY_COLUMNS, Columns
from unreel.data.manifest import Manifest, Source
from unreel.nn.encoder import Encoder
from unreel.protocols.calibration import fit_calibrated
from unreel.protocols.clips import as_clip_source
from unreel.protocols.compute import USUAL, Compute
from unreel.protocols.features import Embeddings, embed_all
from unreel.protocols.linear import LinearProbe
from unreel.protocols.samples import FeatureSet
from unreel.tasks.predict import open_labels

# Of directions from the middle of all files: nearer ones are the same scene once more.
_SAME = 0.98
_ROWS = 1024


class Proposal(NamedTuple):
    """A file whose label would teach much: its row, and what a head on the labels so far takes it for ("" without)."""

    path: str
    row: int
    guess: str = ""
    probability: float = float("nan")


@checked
def most_telling(
    vectors: NDArray[Any], labelled: Sequence[int], count: Count, *, unsure: NDArray[Any] | None = None
) -> list[int]:
    """Greedy cover (Nemhauser et al. 1978): each next one brings most files nearer to one that is chosen or labelled.

    A near-duplicate of one that is chosen or labelled is never proposed, so that there may be fewer than ``count``.

    Args:
        vectors: (N, D). labelled: rows that need no label.
        unsure: (N,) how much each file matters, 0 to 1, such as how unsure a head is of it; ``None``: all alike.
    """
    centred = vectors - vectors.mean(0, dtype=np.float64)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True).clip(1e-12)
    weight = np.ones(len(unit)) if unsure is None else np.asarray(unsure, np.float64)
    nearest = np.full(len(unit), -1.0)  # the cosine to the nearest that is labelled or chosen
    for row in labelled:
        nearest = np.maximum(nearest, unit @ unit[row])
    free = np.ones(len(unit), bool)
    free[list(labelled)] = False
    chosen: list[int] = []
    while len(chosen) < count:
        candidates = np.flatnonzero(free & (nearest < _SAME))
        if not len(candidates):
            break
        gains = np.concatenate(
            [
                np.maximum(unit[candidates[start : start + _ROWS]] @ unit.T - nearest, 0) @ weight
                for start in range(0, len(candidates), _ROWS)
            ]
        )
        best = int(candidates[gains.argmax()])
        chosen.append(best)
        free[best] = False
        nearest = np.maximum(nearest, unit @ unit[best])
    return chosen


def suggest(
    encoder: Encoder,
    data: Source,
    *,
    labels: str | os.PathLike[str] | None = None,
    count: int = 10,
    columns: Columns = ANY_COLUMNS,
    compute: Compute = USUAL,
) -> list[Proposal]:
    """The files of the data that are most telling to label next. See ``unreel.suggest``."""
    manifest = Manifest.open(data)
    found = embed_all([encoder], as_clip_source(manifest, encoder, decoder=compute.decoder), compute=compute)[0]
    names: dict[int, str] = {}
    if labels is not None and len(Path(labels).read_text(encoding="utf-8").splitlines()) > 1:
        known, column = open_labels(labels, manifest, columns=columns, least=1)
        places = {os.path.abspath(manifest.absolute(int(row))): i for i, row in enumerate(found.rows)}
        for j, row in enumerate(known):
            place = places.get(os.path.abspath(known.absolute(j)))
            if place is not None and row.labels.get(column):
                names[place] = row.labels[column]
    guess, probability = _guessed(found, names)
    unsure = None if not guess else 1 - np.asarray(probability)
    chosen = most_telling(found.vectors, list(names), count, unsure=unsure)
    return [
        Proposal(
            shown(manifest.relative(int(found.rows[i]))),
            int(found.rows[i]),
            *((guess[i], probability[i]) if guess else ()),
        )
        for i in chosen
    ]


def _guessed(found: Embeddings, names: dict[int, str]) -> tuple[list[str], list[float]]:
    """What a head on the labels so far says of every file; nothing where there are too few to fit one."""
    if sum(n >= 2 for n in Counter(names.values()).values()) < 2:
        return [], []
    rows = sorted(names)
    samples = FeatureSet(found.vectors[rows], np.array([names[i] for i in rows]), ids=found.ids[rows])
    said = fit_calibrated(LinearProbe(c=1.0), samples).predict(found.vectors).calibrated()
    assert said.probabilities is not None
    return [str(name) for name in said.labels], [float(p) for p in said.probabilities.max(1)]

"""Label tasks: which class is this source of?"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unreel.core.errors import DataError, UsageError
from unreel.data.manifest import Manifest, Source
from unreel.data.sampling import ClipPlan
from unreel.media import Decoder
from unreel.metrics.retrieval import chance_average_precision, chance_hit_at_k, retrieval_outcomes
from unreel.protocols.clips import ArrayClips, ClipSource
from unreel.protocols.features import Embeddings
from unreel.protocols.head import Head, HeadCard, Predictions
from unreel.protocols.protocol import encode
from unreel.protocols.samples import FeatureSet, Truth, check_unique
from unreel.tasks.labelled import Folds, Labelled, SplitRule, check_parts
from unreel.tasks.task import TASKS, Metric, Outcomes, Parts, Resampled, source_name
from unreel.tasks.trained import Examples


def score_labels(predictions: Predictions, truth: Truth) -> Outcomes:
    """What predictions of classes, or neighbours with labels, are worth.

    Classes: accuracy, and top-5 accuracy from six classes on. Neighbours: hit@k per query, and its average precision.
    Raises: UsageError for predictions of another kind, or of other samples.
    """
    if len(predictions) != len(truth):
        raise UsageError(f"{len(predictions)} predictions do not belong to {len(truth)} samples")
    if predictions.kind == "neighbours":
        return _score_neighbours(predictions, truth)
    if predictions.kind != "classes":
        raise UsageError(f"labels are compared with classes or neighbours, and this head predicts {predictions.kind}")
    assert predictions.scores is not None
    card, classes = predictions.card, predictions.classes
    codes = encode(truth.labels, classes)
    # argsort is stable: of equal scores the earlier class wins, as in argmax.
    ranking = np.argsort(-predictions.scores, axis=1, kind="stable")
    values = {"accuracy": (ranking[:, 0] == codes).astype(np.float64)}
    chance = {"accuracy": blind_accuracy(card, codes)}
    if len(classes) > 5:
        by_frequency = np.argsort(-np.array(card.counts), kind="stable")
        values["top5"] = (ranking[:, :5] == codes[:, None]).any(1).astype(np.float64)
        chance["top5"] = float(np.isin(codes, by_frequency[:5]).mean())
    notes = card.notes
    unseen = np.unique(truth.labels[codes < 0])
    if unseen.size:
        names, number = ", ".join(str(v) for v in unseen[:5]), int((codes < 0).sum())
        note = f"{number} test samples have a label that training never shows ({names}): wrong by definition"
        notes = (*notes, note)
    rule = "the better of always answering the most frequent training class and guessing at its shares"
    return Outcomes(predictions, truth, values, chance, "accuracy", notes, rule)


def score_head(head: Head, test: FeatureSet) -> Outcomes:
    """What a head is worth on labelled features; it sees no label."""
    return score_labels(head.predict(test.unlabelled), test.truth)


def _score_neighbours(predictions: Predictions, truth: Truth) -> Outcomes:
    gallery = predictions.gallery
    assert gallery is not None
    found = retrieval_outcomes(
        gallery.queries,
        gallery.vectors,
        truth.labels,
        gallery.labels,
        ks=gallery.ks,
        similarity=gallery.similarity,
        found=predictions.neighbours,
        **gallery.exclusions,
    )
    assert found.average_precision is not None
    values = {f"hit@{k}": found.hits[k] for k in gallery.ks} | {"mAP": found.average_precision}
    relevant, candidates = found.num_relevant, found.num_candidates
    chance = {f"hit@{k}": chance_hit_at_k(relevant, candidates, k) for k in gallery.ks}
    chance["mAP"] = chance_average_precision(relevant, candidates)
    notes = predictions.card.notes
    if (relevant == 0).any():
        notes = (*notes, f"{int((relevant == 0).sum())} queries have no gallery sample of their class: counted 0")
    primary = f"hit@{gallery.ks[0]}"
    return Outcomes(predictions, truth, values, chance, primary, notes, "a random order of the gallery")


def class_shares(card: HeadCard) -> NDArray[np.float64]:
    """The share of each class in training."""
    counts = np.array(card.counts)
    shares: NDArray[np.float64] = counts / counts.sum()
    return shares


def blind_accuracy(card: HeadCard, codes: NDArray[np.int64]) -> float:
    """The better of answering the most frequent training class and guessing at its shares; ``codes``: true classes."""
    shares = class_shares(card)
    constant = float(np.mean(codes == int(shares.argmax())))
    return max(constant, float(np.where(codes >= 0, shares[codes], 0.0).mean()))


def _set_metric(outcomes: Outcomes, kind: str) -> Resampled:
    """Balanced accuracy or macro F1 as a function of sample indices; counting on integers keeps resampling quick.

    A class without a sample in a resample does not count there, as ``metrics.classification`` defines it. Chance is the
    better of always answering the most frequent training class and guessing at training shares.
    """
    labels, classes = outcomes.truth.labels, outcomes.predictions.classes
    # With the training classes: blind answers name them even where no test sample has them and none is predicted.
    everything = np.concatenate([labels, outcomes.predictions.labels, classes])
    names, codes = np.unique(everything, return_inverse=True)
    truth, guess = codes[: outcomes.n], codes[outcomes.n : 2 * outcomes.n]
    num = len(names)

    def score(rows: NDArray[np.int64], predicted: NDArray[Any]) -> float:
        t, p = truth[rows], predicted[rows]
        support = np.bincount(t, minlength=num)
        right = np.bincount(t[t == p], minlength=num)
        if kind == "balanced_accuracy":
            seen = support > 0
            return float((right[seen] / support[seen]).mean())
        both = support + np.bincount(p, minlength=num)
        seen = both > 0
        return float((2 * right[seen] / both[seen]).mean())

    shares = dict(zip(classes.tolist(), class_shares(outcomes.card).tolist(), strict=True))
    best = max(shares, key=lambda c: shares[c])
    constant = score(np.arange(outcomes.n), np.full(outcomes.n, int(np.flatnonzero(names == best)[0])))
    present = np.bincount(truth, minlength=num) / outcomes.n
    guessed = np.array([shares.get(name, 0.0) for name in names.tolist()])
    seen = present > 0
    if kind == "balanced_accuracy":
        guessing = float(guessed[seen].mean())  # a class is found as often as it is guessed
    else:  # precision is the class's share, recall how often it is guessed
        both = present + guessed
        guessing = float((2 * present * guessed / np.where(both > 0, both, 1))[both > 0].mean())
    return Resampled(lambda rows: score(rows, guess), max(constant, guessing))


BALANCED_ACCURACY = Metric("balanced_accuracy", statistic=lambda o: _set_metric(o, "balanced_accuracy"))
MACRO_F1 = Metric("macro_f1", statistic=lambda o: _set_metric(o, "macro_f1"))


class ScoresLabels:
    """What the tasks of labels share: how predictions are scored, and which metrics there are."""

    def score(self, predictions: Predictions, truth: Truth) -> Outcomes:
        """As ``score_labels``."""
        return score_labels(predictions, truth)

    def metrics(self, outcomes: Outcomes) -> tuple[Metric, ...]:
        """The protocol's own, its primary first; for classifiers also balanced accuracy and macro F1."""
        own = sorted(outcomes.values, key=lambda name: name != outcomes.primary)
        extra = (BALANCED_ACCURACY, MACRO_F1) if outcomes.predictions.kind == "classes" else ()
        return (*(Metric(name) for name in own), *extra)


@TASKS.register("label")
class LabelTask(ScoresLabels):
    """One label per source, with parts that never share a group.

    Parts come from the manifest's ``split`` column; without one, from a hash of the group (or of the path where a
    source has no group), so that adding sources moves no other. Sources without the label are left out, with a note.

    Args:
        data: a manifest, what makes one (a folder with one sub-folder per class, a table), or ``ArrayClips``.
        label: the label column; ``None``: "label", or the only one there is.
        group: the group column; ``None``: "group", or the only one there is, or else the file itself.
        train, validation, test: names of the splits, read as ``data.split_names.splits_meant`` says. Without a
            ``test`` split the validation split is tested on.
        splits: one split per source, instead of the data's own.
        test_fraction: share for a hash split. seed: of that split.
        folds: instead of parts, this many folds of whole groups. Each is tested once, by what was fitted on the others:
            ``folds`` then holds a task for each, with parts of its own, and this task has none.
    Raises: UsageError for an ambiguous column, and for more folds than groups; DataError for labels that are missing,
        fewer than two classes, an empty part, or a group that straddles parts, with the names.
    """

    def __init__(
        self,
        data: Source | ArrayClips,
        *,
        label: str | None = None,
        group: str | None = None,
        train: str = "train",
        validation: str = "val",
        test: str = "test",
        splits: Sequence[str] | None = None,
        test_fraction: float = 0.3,
        seed: int = 0,
        folds: int | None = None,
    ) -> None:
        rule = SplitRule(train, validation, test, test_fraction, seed)
        self.source = source_name(data)
        self.sources = known = Labelled.of(data, label, group, splits=splits is None and folds is None)
        self.data, self.label, self.group = known.data, known.label, known.group
        labels, own_splits, notes = known.labels, known.splits, []
        #: What must stay together, per source.
        self.identities = known.identities
        self.labels = np.array(labels)
        if splits is not None:
            if len(splits) != len(labels):
                raise UsageError(f"splits: expected one per source ({len(labels)}), got {len(splits)}")
            own_splits = [str(s) for s in splits]
        labelled = np.array([bool(v) for v in labels])
        if not labelled.all():
            notes.append(
                f"{int((~labelled).sum())} of {len(labels)} sources have no {self.label!r} label and are left out"
            )
        #: Where the parts come from, to tell two evaluations apart.
        self.split_rule = rule.told(own_splits)
        names = self.data.one_name_each() if isinstance(self.data, Manifest) else known.files
        #: One task for each fold; empty without folds.
        self.folds: tuple[LabelTask, ...] = ()
        each: list[NDArray[Any]] = []
        if folds is None:
            self.roles, told = rule.roles(own_splits, labelled, self.identities, where=known.where, group=self.group)
            check_parts(self.roles, self.identities, names, noun="labelled source")
        else:
            turns = Folds(folds, seed)
            self.split_rule, self.roles = turns.told, np.where(labelled, "fold", "")
            each, told = turns.roles(own_splits, labelled, self.identities, labels)
        classes = Counter(self.labels[self.roles != ""].tolist())
        if len(classes) < 2:
            raise DataError(f"label {self.label!r} has a single class, {next(iter(classes))!r}: nothing to tell apart")
        self.notes = (*notes, *told)
        self.folds = tuple(self._fold(roles, names) for roles in each)

    def _fold(self, roles: NDArray[Any], names: Sequence[str]) -> LabelTask:
        check_parts(roles, self.identities, names, noun="labelled source")
        fold = copy.copy(self)
        fold.roles = roles
        return fold

    @property
    def name(self) -> str:
        return self.label

    @property
    def about(self) -> dict[str, str]:
        """What tells this task from others in a run's folder: data, label and where the split comes from."""
        return {"data": self.source, "label": self.label, "group": self.group, "split": self.split_rule}

    @cached_property
    def classes(self) -> list[str]:
        """Sorted classes of the labelled sources in any part."""
        return sorted(set(self.labels[self.roles != ""].tolist()))

    def clips(self, plan: ClipPlan, *, decoder: Decoder | None = None) -> ClipSource:
        """The labelled sources that are in a part, cut by a plan."""
        return self.sources.clips(self.used, plan, decoder)

    def examples(self, role: str) -> Examples | None:
        """The labelled rows of "train", "val" or "test", for protocols that train; None where there are none.

        Raises: UsageError for clips in memory.
        """
        if isinstance(self.data, ArrayClips):
            raise UsageError("clips in memory cannot be trained on: write the videos to files and give a manifest")
        rows = np.flatnonzero(self.roles == role)
        if not rows.size:
            return None
        return Examples(self.data.subset(rows), self.label, np.array(self.identities)[rows])

    @cached_property
    def used(self) -> list[int]:
        """Positions in the data of the sources that are in a part."""
        return [int(i) for i in np.flatnonzero(self.roles != "")]

    def parts(self, embeddings: Embeddings) -> Parts:
        """Embeddings of ``clips`` by part, with all their views; raises DataError for an empty part."""
        if self.folds:
            raise UsageError("a task with folds has no parts of its own: ask each of its .folds")
        positions = np.array(self.used)[embeddings.rows]
        roles = self.roles[positions]
        vectors, ids = embeddings.views, embeddings.ids
        check_unique(ids)
        identities = np.array(self.identities)[positions]

        def part(role: str) -> FeatureSet | None:
            mask = roles == role
            if not mask.any():
                return None
            return FeatureSet(vectors[mask], self.labels[positions][mask], identities[mask], ids[mask])

        train, test = part("train"), part("test")
        if train is None or test is None:
            raise DataError(f"no source of the {'train' if train is None else 'test'} part could be read")
        return Parts(train, part("val"), test)

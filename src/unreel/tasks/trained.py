"""Protocols that train on the videos themselves, each encoder by the same recipe, and are tested on the same videos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from unreel.core.errors import DataError, UsageError
from unreel.data.batch import Fault
from unreel.data.manifest import Manifest
from unreel.data.sampling import ClipPlan
from unreel.nn.encoder import Encoder
from unreel.protocols.calibration import Mask, cross_validate
from unreel.protocols.clips import ManifestClips
from unreel.protocols.compute import USUAL, Compute
from unreel.protocols.features import Embeddings, embed_all, merge_faults
from unreel.protocols.head import Head, Predictions
from unreel.protocols.samples import FeatureSet, Truth
from unreel.tasks.task import Outcomes, Task


class Examples(NamedTuple):
    """The labelled rows of one part: as a manifest with one label column, and what must stay together, per row."""

    manifest: Manifest
    label: str
    groups: NDArray[Any]

    @property
    def labels(self) -> NDArray[Any]:
        return np.array(self.manifest.labels(self.label))

    def select(self, mask: NDArray[np.bool_]) -> Examples:
        return Examples(self.manifest.subset(np.flatnonzero(mask)), self.label, self.groups[mask])

    def joined(self, other: Examples) -> Examples:
        manifest = replace(self.manifest, rows=(*self.manifest.rows, *other.manifest.rows))
        return Examples(manifest, self.label, np.concatenate([self.groups, other.groups]))

    def canonical(self) -> Examples:
        """The rows in an order of their own, so that training does not depend on the order given."""
        order = sorted(range(len(self.manifest)), key=self.manifest.sample_id)
        return Examples(self.manifest.subset(order), self.label, self.groups[order])


@runtime_checkable
class HasExamples(Protocol):
    """A task whose parts are files with labels."""

    def examples(self, role: str) -> Examples | None:
        """The rows of "train", "val" or "test"; None where there are none. Raises UsageError for what is no file."""


class Adapted(NamedTuple):
    """A trained copy of the encoder, and the head on its embeddings."""

    encoder: Encoder
    head: Head


@runtime_checkable
class TrainedProtocol(Protocol):
    """How an encoder is trained further before it is tested.

    Pure: equal encoders, examples (in any order) and seeds give equal results. Test examples are not an argument.
    """

    @property
    def name(self) -> str:
        """Short name in reports ("finetune")."""

    def adapt(
        self,
        encoder: Encoder,
        train: Examples,
        validation: Examples | None,
        *,
        plan: ClipPlan,
        seed: int = 0,
        compute: Compute = USUAL,
    ) -> Adapted:
        """Train a copy of ``encoder``; ``plan`` is how test clips will be cut. ``encoder`` is left as it was."""


class TrainedResult(NamedTuple):
    """Outcomes per encoder on the same test videos, which could not be read, and the sizes of the parts."""

    outcomes: dict[str, Outcomes]
    faults: tuple[Fault, ...]
    sizes: dict[str, int]
    classes: list[str]


def run_trained(
    protocol: TrainedProtocol,
    nets: Mapping[str, tuple[Encoder, ClipPlan]],
    task: Task,
    *,
    seed: int,
    compute: Compute,
) -> TrainedResult:
    """Adapt every encoder by the same recipe and test each once, on the videos that all could be given.

    Args:
        nets: encoders by name, with the test clips of each.
        compute: of training and test; test clips of a trained net are not kept in the store.
    Raises: UsageError for a task without files; DataError for a part without rows.
    """
    if not isinstance(task, HasExamples):
        raise UsageError(
            f"protocol {protocol.name} trains on labelled files of one data set, which {type(task).__name__} has none "
            "of; give a manifest or a folder, without a gallery"
        )
    train, validation, test = (task.examples(role) for role in ("train", "val", "test"))
    if train is None or test is None:
        raise DataError(f"protocol {protocol.name}: the {'train' if train is None else 'test'} part is empty")
    found: dict[str, Embeddings] = {}
    heads: dict[str, Head] = {}
    for name, (encoder, plan) in nets.items():
        tuned, heads[name] = protocol.adapt(encoder, train, validation, plan=plan, seed=seed, compute=compute)
        clips = ManifestClips(test.manifest, plan, label=test.label, decoder=compute.decoder)
        found[name] = embed_all([tuned], clips, compute=replace(compute, store=None))[0]
    common = sorted(set.intersection(*(set(e.rows.tolist()) for e in found.values())))
    outcomes = {}
    for name, e in found.items():
        same = e.select(np.isin(e.rows, common))
        truth = Truth(test.labels[same.rows], test.groups[same.rows], same.ids)
        predictions = heads[name].predict(FeatureSet(same.per_view, groups=truth.groups, ids=truth.ids))
        outcomes[name] = task.score(predictions, truth)
    classes = sorted({*train.labels.tolist(), *test.labels.tolist()})
    n_val = 0 if validation is None else len(validation.manifest)
    sizes = {"n_train": len(train.manifest), "n_val": n_val, "n_test": len(common)}
    return TrainedResult(outcomes, merge_faults(found.values()), sizes, classes)


def adapt_calibrated(
    protocol: TrainedProtocol,
    encoder: Encoder,
    train: Examples,
    validation: Examples | None = None,
    *,
    plan: ClipPlan,
    noun: str = "group",
    others: int | None = None,
    seed: int = 0,
    compute: Compute = USUAL,
) -> Adapted:
    """``protocol.adapt``, with a temperature and the accuracy to expect on the head's card; see ``cross_validate``.

    For them the encoder is trained once more for every fold.

    Args:
        train, validation: files that can be read. noun, others: see ``cross_validate``.
    """
    tuned, head = protocol.adapt(encoder, train, validation, plan=plan, seed=seed, compute=compute)
    everything = (train if validation is None else train.joined(validation)).canonical()

    def ask(training: Mask, test: Mask) -> Predictions:
        net, own = protocol.adapt(encoder, everything.select(training), None, plan=plan, seed=seed, compute=compute)
        clips = ManifestClips(everything.select(test).manifest, plan, label=train.label, decoder=compute.decoder)
        return own.predict(embed_all([net], clips, compute=replace(compute, store=None, progress=False))[0].views)

    found = cross_validate(ask, everything.labels, everything.groups, noun=noun, others=others, seed=seed)
    return Adapted(tuned, found.on_card(head))

"""Clip order: of two clips of one video, which came first? No label is needed, only the clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from unreel.core.errors import DataError, UsageError
from unreel.core.keys import Key
from unreel.data.manifest import Manifest, Source
from unreel.data.sampling import ClipPlan
from unreel.media import Decoder, MediaError
from unreel.protocols.clips import ArrayClips, ClipSource, ManifestClips
from unreel.protocols.features import Embeddings
from unreel.protocols.samples import FeatureSet
from unreel.tasks.classification import LabelTask
from unreel.tasks.task import TASKS, Parts, source_name

IN_ORDER, SWAPPED = "in order", "swapped"


@TASKS.register("clip_order")
class ClipOrderTask(LabelTask):
    """Were these two clips filmed in the order in which they are given? Chance is 1/2.

    The first and the last clip of a video's plan stand side by side, swapped with probability 1/2 by a draw that
    depends on the source and the seed alone; a probe sees both embeddings and their difference, 3 · D features.
    What it reaches above chance is what the embedding of a clip tells of its place in time.

    Parts come from the manifest's ``split`` column as in ``LabelTask``.

    Args:
        data: a manifest, what makes one, or ``ArrayClips`` with at least two views each, in the order of time.
        group, train, validation, test, splits, test_fraction: as in ``LabelTask``.
        seed: seed for the order in which clips are shown, and for a split by hash.
    Raises: UsageError and DataError as ``LabelTask``.
    """

    def __init__(
        self,
        data: Source | ArrayClips,
        *,
        group: str | None = None,
        train: str = "train",
        validation: str = "val",
        test: str = "test",
        splits: Sequence[str] | None = None,
        test_fraction: float = 0.3,
        seed: int = 0,
    ) -> None:
        key = Key(seed, "clip order")

        def label(name: int | str) -> str:
            return SWAPPED if key.child(name).bernoulli(0.5) else IN_ORDER

        labelled: Manifest | ArrayClips
        if isinstance(data, ArrayClips):
            labels = [label(name) for name in data.ids]
            labelled = ArrayClips(data.clips, labels=labels, groups=data.groups, ids=data.ids)
        else:
            found = Manifest.open(data)
            rows = (
                replace(row, labels={**row.labels, "order": label(found.sample_id(i))}) for i, row in enumerate(found)
            )
            labelled = replace(found, rows=tuple(rows))
        super().__init__(
            labelled,
            label=None if isinstance(data, ArrayClips) else "order",
            group=group,
            train=train,
            validation=validation,
            test=test,
            splits=splits,
            test_fraction=test_fraction,
            seed=seed,
        )
        self.label = "order"
        self.source = source_name(data)

    def clips(self, plan: ClipPlan, *, decoder: Decoder | None = None) -> ClipSource:
        """The sources of all parts, one centre crop of every clip of the plan.

        Raises: UsageError for a plan of one clip; DataError for a video whose first and last clip share frames.
        """
        if isinstance(self.data, ArrayClips):
            return super().clips(plan, decoder=decoder)
        if plan.num_clips < 2:
            raise UsageError(f"clip order needs a plan of at least 2 clips, got {plan.num_clips}")
        source = super().clips(replace(plan, num_crops=1), decoder=decoder)
        assert isinstance(source, ManifestClips)
        for row in range(len(source.manifest)):
            try:
                length = source.dataset.reader.facts(row).num_frames
                clips = plan.indices(length)
            except (MediaError, UsageError):
                continue  # reading it will say so
            if clips[0].max() >= clips[-1].min():
                raise DataError(
                    f"{source.manifest.relative(row)}: its first and its last clip of {plan.num_frames} frames at "
                    f"stride {plan.stride} share some of its {length} frames; which came first cannot be asked. Use "
                    "shorter clips or leave such videos out"
                )
        return source

    def parts(self, embeddings: Embeddings) -> Parts:
        """Pairs by part: [first shown, second shown, second − first], (N, 3 · D).

        Raises: DataError for an empty part, or one view per source.
        """
        parts = super().parts(embeddings)
        return Parts(
            _pairs(parts.train), None if parts.validation is None else _pairs(parts.validation), _pairs(parts.test)
        )


def _pairs(part: FeatureSet) -> FeatureSet:
    if part.vectors.ndim != 3:
        raise DataError("clip order needs two views of each source, got one")
    ends = part.vectors[:, [0, -1]]
    swapped = part.labels == SWAPPED
    ends[swapped] = ends[swapped, ::-1]
    shown = np.concatenate([ends[:, 0], ends[:, 1], ends[:, 1] - ends[:, 0]], axis=1)
    return replace(part, vectors=shown)

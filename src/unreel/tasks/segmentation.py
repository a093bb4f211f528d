"""Segmentation: which class is shown at each pixel? The truth is a mask per frame, in a column ``file.<name>``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unreel.core.errors import DataError, UsageError
from unreel.data.batch import Fault
from unreel.data.choice import choose_group
from unreel.data.columns import Columns
from unreel.data.dataset import EvaluationDataset
from unreel.data.loader import iterate_evaluation
from unreel.data.manifest import Manifest, Source
from unreel.data.objects import read_classes
from unreel.data.rows import AlignedSource
from unreel.data.sampling import ClipPlan
from unreel.media import Decoder
from unreel.nn.encoder import Encoder
from unreel.protocols.clips import source_names
from unreel.protocols.dense import encode_maps
from unreel.protocols.head import Predictions
from unreel.protocols.samples import Truth
from unreel.tasks.labelled import SplitRule, check_parts
from unreel.tasks.task import Metric, Outcomes


@dataclass(frozen=True)
class MaskedClips:
    """The clips of one part: maps (N, D, T', h, w), their truth (``labels``: masks (N, T, S, S)), and the faults."""

    maps: Tensor
    truth: Truth
    faults: tuple[Fault, ...]


class MaskTask:
    """A class for every pixel of a clip; parts that never share a group.

    Args:
        data: a manifest whose rows name a mask file (``file.<mask>``, read as ``data.objects.read_classes`` says), or
            what makes one. Rows without are left out, with a note.
        classes: names of the numbers in the masks, from 0.
        mask: which file column. binary: whatever is not zero is the second class.
        group: the group column; ``None``: "group", or the only one there is, or else the file itself.
        split: where the parts come from.
    Raises: DataError without masks, for an empty part, or for a group that straddles parts.
    """

    def __init__(
        self,
        data: Source,
        *,
        classes: Sequence[str] = ("background", "object"),
        mask: str = "mask",
        binary: bool = False,
        group: str | None = None,
        split: SplitRule = SplitRule(),  # noqa: B008 - frozen
    ) -> None:
        manifest = choose_group(Manifest.open(data, columns=Columns(group=group)))
        if len(classes) < 2 or (binary and len(classes) != 2):
            raise UsageError(f"classes: expected two or more names, and two where masks are binary, got {classes}")
        if mask not in manifest.file_names:
            found = ", ".join(f"file.{name}" for name in manifest.file_names) or "no file columns"
            raise DataError(f"no column file.{mask}, which names the masks; the data has {found}")
        self.classes, self.mask, self.binary = tuple(classes), mask, binary
        self.group = manifest.group if manifest.group in manifest.group_names else ""
        masked = np.array([bool(row.files.get(mask)) for row in manifest])
        groups = manifest.groups(self.group) if self.group else [""] * len(manifest)
        identities = [g or f"file:{manifest.relative(i)}" for i, g in enumerate(groups)]
        splits = [row.split for row in manifest]
        about = {"group": self.group, "noun": "row with a mask"}
        self.roles, told = split.roles(splits, masked, identities, where=manifest.where, **about)
        check_parts(self.roles, identities, manifest.one_name_each(), noun="row with a mask")
        left_out = int((~masked).sum())
        lacking = [f"{left_out} of {len(manifest)} rows have no file.{mask}: left out"] if left_out else []
        self.notes = (*lacking, *told)
        self.data, self.identities = manifest, np.array(identities)

    @property
    def name(self) -> str:
        """The mask's column."""
        return self.mask

    def read(
        self,
        role: str,
        encoder: Encoder,
        plan: ClipPlan,
        stage: str,
        *,
        device: torch.device | str | None = None,
        decoder: Decoder | None = None,
        workers: int = 0,
    ) -> MaskedClips:
        """The readable clips of "train", "val" or "test": a stage's maps, and the masks cut as the clips are.

        Args:
            plan: one clip and one crop of each row.
        Raises: UsageError for another plan; DataError where no row can be read, or for numbers that are no class.
        """
        if plan.num_views != 1:
            raise UsageError(f"a dense head looks at one clip and one crop of each row, the plan has {plan.num_views}")
        rows = np.flatnonzero(self.roles == role)
        if not rows.size:
            raise DataError(f"no row with a mask is in the {role} part")
        part = self.data.subset(rows)
        source = AlignedSource(self.mask, "mask", read_at=read_classes)
        dataset = EvaluationDataset(part, plan, decoder, aligned=[source])
        maps, masks, kept, faults = [], [], [], []
        for sample in iterate_evaluation(dataset, workers=workers):
            if sample.fault is not None or sample.views is None:
                faults += [] if sample.fault is None else [sample.fault]
                continue
            truth = sample.aligned[self.mask].data[0]
            truth = (truth != 0).to(torch.int64) if self.binary else truth
            if int(truth.max()) >= len(self.classes) or int(truth.min()) < 0:
                raise DataError(
                    f"{part.where(sample.row)}: its mask holds the number {int(truth.max())}; the classes are "
                    f"{', '.join(self.classes)}, from 0"
                )
            maps.append(encode_maps(encoder, sample.views, stage, device=device))
            masks.append(truth.expand(plan.num_frames, -1, -1).to(torch.uint8))
            kept.append(sample.row)
        if not maps:
            raise DataError(f"no row of the {role} part could be read: {faults[0].message}")
        names = np.array(source_names(part))[kept]
        truth_of = Truth(torch.stack(masks).numpy(), self.identities[rows[kept]], names)
        return MaskedClips(torch.cat(maps), truth_of, tuple(faults))

    def score(self, predictions: Predictions, truth: Truth) -> Outcomes:
        """Mean IoU and pixel accuracy of each clip.

        Chance is that of answering the most frequent training class everywhere.
        Raises: UsageError for predictions that are no maps of these clips.
        """
        masks = np.asarray(truth.labels)
        if predictions.kind != "maps" or predictions.maps is None:
            raise UsageError(f"masks are compared with maps, and this head predicts {predictions.kind}")
        if (len(predictions), *predictions.maps.shape[2:]) != masks.shape:
            raise UsageError(f"maps {predictions.maps.shape} do not belong to masks {masks.shape}")
        guess, num = predictions.maps.argmax(1), len(self.classes)
        blind = np.full_like(guess, int(np.argmax(predictions.card.counts)))
        found, chance = clip_scores(guess, masks, num), clip_scores(blind, masks, num)
        means = {name: float(values.mean()) for name, values in chance.items()}
        rule = "the most frequent training class at every pixel"
        return Outcomes(predictions, truth, found, means, "mean_iou", predictions.card.notes, rule)

    def metrics(self, outcomes: Outcomes) -> tuple[Metric, ...]:
        """Mean IoU first."""
        return tuple(Metric(name) for name in outcomes.values)


def clip_scores(guess: NDArray[np.int64], truth: NDArray[np.uint8], num_classes: int) -> dict[str, NDArray[np.float64]]:
    """Per clip the mean over classes of intersection over union, and the share of pixels that are right.

    A class that a clip shows neither in truth nor in the guess does not count there.

    Args: guess, truth: (N, …) numbers of classes.
    """
    ious, right = [], []
    for a, b in zip(guess.reshape(len(guess), -1), truth.reshape(len(truth), -1), strict=True):
        pairs = np.bincount(b.astype(np.int64) * num_classes + a, minlength=num_classes**2)
        pairs = pairs.reshape(num_classes, num_classes)
        both, union = np.diag(pairs), pairs.sum(0) + pairs.sum(1) - np.diag(pairs)
        ious.append((both[union > 0] / union[union > 0]).mean())
        right.append(both.sum() / pairs.sum())
    return {"mean_iou": np.array(ious), "pixel_accuracy": np.array(right)}

"""ContraCAM: where the objects are, from a contrastive net and no label (Mo et al., NeurIPS 2021; arXiv 2108.00049).

An image is scored by how much its embedding differs from those of other images; the gradient of that score says which
channels of the last feature map make the difference. What was found is masked out, and the search repeated. For video
the same, over the feature map's time as well (docs/methods/contracam.md, Video).

``variant="paper"`` is the formula as written, ``"official"`` what the released code computes: it multiplies the logit
of an image with itself by zero instead of leaving it out (D1), and sums the positives over the batch (D2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from unreel.core.checks import Range, checked
from unreel.core.errors import UsageError, unknown_name
from unreel.core.modules import evaluating
from unreel.explain.activation import (
    NetworkInput,
    Norm,
    Upsampling,
    activation,
    channel_weights,
    feature_map,
    minmax,
    open_graph,
    prepare_images,
    upsample,
)
from unreel.nn.encoder import Encoder
from unreel.views.geometry import gaussian_blur

Variant: TypeAlias = Literal["paper", "official"]
Positive: TypeAlias = Literal["per_sample", "batch_sum"]
SelfNegative: TypeAlias = Literal["exclude", "zero_logit"]
Negatives: TypeAlias = Literal["originals+masked", "originals"]
MaskColour: TypeAlias = Literal["batch_mean", "zero", "blur"]
UnionRule: TypeAlias = Literal["max", "last"]
Embed: TypeAlias = Literal["projector", "backbone"]
Objective: TypeAlias = Literal["contrastive", "supervised"]
Groups: TypeAlias = Tensor | Sequence[int]

# mask_colour="blur" [design]: a Gaussian of an eighth of the short side leaves no outline of what it covers.
_BLUR_SHARE = 1 / 8


@checked
@dataclass(frozen=True)
class CamSettings:
    """Everything that decides a map besides the nets and the batch. Plain values, for a card.

    Source: docs/methods/contracam.md, Settings.

    Attributes:
        iterations: T; 10 for boxes and masks of objects, 1 for BG-Mixup.
        expand_resolution: 1, 2 or 4 times finer last map.
        variant: "paper" or "official"; it decides the two that follow where these are None.
        positive: "per_sample", or "batch_sum", the release's logarithm of the sum over the batch (D2).
        self_negative: "exclude" the image itself from its negatives, or give it the logit 0, "zero_logit" (D1).
        temperature: divides the score's similarities; the release has none, which is 1.
        clamp_weights: keep positive channel weights only.
        cam_relu: keep the positive part of the weighted sum only.
        mask_colour: what hides found objects, in normalised space: the batch's mean per channel, zero, or the image
            itself blurred beyond recognition.
        union: how the iterations' maps are joined: their maximum, or the last alone.
        layer: stage whose map is weighted; None is the last.
        upsample: to the input's size; "bicubic" in space and linear in time, "linear" (trilinear), or "nearest".
        negatives: the batch's original embeddings with those of its masked versions, or alone.
        embed: compare projections, or the encoder's embeddings ("backbone"), for an encoder without its head.
        score: "contrastive"; "supervised" takes a classifier in the projector's place and explains its logit.
        norm: maps reach from 0 to 1 over the whole clip, or over each frame (to be reported).
        per_frame: every frame is embedded by itself (as one of its clip's group), not the clip as a whole.

    Raises: UsageError for values that cannot be.
    """

    iterations: Annotated[int, Range(ge=1)] = 1
    expand_resolution: Literal[1, 2, 4] = 1
    variant: Variant = "paper"
    positive: Positive | None = None
    self_negative: SelfNegative | None = None
    temperature: Annotated[float, Range(gt=0)] = 1.0
    clamp_weights: bool = True
    cam_relu: bool = True
    mask_colour: MaskColour = "batch_mean"
    union: UnionRule = "max"
    layer: str | None = None
    upsample: Upsampling = "bicubic"
    negatives: Negatives = "originals+masked"
    embed: Embed = "projector"
    score: Objective = "contrastive"
    norm: Norm = "clip"
    per_frame: bool = False

    @property
    def positive_rule(self) -> Positive:
        """``positive``, or what the variant says."""
        return self.positive or ("batch_sum" if self.variant == "official" else "per_sample")

    @property
    def self_negative_rule(self) -> SelfNegative:
        """``self_negative``, or what the variant says."""
        return self.self_negative or ("zero_logit" if self.variant == "official" else "exclude")

    @classmethod
    def of(cls, **knobs: Any) -> CamSettings:
        """Settings by name. Raises UsageError for a name that is none, with the nearest."""
        known = [f.name for f in fields(cls)]
        for name in knobs:
            if name not in known:
                raise unknown_name("setting of contracam", name, known)
        return cls(**knobs)

    def to_card(self) -> dict[str, object]:
        """Plain values for JSON, complete: ``CamSettings.of(**card)`` gives the same settings."""
        return {**asdict(self), "positive": self.positive_rule, "self_negative": self.self_negative_rule}


def contrastive_score(
    embeddings: Tensor,
    keys: Tensor,
    queue: Sequence[Tensor],
    *,
    groups: Groups | None = None,
    positive: Positive = "per_sample",
    self_negative: SelfNegative = "exclude",
    temperature: float = 1.0,
) -> Tensor:
    """s_i = log exp(z_i·k_i/τ) − log Σ_u Σ_{j≠i} exp(z_i·n_j^u/τ), docs/methods/contracam.md, Score; in [code] with D1
    and D2.

    Args:
        embeddings: z (B, D), unit rows; the only argument that gets a gradient.
        keys: k (B, D), of the unmasked images.
        queue: n^0, n^1, …, each (B, D): row j of every one belongs to image j.
        groups: (B,) int; rows of one group are no negatives of each other (clips of one video).
        positive: "batch_sum": log Σ_n exp(z_n·k_n/τ) for every row.
        self_negative: "zero_logit": row i's own logit counts as 0 in every n^u.
        temperature: τ.
    Returns: (B,); a row that has no negative scores 0 with no gradient.
    """
    batch, device = len(embeddings), embeddings.device
    itself = torch.eye(batch, dtype=torch.bool, device=device)
    if groups is None:
        excluded = itself
    else:
        ids = torch.as_tensor(groups, device=device)
        excluded = ids[:, None] == ids[None, :]
    has_negative = ~excluded.all(1)
    if self_negative == "zero_logit":
        excluded = excluded & ~itself
    scaled = embeddings / temperature
    logits = []
    for negatives in queue:
        similarity = scaled @ negatives.detach().T
        if self_negative == "zero_logit":
            similarity = similarity.masked_fill(itself, 0.0)
        # A row without any negative keeps finite logits, for the gradient's sake; its score is dropped below.
        logits.append(similarity.masked_fill(excluded & has_negative[:, None], -torch.inf))
    pull = (scaled * keys.detach()).sum(1)
    if positive == "batch_sum":
        pull = pull.logsumexp(0).expand(batch)
    score = pull - torch.cat(logits, 1).logsumexp(1)
    return torch.where(has_negative, score, torch.zeros_like(score))


def mask_out(x: Tensor, colour: Tensor, masks: Tensor) -> Tensor:
    """x (1 − R) + c R: input (N, C, T, H, W) with ``colour`` (broadcast) where soft masks (N, 1, T, H, W) are 1."""
    return x * (1 - masks) + colour * masks


def _colour(x: Tensor, kind: MaskColour) -> Tensor:
    if kind == "batch_mean":
        return x.mean((0, 2, 3, 4), keepdim=True)
    if kind == "zero":
        return x.new_zeros(1, x.shape[1], 1, 1, 1)
    sigma = min(x.shape[-2:]) * _BLUR_SHARE
    return gaussian_blur(x, x.new_full((len(x),), sigma), max(1, round(2 * sigma)), "edge")


def _class_score(logits: Tensor, targets: Tensor, repeat: int) -> Tensor:
    wrong = (targets < 0) | (targets >= logits.shape[1])
    if wrong.any():
        at = int(wrong.nonzero()[0])
        raise UsageError(
            f"targets[{at // repeat}] is {int(targets[at])}; expected a class of the classifier, "
            f"0 to {logits.shape[1] - 1}"
        )
    return logits.gather(1, targets[:, None])[:, 0]


class CamResult(NamedTuple):
    """Maps (B, 1, H, W) or (B, 1, T, H, W), and the feature map's size (T', h, w) that they were computed at."""

    maps: Tensor
    grid: tuple[int, int, int]


def activation_maps(
    encoder: Encoder,
    projector: nn.Module | None,
    images: Tensor,
    settings: CamSettings,
    *,
    groups: Groups | None = None,
    targets: Groups | None = None,
    chunk: int | None = None,
) -> CamResult:
    """``contracam`` for settings that exist and an encoder at its final resolution. Raises as ``contracam``."""
    if projector is None and (settings.score == "supervised" or settings.embed == "projector"):
        raise UsageError(
            "contracam compares projections: give it the method's head, or embed='backbone' for an encoder alone"
            if settings.score == "contrastive"
            else "a supervised map needs a classifier in the projector's place"
        )
    for name, values in (("groups", groups), ("targets", targets)):
        if values is not None and len(values) != len(images):
            raise UsageError(f"{name}: expected one per image ({len(images)}), got {len(values)}")
    groups, targets = _numbers("groups", groups), _numbers("targets", targets)
    head = projector if projector is not None else nn.Identity()
    with torch.inference_mode(False), torch.no_grad(), evaluating(encoder, head):
        ready = prepare_images(encoder, images, fold=settings.per_frame)
        repeat = ready.num_frames if ready.folded else 1
        if repeat > 1 and groups is None:
            groups = torch.arange(len(images))
        own = None if groups is None else groups.repeat_interleave(repeat).to(ready.x.device)
        classes = None if targets is None else targets.repeat_interleave(repeat).to(ready.x.device)
        return _search(encoder, head, ready, settings, own, classes, chunk)


def _numbers(name: str, values: Groups | None) -> Tensor | None:
    """Whole numbers, one per image, as int64. Raises UsageError for others."""
    if values is None:
        return None
    numbers = torch.as_tensor(values)
    if numbers.ndim != 1 or numbers.is_floating_point() or numbers.is_complex():
        raise UsageError(f"{name}: expected a whole number per image, (B,), got {numbers.dtype} {tuple(numbers.shape)}")
    return numbers.to(torch.int64)


def _search(
    encoder: Encoder,
    head: nn.Module,
    ready: NetworkInput,
    settings: CamSettings,
    groups: Tensor | None,
    targets: Tensor | None,
    chunk: int | None,
) -> CamResult:
    original = current = ready.x
    size = (original.shape[2], original.shape[3], original.shape[4])
    colour = _colour(original, settings.mask_colour) if settings.iterations > 1 else None
    queue: list[Tensor] = []
    masks: Tensor | None = None
    grid = (0, 0, 0)
    for step in range(settings.iterations):
        maps = feature_map(encoder, current, layer=settings.layer, chunk=chunk)
        grid = (maps.shape[2], maps.shape[3], maps.shape[4])
        if grid == (1, 1, 1):
            raise UsageError(
                f"the feature map of {tuple(size)} input (frames, height, width) has a single position, which cannot "
                "show where anything is; give larger images, an earlier layer, or "
                "expand_resolution=2 or 4 (--cam.expand_resolution 4)"
            )
        with torch.enable_grad(), torch.autocast(maps.device.type, enabled=False):
            leaf, embeddings = open_graph(encoder, maps, layer=settings.layer)
            if settings.score == "supervised":
                logits = head(embeddings)
                targets = logits.detach().argmax(1) if targets is None else targets
                score = _class_score(logits, targets, ready.num_frames if ready.folded else 1)
            else:
                rows = head(embeddings) if settings.embed == "projector" else embeddings
                rows = functional.normalize(rows.flatten(1), dim=1)
                if step == 0 or settings.negatives == "originals+masked":
                    queue.append(rows.detach())
                score = contrastive_score(
                    rows,
                    queue[0],
                    queue,
                    groups=groups,
                    positive=settings.positive_rule,
                    self_negative=settings.self_negative_rule,
                    temperature=settings.temperature,
                )
            weights = channel_weights(score, leaf, maps, clamp=settings.clamp_weights)
        raw = upsample(activation(maps, weights, relu=settings.cam_relu), size, settings.upsample)
        if ready.folded and settings.norm == "clip":  # the range is the clip's, whose frames lie in the batch
            clips = raw.view(-1, 1, ready.num_frames * size[0], *size[1:])
            found = minmax(clips, "clip").view(raw.shape)
        else:
            found = minmax(raw, settings.norm)
        masks = found if masks is None or settings.union == "last" else torch.maximum(masks, found)
        if step + 1 < settings.iterations:
            assert colour is not None
            current = mask_out(original, colour, masks)
    assert masks is not None
    if ready.folded:
        grid = (ready.num_frames, *grid[1:])
    return CamResult(ready.restore(masks), grid)


def contracam(
    encoder: Encoder,
    projector: nn.Module | None,
    images: Tensor,
    iterations: int = 1,
    expand_resolution: Literal[1, 2, 4] = 1,
    variant: Variant = "paper",
    groups: Groups | None = None,
    *,
    targets: Groups | None = None,
    chunk: int | None = None,
    **knobs: Any,
) -> Tensor:
    """Soft maps of where the objects are. Results depend on the batch: its other rows are what an image is set against.

    Nothing of the nets changes: not weights, gradients, running statistics, strides or modes.

    Args:
        encoder: online encoder.
        projector: embeddings (B, D) to projections, as the loss saw them (for BYOL not the predictor); they are
            normalised here. None with ``embed="backbone"``. A classifier with ``score="supervised"``.
        images: images or clips as ``Encoder.prepare`` takes them: uint8 (B, H, W, C) or (B, T, H, W, C), or float in
            [0, 1], (B, C, H, W) or (B, C, T, H, W). Whole images: a crop has no background to tell from.
        iterations, expand_resolution, variant: see ``CamSettings``; the paper's own are 10, 2 for boxes, 1, 1 for soft
            masks.
        groups: (B,) int, such as the video's number; rows of one group are no negatives of each other.
        targets: (B,) classes for ``score="supervised"``; None explains the class with the highest logit.
        chunk: rows per pass of the backbone, which bounds the memory and changes nothing else.
        knobs: every other setting of ``CamSettings``.
    Returns: (B, 1, H, W) for images, (B, 1, T, H, W) for clips, in [0, 1], on the device of ``images``. A row without
        negatives (B = 1, or all of one group) is zero.
    Raises: UsageError for unknown settings, shapes that do not fit, classes that the classifier does not have, and
        maps of a single position.
    """
    settings = CamSettings.of(iterations=iterations, expand_resolution=expand_resolution, variant=variant, **knobs)
    finer = encoder if expand_resolution == 1 else encoder.at_resolution(expand_resolution)
    return activation_maps(finer, projector, images, settings, groups=groups, targets=targets, chunk=chunk).maps

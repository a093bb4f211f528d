"""InfoNCE over two views of a batch (NT-Xent), and what is logged beside it."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from unreel.core.checks import Positive, checked
from unreel.core.distributed import all_gather_with_grad, all_reduce_mean, rank, world_size
from unreel.core.errors import UsageError
from unreel.core.modules import wide

Reduction: TypeAlias = Literal["mean", "sum_of_views"]
Negatives: TypeAlias = Literal["all", "other_groups"]

# Under the squared norm, as TensorFlow's l2_normalize has it (docs/methods/cvrl.md, Head and loss).
_NORM_EPS = 1e-12
# Inside the logarithm of the logged entropy (docs/methods/cvrl.md, Head and loss, losses/losses.py of the release).
_ENTROPY_EPS = 1e-8


class ContrastStatistics(NamedTuple):
    """Detached scalars of the a→b block: share of anchors whose best match is their pair, and entropy in nats."""

    accuracy: Tensor
    entropy: Tensor


def l2_normalize(z: Tensor) -> Tensor:
    """Rows of unit length, (..., D); a zero row stays zero."""
    return z * z.square().sum(-1, keepdim=True).clamp(min=_NORM_EPS).rsqrt()


def same_group(groups: Tensor, *, gather: bool = True) -> Tensor:
    """Which rows of all processes share a group with each of this process's rows, (B, B·W) bool."""
    columns = all_gather_with_grad(groups) if gather else groups
    return groups[:, None] == columns


def _views(z1: Tensor, z2: Tensor, normalize: bool, gather: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Both views' rows as they are compared, (B, D), and each anchor's own column among those of all processes."""
    if z1.ndim != 2 or z1.shape != z2.shape:
        raise UsageError(f"two views need equal shapes (B, D), got {tuple(z1.shape)} and {tuple(z2.shape)}")
    if len(z1) * (world_size() if gather else 1) < 2:
        raise UsageError("a contrast needs at least 2 samples (1 has no negatives); use a larger batch")
    a, b = (l2_normalize(wide(z)) if normalize else wide(z) for z in (z1, z2))
    return a, b, torch.arange(len(a), device=a.device) + (rank() * len(a) if gather else 0)


@checked
def nt_xent(
    z1: Tensor,
    z2: Tensor,
    temperature: Positive = 0.1,
    reduction: Reduction = "mean",
    *,
    same_view_negatives: bool = True,
    normalize: bool = True,
    gather: bool = True,
    groups: Tensor | None = None,
) -> Tensor:
    """Symmetric InfoNCE over two views (van den Oord 2018, eq. 4; CVRL, Qian 2021, eq. 1).

    Source: docs/methods/cvrl.md, Head and loss.

    For every anchor the positive is the other view of its video and the negatives are the other 2N − 2 clips of the
    global batch of N videos. Each process returns the mean over its own anchors, against the columns of all: with
    equal batches, the average of the ranks' losses is the single-process loss, and the gradients that DDP averages
    are the single-process gradients, because the gather is differentiable.

    Args:
        z1, z2: projections, (B, D), any scale (normalised here); row i of both comes from the same video. Computed in
            float32 at least, whatever the inputs and the autocast state.
        temperature: > 0; CVRL uses 0.1.
        reduction: "mean" over the 2B anchors (the paper), or "sum_of_views", the sum of the two views' means (the
            release): twice the former, so the learning rate is tied to it.
        same_view_negatives: False leaves only cross-view columns: N-way, the variant of some other code bases.
        normalize: False takes the rows as they are.
        gather: use the rows of all processes as negatives; every process must hold the same B. No effect in one.
        groups: (B,) int64; clips of an anchor's own group are no negatives. None: all are.
    Returns: scalar; chance level is log(2·B·W − 1) for "mean" without groups.
    Raises: UsageError (a ValueError) if shapes differ, there are fewer than 2 samples, or temperature <= 0.
    """
    with torch.autocast(device_type=z1.device.type, enabled=False):  # it would take the products in half precision
        a, b, labels = _views(z1, z2, normalize, gather)
        all_a, all_b = (all_gather_with_grad(a), all_gather_with_grad(b)) if gather else (a, b)
        itself = labels[:, None] == torch.arange(len(all_a), device=a.device)
        kin = itself if groups is None else same_group(groups, gather=gather)

        def anchors(x: Tensor, other: Tensor, same: Tensor) -> Tensor:
            logits = x @ other.T / temperature  # (B, N); the positive is column labels[i]
            if groups is not None:
                logits = logits.masked_fill(kin & ~itself, float("-inf"))
            if same_view_negatives:
                # an anchor is not its own negative
                within = (x @ same.T / temperature).masked_fill(kin, float("-inf"))
                logits = torch.cat([logits, within], dim=1)
            return functional.cross_entropy(logits, labels)

        total = anchors(a, all_b, all_a) + anchors(b, all_a, all_b)
        return total if reduction == "sum_of_views" else total / 2


@checked
@torch.no_grad()
def contrast_statistics(
    z1: Tensor,
    z2: Tensor,
    *,
    temperature: Positive = 0.1,
    normalize: bool = True,
    gather: bool = True,
    groups: Tensor | None = None,
) -> ContrastStatistics:
    """Accuracy and entropy of the a→b block: N-way, without same-view logits (docs/methods/cvrl.md, Head and loss).

    Args: as ``nt_xent``.
    Returns: means over the anchors of all processes when ``gather``, of this one otherwise; chance accuracy is 1/N
        without groups.
    Raises: UsageError as ``nt_xent``.
    """
    with torch.autocast(device_type=z1.device.type, enabled=False):
        a, b, labels = _views(z1, z2, normalize, gather)
        columns = all_gather_with_grad(b) if gather else b
        logits = a @ columns.T / temperature
        if groups is not None:
            itself = labels[:, None] == torch.arange(len(columns), device=a.device)
            logits = logits.masked_fill(same_group(groups, gather=gather) & ~itself, float("-inf"))
        probability = logits.softmax(1)
        accuracy = (logits.argmax(1) == labels).to(logits.dtype).mean()
        entropy = -(probability * (probability + _ENTROPY_EPS).log()).sum(1).mean()
    both = torch.stack([accuracy, entropy])
    if gather:
        both = all_reduce_mean(both)
    return ContrastStatistics(both[0], both[1])

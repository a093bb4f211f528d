"""InfoNCE against a queue of earlier keys (He et al., CVPR 2020; docs/methods/moco.md, Head and queue)."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from unreel.core.checks import Positive, checked
from unreel.core.distributed import all_gather_with_grad, rank
from unreel.core.errors import UsageError
from unreel.core.modules import wide

MixWeighting: TypeAlias = Literal["paper", "official"]


class Mixed(NamedTuple):
    """What a batch operation mixed: ``weight`` (B,) own share, ``partner`` (B,) int64 row that gave the rest."""

    weight: Tensor
    partner: Tensor


def _check(q: Tensor, k: Tensor, queue: Tensor) -> None:
    if q.ndim != 2 or q.shape != k.shape or queue.ndim != 2 or queue.shape[1] != q.shape[1]:
        raise UsageError(
            f"queries and keys (B, D) and a queue (K, D) are needed, got {tuple(q.shape)}, {tuple(k.shape)} and "
            f"{tuple(queue.shape)}"
        )


@checked
def queue_info_nce(
    q: Tensor, k: Tensor, queue: Tensor, temperature: Positive = 0.2, *, exclude: Tensor | None = None
) -> Tensor:
    """−log softmax of each query's own key among it and the queue's, mean over queries (He 2020, eq. 1).

    Args:
        q: (B, D) queries, rows of unit length; nothing is normalised here.
        k: (B, D) keys; row i is the positive of query i. No gradient flows into keys or queue.
        queue: (K, D) negatives.
        temperature: > 0; 0.2 in MoCo v2, 0.07 in v1.
        exclude: (B, K) bool, rows of the queue that are no negatives of a query.
    Returns: scalar, in float32 at least; chance level is log(1 + K).
    Raises: UsageError for shapes that do not match, or a temperature that is not positive.
    """
    _check(q, k, queue)
    with torch.autocast(device_type=q.device.type, enabled=False):
        query, key, negatives = wide(q), wide(k.detach()), wide(queue.detach())
        own = (query * key).sum(1, keepdim=True)
        others = query @ negatives.T.to(query)
        if exclude is not None:
            others = others.masked_fill(exclude, float("-inf"))
        logits = torch.cat([own, others], 1) / temperature
        return functional.cross_entropy(logits, torch.zeros(len(q), dtype=torch.int64, device=q.device))


@checked
def mixed_queue_info_nce(
    q: Tensor,
    k: Tensor,
    queue: Tensor,
    mixed: Mixed,
    temperature: Positive = 0.2,
    *,
    weighting: MixWeighting = "paper",
    gather: bool = True,
    exclude: Tensor | None = None,
) -> Tensor:
    """The loss of queries from mixed images: each is of two images, by their shares.

    Source: docs/methods/object_views.md, Mixup and CutMix.

    The keys of the whole batch are columns beside the queue; a query's own key counts with its weight λ, the partner's
    with 1 − λ, the others are additional negatives.

    Args:
        q, k, queue, temperature: as ``queue_info_nce``.
        mixed: λ and the partners, rows of this process.
        weighting: "paper" weighs each query's own cross-entropies; "official" averages them over the batch first, as
            the released code does by mistake.
        gather: keys of all processes; every process must hold the same B.
        exclude: (B, B·W + K) bool, keys that are no negatives of a query; its own and its partner's count in any case.
    Returns: scalar, in float32 at least; chance level is log(B·W + K).
    Raises: UsageError as ``queue_info_nce``, and for an unknown weighting.
    """
    _check(q, k, queue)
    with torch.autocast(device_type=q.device.type, enabled=False):
        query, key = wide(q), wide(k.detach())
        keys = all_gather_with_grad(key) if gather else key
        columns = torch.cat([keys, wide(queue.detach()).to(keys)])
        logits = query @ columns.T / temperature
        first = rank() * len(q) if gather else 0
        targets = torch.stack([first + torch.arange(len(q), device=q.device), first + mixed.partner], 1)
        if exclude is not None:
            logits = logits.masked_fill(exclude.scatter(1, targets, False), float("-inf"))
        own, other = (functional.cross_entropy(logits, target, reduction="none") for target in targets.unbind(1))
        share = mixed.weight.to(own)
        if weighting == "official":
            return (share * own.mean() + (1 - share) * other.mean()).mean()
        return (share * own + (1 - share) * other).mean()


@torch.no_grad()
def queue_accuracy(q: Tensor, k: Tensor, queue: Tensor, exclude: Tensor | None = None) -> Tensor:
    """Share of queries that are nearer to their own key than to every key of the queue; a detached scalar.

    ``exclude`` is as ``queue_info_nce`` has it.
    """
    with torch.autocast(device_type=q.device.type, enabled=False):  # half precision would round one side only
        query = wide(q)
        own = (query * wide(k)).sum(1)
        others = query @ wide(queue).T.to(query)
        if exclude is not None:
            others = others.masked_fill(exclude, float("-inf"))
        return (own > others.max(1).values).float().mean()

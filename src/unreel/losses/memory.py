"""Contrast of a query with a memory of every source (PIRL, Misra and van der Maaten, CVPR 2020)."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from unreel.core.checks import Positive, checked
from unreel.core.errors import UsageError
from unreel.core.modules import wide

MemoryLoss: TypeAlias = Literal["nce", "info_nce"]


@checked
def memory_nce(
    q: Tensor,
    positive: Tensor,
    negatives: Tensor,
    temperature: Positive = 0.07,
    *,
    exclude: Tensor | None = None,
    kind: MemoryLoss = "nce",
) -> Tensor:
    """Tell a query's own entry of the memory from others, mean over queries.

    With p the softmax of the similarities over the own entry and the negatives: "nce" is −log p₀ − Σⱼ log(1 − pⱼ), the
    noise-contrastive form of the paper (eq. 4 and 5, recalled); "info_nce" is −log p₀.

    Args:
        q: (B, D) queries, rows of unit length; nothing is normalised here.
        positive: (B, D) their own entries; no gradient flows into them, nor into the negatives.
        negatives: (N, D) entries that all queries share.
        temperature: > 0; 0.07.
        exclude: (B, N) bool, entries that are the query's own and thus no negatives.
        kind: see above.
    Returns: scalar, in float32 at least; chance level of "info_nce" is log(1 + N).
    Raises: UsageError for shapes that do not match, a temperature that is not positive, or an unknown kind.
    """
    fits = q.ndim == negatives.ndim == 2 and q.shape == positive.shape and negatives.shape[1] == q.shape[1]
    if not fits or (exclude is not None and exclude.shape != (len(q), len(negatives))):
        raise UsageError(
            f"queries and their entries (B, D), negatives (N, D) and exclude (B, N) are needed, got {tuple(q.shape)}, "
            f"{tuple(positive.shape)}, {tuple(negatives.shape)} and {None if exclude is None else tuple(exclude.shape)}"
        )
    with torch.autocast(device_type=q.device.type, enabled=False):
        query, own, rest = wide(q), wide(positive.detach()), wide(negatives.detach())
        others = query @ rest.T.to(query)
        if exclude is not None:
            others = others.masked_fill(exclude, float("-inf"))
        logits = torch.cat([(query * own).sum(1, keepdim=True), others], 1) / temperature
        first = functional.cross_entropy(logits, torch.zeros(len(q), dtype=torch.int64, device=q.device))
        if kind == "info_nce":
            return first
        return first - _log_one_minus_softmax(logits).mean()


def _log_one_minus_softmax(logits: Tensor) -> Tensor:
    """Σⱼ log(1 − pⱼ) over the columns but the first, (B,).

    1 − p cancels only for the largest entry of a row: there it is taken as the share of all others.
    """
    total = logits.logsumexp(1)
    top = logits.argmax(1, keepdim=True)
    without = logits.scatter(1, top, float("-inf"))  # out of place; its gradient leaves the top entry out
    small = torch.log1p(-(without - total[:, None]).exp())
    largest = without.logsumexp(1) - total
    return small[:, 1:].sum(1) + torch.where(top[:, 0] > 0, largest, torch.zeros_like(largest))

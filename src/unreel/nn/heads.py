"""Heads on top of embeddings of one clip or of several, and dropout without a hidden state."""

from __future__ import annotations

import itertools
from typing import Annotated, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from unreel.core.checks import Amount, Count, Positive, Range, checked
from unreel.core.errors import UsageError
from unreel.core.keys import Key, uniforms
from unreel.core.modules import wide

Dropout: TypeAlias = Annotated[float, Range(ge=0, lt=1)]


@checked
def keyed_dropout(x: Tensor, key: Key, ids: Tensor, p: Dropout) -> Tensor:
    """Dropout whose mask follows from the sample and the step, so that two processes drop what one would.

    For training only: call it with p = 0 in evaluation.

    Args:
        x: (B, …).
        key: the address of the draw, such as ``batch.key.child("dropout")``.
        ids: (B,) int64, such as ``batch.sample_id``.
        p: the share of values set to 0, in [0, 1); the others are divided by 1 − p. 0 gives x itself.
    Raises: UsageError for p outside [0, 1).
    """
    if p == 0:
        return x
    keep = uniforms(key, ids, *x.shape[1:]) >= p
    return x * keep.to(x.dtype) / (1 - p)


def _glorot_(linear: nn.Linear) -> None:
    """Glorot-uniform weights and a zero bias, in place (docs/methods/cvrl.md, Backbone)."""
    nn.init.xavier_uniform_(linear.weight)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)


@checked
def projection_mlp(
    in_dim: Count,
    *,
    hidden_layers: Amount = 3,
    hidden_dim: Count = 2048,
    out_dim: Count = 128,
    batch_norm: bool = True,
    bn_momentum: Annotated[float, Range(gt=0, le=1)] = 0.003,
    bn_eps: Positive = 1e-5,
    bias: bool = True,
) -> nn.Sequential:
    """``hidden_layers`` × (Linear, BatchNorm, ReLU), then Linear: embeddings (B, in_dim) to projections (B, out_dim).

    The defaults are CVRL's head (docs/methods/cvrl.md, Head and loss): four linear layers with bias, batch norm of
    decay 0.997 and epsilon 1e-5, no dropout. ``hidden_layers=0`` is one linear layer. Raises UsageError for sizes below
    1.
    """
    layers: list[nn.Module] = []
    width = in_dim
    for _ in range(hidden_layers):
        layers.append(nn.Linear(width, hidden_dim, bias=bias))
        if batch_norm:
            layers.append(nn.BatchNorm1d(hidden_dim, eps=bn_eps, momentum=bn_momentum))
        layers.append(nn.ReLU(inplace=True))
        width = hidden_dim
    layers.append(nn.Linear(width, out_dim, bias=bias))
    for layer in layers:
        if isinstance(layer, nn.Linear):
            _glorot_(layer)
    return nn.Sequential(*layers)


class L2Norm(nn.Module):
    """Rows of unit length (…, D), in float32 at least; a zero row stays zero."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(device_type=x.device.type, enabled=False):
            return functional.normalize(wide(x), dim=-1)


@checked
def unit_linear(in_dim: Count, *, out_dim: Count = 128) -> nn.Sequential:
    """One linear layer: embeddings (B, in_dim) to unit rows (B, out_dim)."""
    return nn.Sequential(nn.Linear(in_dim, out_dim), L2Norm())


def out_width(head: nn.Module) -> int:
    """How wide a head's rows are: as its last linear layer. Raises UsageError for a head without one."""
    widths = [module.out_features for module in head.modules() if isinstance(module, nn.Linear)]
    if not widths:
        raise UsageError(f"the head needs a linear layer, which says how wide its rows are; got {head}")
    return widths[-1]


@checked
def normalized_mlp(in_dim: Count, hidden_dim: Count, out_dim: Count) -> nn.Sequential:
    """Linear without bias, BatchNorm, ReLU, Linear with bias, L2 norm: (B, in_dim) to unit rows (B, out_dim).

    MoCo's projector, BYOL's projector and predictor (docs/methods/moco.md, Head and queue); weights and biases
    start uniform in ±1/√fan_in. Raises UsageError for sizes below 1.
    """
    return nn.Sequential(
        nn.Linear(in_dim, hidden_dim, bias=False),
        nn.BatchNorm1d(hidden_dim),
        nn.ReLU(inplace=True),
        nn.Linear(hidden_dim, out_dim),  # torch's own initialisation is that range
        L2Norm(),
    )


@checked
class LinearHead(nn.Module):
    """Optional dropout, then one linear layer: embeddings (B, in_dim) to scores (B, num_outputs).

    ``init_std``: a normal of that standard deviation, or Glorot-uniform when ``None``; the bias starts at zero.
    """

    def __init__(
        self, in_dim: Count, num_outputs: Count, *, dropout: Dropout = 0.0, init_std: float | None = None
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(in_dim, num_outputs)
        if init_std is None:
            _glorot_(self.linear)
        else:
            nn.init.normal_(self.linear.weight, std=init_std)
            nn.init.zeros_(self.linear.bias)

    def forward(self, embeddings: Tensor) -> Tensor:
        """(B, in_dim) to (B, num_outputs)."""
        return self.linear(self.dropout(embeddings))  # type: ignore[no-any-return]


class ConcatHead(nn.Module):
    """Embeddings of n clips, concatenated, to scores: (B, n, features) to (B, num_outputs).

    Args:
        num_clips, features: n, and the width of one embedding.
        num_outputs: scores.
        hidden: width of a linear layer with ReLU between; 0 has none.
        dropout: before the last layer, keyed (``keyed_dropout``).
    """

    def __init__(
        self, num_clips: int, features: int, num_outputs: int, *, hidden: int = 0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        width = num_clips * features
        self.fc = nn.Linear(width, hidden) if hidden else None
        self.classifier = nn.Linear(hidden or width, num_outputs)
        self.dropout = dropout

    def forward(self, embeddings: Tensor, key: Key, ids: Tensor) -> Tensor:
        """Scores (B, num_outputs); ``key`` and ``ids`` (B,) address the dropout's draw."""
        x = embeddings.flatten(1)
        if self.fc is not None:
            x = self.fc(x).relu()
        return self.classifier(keyed_dropout(x, key, ids, self.dropout if self.training else 0.0))  # type: ignore[no-any-return]


class PairHead(nn.Module):
    """Every pair of n clips compared by one shared layer, then all pairs together to scores.

    Source: docs/methods/vcop.md, Numbers.

    p_ij = ReLU(W [f_i; f_j] + b) for i < j, in the order (0,1), (0,2), …, (1,2), …; their concatenation, n(n − 1)/2
    times ``hidden``, dropout, and a linear layer.

    Args:
        num_clips, features: n ≥ 2, and the width of one embedding.
        num_outputs: scores.
        hidden: width of the shared layer.
        dropout: before the last layer, keyed (``keyed_dropout``).
    """

    def __init__(
        self, num_clips: int, features: int, num_outputs: int, *, hidden: int = 512, dropout: float = 0.5
    ) -> None:
        super().__init__()
        if num_clips < 2:
            raise UsageError(f"pairs are compared of 2 clips or more, got {num_clips}")
        self.pairs = list(itertools.combinations(range(num_clips), 2))
        self.fc = nn.Linear(2 * features, hidden)
        self.classifier = nn.Linear(len(self.pairs) * hidden, num_outputs)
        self.dropout = dropout

    def forward(self, embeddings: Tensor, key: Key, ids: Tensor) -> Tensor:
        """(B, n, features) to scores (B, num_outputs); ``key`` and ``ids`` (B,) address the dropout's draw."""
        pairs = torch.stack([embeddings[:, pair].flatten(1) for pair in self.pairs], 1)
        x = self.fc(pairs).relu().flatten(1)
        return self.classifier(keyed_dropout(x, key, ids, self.dropout if self.training else 0.0))  # type: ignore[no-any-return]

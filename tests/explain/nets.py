"""Encoders of a few weights, in float64, whose maps and gradients can be worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unreel.nn.encoder import Encoder, InputSpec, StageInfo


class Identity(Encoder):
    """No backbone: the input is the feature map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.num_features = channels
        self.input_spec = InputSpec(
            num_frames=1, size_px=2, channels=channels, mean=(0.0,) * channels, std=(1.0,) * channels
        )
        self.stage_info = {"input": StageInfo(channels, 1, 1)}

    def forward_features(self, x: Tensor, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """The input."""
        return dict.fromkeys(self.check_names(names), x)


class Cells(Encoder):
    """One convolution and ReLU: (depth, 3, 3), stride (stride_t, 2, 2). Depth 1 with stride 1 sees single frames."""

    def __init__(self, features: int = 6, *, depth: int = 1, stride_t: int = 1, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.conv = nn.Conv3d(3, features, (depth, 3, 3), (stride_t, 2, 2), (depth // 2, 1, 1)).double()
        for parameter in self.conv.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        self.num_features = features
        self.input_spec = InputSpec(num_frames=1, size_px=8, mean=(0.5,) * 3, std=(0.25,) * 3)
        self.stage_info = {"cells": StageInfo(features, stride_t, 2)}
        self.seen: list[Tensor] = []

    def forward_features(self, x: Tensor, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """ReLU of the convolution; remembers what it was given."""
        self.seen.append(x.clone())
        return {name: self.conv(x).relu() for name in self.check_names(names)}


def linear_head(in_dim: int = 6, out_dim: int = 5, seed: int = 1) -> nn.Linear:
    """A projector without hidden layer, in float64."""
    head = nn.Linear(in_dim, out_dim, bias=False).double()
    head.weight.data = torch.randn(out_dim, in_dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return head


def pictures(*shape: int, seed: int = 2) -> Tensor:
    """Uniform float64 pixels in [0, 1]."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

"""A one-million-parameter video transformer: tubelets in, 5-D maps out.

Tubelets are embedded in two steps, a patch convolution per frame and a convolution over frames. Tokens attend to all
tokens, over space and time, in pre-norm blocks. Positions interpolate: the grid of tokens always spans the same range
of coordinates, whatever its size, so other clip lengths and frame sizes work, odd ones included (the border is
replicated up to a whole tubelet). ``at_resolution`` is supported: patches keep their size and weights and overlap.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from unreel.core.checks import Count, Positive, Range
from unreel.core.errors import UsageError
from unreel.nn.registry import register_variant
from unreel.nn.staged import Normalization, StagedEncoder, StageStep, input_spec

Positions: TypeAlias = Literal["sincos", "learned"]

# The period base of sine positions (Vaswani et al. 2017, §3.5).
_BASE = 10_000.0


def sincos_axis(count: int, native: int, dim: int, like: Tensor) -> Tensor:
    """Sine and cosine of ``count`` cell centres, scaled to the range of ``native`` cells: (count, dim), dim even."""
    coordinates = (torch.arange(count, device=like.device, dtype=torch.float64) + 0.5) * (native / count) - 0.5
    rates = torch.exp(
        torch.arange(dim // 2, device=like.device, dtype=torch.float64) * (-2 * math.log(_BASE) / max(dim, 1))
    )
    angles = coordinates[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1).to(like.dtype)


class TubeletEmbedding(nn.Module):
    """(B, C, T, H, W) to (B, D, ceil(T/t), ceil(H/s), ceil(W/s)) with positions added; s is the patch's stride."""

    def __init__(
        self, *, in_channels: int, dim: int, tubelet: int, patch: int, native: tuple[int, int], positions: Positions
    ) -> None:
        super().__init__()
        self.tubelet, self.patch, self.native, self.positions = tubelet, patch, native, positions
        self.spatial = nn.Conv2d(in_channels, dim, patch, patch, bias=False)
        self.temporal = nn.Conv1d(dim, dim, tubelet, tubelet)
        if positions == "learned":
            self.position_t = nn.Parameter(torch.empty(1, dim, native[0]))
            self.position_hw = nn.Parameter(torch.empty(1, dim, native[1], native[1]))
            nn.init.trunc_normal_(self.position_t, std=0.02)
            nn.init.trunc_normal_(self.position_hw, std=0.02)

    def position(self, tokens: Tensor) -> Tensor:
        """Positions for a map of tokens (B, D, T, h, w): (1, D, T, h, w)."""
        _, dim, t, h, w = tokens.shape
        if self.positions == "learned":
            time = functional.interpolate(self.position_t, size=t, mode="linear", align_corners=False)
            space = functional.interpolate(self.position_hw, size=(h, w), mode="bilinear", align_corners=False)
            return time[..., None, None] + space[:, :, None]
        part = dim // 3 // 2 * 2  # a third of the channels for height and width each, the rest for time
        rest = dim - 2 * part
        axes = (
            sincos_axis(t, self.native[0], rest, tokens)[:, None, None].expand(t, h, w, rest),
            sincos_axis(h, self.native[1], part, tokens)[None, :, None].expand(t, h, w, part),
            sincos_axis(w, self.native[1], part, tokens)[None, None].expand(t, h, w, part),
        )
        return torch.cat(axes, -1).permute(3, 0, 1, 2)[None]

    def forward(self, x: Tensor) -> Tensor:
        """Clips to tokens with positions."""
        b, _, frames, height, width = x.shape
        stride, patch = self.spatial.stride[0], self.patch
        before = (patch - stride) // 2
        t, h, w = -(-frames // self.tubelet), -(-height // stride), -(-width // stride)
        bottom = (h - 1) * stride + patch - height - before
        right = (w - 1) * stride + patch - width - before
        pads = (before, right, before, bottom, 0, t * self.tubelet - frames)
        if any(pads):
            # A replicated frame, not a black one: an image then is a static clip.
            x = functional.pad(x, pads, mode="replicate")
        y = self.spatial(x.transpose(1, 2).flatten(0, 1))
        # (B·T, D, h, w) to (B·h·w, D, T) for the convolution over frames
        dim = y.shape[1]
        y = y.reshape(b, -1, dim, h, w).permute(0, 3, 4, 2, 1).flatten(0, 2)
        tokens: Tensor = self.temporal(y).reshape(b, h, w, dim, t).permute(0, 3, 4, 1, 2)
        return tokens + self.position(tokens)


class Attention(nn.Module):
    """Multi-head self-attention over all tokens, (B, N, D) to (B, N, D)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Softmax attention with scale 1/√(D/heads)."""
        b, n, d = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class TransformerBlock(nn.Module):
    """Pre-norm attention and MLP on a map of tokens, (B, D, T, h, w) to the same; ``last`` adds the final norm."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float, *, last: bool) -> None:
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))
        self.norm: nn.Module = nn.LayerNorm(dim) if last else nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        x = tokens.flatten(2).transpose(1, 2)
        x = x + self.attn(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return self.norm(x).transpose(1, 2).reshape(tokens.shape)  # type: ignore[no-any-return]


class TubeletViT(StagedEncoder):
    """Stages ``embed``, ``block1`` … ``blockN``; all maps have the same size.

    Args:
        dim, depth, heads, mlp_ratio: width, number of blocks, attention heads, hidden width of the MLP over ``dim``.
        tubelet, patch: frames and pixels of one token.
        num_frames, size_px: the clip whose grid of tokens the positions are native to.
        positions: fixed sines or learned tables; both interpolate.
        in_channels, normalization: as ``R3D``.
    """

    embed: TubeletEmbedding

    def __init__(
        self,
        *,
        dim: Count = 128,
        depth: Count = 5,
        heads: Count = 4,
        mlp_ratio: Positive = 4.0,
        tubelet: Count = 2,
        patch: Count = 8,
        num_frames: Annotated[int, Range(ge=1, unit="frames")] = 8,
        size_px: Annotated[int, Range(ge=1, unit="px")] = 64,
        positions: Positions = "sincos",
        in_channels: Count = 3,
        normalization: Normalization = "none",
    ) -> None:
        super().__init__()
        if dim % heads or dim < 6:
            raise UsageError(f"dim must be ≥ 6 and divisible by heads, got {dim} with {heads} heads")
        native = (-(-num_frames // tubelet), -(-size_px // patch))
        self.embed = TubeletEmbedding(
            in_channels=in_channels, dim=dim, tubelet=tubelet, patch=patch, native=native, positions=positions
        )
        steps = {"embed": StageStep(dim, tubelet, patch)}
        for i in range(1, depth + 1):
            self.add_module(f"block{i}", TransformerBlock(dim, heads, mlp_ratio, last=i == depth))
            steps[f"block{i}"] = StageStep(dim, 1, 1)
        self.set_steps(steps)
        self.input_spec = input_spec(
            in_channels, normalization, num_frames=num_frames, size_px=size_px, stride_frames=2
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def refine_strides(self, factor: int) -> dict[str, StageStep]:
        """Patches keep their size and start every ``patch / factor`` pixels, so every map is finer."""
        if self.embed.patch % factor:
            raise UsageError(f"patches of {self.embed.patch} pixels cannot start every 1/{factor} of themselves")
        stride = self.embed.patch // factor
        self.embed.spatial.stride = (stride, stride)
        return {**self.steps, "embed": self.steps["embed"]._replace(stride_hw=stride)}


vit_tiny = register_variant("vit_tiny", TubeletViT, "A tubelet transformer with 1.05 M parameters and 128 features.")

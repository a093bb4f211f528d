"""What every class-activation map is made of: a feature map, one weight per channel, a resize, a range.

Shapes are 5-D throughout, images being clips of one frame (docs/methods/contracam.md, Map and Video).
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from unreel.core.checks import checked
from unreel.core.errors import UsageError
from unreel.core.modules import wide
from unreel.nn.encoder import Encoder
from unreel.nn.staged import StagedEncoder

Upsampling: TypeAlias = Literal["bicubic", "linear", "nearest"]
Norm: TypeAlias = Literal["clip", "frame"]

_SPATIAL: dict[str, str] = {"bicubic": "bicubic", "linear": "bilinear", "nearest": "nearest-exact"}

# docs/methods/contracam.md, Map: what minmax adds to the denominator.
_TINY = 1e-20
# A map that varies by less than this many units in the last place is constant: what it shows is the resize's rounding.
_ROUNDING = 64


class NetworkInput(NamedTuple):
    """Network input x (N, C, T', H, W), and what it was made of: B inputs, still images or clips of T frames.

    ``folded``: frames were laid into the batch, N = B·T; otherwise N = B and T' = T, or a multiple of T where the
    encoder repeats clips that are too short for it.
    """

    x: Tensor
    still: bool
    num_frames: int
    folded: bool
    device: torch.device

    def restore(self, maps: Tensor) -> Tensor:
        """Maps (N, 1, T', H, W) in the shape asked for: (B, 1, H, W) for images, (B, 1, T, H, W) for clips."""
        height, width = maps.shape[-2:]
        if self.folded:
            maps = maps.amax(2, keepdim=True).view(-1, 1, self.num_frames, height, width)
        else:
            # Clips too short for the encoder were repeated: what any repetition shows, counts.
            maps = maps.view(len(maps), 1, -1, self.num_frames, height, width).amax(2)
        return (maps[:, :, 0] if self.still else maps).to(self.device)


def prepare_images(encoder: Encoder, images: Tensor, *, fold: bool = False) -> NetworkInput:
    """Images or clips as ``Encoder.prepare`` takes them, on the encoder's device and in its precision.

    Args:
        encoder: whose ``prepare`` is applied.
        images: uint8 (B, H, W, C) or (B, T, H, W, C) as decoded, or float in [0, 1], (B, C, H, W) or (B, C, T, H, W).
        fold: treat every frame of a clip as an image.
    Raises: UsageError for another rank or an empty batch, and as ``prepare``.
    """
    if images.ndim not in (4, 5) or 0 in images.shape:
        raise UsageError(
            "images are uint8 (B, H, W, C) or float (B, C, H, W), clips uint8 (B, T, H, W, C) or float "
            f"(B, C, T, H, W), and not empty; got {images.dtype} {tuple(images.shape)}"
        )
    still, decoded = images.ndim == 4, images.dtype == torch.uint8
    clips = images.unsqueeze(1 if decoded else 2) if still else images
    num_frames = clips.shape[1 if decoded else 2]
    if fold and not still:
        clips = clips.flatten(0, 1).unsqueeze(1) if decoded else clips.transpose(1, 2).flatten(0, 1).unsqueeze(2)
    like = next((p for p in encoder.parameters() if p.is_floating_point()), None)
    x = encoder.prepare(clips if like is None else clips.to(like.device))
    if like is not None:
        x = x.to(like.dtype)
    # A tensor made in inference mode can never take part in a gradient; its copy can.
    x = x.clone() if x.is_inference() else x
    return NetworkInput(x, still, num_frames, fold and not still, images.device)


def feature_map(encoder: Encoder, x: Tensor, *, layer: str | None = None, chunk: int | None = None) -> Tensor:
    """The map A (N, C, T', h, w) of one stage, without gradient, in float32 at least.

    Args:
        encoder: in evaluation mode (``frozen``), so that rows do not depend on each other.
        x: prepared input (N, C, T, H, W).
        layer: stage; None is the one that ``forward`` pools.
        chunk: rows per pass, which bounds the memory; None passes all at once.
    """
    name = encoder.check_names(None if layer is None else [layer])[0]
    with torch.no_grad():
        parts = [encoder.forward_features(part, [name])[name] for part in torch.split(x, chunk or len(x))]
        maps = parts[0] if len(parts) == 1 else torch.cat(parts)
        return wide(maps)


class Graph(NamedTuple):
    """The start and the end of what is differentiated: a leaf, and the embeddings (N, D) that follow from it.

    ``leaf`` is the pooled map (N, C) where pooling is a mean over the last stage, else the map (N, C, T', h, w).
    """

    leaf: Tensor
    embeddings: Tensor


def open_graph(encoder: Encoder, maps: Tensor, *, layer: str | None = None) -> Graph:
    """Embeddings with a gradient towards the maps of ``layer``, and towards nothing before it.

    Call it with gradients enabled. Raises UsageError for an encoder that pools something else than its map.
    """
    name = encoder.check_names(None if layer is None else [layer])[0]
    if getattr(encoder, "pooling", "mean") == "cls":
        raise UsageError("this encoder pools a class token, which no map leads to; wrap it with pool='mean'")
    if name == encoder.last_stage and type(encoder).pool is Encoder.pool:
        # dS/dA is the same at every position then, so that A itself needs no gradient.
        pooled = encoder.pool(maps).detach().requires_grad_()
        return Graph(pooled, pooled)
    leaf = maps.detach().requires_grad_()
    last, stages = leaf, list(encoder.stage_info)
    for later in stages[stages.index(name) + 1 :]:
        last = encoder.run_stage(later, last) if isinstance(encoder, StagedEncoder) else encoder.stage(later)(last)
    return Graph(leaf, encoder.pool(last))


def channel_weights(score: Tensor, leaf: Tensor, maps: Tensor, *, clamp: bool = True) -> Tensor:
    """α (N, C): the mean over all positions of d(Σ score)/dA, without its negative part when ``clamp``.

    Args:
        score: any shape, a function of ``leaf``; its sum is differentiated. No parameter gets a gradient.
        leaf, maps: of ``open_graph`` and ``feature_map``.
    """
    (gradient,) = torch.autograd.grad(score.sum(), leaf)
    weights = gradient / maps[0, 0].numel() if leaf.ndim == 2 else gradient.mean((2, 3, 4))
    return weights.relu() if clamp else weights


def activation(maps: Tensor, weights: Tensor, *, relu: bool = True) -> Tensor:
    """Σ_k α_k A_k, (N, 1, T', h, w), without its negative part when ``relu``."""
    summed = torch.einsum("nc,ncthw->nthw", weights, maps)[:, None]
    return summed.relu() if relu else summed


@checked
def upsample(maps: Tensor, size: tuple[int, int, int], mode: Upsampling = "bicubic") -> Tensor:
    """Maps (N, 1, T', h, w) to (N, 1, T, H, W), pixel centres aligned (``align_corners=False``).

    ``bicubic`` in space and ``linear`` (trilinear) are both linear in time; ``nearest`` repeats.
    """
    frames, height, width = size
    rows, _, t, h, w = maps.shape
    corners = None if mode == "nearest" else False
    if t != frames:
        if t == 1:  # not by weights that add up to 1 but for rounding: a still map stays equal in all frames
            maps = maps.expand(-1, -1, frames, -1, -1)
        else:
            kind = "nearest-exact" if mode == "nearest" else "bilinear"
            flat = maps.reshape(rows, 1, t, h * w)
            maps = functional.interpolate(flat, (frames, h * w), mode=kind, align_corners=corners)
    if (h, w) == (height, width):
        return maps.reshape(rows, 1, frames, height, width)
    flat = maps.reshape(rows * frames, 1, h, w)
    found = functional.interpolate(flat, (height, width), mode=_SPATIAL[mode], align_corners=corners)
    return found.view(rows, 1, frames, height, width)


@checked
def minmax(maps: Tensor, norm: Norm = "clip") -> Tensor:
    """Maps (N, 1, T, H, W) to [0, 1]: minus the minimum, divided by the maximum + 1e-20, per clip or per frame.

    A map without variation (zero, or constant up to rounding) becomes zero, never NaN.
    """
    over = (1, 2, 3, 4) if norm == "clip" else (1, 3, 4)
    low, high = maps.amin(over, keepdim=True), maps.amax(over, keepdim=True)
    least = _ROUNDING * torch.finfo(maps.dtype).eps * torch.maximum(low.abs(), high.abs())
    scaled = (maps - low) / (high - low + _TINY)
    return torch.where(high - low > least, scaled, torch.zeros_like(scaled))

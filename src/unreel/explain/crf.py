"""A fully connected CRF that snaps a soft mask to the image's edges (Krähenbühl & Koltun 2011).

Source: docs/methods/contracam.md, CRF.

Mean field is computed exactly: every pixel hears every other. The Gaussian kernel is a product of one along y and one
along x; the bilateral one is summed in blocks that stay in the cache, each pair of pixels once. An image of 224 × 224
takes about five seconds on a CPU core, one of 112 × 112 half a second; it runs on whatever device the map is on.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from unreel.core.checks import Range, checked
from unreel.core.errors import UsageError
from unreel.core.modules import wide

Backend: TypeAlias = Literal["exact", "pydensecrf"]

# docs/methods/contracam.md, CRF: what is added to probabilities before the logarithm.
_TINY = 1e-20
# exp of less is 0 beside the pixel's own 1, in float64 too; denormal numbers would make it fifty times slower.
_NEVER = -60.0
# Pairs per block: a megabyte of float32, so that exp and both products find it in the cache. GPUs take larger ones.
_BLOCK = {"cpu": (256, 1024), "cuda": (4096, 16384)}


@checked
@dataclass(frozen=True)
class CrfSettings:
    """The constants of the CRF; defaults: docs/methods/contracam.md, CRF [code]. Plain values, for a card.

    Attributes:
        iterations: mean-field steps.
        gaussian_sxy, gaussian_weight: reach in pixels and weight of "neighbours are alike".
        bilateral_sxy, bilateral_srgb, bilateral_weight: reach in pixels, in 8-bit colour, and weight of "pixels of one
            colour are alike".
    """

    iterations: Annotated[int, Range(ge=0)] = 5
    gaussian_sxy: Annotated[float, Range(gt=0, unit="px")] = 3.0
    gaussian_weight: Annotated[float, Range(ge=0)] = 3.0
    bilateral_sxy: Annotated[float, Range(gt=0, unit="px")] = 80.0
    bilateral_srgb: Annotated[float, Range(gt=0)] = 13.0
    bilateral_weight: Annotated[float, Range(ge=0)] = 10.0

    def to_card(self) -> dict[str, object]:
        return asdict(self)


@checked
def dense_crf(
    image: Tensor,
    probability: Tensor,
    *,
    settings: CrfSettings | None = None,
    backend: Backend = "exact",
    max_pixels: int = 256 * 256,
) -> Tensor:
    """The foreground's marginal after mean field in a fully connected CRF of two labels.

    Unary −log p of (p, 1 − p); Potts with a Gaussian and a bilateral kernel k = exp(−|f_i − f_j|²/2), each normalised
    D^−½ K D^−½ with the pixel itself included; Q starts as p.

    Args:
        image: uint8 (..., H, W, 3) as decoded, or float (..., 3, H, W) in [0, 1].
        probability: (..., H, W) or (..., 1, H, W) in [0, 1], of the foreground; float64 is computed in float64.
        settings: constants; None is the paper's.
        backend: "exact", or the library "pydensecrf" where it is installed, whose lattice differs from exact at some
            pixels near edges and whose time grows with H·W, not with its square.
        max_pixels: exact images above H·W are refused: their time grows with its square.
    Returns: of the shape, type and device of ``probability``.
    Raises: UsageError for shapes that do not fit, probabilities outside [0, 1], an image beyond ``max_pixels``, or a
        library that is not there.
    """
    chosen = settings if settings is not None else CrfSettings()
    pixels = image.to(torch.float64) if image.dtype == torch.uint8 else image.movedim(-3, -1).to(torch.float64) * 255
    height, width = pixels.shape[-3:-1] if pixels.ndim >= 3 else (0, 0)
    lead = tuple(pixels.shape[:-3])
    if (
        pixels.shape[-1] != 3
        or 0 in pixels.shape
        or tuple(probability.shape) not in ((*lead, height, width), (*lead, 1, height, width))
        or not probability.is_floating_point()
    ):
        raise UsageError(
            f"the CRF needs RGB images uint8 (..., H, W, 3) or float (..., 3, H, W) and a float probability for each "
            f"pixel, got {image.dtype} {tuple(image.shape)} and {probability.dtype} {tuple(probability.shape)}"
        )
    outside = probability[~((probability >= 0) & (probability <= 1))]
    if outside.numel():
        raise UsageError(
            f"the CRF needs probabilities in [0, 1]; {outside.numel():,} of {probability.numel():,} are not, the first "
            f"is {float(outside[0]):g}"
        )
    if backend == "exact" and height * width > max_pixels:
        raise UsageError(
            f"an exact CRF of {width} × {height} pixels compares {height * width:,} pixels with each other, above the "
            f"limit of {max_pixels:,}; resize image and map first (the paper: 224 × 224), raise max_pixels, or use "
            "backend='pydensecrf' where that library is installed"
        )
    infer = _exact if backend == "exact" else _library
    pixels, flat = pixels.reshape(-1, height, width, 3), probability.reshape(-1, height, width)
    with torch.no_grad():
        found = [infer(one, p, chosen) for one, p in zip(pixels, flat, strict=True)]
    return torch.stack(found).view(probability.shape)


def _gaussian(length: int, reach: float, like: Tensor) -> Tensor:
    """(length, length): exp(−d²/2s²) of the distance d between two places on a line."""
    places = torch.arange(length, dtype=like.dtype, device=like.device) / reach
    return torch.exp(-0.5 * (places[:, None] - places[None, :]) ** 2)


class _Bilateral:
    """Products with the bilateral kernel of one image, in blocks of pairs."""

    def __init__(self, pixels: Tensor, like: Tensor, settings: CrfSettings) -> None:
        height, width = pixels.shape[:2]
        ys = torch.arange(height, dtype=torch.float64, device=pixels.device)[:, None].expand(height, width)
        xs = torch.arange(width, dtype=torch.float64, device=pixels.device)[None, :].expand(height, width)
        features = torch.cat(
            [torch.stack([ys, xs], -1) / settings.bilateral_sxy, pixels / settings.bilateral_srgb], -1
        ).flatten(0, 1)
        features = features - features.mean(0)  # smaller squares, smaller rounding
        half = features.square().sum(1, keepdim=True) / 2
        one = torch.ones_like(half)
        # left_i · right_j = f_i·f_j − |f_i|²/2 − |f_j|²/2 = −|f_i − f_j|²/2
        self.left = torch.cat([features, -half, one], 1).to(like)
        self.right = torch.cat([features, one, -half], 1).to(like).T.contiguous()
        self.block = _BLOCK.get(like.device.type, _BLOCK["cpu"])

    def times(self, values: Tensor) -> Tensor:
        """K v for v (N,): every pair of pixels once, since K is symmetric."""
        rows, columns = self.block
        out = torch.zeros_like(values)
        for begin in range(0, len(values), rows):
            end = min(begin + rows, len(values))
            left = self.left[begin:end]
            out[begin:end] += self._kernel(left, self.right[:, begin:end]) @ values[begin:end]
            for start in range(end, len(values), columns):
                kernel = self._kernel(left, self.right[:, start : start + columns])
                out[begin:end] += kernel @ values[start : start + columns]
                out[start : start + columns] += values[begin:end] @ kernel
        return out

    @staticmethod
    def _kernel(left: Tensor, right: Tensor) -> Tensor:
        return (left @ right).clamp_(_NEVER, 0).exp_()


def _exact(pixels: Tensor, probability: Tensor, settings: CrfSettings) -> Tensor:
    """Mean field of one image: pixels (H, W, 3) float64 in 8-bit levels, probability (H, W)."""
    height, width = probability.shape
    p = wide(probability)
    pixels = pixels.to(p.device)
    along_y, along_x = _gaussian(height, settings.gaussian_sxy, p), _gaussian(width, settings.gaussian_sxy, p)
    near = torch.outer(along_y.sum(1), along_x.sum(1)).rsqrt()
    bilateral = _Bilateral(pixels, p, settings)
    alike = bilateral.times(torch.ones_like(p).flatten()).view_as(p).rsqrt()
    evidence = torch.log(p + _TINY) - torch.log(1 - p + _TINY)
    q = p
    for _ in range(settings.iterations):
        lean = 2 * q - 1  # Q of the foreground less that of the background
        message = settings.gaussian_weight * near * (along_y @ (near * lean) @ along_x)
        if settings.bilateral_weight:
            message += settings.bilateral_weight * alike * bilateral.times((alike * lean).flatten()).view_as(p)
        q = torch.sigmoid(evidence + message)
    return q.to(probability.dtype)


def _library(pixels: Tensor, probability: Tensor, settings: CrfSettings) -> Tensor:
    try:
        from pydensecrf.densecrf import DenseCRF2D  # type: ignore[import-not-found]
    except ImportError:
        raise UsageError(
            "the package pydensecrf is not installed (pip install pydensecrf2); backend='exact' needs nothing"
        ) from None
    height, width = probability.shape
    p = probability.detach().cpu().to(torch.float32).numpy().ravel()
    field = DenseCRF2D(width, height, 2)  # width first: the release has it the wrong way round
    field.setUnaryEnergy(-np.log(np.stack([p, 1 - p]) + np.float32(_TINY)))
    field.addPairwiseGaussian(sxy=settings.gaussian_sxy, compat=settings.gaussian_weight)
    field.addPairwiseBilateral(
        sxy=settings.bilateral_sxy,
        srgb=settings.bilateral_srgb,
        rgbim=np.ascontiguousarray(pixels.cpu().round().clamp(0, 255).to(torch.uint8).numpy()),
        compat=settings.bilateral_weight,
    )
    found = np.asarray(field.inference(settings.iterations), dtype=np.float32)[0]
    return torch.from_numpy(found.reshape(height, width).copy()).to(probability)

"""The dense head: which class is shown at each place of a clip, from one stage's map of a frozen encoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from unreel.core.checks import Count, NotNegative, checked
from unreel.core.errors import DataError, UsageError
from unreel.nn.encoder import Encoder
from unreel.protocols.features import evaluation_mode
from unreel.protocols.head import HEADS, HeadCard, Predictions
from unreel.protocols.samples import FeatureSet, Inputs

# Places of maps and masks worked on at a time: a few clips of 16 × 112² pixels and ten classes.
_PLACES = 1 << 23


def stage_by_stride(encoder: Encoder, stride_hw: int) -> str:
    """The last stage whose map has at most this many pixels between cells. Raises UsageError where there is none."""
    fitting = [name for name, info in encoder.stage_info.items() if info.stride_hw <= stride_hw]
    if not fitting:
        finest = min(info.stride_hw for info in encoder.stage_info.values())
        raise UsageError(f"stride {stride_hw}: the finest stage has {finest} pixels between cells")
    return fitting[-1]


def encode_maps(
    encoder: Encoder, views: Tensor, stage: str, *, device: torch.device | str | None = None, batch_size: int = 8
) -> Tensor:
    """Clips (N, T, S, S, C) uint8 to the maps (N, D, T', h, w) float32 of a stage, on the CPU."""
    with torch.inference_mode(), evaluation_mode(encoder, device) as target:
        maps = [
            encoder.forward_features(encoder.prepare(part.to(target)), [stage])[stage].float().cpu()
            for part in torch.split(views, batch_size)
        ]
    return torch.cat(maps).contiguous()


@HEADS.register("dense")
@dataclass(frozen=True)
class FittedDense:
    """A 1 × 1 × 1 convolution of D channels to C classes, and linear upsampling to the size of the masks.

    ``weight`` (C, D) and ``bias`` (C,) float32; ``size`` (T, H, W) of what is predicted.
    """

    card: HeadCard
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    size: tuple[int, int, int]
    form: ClassVar[str] = "dense"

    def predict(self, inputs: Inputs) -> Predictions:
        """Maps (N, D, T', h, w) to the classes at each place of ``size``. Raises UsageError for another width."""
        if isinstance(inputs, FeatureSet) or inputs.ndim != 5 or inputs.shape[1] != self.weight.shape[1]:
            shape = tuple((inputs.vectors if isinstance(inputs, FeatureSet) else inputs).shape)
            raise UsageError(
                f"a dense head takes the maps (N, {self.weight.shape[1]}, T, h, w) of the encoder and stage it was "
                f"fitted on, got {shape}"
            )
        maps = torch.as_tensor(inputs).to(torch.float32).cpu()
        weight, bias = torch.from_numpy(self.weight), torch.from_numpy(self.bias)
        with torch.inference_mode():  # clip by clip, so that none changes another, to the last bit
            shares = [_logits(one[None], weight, bias, tuple(self.size)).softmax(1) for one in maps]
        return Predictions("maps", self.card, maps=torch.cat(shares).numpy())


def _logits(maps: Tensor, weight: Tensor, bias: Tensor, size: tuple[int, ...]) -> Tensor:
    """(N, D, T', h, w) to (N, C, T, H, W)."""
    scores = functional.conv3d(maps, weight[:, :, None, None, None], bias)
    return functional.interpolate(scores, size=size, mode="trilinear", align_corners=False)


@checked
@dataclass(frozen=True)
class DenseProbe:
    """Multinomial logistic regression at every place, fitted with L-BFGS through the upsampling; no selection.

    The problem is convex and starts at zero, so that nothing is drawn. Channels are standardised while fitting.

    Args:
        penalty: weight of half the sum of squared weights, beside the mean cross-entropy.
        max_iterations: of L-BFGS; a fit that needs more is noted.
    """

    penalty: NotNegative = 1e-3
    max_iterations: Count = 100
    name: str = "dense"

    def fit(self, maps: Tensor, masks: Tensor | NDArray[Any], *, classes: Sequence[str]) -> FittedDense:
        """Fit on maps (N, D, T', h, w) and masks (N, T, H, W) of numbers into ``classes``; −1 is not looked at.

        Raises: UsageError for shapes or numbers that do not fit; DataError where the masks show a single class.
        """
        target = torch.as_tensor(masks).to(torch.int64)
        if maps.ndim != 5 or target.ndim != 4 or len(maps) != len(target):
            raise UsageError(
                "expected maps (N, D, T, h, w) and masks (N, T, H, W) of the same clips, "
                f"got {tuple(maps.shape)} and {tuple(target.shape)}"
            )
        if int(target.max()) >= len(classes) or int(target.min()) < -1:
            low, high = int(target.min()), int(target.max())
            raise UsageError(f"masks hold numbers from {low} to {high}, there are {len(classes)} classes from 0")
        counts = torch.bincount(target[target >= 0], minlength=len(classes))
        if int((counts > 0).sum()) < 2:
            raise DataError("the masks show a single class: there is nothing to tell apart")
        mean = maps.mean((0, 2, 3, 4), dtype=torch.float64)
        scale = maps.to(torch.float64).var((0, 2, 3, 4), correction=0).sqrt()
        scale[scale < 1e-6 * scale.max()] = 1.0
        x = ((maps - mean[:, None, None, None]) / scale[:, None, None, None]).to(torch.float32)
        weight, bias, converged = self._solve(x, target, len(classes))
        # On channels as they are: what standardising did goes into the convolution.
        plain = weight / scale
        shifted = bias - plain @ mean
        notes = () if converged else (f"L-BFGS stopped after {self.max_iterations} iterations before convergence",)
        settings = {"penalty": self.penalty, "n_train": len(maps), "converged": converged}
        card = HeadCard(
            self.name, classes=tuple(classes), counts=tuple(counts.tolist()), settings=settings, notes=notes
        )
        size = tuple(int(n) for n in target.shape[1:])
        return FittedDense(card, plain.float().numpy(), shifted.float().numpy(), (size[0], size[1], size[2]))

    def _solve(self, x: Tensor, target: Tensor, num_classes: int) -> tuple[Tensor, Tensor, bool]:
        weight = torch.zeros(num_classes, x.shape[1], requires_grad=True)
        bias = torch.zeros(num_classes, requires_grad=True)
        options: dict[str, Any] = {"max_iter": self.max_iterations, "line_search_fn": "strong_wolfe"}
        optimizer = torch.optim.LBFGS([weight, bias], tolerance_change=1e-7, **options)
        size, total = tuple(target.shape[1:]), int((target >= 0).sum())
        together = max(1, _PLACES // (num_classes * target[0].numel()))
        steps = 0

        def closure() -> Tensor:
            nonlocal steps
            steps += 1
            optimizer.zero_grad()
            loss = 0.5 * self.penalty * weight.square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            for part, truth in zip(torch.split(x, together), torch.split(target, together), strict=True):
                logits = _logits(part, weight, bias, size)
                share = functional.cross_entropy(logits, truth, ignore_index=-1, reduction="sum") / total
                share.backward()  # type: ignore[no-untyped-call]
                loss = loss + share.detach()
            return loss.detach()

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        done = optimizer.state[weight]["n_iter"] < self.max_iterations
        return weight.detach().double(), bias.detach().double(), bool(done)

"""Controls: what a score means is seen beside what needs no learning."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from unreel.core.errors import UsageError
from unreel.core.keys import Key
from unreel.nn.encoder import Encoder, InputSpec, StageInfo
from unreel.nn.registry import ENCODERS, create_encoder


def random_init(encoder: Encoder, *, seed: int = 0) -> Encoder:
    """The same architecture with fresh weights, a function of ``seed`` alone.

    A registered architecture is created again with its arguments; of any other, a copy has every module reset.
    Raises: UsageError when the copy holds parameters that no module knows how to reset.
    """
    draw = Key(seed, "random-init").bits()
    if encoder.architecture in ENCODERS:
        arguments: dict[str, Any] = dict(encoder.arguments)
        fresh = create_encoder(encoder.architecture, seed=draw, **arguments)
        shapes = {name: tensor.shape for name, tensor in fresh.state_dict().items()}
        if shapes == {name: tensor.shape for name, tensor in encoder.state_dict().items()}:
            fresh.input_spec = encoder.input_spec
            return fresh.eval()
    fresh = copy.deepcopy(encoder)
    known: set[int] = set()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(draw)
        for module in fresh.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                device = next((p.device for p in module.parameters(recurse=False)), torch.device("cpu"))
                module.to("cpu")  # drawn where the generator is, so that the device does not change the weights
                reset()
                module.to(device)
                known.update(id(p) for p in module.parameters(recurse=False))
    left = [name for name, p in fresh.named_parameters() if id(p) not in known]
    if left:
        raise UsageError(
            f"no random-init control: {len(left)} parameters of {type(encoder).__name__} cannot be drawn again, "
            f"such as {left[0]}; register the architecture, or leave 'random-init' out of the baselines"
        )
    return fresh.eval()


class FrameStatistics(Encoder):
    """46 plain numbers per clip: colour, contrast, layout, edges, brightness histogram and change over time.

    No weights. What a probe reaches on these is what needs no representation at all. Values are those of the pixels in
    [0, 1], before the normalisation that other encoders apply. Channels must be 1 (grey) or 3.

    Order: mean per channel (3), spread per channel (3), mean per channel in a 2 × 2 grid (12), spread over time of the
    frame mean per channel (3), mean absolute change between frames per channel (3), its spread (3), the same change of
    brightness in a 2 × 2 grid (4), change of brightness over 2 and 4 frames (2), horizontal and vertical edges (2),
    brightness histogram (8), products of channels around their means (3).
    """

    _BINS = 8

    def __init__(self, input_spec: InputSpec | None = None) -> None:
        super().__init__()
        base = input_spec if input_spec is not None else InputSpec()
        self.num_features = 46
        self.input_spec = InputSpec(base.num_frames, base.stride_frames, base.size_px)
        self.stage_info = {"statistics": StageInfo(self.num_features, 1, 1)}
        self.architecture = "frame-statistics"

    def forward_features(self, x: Tensor, names: object = None) -> dict[str, Tensor]:
        """(B, 3, T, H, W) in [0, 1] to {"statistics": (B, 46, 1, 1, 1)}."""
        if x.shape[1] != 3:
            raise UsageError(f"frame statistics need 3 channels, got {x.shape[1]}")
        x = x.float()
        batch, _, frames, _, _ = x.shape
        luma = x.mean(1)
        grid = nn.functional.adaptive_avg_pool2d
        mean, spread = x.mean((2, 3, 4)), x.std((2, 3, 4), correction=0)
        step = (x[:, :, 1:] - x[:, :, :-1]).abs() if frames > 1 else torch.zeros_like(x)
        parts = [
            mean,
            spread,
            grid(x.mean(2), 2).flatten(1),
            x.mean((3, 4)).std(2, correction=0),
            step.mean((2, 3, 4)),
            step.std((2, 3, 4), correction=0),
            grid(step.mean((1, 2)), 2).flatten(1),
        ]
        for lag in (2, 4):
            change = (luma[:, lag:] - luma[:, :-lag]).abs() if frames > lag else torch.zeros_like(luma)
            parts.append(change.mean((1, 2, 3))[:, None])
        parts.append((luma[..., 1:] - luma[..., :-1]).abs().mean((1, 2, 3))[:, None])
        parts.append((luma[..., 1:, :] - luma[..., :-1, :]).abs().mean((1, 2, 3))[:, None])
        bins = (luma * self._BINS).long().clamp(0, self._BINS - 1).flatten(1)
        counts = torch.zeros(batch, self._BINS, device=x.device).scatter_add_(1, bins, torch.ones_like(bins).float())
        parts.append(counts / bins.shape[1])
        centred = (x - mean[:, :, None, None, None]).flatten(2)
        products = torch.einsum("bcn,bdn->bcd", centred, centred) / centred.shape[2]
        parts.append(torch.stack([products[:, 0, 1], products[:, 0, 2], products[:, 1, 2]], 1))
        return {"statistics": torch.cat(parts, 1)[:, :, None, None, None]}

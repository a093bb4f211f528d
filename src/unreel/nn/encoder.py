"""The encoder contract: what pre-training leaves and everything downstream reads."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, Self, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from unreel.core.checks import Amount, Positive, checked
from unreel.core.errors import UsageError
from unreel.data.contracts import LUMA


class StageInfo(NamedTuple):
    """One named feature map: its channels and its strides against the input, in frames and pixels."""

    channels: int
    stride_t: int
    stride_hw: int


@checked
@dataclass(frozen=True)
class InputSpec:
    """What an encoder expects, stored on its card, so that every later use feeds it the same.

    ``num_frames`` at ``stride_frames`` and ``size_px`` are what it was trained on (others work unless they are below
    ``min_frames``: shorter ones are repeated whole); ``mean`` and ``std`` are per channel on values in [0, 1];
    ``channels=1`` converts RGB to grey. ``dct_highpass`` = k takes away the k lowest temporal frequencies of every
    clip (the first k coefficients of its DCT-II along time; docs/methods/tcgl.md, STKD): 0 none, 1 the mean over time,
    so that what moves is left.
    """

    num_frames: int = 16
    stride_frames: int = 1
    size_px: int = 224
    channels: int = 3
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[Positive, ...] = (1.0, 1.0, 1.0)
    min_frames: int = 1
    dct_highpass: Amount = 0

    def __post_init__(self) -> None:
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise UsageError(
                f"input spec: mean and std need one value per channel ({self.channels}), "
                f"got {len(self.mean)} and {len(self.std)}"
            )

    def to_card(self) -> dict[str, object]:
        return asdict(self)


@functools.lru_cache(maxsize=32)
def _low_frequencies(frames: int, count: int) -> Tensor:
    """(frames, frames) float64: the projection onto the ``count`` lowest orthonormal DCT-II functions."""
    time = torch.arange(frames, dtype=torch.float64) + 0.5
    order = torch.arange(count, dtype=torch.float64)[:, None]
    basis = torch.cos(torch.pi / frames * order * time) * (2 / frames) ** 0.5
    basis[0] = frames**-0.5
    projection: Tensor = basis.T @ basis
    return projection


def dct_highpass(clips: Tensor, count: int) -> Tensor:
    """Clips (B, C, T, H, W) without their ``count`` lowest temporal DCT-II coefficients; 1: minus the mean over time.

    Raises: UsageError for clips of no more than ``count`` frames, of which nothing would be left.
    """
    frames = clips.shape[2]
    if frames <= count:
        raise UsageError(
            f"this encoder sees clips without their {count} lowest temporal frequencies (dct_highpass), which leaves "
            f"nothing of a clip of {frames} frame{'s' * (frames != 1)}; give it at least {count + 1} frames, or train "
            "one with dct_highpass=0"
        )
    if count == 0:
        return clips
    if count == 1:
        return clips - clips.mean(2, keepdim=True)
    low = _low_frequencies(frames, count).to(clips)
    return clips - torch.einsum("ts,bcshw->bcthw", low, clips)


def without_weights(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that build the same net without fetching weights: ``pretrained`` is False."""
    return {key: False if key == "pretrained" and value is True else value for key, value in arguments.items()}


def _plain(value: object) -> object:
    """An argument as JSON can hold it: tuples become lists, mappings and sequences are converted inside."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return value


Norms: TypeAlias = Literal["trained", "kept", "settled"]


class Encoder(nn.Module):
    """Base of every encoder. Subclasses set the four attributes and write ``forward_features``.

    Attributes:
        num_features: D, the width of an embedding.
        input_spec: what to feed it.
        stage_info: name → channels and strides, in forward order; the last is the one ``forward`` pools.
        frozen, norms: stages that are not trained, and whose statistics batch norms use in training; see
            ``unreel.nn.going_on``.
        architecture, arguments: the registered name and the keyword arguments that build it again.
    """

    num_features: int
    input_spec: InputSpec
    stage_info: dict[str, StageInfo]
    frozen: tuple[str, ...] = ()
    norms: Norms = "trained"
    architecture: str = ""
    arguments: dict[str, object]

    def __init__(self) -> None:
        super().__init__()
        self.arguments = {}

    def record(self, name: str, arguments: Mapping[str, object]) -> None:
        """Keep what builds this net again, with fresh weights: ``pretrained`` is kept as False."""
        self.architecture = name
        self.arguments = {key: _plain(value) for key, value in without_weights(arguments).items()}

    def train(self, mode: bool = True) -> Self:
        """Training mode, except for batch norms whose statistics stay (``norms``, ``frozen``)."""
        super().train(mode)
        kept = [self] if self.norms != "trained" else [self.stage(name) for name in self.frozen]
        for module in (m for part in kept for m in part.modules() if isinstance(m, _BatchNorm)):
            module.training = False
        return self

    def prepare(self, clips: Tensor) -> Tensor:
        """Pixels to network input: the only place for value range, mean/std, grey, DC removal and repetition.

        Args:
            clips: uint8 (B, T, H, W, C) as decoded, or float (B, C, T, H, W) in [0, 1] as augmented.
        Returns: float (B, C', T, H, W) with C' = ``input_spec.channels``.
        Raises: UsageError for another dtype, rank or channel count, and for clips of ``dct_highpass`` frames or fewer.
        """
        spec = self.input_spec
        if clips.ndim != 5:
            raise UsageError(f"prepare expects 5-D clips, got shape {tuple(clips.shape)}")
        if clips.dtype == torch.uint8:
            x = clips.permute(0, 4, 1, 2, 3).to(torch.get_default_dtype()) / 255
        elif clips.is_floating_point():
            x = clips
        else:
            raise UsageError(f"prepare expects uint8 or float clips, got {clips.dtype}")
        if x.shape[1] != spec.channels:
            if spec.channels == 1 and x.shape[1] == 3:
                luma = torch.tensor(LUMA, dtype=x.dtype, device=x.device)
                x = (x * luma.view(1, 3, 1, 1, 1)).sum(1, keepdim=True)
            elif spec.channels == 3 and x.shape[1] == 1:
                x = x.expand(-1, 3, -1, -1, -1)
            else:
                raise UsageError(f"the encoder takes {spec.channels} channels, the clips have {x.shape[1]}")
        if any(spec.mean) or any(s != 1 for s in spec.std):
            mean = torch.tensor(spec.mean, dtype=x.dtype, device=x.device).view(1, -1, 1, 1, 1)
            std = torch.tensor(spec.std, dtype=x.dtype, device=x.device).view(1, -1, 1, 1, 1)
            x = (x - mean) / std
        if spec.dct_highpass:
            x = dct_highpass(x, spec.dct_highpass)
        if x.shape[2] < spec.min_frames:
            repeats = -(-spec.min_frames // x.shape[2])
            x = x.repeat(1, 1, repeats, 1, 1)
        return x

    def forward_features(self, x: Tensor, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Feature maps (B, C, T', h, w) by stage name, in one pass; ``None`` gives the last stage only."""
        raise NotImplementedError(f"{type(self).__name__} must write forward_features")

    def pool(self, feature_map: Tensor) -> Tensor:
        """(B, C, T', h, w) to (B, C): the mean over time and space."""
        return feature_map.mean((2, 3, 4))

    def forward(self, x: Tensor) -> Tensor:
        """Prepared clips (B, C, T, H, W) to embeddings (B, D)."""
        return self.pool(self.forward_features(x)[self.last_stage])

    @property
    def last_stage(self) -> str:
        """Name of the stage that ``forward`` pools."""
        return next(reversed(self.stage_info))

    def check_names(self, names: Sequence[str] | None) -> list[str]:
        """Stage names asked for, validated; the last stage when ``None``."""
        if names is None:
            return [self.last_stage]
        unknown = [n for n in names if n not in self.stage_info]
        if unknown:
            raise UsageError(f"unknown stage {unknown[0]!r}; this encoder has {', '.join(self.stage_info)}")
        return list(names)

    def stage(self, name: str) -> nn.Module:
        """The module that makes stage ``name`` from the stage before it."""
        raise NotImplementedError(f"{type(self).__name__} must write stage")

    def copy_stage(self, name: str) -> nn.Module:
        """A deep copy of one stage: same weights, its own parameters."""
        self.check_names([name])
        return copy.deepcopy(self.stage(name))

    def at_resolution(self, factor: int) -> Encoder:
        """A deep copy whose last map is ``factor`` (1, 2 or 4) times finer in space; weights unchanged, no dilation.

        The spatial strides of the last one (2) or two (4) strided stages become 1; temporal strides stay
        (docs/methods/contracam.md, Resolution and Video). Raises UsageError where the architecture cannot.
        """
        raise NotImplementedError(f"{type(self).__name__} must write at_resolution")

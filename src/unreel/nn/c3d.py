"""C3D with batch norm: eight 3×3×3 convolutions and four max pools, as the snippet-order methods train it.

Source of every number: docs/methods/tcgl.md, Backbones. Parameters carry the names of
the public code (``conv1``, ``bn1``, ``conv3a``, ``bn3a`` …), so that its checkpoints fit as they are. A stage is named
after its convolutions and starts with the pool before them: ``conv1`` … ``conv5``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from torch import Tensor, nn

from unreel.core.checks import Amount, Count, Positive, Range
from unreel.core.errors import UsageError
from unreel.nn.padding import SameMaxPool3d
from unreel.nn.registry import register_variant
from unreel.nn.staged import Normalization, StagedEncoder, StageStep, he_init_, input_spec

#: the fewest frames that three temporal pools leave one of
MIN_FRAMES = 8

# Stage → its convolutions with their widths in multiples of the first; kernel and stride of the pool before them.
_STAGES: dict[str, tuple[tuple[tuple[str, int], ...], tuple[int, int, int] | None]] = {
    "conv1": ((("1", 1),), None),
    "conv2": ((("2", 2),), (1, 2, 2)),
    "conv3": ((("3a", 4), ("3b", 4)), (2, 2, 2)),
    "conv4": ((("4a", 8), ("4b", 8)), (2, 2, 2)),
    "conv5": ((("5a", 8), ("5b", 8)), (2, 2, 2)),
}


class C3D(StagedEncoder):
    """C3D without its fully connected layers.

    Pools round up, as every stage of a staged encoder does; at sizes that the strides divide (the 112 pixels and 8 or
    16 frames of the papers) this is the original. A finer copy (``at_resolution``) takes its pools' maxima at every
    position, over the same windows of two: each second value is the coarse net's.

    Clips of fewer than 8 frames are repeated whole by ``prepare``, after the removal of low temporal frequencies; so
    a frame-set of 4 frames is seen as [f0 f1 f2 f3 f0 f1 f2 f3].

    Args:
        width: channels of the first convolution; the others have 2, 4 and 8 times as many.
        size: pixels of a side that the input spec asks for.
        in_channels: 3, or 1 for grey clips.
        normalization: "none" as in the papers, or "imagenet" statistics.
        dct_highpass: how many of a clip's lowest temporal frequencies ``prepare`` takes away; TCGL takes 1, the mean.
        bn_eps, bn_momentum: of every batch norm.
    """

    def __init__(
        self,
        *,
        width: Count = 64,
        size: Count = 112,
        in_channels: Count = 3,
        normalization: Normalization = "none",
        dct_highpass: Amount = 0,
        bn_eps: Positive = 1e-5,
        bn_momentum: Annotated[float, Range(gt=0, le=1)] = 0.1,
    ) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        steps: dict[str, StageStep] = {}
        channels = in_channels
        for i, (stage, (convolutions, pool)) in enumerate(_STAGES.items()):
            layers: list[str] = []
            if pool is not None:
                self.add_module(f"pool{i}", SameMaxPool3d(pool, pool))
                layers.append(f"pool{i}")
            for suffix, multiple in convolutions:
                self.add_module(f"conv{suffix}", nn.Conv3d(channels, width * multiple, 3, padding=1))
                channels = width * multiple
                self.add_module(f"bn{suffix}", nn.BatchNorm3d(channels, eps=bn_eps, momentum=bn_momentum))
                layers += [f"conv{suffix}", f"bn{suffix}", "relu"]
            stride_t, stride_hw, _ = pool or (1, 1, 1)
            steps[stage] = StageStep(channels, stride_t, stride_hw, tuple(layers))
        self.set_steps(steps)
        self.input_spec = input_spec(
            in_channels, normalization, num_frames=16, size_px=size, min_frames=MIN_FRAMES, dct_highpass=dct_highpass
        )
        he_init_(self)

    def forward_features(self, x: Tensor, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Feature maps by stage name in the order asked; the pass stops at the last stage that is needed.

        Raises: UsageError for clips of fewer than 8 frames.
        """
        if x.shape[2] < MIN_FRAMES:
            raise UsageError(
                f"c3d halves time three times and needs clips of at least {MIN_FRAMES} frames, got {x.shape[2]}; "
                "encoder.prepare(clips) repeats shorter clips whole"
            )
        return super().forward_features(x, names)


c3d = register_variant(
    "c3d", C3D, "C3D with batch norm: 27,661,440 parameters, 512 features, strides 8 in time and 16 in space."
)

"""What convolutional encoders share: a chain of named stages, and the settings of their input."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

from torch import Tensor, nn

from unreel.core.checks import checked
from unreel.core.errors import UsageError
from unreel.nn.encoder import Encoder, InputSpec, StageInfo

Normalization: TypeAlias = Literal["none", "imagenet"]

# Channel statistics of ImageNet's training set on [0, 1], as every public 2-D checkpoint uses them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@checked
def input_spec(
    in_channels: int = 3,
    normalization: Normalization = "none",
    *,
    num_frames: int,
    size_px: int,
    stride_frames: int = 1,
    min_frames: int = 1,
    dct_highpass: int = 0,
) -> InputSpec:
    """An input spec with ImageNet's channel statistics, or with none.

    ``dct_highpass``: how many of a clip's lowest temporal frequencies to take away (``InputSpec``). One channel takes
    the mean of ImageNet's three. Raises UsageError for ImageNet statistics with other channel counts.
    """
    mean, std = (0.0,) * in_channels, (1.0,) * in_channels
    if normalization == "imagenet":
        if in_channels == 3:
            mean, std = IMAGENET_MEAN, IMAGENET_STD
        elif in_channels == 1:
            mean, std = (sum(IMAGENET_MEAN) / 3,), (sum(IMAGENET_STD) / 3,)
        else:
            raise UsageError(f"ImageNet statistics exist for 1 or 3 channels, not {in_channels}; use 'none'")
    return InputSpec(num_frames, stride_frames, size_px, in_channels, mean, std, min_frames, dct_highpass)


class StageStep(NamedTuple):
    """One stage by itself: the channels it gives and its strides against the stage before.

    ``modules``: the encoder's submodules that it is made of, in their order; none is the one of its name.
    """

    channels: int
    stride_t: int
    stride_hw: int
    modules: tuple[str, ...] = ()


def he_init_(net: nn.Module) -> None:
    """Every convolution's weights drawn anew: normal of variance 2 / fan_out (He et al. 2015), in place; biases 0."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class Residual(nn.Module):
    """A block under torchvision's names: convolutions with batch norm and ReLU between, added to the input.

    Subclasses make two convolutions, or three where ``expansion`` is 4, and the shortcut where the shape changes.
    """

    expansion = 1
    relu: nn.Module
    downsample: nn.Module | None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, …, H, W) to (B, expansion · channels, …, ceil(H/s), ceil(W/s))."""
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))  # type: ignore[operator]
        if self.expansion > 1:
            y = self.bn3(self.conv3(self.relu(y)))  # type: ignore[operator]
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))  # type: ignore[no-any-return]


def zero_init_residuals_(net: nn.Module) -> None:
    """Have every ``Residual`` inside ``net`` start as the identity, in place."""
    for block in net.modules():
        if isinstance(block, Residual):
            nn.init.zeros_(block.get_parameter("bn3.weight" if block.expansion > 1 else "bn2.weight"))


class StagedEncoder(Encoder):
    """An encoder that is a chain of stages, each a module of its own.

    Subclasses call ``set_steps`` once. Sizes follow one rule in every dimension: out = ceil(in / stride), odd sizes
    included.
    """

    def __init__(self) -> None:
        super().__init__()
        self.steps: dict[str, StageStep] = {}
        self.resolution = 1

    def set_steps(self, steps: Mapping[str, StageStep]) -> None:
        """Declare the stages in forward order; fills ``stage_info`` and ``num_features``."""
        self.steps = dict(steps)
        self.stage_info = {}
        stride_t = stride_hw = 1
        for name, step in self.steps.items():
            stride_t, stride_hw = stride_t * step.stride_t, stride_hw * step.stride_hw
            self.stage_info[name] = StageInfo(step.channels, stride_t, stride_hw)
        self.num_features = self.stage_info[self.last_stage].channels

    def forward_features(self, x: Tensor, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Feature maps by stage name in the order asked; the pass stops at the last stage that is needed."""
        wanted = self.check_names(names)
        missing = set(wanted)
        maps: dict[str, Tensor] = {}
        for name in self.steps:
            if not missing:
                break
            x = self.run_stage(name, x)
            if name in missing:
                maps[name] = x
                missing.discard(name)
        return {name: maps[name] for name in wanted}

    def stage(self, name: str) -> nn.Module:
        """The module that makes stage ``name`` from the stage before it; it shares this encoder's weights."""
        self.check_names([name])
        modules = self._modules_of(name)
        return modules[0] if len(modules) == 1 else nn.Sequential(*modules)

    def run_stage(self, name: str, x: Tensor) -> Tensor:
        """One stage applied to the map of the stage before it, (B, C, T, h, w) to (B, C', T', h', w')."""
        for module in self._modules_of(name):  # no Sequential, which torch.compile would stumble over
            x = module(x)
        return x

    def _modules_of(self, name: str) -> list[nn.Module]:
        return [self.get_submodule(part) for part in self.steps[name].modules or (name,)]

    def at_resolution(self, factor: int) -> StagedEncoder:
        """A deep copy whose last map is ``factor`` (1, 2 or 4) times finer in space; weights unchanged, no dilation.

        The spatial strides of the last one (2) or two (4) strided stages become 1; temporal strides stay
        (docs/methods/contracam.md, Resolution). Raises UsageError for another factor, for a net that was refined
        already, and where the strided stages to undo have a stride other than 2.
        """
        if factor not in (1, 2, 4):
            raise UsageError(f"at_resolution takes 1, 2 or 4, got {factor!r}")
        if factor != 1 and self.resolution != 1:
            raise UsageError(f"this encoder is already {self.resolution} times finer; start from the original")
        finer = copy.deepcopy(self)
        if factor == 1:
            return finer
        finer.set_steps(finer.refine_strides(factor))
        finer.resolution = factor
        finer.arguments = {**self.arguments, "resolution": factor}
        return finer

    def refine_strides(self, factor: int) -> dict[str, StageStep]:
        """Undo the spatial strides of the last one (2) or two (4) strided stages in place; returns the new steps.

        Raises: UsageError where there are too few such stages or their stride is not 2.
        """
        count = 1 if factor == 2 else 2
        strided = [name for name, step in self.steps.items() if step.stride_hw > 1][-count:]
        if len(strided) < count or any(self.steps[name].stride_hw != 2 for name in strided):
            raise UsageError(f"{self.architecture or type(self).__name__} has no {count} stages of stride 2 to refine")
        steps = dict(self.steps)
        for name in strided:
            self.refine_stage(name)
            steps[name] = steps[name]._replace(stride_hw=1)
        return steps

    def refine_stage(self, name: str) -> None:
        """Set every spatial stride inside a stage to 1, in place; temporal strides stay.

        Right for odd kernels padded by (k − 1)/2 and for ``padding="tf_same"``, which then keep the size.
        """
        for module in self.stage(name).modules():
            if isinstance(module, nn.Conv3d | nn.MaxPool3d):
                stride = module.stride
                module.stride = (stride[0] if isinstance(stride, tuple) else stride, 1, 1)
            elif isinstance(module, nn.Conv2d | nn.MaxPool2d):
                module.stride = (1, 1)

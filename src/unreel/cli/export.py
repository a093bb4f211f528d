"""``unreel export``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from unreel.cli.common import NO_OPTIONS, Common


def export(
    encoder: Path,
    /,
    *,
    format: Literal["torchvision", "detectron2"],
    out: Path,
    settings_for: Literal["coco", "voc"] | None = None,
    batch: int = 16,
    common: Common = NO_OPTIONS,
) -> int:
    """Write a ResNet-18 or ResNet-50 for other code, with the names of torchvision or Detectron2.

    For Detectron2, --settings-for coco also writes the settings of R-CNN C4 beside the weights, as FILE.yaml. Then run
    train_net.py --config-file FILE.yaml MODEL.WEIGHTS FILE.pkl. This needs MoCo's detection code, which defines
    Res5ROIHeadsExtraNorm.

    Args:
        encoder: A run's folder, or an encoder file (.safetensors).
        format: Whose names to use: torchvision (.pth, .pt, .safetensors) or detectron2 (.pkl).
        out: The file to write.
        settings_for: With detectron2: also write the settings for this data set.
        batch: With --settings-for: the batch size, counted over all GPUs.
    """
    from unreel import api

    found = api.export(encoder, format=format, out=out, settings_for=settings_for, batch=batch)
    plain: dict[str, object] = {"file": str(found.file), "format": format, "architecture": found.architecture}
    lines = [f"wrote {found.file}: {found.architecture} under the names of {format}"]
    if found.settings is not None:
        plain["settings"] = str(found.settings)
        lines.append(f"wrote {found.settings}")
    common.print(plain, "\n".join(lines))
    return 0

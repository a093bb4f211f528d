"""``unreel export``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from unreel.cli.common import NO_OPTIONS, Common
from unreel.core.errors import UsageError


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
    from unreel.core.files import check_file, write_whole
    from unreel.nn.export import check_export, detectron2_settings, export_encoder

    target = check_export(format, out)
    config = target.with_suffix(".yaml")
    if settings_for is not None and format != "detectron2":
        raise UsageError("--settings-for goes with --format detectron2")
    for file in [target] if settings_for is None else [target, config]:
        check_file(file)
    net = api.load_encoder(encoder)
    text = ""
    if settings_for is not None:
        import yaml

        text = yaml.safe_dump(detectron2_settings(net, settings_for, batch=batch), sort_keys=False)
    written = export_encoder(net, target, format=format)
    plain: dict[str, object] = {"file": str(written), "format": format, "architecture": net.architecture}
    lines = [f"wrote {written}: {net.architecture} under the names of {format}"]
    if text:
        write_whole(config, text)
        plain["settings"] = str(config)
        lines.append(f"wrote {config}")
    common.print(plain, "\n".join(lines))
    return 0

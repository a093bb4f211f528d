"""Encoders for other people's code: 2-D ResNets under torchvision's and Detectron2's names.

Detectron2's names are those of its C4 backbone (docs/methods/evaluation.md, Detection): ``stem.conv1``,
``res2.0.conv1``, ``res2.0.conv1.norm``, ``res2.0.shortcut``. Its file is a pickle of NumPy arrays, as its model zoo has
it.
"""

from __future__ import annotations

import io
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from unreel.core.checks import Count, checked
from unreel.core.errors import UsageError, unknown_name
from unreel.core.files import replacing
from unreel.nn.encoder import Encoder
from unreel.nn.resnet import ResNet

ExportFormat: TypeAlias = Literal["torchvision", "detectron2"]
DetectionSet: TypeAlias = Literal["coco", "voc"]

_DEPTHS = {"resnet_18": 18, "resnet_50": 50}
_SUFFIXES: dict[str, tuple[str, ...]] = {
    "torchvision": (".pth", ".pt", ".safetensors"),
    "detectron2": (".pkl",),
}
_COUNTER = ".num_batches_tracked"


def _check(encoder: Encoder, what: str) -> ResNet:
    """The encoder as a ResNet of the published shape. Raises UsageError, saying in what it differs."""
    if not isinstance(encoder, ResNet) or encoder.architecture not in _DEPTHS:
        name = encoder.architecture or type(encoder).__name__
        raise UsageError(f"{what} has names for {' and '.join(_DEPTHS)}, not for {name}; load it with unreel instead")
    channels, width = encoder.steps["stem"].channels, 64
    if encoder.maxpool is None or channels != width or encoder.input_spec.channels != 3:
        raise UsageError(
            f"{what} builds its nets with the ImageNet stem, {width} channels wide, on RGB; this encoder has stem "
            f"{'imagenet' if encoder.maxpool is not None else 'cifar'!r}, width {channels} and "
            f"{encoder.input_spec.channels} input channels; pretrain one with --encoder.stem imagenet "
            f"--encoder.width {width}"
        )
    return encoder


def torchvision_state(encoder: Encoder) -> dict[str, Tensor]:
    """The weights as torchvision's ``resnet18`` and ``resnet50`` name them, without ``fc``; on the CPU, detached.

    Load them with ``model.load_state_dict(state, strict=False)``, which reports ``fc`` as missing and nothing else.
    Raises: UsageError for other architectures, stems, widths and channels.
    """
    _check(encoder, "torchvision")
    return {name: tensor.detach() for name, tensor in encoder.state_dict().items()}


def detectron2_name(name: str) -> str:
    """One of our (torchvision's) names as Detectron2's backbones call it.

    >>> detectron2_name("layer1.0.downsample.1.running_mean")
    'res2.0.shortcut.norm.running_mean'
    >>> detectron2_name("bn1.weight")
    'stem.conv1.norm.weight'
    """
    stage, found = re.subn(r"^layer([1-4])\.", lambda m: f"res{int(m[1]) + 1}.", name)
    renamed = stage if found else f"stem.{name}"
    renamed = renamed.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
    return re.sub(r"\bbn([1-3])\.", r"conv\1.norm.", renamed)


def detectron2_state(encoder: Encoder) -> dict[str, Tensor]:
    """The weights under Detectron2's names, batch norms' counters left out; on the CPU as they are, detached.

    Kernels see RGB with the statistics of ``encoder.input_spec`` and have their stride in the 3×3 convolution, which
    ``detectron2_settings`` tells Detectron2. Raises: UsageError as ``torchvision_state``.
    """
    _check(encoder, "Detectron2")
    state = encoder.state_dict()
    return {detectron2_name(n): t.detach() for n, t in state.items() if not n.endswith(_COUNTER)}


@checked
def detectron2_settings(encoder: Encoder, data_set: DetectionSet = "coco", *, batch: Count = 16) -> dict[str, Any]:
    """Settings of Detectron2 for fine-tuning this encoder as R-CNN C4, nested as its YAML.

    Source: docs/methods/evaluation.md, Detection.

    Mask R-CNN on COCO train2017 → val2017: 180,000 iterations, steps at 120,000 and 160,000, sides of 640 to 800 px.
    Faster R-CNN on VOC 07+12 trainval → 07 test: 24,000, steps at 18,000 and 22,000, 100 of warm-up, 480 to 800 px.
    All layers are trained, with synchronised batch norms and one more behind res5, whose head
    (``Res5ROIHeadsExtraNorm``) MoCo's detection code registers; statistics are measured anew before testing.

    Args:
        encoder: whose depth and channel statistics are written.
        data_set: "coco" or "voc".
        batch: images of all GPUs together. 16 goes with a learning rate of 0.02 (MoCo's own); the object-aware
            release ships 8 with that same rate. The rate stays 0.02 whatever the batch: state which.
    Raises: UsageError for another data set, a batch below 1, and as ``torchvision_state``.
    """
    _check(encoder, "Detectron2")
    spec, coco = encoder.input_spec, data_set == "coco"
    depth = _DEPTHS[encoder.architecture]
    return {
        "MODEL": {
            "META_ARCHITECTURE": "GeneralizedRCNN",
            "PIXEL_MEAN": [round(255 * m, 3) for m in spec.mean],
            "PIXEL_STD": [round(255 * s, 3) for s in spec.std],
            "MASK_ON": coco,
            "BACKBONE": {"FREEZE_AT": 0},
            "RESNETS": {
                "DEPTH": depth,
                "NORM": "SyncBN",
                "STRIDE_IN_1X1": False,
                # Detectron2's default, 256, is that of bottleneck blocks.
                **({"RES2_OUT_CHANNELS": 64} if depth == 18 else {}),
            },
            "RPN": {"PRE_NMS_TOPK_TEST": 6000, "POST_NMS_TOPK_TEST": 1000},
            "ROI_HEADS": {"NAME": "Res5ROIHeadsExtraNorm", "NUM_CLASSES": 80 if coco else 20},
        },
        "INPUT": {
            "FORMAT": "RGB",
            "MIN_SIZE_TRAIN": list(range(640 if coco else 480, 801, 32)),
            "MIN_SIZE_TEST": 800,
        },
        "DATASETS": {
            "TRAIN": ["coco_2017_train"] if coco else ["voc_2007_trainval", "voc_2012_trainval"],
            "TEST": ["coco_2017_val"] if coco else ["voc_2007_test"],
        },
        "SOLVER": {
            "IMS_PER_BATCH": batch,
            "BASE_LR": 0.02,
            "STEPS": [120_000, 160_000] if coco else [18_000, 22_000],
            "MAX_ITER": 180_000 if coco else 24_000,
            **({} if coco else {"WARMUP_ITERS": 100}),
        },
        "TEST": {"PRECISE_BN": {"ENABLED": True}},
    }


class _PortablePickler(pickle.Pickler):
    """Arrays as ``numpy.ndarray(shape, dtype, bytes)``: readable by every NumPy, while its own form names modules that
    only NumPy 2 has, or only NumPy 1."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, np.ndarray):
            plain = np.ascontiguousarray(obj)
            return np.ndarray, (obj.shape, plain.dtype.str, bytearray(plain.tobytes()))
        return NotImplemented


def _pickled(state: Mapping[str, Tensor]) -> bytes:
    model: dict[str, NDArray[Any]] = {name: tensor.float().cpu().numpy() for name, tensor in state.items()}
    stream = io.BytesIO()
    # The heuristics match names by their ends: C4 has res5 in its head, other models all in the backbone.
    _PortablePickler(stream, protocol=4).dump({"model": model, "__author__": "unreel", "matching_heuristics": True})
    return stream.getvalue()


def check_export(format: str, path: str | os.PathLike[str]) -> Path:
    """The file to write. Raises UsageError for an unknown format, or a suffix that its readers do not expect."""
    if format not in get_args(ExportFormat):
        raise unknown_name("export format", format, get_args(ExportFormat))
    target = Path(path)
    if target.suffix.lower() not in _SUFFIXES[format]:
        raise UsageError(f"{target}: for {format} a file ends in {' or '.join(_SUFFIXES[format])}")
    return target


def export_encoder(encoder: Encoder, path: str | os.PathLike[str], *, format: ExportFormat) -> Path:
    """Write the weights for other code, all or nothing; returns the file.

    Args:
        path: ``.pth``, ``.pt`` or ``.safetensors`` for torchvision, ``.pkl`` for Detectron2.
        format: "torchvision" (``torchvision_state``) or "detectron2" (``detectron2_state`` in the form of its model
            zoo: ``{"model": arrays, "__author__": …, "matching_heuristics": True}``).
    Raises: UsageError for another format or suffix, and as ``torchvision_state``.
    """
    target = check_export(format, path)
    state = torchvision_state(encoder) if format == "torchvision" else detectron2_state(encoder)
    with replacing(target) as partial:
        if format == "detectron2":
            partial.write_bytes(_pickled(state))
        elif target.suffix.lower() == ".safetensors":
            partial.write_bytes(save({name: tensor.cpu().contiguous() for name, tensor in state.items()}))
        else:
            with partial.open("wb") as stream:  # given a path, torch writes its name into the file
                torch.save({name: tensor.cpu() for name, tensor in state.items()}, stream)
    return target

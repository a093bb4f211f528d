"""Object-aware learning in numbers: does ContraCAM find objects, and do debiased views help where backgrounds mislead?

    python benchmarks/object_aware.py world              # the built-in world, report seeds: C18 and swapped backgrounds
    python benchmarks/object_aware.py real               # raccoon, bccd, davis2016_val: boxes and masks
    python benchmarks/object_aware.py world --develop --seeds 0      # development: nothing leaves runs/object_aware
    python benchmarks/object_aware.py render             # docs/results/object_aware.md from the JSON; nothing is run

``world``: in scenes whose background mostly gives the class away, an image method (MoCo) and a video method
(CVRL) are trained plainly; their ContraCAMs are compared with the truth; then both are trained again from the same
first weights with object crops, and with background mixup, both from those maps. The frozen encoders are asked for the
class on test scenes whose background names another class (docs/methods/evaluation.md, Background Challenge).

``real``: one encoder is trained without labels on all pictures of three small collections; where its ContraCAM sees
objects is compared with annotated boxes and masks, beside a centre square, the full image, the same net before
training, and the map of a classifier that was trained with labels. No box or mask is read in training.

A seed that is done (``runs/object_aware/<part>-<seed>.json``) is not run again. Development seeds are 0 to 9; report
seeds are run once, with settings that were fixed before. The collections are not part of this repository, nor are
pictures of them: overlays are written to ``runs/object_aware/overlays``.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from common import (
    COLLECTIONS_ROOT,
    REPOSITORY,
    RESULTS,
    arguments,
    cell,
    difference,
    environment,
    fill,
    load,
    mean_of,
    save,
    seeds_of,
    settled,
    side,
)
from numpy.typing import NDArray
from torch import Tensor, nn

from unreel.api import run_prepared
from unreel.core.errors import DataError, UsageError
from unreel.core.files import write_whole
from unreel.core.keys import Key
from unreel.data.boxes import boxes_to_shares, manifest_boxes, write_boxes
from unreel.data.dataset import resize_frames
from unreel.data.layouts import read_layout
from unreel.data.layouts.objects import read_image
from unreel.data.manifest import Manifest, Row
from unreel.data.sampling import ClipPlan
from unreel.data.sidecars import annotate
from unreel.data.synthetic import ActionWorld
from unreel.explain import boxes_from_map, contracam, dense_crf
from unreel.explain.boxes import map_rectangles
from unreel.explain.contracam import CamSettings
from unreel.explain.crf import CrfSettings
from unreel.explain.driver import MapPlan
from unreel.explain.objects import map_plan
from unreel.explain.overlay import draw_boxes, enlarge, heat
from unreel.explain.producers import BoxProducer, MaskProducer
from unreel.media import decoder_for
from unreel.media.image import encode_image
from unreel.metrics.localization import box_scores, localized, mask_iou, max_box_acc_v2
from unreel.nn import Encoder, count_parameters
from unreel.protocols import Compute, LinearProbe
from unreel.recipes.build import prepare
from unreel.recipes.trained import load_method
from unreel.tasks import JobStore, LabelTask
from unreel.tasks.evaluate import Asked
from unreel.tasks.evaluate import ask as question

REPORT_SEEDS = (5001, 5002, 5003)

Array = NDArray[np.float64]
Values = dict[str, list[float]]  # one number per image or video

# -------------------------------------------------------------------------------------------------------- what is asked

AREAS = (1 / 16, 1 / 8, 1 / 4, 1 / 2)  # of centre squares; the best on pictures that are not scored is the control
THRESHOLDS = 100  # of MaxBoxAccV2; the protocol's 1000 differ in the third digit and take ten times as long
METRICS = {
    "mask_iou": "mask IoU",
    "box_iou": "box IoU",
    "corloc": "CorLoc",
    "max_box_acc": "MaxBoxAccV2",
}
CONTRACAM, CRF, SINGLE, SETTLED_SINGLE = "contracam", "contracam + CRF", "single", "settled single"
NETS = {
    CONTRACAM: "ContraCAM",
    SINGLE: "ContraCAM, one iteration",
    CRF: "ContraCAM + CRF",
    "settled": "ContraCAM of the first weights, norms settled",
    SETTLED_SINGLE: "the same, one iteration",
    "random-init": "ContraCAM of random weights",
    "supervised": "supervised CAM",
    "square": "centre square",
    "square + CRF": "centre square + CRF",
    "full": "full image",
}
SETTLING_EPOCHS = 3


class Targets(NamedTuple):
    """Pictures with the truth: ``images`` (N, S, S, 3) uint8; ``boxes`` (M, 4) shares each; ``masks`` (N, S, S) bool or
    None; ``groups`` N names of what is resampled as one."""

    images: Tensor
    boxes: list[Array]
    masks: NDArray[np.bool_] | None
    groups: list[str]

    def subset(self, rows: Sequence[int]) -> Targets:
        """Some of the pictures."""
        masks = None if self.masks is None else self.masks[list(rows)]
        return Targets(self.images[list(rows)], [self.boxes[i] for i in rows], masks, [self.groups[i] for i in rows])


def score_maps(maps: Tensor, targets: Targets) -> Values:
    """Every metric that the truth allows, picture by picture. ``maps`` (N, S, S) in [0, 1].

    Boxes: parts above half of the map's maximum, without a margin; CorLoc takes the largest one. MaxBoxAccV2 has its
    best threshold for all pictures of the net at once.
    """
    size = maps.shape[-1]
    found: Values = {}
    if targets.masks is not None:
        found["mask_iou"] = mask_iou(maps.numpy(), targets.masks).tolist()
    every = [boxes_from_map(m, margin=0, min_scale=0).numpy() for m in maps]
    largest = [boxes_from_map(m, margin=0, min_scale=0, largest_only=True).numpy() for m in maps]
    found["box_iou"] = box_scores(every, targets.boxes).tolist()
    found["corloc"] = localized(largest, targets.boxes).tolist()
    pixels = [boxes * size for boxes in targets.boxes]
    found["max_box_acc"] = max_box_acc_v2(maps, pixels, num_thresholds=THRESHOLDS).correct.mean(1).tolist()
    return {name: [round(v, 5) for v in values] for name, values in found.items()}


def centre_square(area: float, size: int) -> Tensor:
    """(S, S): 1 in a centred square of this share of the picture."""
    side = round(size * area**0.5)
    begin = (size - side) // 2
    square = torch.zeros(size, size)
    square[begin : begin + side, begin : begin + side] = 1.0
    return square


def best_square(targets: Targets) -> float:
    """The area whose square fits best: by masks where there are any, else by boxes."""
    metric = "mask_iou" if targets.masks is not None else "box_iou"
    size, n = targets.images.shape[1], len(targets.boxes)
    means = {a: np.mean(score_maps(centre_square(a, size).expand(n, -1, -1), targets)[metric]) for a in AREAS}
    return max(means, key=lambda a: means[a])


def nature(maps: Tensor, targets: Targets) -> dict[str, float]:
    """What pictures and maps are like, to say why a map wins or loses."""
    extent = [float((b[:, 2:] - b[:, :2]).prod(1).mean()) for b in targets.boxes]
    far = [float(np.abs((b[:, :2] + b[:, 2:]) / 2 - 0.5).max(1).mean()) for b in targets.boxes]
    covered = (maps > 0.5).float().mean((1, 2))
    parts = [len(map_rectangles(m)) for m in maps]
    return {
        "objects": float(np.mean([len(b) for b in targets.boxes])),
        "object_area": float(np.mean(extent)),
        "off_centre": float(np.mean(far)),
        "map_area": float(covered.mean()),
        "map_parts": float(np.mean(parts)),
    }


def mask_box(mask: NDArray[np.bool_]) -> Array:
    """The box (1, 4) around a mask as shares, (0, 4) of an empty one."""
    if not mask.any():
        return np.zeros((0, 4))
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    height, width = mask.shape
    return np.array(
        [[columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height]], dtype=np.float64
    )


def resized_masks(masks: NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
    """(N, H, W) to (N, size, size): more than half of a pixel covered."""
    levels = torch.from_numpy(masks.astype(np.float32))[:, None]
    small = nn.functional.interpolate(levels, size=(size, size), mode="bilinear", antialias=True)
    return np.asarray((small[:, 0] > 0.5).numpy())


# ------------------------------------------------------------------------------------------------------------- training


@dataclass
class Clock:
    """CPU seconds of this process by what they were spent on."""

    seconds: dict[str, float] = field(default_factory=dict)

    def __call__(self, name: str, work: Callable[[], Any]) -> Any:
        """What ``work`` returns; its seconds go to ``name``."""
        begin = time.process_time()
        result = work()
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.process_time() - begin, 1)
        return result


COMMON: Mapping[str, Any] = {
    "encoder.name": "r3d_tiny",
    "optimizer.name": "adamw",
    "optimizer.lr": 0.003,
    "optimizer.weight_decay": 0.001,
    "train.schedule": "cosine",
    "train.precision": "float32",
    "train.memory_format": "channels_last",
    "train.workers": 0,
    "train.log_every": 20,
    "data.cache_mb": 600,
}


def settings(own: Mapping[str, Any], *, seed: int, steps: int, batch_size: int) -> dict[str, Any]:
    """All settings over a recipe."""
    run = {
        "train.seed": seed,
        "train.steps": steps,
        "train.warmup_steps": steps // 10,
        "train.batch_size": batch_size,
    }
    return {**COMMON, **own, **run}


def train(method: str, recipe: str, rows: Manifest, call: Mapping[str, Any], out: Path) -> nn.Module:
    """The method as training left it, in evaluation mode; a run that is done is opened again."""
    return load_method(run_prepared(prepare(method, rows, recipe=recipe, call=call), out=out))


def fresh(method: str, recipe: str, rows: Manifest, call: Mapping[str, Any]) -> dict[str, nn.Module]:
    """The method before its first step: as it is made, and with its batch statistics settled."""
    return {
        "settled": settled(prepare(method, rows, recipe=recipe, call=call), epochs=SETTLING_EPOCHS),
        "random-init": prepare(method, rows, recipe=recipe, call=call).method.eval(),
    }


# ------------------------------------------------------------------------------------------------------------ the world

SIZE_PX = 64  # of scenes, and of pictures that maps are made of
VIEW_PX = {"image": 56, "video": 48}
ASKED_PX = {"image": 64, "video": 64}  # objects then are as large as in the views, on average
# In training the background follows from the class in STRENGTH of the scenes and is free in the others; in test always.
# Textures are the same in every scene: shown at another place in each, they tell scenes apart, and ContraCAM finds the
# background.
STRENGTH = {"image": 0.5, "video": 0.5}
# Two backgrounds (of classes in turn): with eight, contrast learns to tell backgrounds and nothing else.
WORLD: Mapping[str, Any] = {
    "size_px": SIZE_PX,
    "num_backgrounds": 2,
    "num_colors": 24,
    "camera": 0.0,
    "contrast": 0.35,
    "background_link": "appearance",
    "audio_rate_hz": 0,
}
# Objects of a quarter of the frame, away from its middle: nothing moves in a picture, amplitudes are of places.
IMAGE_WORLD = {**WORLD, "num_frames": 2, "radius_px": (17.0, 20.0), "amplitude_px": (12.0, 18.0)}
VIDEO_WORLD = {
    **WORLD,
    "num_frames": 20,
    "period_frames": (5.0, 6.0),
    "radius_px": (16.0, 18.0),
    "amplitude_px": (8.0, 11.0),
    "drift_turns": 0.5,
}
NUM = {"image": (1024, 384), "video": (768, 320)}  # training scenes, and test scenes of either kind
NUM_LOCATED = 128  # test scenes whose maps are compared with the truth
CLIP_FRAMES = 4
# C18 asks for three iterations. A map of 16 × 16 instead of 4 × 4, as objects are two cells of 16 pixels wide. Boxes
# and masks for training come from one iteration: three cover half of such scenes.
WORLD_CAM = CamSettings(iterations=3, expand_resolution=4)
WORLD_FACTS = CamSettings(iterations=1, expand_resolution=4)
CAM_BATCH = 128
FRAME: Mapping[str, Any] = {"clips.clip_frames": 1, "clips.stride": 1}
CONTRAST: Mapping[str, Any] = {"head.hidden_dim": 192, "head.out_dim": 64, "clips.stride": 1}
IMAGE_METHOD = {
    **CONTRAST,
    **FRAME,
    "views.size": VIEW_PX["image"],
    "views.crop_area_min": 0.4,
    "method.queue_size": 256,
    "method.momentum": 0.97,  # in a run this short the loss falls sooner than at 0.99 and a rate of 0.003
    "optimizer.lr": 0.004,
}
VIDEO_METHOD = {
    **CONTRAST,
    "views.size": VIEW_PX["video"],
    "clips.clip_frames": CLIP_FRAMES,
    "clips.interval": "uniform",
    "views.crop_area_min": 0.4,
    "optimizer.lr": 0.004,
}
SUPERVISED_METHOD: Mapping[str, Any] = {
    **FRAME,
    "views.size": VIEW_PX["image"],
    "views.crop": "box",
    "views.flip_p": 0.5,
    "train.validation": 0,
    "train.select": "last",
}


class Family(NamedTuple):
    """An image or a video method in its world."""

    method: str
    recipe: str
    label: str
    world: Mapping[str, Any]
    settings: Mapping[str, Any]
    steps: int
    batch_size: int


FAMILIES = {
    "image": Family("moco", "moco_small", "appearance", IMAGE_WORLD, IMAGE_METHOD, 270, 64),
    "video": Family("cvrl", "cvrl_small", "appearance", VIDEO_WORLD, VIDEO_METHOD, 200, 64),
}
SUPERVISED_STEPS = 240
PLAIN = "plain"
# What is switched on, over the plain run.
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    PLAIN: {},
    "oa_crop": {"objects.object_crop": "cam"},
    "bg_mixup": {"objects.bg_mixup": "cam"},
}
BOUNDS: Mapping[str, Mapping[str, Any]] = {
    "oa_crop_gt": {"objects.object_crop": "gt"},
    "bg_mixup_gt": {"objects.bg_mixup": "gt"},
}
VARIANT_NAMES = {
    PLAIN: "plain",
    "oa_crop": "OA-Crop",
    "bg_mixup": "BG-Mixup",
    "oa_crop_gt": "OA-Crop, true boxes",
    "bg_mixup_gt": "BG-Mixup, true masks",
    "settled": "first weights, norms settled",
    "random-init": "random weights",
    "supervised": "supervised",
}


def write_image_world(folder: Path, seed: int, *, scale: float = 1.0) -> Manifest:
    """Scenes as PNG with masks and boxes: train, swapped (the background names another class) and same.

    A draw's address has no number of scenes in it: test scenes of both kinds differ in their backgrounds alone.
    """
    target = folder / "manifest.csv"
    if target.is_file():
        return Manifest.from_csv(target)
    train_scenes, test_scenes = (max(64, round(scale * n)) for n in NUM["image"])
    rows: list[Row] = []
    boxes: dict[str, Array] = {}
    for kind in ("swapped", "same"):
        training, test = (
            ActionWorld(
                seed, train_scenes, test_scenes, test_background=kind, background_strength=strength, **IMAGE_WORLD
            )
            for strength in (STRENGTH["image"], 1.0)
        )
        for index in range(0 if kind == "swapped" else train_scenes, len(training)):
            scene = (training if index < train_scenes else test).render(index, truth=True)
            assert scene.truth is not None
            split = kind if scene.split == "test" else "train"
            path = f"{split}/{index:05d}.png"
            mask = scene.truth.masks[0] == 1
            for name, pixels in ((path, scene.frames[0]), (f"masks/{path}", np.uint8(255) * mask)):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(encode_image(np.ascontiguousarray(pixels)))
            box = mask_box(mask) * SIZE_PX
            boxes[path] = boxes_to_shares(np.concatenate([box[:, :2], box[:, 2:] - box[:, :2]], 1), mask.shape)
            labels = {"appearance": scene.appearance, "background": scene.background}
            files = {"mask": f"masks/{path}", "boxes": "boxes.txt"}
            rows.append(Row(path, split=split, labels=labels, groups={"group": path}, files=files))
    write_boxes(folder / "boxes.txt", boxes)
    Manifest(str(folder), tuple(rows)).to_csv(target)
    return Manifest.from_csv(target)


def write_video_world(folder: Path, seed: int, *, scale: float = 1.0) -> Manifest:
    """The same splits as mp4, all but ``same`` with the truth beside them."""
    target = folder / "manifest.csv"
    if target.is_file():
        return Manifest.from_csv(target)
    train_scenes, test_scenes = (max(64, round(scale * n)) for n in NUM["video"])
    rows: list[Row] = []
    for split in ("train", "swapped", "same"):
        learning = split == "train"
        world = ActionWorld(
            seed,
            train_scenes if learning else 0,
            0 if learning else test_scenes,
            background_strength=STRENGTH["video"] if learning else 1.0,
            test_background="swapped" if learning else split,
            **VIDEO_WORLD,
        )
        part = Manifest.from_csv(world.write(folder / split, truth=split != "same"))
        rows += [
            replace(
                row,
                path=f"{split}/{row.path}",
                split=split,
                groups={"group": f"{split}/{row.path}"},
                files={name: f"{split}/{file}" for name, file in row.files.items()},
            )
            for row in part
        ]
    Manifest(str(folder), tuple(rows)).to_csv(target)
    return Manifest.from_csv(target)


def eval_plan(family: str) -> ClipPlan:
    """Whole frames; two clips of a video."""
    frames, clips = (1, 1) if family == "image" else (CLIP_FRAMES, 2)
    size = ASKED_PX[family]
    return ClipPlan(
        num_frames=frames,
        stride=1,
        num_clips=clips,
        num_crops=1,
        size_px=size,
        short_side_px=size,
        resize_px=(size, size),
    )


def ask(nets: Mapping[str, Encoder], manifest: Manifest, family: str, store: Path, seed: int) -> dict[str, Any]:
    """Right or wrong on every test scene by a linear probe of the training part: hits[net][split]."""
    label, found = FAMILIES[family].label, {name: {} for name in nets}
    asked = {name: Asked(net, eval_plan(family)) for name, net in nets.items()}
    compute = Compute(store=store, progress=False)
    for split in ("swapped", "same"):
        task = LabelTask(manifest.select(split=("train", split)), label=label, train="train", test=split, seed=seed)
        for name, records in question(task, [LinearProbe()], asked, seed=seed, compute=compute).records.items():
            outcomes = records["linear"].outcomes
            found[name][split] = [int(v) for v in outcomes.values["accuracy"]]
            chance = float(outcomes.chance["accuracy"])
    return {"hits": found, "chance": chance}


def image_targets(manifest: Manifest, split: str, most: int) -> Targets:
    """The first scenes of a split with masks and tight boxes."""
    rows = manifest.select(split=split)
    chosen = range(min(most, len(rows)))
    images = [torch.from_numpy(read_image(rows.absolute(i))) for i in chosen]
    masks = np.stack([read_image(rows.file(i, "mask") or Path()).max(-1) > 0 for i in chosen])
    return Targets(torch.stack(images), [mask_box(m) for m in masks], masks, [rows[i].path for i in chosen])


def video_targets(manifest: Manifest, split: str, most: int) -> tuple[Tensor, NDArray[np.bool_], list[str]]:
    """The middle clip of the first videos (N, T, H, W, 3) uint8, masks (N, T, H, W) of the moving object, and names."""
    rows = manifest.select(split=split)
    clips, masks = [], []
    for i in range(min(most, len(rows))):
        path = rows.absolute(i)
        total = decoder_for(path).probe(path).num_frames
        at = (total - CLIP_FRAMES) // 2 + np.arange(CLIP_FRAMES)
        clips.append(torch.from_numpy(decoder_for(path).read(path, indices=at).pixels))
        with np.load(rows.file(i, "truth") or Path()) as truth:
            masks.append(truth["masks"][at] == 1)
    return torch.stack(clips), np.stack(masks), [rows[i].path for i in range(len(clips))]


def array_maps(
    model: nn.Module,
    images: Tensor,
    cam: CamSettings,
    *,
    batch_size: int,
    seed: int,
    groups: Sequence[int] | None = None,
    chunk: int | None = None,
) -> Tensor:
    """ContraCAM (N, 1, …) of images or clips in memory, in shuffled batches, as ``MapMaker`` makes them of files.

    A last image alone is set against those of the batch before it.
    """
    ids = torch.arange(len(images)) if groups is None else torch.as_tensor(groups)
    order = torch.as_tensor(Key(seed, "contracam").permutation(len(images)))
    found: list[Tensor] = [torch.empty(0)] * len(images)
    for begin in range(0, len(images), batch_size):
        rows = order[begin : begin + batch_size]
        before = order[max(0, begin - batch_size) : begin]
        company = before[ids[before] != ids[rows[0]]][: batch_size - 1] if len(rows) == 1 else rows[:0]
        both = torch.cat([rows, company])
        maps = contracam(model.encoder, model.head, images[both], groups=ids[both], chunk=chunk, **asdict(cam))
        for row, made in zip(rows.tolist(), maps.float().cpu(), strict=False):
            found[row] = made
    return torch.stack(found)


def contrast_maps(
    models: Mapping[str, nn.Module], images: Tensor, cam: CamSettings, *, batch_size: int, seed: int, **knobs: Any
) -> dict[str, Tensor]:
    """ContraCAM (N, …) of every net, and of the first two after one iteration."""
    single = replace(cam, iterations=1)
    asked = {name: (model, cam) for name, model in models.items()}
    asked |= {SINGLE: (models[CONTRACAM], single), SETTLED_SINGLE: (models["settled"], single)}
    return {
        name: array_maps(m, images, s, batch_size=batch_size, seed=seed, **knobs)[:, 0]
        for name, (m, s) in asked.items()
    }


def told_maps(
    told: nn.Module, images: Tensor, labels: Sequence[str], classes: Sequence[str], cam: CamSettings, area: float
) -> dict[str, Tensor]:
    """The maps (N, S, S) of a classifier for the right class, and of no net: the centre square, the full image."""
    targets, (n, size) = torch.tensor([classes.index(label) for label in labels]), images.shape[:2]
    knobs = {"expand_resolution": cam.expand_resolution, "score": "supervised", "clamp_weights": False}
    made = contracam(told.encoder, told.head, images, targets=targets, **knobs)
    square = centre_square(area, size).expand(n, -1, -1)
    return {"supervised": made[:, 0], "square": square, "full": torch.ones(n, size, size)}


def locate_images(
    models: Mapping[str, nn.Module], classes: Sequence[str], manifest: Manifest, seed: int, most: int
) -> dict[str, Any]:
    """Maps of test scenes with swapped backgrounds against the truth."""
    targets = image_targets(manifest, "swapped", most)
    area = best_square(image_targets(manifest, "train", most))
    contrastive = {name: m for name, m in models.items() if name != "supervised"}
    maps = contrast_maps(contrastive, targets.images, WORLD_CAM, batch_size=CAM_BATCH, seed=seed)
    labels = manifest.select(split="swapped").labels("appearance")[: len(targets.boxes)]
    maps |= told_maps(models["supervised"], targets.images, labels, classes, WORLD_CAM, area)
    return {
        "values": {name: score_maps(found, targets) for name, found in maps.items()},
        "square_area": area,
        "groups": targets.groups,
        "nature": nature(maps[CONTRACAM], targets),
        "shown": _shown(maps, targets, ("truth", CONTRACAM, SINGLE, "settled", "supervised")),
    }


def locate_videos(models: Mapping[str, nn.Module], manifest: Manifest, seed: int, most: int) -> dict[str, Any]:
    """Maps of test clips against the truth: mean IoU of a clip's frames."""
    clips, masks, names = video_targets(manifest, "swapped", most)
    _, known, _ = video_targets(manifest, "train", most)
    area = max(AREAS, key=lambda a: mask_iou(np.broadcast_to(centre_square(a, SIZE_PX), known.shape), known).mean())
    found = contrast_maps(models, clips, WORLD_CAM, batch_size=CAM_BATCH, seed=seed)
    maps = {name: m.numpy() for name, m in found.items()}
    maps["square"] = np.broadcast_to(centre_square(area, SIZE_PX), masks.shape)
    maps["full"] = np.ones(masks.shape)
    values = {n: {"mask_iou": [round(v, 5) for v in mask_iou(m, masks).mean(1).tolist()]} for n, m in maps.items()}
    return {"values": values, "square_area": area, "groups": names}


def _shown(maps: Mapping[str, Tensor], targets: Targets, rows: Sequence[str], most: int = 6) -> NDArray[np.uint8]:
    """A sheet of pictures: a row of the first ones with their true boxes, and one of each map."""
    frames = targets.images[:most].numpy()
    sheet = []
    for name in rows:
        if name == "truth":
            lit = np.stack([draw_boxes(f, b) for f, b in zip(frames, targets.boxes, strict=False)])
        else:
            found = maps[name][:most]
            lit = heat(frames, found.numpy())
            lit = np.stack([draw_boxes(f, boxes_from_map(m, margin=0)) for f, m in zip(lit, found, strict=True)])
        sheet.append(np.concatenate(list(np.pad(enlarge(lit, 64), ((0, 0), (2, 2), (2, 2), (0, 0)))), axis=1))
    return np.concatenate(sheet, axis=0)


def debiased(
    family: str, name: str, plain: nn.Module, rows: Manifest, own: Mapping[str, Any], folder: Path, seed: int
) -> dict[str, Any]:
    """Settings of a variant; the boxes or masks that it needs are found by the plain run."""
    call = {**own, **{**VARIANTS, **BOUNDS}[name]}
    if "cam" not in call.values():
        return call
    own_plan = map_plan(plain.encoder, rows, size_px=SIZE_PX)
    plan = MapPlan(own_plan.clips, own_plan.per_frame, own_plan.video)
    if name == "oa_crop":
        producer: BoxProducer | MaskProducer = BoxProducer(
            plain.encoder, plain.head, plan, cam=WORLD_FACTS, batch_size=CAM_BATCH, seed=seed, crf=None
        )
    else:
        producer = MaskProducer(plain.encoder, plain.head, plan, cam=WORLD_FACTS, batch_size=CAM_BATCH, seed=seed)
    found = annotate(rows, producer, out=folder / f"{family}-facts")
    return {**call, f"data.{producer.name}": str(found.table)}


def run_family(
    family: str, folder: Path, seed: int, clock: Clock, *, scale: float = 1.0, bounds: bool = False
) -> dict[str, Any]:
    """Train all variants of one family, locate, ask."""
    about = FAMILIES[family]
    write = write_image_world if family == "image" else write_video_world
    manifest = clock(f"{family}: world", lambda: write(folder / f"{family}-world", seed, scale=scale))
    rows = manifest.select(split="train")
    steps = max(2, round(about.steps * scale))
    own = settings(about.settings, seed=seed, steps=steps, batch_size=about.batch_size)
    models: dict[str, nn.Module] = {}
    for name in [*VARIANTS, *(BOUNDS if bounds else ())]:
        call = (
            own
            if name == PLAIN
            else clock(f"{family}: maps", lambda n=name: debiased(family, n, models[PLAIN], rows, own, folder, seed))
        )
        out = folder / f"{family}-{name}"
        models[name] = clock(f"{family}: {name}", lambda c=call, o=out: train(about.method, about.recipe, rows, c, o))
    controls = clock(f"{family}: first weights", lambda: fresh(about.method, about.recipe, rows, own))
    maps = {CONTRACAM: models[PLAIN], **controls}
    most = max(16, round(NUM_LOCATED * scale))
    asked = {**{n: m.encoder for n, m in models.items()}, **{n: m.encoder for n, m in controls.items()}}
    if family == "image":
        call = settings(
            {**SUPERVISED_METHOD, "method.label": about.label},
            seed=seed,
            steps=max(2, round(SUPERVISED_STEPS * scale)),
            batch_size=about.batch_size,
        )
        told = clock(
            "image: supervised",
            lambda: train("supervised", "supervised_small", rows, call, folder / "image-supervised"),
        )
        asked["supervised"] = told.encoder
        classes = sorted(set(rows.labels(about.label)))
        located = clock(
            "image: locate",
            lambda: locate_images({**maps, "supervised": told}, classes, manifest, seed, most),
        )
    else:
        located = clock("video: locate", lambda: locate_videos(maps, manifest, seed, most))
    asked = {n: _as_asked(e, family) for n, e in asked.items()}
    answers = clock(f"{family}: ask", lambda: ask(asked, manifest, family, folder / "features", seed))
    return {
        **answers,
        "located": located,
        "steps": steps,
        "batch_size": about.batch_size,
        "parameters": count_parameters(models[PLAIN].encoder),
        "train": len(rows),
        "test": len(manifest.select(split="swapped")),
    }


def _as_asked(encoder: Encoder, family: str) -> Encoder:
    frames = 1 if family == "image" else CLIP_FRAMES
    encoder.input_spec = replace(encoder.input_spec, num_frames=frames, stride_frames=1, size_px=ASKED_PX[family])
    return encoder


def run_world(seed: int, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Both families of one seed."""
    clock = Clock()
    entry: dict[str, Any] = {"seed": seed, "scale": options.scale}
    for family in options.families:
        entry[family] = run_family(
            family, folder / f"world-{seed}", seed, clock, scale=options.scale, bounds=options.bounds
        )
        sheet = entry[family]["located"].pop("shown", None)
        if sheet is not None:
            write_whole(folder / "overlays" / f"world-{seed}.png", encode_image(sheet))
    entry["cost"] = clock.seconds
    return entry


# ----------------------------------------------------------------------------------------------------- real collections

REAL_PX = 96  # of the pictures that maps are made of
CRF_PX = 64
# The paper's reaches in pixels of 224, at CRF_PX.
SMALL_CRF = CrfSettings(gaussian_sxy=3 * CRF_PX / 224, bilateral_sxy=80 * CRF_PX / 224)
REAL_CAM = CamSettings(iterations=10, expand_resolution=2)  # docs/methods/contracam.md, Settings
REAL_BATCH = 64
REAL_STEPS, REAL_BATCH_SIZE = 700, 32
REAL_SUPERVISED_STEPS = 220
REAL_METHOD = {
    **CONTRAST,
    **FRAME,
    "views.size": 64,
    "views.crop_area_min": 0.2,
    "method.queue_size": 128,  # of 208 sources: a longer one holds the query's own key
    "optimizer.lr": 0.002,
}
REAL_SUPERVISED: Mapping[str, Any] = {**SUPERVISED_METHOD, "views.size": 64, "method.label": "label"}
FRAME_STEP = 5  # of DAVIS's 30 frames per sequence, each fifth is scored
SUPERVISED_STEP = 3  # and each third is a picture for the classifier
COLLECTIONS = {
    "raccoon": "Raccoon detection (Tran 2017)",
    "bccd": "BCCD blood cells (Cheng 2018)",
    "davis2016_val": "DAVIS 2016, validation sequences (Perazzi et al. 2016)",
}
UNITS = {"raccoon": "images", "bccd": "images", "davis2016_val": "sequences"}


class Real(NamedTuple):
    """One collection: rows to learn from, rows for the classifier, pictures with the truth, and their classes."""

    rows: list[Row]
    told: list[Row]
    targets: Targets
    labels: list[str]


def small(path: Path) -> Tensor:
    """A picture (S, S, 3), the aspect not kept (docs/methods/contracam.md, Batches)."""
    return resize_frames(torch.from_numpy(read_image(path))[None], REAL_PX, REAL_PX)[0]


def open_pictures(name: str, root: Path, files: Path, *, scale: float = 1.0) -> Real:
    """A collection of pictures with boxes; ``scale`` of it, to try the script."""
    manifest = read_layout("voc", root / name, files=str(files / name)).manifest
    label = "raccoon" if name == "raccoon" else "blood cells"
    boxes = [np.asarray(b) for b in manifest_boxes(manifest, "objects")]
    kept = [i for i, b in enumerate(boxes) if len(b)]
    kept = kept[: max(12, round(scale * len(kept)))]
    rows = [
        Row(f"{name}/{manifest[i].path}", labels={"label": label}, groups={"group": f"{name}/{manifest[i].path}"})
        for i in kept
    ]
    images = torch.stack([small(manifest.absolute(i)) for i in kept])
    targets = Targets(images, [boxes[i] for i in kept], None, [row.path for row in rows])
    return Real(rows, rows, targets, [label] * len(rows))


def open_sequences(name: str, root: Path, *, scale: float = 1.0) -> Real:
    """DAVIS: a row is a sequence; every ``FRAME_STEP``-th frame is scored."""
    manifest = read_layout("davis", root / name).manifest
    rows, told, images, boxes, masks, groups = [], [], [], [], [], []
    for i, row in enumerate(manifest):
        sequence = row.labels["label"]
        rows.append(Row(f"{name}/{row.path}", labels={"label": sequence}, groups={"group": sequence}))
        frames = sorted(manifest.absolute(i).glob("*.jpg"))
        folder = manifest.file(i, "mask") or Path()
        told += [
            Row(f"{name}/{row.path}/{f.name}", labels={"label": sequence}, groups={"group": sequence})
            for f in frames[::SUPERVISED_STEP]
        ]
        for frame in frames[:: FRAME_STEP if scale == 1 else len(frames)]:
            mask = read_image(folder / f"{frame.stem}.png").max(-1) > 0
            if not mask.any():
                continue
            images.append(small(frame))
            boxes.append(mask_box(mask))
            masks.append(resized_masks(mask[None], REAL_PX)[0])
            groups.append(sequence)
    return Real(rows, told, Targets(torch.stack(images), boxes, np.stack(masks), groups), groups)


def open_real(root: Path, files: Path, *, scale: float = 1.0) -> dict[str, Real]:
    """The collections that are there. Raises DataError for none."""
    found: dict[str, Real] = {}
    for name in COLLECTIONS:
        try:
            if name == "davis2016_val":
                found[name] = open_sequences(name, root, scale=scale)
            else:
                found[name] = open_pictures(name, root, files, scale=scale)
        except DataError as error:
            print(f"skipped {name}: {error}")
    if not found:
        raise DataError(f"{root} holds none of {', '.join(COLLECTIONS)}; --root names the folder that does")
    return found


def halves(name: str, n: int) -> tuple[list[int], list[int]]:
    """Pictures to choose settings by, and pictures to report on. Of DAVIS's ten sequences all are both: no setting was
    chosen on them but the control's area, which is thus the best in hindsight."""
    if name == "davis2016_val":
        return list(range(n)), list(range(n))
    return list(range(0, n, 2)), list(range(1, n, 2))


def crf_maps(images: Tensor, maps: Tensor) -> Tensor:
    """Maps (N, S, S) after the CRF at ``CRF_PX``, back at their size; an empty map stays."""
    size = maps.shape[-1]
    little = resize_frames(images, CRF_PX, CRF_PX)
    levels = nn.functional.interpolate(maps[:, None], size=(CRF_PX, CRF_PX), mode="bilinear", antialias=True)[:, 0]
    done = torch.stack(
        [
            dense_crf(i.contiguous(), p.clamp(0, 1), settings=SMALL_CRF) if p.any() else p
            for i, p in zip(little, levels, strict=True)
        ]
    )
    return nn.functional.interpolate(done[:, None], size=(size, size), mode="bilinear")[:, 0].clamp(0, 1)


def run_real(seed: int, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One encoder for all collections; maps against the truth."""
    clock = Clock()
    collections = clock("read", lambda: open_real(options.root, folder / "real-files", scale=options.scale))
    home = folder / f"real-{seed}"
    rows = Manifest(str(options.root.resolve()), tuple(row for c in collections.values() for row in c.rows))
    told = Manifest(str(options.root.resolve()), tuple(row for c in collections.values() for row in c.told))
    steps = max(2, round(REAL_STEPS * options.scale))
    call = settings(REAL_METHOD, seed=seed, steps=steps, batch_size=REAL_BATCH_SIZE)
    models = {
        CONTRACAM: clock("train", lambda: train("moco", "moco_small", rows, call, home / "moco")),
        **clock("first weights", lambda: fresh("moco", "moco_small", rows, call)),
    }
    told_steps = max(2, round(REAL_SUPERVISED_STEPS * options.scale))
    told_call = settings(REAL_SUPERVISED, seed=seed, steps=told_steps, batch_size=REAL_BATCH_SIZE)
    classifier = clock(
        "supervised", lambda: train("supervised", "supervised_small", told, told_call, home / "supervised")
    )
    classes = sorted(set(told.labels("label")))
    entry: dict[str, Any] = {"seed": seed, "scale": options.scale, "develop": options.develop, "collections": {}}
    for name, collection in collections.items():
        chosen, reported = halves(name, len(collection.labels))
        scored = chosen if options.develop else reported
        entry["collections"][name] = clock(
            f"{name}: maps and scores",
            lambda c=collection, k=chosen, s=scored, n=name: locate_real(
                c, k, s, models, classifier, classes, seed, folder / "overlays" / f"{n}-{seed}.png"
            ),
        )
    entry |= {
        "steps": steps,
        "supervised_steps": told_steps,
        "sources": len(rows),
        "classes": len(classes),
        "parameters": count_parameters(models[CONTRACAM].encoder),
        "cost": clock.seconds,
    }
    return entry


def locate_real(
    collection: Real,
    chosen: Sequence[int],
    scored: Sequence[int],
    models: Mapping[str, nn.Module],
    classifier: nn.Module,
    classes: Sequence[str],
    seed: int,
    sheet: Path,
) -> dict[str, Any]:
    """Maps of one collection, made in batches of all its pictures, scored on a part of them."""
    whole = collection.targets
    targets = whole.subset(scored)
    order = {name: i for i, name in enumerate(dict.fromkeys(whole.groups))}
    groups = [order[g] for g in whole.groups]
    every = contrast_maps(models, whole.images, REAL_CAM, groups=groups, batch_size=REAL_BATCH, seed=seed)
    maps = {name: m[list(scored)] for name, m in every.items()}
    area, n = best_square(whole.subset(chosen)), len(scored)
    labels = [collection.labels[i] for i in scored]
    maps |= told_maps(classifier, targets.images, labels, classes, REAL_CAM, area)
    maps[CRF] = crf_maps(targets.images, maps[CONTRACAM])
    maps["square + CRF"] = crf_maps(targets.images, maps["square"])
    step = max(1, n // 6)
    some = list(range(0, n, step))[:6]
    shown = _shown(
        {k: m[some] for k, m in maps.items()}, targets.subset(some), ("truth", *(k for k in NETS if k in maps))
    )
    write_whole(sheet, encode_image(shown))
    return {
        "values": {name: score_maps(maps[name], targets) for name in NETS if name in maps},
        "square_area": area,
        "groups": targets.groups,
        "nature": nature(maps[CONTRACAM], targets),
    }


# -------------------------------------------------------------------------------------------------------------- summary


def located_rows(
    parts: Sequence[Mapping[str, Any]], *, same_pictures: bool, first: str = CONTRACAM
) -> list[dict[str, Any]]:
    """A row per metric: every map's score, and ContraCAM's difference to it.

    Several seeds that share pictures are averaged picture by picture; otherwise their pictures are laid together.
    """
    rows = []
    names = [n for n in NETS if all(n in p["values"] for p in parts)]
    for metric in METRICS:
        if metric not in parts[0]["values"][first]:
            continue
        columns = {n: [np.array(p["values"][n][metric]) for p in parts] for n in names}
        join = (lambda c: np.mean(c, axis=0)) if same_pictures else np.concatenate
        values = {n: join(c) for n, c in columns.items()}
        groups = (
            list(parts[0]["groups"])
            if same_pictures
            else [f"{i}/{g}" for i, p in enumerate(parts) for g in p["groups"]]
        )
        rows.append(
            {
                "metric": metric,
                "n": len(groups),
                "groups": len(set(groups)),
                "values": {n: {**cell(v, groups), "n": len(v)} for n, v in values.items()},
                "spread": {n: [round(float(v.mean()), 4) for v in c] for n, c in columns.items()},
                "differences": {n: difference(values[first], v, groups) for n, v in values.items() if n != first},
            }
        )
    return rows


def asked_rows(parts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row per encoder: accuracy on swapped and on kept backgrounds, the gap, and differences to the plain run."""
    names = [n for n in VARIANT_NAMES if all(n in p["hits"] for p in parts)]
    joined = {
        n: {s: np.concatenate([np.array(p["hits"][n][s], dtype=float) for p in parts]) for s in ("swapped", "same")}
        for n in names
    }
    rows = []
    for name in names:
        own, plain = joined[name], joined[PLAIN]
        gap = own["same"] - own["swapped"]
        row: dict[str, Any] = {
            "net": name,
            "n": len(gap),
            "chance": float(np.mean([p["chance"] for p in parts])),
            **{k: {**cell(v), "n": len(v)} for k, v in {**own, "gap": gap}.items()},
            "spread": [round(float(np.mean(p["hits"][name]["swapped"])), 4) for p in parts],
        }
        if name != PLAIN:
            row["differences"] = {s: difference(own[s], plain[s]) for s in ("swapped", "same")}
            row["differences"]["gap"] = difference(gap, plain["same"] - plain["swapped"])
        rows.append(row)
    return rows


def summarise_world(raw: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Tables of all seeds together and of each; what was measured on single scenes stays in ``runs``."""
    found: dict[str, Any] = {"seeds": [r["seed"] for r in raw], "cost": [r["cost"] for r in raw]}
    for family in FAMILIES:
        parts = [r[family] for r in raw if family in r]
        if not parts:
            continue
        found[family] = {
            "asked": {
                "all": asked_rows(parts),
                **{str(r["seed"]): asked_rows([r[family]]) for r in raw if family in r},
            },
            "located": {
                "all": located_rows([p["located"] for p in parts], same_pictures=False),
                **{
                    str(r["seed"]): located_rows([r[family]["located"]], same_pictures=True) for r in raw if family in r
                },
            },
            "square_areas": [p["located"]["square_area"] for p in parts],
            "nature": [p["located"]["nature"] for p in parts if "nature" in p["located"]],
            **{k: parts[0][k] for k in ("steps", "batch_size", "parameters", "train", "test")},
        }
    return found


def summarise_real(raw: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Tables per collection, of the mean over seeds and of each seed."""
    found: dict[str, Any] = {"seeds": [r["seed"] for r in raw], "cost": [r["cost"] for r in raw], "collections": {}}
    for name in COLLECTIONS:
        parts = [r["collections"][name] for r in raw if name in r["collections"]]
        if len(parts) != len(raw):
            continue
        found["collections"][name] = {
            "located": {
                "mean": located_rows(parts, same_pictures=True),
                **{str(r["seed"]): located_rows([p], same_pictures=True) for r, p in zip(raw, parts, strict=True)},
            },
            "square_area": parts[0]["square_area"],
            "nature": mean_of([p["nature"] for p in parts]),
        }
    keys = ("steps", "supervised_steps", "sources", "classes", "parameters")
    return {**found, **{k: raw[0][k] for k in keys}}


# ----------------------------------------------------------------------------------------------------------------- page


def against(differences: Mapping[str, Mapping[str, float]]) -> str:
    """Where ContraCAM wins, loses and neither, by intervals of paired differences."""
    kinds = {1: "better than", -1: "**worse** than", 0: "undecided against"}
    said = {kind: [NETS[n] for n, d in differences.items() if side(d) == way] for way, kind in kinds.items()}
    return "; ".join(f"{kind} {', '.join(names)}" for kind, names in said.items() if names)


def render(found: Mapping[str, Any]) -> str:
    """The page, every number from the JSON beside it."""
    world = found.get("world", {})
    asked = {row["net"] for family in FAMILIES if family in world for row in world[family]["asked"]["all"]}
    return fill("object_aware", globals(), found=found, against=against, bounds=bool(asked & BOUNDS.keys()))


# --------------------------------------------------------------------------------------------------------- command line


def run_seed(part: str, seed: int, options: argparse.Namespace) -> str:
    """What one seed found, as JSON; its seconds and memory are told."""
    begin = time.perf_counter()
    entry = (run_world if part == "world" else run_real)(seed, options.folder, options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    cpu = sum(entry["cost"].values())
    print(f"{part} {seed}: {time.perf_counter() - begin:.0f} s, {cpu:.0f} s CPU, {peak:.0f} MiB", flush=True)
    return json.dumps(entry)


def main(words: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__, out=False)
    parser.add_argument("part", choices=("world", "real", "render"))
    parser.add_argument("--seeds", nargs="+", type=int, help="default: the report seeds, or 0 with --develop")
    parser.add_argument("--develop", action="store_true", help="seeds 0 to 9; results stay in the folder")
    parser.add_argument("--root", type=Path, default=COLLECTIONS_ROOT)
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "runs" / "object_aware")
    parser.add_argument("--families", nargs="+", choices=tuple(FAMILIES), default=list(FAMILIES))
    parser.add_argument("--bounds", action="store_true", help="world: also train with true boxes and masks")
    parser.add_argument("--scale", type=float, default=1.0, help="of steps and scenes, to try the script")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(words)
    part, seeds = options.part, (*REPORT_SEEDS,) if options.part == "render" else seeds_of(options, REPORT_SEEDS)
    if not options.develop and options.scale != 1.0:
        raise UsageError("--scale is for development: results are reported at scale 1")
    torch.set_num_threads(options.threads)
    out = (options.folder if options.develop else RESULTS) / "object_aware.json"
    found: dict[str, Any] = load(out, {"format": 1})
    if part != "render":
        records = JobStore(options.folder)
        try:  # a seed that is done is read; several processes may share the seeds
            jobs = {f"{part}-{seed}": partial(run_seed, part, seed, options) for seed in seeds}
            raw = [json.loads(text) for _, text in sorted(records.work(jobs))]
        except DataError as error:
            print(f"skipped {part}: {error}")
            return
        found[part] = summarise_world(raw) if part == "world" else summarise_real(raw)
        found["environment"] = environment()
        sheet = options.folder / "overlays" / f"world-{seeds[0]}.png"
        if part == "world" and sheet.is_file():
            write_whole(out.with_name("object_aware_world.png"), sheet.read_bytes())
        save(out, found)
    write_whole(out.with_suffix(".md"), render(found))
    if options.develop and part != "render":
        print(out.with_suffix(".md"))


if __name__ == "__main__":
    main()

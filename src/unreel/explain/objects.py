"""Maps of sources, and the objects in them: everything between an encoder and boxes.

Source: docs/methods/contracam.md, Settings and Video.

A source is an image or a whole video, whose clips' maps are joined in time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unreel.core.checks import Range, checked
from unreel.core.errors import UsageError
from unreel.data.boxes import MARGIN, MIN_SCALE
from unreel.data.manifest import Manifest
from unreel.data.rows import RowReader
from unreel.data.sampling import ClipPlan
from unreel.explain.boxes import Contours, boxes_from_map, clean_mask
from unreel.explain.contracam import Variant
from unreel.explain.crf import CrfSettings, dense_crf
from unreel.explain.driver import ClipMap, MapPlan, whole_frames
from unreel.explain.tubelets import MAX_GAP, MIN_IOU, Tubelet, link_boxes
from unreel.media import MediaError
from unreel.nn.encoder import Encoder

# Clips of an encoder of images in videos [design]: two seconds at usual rates, every frame by itself.
_STILLS, _APART_FRAMES = 8, 6
# So many videos tell how many clips it takes to see one whole.
_PROBED = 64
_MOST_CLIPS = 16
# Frames further apart than this many usual steps have others between them.
_APART = 1.5


def map_plan(
    encoder: Encoder, manifest: Manifest, *, num_clips: int | None = None, size_px: int | None = None
) -> MapPlan:
    """Clips for the maps of a data set: whole frames, as the encoder was trained.

    Args:
        encoder: one of single images looks at the frames of a video one by one.
        manifest: its first readable rows tell images from videos.
        num_clips: per video; None is as many as it takes to see most of the data's videos without a hole, 16 at most.
        size_px: side of the frames; None is the encoder's.
    """
    spec = encoder.input_spec
    plan = whole_frames(spec, size_px=size_px)
    reader = RowReader(manifest)
    lengths: list[int] = []
    for row in np.unique(np.linspace(0, max(0, len(manifest) - 1), _PROBED).astype(int)) if len(manifest) else ():
        try:
            lengths.append(reader.facts(int(row)).num_frames)
        except MediaError:
            continue
    video = bool(lengths) and max(lengths) > 1
    per_frame = video and spec.num_frames == 1
    options = asdict(plan)
    if video:
        usual = float(np.quantile(lengths, 0.9))
        if per_frame:
            stride = min(max(int(usual - 1) // (_STILLS - 1), 1), _APART_FRAMES)
            options |= {"num_frames": _STILLS, "stride": stride}
        needed = math.ceil(usual / (options["num_frames"] * options["stride"]))
        options["num_clips"] = num_clips or min(max(needed, 1), _MOST_CLIPS)
    return MapPlan(ClipPlan(**options), per_frame, video)


@dataclass(frozen=True)
class SourceMaps:
    """The map of one source: (F, H, W) in [0, 1] at ascending ``times_s`` (F,), and the frames it belongs to."""

    row: int
    maps: Tensor
    times_s: NDArray[np.float64]
    pixels: Tensor | None = None


def join_clips(clips: Sequence[ClipMap]) -> SourceMaps:
    """The maps of one source's clips in order of time; frames that several clips saw have the maximum."""
    times = torch.cat([clip.times_s for clip in clips]).numpy()
    moments, place = np.unique(times, return_inverse=True)
    maps = torch.cat([clip.maps for clip in clips])
    joined = maps.new_zeros(len(moments), *maps.shape[1:])
    for frame, at in zip(maps, place.tolist(), strict=True):
        joined[at] = torch.maximum(joined[at], frame)
    pixels = None
    if all(clip.pixels is not None for clip in clips):
        first = np.unique(place, return_index=True)[1]
        pixels = torch.cat([clip.pixels for clip in clips if clip.pixels is not None])[torch.from_numpy(first)]
    return SourceMaps(clips[0].row, joined, moments, pixels)


def join_rows(clips: Iterator[ClipMap]) -> Iterator[SourceMaps]:
    """Sources out of their clips, which follow each other."""
    held: list[ClipMap] = []
    for clip in clips:
        if held and held[0].row != clip.row:
            yield join_clips(held)
            held = []
        held.append(clip)
    if held:
        yield join_clips(held)


@checked
@dataclass(frozen=True)
class ObjectSettings:
    """How a map becomes objects (docs/methods/contracam.md, Settings). Plain values, for a card.

    Attributes:
        variant: of cleaning and contours: "paper" or "official".
        binarise_threshold, min_obj_scale, single: see ``clean_mask``; 0.01 before boxes.
        threshold, min_scale, margin, largest_only: see ``boxes_from_map``.
        contours: "outer", "tree", or what the variant says.
        min_iou, max_gap: see ``link_boxes``.
        min_frames: tubelets found in fewer frames are noise [design]; videos of fewer frames need them in all.
    """

    variant: Variant = "paper"
    binarise_threshold: Annotated[float, Range(ge=0, le=1)] = 0.5
    min_obj_scale: Annotated[float, Range(ge=0, le=1)] = 0.01
    single: bool = False
    threshold: Annotated[float, Range(ge=0, lt=1)] = 0.5
    min_scale: Annotated[float, Range(ge=0, le=1)] = MIN_SCALE
    margin: Annotated[float, Range(ge=0)] = MARGIN
    largest_only: bool = False
    contours: Contours | None = None
    min_iou: Annotated[float, Range(gt=0, le=1)] = MIN_IOU
    max_gap: Annotated[int, Range(ge=0, unit="frames")] = MAX_GAP
    min_frames: Annotated[int, Range(ge=1, unit="frames")] = 2

    def to_card(self) -> dict[str, object]:
        return {**asdict(self), "contours": self.box_options()["contours"]}

    def box_options(self) -> Mapping[str, Any]:
        """What ``boxes_from_map`` is given."""
        names = ("threshold", "min_scale", "margin", "largest_only")
        contours = self.contours or ("tree" if self.variant == "official" else "outer")
        return {"contours": contours, **{name: getattr(self, name) for name in names}}


@dataclass(frozen=True)
class Objects:
    """The objects of one source.

    Attributes:
        masks: (F, H, W) bool, cleaned.
        boxes: (N, 4) float64 shares of the frame, margin included; for a video those of everything it ever covers.
        tubelets: a video's, on the frames of ``times_s``; none for an image.
        times_s: (G,) times of the tubelets' frames, evenly spaced: G ≥ F where clips leave holes.
    """

    masks: Tensor
    boxes: Tensor
    tubelets: tuple[Tubelet, ...]
    times_s: NDArray[np.float64]

    def facts(self) -> dict[str, Any]:
        """Plain lists, as the sidecar of boxes holds them (``unreel.data.objects``)."""
        spans = [self.times_s[tube.first : tube.last + 1] for tube in self.tubelets]
        return {
            "boxes": self.boxes.tolist(),
            "tube_times_s": [span.tolist() for span in spans],
            "tube_boxes": [tube.boxes.tolist() for tube in self.tubelets],
        }


def find_objects(source: SourceMaps, settings: ObjectSettings | None = None) -> Objects:
    """Clean a source's map, box what it shows, and link the boxes of a video.

    A map's values are judged as they are: ContraCAM's reach 1 in every clip, so that thresholds are shares of the
    clip's maximum.
    """
    chosen = settings if settings is not None else ObjectSettings()
    masks = clean_mask(
        source.maps,
        variant=chosen.variant,
        binarise_threshold=chosen.binarise_threshold,
        min_obj_scale=chosen.min_obj_scale,
        single=chosen.single,
    )
    options = chosen.box_options()
    whole = boxes_from_map(masks.any(0).float(), **options)
    if len(masks) == 1:
        return Objects(masks, whole, (), source.times_s)
    place, grid = _even(source.times_s)
    frames: list[NDArray[np.float64]] = [np.zeros((0, 4))] * len(grid)
    for at, mask in zip(place.tolist(), masks, strict=True):
        frames[at] = boxes_from_map(mask.float(), **options).numpy()
    enough = min(chosen.min_frames, len(masks))
    tubes = link_boxes(frames, min_iou=chosen.min_iou, max_gap=chosen.max_gap, min_frames=enough)
    return Objects(masks, whole, tubes, grid)


def _even(times_s: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Places (F,) of frames among those that a video without holes would have, and the times of all of these."""
    steps = np.diff(times_s)
    usual = float(np.median(steps))
    apart = np.where(steps > _APART * usual, np.round(steps / usual), 1).astype(np.int64)
    place = np.concatenate([[0], np.cumsum(apart)])
    return place, np.interp(np.arange(place[-1] + 1), place, times_s)


def refine(source: SourceMaps, crf: CrfSettings | None, *, device: torch.device | str | None = None) -> SourceMaps:
    """A source's map after the CRF, frame by frame; itself without one.

    Args:
        source: with its pixels. crf: constants; None changes nothing.
        device: where it is computed; None is where the map is. The result is where the map was.
    Raises: UsageError for a source without pixels.
    """
    if crf is None:
        return source
    if source.pixels is None:
        raise UsageError("a CRF needs the frames beside their maps")
    maps = torch.stack(
        [
            dense_crf(frame.to(device), p.to(device), settings=crf).to(p.device) if p.any() else p
            for frame, p in zip(source.pixels, source.maps, strict=True)
        ]
    )
    return SourceMaps(source.row, maps, source.times_s, source.pixels)

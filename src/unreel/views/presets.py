"""Ready view plans. Each argument is a setting of a recipe, so all are plain numbers, names and switches."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias, get_args

from unreel.core.errors import UsageError, unknown_name
from unreel.core.settings import Range
from unreel.views.color import ContrastPivot, SaturationMode
from unreel.views.geometry import Padding
from unreel.views.operation import Operation
from unreel.views.operations import (
    CenterCrop,
    ColorJitter,
    CropSampler,
    GaussianBlur,
    Grayscale,
    HorizontalFlip,
    RandomResizedCrop,
    Resize,
    Solarize,
)
from unreel.views.plan import ViewPlan

ViewPreset: TypeAlias = Literal["paper", "release", "crop_only", "none"]

# Probabilities of blur and solarise in the release: view 1 always blurred, view 2 rarely blurred and sometimes
# solarised (cvrl.md §4, steps 6 and 7). Views beyond the second follow the second.
_RELEASE_BLUR = (1.0, 0.1)
_RELEASE_SOLARIZE = (0.0, 0.2)


def view_plan(
    preset: ViewPreset = "paper",
    *,
    size: Annotated[int, Range(ge=1, unit="px")] = 224,
    num_views: Annotated[int, Range(ge=1)] = 2,
    consistent: bool = True,
    crop_area_min: Annotated[float, Range(ge=0, le=1)] = 0.3,
    crop_area_max: Annotated[float, Range(ge=0, le=1)] = 1.0,
    crop_aspect_min: Annotated[float, Range(gt=0)] = 0.5,
    crop_aspect_max: Annotated[float, Range(gt=0)] = 2.0,
    crop_sampler: CropSampler = "tf",
    antialias: bool | None = None,
    flip_p: Annotated[float, Range(ge=0, le=1)] = 0.5,
    jitter_p: Annotated[float, Range(ge=0, le=1)] = 0.8,
    jitter_strength: Annotated[float, Range(ge=0)] = 1.0,
    brightness: Annotated[float, Range(ge=0)] | None = None,
    contrast: Annotated[float, Range(ge=0)] | None = None,
    saturation: Annotated[float, Range(ge=0)] | None = None,
    hue: Annotated[float, Range(ge=0)] | None = None,
    contrast_pivot: ContrastPivot = "clip",
    saturation_mode: SaturationMode = "hsv",
    gray_p: Annotated[float, Range(ge=0, le=1)] = 0.2,
    blur_p: Annotated[float, Range(ge=0, le=1)] | None = None,
    blur_sigma_min: Annotated[float, Range(ge=0, unit="px")] = 0.1,
    blur_sigma_max: Annotated[float, Range(ge=0, unit="px")] = 2.0,
    blur_padding: Padding = "zero",
    solarize_p: Annotated[float, Range(ge=0, le=1)] | None = None,
    solarize_threshold: Annotated[float, Range(ge=0, le=1)] = 0.5,
    compiled: bool = False,
) -> ViewPlan:
    """The views of CVRL and their ablations (cvrl.md §4).

    Args:
        preset: ``paper`` crop, flip, jitter, grey (Algorithm 1, steps 1–5), antialiased resize; ``release`` adds the
            asymmetric blur and solarisation of the released code (steps 6–8) and resizes without antialias;
            ``crop_only`` the random crop alone; ``none`` short side to ``size`` and the centre, nothing random.
        size: height and width of a view, pixels.
        num_views: views per sample.
        consistent: one draw for all frames; False draws per frame (the ablation).
        crop_area_min, crop_area_max: share of the frame that a crop covers.
        crop_aspect_min, crop_aspect_max: width over height of a crop.
        crop_sampler: ``tf`` or ``torchvision``; they differ in the distribution of crop sizes.
        antialias: of the resize; default: the preset's.
        flip_p, jitter_p, gray_p: probabilities. 0 leaves the operation out.
        jitter_strength: SimCLR's s: brightness, contrast, saturation 0.8 s, hue 0.2 s.
        brightness, contrast, saturation, hue: replace the values that follow from ``jitter_strength``.
        contrast_pivot: ``clip``, ``frame`` or ``gray``; saturation_mode: ``hsv`` or ``blend``.
        blur_p, solarize_p: in every view, replacing the preset's. 0 leaves the operation out.
        blur_sigma_min, blur_sigma_max: pixels; blur_padding: ``zero``, ``reflect`` or ``edge``.
        solarize_threshold: in [0, 1].
        compiled: colour jitter through torch.compile: tens of seconds at the first batch, then one kernel per
            operation; for long runs on a GPU.
    Raises: UsageError for an unknown preset or a value out of range.
    """
    if preset not in get_args(ViewPreset):
        raise unknown_name("view preset", preset, get_args(ViewPreset))
    if num_views < 1:
        raise UsageError(f"view_plan: num_views must be at least 1, got {num_views}")
    smooth = preset != "release" if antialias is None else antialias
    if preset == "none":
        still: list[Operation] = [Resize(short_side_px=size, antialias=smooth), CenterCrop(size)]
        return ViewPlan([still] * num_views)
    crop = RandomResizedCrop(
        size,
        (crop_area_min, crop_area_max),
        (crop_aspect_min, crop_aspect_max),
        sampler=crop_sampler,
        antialias=smooth,
        consistent=consistent,
    )
    if preset == "crop_only":
        return ViewPlan([[crop]] * num_views)
    jitter = ColorJitter(
        jitter_p,
        brightness=0.8 * jitter_strength if brightness is None else brightness,
        contrast=0.8 * jitter_strength if contrast is None else contrast,
        saturation=0.8 * jitter_strength if saturation is None else saturation,
        hue=0.2 * jitter_strength if hue is None else hue,
        contrast_pivot=contrast_pivot,
        saturation_mode=saturation_mode,
        compiled=compiled,
        consistent=consistent,
    )
    pipelines: list[list[Operation]] = []
    for view in range(num_views):
        release = preset == "release"
        p_blur = (_RELEASE_BLUR[min(view, 1)] if release else 0.0) if blur_p is None else blur_p
        p_solarize = (_RELEASE_SOLARIZE[min(view, 1)] if release else 0.0) if solarize_p is None else solarize_p
        blur = GaussianBlur(p_blur, (blur_sigma_min, blur_sigma_max), padding=blur_padding, consistent=consistent)
        rest: list[tuple[float, Operation]] = [
            (flip_p, HorizontalFlip(flip_p, consistent=consistent)),
            (jitter_p, jitter),
            (gray_p, Grayscale(gray_p, consistent=consistent)),
            (p_blur, blur),
            (p_solarize, Solarize(p_solarize, solarize_threshold, consistent=consistent)),
        ]
        pipelines.append([crop, *(op for p, op in rest if p > 0)])
    return ViewPlan(pipelines)

"""Ready view plans. Each argument is a setting of a recipe, so all are plain numbers, names and switches."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple, TypeAlias, TypeVar

from unreel.core.checks import Count, Range, checked
from unreel.core.errors import UsageError
from unreel.views import operations as ops
from unreel.views.color import ContrastPivot, SaturationMode
from unreel.views.geometry import Padding
from unreel.views.operation import Operation
from unreel.views.plan import ViewPlan

ViewPreset: TypeAlias = Literal["paper", "release", "occon", "mocov2", "crop_only", "none"]
DrawPer: TypeAlias = Literal["tuple", "snippet", "frame"]

# Probabilities of blur and solarise in the release: view 1 always blurred, view 2 rarely blurred and sometimes
# solarised (docs/methods/cvrl.md, Augmentation, steps 6 and 7). Views beyond the second follow the second.
_RELEASE_BLUR = (1.0, 0.1)
_RELEASE_SOLARIZE = (0.0, 0.2)


class _Defaults(NamedTuple):
    """Where presets differ in an operation that they have in common."""

    crop_area_min: float = 0.3
    crop_aspect_min: float = 0.5
    crop_aspect_max: float = 2.0
    crop_sampler: ops.CropSampler = "tf"
    color: float = 0.8  # brightness, contrast and saturation at jitter strength 1
    hue: float = 0.2
    contrast_pivot: ContrastPivot = "clip"
    blur_p: float = 0.0
    blur_padding: Padding = "zero"


# docs/methods/moco.md, Views: jitter 0.4, 0.4, 0.4, 0.1 (strength 0.5 of SimCLR's), crops from 8 % of the frame; MoCo
# v2's own lower bound is 0.2 (Chen 2020, arXiv 2003.04297).
_OCCON = _Defaults(0.08, 3 / 4, 4 / 3, "torchvision", 0.4, 0.1, "gray", 0.5, "reflect")
_IMAGE_PRESETS: dict[str, _Defaults] = {"occon": _OCCON, "mocov2": _OCCON._replace(crop_area_min=0.2)}


Value = TypeVar("Value")


def _or(value: Value | None, usual: Value) -> Value:
    return usual if value is None else value


@checked
def view_plan(
    preset: ViewPreset = "paper",
    *,
    size: Annotated[int, Range(ge=1, unit="px")] = 224,
    num_views: Annotated[int, Range(ge=1)] = 2,
    consistent: bool = True,
    crop_area_min: Annotated[float, Range(ge=0, le=1)] | None = None,
    crop_area_max: Annotated[float, Range(ge=0, le=1)] = 1.0,
    crop_aspect_min: Annotated[float, Range(gt=0)] | None = None,
    crop_aspect_max: Annotated[float, Range(gt=0)] | None = None,
    crop_sampler: ops.CropSampler | None = None,
    antialias: bool | None = None,
    flip_p: Annotated[float, Range(ge=0, le=1)] = 0.5,
    jitter_p: Annotated[float, Range(ge=0, le=1)] = 0.8,
    jitter_strength: Annotated[float, Range(ge=0)] = 1.0,
    brightness: Annotated[float, Range(ge=0)] | None = None,
    contrast: Annotated[float, Range(ge=0)] | None = None,
    saturation: Annotated[float, Range(ge=0)] | None = None,
    hue: Annotated[float, Range(ge=0)] | None = None,
    contrast_pivot: ContrastPivot | None = None,
    saturation_mode: SaturationMode = "hsv",
    gray_p: Annotated[float, Range(ge=0, le=1)] = 0.2,
    blur_p: Annotated[float, Range(ge=0, le=1)] | None = None,
    blur_sigma_min: Annotated[float, Range(ge=0, unit="px")] = 0.1,
    blur_sigma_max: Annotated[float, Range(ge=0, unit="px")] = 2.0,
    blur_padding: Padding | None = None,
    solarize_p: Annotated[float, Range(ge=0, le=1)] | None = None,
    solarize_threshold: Annotated[float, Range(ge=0, le=1)] = 0.5,
    compiled: bool = False,
) -> ViewPlan:
    """The views of CVRL and their ablations, and those of the image methods (docs/methods/moco.md, Views).

    Source: docs/methods/cvrl.md, Augmentation.

    Args:
        preset: ``paper`` crop, flip, jitter, grey (Algorithm 1, steps 1–5), antialiased resize; ``release`` adds the
            asymmetric blur and solarisation of the released code (steps 6–8) and resizes without antialias;
            ``occon`` crops from 8 % of the frame at aspect 3/4 to 4/3, with weaker colours and a blur in half of the
            views, ``mocov2`` the same from 20 %; ``crop_only`` the random crop alone; ``none`` short side to ``size``
            and the centre, nothing random. One difference from the released code of ``occon``: it shuffles the four
            operations of the colour jitter once per batch, here every sample has an order of its own, as all its
            draws: those are made before a batch is put together, and are the same in whatever batch it is.
        size: height and width of a view, pixels.
        num_views: views per sample.
        consistent: one draw for all frames; False draws per frame (the ablation).
        crop_area_min, crop_area_max: share of the frame that a crop covers. The least is 0.3, in ``occon`` 0.08, in
            ``mocov2`` 0.2.
        crop_aspect_min, crop_aspect_max: width over height of a crop: 0.5 to 2; 3/4 to 4/3 in the image methods'
            presets.
        crop_sampler: ``tf``, or ``torchvision`` (image methods); they differ in the distribution of crop sizes.
        antialias: whether the resize filters first; default: the preset's.
        flip_p, jitter_p, gray_p: probabilities. 0 leaves the operation out.
        jitter_strength: SimCLR's s: brightness, contrast, saturation 0.8 s, hue 0.2 s; half of that in the image
            methods' presets.
        brightness, contrast, saturation, hue: replace the values that follow from ``jitter_strength``.
        contrast_pivot: ``clip``, ``frame`` or ``gray`` (image methods); saturation_mode: ``hsv`` or ``blend``.
        blur_p, solarize_p: in every view, replacing the preset's. 0 leaves the operation out.
        blur_sigma_min, blur_sigma_max: pixels; blur_padding: ``zero``, ``reflect`` (image methods) or ``edge``.
        solarize_threshold: in [0, 1].
        compiled: colour jitter through torch.compile: tens of seconds at the first batch, then one kernel per
            operation; for long runs on a GPU.
    Raises: UsageError for an unknown preset or a value out of range.
    """
    smooth = preset != "release" if antialias is None else antialias
    if preset == "none":
        still: list[Operation] = [ops.Resize(short_side_px=size, antialias=smooth), ops.CenterCrop(size)]
        return ViewPlan([still] * num_views)
    usual = _IMAGE_PRESETS.get(preset, _Defaults())
    crop = ops.RandomResizedCrop(
        size,
        (_or(crop_area_min, usual.crop_area_min), crop_area_max),
        (_or(crop_aspect_min, usual.crop_aspect_min), _or(crop_aspect_max, usual.crop_aspect_max)),
        sampler=_or(crop_sampler, usual.crop_sampler),
        antialias=smooth,
        consistent=consistent,
    )
    if preset == "crop_only":
        return ViewPlan([[crop]] * num_views)
    jitter = ops.ColorJitter(
        jitter_p,
        brightness=_or(brightness, usual.color * jitter_strength),
        contrast=_or(contrast, usual.color * jitter_strength),
        saturation=_or(saturation, usual.color * jitter_strength),
        hue=_or(hue, usual.hue * jitter_strength),
        contrast_pivot=_or(contrast_pivot, usual.contrast_pivot),
        saturation_mode=saturation_mode,
        compiled=compiled,
        consistent=consistent,
    )
    pipelines: list[list[Operation]] = []
    for view in range(num_views):
        release = preset == "release"
        p_blur = _or(blur_p, _RELEASE_BLUR[min(view, 1)] if release else usual.blur_p)
        p_solarize = _or(solarize_p, _RELEASE_SOLARIZE[min(view, 1)] if release else 0.0)
        padding = _or(blur_padding, usual.blur_padding)
        blur = ops.GaussianBlur(p_blur, (blur_sigma_min, blur_sigma_max), padding=padding, consistent=consistent)
        rest: list[tuple[float, Operation]] = [
            (flip_p, ops.HorizontalFlip(flip_p, consistent=consistent)),
            (jitter_p, jitter),
            (gray_p, ops.Grayscale(gray_p, consistent=consistent)),
            (p_blur, blur),
            (p_solarize, ops.Solarize(p_solarize, solarize_threshold, consistent=consistent)),
        ]
        pipelines.append([crop, *(op for p, op in rest if p > 0)])
    return ViewPlan(pipelines)


@checked
def snippet_views(
    num_views: Count,
    *,
    size: Annotated[int, Range(ge=1, unit="px")] = 112,
    resize: tuple[int, int] | None = (128, 171),
    antialias: bool = True,
    crop: Literal["random", "center"] = "random",
    crop_per: DrawPer = "snippet",
    flip_p: Annotated[float, Range(ge=0, le=1)] = 0.0,
    flip_per: Literal["tuple", "snippet"] = "tuple",
    jitter_p: Annotated[float, Range(ge=0, le=1)] = 0.0,
    brightness: Annotated[float, Range(ge=0)] = 0.8,
    contrast: Annotated[float, Range(ge=0)] = 0.8,
    saturation: Annotated[float, Range(ge=0)] = 0.8,
    hue: Annotated[float, Range(ge=0)] = 0.2,
    gray_p: Annotated[float, Range(ge=0, le=1)] = 0.0,
    channel_p: Annotated[float, Range(ge=0, le=1)] = 0.0,
    color_per: DrawPer = "tuple",
) -> ViewPlan:
    """The views of tasks about time and order: resize, then one random crop (docs/methods/tcgl.md, Views).

    Flip and colour are off, as in the papers' code. Where they are on, all snippets of a tuple share the draw: one
    that differs between snippets is a cue or noise, not content.

    Args:
        num_views: snippets per sample.
        size: side of the square crop, pixels.
        resize: (high, wide) of the frame before the crop, its aspect not kept; None crops the frame as it is.
        antialias: whether the resize filters first.
        crop: "random", or "center" as in the papers' tests.
        crop_per: "snippet" draws a place for each snippet, so that their offset tells nothing, the same for all its
            frames; "tuple" one for all snippets; "frame" one for each frame, which shakes the clip (OPN's jitter, and
            the fault of TCGL's loaders: docs/methods/tcgl.md, Where we differ).
        flip_p: probability of a mirror image; flip_per: "tuple" or "snippet".
        jitter_p: probability of the colour jitter; brightness, contrast, saturation, hue: its strengths (defined in
            the release and not used there, with p 0.8).
        gray_p: probability of luma in all channels; channel_p: of one channel, drawn, in all ("channel replication").
        color_per: how often jitter, grey and channel are drawn.
    Raises: UsageError for a crop larger than the resized frame, an unknown name, or a number out of range.
    """
    if resize is not None and size > min(resize):
        raise UsageError(f"snippet_views: a crop of {size} px does not fit the resized frame of {resize} (high, wide)")
    steady = color_per != "frame"
    cut: Operation = ops.CenterCrop(size) if crop == "center" else ops.RandomCrop(size, consistent=crop_per != "frame")
    jitter = ops.ColorJitter(jitter_p, brightness, contrast, saturation, hue, consistent=steady)
    colors: list[tuple[float, Operation]] = [
        (jitter_p, jitter),
        (gray_p, ops.Grayscale(gray_p, consistent=steady)),
        (channel_p, ops.ChannelReplication(channel_p, consistent=steady)),
    ]
    used = [op for p, op in colors if p > 0]
    flip = [ops.HorizontalFlip(flip_p)] if flip_p > 0 else []
    pipeline = [*([] if resize is None else [ops.Resize(resize, antialias=antialias)]), cut, *flip, *used]
    shared = [op.name for op in used] if color_per == "tuple" else []
    shared += [cut.name] if crop_per == "tuple" else []
    shared += [op.name for op in flip] if flip_per == "tuple" else []
    return ViewPlan([pipeline] * num_views, shared=shared)

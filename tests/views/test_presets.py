"""Presets hold what docs/methods/cvrl.md, Augmentation says, as plain settings."""

from __future__ import annotations

import inspect
from typing import Any, cast

import pytest

from unreel.core.errors import UsageError
from unreel.views.geometry import default_blur_radius
from unreel.views.operations import ColorJitter, GaussianBlur, RandomResizedCrop, Resize, Solarize
from unreel.views.presets import view_plan


def operations(preset: str, view: int = 0, **options: Any) -> dict[str, Any]:
    return {op.name: op for op in view_plan(cast(Any, preset), **options).pipelines[view]}


def test_paper_is_steps_one_to_five_in_both_views() -> None:
    plan = view_plan()
    assert plan.pipelines[0] == plan.pipelines[1]
    ops = operations("paper")
    assert list(ops) == ["crop", "flip", "jitter", "gray"]
    assert ops["crop"] == RandomResizedCrop(224, (0.3, 1.0), (0.5, 2.0), sampler="tf", antialias=True)
    assert ops["jitter"] == ColorJitter(0.8, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2)
    assert (ops["flip"].p, ops["gray"].p) == (0.5, 0.2)


def test_release_is_asymmetric_and_resizes_without_antialias() -> None:
    first, second = operations("release", 0), operations("release", 1)
    assert list(first) == ["crop", "flip", "jitter", "gray", "blur"]
    assert list(second) == ["crop", "flip", "jitter", "gray", "blur", "solarize"]
    assert first["blur"] == GaussianBlur(1.0, (0.1, 2.0), padding="zero")
    assert second["blur"].p == 0.1
    assert second["solarize"] == Solarize(0.2, 0.5)
    assert not first["crop"].antialias
    assert operations("release", antialias=True)["crop"].antialias


@pytest.mark.parametrize(("preset", "smallest"), [("occon", 0.08), ("mocov2", 0.2)])
def test_views_of_the_image_methods_are_object_aware_1_4(preset: str, smallest: float) -> None:
    first, second = operations(preset, 0), operations(preset, 1)
    assert first == second
    assert list(first) == ["crop", "flip", "jitter", "gray", "blur"]
    assert first["crop"] == RandomResizedCrop(224, (smallest, 1.0), (3 / 4, 4 / 3), sampler="torchvision")
    assert first["jitter"] == ColorJitter(0.8, 0.4, 0.4, 0.4, 0.1, contrast_pivot="gray", saturation_mode="hsv")
    assert first["blur"] == GaussianBlur(0.5, (0.1, 2.0), padding="reflect")
    assert (first["flip"].p, first["gray"].p) == (0.5, 0.2)
    for size in (32, 64, 96, 224):  # int(0.1 · size) made odd
        taps = int(0.1 * size)
        assert 2 * default_blur_radius(size, size) + 1 == taps + 1 - taps % 2
    ops = operations(preset, crop_area_min=0.5, jitter_strength=0.5, contrast_pivot="clip", blur_p=0.0)
    assert ops["crop"].area == (0.5, 1.0)
    assert (ops["jitter"].brightness, ops["jitter"].hue, ops["jitter"].contrast_pivot) == (0.2, 0.05, "clip")
    assert "blur" not in ops


def test_crop_only_and_none() -> None:
    assert list(operations("crop_only", size=32)) == ["crop"]
    ops = operations("none", size=32)
    assert list(ops) == ["resize", "center_crop"]
    assert ops["resize"] == Resize(short_side_px=32)


def test_every_knob_reaches_its_operation() -> None:
    ops = operations(
        "paper",
        1,
        size=48,
        consistent=False,
        crop_area_min=0.08,
        crop_area_max=0.9,
        crop_aspect_min=0.75,
        crop_aspect_max=1.25,
        crop_sampler="torchvision",
        flip_p=0.1,
        jitter_p=0.3,
        jitter_strength=0.5,
        hue=0.07,
        contrast_pivot="gray",
        saturation_mode="blend",
        gray_p=0.4,
        blur_p=0.5,
        blur_sigma_min=0.2,
        blur_sigma_max=1.5,
        blur_padding="reflect",
        solarize_p=0.6,
        solarize_threshold=0.25,
        compiled=True,
    )
    assert ops["crop"] == RandomResizedCrop(48, (0.08, 0.9), (0.75, 1.25), sampler="torchvision", consistent=False)
    assert ops["jitter"] == ColorJitter(
        0.3, 0.4, 0.4, 0.4, 0.07, contrast_pivot="gray", saturation_mode="blend", consistent=False, compiled=True
    )
    assert ops["blur"] == GaussianBlur(0.5, (0.2, 1.5), padding="reflect", consistent=False)
    assert ops["solarize"] == Solarize(0.6, 0.25, consistent=False)
    assert (ops["flip"].p, ops["gray"].p) == (0.1, 0.4)
    assert not any(op.consistent for op in ops.values())
    for knob in ("brightness", "contrast", "saturation"):
        assert getattr(operations("paper", **{knob: 0.11})["jitter"], knob) == 0.11
    assert list(operations("release", 1, flip_p=0, jitter_p=0, gray_p=0, blur_p=0, solarize_p=0)) == ["crop"]


def test_settings_are_plain_and_errors_speak() -> None:
    for parameter in list(inspect.signature(view_plan).parameters.values())[1:]:
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert parameter.default is None or isinstance(parameter.default, bool | int | float | str)
    with pytest.raises(UsageError, match="did you mean 'release'"):
        view_plan("relase")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="num_views"):
        view_plan(num_views=0)

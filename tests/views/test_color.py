"""Colour operations against slow loops written from their definitions: one frame, one pixel at a time."""

from __future__ import annotations

import colorsys
import math

import pytest
import torch
from torch import Tensor

from unreel.core.errors import UsageError
from unreel.views import color

LUMA = (0.2989, 0.587, 0.114)


def random_clips(
    *lead: int, frames: int = 3, height: int = 5, width: int = 7, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Uniform noise with some exactly grey, black, white and pure pixels, where HSV is delicate."""
    clips = torch.rand(*lead, 3, frames, height, width, generator=torch.Generator().manual_seed(7), dtype=dtype)
    special = torch.tensor(
        [[0, 0, 0], [1, 1, 1], [0.3, 0.3, 0.3], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]], dtype=dtype
    )
    clips[..., 0, 0, :] = special.T
    return clips


def pixelwise(clip: Tensor, function: object) -> Tensor:
    """Apply (t, r, g, b) → (r, g, b) to every pixel of (3, T, H, W)."""
    out = clip.clone()
    _, frames, height, width = clip.shape
    for t in range(frames):
        for y in range(height):
            for x in range(width):
                r, g, b = (float(v) for v in clip[:, t, y, x])
                out[:, t, y, x] = torch.tensor(function(t, r, g, b), dtype=clip.dtype)  # type: ignore[operator]
    return out


def clip01(*values: float) -> list[float]:
    return [min(max(v, 0.0), 1.0) for v in values]


def slow_hsv(clip: Tensor, *, scale: list[float] | None = None, shift: list[float] | None = None) -> Tensor:
    def one(t: int, r: float, g: float, b: float) -> tuple[float, float, float]:
        h, s, v = colorsys.rgb_to_hsv(r, g, b)
        if scale is not None:
            s = min(max(s * scale[t % len(scale)], 0.0), 1.0)
        if shift is not None:
            h = (h + shift[t % len(shift)]) % 1.0
        return colorsys.hsv_to_rgb(h, s, v)

    return pixelwise(clip, one)


def slow_contrast(clip: Tensor, factor: list[float], pivot: str) -> Tensor:
    out = clip.clone()
    for t in range(clip.shape[1]):
        f = factor[t % len(factor)]
        for c in range(3):
            if pivot == "clip":
                values = [float(v) for v in clip[c].flatten()]
            elif pivot == "frame":
                values = [float(v) for v in clip[c, t].flatten()]
            else:
                values = [
                    sum(w * float(clip[k].flatten()[i]) for k, w in enumerate(LUMA)) for i in range(clip[0].numel())
                ]
            center = math.fsum(values) / len(values)
            for y in range(clip.shape[2]):
                for x in range(clip.shape[3]):
                    out[c, t, y, x] = clip01(center + f * (float(clip[c, t, y, x]) - center))[0]
    return out


FACTORS = [0.0, 0.2, 0.75, 1.0, 1.3, 1.8]


@pytest.mark.parametrize("factor", FACTORS)
def test_brightness_is_a_clipped_product(factor: float) -> None:
    clips = random_clips(2)
    want = torch.stack([pixelwise(c, lambda t, r, g, b: clip01(r * factor, g * factor, b * factor)) for c in clips])
    torch.testing.assert_close(color.brightness(clips, factor), want)


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 1.8])
@pytest.mark.parametrize("pivot", ["clip", "frame", "gray"])
def test_contrast_against_loops(factor: float, pivot: str) -> None:
    clip = random_clips(frames=2, height=3)
    got = color.contrast(clip, factor, pivot=pivot)  # type: ignore[arg-type]
    torch.testing.assert_close(got, slow_contrast(clip, [factor], pivot))


@pytest.mark.parametrize("factor", FACTORS)
def test_saturation_in_hsv_against_colorsys(factor: float) -> None:
    clip = random_clips()
    torch.testing.assert_close(color.saturation(clip, factor), slow_hsv(clip, scale=[factor]))


@pytest.mark.parametrize("factor", FACTORS)
def test_saturation_blend_mixes_with_luma(factor: float) -> None:
    clip = random_clips()

    def one(t: int, r: float, g: float, b: float) -> list[float]:
        gray = LUMA[0] * r + LUMA[1] * g + LUMA[2] * b
        return clip01(*(factor * v + (1 - factor) * gray for v in (r, g, b)))

    torch.testing.assert_close(color.saturation(clip, factor, mode="blend"), pixelwise(clip, one))


@pytest.mark.parametrize("shift", [-1.2, -0.5, -0.2, -1 / 6, 0.0, 0.07, 0.2, 1 / 3, 0.5, 2.0])
def test_hue_against_colorsys(shift: float) -> None:
    clip = random_clips()
    torch.testing.assert_close(color.hue(clip, shift), slow_hsv(clip, shift=[shift]))


def test_hue_turns_all_the_way_around() -> None:
    """Every sextant of the circle, exactly: red → … → red in steps of a sixth."""
    wheel = [(1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1), (1, 0, 1)]
    red = torch.tensor([1.0, 0, 0], dtype=torch.float64).view(3, 1, 1, 1)
    for step in range(-6, 13):
        want = torch.tensor(wheel[step % 6], dtype=torch.float64).view(3, 1, 1, 1)
        torch.testing.assert_close(color.hue(red, step / 6), want, atol=1e-12, rtol=0)


def test_grayscale_and_solarize() -> None:
    clip = random_clips()
    want = pixelwise(clip, lambda t, r, g, b: [LUMA[0] * r + LUMA[1] * g + LUMA[2] * b] * 3)
    torch.testing.assert_close(color.grayscale(clip), want)
    clip[0, 0, 1, 0] = 0.5  # the threshold itself is inverted
    for threshold in (0.0, 0.5, 0.9):
        want = pixelwise(clip, lambda t, *rgb, s=threshold: [1 - v if v >= s else v for v in rgb])
        torch.testing.assert_close(color.solarize(clip, threshold), want)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue", "solarize"])
def test_parameters_per_clip_and_per_frame(name: str) -> None:
    """A batch equals its clips one by one; per-frame parameters act on each frame alone."""
    clips = random_clips(2, 2)
    operation = getattr(color, name)
    per_clip = torch.tensor([[0.1, 0.4], [0.9, 1.0]], dtype=torch.float64)
    got = operation(clips, per_clip)
    for i in range(2):
        for j in range(2):
            torch.testing.assert_close(got[i, j], operation(clips[i, j], float(per_clip[i, j])), rtol=0, atol=0)
    torch.testing.assert_close(operation(clips, per_clip.unsqueeze(-1)), got, rtol=0, atol=0)
    per_frame = per_clip.unsqueeze(-1) * torch.tensor([1.0, 0.5, 0.1], dtype=torch.float64)
    got = operation(clips, per_frame)
    for t in range(3):
        want = operation(clips, per_frame[..., t].contiguous())[..., t, :, :]
        torch.testing.assert_close(got[..., t, :, :], want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue", "solarize", "grayscale"])
def test_type_kept_input_untouched_range_kept(name: str, dtype: torch.dtype) -> None:
    clips = random_clips(2, dtype=dtype)
    before = clips.clone()
    for value in (0.15, 1.7):
        out = color.grayscale(clips) if name == "grayscale" else getattr(color, name)(clips, value)
        assert out.dtype == dtype
        assert out.shape == clips.shape
        assert float(out.min()) >= 0
        assert float(out.max()) <= 1
    assert torch.equal(clips, before)
    strided = clips.transpose(-1, -2)
    if name != "grayscale":
        want = getattr(color, name)(strided.contiguous(), 0.3)
        torch.testing.assert_close(getattr(color, name)(strided, 0.3), want)


def test_neutral_parameters_change_nothing() -> None:
    clips = random_clips(2)
    for out in (
        color.brightness(clips, 1.0),
        color.contrast(clips, 1.0),
        color.saturation(clips, 1.0),
        color.saturation(clips, 1.0, mode="blend"),
        color.hue(clips, 0.0),
        color.hue(clips, 1.0),
    ):
        torch.testing.assert_close(out, clips, rtol=0, atol=1e-12)


def test_grey_stays_grey_exactly() -> None:
    """On grey pixels neither hue nor saturation may leave a tint, whatever the rounding."""
    values = torch.rand(1, 2, 40, 40, generator=torch.Generator().manual_seed(0))
    clips = values.expand(3, -1, -1, -1).contiguous()
    for out in (color.hue(clips, 0.37), color.saturation(clips, 1.8), color.saturation(clips, 0.3)):
        assert torch.equal(out, clips)


def test_check_18_ramp_stays_an_affine_image_of_the_input() -> None:
    """Check 18: frame k = k/16; without hue, saturation or clipping, frame differences keep one ratio."""
    ramp = (torch.arange(16, dtype=torch.float64) / 16).view(1, 16, 1, 1).expand(3, 16, 6, 6).contiguous()
    for order in ("bc", "cb"):
        for brightness, contrast in ((0.7, 0.5), (1.05, 0.9)):
            out = ramp
            for step in order:
                out = color.brightness(out, brightness) if step == "b" else color.contrast(out, contrast)
            steps = out.diff(dim=1)
            torch.testing.assert_close(steps, torch.full_like(steps, brightness * contrast / 16))
    # A pivot per frame would flatten the ramp into flicker: constant frames stay where they are.
    still = color.contrast(ramp, 0.5, pivot="frame")
    torch.testing.assert_close(still, ramp)


def test_grey_clips_have_no_hue_and_no_saturation() -> None:
    clips = torch.rand(2, 1, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(color.hue(clips, 0.2), clips)
    assert torch.equal(color.saturation(clips, 0.2), clips)
    assert torch.equal(color.grayscale(clips), clips)
    torch.testing.assert_close(color.contrast(clips, 0.5, pivot="gray"), color.contrast(clips, 0.5, pivot="clip"))


def test_errors_say_what_was_found() -> None:
    clips = random_clips(2)
    with pytest.raises(UsageError, match=r"expected \(2,\) \(one per clip\) or \(2, 3\)"):
        color.brightness(clips, torch.ones(3))
    with pytest.raises(UsageError, match=r"float clips"):
        color.hue((clips * 255).to(torch.uint8), 0.1)
    with pytest.raises(UsageError, match="pivot must be one of clip, frame, gray"):
        color.contrast(clips, 1.0, pivot="frames")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="mode must be one of hsv, blend"):
        color.saturation(clips, 1.0, mode="hls")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="1 or 3 channels, got 2"):
        color.hue(clips[:, :2], 0.1)
    with pytest.raises(UsageError, match="not differentiable"):
        color.brightness(clips.clone().requires_grad_(), 1.0)

"""Geometry against slow loops, worked values, and its own symmetries."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from unreel.core.errors import UsageError
from unreel.views import geometry


def noise(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(3), dtype=dtype)


def bytes_(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(3), dtype=torch.uint8)


# --- resize and crops ---------------------------------------------------------------------------------------------


def slow_bilinear(line: list[float], size: int, *, antialias: bool) -> list[float]:
    """Triangle filter about each output centre, normalised over the pixels that exist."""
    scale = len(line) / size
    reach = max(scale, 1.0) if antialias else 1.0
    out = []
    for i in range(size):
        center = (i + 0.5) * scale
        if not antialias:
            center = min(max(center, 0.5), len(line) - 0.5)
        weights = [max(0.0, 1 - abs(j + 0.5 - center) / reach) for j in range(len(line))]
        out.append(sum(w * v for w, v in zip(weights, line, strict=True)) / sum(weights))
    return out


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("size", [(5, 4), (13, 17), (8, 11)])
def test_resize_against_loops(size: tuple[int, int], antialias: bool) -> None:
    clip = noise(1, 1, 8, 11)
    rows = [slow_bilinear(row.tolist(), size[1], antialias=antialias) for row in clip[0, 0]]
    columns = [slow_bilinear([r[x] for r in rows], size[0], antialias=antialias) for x in range(size[1])]
    want = torch.tensor(columns, dtype=torch.float64).T
    torch.testing.assert_close(geometry.resize(clip, size, antialias=antialias)[0, 0], want)


@pytest.mark.parametrize("antialias", [True, False])
def test_uint8_resize_is_the_float_one_rounded(antialias: bool) -> None:
    frames = bytes_(3, 30, 42, 3)
    got = geometry.resize(frames, (17, 25), antialias=antialias)
    assert got.dtype == torch.uint8
    assert got.shape == (3, 17, 25, 3)
    assert got.is_contiguous()
    want = geometry.resize(frames.permute(3, 0, 1, 2).double(), (17, 25), antialias=antialias).permute(1, 2, 3, 0)
    assert float((got.double() - want).abs().max()) <= 1.01  # two roundings, one per axis
    assert float((got.double() - want).mean().abs()) < 0.05
    assert geometry.resize(frames, (30, 42)) is frames


def test_resized_crop_of_bytes_and_floats() -> None:
    frames = bytes_(4, 20, 26, 3)
    box = torch.tensor([3.0, 2, 15, 16])
    got = geometry.resized_crop(frames, box, 8)
    assert torch.equal(got, geometry.resize(frames[:, 2:16, 3:15].contiguous(), 8))
    assert torch.equal(geometry.resized_crop(frames, box, None), frames[:, 2:16, 3:15])
    boxes = torch.stack([box + t for t in range(4)])
    each = geometry.resized_crop(frames, boxes, (8, 9))
    for t in range(4):
        assert torch.equal(each[t], geometry.resized_crop(frames[t : t + 1], boxes[t], (8, 9))[0])
    clips = noise(2, 3, 4, 20, 26)
    per_clip = geometry.resized_crop(clips, boxes[:2], 8)
    torch.testing.assert_close(per_clip[1], geometry.resize(clips[1, ..., 3:17, 4:16], 8))
    per_frame = geometry.resized_crop(clips, torch.stack([boxes, boxes.flip(0)]), 8)
    for t in range(4):  # the second clip's boxes run backwards
        cut = clips[1, :, t : t + 1, 5 - t : 19 - t, 6 - t : 18 - t]
        torch.testing.assert_close(per_frame[1, :, t], geometry.resize(cut, 8)[:, 0])


@pytest.mark.parametrize("box", [[-1, 0, 5, 5], [0, 0, 27, 5], [0, 0, 5, 21], [5, 5, 5, 9], [0, 9, 4, 3]])
def test_crops_outside_the_frame_are_refused(box: list[float]) -> None:
    with pytest.raises(UsageError, match="empty or outside the 20 × 26 frame"):
        geometry.resized_crop(bytes_(1, 20, 26, 3), torch.tensor(box), 8)
    with pytest.raises(UsageError, match="empty or outside the 20 × 26 frame"):
        geometry.resized_crop(noise(3, 1, 20, 26), torch.tensor(box), 8)


def test_hflip() -> None:
    clips = noise(2, 3, 4, 5, 6)
    assert torch.equal(geometry.hflip(clips), clips.flip(-1))
    some = geometry.hflip(clips, torch.tensor([True, False]))
    assert torch.equal(some[0], clips[0].flip(-1))
    assert torch.equal(some[1], clips[1])
    each = geometry.hflip(clips, torch.tensor([[True, False, True, False], [False] * 4]))
    assert torch.equal(each[0, :, 2], clips[0, :, 2].flip(-1))
    assert torch.equal(each[0, :, 1], clips[0, :, 1])
    assert torch.equal(each[1], clips[1])


# --- blur ---------------------------------------------------------------------------------------------------------


def slow_blur_line(line: list[float], sigma: float, radius: int, padding: str) -> list[float]:
    taps = [math.exp(-(j**2) / (2 * sigma**2)) for j in range(-radius, radius + 1)]
    total = sum(taps)
    out = []
    for i in range(len(line)):
        value = 0.0
        for j in range(-radius, radius + 1):
            k = i + j
            if padding == "zero" and not 0 <= k < len(line):
                continue
            if padding == "edge":
                k = min(max(k, 0), len(line) - 1)
            while padding == "reflect" and not 0 <= k < len(line):
                k = -k if k < 0 else 2 * (len(line) - 1) - k
            value += taps[j + radius] / total * line[k]
        out.append(value)
    return out


@pytest.mark.parametrize("padding", ["zero", "reflect", "edge"])
@pytest.mark.parametrize("radius", [1, 3, 11])  # 11 reaches across the 6-pixel frame and back
def test_blur_against_loops(padding: str, radius: int) -> None:
    clips = noise(2, 2, 1, 6, 9)
    sigmas = [0.4, 1.7]
    got = geometry.gaussian_blur(clips, torch.tensor(sigmas, dtype=torch.float64), radius, padding)  # type: ignore[arg-type]
    for n, sigma in enumerate(sigmas):
        for c in range(2):
            rows = [slow_blur_line(r.tolist(), sigma, radius, padding) for r in clips[n, c, 0]]
            columns = [slow_blur_line([r[x] for r in rows], sigma, radius, padding) for x in range(9)]
            torch.testing.assert_close(got[n, c, 0], torch.tensor(columns, dtype=torch.float64).T)


@pytest.mark.parametrize("padding", ["zero", "reflect", "edge"])
def test_wide_frames_are_blurred_in_stripes_without_seams(padding: str) -> None:
    """Frames above the stripe's width against a plain sum over shifted copies; many planes, several σ."""
    clips = noise(3, 3, 7, 200, 130)
    sigma = torch.tensor([6.0, 0.6, 0.25], dtype=torch.float64)  # the first has weight on its last tap
    got = geometry.gaussian_blur(clips, sigma, 11, padding)  # type: ignore[arg-type]
    mode = {"zero": "constant", "reflect": "reflect", "edge": "replicate"}[padding]
    padded = torch.nn.functional.pad(clips.view(-1, 7, 200, 130), (11, 11, 11, 11), mode=mode).view(3, 3, 7, 222, 152)
    weights = torch.exp(-(torch.arange(-11, 12, dtype=torch.float64) ** 2) / (2 * sigma[:, None] ** 2))
    weights = (weights / weights.sum(1, keepdim=True)).view(3, 23, 1, 1, 1, 1)
    rows = sum(weights[:, j] * padded[..., j : j + 130] for j in range(23))
    want = sum(weights[:, j] * rows[..., j : j + 200, :] for j in range(23))  # type: ignore[index]
    torch.testing.assert_close(got, want)


def test_blurring_clips_together_or_one_by_one_is_the_same() -> None:
    clips = noise(4, 3, 2, 70, 20)
    sigma = torch.tensor([1.5, 0.7], dtype=torch.float64)
    want = geometry.gaussian_blur_(clips.clone(), sigma, 5, "edge", rows=[3, 1])
    got = clips.clone()
    across, down = (geometry.blur_matrix(sigma, n, 5, "edge") for n in (20, 70))
    geometry._blur_together_(got, [3, 1], across, down)
    torch.testing.assert_close(got, want)
    assert torch.equal(got[::2], clips[::2])


def test_check_20_blur_taps() -> None:
    """Check 20: centre and neighbour of the 23 taps at σ = 1, 2; σ = 0.1 is the identity."""
    taps = geometry.blur_taps(torch.tensor([1.0, 2.0, 0.1, 0.0], dtype=torch.float64), 11)
    assert taps.shape == (4, 23)
    for row, (center, neighbour) in zip(taps, ((0.3989423, 0.2419707), (0.1994711, 0.1760327)), strict=False):
        assert float(row[11]) == pytest.approx(center, abs=5e-8)
        assert float(row[10]) == float(row[12]) == pytest.approx(neighbour, abs=5e-8)
    for row in taps[2:]:
        assert torch.equal(row, torch.eye(23, dtype=torch.float64)[11])
    torch.testing.assert_close(taps.sum(1), torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize(("sigma", "corner"), [(2.0, 0.3596828), (1.0, 0.4892599)])
def test_check_20_blur_of_a_constant(sigma: float, corner: float) -> None:
    """Check 20: zero padding darkens the corner of a constant image to a known value; reflect and edge do not."""
    ones = torch.ones(1, 1, 224, 224, dtype=torch.float64)
    blurred = geometry.gaussian_blur(ones, sigma)  # the default radius is 11 at 224
    assert float(blurred[0, 0, 0, 0]) == pytest.approx(corner, abs=5e-8)
    assert float(blurred[0, 0, 112, 112]) == pytest.approx(1.0, abs=1e-12)
    for padding in ("reflect", "edge"):
        torch.testing.assert_close(geometry.gaussian_blur(ones, sigma, padding=padding), ones)  # type: ignore[arg-type]


def test_blur_per_frame_and_properties() -> None:
    clips = noise(2, 3, 4, 30, 40)
    sigma = torch.tensor([[0.0, 0.5, 1.0, 2.0], [2.0, 1.0, 0.3, 0.0]], dtype=torch.float64)
    got = geometry.gaussian_blur(clips, sigma, 5)
    for t in range(4):
        want = geometry.gaussian_blur(clips[:, :, t : t + 1], sigma[:, t].contiguous(), 5)
        torch.testing.assert_close(got[:, :, t : t + 1], want)
    torch.testing.assert_close(got[0, :, 0], clips[0, :, 0])  # σ = 0
    single = geometry.gaussian_blur(clips.float(), 1.3, 5)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), geometry.gaussian_blur(clips, 1.3, 5), atol=1e-6, rtol=0)
    # Linear, and even under mirroring.
    both = geometry.gaussian_blur(0.3 * clips + 0.7 * clips.flip(0), 1.1)
    parts = 0.3 * geometry.gaussian_blur(clips, 1.1) + 0.7 * geometry.gaussian_blur(clips.flip(0), 1.1)
    torch.testing.assert_close(both, parts)
    torch.testing.assert_close(geometry.gaussian_blur(clips.flip(-1), 1.1).flip(-1), geometry.gaussian_blur(clips, 1.1))
    assert [geometry.default_blur_radius(s, s + 9) for s in (224, 112, 56, 19)] == [11, 5, 2, 0]


def test_blur_errors() -> None:
    clips = noise(3, 1, 8, 8)
    with pytest.raises(UsageError, match="padding must be one of"):
        geometry.gaussian_blur(clips, 1.0, padding="wrap")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="radius must be ≥ 0"):
        geometry.gaussian_blur(clips, 1.0, -1)
    with pytest.raises(UsageError, match="parameter has shape"):
        geometry.gaussian_blur(clips, torch.ones(7))


# --- affine -------------------------------------------------------------------------------------------------------


def slow_affine(frame: Tensor, matrix: Tensor) -> Tensor:
    """Word for word: sample at M⁻¹(p_out − t), neighbours outside count as 0."""
    height, width = frame.shape
    (a, b, tx), (c, d, ty) = matrix.tolist()
    det = a * d - b * c
    out = torch.zeros_like(frame)
    for y in range(height):
        for x in range(width):
            px, py = x - (width - 1) / 2 - tx, y - (height - 1) / 2 - ty
            sx = (d * px - b * py) / det + (width - 1) / 2
            sy = (-c * px + a * py) / det + (height - 1) / 2
            for iy in (math.floor(sy), math.floor(sy) + 1):
                for ix in (math.floor(sx), math.floor(sx) + 1):
                    if 0 <= iy < height and 0 <= ix < width:
                        out[y, x] += frame[iy, ix] * (1 - abs(sx - ix)) * (1 - abs(sy - iy))
    return out


def matrix(theta: float, scale: float = 1.0, shear: float = 0.0, tx: float = 0.0, ty: float = 0.0) -> Tensor:
    rotation = torch.tensor([[math.cos(theta), -math.sin(theta)], [math.sin(theta), math.cos(theta)]])
    turned = scale * rotation.double() @ torch.tensor([[1.0, math.tan(shear)], [0.0, 1.0]], dtype=torch.float64)
    return torch.cat([turned, torch.tensor([[tx], [ty]], dtype=torch.float64)], 1)


def test_affine_against_loops() -> None:
    clips = noise(2, 1, 2, 7, 10)
    first, second = matrix(0.4, 1.2, 0.2, 1.5, -0.7), matrix(-2.0, 0.8, 0.0, -2.0, 0.3)
    got = geometry.affine(clips, torch.stack([first, second]))
    for n, m in enumerate((first, second)):
        for t in range(2):
            torch.testing.assert_close(got[n, 0, t], slow_affine(clips[n, 0, t], m), atol=1e-10, rtol=0)
    each = geometry.affine(clips, torch.stack([torch.stack([first, second])] * 2))
    torch.testing.assert_close(each[1, 0, 1], got[1, 0, 1])
    torch.testing.assert_close(each[1, 0, 0], slow_affine(clips[1, 0, 0], first), atol=1e-10, rtol=0)


def test_affine_known_maps() -> None:
    clip = noise(1, 1, 6, 6)
    torch.testing.assert_close(geometry.affine(clip, matrix(0.0)), clip)
    # A positive quarter turn is clockwise on the screen; a square is turned onto itself.
    torch.testing.assert_close(geometry.affine(clip, matrix(math.pi / 2)), clip.rot90(-1, (-2, -1)), atol=1e-9, rtol=0)
    moved = geometry.affine(clip, matrix(0.0, tx=2.0, ty=-1.0))
    torch.testing.assert_close(moved[..., :-1, 2:], clip[..., 1:, :-2])
    assert float(moved[..., :2].abs().max()) < 1e-9
    edge = geometry.affine(clip, matrix(0.0, tx=2.0), padding="edge")
    torch.testing.assert_close(edge[..., 0], clip[..., 0])
    mirrored = geometry.affine(clip, matrix(0.0, tx=2.0), padding="reflect")
    torch.testing.assert_close(mirrored, torch.cat([clip[..., :2].flip(-1), clip[..., :-2]], -1))
    with pytest.raises(UsageError, match="padding must be one of"):
        geometry.affine(clip, matrix(0.0), padding="wrap")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="matrix"):
        geometry.affine(clip, torch.eye(3))

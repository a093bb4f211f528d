"""Shapes, textures, backgrounds: geometry against counting, periodicity, colour conversion against colorsys."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest

from unreel.core.keys import Key
from unreel.data.synthetic.drawing import SHAPE_REACH, SHAPES, TEXTURES, background_texture, hsv_to_rgb, smooth_noise


def _grid() -> tuple[np.ndarray, np.ndarray]:
    axis = np.linspace(-2, 2, 401, dtype=np.float32)
    return tuple(np.meshgrid(axis, axis))


def test_shapes_have_one_area_and_stay_within_reach():
    u, v = _grid()
    areas = {name: float((shape(u, v) < 0).mean() * 16) for name, shape in SHAPES.items()}
    assert max(areas.values()) / min(areas.values()) < 1.1
    for shape in SHAPES.values():
        inside = shape(u, v) < 0
        assert np.sqrt(u**2 + v**2)[inside].max() <= SHAPE_REACH + 0.01


def test_shapes_are_distances_near_their_border():
    """The anti-aliased edge is one pixel wide, so the slope across the border is near 1."""
    for shape in SHAPES.values():
        u = np.linspace(0, 2, 2001, dtype=np.float32)
        values = shape(u, np.zeros_like(u))
        at = int(np.abs(values).argmin())
        slope = (values[at + 5] - values[at - 5]) / (u[at + 5] - u[at - 5])
        assert 0.8 < abs(slope) < 1.2  # a ring has its hole on the near side


@pytest.mark.parametrize("name", list(TEXTURES))
def test_turning_any_texture_shows(name: str):
    u, v = _grid()
    inside = u**2 + v**2 < 0.9
    now = np.sign(TEXTURES[name](u, v))[inside]
    for angle in (np.pi / 4, np.pi / 2, 3 * np.pi / 4):
        c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        turned = np.sign(TEXTURES[name](c * u + s * v, c * v - s * u))[inside]
        assert (turned != now).mean() > 0.15


def test_hsv_agrees_with_colorsys():
    for hue in np.linspace(0, 0.99, 23):
        for saturation, value in ((0.0, 0.5), (0.4, 1.0), (1.0, 0.7)):
            expected = colorsys.hsv_to_rgb(hue, saturation, value)
            np.testing.assert_allclose(hsv_to_rgb(hue, saturation, value), expected, atol=1e-6)


def test_noise_is_normal_periodic_and_keyed():
    noise = smooth_noise(Key(0, "n"), 64, exponent=1.2)
    assert abs(noise.mean()) < 1e-4
    assert noise.std() == pytest.approx(1, abs=1e-4)
    inner = np.abs(np.diff(noise, axis=0)).mean()
    assert np.abs(noise[0] - noise[-1]).mean() < 2 * inner  # the seam is no edge
    np.testing.assert_array_equal(noise, smooth_noise(Key(0, "n"), 64, exponent=1.2))
    assert not np.array_equal(noise, smooth_noise(Key(1, "n"), 64, exponent=1.2))


def test_backgrounds_differ_and_contrast_flattens_the_grain():
    a, b = (background_texture(Key(0, "background", i), 64) for i in range(2))
    assert a.shape == (64, 64, 3)
    assert a.min() >= 0
    assert a.max() <= 1
    assert np.abs(a - b).mean() > 0.05
    flat = background_texture(Key(0, "background", 0), 64, contrast=0.0)
    assert np.abs(np.diff(flat, axis=0)).mean() < 0.5 * np.abs(np.diff(a, axis=0)).mean()

"""Anti-aliased shapes, textures and backgrounds for procedural worlds. Pure NumPy, float32, no state."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from unreel.core.keys import Key

Array = NDArray[np.float32]


def as_f32(values: object) -> Array:
    """Any array as float32."""
    return np.asarray(values, dtype=np.float32)


def _triangle(u: Array, v: Array) -> Array:
    # Half-planes through the sides of an equilateral triangle with circumradius 1.476.
    side = np.float32(0.8660254) * np.abs(u) - np.float32(0.5) * v
    return as_f32(np.maximum(side, v) - np.float32(0.738))


def _cross(u: Array, v: Array) -> Array:
    a, b = np.abs(u), np.abs(v)
    long, short = np.float32(1.1), np.float32(0.42)
    return as_f32(np.minimum(np.maximum(a - long, b - short), np.maximum(a - short, b - long)))


# Signed distances in units of the object's radius, negative inside; areas agree within 10 %.
SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "disc": lambda u, v: as_f32(np.sqrt(u * u + v * v) - np.float32(0.95)),
    "square": lambda u, v: as_f32(np.maximum(np.abs(u), np.abs(v)) - np.float32(0.84)),
    "triangle": _triangle,
    "cross": _cross,
    "bar": lambda u, v: as_f32(np.maximum(np.abs(u) - np.float32(1.4), np.abs(v) - np.float32(0.5))),
    "ring": lambda u, v: as_f32(np.abs(np.sqrt(u * u + v * v) - np.float32(1.0)) - np.float32(0.22)),
}
SHAPE_REACH = 1.49  # no shape extends beyond this many radii


def _checker(u: Array, v: Array) -> Array:
    k = np.float32(2 * np.pi * 1.1)
    return as_f32(np.float32(1.6) * np.sin(k * u + np.float32(0.5)) * np.sin(k * v + np.float32(0.5)))


def _spot(u: Array, v: Array) -> Array:
    # Off centre, so that turning in place can be seen.
    du, dv = u - np.float32(0.3), v - np.float32(0.2)
    return as_f32(np.float32(5) * (np.sqrt(du * du + dv * dv) - np.float32(0.42)))


# Patterns around 0 (below: dark, above: light), in units of the object's radius; none is a full circle's symmetry.
TEXTURES: dict[str, Callable[[Array, Array], Array]] = {
    "halves": lambda u, v: as_f32(np.float32(2) * (u + np.float32(0.1))),
    "stripes": lambda u, v: as_f32(np.sin(np.float32(2 * np.pi * 0.8) * u + np.float32(0.7))),
    "checker": _checker,
    "spot": _spot,
}


def hsv_to_rgb(hue: float, saturation: float, value: float) -> Array:
    """One colour, all three in [0, 1], to RGB in [0, 1], (3,)."""
    k = (np.array([5.0, 3.0, 1.0], dtype=np.float32) + np.float32(hue * 6)) % 6
    ramp = np.clip(np.minimum(k, 4 - k), 0, 1)
    return as_f32(value * (1 - saturation * ramp))


def smooth_noise(key: Key, size: int, *, exponent: float, anisotropy: float = 1.0, angle: float = 0.0) -> Array:
    """Periodic noise with a power-law spectrum, (size, size), mean 0 and standard deviation 1.

    ``exponent`` is the amplitude's fall with frequency; ``anisotropy`` > 1 stretches the grain along ``angle``.
    """
    white = key.numpy().standard_normal((size, size))
    fy = np.fft.fftfreq(size)[:, None] * size
    fx = np.fft.rfftfreq(size)[None, :] * size
    along = fx * np.cos(angle) + fy * np.sin(angle)
    across = -fx * np.sin(angle) + fy * np.cos(angle)
    radius = np.sqrt((along * anisotropy) ** 2 + across**2)
    radius[0, 0] = np.inf  # no mean
    spectrum = np.fft.rfft2(white) / np.maximum(radius, 1.0) ** exponent
    noise = np.fft.irfft2(spectrum, s=(size, size))
    return as_f32(noise / noise.std())


def background_texture(key: Key, size: int, *, contrast: float = 0.5) -> Array:
    """A periodic coloured texture (size, size, 3) in [0, 1]: grain, colours and orientation come from ``key``."""
    exponent = key.child("exponent").uniform(0.6, 1.6)
    anisotropy = key.child("anisotropy").uniform(1.0, 4.0)
    angle = key.child("angle").uniform(0.0, np.pi)
    grain = smooth_noise(key.child("grain"), size, exponent=exponent, anisotropy=anisotropy, angle=angle)
    tint = smooth_noise(key.child("tint"), size, exponent=1.5)
    hue = key.child("hue").uniform()
    first = hsv_to_rgb(hue, key.child("saturation", 0).uniform(0.2, 0.7), 0.75)
    second = hsv_to_rgb((hue + key.child("shift").uniform(0.1, 0.5)) % 1.0, 0.5, 0.45)
    weight = 1 / (1 + np.exp(-1.5 * tint))[..., None]
    image = weight * first + (1 - weight) * second + np.float32(0.25 * contrast) * grain[..., None]
    return as_f32(np.clip(image, 0, 1))

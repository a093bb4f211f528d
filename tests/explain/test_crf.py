"""The fully connected CRF (docs/methods/contracam.md, CRF)."""

from __future__ import annotations

import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from unreel.core.errors import UsageError
from unreel.explain import CrfSettings, dense_crf


def _scene(height: int = 6, width: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 60, (height, width, 3), generator=generator, dtype=torch.uint8)
    return image, torch.rand(height, width, generator=generator, dtype=torch.float64)


def _slow(image: Tensor, probability: Tensor, settings: CrfSettings) -> NDArray[np.float64]:
    """Mean field pixel by pixel, both labels kept."""
    height, width = probability.shape
    places = [(y, x) for y in range(height) for x in range(width)]
    rgb = image.numpy().astype(float)

    def gaussian(a: tuple[int, int], b: tuple[int, int]) -> float:
        return math.exp(-sum((u - v) ** 2 for u, v in zip(a, b, strict=True)) / (2 * settings.gaussian_sxy**2))

    def bilateral(a: tuple[int, int], b: tuple[int, int]) -> float:
        far = sum((u - v) ** 2 for u, v in zip(a, b, strict=True)) / settings.bilateral_sxy**2
        return math.exp(-(far + float(((rgb[a] - rgb[b]) ** 2).sum()) / settings.bilateral_srgb**2) / 2)

    kernels = []
    for weight, kernel in ((settings.gaussian_weight, gaussian), (settings.bilateral_weight, bilateral)):
        table = np.array([[kernel(a, b) for b in places] for a in places])
        total = table.sum(1)
        kernels.append(weight * table / np.sqrt(np.outer(total, total)))
    p = probability.numpy().ravel()
    q = np.stack([p, 1 - p])
    unary = -np.log(q + 1e-20)
    for _ in range(settings.iterations):
        energy = -unary + sum(q @ kernel.T for kernel in kernels)
        energy -= energy.max(0)
        q = np.exp(energy) / np.exp(energy).sum(0)
    return np.asarray(q[0].reshape(height, width))


@pytest.mark.parametrize(
    "settings",
    [
        CrfSettings(),
        CrfSettings(iterations=2, gaussian_sxy=1, gaussian_weight=0.5, bilateral_sxy=2, bilateral_weight=1),
    ],
)
def test_exact_mean_field_against_a_slow_one(settings: CrfSettings) -> None:
    image, probability = _scene()
    found = dense_crf(image, probability, settings=settings)
    np.testing.assert_allclose(found.numpy(), _slow(image, probability, settings), rtol=0, atol=1e-12)
    single = dense_crf(image, probability.float(), settings=settings)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, found.float(), atol=1e-5, rtol=0)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    image, probability = _scene(7, 9)
    whole = dense_crf(image, probability)
    monkeypatch.setattr("unreel.explain.crf._BLOCK", {"cpu": (5, 11)})
    torch.testing.assert_close(dense_crf(image, probability), whole, rtol=0, atol=1e-12)


def test_check_C7_single_pixel() -> None:
    image = torch.zeros(1, 1, 3, dtype=torch.uint8)
    p = torch.tensor([[0.6]], dtype=torch.float64)
    first = dense_crf(image, p, settings=CrfSettings(iterations=1)).item()
    assert first == pytest.approx(1 / (1 + math.exp(-(math.log(1.5) + 13 * 0.2))), abs=1e-12)
    assert first == pytest.approx(0.95282, abs=5e-6)
    assert dense_crf(image, p, settings=CrfSettings(iterations=2)).item() > 0.99999
    assert dense_crf(image, p, settings=CrfSettings(iterations=0)).item() == 0.6


def test_check_C7_undecided_stays_undecided() -> None:
    image, _ = _scene()
    assert torch.equal(dense_crf(image, torch.full((6, 5), 0.5)), torch.full((6, 5), 0.5))


def test_it_follows_the_edges() -> None:
    """A blurred guess of a bright square becomes the square."""
    image = torch.full((24, 24, 3), 40, dtype=torch.uint8)
    image[8:16, 8:16] = 200
    places = torch.arange(24) - 11.5
    guess = torch.exp(-(places[:, None] ** 2 + places[None, :] ** 2) / 50)
    found = dense_crf(image, guess) > 0.5
    assert torch.equal(found, image[..., 0] == 200)
    assert not torch.equal(guess > 0.5, found)


def test_batches_and_float_images() -> None:
    (first, p), (second, q) = _scene(seed=1), _scene(seed=2)
    images, guesses = torch.stack([first, second]), torch.stack([p, q])
    together = dense_crf(images, guesses)
    assert torch.equal(together[1], dense_crf(second, q))
    planes = images.permute(0, 3, 1, 2).double() / 255
    torch.testing.assert_close(dense_crf(planes, guesses[:, None])[:, 0], together)


def test_refusals() -> None:
    image, p = _scene()
    with pytest.raises(UsageError, match="limit of 29"):
        dense_crf(image, p, max_pixels=29)
    with pytest.raises(UsageError, match="a float probability for each"):
        dense_crf(image, p[:, :4])
    with pytest.raises(UsageError, match="RGB"):
        dense_crf(image[..., :1], p)
    for wrong, said in ((1.5, "30 are not, the first is 1.5"), (-0.1, "is -0.1"), (math.nan, "is nan")):
        with pytest.raises(UsageError, match=said):
            dense_crf(image, torch.full_like(p, wrong))
    whole = dense_crf(image, torch.eye(6, 5))  # 0 and 1 are probabilities
    assert ((whole >= 0) & (whole <= 1)).all()
    with pytest.raises(UsageError, match="exact"):
        dense_crf(image, p, backend="exakt")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="bilateral_srgb must be > 0"):
        CrfSettings(bilateral_srgb=0)


def test_the_library_is_asked_width_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Width goes first, unlike in the release; the library stands in as one that computes exactly."""
    image, p = _scene()
    asked: dict[str, object] = {}

    class Stand:
        def __init__(self, width: int, height: int, labels: int) -> None:
            asked["size"] = (width, height, labels)

        def setUnaryEnergy(self, energy: NDArray[np.float32]) -> None:
            asked["p"] = np.exp(-energy[0])

        def addPairwiseGaussian(self, *, sxy: float, compat: float) -> None:
            asked["gaussian"] = (sxy, compat)

        def addPairwiseBilateral(self, *, sxy: float, srgb: float, rgbim: NDArray[np.uint8], compat: float) -> None:
            asked["bilateral"] = (sxy, srgb, compat)
            asked["image"] = rgbim

        def inference(self, steps: int) -> list[list[float]]:
            asked["steps"] = steps
            q = dense_crf(torch.from_numpy(asked["image"]), torch.from_numpy(asked["p"]).view(6, 5)).flatten()
            return [q.tolist(), (1 - q).tolist()]

    monkeypatch.setitem(sys.modules, "pydensecrf", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", SimpleNamespace(DenseCRF2D=Stand))
    found = dense_crf(image, p, backend="pydensecrf")
    torch.testing.assert_close(found, dense_crf(image, p), atol=1e-5, rtol=0)
    assert asked["size"] == (5, 6, 2)
    assert (asked["gaussian"], asked["bilateral"], asked["steps"]) == ((3.0, 3.0), (80.0, 13.0, 10.0), 5)
    monkeypatch.delitem(sys.modules, "pydensecrf.densecrf")
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    with pytest.raises(UsageError, match="not installed"):
        dense_crf(image, p, backend="pydensecrf")

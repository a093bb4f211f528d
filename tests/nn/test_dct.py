"""Removal of low temporal frequencies (docs/methods/tcgl.md, STKD)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.fft import dct, idct
from torch import Tensor

from unreel.core.errors import UsageError
from unreel.nn import create_encoder
from unreel.nn.encoder import dct_highpass

NUMBERS = (1, 2, 4, 8, 3, 3, 5, 1, 0, 0, 2, 6, 7, 7, 1, 1)


def as_clip(values: tuple[float, ...]) -> Tensor:
    """One clip of one channel and one pixel."""
    return torch.tensor(values, dtype=torch.float64).view(1, 1, -1, 1, 1)


def frame_sets(clips: Tensor, count: int = 4) -> Tensor:
    """(B, C, T, H, W) to (count·B, C, T/count, H, W), set by set."""
    return torch.cat(clips.chunk(count, 2))


def test_check_7_worked_values() -> None:
    clip = as_clip(NUMBERS)
    snippet = dct_highpass(clip, 1).flatten()
    torch.testing.assert_close(snippet[:4], torch.tensor([-2.1875, -1.1875, 0.8125, 4.8125], dtype=torch.float64))
    torch.testing.assert_close(snippet, clip.flatten() - 3.1875)
    sets = dct_highpass(frame_sets(clip), 1).view(4, 4)
    expected = [[-2.75, -1.75, 0.25, 4.25], [0, 0, 2, -2], [-2, -2, 0, 4], [3, 3, -3, -3]]
    torch.testing.assert_close(sets, torch.tensor(expected, dtype=torch.float64))
    # each of its own raw frames, which is not a slice of the snippet without its mean
    assert not torch.allclose(sets.flatten(), snippet)


def test_check_7_through_prepare() -> None:
    for name, repeats in (("r3d_18", 1), ("c3d", 2)):
        encoder = create_encoder(name, width=1, in_channels=1, dct_highpass=1)
        sets = encoder.prepare(frame_sets(as_clip(NUMBERS) / 8)).view(4, -1) * 8
        assert sets.shape == (4, 4 * repeats)
        torch.testing.assert_close(sets[1], torch.tensor([0.0, 0, 2, -2] * repeats, dtype=torch.float64))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_check_7_static_clips_and_constant_images(count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, 1, 5, 4, dtype=torch.float64, generator=generator)
    clips = torch.rand(2, 3, 8, 5, 4, dtype=torch.float64, generator=generator)
    static = dct_highpass(image.expand(-1, -1, 8, -1, -1), count)
    torch.testing.assert_close(static, torch.zeros_like(static), atol=1e-14, rtol=0)
    torch.testing.assert_close(dct_highpass(clips + image, count), dct_highpass(clips, count), atol=1e-14, rtol=0)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("frames", [4, 5, 16])
def test_check_7_is_the_dct_round_trip_with_the_lowest_cleared(count: int, frames: int) -> None:
    clips = torch.rand(2, 3, frames, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    spectrum = dct(clips.numpy(), type=2, norm="ortho", axis=2)
    mean = clips.numpy().sum(2) / np.sqrt(frames)
    np.testing.assert_allclose(spectrum[:, :, 0], mean)
    spectrum[:, :, :count] = 0
    truth = idct(spectrum, type=2, norm="ortho", axis=2)
    torch.testing.assert_close(dct_highpass(clips, count), torch.from_numpy(truth), atol=1e-12, rtol=0)
    single = dct_highpass(clips.float(), count)
    torch.testing.assert_close(single, torch.from_numpy(truth).float(), atol=1e-5, rtol=0)


def test_none_is_none_and_a_clip_with_nothing_left_is_refused() -> None:
    clip = as_clip(NUMBERS)
    assert dct_highpass(clip, 0) is clip
    with pytest.raises(UsageError, match="at least 5 frames"):
        dct_highpass(clip[:, :, :4], 4)

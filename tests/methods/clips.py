"""Batches in memory: videos of shapes that move on backgrounds, cut and augmented as the loader would."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unreel.core.keys import Key
from unreel.data.batch import Batch, Sample, View, collate
from unreel.data.contracts import FrameSize, SourceInfo
from unreel.media import VideoInfo
from unreel.methods import Method, create_method
from unreel.nn import create_encoder


def random_batch(rows: int = 4, *, frames: int = 4, size: int = 16, seed: int = 0, dtype: Any = torch.float32) -> Batch:
    """Two float views of noise that share their mean: (rows, 3, frames, size, size)."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(rows, 3, frames, 1, 1, generator=generator, dtype=torch.float64)
    noise = torch.rand(2, rows, 3, frames, size, size, generator=generator, dtype=torch.float64)
    views = tuple(View((0.5 * centre + 0.5 * n).to(dtype), torch.zeros(rows, frames)) for n in noise)
    ids = torch.arange(rows)
    return Batch(views, {}, ids, ids, ids)


def rows_of(batch: Batch, rows: Any) -> Batch:
    """The same batch with some of its rows, in the order given."""
    views = tuple(View(v.data[rows], v.times_s[rows]) for v in batch.views)
    return Batch(views, {}, batch.sample_id[rows], batch.group[rows], batch.row[rows])


def tiny_cvrl(**options: Any) -> Any:
    """A CVRL around the smallest encoder; the same weights at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = create_encoder("r3d_tiny")
        settings = {"clip_frames": 4, "stride": 1, "size": 16, "hidden_layers": 1, "hidden_dim": 16, "out_dim": 8}
        return create_method("cvrl", encoder, **{**settings, **options})


def video(label: int, number: int, *, frames: int = 12, size: int = 24, classes: int = 8) -> Tensor:
    """A disc or a square, of one of four colours, that crosses a textured background: (T, H, W, 3) uint8."""
    key = Key("shapes", label, number)
    generator = key.numpy()
    shape, hue = label % 2, label // 2
    colour = np.array([[1, 0.1, 0.1], [0.1, 1, 0.1], [0.2, 0.3, 1], [1, 1, 0.1]])[hue]
    ground = np.kron(generator.uniform(0.2, 0.6, (size // 4, size // 4, 3)), np.ones((4, 4, 1)))
    angle, start = generator.uniform(0, 2 * np.pi), generator.uniform(0.35, 0.65, 2) * size
    yy, xx = np.mgrid[:size, :size]
    out = np.empty((frames, size, size, 3))
    for t in range(frames):
        cy, cx = start + 0.5 * (t - frames / 2) * np.array([np.sin(angle), np.cos(angle)])
        dy, dx = np.abs(yy - cy), np.abs(xx - cx)
        inside = np.maximum(dy, dx) < 5 if shape else dy**2 + dx**2 < 36
        out[t] = np.where(inside[..., None], colour, ground)
    return torch.from_numpy((out * 255).round().astype(np.uint8))


def loader(method: Method, videos: list[Tensor], *, rows: int, seed: int = 0) -> Iterator[Batch]:
    """Endless batches drawn by the method's own sampler and views."""
    step = 0
    while True:
        order = Key(seed, "order", step).permutation(len(videos))
        yield collate([sample(method, videos[i], int(i), Key(seed, step, int(i))) for i in order[:rows]])
        step += 1


def sample(method: Method, frames: Tensor, row: int, key: Key) -> Sample:
    """One row as a dataset makes it: times, parameters, frames, crop."""
    count, height, width, _ = frames.shape
    info = VideoInfo(width, height, count, count / 10, 10.0, "raw")
    draw = method.sampler.draw(key.child("time"), SourceInfo(info, count, count / 10))
    views = []
    for index, request in enumerate(draw.clips):
        assert request.indices is not None
        clip = frames[torch.from_numpy(request.indices)]
        params = method.views.draw(key, index, FrameSize(height, width, len(clip)), {})
        times = torch.from_numpy(request.indices / 10.0)
        views.append(View(method.views.crop(index, clip, params), times, params))
    return Sample(tuple(views), draw.targets, row, row, row)

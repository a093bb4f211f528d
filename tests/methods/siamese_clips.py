"""Small methods of views (SimCLR, MoCo, BYOL, SwAV, PIRL), and batches with as many views as they take."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.methods.clips import random_batch
from unreel.core import distributed
from unreel.core.settings import Layer
from unreel.data.batch import Batch, View
from unreel.methods import create_method
from unreel.methods.registry import METHODS
from unreel.nn.encoder import Encoder, InputSpec, StageInfo
from unreel.recipes.schema import resolve
from unreel.train import Checkpoints, build_optimizer, fit
from unreel.views.batch_ops import Mixup

_SIZES: dict[str, dict[str, Any]] = {
    "simclr": {"hidden_dim": 16, "out_dim": 8},
    "moco": {"hidden_dim": 16, "out_dim": 8, "queue_size": 20},
    "byol": {"hidden_dim": 16, "out_dim": 8},
    "swav": {"hidden_dim": 16, "out_dim": 8, "num_prototypes": 6, "small_views": 2, "small_size": 8, "freeze_steps": 1},
    "pirl": {"num_sources": 9, "out_dim": 8, "jigsaw_size": 15},
}


class OneLayer(Encoder):
    """A convolution with batch norm: (B, 3, T, H, W) to (B, 6)."""

    def __init__(self) -> None:
        super().__init__()
        self.num_features = 6
        self.input_spec = InputSpec(num_frames=1, size_px=16)
        self.stage_info = {"last": StageInfo(6, 1, 4)}
        self.conv1, self.bn1 = nn.Conv3d(3, 6, (1, 3, 3), (1, 4, 4), bias=False), nn.BatchNorm3d(6)

    def forward_features(self, x: Tensor, names: Any = None) -> dict[str, Tensor]:
        """The map."""
        return {"last": self.bn1(self.conv1(x)).relu()}


def standard(name: str) -> dict[str, Any]:
    """Every setting of a method and of its parts as no one changed it."""
    rest = {"encoder": {"name": "r3d_tiny"}, "train": {"batch_size": 4}}
    settings = resolve([Layer("test", {"method": {"name": name}, **rest})])
    return {
        key: value for section in ("method", *METHODS[name].parts) for key, value in settings.get(section, {}).items()
    }


def tiny(name: str, **options: Any) -> Any:
    """A method around a net of one layer; the same weights at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = OneLayer()
    settings = {"clip_frames": 4, "size": 16, **_SIZES.get(name, {}), **options}
    return create_method(name, encoder, seed=0, **settings)


def views_batch(count: int, rows: int = 4, *, frames: int = 4, seed: int = 0, dtype: Any = torch.float32) -> Batch:
    """``count`` float views of noise that share their mean, of ``rows`` samples."""
    halves = [random_batch(rows, frames=frames, seed=100 * seed + i, dtype=dtype).views for i in range(-(-count // 2))]
    views = tuple(view for half in halves for view in half)[:count]
    ids = torch.arange(rows)
    return Batch(views, {}, ids, ids, ids)


def batch_of_views(method: Any, rows: int = 4, *, seed: int = 0, dtype: Any = torch.float32) -> Batch:
    """Noise in the sizes of a method's views, up to 16 pixels."""
    batch = views_batch(method.views.num_views, rows, seed=seed, dtype=dtype)
    edges = [pipeline[0].size for pipeline in method.views.pipelines]
    views = tuple(replace(v, data=v.data[..., :s, :s]) for v, s in zip(batch.views, edges, strict=True))
    return replace(batch, views=views)


def image_batch(rows: int = 4) -> Batch:
    """Two views of images: clips of one frame."""
    return views_batch(2, rows, frames=1)


def part_of(batch: Batch, rows: slice) -> Batch:
    """Some rows of a batch with all of its views."""
    views = tuple(View(v.data[rows], v.times_s[rows]) for v in batch.views)
    return replace(batch, views=views, sample_id=batch.sample_id[rows], group=batch.group[rows], row=batch.row[rows])


def encoded(module: Any, encoder: Any, clips: Tensor) -> Tensor:
    """head(encoder(clips)), with the encoder's own preparation."""
    return module(encoder(encoder.prepare(clips)))  # type: ignore[no-any-return]


def fit_on_share(
    name: str, options: dict[str, Any], accumulate: int = 1, folder: str = "", stop: int = 4, mixed: bool = False
) -> dict[str, Any]:
    """State after a fit of 4 steps on this rank's share of global batches of 8, in float64; rows as of 9 sources."""
    torch.set_default_dtype(torch.float64)
    try:
        count = 8 // distributed.world_size()
        rows = slice(count * distributed.rank(), count * (distributed.rank() + 1))
        method = tiny(name, **options).double()
        if mixed:
            method.batch_operations = (Mixup(block=4),)
        batches = [part_of(batch_of_views(method, 8, seed=s, dtype=torch.float64), rows) for s in range(3)]
        result = fit(
            method,
            batches,
            build_optimizer(method, lr=0.05),
            total_steps=4,
            device="cpu",
            accumulate=accumulate,
            checkpoint=Checkpoints(folder) if folder else None,
            stop_after=stop,
        )
        state = {n: v.numpy() for n, v in method.state_dict().items()}
        return {"state": state, "last": result.last, "resumed_from": result.resumed_from}
    finally:
        torch.set_default_dtype(torch.float32)


def check_same_state(one: dict[str, Any], two: dict[str, Any], *, atol: float = 0.0) -> None:
    """Every weight and buffer of two ``fit_on_share`` is the same, to the bit without a tolerance."""
    assert one["state"].keys() == two["state"].keys()
    for key, value in one["state"].items():
        np.testing.assert_allclose(two["state"][key], value, rtol=0, atol=atol, err_msg=key)

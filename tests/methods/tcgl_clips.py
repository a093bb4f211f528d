"""Small TCGLs, and batches of snippets in memory."""

from __future__ import annotations

from typing import Any

import torch

from unreel.core.keys import Key
from unreel.data.batch import Batch, View
from unreel.data.snippets import permutation_class
from unreel.methods import create_method
from unreel.nn import create_encoder

TINY_ENCODER: dict[str, Any] = {"channels": (6, 8, 10, 12), "stem_channels": 4}


def tiny_tcgl(**options: Any) -> Any:
    """A TCGL around a very small encoder of 12 features; the same weights at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = create_encoder("r3d_tiny", **TINY_ENCODER)
        settings = {"clip_frames": 8, "interval": 2, "size": 16, "resize": (16, 20), "hidden": 14, "gate_hidden": 5}
        return create_method("tcgl", encoder, **{**settings, **options})


def snippet_batch(
    rows: int = 4, *, snippets: int = 3, frames: int = 8, size: int = 16, seed: int = 0, dtype: Any = torch.float32
) -> Batch:
    """Float snippets of noise that share their sample's mean: ``snippets`` views (rows, 3, frames, size, size)."""
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, 3, frames, size, size)
    centre = torch.rand(rows, 3, frames, 1, 1, generator=generator, dtype=torch.float64)
    noise = torch.rand(snippets, *shape, generator=generator, dtype=torch.float64)
    views = tuple(View((0.5 * centre + 0.5 * n).to(dtype), torch.zeros(rows, frames)) for n in noise)
    order = torch.stack([torch.randperm(snippets, generator=generator) for _ in range(rows)])
    targets = {"order": order, "order_class": torch.tensor([permutation_class(row) for row in order])}
    ids = torch.arange(rows) * 7919 + 3
    return Batch(views, targets, ids, ids, ids, key=Key("test", seed))

"""Whether two files show the same pictures: re-encoded, resized, a little cropped, or trimmed.

No likeness of embeddings tells it: of one encoder two copies have a cosine of 0.6, of another any two files one of
0.999. So an encoder only proposes pairs, and small pictures decide, alike for all encoders.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter
from torch import Tensor
from torch.nn.functional import interpolate

from unreel.data.manifest import Manifest
from unreel.data.row import Row
from unreel.data.sampling import ClipPlan
from unreel.nn.encoder import Encoder, InputSpec, StageInfo
from unreel.protocols.clips import ManifestClips
from unreel.protocols.compute import Compute
from unreel.protocols.features import Embeddings, embed_all

_SIDE = 32
_FRAMES = 16
PICTURES = ClipPlan(num_frames=1, stride=1, num_clips=_FRAMES, num_crops=1, size_px=_SIDE, short_side_px=_SIDE)
# What a picture is compared at, and how much of its side a copy may have kept: 1 is all of it.
_COMPARED = 20
_KEPT = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7)
# Of the range of values: what moves less than this is the noise of compression.
_STILL = 0.005
# Pixels of a compared picture around which its mean is taken off, so that details are left.
_AROUND = 5


class Pictures(Encoder):
    """Grey pixels as an embedding: (B, side²) of the middle square, so that pictures are read and kept as features."""

    def __init__(self) -> None:
        super().__init__()
        self.architecture = "pictures"
        self.num_features = _SIDE**2
        self.input_spec = InputSpec(num_frames=1, size_px=_SIDE)
        self.stage_info = {"pixels": StageInfo(_SIDE**2, 1, _SIDE)}

    def forward_features(self, x: Tensor, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        return {"pixels": x.mean(1).reshape(len(x), -1, 1, 1, 1)}


def same_pictures(embeddings: Embeddings, pairs: NDArray[np.int64], compute: Compute) -> NDArray[np.float64]:
    """How alike the pictures of pairs of files are, (P,) in [−1, 1]; −1 where a file cannot be read.

    Sixteen frames of each file are compared as small grey pictures. Where one of the two moves, what moves is compared:
    each frame less the mean over time, so that two videos of one fixed camera are no copies. Of images and videos that
    stand still it is the details, each pixel less the mean around it. Two pictures are as alike as they correlate where
    one is laid over the middle part of the other that fits best; two videos, as the frames of one are, on average, to
    their best matches in the other.

    Args:
        embeddings: says where files are. pairs: (P, 2) positions in it.
        compute: workers, store and others; frames are read once, and kept.
    """
    used = np.unique(pairs)
    if not len(used):
        return np.empty(0)
    spans = [embeddings.spans[i] or (None, None) for i in used]
    rows = [Row(embeddings.paths[i].lstrip("/"), *span) for i, span in zip(used, spans, strict=True)]
    manifest = Manifest("/", tuple(rows))
    plan = replace(PICTURES, num_clips=1) if manifest.only_images else PICTURES
    source = ManifestClips(manifest, plan, decoder=compute.decoder)
    found = embed_all([Pictures()], source, compute=replace(compute, precision="float32"))[0]
    place = {int(used[row]): i for i, row in enumerate(found.rows)}

    @functools.lru_cache(maxsize=1024)
    def prepared(i: int) -> _Prepared:
        return _Prepared(found.per_view[place[i]])

    return np.array(
        [prepared(i).likeness(prepared(j)) if i in place and j in place else -1.0 for i, j in pairs.tolist()]
    )


class _Prepared:
    """A file's pictures (frames, side²) as what moves and as details, each (scales, frames, pixels) of length 1."""

    def __init__(self, pictures: NDArray[np.float32]) -> None:
        frames = torch.from_numpy(pictures).view(-1, 1, _SIDE, _SIDE)
        scaled = []
        for kept in _KEPT:
            size = round(_SIDE * kept)
            edge = (_SIDE - size) // 2
            part = frames[..., edge : edge + size, edge : edge + size]
            resized = interpolate(part, (_COMPARED, _COMPARED), mode="bilinear", antialias=True, align_corners=False)
            scaled.append(resized[:, 0].numpy())
        stack = np.stack(scaled)
        moving = stack - stack.mean(1, keepdims=True)
        self.moves = float(np.sqrt((moving[0] ** 2).mean())) >= _STILL
        details: NDArray[np.float32] = stack - uniform_filter(stack, (0, 0, _AROUND, _AROUND))
        self.moving, self.details = _unit(moving), _unit(details)

    def likeness(self, other: _Prepared) -> float:
        moves = self.moves or other.moves
        a, b = (self.moving, other.moving) if moves else (self.details, other.details)
        best = -1.0
        for x, y in [(a[k], b[0]) for k in range(len(_KEPT))] + [(a[0], b[k]) for k in range(1, len(_KEPT))]:
            each = x @ y.T
            best = max(best, float(each.max(0).mean()), float(each.max(1).mean()))
        return best


def _unit(pictures: NDArray[np.float32]) -> NDArray[np.float32]:
    flat = pictures.reshape(*pictures.shape[:-2], -1)
    flat = flat - flat.mean(-1, keepdims=True)
    unit: NDArray[np.float32] = flat / np.linalg.norm(flat, axis=-1, keepdims=True).clip(1e-6)
    return unit

"""PIRL: an image and its jigsaw are one and the same (Misra and van der Maaten, CVPR 2020).

A memory holds a representation of every training source. An image, and apart from it its nine patches in a shuffled
order, are to be told from all others in that memory: what the shuffling changes is not represented. Numbers marked
"release" are those of VISSL's configuration, others are recalled from the paper. On video all frames of a clip are cut
and shuffled alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from unreel.core.distributed import all_gather_with_grad
from unreel.core.errors import UsageError
from unreel.core.keys import Key, uniforms
from unreel.core.settings import Range
from unreel.data.batch import Batch
from unreel.losses.memory import MemoryLoss, memory_nce
from unreel.methods.method import DataFacts, LossOutput, StepsDone
from unreel.methods.registry import register_method
from unreel.methods.siamese import SiameseMethod, takes_siamese_options
from unreel.nn.encoder import Encoder
from unreel.nn.heads import L2Norm
from unreel.views.plan import ViewPlan


def jigsaw(clips: Tensor, key: Key, ids: Tensor, *, grid: int = 3, patch: int = 64) -> Tensor:
    """Patches of clips in a shuffled order, each cut at a random place of its cell, all frames alike.

    The gap between patches keeps edges that run on from telling what belongs together.

    Args:
        clips: (B, C, T, S, S); S is a multiple of ``grid``.
        key, ids: (B,) int64, the address of the draws, such as ``batch.key`` and ``batch.sample_id``.
        grid: cells per side. patch: side of a patch, at most S / grid, pixels.
    Returns: (B, grid², C, T, patch, patch).
    Raises: UsageError for sizes that do not fit.
    """
    size, cells = clips.shape[-1], grid * grid
    cell = size // grid
    if clips.shape[-2] != size or size % grid or not 1 <= patch <= cell:
        raise UsageError(
            f"a jigsaw of {grid} × {grid} patches of {patch} px needs square frames, a multiple of {grid} and at least "
            f"{grid * patch} px wide; got {clips.shape[-2]} × {size}"
        )
    u = uniforms(key.child("jigsaw"), ids, cells, 3)
    order = u[..., 0].argsort(1)  # (B, cells): the cell that comes i-th
    offset = (u[..., 1:] * (cell - patch + 1)).to(torch.int64)
    steps = torch.arange(patch, device=clips.device)
    top, left = order // grid * cell + offset[..., 0], order % grid * cell + offset[..., 1]
    y, x = top[..., None] + steps, left[..., None] + steps
    rows = torch.arange(len(clips), device=clips.device)[:, None, None, None]
    cut = clips.permute(0, 3, 4, 1, 2)[rows, y[..., :, None], x[..., None, :]]  # (B, cells, patch, patch, C, T)
    return cut.permute(0, 1, 4, 5, 2, 3).contiguous()


class JigsawHead(nn.Module):
    """g: every patch's embedding to ``out_dim`` by one linear layer, all side by side, and another; unit rows."""

    def __init__(self, in_dim: int, num_patches: int, out_dim: int) -> None:
        super().__init__()
        self.patch = nn.Linear(in_dim, out_dim)
        self.join = nn.Linear(num_patches * out_dim, out_dim)
        self.norm = L2Norm()

    def forward(self, embeddings: Tensor) -> Tensor:
        """(B, patches, in_dim), in the order of the shuffle, to (B, out_dim)."""
        return self.norm(self.join(self.patch(embeddings).flatten(1)))  # type: ignore[no-any-return]


class _Fresh(NamedTuple):
    """Rows of the manifest and their new representations, of all processes."""

    rows: Tensor
    vectors: Tensor


@register_method("pirl")
class PIRL(SiameseMethod):
    """An image and its jigsaw against a memory of every training source.

    The memory (``bank`` (num_sources, D), part of the state) starts with keyed random unit vectors; after a step each
    of its sources takes half of what the image's head f gave. In validation, whose rows are others, f of the image
    itself stands for its entry. Logs ``jigsaw_accuracy`` and ``image_accuracy``: queries that are nearer to their own
    entry than to all negatives.

    The preset ``views`` is that of the image and, with larger crops, of the jigsaw; ``size`` is the image's.

    Differs from the paper: one draw of negatives serves all queries of a step, instead of one for each, which at
    32,000 would copy half a gigabyte for 32 images; colours are drawn once for all patches of a jigsaw.

    Args:
        encoder: trained in place; its ``input_spec`` is set to what this method feeds it.
        num_sources: rows of the training data; ``unreel pretrain`` fills it in.
        rho: 1 cuts the jigsaw from the clip itself, 2 from another clip of the video.
        out_dim: of f and g, 128 (release).
        grid: patches per side, 3.
        jigsaw_size: side of the view that is cut, a multiple of ``grid``; None: ``size`` rounded up to one, 225 for
            224 (release: 255). jigsaw_area_min: share of the frame that it covers at least, 0.6 (release).
        patch_px: side of a patch; None: 64/75 of a cell, 64 px of 75.
        jigsaw_weight: λ, weight of the jigsaw's loss; the image's has 1 − λ. 0.5 (release).
        num_negatives: 32,000 (release) drawn at random; where the memory has no more, all of it.
        temperature: 0.07 (release).
        memory_momentum: share of an entry that stays, 0.5 (release).
        loss: "nce" or "info_nce", see ``memory_nce``.
        options: of ``SiameseMethod``: clips, views, sizes, and every argument of ``unreel.views.presets.view_plan``.
    Raises: UsageError for values that cannot be, and without ``num_sources``.
    """

    bank: Tensor

    @takes_siamese_options()
    def __init__(
        self,
        encoder: Encoder,
        *,
        num_sources: Annotated[int, Range(ge=2)] | None = None,
        rho: Annotated[int, Range(ge=1, le=2)] = 1,
        out_dim: Annotated[int, Range(ge=1)] = 128,
        grid: Annotated[int, Range(ge=2)] = 3,
        jigsaw_size: Annotated[int, Range(ge=8, unit="px")] | None = None,
        jigsaw_area_min: Annotated[float, Range(ge=0, le=1)] = 0.6,
        patch_px: Annotated[int, Range(ge=1, unit="px")] | None = None,
        jigsaw_weight: Annotated[float, Range(ge=0, le=1)] = 0.5,
        num_negatives: Annotated[int, Range(ge=1)] = 32_000,
        temperature: Annotated[float, Range(gt=0)] = 0.07,
        memory_momentum: Annotated[float, Range(ge=0, lt=1)] = 0.5,
        loss: MemoryLoss = "nce",
        **options: Any,
    ) -> None:
        if num_sources is None or num_sources < 2:
            raise UsageError(
                "pirl keeps a representation of every training source and needs their number, at least 2: pass "
                f"num_sources=len(manifest) (unreel pretrain does it for you); got {num_sources}"
            )
        if rho not in (1, 2):
            raise UsageError(f"pirl compares one clip with the jigsaw of one: rho is 1 or 2, got {rho}")
        super().__init__(encoder, rho=rho, **options)
        edge = -(-self.size // grid) * grid if jigsaw_size is None else jigsaw_size
        patch = max(1, edge // grid * 64 // 75) if patch_px is None else patch_px
        if edge % grid or grid * patch > edge:
            raise UsageError(
                f"jigsaw_size is a multiple of grid={grid} with room for {grid} patches of {patch} px, got {edge}; "
                f"use {max(-(-edge // grid), patch) * grid}"
            )
        cut = self.plan(size=edge, crop_area_min=jigsaw_area_min)
        self.views = ViewPlan([self.views.pipelines[0], cut.pipelines[1]], shared=self.views.shared)
        self.head = nn.Sequential(nn.Linear(encoder.num_features, out_dim), L2Norm())
        self.jigsaw_head = JigsawHead(encoder.num_features, grid * grid, out_dim)
        start = torch.randn(num_sources, out_dim, generator=Key("pirl", "bank").torch(), device="cpu")
        self.register_buffer("bank", functional.normalize(start, dim=1))
        # The same on every process by construction: DDP need not send hundreds of megabytes at each step.
        self._ddp_params_and_buffers_to_ignore = ["bank"]
        self.grid, self.patch = grid, patch
        self.jigsaw_weight, self.num_negatives, self.temperature = jigsaw_weight, num_negatives, temperature
        self.memory_momentum, self.loss_kind = memory_momentum, loss
        self._fresh: list[_Fresh] = []  # of this step; gone before the next begins
        memory_nce(start[:1], start[:1], start[1:], kind=loss)  # an unknown loss is refused now

    def on_step_begin(self, progress: StepsDone) -> None:
        """Forget what a broken step left."""
        self._fresh.clear()

    def negatives(self, batch: Batch) -> Tensor:
        """Rows of the memory to contrast with, (N,) int64, the same on all processes."""
        size, device = len(self.bank), self.bank.device
        if self.num_negatives >= size:
            return torch.arange(size, device=device)
        one = torch.zeros(1, dtype=torch.int64, device=device)
        u = uniforms(batch.key.child("negatives"), one, self.num_negatives)[0]
        return (u.double() * size).to(torch.int64)

    @classmethod
    def from_data(cls, facts: DataFacts, settings: Mapping[str, Any]) -> dict[str, object]:
        """How many sources there are to remember, where it is not given."""
        return {"num_sources": facts.num_trained} if settings["num_sources"] is None else {}

    def forward(self, batch: Batch) -> LossOutput:
        """Loss of B sources, of which view 0 is the image and view 1 is cut. Raises UsageError for an unknown row."""
        image, whole = (self.encoder.prepare(view.data) for view in batch.views)
        f = self.head(self.encoder(image))
        patches = jigsaw(whole, batch.key, batch.sample_id, grid=self.grid, patch=self.patch)
        embeddings = self.encoder(patches.flatten(0, 1))
        g = self.jigsaw_head(embeddings.unflatten(0, patches.shape[:2]))

        rows = self.negatives(batch)
        negatives = self.bank[rows]
        if self.training:
            # On a GPU looking would mean waiting; there torch stops for an index that is out of range.
            if batch.row.device.type == "cpu" and int(batch.row.max()) >= len(self.bank):
                raise UsageError(
                    f"row {int(batch.row.max())} has no place in a memory of {len(self.bank)}: pirl's num_sources must "
                    "be the number of rows of the training data"
                )
            own = self.bank[batch.row]
            exclude = rows[None, :] == batch.row[:, None]
            self._fresh.append(_Fresh(all_gather_with_grad(batch.row), all_gather_with_grad(f.detach())))
        else:
            own, exclude = f.detach(), None

        def contrast(q: Tensor) -> Tensor:
            return memory_nce(q, own, negatives, self.temperature, exclude=exclude, kind=self.loss_kind)

        loss = self.jigsaw_weight * contrast(g) + (1 - self.jigsaw_weight) * contrast(f)
        logs = {
            "jigsaw_accuracy": nearest_is_own(g, own, negatives, exclude),
            "image_accuracy": nearest_is_own(f, own, negatives, exclude),
        }
        return LossOutput(loss, logs)

    @torch.no_grad()
    def on_step_end(self, progress: StepsDone, applied: bool) -> None:
        """Each source's entry moves towards its image; nothing moves after a skipped step."""
        if applied:
            for rows, vectors in self._fresh:  # within a global batch every row comes once
                moved = self.memory_momentum * self.bank[rows] + (1 - self.memory_momentum) * vectors.to(self.bank)
                self.bank[rows] = functional.normalize(moved, dim=1)
        self._fresh.clear()


@torch.no_grad()
def nearest_is_own(q: Tensor, own: Tensor, negatives: Tensor, exclude: Tensor | None) -> Tensor:
    """Share of queries (B, D) that are nearer to ``own`` (B, D) than to every negative (N, D); a detached scalar."""
    with torch.autocast(device_type=q.device.type, enabled=False):  # half precision would round one side only
        others = q.float() @ negatives.float().T
        if exclude is not None:
            others = others.masked_fill(exclude, float("-inf"))
        return ((q.float() * own.float()).sum(1) > others.max(1).values).float().mean()

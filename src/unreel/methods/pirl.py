"""PIRL: an image and its jigsaw are one and the same (Misra and van der Maaten, CVPR 2020).

A memory holds a representation of every training source. An image, and apart from it its nine patches in a shuffled
order, are to be told from all others in that memory: what the shuffling changes is not represented. Numbers marked
"release" are those of VISSL's configuration, others are recalled from the paper. On video all frames of a clip are cut
and shuffled alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional

from unreel.core.checks import Count, Positive, Range, Share, checked
from unreel.core.distributed import all_gather_with_grad
from unreel.core.errors import UsageError
from unreel.core.keys import Key, uniforms
from unreel.data.batch import Batch
from unreel.data.sampling import ClipSetSampler
from unreel.losses.contrastive import Negatives
from unreel.losses.memory import MemoryLoss, memory_nce
from unreel.losses.queue import queue_accuracy
from unreel.methods.debiasing import OBJECTS, HeadParts
from unreel.methods.method import DataFacts, LossOutput, Method, StepsDone
from unreel.methods.parts import Part
from unreel.methods.registry import register_method
from unreel.nn.encoder import Encoder
from unreel.nn.heads import L2Norm, out_width, unit_linear
from unreel.views.plan import ViewPlan
from unreel.views.presets import view_plan


@checked
@dataclass(frozen=True)
class Jigsaw:
    """Patches of clips in a shuffled order, each cut at a random place of its cell, all frames alike.

    The gap between patches keeps edges that run on from telling what belongs together.

    Args:
        grid: cells per side, 3.
        patch_px: side of a patch; None: 64/75 of a cell, 64 px of 75.
    """

    grid: Annotated[int, Range(ge=2)] = 3
    patch_px: Annotated[int, Range(ge=1, unit="px")] | None = None

    def patch(self, edge: int) -> int:
        """Side of a patch of a frame of side ``edge``, pixels. Raises UsageError where the patches do not fit."""
        patch = max(1, edge // self.grid * 64 // 75) if self.patch_px is None else self.patch_px
        if edge % self.grid or patch > edge // self.grid:
            raise UsageError(
                f"jigsaw_size is a multiple of grid={self.grid} with room for {self.grid} patches of {patch} px, got "
                f"{edge}; use {max(-(-edge // self.grid), patch) * self.grid}"
            )
        return patch

    def cut(self, clips: Tensor, key: Key, ids: Tensor) -> Tensor:
        """(B, C, T, S, S) to (B, grid², C, T, patch, patch); ``key`` and ``ids`` (B,) int64 address the draws.

        Raises: UsageError for sizes that do not fit.
        """
        (high, size), grid = clips.shape[-2:], self.grid
        if high != size:
            raise UsageError(f"a jigsaw needs square frames, got {high} × {size}")
        cell, patch = size // grid, self.patch(size)
        u = uniforms(key.child("jigsaw"), ids, grid * grid, 3)
        order = u[..., 0].argsort(1)  # (B, cells): the cell that comes i-th
        offset = (u[..., 1:] * (cell - patch + 1)).to(torch.int64)
        steps = torch.arange(patch, device=clips.device)
        top, left = order // grid * cell + offset[..., 0], order % grid * cell + offset[..., 1]
        y, x = top[..., None] + steps, left[..., None] + steps
        rows = torch.arange(len(clips), device=clips.device)[:, None, None, None]
        cut = clips.permute(0, 3, 4, 1, 2)[rows, y[..., :, None], x[..., None, :]]  # (B, cells, patch, patch, C, T)
        return cut.permute(0, 1, 4, 5, 2, 3).contiguous()


@checked
def jigsaw_views(
    make: Callable[..., ViewPlan],
    num_views: int,
    jigsaw: Jigsaw,
    *,
    jigsaw_size: Annotated[int, Range(ge=8, unit="px")] | None = None,
    jigsaw_area_min: Share = 0.6,
) -> ViewPlan:
    """The image, and after it the view that is cut.

    Args:
        make: what builds either, such as ``view_plan`` with its settings.
        num_views: 2. jigsaw: how it is cut.
        jigsaw_size: side of the view that is cut, a multiple of ``jigsaw.grid``; None: the image's rounded up to one,
            225 for 224 (release: 255).
        jigsaw_area_min: share of the frame that it covers at least, 0.6 (release).
    Raises: UsageError for another number of views, and for patches that do not fit.
    """
    if num_views != 2:
        raise UsageError(f"pirl compares one clip with the jigsaw of one: rho is 1 or 2, got {num_views}")
    image = make(num_views=2)
    edge = -(-(image.size or 0) // jigsaw.grid) * jigsaw.grid if jigsaw_size is None else jigsaw_size
    jigsaw.patch(edge)
    return ViewPlan([image.pipelines[0], make(num_views=2, size=edge, crop_area_min=jigsaw_area_min).pipelines[1]])


class JigsawHead(nn.Module):
    """g: every patch's embedding by one linear layer, all side by side, and another; unit rows of ``head``'s width."""

    def __init__(self, in_dim: int, jigsaw: Jigsaw, head: nn.Module) -> None:
        super().__init__()
        out_dim = out_width(head)
        self.patch = nn.Linear(in_dim, out_dim)
        self.join = nn.Linear(jigsaw.grid**2 * out_dim, out_dim)
        self.norm = L2Norm()

    def forward(self, embeddings: Tensor) -> Tensor:
        """(B, patches, in_dim), in the order of the shuffle, to (B, out_dim)."""
        return self.norm(self.join(self.patch(embeddings).flatten(1)))  # type: ignore[no-any-return]


@register_method("pirl")
class PIRL(Method):
    """An image and its jigsaw against a memory of every training source.

    The memory (``bank`` (num_sources, D), part of the state) starts with keyed random unit vectors; after a step each
    of its sources takes half of what the image's head f gave. In validation, whose rows are others, f of the image
    itself stands for its entry. Logs ``jigsaw_accuracy`` and ``image_accuracy``: queries that are nearer to their own
    entry than to all negatives.

    Differs from the paper: one draw of negatives serves all queries of a step, instead of one for each, which at
    32,000 would copy half a gigabyte for 32 images; colours are drawn once for all patches of a jigsaw.

    Args:
        encoder: trained in place; its ``input_spec`` is set to the clips and views this method is given.
        clips: one, of which both views are (``rho`` 1), or two of a video (2).
        jigsaw: how the second view is cut: into nine patches.
        views: the image, and what is cut, with larger crops.
        objects: object-aware views; off.
        head: f, from the image's embedding to unit rows, 128 out (release).
        jigsaw_head: g, from the patches' embeddings to rows of that width.
        num_sources: rows of the training data; ``unreel pretrain`` fills it in.
        jigsaw_weight: λ, weight of the jigsaw's loss; the image's has 1 − λ. 0.5 (release).
        num_negatives: 32,000 (release) drawn at random; where the memory has no more, all of it.
        temperature: 0.07 (release).
        memory_momentum: share of an entry that stays, 0.5 (release).
        negatives: "other_groups": entries of the query's own group (patient, scene) are not pushed away; "all": they
            are. An entry's group is known once its source was seen, and part of the state, ``bank_groups``.
        loss: "nce" or "info_nce", see ``memory_nce``.
    Raises: UsageError for values that cannot be, and without ``num_sources``.
    """

    parts: ClassVar = {
        "clips": Part(ClipSetSampler, {"rho": 1, "clip_frames": 1}),
        "jigsaw": Part(Jigsaw),
        "views": Part(jigsaw_views, {"preset": "occon"}, of=view_plan),
        "objects": OBJECTS,
        "head": Part(unit_linear),
        "jigsaw_head": Part(JigsawHead),
    }
    jigsaw: Jigsaw
    head: nn.Module
    jigsaw_head: nn.Module
    bank: Tensor
    bank_groups: Tensor | None

    def __init__(
        self,
        encoder: Encoder,
        *,
        jigsaw: Jigsaw | None = None,
        jigsaw_head: nn.Module | None = None,
        num_sources: Annotated[int, Range(ge=2)] | None = None,
        jigsaw_weight: Share = 0.5,
        num_negatives: Count = 32_000,
        temperature: Positive = 0.07,
        memory_momentum: Annotated[float, Range(ge=0, lt=1)] = 0.5,
        negatives: Negatives = "all",
        loss: MemoryLoss = "nce",
        **parts: Unpack[HeadParts],
    ) -> None:
        if num_sources is None:
            raise UsageError(
                "pirl keeps a representation of every training source and needs their number: pass "
                "num_sources=len(manifest) (unreel pretrain does it for you)"
            )
        super().__init__(encoder, **parts, jigsaw=jigsaw, jigsaw_head=jigsaw_head)
        width = out_width(self.head)
        start = torch.randn(num_sources, width, generator=Key("pirl", "bank").torch(), device="cpu")
        self.register_buffer("bank", functional.normalize(start, dim=1))
        groups = torch.full((num_sources,), -1) if negatives == "other_groups" else None  # −1: not seen yet
        self.register_buffer("bank_groups", groups)
        # The same on every process by construction: DDP need not send hundreds of megabytes at each step.
        self._ddp_params_and_buffers_to_ignore = ["bank", "bank_groups"]
        self.jigsaw_weight, self.num_negatives, self.temperature = jigsaw_weight, num_negatives, temperature
        self.memory_momentum, self.loss_kind = memory_momentum, loss
        # Rows of the manifest, their groups and new vectors, of all processes; gone before the next step begins.
        self._fresh: list[tuple[Tensor, ...]] = []

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
        patches = self.jigsaw.cut(whole, batch.key, batch.sample_id)
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
            self._fresh.append(tuple(map(all_gather_with_grad, (batch.row, batch.group, f.detach()))))
        else:
            own, exclude = f.detach(), None
        if self.bank_groups is not None:
            kin = self.bank_groups[rows] == batch.group[:, None]
            exclude = kin if exclude is None else exclude | kin

        def contrast(q: Tensor) -> Tensor:
            return memory_nce(q, own, negatives, self.temperature, exclude=exclude, kind=self.loss_kind)

        loss = self.jigsaw_weight * contrast(g) + (1 - self.jigsaw_weight) * contrast(f)
        logs = {
            "jigsaw_accuracy": queue_accuracy(g, own, negatives, exclude),
            "image_accuracy": queue_accuracy(f, own, negatives, exclude),
        }
        return LossOutput(loss, logs)

    @torch.no_grad()
    def on_step_end(self, progress: StepsDone, applied: bool) -> None:
        """Each source's entry moves towards its image; nothing moves after a skipped step."""
        if applied:
            for rows, groups, vectors in self._fresh:  # within a global batch every row comes once
                moved = self.memory_momentum * self.bank[rows] + (1 - self.memory_momentum) * vectors.to(self.bank)
                self.bank[rows] = functional.normalize(moved, dim=1)
                if self.bank_groups is not None:
                    self.bank_groups[rows] = groups
        self._fresh.clear()

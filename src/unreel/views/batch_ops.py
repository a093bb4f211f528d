"""Batch operations: the only place where samples mix. They run on the device, after the views are applied."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from unreel.core.checks import Count, Positive, Share, checked
from unreel.core.distributed import rank, world_size
from unreel.core.errors import UsageError
from unreel.core.keys import Key
from unreel.data.batch import Batch


@runtime_checkable
class BatchOperation(Protocol):
    """Mixes samples of a batch. Draws come from the key (seed, step); memory lives in ``state_dict``."""

    def __call__(self, batch: Batch, key: Key) -> Batch:
        """A new batch; the input is not mutated. What was mixed is recorded in ``targets``."""

    def state_dict(self) -> dict[str, Tensor]:
        """Everything the next call depends on besides its arguments."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what ``state_dict`` gave."""


class CutBox(NamedTuple):
    """A rectangle in pixels, and the share of the frame outside it."""

    left: int
    top: int
    right: int
    bottom: int
    weight: float


class Stateless:
    """A batch operation without memory: every draw follows from the key."""

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Raises UsageError for a state of something else."""
        if state:
            raise UsageError(f"{type(self).__name__} keeps no state, got {', '.join(state)}")


@dataclass(frozen=True)
class _Mixing(Stateless):
    """Partners and weights of Mixup and CutMix, drawn once for the global batch.

    Row i of rank r is slot r·B + i of the global batch, as the loader cuts it. A slot's weight has the slot in its key
    and partners are permuted within consecutive blocks of ``block`` slots, so any number of processes whose local
    batch is a multiple of ``block`` mixes the same pairs, and no clip crosses processes. (Rows are shuffled by the
    loader, so a partner within a block is as random as one anywhere; a row may be its own partner.)

    ``targets`` gains ``<name>.weight`` (B,), the share of a row's own pixels, and ``<name>.partner`` (B,) int64, the
    local row that gave the rest.
    """

    alpha: Positive = 1.0
    views: tuple[int, ...] = (0,)
    fold: bool = True
    block: Count = 8

    def _weight(self, key: Key) -> float:
        weight = float(key.numpy().beta(self.alpha, self.alpha))
        return max(weight, 1 - weight) if self.fold else weight

    def _slots(self, batch: Batch) -> range:
        return range(rank() * len(batch), (rank() + 1) * len(batch))

    def _partners(self, batch: Batch, key: Key) -> Tensor:
        partner = torch.empty(len(batch), dtype=torch.int64)
        for start in range(0, len(batch), self.block):
            stop = min(start + self.block, len(batch))
            order = key.child("partner", self._slots(batch)[start]).permutation(stop - start)
            partner[start:stop] = start + torch.from_numpy(order)
        return partner

    def _check(self, batch: Batch) -> None:
        if (many := world_size()) > 1 and len(batch) % self.block:
            raise UsageError(
                f"{type(self).__name__} takes partners from blocks of {self.block} rows, and each of {many} processes "
                f"has {len(batch)}: they would mix otherwise than one process does; set train.batch_size to a multiple "
                f"of {many * self.block}"
            )
        for view in self.views:
            if not 0 <= view < len(batch.views):
                raise UsageError(f"{type(self).__name__}: there is no view {view}, the batch has {len(batch.views)}")
            if not batch.views[view].data.is_floating_point():
                raise UsageError(f"{type(self).__name__} mixes float clips: run it after ViewPlan.apply")

    def _finish(self, batch: Batch, name: str, clips: dict[int, Tensor], weight: Tensor, partner: Tensor) -> Batch:
        views = tuple(replace(v, data=clips[i]) if i in clips else v for i, v in enumerate(batch.views))
        return replace(
            batch, views=views, targets={**batch.targets, f"{name}.weight": weight, f"{name}.partner": partner}
        )


@checked
@dataclass(frozen=True)
class Mixup(_Mixing):
    """x ← λ x + (1 − λ) x_partner, λ ~ Beta(α, α) per sample (Zhang 2018).

    Source: docs/methods/object_views.md, Mixup and CutMix.

    Args:
        alpha: parameter of the Beta distribution; 1 is uniform.
        views: indices of the views that are mixed (default: the first alone).
        fold: λ ← max(λ, 1 − λ), so that a row stays mostly itself.
        block: see above; a divisor of every process's batch.
        weight: a fixed λ instead of a draw.
    Raises: UsageError for values out of range, a view that is not there, clips that are still uint8, or several
        processes whose batches are no multiple of ``block``.
    """

    weight: Share | None = None

    def __call__(self, batch: Batch, key: Key) -> Batch:
        """A new batch; ``mixup.weight`` and ``mixup.partner`` in its targets."""
        self._check(batch)
        device = batch.sample_id.device
        weights = [
            self._weight(key.child("weight", slot)) if self.weight is None else self.weight
            for slot in self._slots(batch)
        ]
        weight = torch.tensor(weights, device=device)
        partner = self._partners(batch, key).to(device)
        clips = {}
        for view in self.views:
            x = batch.views[view].data
            clips[view] = torch.lerp(x[partner.to(x.device)], x, weight.to(x).view(-1, *[1] * (x.ndim - 1)))
        return self._finish(batch, "mixup", clips, weight, partner)


@checked
@dataclass(frozen=True)
class CutMix(_Mixing):
    """Paste a rectangle of the partner, the same in every frame (Yun 2019).

    Source: docs/methods/object_views.md, Mixup and CutMix.

    One rectangle per step for the whole global batch (``per_sample=True``: one per row), of area 1 − λ about a uniform
    centre, clipped to the frame; the recorded weight is recomputed from what was pasted. All mixed views have one size.

    Args:
        alpha, views, fold, block: as in ``Mixup``.
        per_sample: a rectangle per row.
    Raises: UsageError for values out of range, a view that is not there, clips that are still uint8, mixed views
        of different sizes, or several processes whose batches are no multiple of ``block``.
    """

    per_sample: bool = False

    def box(self, key: Key, height: int, width: int) -> CutBox:
        share = (1 - self._weight(key.child("weight"))) ** 0.5
        half_height, half_width = int(height * share) / 2, int(width * share) / 2
        x, y = key.child("x").uniform(0, width), key.child("y").uniform(0, height)
        left, right = max(0, round(x - half_width)), min(width, round(x + half_width))
        top, bottom = max(0, round(y - half_height)), min(height, round(y + half_height))
        area = (right - left) * (bottom - top)
        return CutBox(left, top, right, bottom, 1 - area / (height * width))

    def __call__(self, batch: Batch, key: Key) -> Batch:
        """A new batch; ``cutmix.weight``, ``cutmix.partner`` and ``cutmix.box`` (B, 4) x1 y1 x2 y2 in its targets."""
        self._check(batch)
        device = batch.sample_id.device
        sizes = {tuple(batch.views[v].data.shape[-2:]) for v in self.views}
        if len(sizes) != 1:
            raise UsageError(f"CutMix: the mixed views have different sizes {sorted(sizes)}; mix views of one size")
        ((height, width),) = sizes
        keys = [key.child("box", slot) if self.per_sample else key.child("box") for slot in self._slots(batch)]
        boxes = [self.box(k, height, width) for k in (keys if self.per_sample else keys[:1])]
        if not self.per_sample:
            boxes = boxes * len(batch)
        partner = self._partners(batch, key).to(device)
        clips = {}
        for view in self.views:
            x = batch.views[view].data
            mixed = x.clone()
            for row, (box, other) in enumerate(zip(boxes, partner.tolist(), strict=True)):
                window = (..., slice(box.top, box.bottom), slice(box.left, box.right))
                mixed[row][window] = x[other][window]
            clips[view] = mixed
        weight = torch.tensor([b.weight for b in boxes], device=device)
        out = self._finish(batch, "cutmix", clips, weight, partner)
        rectangle = torch.tensor([b[:4] for b in boxes], dtype=torch.float32, device=device)
        return replace(out, targets={**out.targets, "cutmix.box": rectangle})

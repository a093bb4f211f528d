"""BG-Mixup: an object before another sample's background (Mo et al., NeurIPS 2021).

Source: docs/methods/object_views.md, BG-Mixup; docs/methods/contracam.md, Video.

    x_mix = m · x_i + (1 − m) · b_j

m is the soft mask of x_i, b_j the background of another sample: its frames with the box around the object filled from
what lies beside it. There is no λ, and the target of x_mix stays that of x_i.

Clips here are in [0, 1]. The released code mixes after normalisation, which is the same: a convex combination does not
see an affine map per channel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from unreel.core.checks import Amount, Count, Range, Share, checked
from unreel.core.distributed import all_gather_with_grad, rank, world_size
from unreel.core.errors import UsageError
from unreel.core.keys import Key
from unreel.data.batch import Batch, View
from unreel.views.batch_ops import Stateless

Variant: TypeAlias = Literal["paper", "official"]
MaskMode: TypeAlias = Literal["soft", "hard"]
Fill: TypeAlias = Literal["strip", "in_fill"]
Motion: TypeAlias = Literal["moving", "static"]

UNMIXED, FROM_MEMORY = -1, -2
"""Values of ``bg_mixup.partner``: the row is as it was; its background is of an earlier batch."""


class Rectangle(NamedTuple):
    """The box around an object, in pixels; ``bottom`` and ``right`` are its last row and column."""

    top: int
    bottom: int
    left: int
    right: int


def background_only(
    clip: Tensor, box: Rectangle, *, variant: Variant = "paper", fill: Fill = "strip", motion: Motion = "moving"
) -> Tensor:
    """A clip (C, T, H, W) without its object: every pixel outside of the box stays.

    Args:
        box: around the object in all frames; not the whole frame.
        variant: "paper" fills the box; "official" leaves its last row and column as they are, and lets the strips on
            the right and below begin with them: one line of foreground, as in the released code.
        fill: "strip" repeats the largest strip beside the box (above, left, right, below; the first of equals)
            periodically from the frame's first line; "in_fill" weighs the four nearest pixels outside by 1/distance.
        motion: "moving" does so in every frame, "static" repeats the frame in the middle.
    """
    height, width = clip.shape[-2:]
    top, left = box.top, box.left
    below, after = (box.bottom + 1, box.right + 1) if variant == "paper" else (box.bottom, box.right)
    out = clip.clone()
    if fill == "in_fill":
        out[..., top:below, left:after] = _in_fill(clip, top, below, left, after)
    else:
        above, before = top * width, left * height
        beyond, under = (width - 1 - box.right) * height, (height - 1 - box.bottom) * width
        # max takes the first of equals: above, left, right, below. A strip is an axis, its first line and its length.
        strips = [(above, -2, 0, top), (before, -1, 0, left), (beyond, -1, after, width - after)]
        strips.append((under, -2, below, height - below))
        _, axis, first, count = max(strips, key=lambda strip: strip[0])
        begin, end = (top, below) if axis == -2 else (left, after)
        lines = first + torch.arange(begin, end, device=clip.device) % count
        beside = clip[..., left:after] if axis == -2 else clip[..., top:below, :]
        out[..., top:below, left:after] = beside.index_select(axis, lines)
    if motion == "static":
        middle = clip.shape[1] // 2
        out = out[:, middle : middle + 1].expand_as(clip).contiguous()
    return out


def _in_fill(clip: Tensor, top: int, below: int, left: int, after: int) -> Tensor:
    height, width = clip.shape[-2:]
    down = torch.arange(1, below - top + 1, dtype=clip.dtype, device=clip.device)[:, None]
    along = torch.arange(1, after - left + 1, dtype=clip.dtype, device=clip.device)[None]
    total, weights = torch.zeros_like(clip[..., top:below, left:after]), torch.zeros_like(down * along)
    edges = [
        (top > 0, clip[..., top - 1 : top, left:after], down),
        (below < height, clip[..., below : below + 1, left:after], down.flip(0)),
        (left > 0, clip[..., top:below, left - 1 : left], along),
        (after < width, clip[..., top:below, after : after + 1], along.flip(1)),
    ]
    for there, edge, distance in edges:
        if there:
            total, weights = total + edge / distance, weights + 1 / distance
    return total / weights


@dataclass
class _Memory:
    """Backgrounds of earlier batches, the oldest first: M clips (C, T, H, W) and whose they are."""

    images: list[Tensor]
    groups: list[int]


@checked
@dataclass(eq=False, kw_only=True)
class BGMixup:
    """Put objects before other samples' backgrounds; a batch operation.

    A row's background is built, and the row mixed, with one draw of probability ``probability``. It gets the
    background of its partner under a permutation or, where that has none, one of the memory's. What cannot be mixed
    stays. Masks are the view's aligned data "mask" (soft, in [0, 1]), which has followed its crop and flip.

    Draws are keyed by the slot in the global batch: row i of rank r is slot r·B + i. Slots are permuted within blocks
    of ``block``, each of which has a memory of its own, as each of the released code's four processes has, with 64
    rows; smaller batches are one block. Any number of processes makes the same run: where a process's batch is no
    multiple of ``block``, blocks lie across processes, and all send each other their clips and masks of these views.
    With a multiple nothing is sent. The memory is in ``state_dict``, so that a resumed run is the same, too.

    ``targets`` gains ``bg_mixup.partner`` (B, V): for each mixed view the slot that gave the background (in one process
    the row), −1 where the row is unchanged, −2 where it is from memory.

    Args:
        probability: of building a row's background, and of mixing it.
        threshold: from which on a mask counts as object, for the box around it (and for ``mask_mode="hard"``).
        memory: backgrounds kept per block, the newest. A clip of 16 × 112 × 112 takes 2.4 MB.
        variant: "paper" or "official", see ``background_only``.
        mask_mode: "soft" mixes by the mask, "hard" by where it reaches the threshold (the ablation).
        views: indices of the views that are mixed; None mixes all, each with draws of its own.
        fill, motion: see ``background_only``.
        block: slots that are permuted together.
        same_video: whether a background may come from the row's own group (itself included). None: in images, as in
            the paper, and never in clips.
        mask: name of the aligned data.
    Raises: UsageError for values out of range, views without masks, or clips that are still uint8.
    """

    probability: Share = 0.4
    threshold: Annotated[float, Range(gt=0, le=1)] = 0.2
    memory: Amount = 50
    variant: Variant = "paper"
    mask_mode: MaskMode = "soft"
    views: Sequence[int] | None = (0,)
    fill: Fill = "strip"
    motion: Motion = "moving"
    block: Count = 64
    same_video: bool | None = None
    mask: str = "mask"

    def __post_init__(self) -> None:
        self.views = None if self.views is None else tuple(self.views)
        self._memories: dict[tuple[int, int], _Memory] = {}

    @torch.no_grad()
    def __call__(self, batch: Batch, key: Key) -> Batch:
        """A new batch; the memory moves on."""
        chosen = tuple(range(len(batch.views))) if self.views is None else self.views
        made, partners = list(batch.views), []
        for number in chosen:
            if not 0 <= number < len(batch.views):
                raise UsageError(f"BGMixup: there is no view {number}, the batch has {len(batch.views)}")
            made[number], partner = self._view(number, batch, key.child("view", number))
            partners.append(partner)
        recorded = torch.tensor(partners, dtype=torch.int64, device=batch.sample_id.device).T
        return replace(batch, views=tuple(made), targets={**batch.targets, "bg_mixup.partner": recorded})

    def _masks(self, number: int, view: View) -> Tensor:
        clips = view.data
        if not clips.is_floating_point():
            raise UsageError("BGMixup mixes float clips: run it after ViewPlan.apply")
        if self.mask not in view.aligned:
            raise UsageError(
                f"BGMixup: view {number} has no aligned data {self.mask!r}; give ClipDataset an "
                f"AlignedSource({self.mask!r}, 'soft_mask') (a recipe's bg_mixup does)"
            )
        masks = view.aligned[self.mask].data.to(clips)
        if masks.ndim != 4 or masks.shape[-2:] != clips.shape[-2:] or masks.shape[1] not in (1, clips.shape[2]):
            raise UsageError(
                f"BGMixup: masks {tuple(masks.shape)} do not fit clips {tuple(clips.shape)}; expected (B, T or 1, H, W)"
            )
        return masks

    def _view(self, number: int, batch: Batch, key: Key) -> tuple[View, list[int]]:
        view = batch.views[number]
        clips, masks, group = view.data, self._masks(number, view), batch.group
        first, skip = rank() * len(batch), 0  # the slot of the first row at hand, and rows before this process's own
        out, partner = clips.clone(), [UNMIXED] * len(batch)
        if world_size() > 1 and len(batch) % self.block:
            clips, masks, group = (all_gather_with_grad(x) for x in (clips, masks, group))
            first, skip = 0, first
        boxes, groups = _boxes(masks.amax(1), self.threshold, group)
        own = clips.shape[2] == 1 if self.same_video is None else self.same_video
        lanes: dict[int, list[int]] = {}
        for row in range(len(clips)):
            lanes.setdefault((first + row) // self.block, []).append(row)
        for lane, rows in lanes.items():
            if rows[-1] < skip or rows[0] >= skip + len(batch):
                continue  # a block of other processes
            built = [
                row
                for row in rows
                if boxes[row] is not None and key.child("build", first + row).bernoulli(self.probability)
            ]
            old = self._memories.get((number, lane))
            known = [] if old is None else old.groups
            sources, held = self._choose(rows, first, built, groups, known, key, own)
            pool = self._pool(clips, boxes, built, old)
            for row, source in zip(rows, sources, strict=True):
                if source < 0 or not 0 <= row - skip < len(batch):
                    continue
                weight = masks[row] if self.mask_mode == "soft" else (masks[row] >= self.threshold).to(clips)
                out[row - skip] = torch.lerp(pool[source], clips[row], weight[None].expand_as(clips[row]))
                partner[row - skip] = FROM_MEMORY if source < len(known) else first + built[source - len(known)]
            if built:
                whose = [*known, *(groups[row] for row in built)]
                self._memories[number, lane] = _Memory([pool[i] for i in held], [whose[i] for i in held])
        return replace(view, data=out), partner

    def _choose(
        self, rows: list[int], first: int, built: list[int], groups: list[int], known: list[int], key: Key, own: bool
    ) -> tuple[list[int], list[int]]:
        """Step 4, row by row: a row sees what the rows before it put into the memory.

        ``own``: whether a background may be of the row's own group. Returns for each row where its background is from,
        a place in [memory; built] or −1, and what the memory holds after.
        """
        whose = [*known, *(groups[row] for row in built)]
        place = {row: len(known) + i for i, row in enumerate(built)}
        order = key.child("partner", first + rows[0]).permutation(len(rows))
        held, source = list(range(len(known))), []
        for i, row in enumerate(rows):
            found = -1
            if row in place:
                other = place.get(rows[int(order[i])], -1)
                if other >= 0 and (own or whose[other] != groups[row]):
                    found = other
                else:
                    usable = [m for m in held if own or whose[m] != groups[row]]
                    if usable:
                        found = usable[key.child("memory", first + row).integer(0, len(usable))]
                held.append(place[row])
                held = held[-self.memory :] if self.memory else []
            source.append(found)
        return source, held

    def _pool(
        self, clips: Tensor, boxes: list[Rectangle | None], built: list[int], old: _Memory | None
    ) -> list[Tensor]:
        """What backgrounds are taken from: the memory's, and those of this batch; (C, T, H, W) each."""
        pool = []
        for image in [] if old is None else old.images:
            kept, frames = image.to(clips), clips.shape[2]
            if kept.shape[0] != clips.shape[1] or kept.shape[-2:] != clips.shape[-2:]:
                raise UsageError(
                    f"BGMixup: the memory holds backgrounds {tuple(kept.shape)}, the clips are "
                    f"{tuple(clips.shape[1:])}; a run keeps its size"
                )
            if kept.shape[1] != frames:  # loop or truncate in time
                kept = kept[:, torch.arange(frames, device=kept.device) % kept.shape[1]]
            pool.append(kept)
        for row in built:
            box = boxes[row]
            assert box is not None
            pool.append(background_only(clips[row], box, variant=self.variant, fill=self.fill, motion=self.motion))
        return pool

    def state_dict(self) -> dict[str, Tensor]:
        """The memories: ``view<V>.block<L>.images`` and ``.groups``."""
        state = {}
        for (view, lane), memory in sorted(self._memories.items()):
            images = torch.stack(memory.images) if memory.images else torch.zeros(0)
            state[f"view{view}.block{lane}.images"] = images
            state[f"view{view}.block{lane}.groups"] = torch.tensor(memory.groups, dtype=torch.int64)
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what ``state_dict`` gave. Raises UsageError for a state of something else."""
        memories: dict[tuple[int, int], _Memory] = {}
        try:
            for name in state:
                view, lane, what = name.split(".")
                place = int(view.removeprefix("view")), int(lane.removeprefix("block"))
                groups = state[f"{view}.{lane}.groups"].tolist()
                memories[place] = _Memory([*state[f"{view}.{lane}.images"].clone()], groups)
                if what not in ("images", "groups") or len(groups) != len(memories[place].images):
                    raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UsageError(f"this is no state of a BGMixup: {', '.join(state)}") from None
        self._memories = memories


def _boxes(peak: Tensor, threshold: float, group: Tensor) -> tuple[list[Rectangle | None], list[int]]:
    """The box of each (B, H, W) mask, None where empty or the whole frame, and groups; one wait for the device."""
    height, width = peak.shape[1:]
    rows, columns = ((peak.amax(axis) >= threshold).to(torch.uint8) for axis in (2, 1))
    facts = torch.stack(
        [
            rows.any(1).to(torch.int64),
            rows.argmax(1),
            height - 1 - rows.flip(1).argmax(1),
            columns.argmax(1),
            width - 1 - columns.flip(1).argmax(1),
            group.to(peak.device),
        ],
        1,
    ).tolist()
    whole = Rectangle(0, height - 1, 0, width - 1)
    boxes: list[Rectangle | None] = []
    for there, *box, _ in facts:
        found = Rectangle(*box)
        boxes.append(found if there and found != whole else None)
    return boxes, [fact[-1] for fact in facts]


class FinishViews(Stateless):
    """The rest of views whose plan is ``late`` (``ViewPlan.finish``), as a batch operation: colours after mixing."""

    def __init__(self, finish: Callable[[Batch], Batch]) -> None:
        self.finish = finish

    def __call__(self, batch: Batch, key: Key) -> Batch:
        """The batch with the rest of its views applied; nothing is drawn."""
        return self.finish(batch)

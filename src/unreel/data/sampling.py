"""Which frames a clip reads: CVRL's interval distributions, random clips for training, fixed clips for testing.

All starts and intervals are whole frames. A clip of n frames at stride s covers (n − 1)·s + 1 frames.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import KW_ONLY, asdict, dataclass
from functools import cached_property
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from unreel.core.checks import Amount, Count, Frames, FramesApart, Positive, checked
from unreel.core.digests import mapping_digest
from unreel.core.errors import UsageError
from unreel.core.keys import Key
from unreel.data.contracts import Request, SamplerDraw, SourceInfo

IntervalKind: TypeAlias = Literal["decreasing", "uniform", "increasing", "none", "independent", "fixed", "exponential"]
StartRule: TypeAlias = Literal["cvrl", "tcgl"]


def clip_indices(start: int, num_frames: int, clip_frames: int, stride: int = 1) -> NDArray[np.int64]:
    """(start + i·stride) mod num_frames for i < clip_frames: short videos are looped, never padded.

    Source: docs/methods/cvrl.md, Sampling.

    Returns: (clip_frames,) int64.
    """
    return (start + stride * np.arange(clip_frames, dtype=np.int64)) % num_frames


def clips_at(starts: Iterable[int], num_frames: int, clip_frames: int, stride: int) -> tuple[Request, ...]:
    """The clips with these first frames, as ``clip_indices``."""
    return tuple(Request(clip_indices(start, num_frames, clip_frames, stride)) for start in starts)


@checked
def num_starts(num_frames: Count, clip_frames: int, stride: int = 1) -> int:
    """M, the number of first frames a clip may have: num_frames − (clip_frames − 1)·stride.

    Where the video is too short for one unlooped clip, it is every frame.

    Source: docs/methods/cvrl.md, Sampling.

    """
    reach = (clip_frames - 1) * stride
    return num_frames - reach if num_frames > reach else num_frames


@checked
@dataclass(frozen=True)
class IntervalDistribution:
    """How far apart, in frames, the two clips of a pair start (CVRL, Qian et al. 2021, figure 4).

    Source: docs/methods/cvrl.md, Sampling.

    With x = interval / M on [0, 1) and M possible starts:

    ============ ======================================================= ===============================
    kind         density                                                 paper's figure
    ============ ======================================================= ===============================
    decreasing   ∝ 1 − x^power                                           a (power 1), b (0.5), c (2)
    uniform      constant                                                d
    increasing   ∝ x^power                                               e (1), f (2)
    none         always 0: both clips start together                     no temporal augmentation
    independent  that of two independent uniform starts                  in the limit the same as a
    fixed        always ``frames`` (at most M − 1)                       –
    exponential  ∝ exp(−x / scale), cut at 1                             – (not in the paper)
    ============ ======================================================= ===============================

    Args:
        kind: see the table.
        power: > 0, for ``decreasing`` and ``increasing``.
        frames: ≥ 0, for ``fixed``.
        scale: > 0, as a share of M, for ``exponential``.
    Raises: UsageError for an unknown kind or a parameter out of range.
    """

    kind: IntervalKind = "decreasing"
    power: Positive = 1.0
    _: KW_ONLY
    frames: Amount = 0
    scale: Positive = 0.25

    @checked
    def cdf(self, interval: ArrayLike, num_starts: Count) -> NDArray[np.float64]:
        """P(δ < interval), any shape; 0 at 0 and 1 at ``num_starts``. Raises UsageError for num_starts < 1."""
        k, m, p = np.asarray(interval, dtype=np.float64), float(num_starts), float(self.power)
        value = x = k / m
        if self.kind in ("none", "fixed"):
            value = np.where(k > (0 if self.kind == "none" else min(self.frames, num_starts - 1)), 1.0, 0.0)
        elif self.kind == "independent":  # 1/M at 0 and 2(M − k)/M² at k ≥ 1, summed
            value = np.where(k > 0, 1 / m + (k - 1) * (2 * m - k) / (m * m), 0.0)
        elif self.kind == "decreasing":
            value = ((p + 1) * x - x ** (p + 1)) / p
        elif self.kind == "increasing":
            value = x ** (p + 1)
        elif self.kind == "exponential":
            value = np.expm1(-x / self.scale) / np.expm1(-1 / self.scale)
        return np.asarray(value, dtype=np.float64)

    def pmf(self, num_starts: int) -> Tensor:
        """P(δ = k) = F(k + 1) − F(k) for k = 0, …, num_starts − 1.

        Returns: (num_starts,) float64, summing to 1. Raises: UsageError for num_starts < 1.
        """
        return torch.from_numpy(np.diff(self.cdf(np.arange(num_starts + 1), num_starts)))

    def interval(self, u: float, num_starts: int) -> int:
        """The largest k in [0, num_starts − 1] with F(k) ≤ u: the floor of the inverse CDF.

        Source: docs/methods/cvrl.md, Sampling.

        Raises: UsageError unless 0 ≤ u < 1 and num_starts ≥ 1.
        """
        self._check_unit(np.asarray(u))
        self.cdf(0, num_starts)
        return bisect_right(range(num_starts), u, key=lambda k: float(self.cdf(k, num_starts))) - 1

    def intervals(self, u: ArrayLike, num_starts: int) -> NDArray[np.int64]:
        """:meth:`interval` for many draws at once; any shape."""
        draws = np.asarray(u, dtype=np.float64)
        self._check_unit(draws)
        table = self.cdf(np.arange(num_starts), num_starts)
        return np.searchsorted(table, draws, side="right").astype(np.int64) - 1

    @staticmethod
    def _check_unit(u: NDArray[np.float64]) -> None:
        if not (np.all(u >= 0) and np.all(u < 1)):
            raise UsageError("an interval's draw u must lie in [0, 1)")


@checked
@dataclass(frozen=True)
class PairSampler:
    """Two clips of one video, an interval apart (CVRL; docs/methods/cvrl.md, Sampling).

    The interval δ is drawn first, then the earlier start uniformly over what remains, then the order. A video of at
    most (clip_frames − 1)·stride frames is looped, and both starts are independent and uniform over its frames
    (except for ``none``, whose clips always start together).

    Args:
        clip_frames, stride: frames per clip and frames between them; 16 at 2 in CVRL's pre-training.
        interval, power, fixed_frames, scale: see :class:`IntervalDistribution`.
        swap: put the pair in random order. Without it view 0 is always the earlier clip of an unlooped video.

    The draw's target ``interval`` is start₁ − start₀ in frames (() int64, signed).
    """

    num_views = 2

    clip_frames: Frames = 16
    stride: Frames = 2
    _: KW_ONLY
    interval: IntervalKind = "decreasing"
    power: Positive = 1.0
    fixed_frames: FramesApart = 0
    scale: Positive = 0.25
    swap: bool = True

    @cached_property
    def distribution(self) -> IntervalDistribution:
        """Of the interval."""
        return IntervalDistribution(self.interval, self.power, frames=self.fixed_frames, scale=self.scale)

    def starts(self, key: Key, num_frames: int) -> tuple[int, int]:
        """First frames of view 0 and view 1 in a source of ``num_frames`` frames."""
        m = num_starts(num_frames, self.clip_frames, self.stride)
        looped = num_frames <= (self.clip_frames - 1) * self.stride
        if looped and self.distribution.kind != "none":
            return key.child("start").integer(0, m), key.child("second start").integer(0, m)
        delta = self.distribution.interval(key.child("interval").uniform(), m)
        first = key.child("start").integer(0, m - delta)
        pair = (first, first + delta)
        return pair[::-1] if self.swap and key.child("swap").bernoulli(0.5) else pair

    def draw(self, key: Key, source: SourceInfo) -> SamplerDraw:
        """Two clips; a pure function of the key and the number of frames."""
        starts = self.starts(key, source.num_frames)
        clips = clips_at(starts, source.num_frames, self.clip_frames, self.stride)
        return SamplerDraw(clips, {"interval": torch.tensor(starts[1] - starts[0])})


@checked
@dataclass(frozen=True)
class ClipSetSampler:
    """ρ clips of one video, in random order (Feichtenhofer 2021); the first two are views 0 and 1.

    Source: docs/methods/simclr.md, Clips.

    Args:
        rho: clips at times of their own. 1 gives two views of one and the same clip.
        clip_frames, stride: frames per clip and frames between them.
        interval, power, fixed_frames, scale: "independent" draws each start uniformly by itself. Any other
            ``IntervalDistribution`` is that of the time between the first and the last clip, as ``PairSampler`` draws
            it; the clips between them start uniformly between.
    Raises: UsageError for counts below 1 or a distribution that cannot be.
    """

    rho: Count = 2
    _: KW_ONLY
    clip_frames: Frames = 16
    stride: Frames = 1
    interval: IntervalKind = "independent"
    power: Positive = 1.0
    fixed_frames: FramesApart = 0
    scale: Positive = 0.25

    @cached_property
    def pair(self) -> PairSampler:
        """Draws the first and the last clip."""
        drawn = asdict(self)
        del drawn["rho"]
        return PairSampler(**drawn, swap=False)

    @property
    def num_views(self) -> int:
        """One view per clip, and at least two."""
        return max(2, self.rho)

    def starts(self, key: Key, num_frames: int) -> list[int]:
        """First frame of every view's clip in a source of ``num_frames`` frames."""
        m = num_starts(num_frames, self.clip_frames, self.stride)
        if self.rho == 1:
            return [key.child("start", 0).integer(0, m)] * 2
        if self.pair.distribution.kind == "independent":
            return [key.child("start", i).integer(0, m) for i in range(self.rho)]
        low, high = sorted(self.pair.starts(key.child("pair"), num_frames))
        between = [key.child("start", i).integer(low, high + 1) for i in range(self.rho - 2)]
        drawn = [low, high, *between]
        return [drawn[i] for i in key.child("order").permutation(self.rho)]

    def draw(self, key: Key, source: SourceInfo) -> SamplerDraw:
        """One clip per view; a pure function of the key and the number of frames. Short videos are looped."""
        starts = self.starts(key, source.num_frames)
        return SamplerDraw(clips_at(starts, source.num_frames, self.clip_frames, self.stride))


@checked
@dataclass(frozen=True)
class UniformSampler:
    """``num_clips`` clips of one video, each with its own uniform start; short videos are looped.

    One clip of 32 frames at stride 2 is what CVRL's linear probe trains on (docs/methods/evaluation.md, CVRL's linear
    probe).
    """

    num_clips: Count = 1
    _: KW_ONLY
    clip_frames: Frames = 16
    stride: Frames = 1

    @property
    def num_views(self) -> int:
        return self.num_clips

    def draw(self, key: Key, source: SourceInfo) -> SamplerDraw:
        """Independent clips; adding one does not change the others."""
        m = num_starts(source.num_frames, self.clip_frames, self.stride)
        starts = [key.child("start", i).integer(0, m) for i in range(self.num_clips)]
        return SamplerDraw(clips_at(starts, source.num_frames, self.clip_frames, self.stride))


@checked
def clip_starts(
    num_frames: Count, clip_len: Count, num_clips: Count, rule: StartRule = "cvrl", stride: Count = 1
) -> list[int]:
    """First frames of ``num_clips`` test clips, evenly spread from the first possible to the last.

    Args:
        num_frames: L, frames of the source.
        clip_len: n, frames per clip; ``stride`` frames apart.
        num_clips: k; a single clip starts at 0 under both rules.
        rule: ``cvrl``: floor(linspace(0, max(0, L − n·stride), k)); note n·stride and not (n − 1)·stride, as released
            (docs/methods/evaluation.md, CVRL's linear probe). ``tcgl``: centres linspace(n/2, L − n/2, k) minus n/2,
            truncated (docs/methods/evaluation.md, TCGL's fine-tuning); the same numbers, but a source shorter than
            n·stride is refused instead of looped.
    Raises: UsageError for counts below 1, an unknown rule, or a source too short for ``tcgl``.
    """
    room = num_frames - clip_len * stride
    if rule == "tcgl" and room < 0:
        raise UsageError(
            f"rule 'tcgl' needs at least {clip_len * stride} frames ({clip_len} at stride {stride}), the source has "
            f"{num_frames}; use rule 'cvrl', which loops short videos, or leave them out"
        )
    # Whole-number arithmetic: exact where float32 linspace is off by one.
    return [i * max(0, room) // max(1, num_clips - 1) for i in range(num_clips)]


class CropBox(NamedTuple):
    """A crop of the resized frame, in pixels."""

    top: int
    left: int
    size: int


@checked
@dataclass(frozen=True)
class ClipPlan:
    """The deterministic views of one source at test time: clips × crops. CVRL's are the defaults.

    Source: docs/methods/evaluation.md, CVRL's linear probe.

    Attributes:
        num_frames, stride: frames per clip and frames between them.
        num_clips, num_crops: clips spread over the video by ``rule``; crops spread over the longer side (one is the
            centre).
        size_px: side of the square crop.
        short_side_px: the shorter side is resized to this, the longer to max(this, longer·this // shorter).
        rule: see :func:`clip_starts`.
        resize_px: (height, width) to resize to instead, without keeping the aspect; TCGL's is (128, 171).
        antialias: whether the resize filters first.
    """

    num_frames: Count = 32
    stride: Count = 2
    num_clips: Count = 10
    num_crops: Count = 3
    size_px: Count = 256
    short_side_px: int = 256
    rule: StartRule = "cvrl"
    resize_px: tuple[int, int] | None = None
    antialias: bool = True

    def __post_init__(self) -> None:
        smallest = self.short_side_px if self.resize_px is None else min(self.resize_px)
        if self.size_px > smallest:
            raise UsageError(f"a clip plan crops {self.size_px} px out of a resized frame of {smallest} px")

    @property
    def num_views(self) -> int:
        """V = clips × crops; view index = clip · num_crops + crop."""
        return self.num_clips * self.num_crops

    @cached_property
    def digest(self) -> str:
        """Changes whenever a pixel of any view would."""
        return mapping_digest({"clip plan": 1, **asdict(self)})

    def indices(self, num_source_frames: int) -> NDArray[np.int64]:
        """Frames of every clip, looped where the source is short: (num_clips, num_frames) int64.

        Raises: UsageError when the rule refuses the source.
        """
        starts = clip_starts(num_source_frames, self.num_frames, self.num_clips, self.rule, self.stride)
        return np.stack([clip_indices(s, num_source_frames, self.num_frames, self.stride) for s in starts])

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after resizing a frame of the given size."""
        if self.resize_px is not None:
            return self.resize_px
        side = self.short_side_px
        if height <= width:
            return side, max(side, width * side // height)
        return max(side, height * side // width), side

    def crops(self, height: int, width: int) -> list[CropBox]:
        """Crops of the *resized* frame (height, width): spread over its longer side, centred on the shorter."""
        n, size = self.num_crops, self.size_px
        room, centre = max(height, width) - size, round((min(height, width) - size) / 2)
        offsets = [round(i * room / (n - 1)) for i in range(n)] if n > 1 else [round(room / 2)]
        return [CropBox(o, centre, size) if height > width else CropBox(centre, o, size) for o in offsets]

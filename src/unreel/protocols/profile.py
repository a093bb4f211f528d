"""A profile: which protocols, on which test clips, pooled how. Decision 0004 says why the three belong together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from unreel.core.errors import UsageError
from unreel.data.sampling import ClipPlan
from unreel.nn.encoder import InputSpec
from unreel.protocols.features import default_plan
from unreel.protocols.pooling import Pooling
from unreel.protocols.protocol import FeatureProtocol


@dataclass(frozen=True)
class TrainedOn:
    """The clips a paper's encoders were trained on: frames and pixels (the side of a square)."""

    num_frames: int
    size_px: int


@dataclass(frozen=True)
class Profile:
    """A named set of protocols, with the test clips and the pooling that their features are made with.

    Attributes:
        protocols: by name; the first is the one that is run unless others are named.
        clips: the paper's test clips; ``None``: as each encoder was trained (``default_plan``).
        trained: what the paper's own encoders were trained on; smaller encoders get clips smaller in proportion.
        pooling: how maps become vectors.
    Raises: UsageError without a protocol, and for clips without ``trained`` or the other way round.
    """

    protocols: Mapping[str, FeatureProtocol]
    clips: ClipPlan | None = None
    trained: TrainedOn | None = None
    pooling: Pooling = field(default_factory=Pooling)

    def __post_init__(self) -> None:
        if not self.protocols:
            raise UsageError("a profile needs at least one protocol")
        if (self.clips is None) != (self.trained is None):
            raise UsageError("a profile's clips and what its encoders were trained on come together")

    @property
    def first(self) -> str:
        """The protocol that is run unless others are named."""
        return next(iter(self.protocols))

    def plan(self, spec: InputSpec) -> ClipPlan:
        """The test clips for an encoder.

        An encoder trained on at least the paper's frames gets the paper's frames and stride, one trained on at least
        the paper's pixels the paper's sizes. A smaller one gets them in the same proportion to what it was trained on
        as in the paper (at its own stride), so that it meets what it knows; one of single frames gets single frames.
        Rule, clips and crops are the paper's always.

        >>> from unreel.protocols import PROFILES
        >>> PROFILES["paper-tcgl"].plan(InputSpec(num_frames=16, size_px=112)).resize_px
        (128, 171)
        >>> PROFILES["paper-tcgl"].plan(InputSpec(num_frames=8, size_px=56)).resize_px
        (64, 86)
        """
        if self.clips is None or self.trained is None:
            return default_plan(spec)
        plan = self.clips
        if spec.num_frames == 1:
            plan = replace(plan, num_frames=1, stride=1)
        elif spec.num_frames < self.trained.num_frames:
            frames = _scaled(plan.num_frames, spec.num_frames, self.trained.num_frames)
            plan = replace(plan, num_frames=frames, stride=spec.stride_frames)
        if spec.size_px < self.trained.size_px:

            def pixels(value: int) -> int:
                assert self.trained is not None
                return _scaled(value, spec.size_px, self.trained.size_px)

            resize = plan.resize_px
            plan = replace(
                plan,
                size_px=pixels(plan.size_px),
                short_side_px=pixels(plan.short_side_px),
                resize_px=None if resize is None else (pixels(resize[0]), pixels(resize[1])),
            )
        return plan

    def changes(self, spec: InputSpec) -> str:
        """What ``plan`` made of the paper's clips for this encoder, in a sentence; empty where they are the paper's."""
        plan = self.plan(spec)
        if self.clips is None or plan == self.clips:
            return ""
        return (
            f"clips are the paper's in proportion to what the encoder was trained on: {plan.num_frames} frames at "
            f"stride {plan.stride} and {plan.size_px} px instead of {self.clips.num_frames} at {self.clips.stride} "
            f"and {self.clips.size_px} px"
        )


def _scaled(value: int, own: int, papers: int) -> int:
    """``value`` · own / papers, rounded half up, at least 1."""
    return max(1, (2 * value * own + papers) // (2 * papers))

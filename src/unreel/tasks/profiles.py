"""A profile: which protocols, on which test clips, pooled how. Decision 0004 says why the three belong together.

``standard`` selects on validation, scores the whole test part and averages the views' vectors, of clips as the encoder
was trained. The others are the papers'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias

from unreel.core.errors import UsageError, unknown_name
from unreel.core.settings import validate
from unreel.data.sampling import ClipPlan
from unreel.nn.encoder import InputSpec
from unreel.protocols import KNN, LinearPath, LinearProbe, LinearSVM, Pooling, Retrieval, default_plan
from unreel.protocols.protocol import FeatureProtocol
from unreel.tasks.finetune import FineTune, paper_cvrl, paper_tcgl
from unreel.tasks.sgd_probe import SGDProbe
from unreel.tasks.trained import TrainedProtocol

AnyProtocol: TypeAlias = FeatureProtocol | TrainedProtocol


@dataclass(frozen=True)
class Profile:
    """A named set of protocols, with the test clips and the pooling that their features are made with.

    Attributes:
        protocols: by name; the first is the one that is run unless others are named.
        clips: the paper's test clips; ``None``: as each encoder was trained (``default_plan``).
        trained: the frames and pixels that the paper's own encoders were trained on; smaller encoders get clips smaller
            in proportion.
        pooling: how maps become vectors.
        training: protocols that train on the videos themselves, by name.
    Raises: UsageError without a protocol, and for clips without ``trained`` or the other way round.
    """

    protocols: Mapping[str, FeatureProtocol]
    clips: ClipPlan | None = None
    trained: InputSpec | None = None
    pooling: Pooling = field(default_factory=Pooling)
    training: Mapping[str, TrainedProtocol] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.protocols:
            raise UsageError("a profile needs at least one protocol")
        if (self.clips is None) != (self.trained is None):
            raise UsageError("a profile's clips and what its encoders were trained on come together")

    @property
    def own(self) -> dict[str, AnyProtocol]:
        """Every protocol that the profile has, by name."""
        return {**self.protocols, **self.training}

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

        >>> PROFILES["paper-tcgl"].plan(InputSpec(num_frames=16, size_px=112)).resize_px
        (128, 171)
        >>> PROFILES["paper-tcgl"].plan(InputSpec(num_frames=8, size_px=56)).resize_px
        (64, 86)
        """
        plan, papers = self.clips, self.trained
        if plan is None or papers is None:
            return default_plan(spec)
        if spec.num_frames == 1:
            plan = replace(plan, num_frames=1, stride=1)
        elif spec.num_frames < papers.num_frames:
            frames = _scaled(plan.num_frames, spec.num_frames, papers.num_frames)
            plan = replace(plan, num_frames=frames, stride=spec.stride_frames)
        pixels = partial(_scaled, own=min(spec.size_px, papers.size_px), papers=papers.size_px)
        resize = None if plan.resize_px is None else (pixels(plan.resize_px[0]), pixels(plan.resize_px[1]))
        return replace(plan, size_px=pixels(plan.size_px), short_side_px=pixels(plan.short_side_px), resize_px=resize)

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


PROTOCOLS: dict[str, AnyProtocol] = {
    "linear": LinearProbe(),
    "knn": KNN(),
    "retrieval": Retrieval(),
    "svm": LinearSVM(),
    "finetune": FineTune(),
}
"""Every protocol with its usual settings, for a profile that has none of that name."""

PROFILES: dict[str, Profile] = {
    "standard": Profile(
        {name: PROTOCOLS[name] for name in ("linear", "knn", "retrieval")},  # type: ignore[misc]
        training={"finetune": FineTune()},
    ),
    # CVRL's encoders were trained on 16 frames of 224 px and are tested on 30 views of 32 frames, the defaults of
    # ``ClipPlan`` (docs/methods/cvrl.md, Training; docs/methods/evaluation.md, CVRL's linear probe).
    "paper-cvrl": Profile(
        {"linear": SGDProbe()},
        clips=ClipPlan(),
        trained=InputSpec(num_frames=16, size_px=224),
        training={"finetune": paper_cvrl()},
    ),
    # docs/methods/evaluation.md, TCGL's retrieval: ten clips of 16 frames, frames resized to 128 × 171, centre crop of
    # 112; the whole train part.
    "paper-tcgl": Profile(
        {"retrieval": Retrieval(ks=(1, 5, 10, 20, 50), exclude="source"), "svm": LinearSVM()},
        clips=ClipPlan(
            num_frames=16,
            stride=1,
            num_clips=10,
            num_crops=1,
            size_px=112,
            short_side_px=128,
            rule="tcgl",
            resize_px=(128, 171),
        ),
        trained=InputSpec(num_frames=16, size_px=112),
        pooling=Pooling("max", (1, 2, 2)),
        training={"finetune": paper_tcgl()},
    ),
    # docs/methods/evaluation.md, Linear path: one image, its shorter side resized to 256, centre crop of 224.
    "paper-occon": Profile(
        {"linear": LinearPath()},
        clips=ClipPlan(num_frames=1, stride=1, num_clips=1, num_crops=1, size_px=224, short_side_px=256),
        trained=InputSpec(num_frames=1, size_px=224),
    ),
}


def get_profile(name: str) -> Profile:
    """A profile by name. Raises UsageError, with the nearest names, for an unknown one."""
    if name not in PROFILES:
        raise unknown_name("profile", name, PROFILES)
    return PROFILES[name]


def resolve_protocols(
    protocol: str | AnyProtocol | Sequence[str | AnyProtocol] | None,
    profile: str = "standard",
    *,
    settings: Mapping[str, Mapping[str, object]] | None = None,
) -> list[AnyProtocol]:
    """Protocols by name, or as they are; ``None`` is the profile's first.

    A name is looked up in the profile, and where the profile has none of that name among all (``PROTOCOLS``).
    ``settings``: protocol → arguments of its constructor that replace what it has.
    Raises: UsageError for an unknown name or argument, with the nearest ones, and for two protocols of one name.
    """
    chosen = get_profile(profile)
    known = {**PROTOCOLS, **chosen.own}
    if protocol is None:
        protocol = chosen.first
    asked = [protocol] if isinstance(protocol, str) or not isinstance(protocol, Sequence) else list(protocol)
    if not asked:
        raise UsageError("protocol: name at least one")
    for item in asked:
        if isinstance(item, str) and item not in known:
            raise unknown_name("protocol", item, known)
    found = [known[item] if isinstance(item, str) else item for item in asked]
    names = [p.name for p in found]
    if len(set(names)) != len(names):
        raise UsageError(f"protocols: two are called {max(names, key=names.count)!r}; give each its own name")
    for name, values in (settings or {}).items():
        if name not in names:
            raise UsageError(f"settings for {name!r}, which is not among the protocols asked for: {', '.join(names)}")
        place = names.index(name)
        own: Any = found[place]
        found[place] = replace(own, **validate(type(own), values, where=name))
    return found


def frozen_protocol(name: str) -> FeatureProtocol:
    """A protocol for frozen features with its usual settings. Raises UsageError for one that trains, or none."""
    (found,) = resolve_protocols(name)
    if isinstance(found, TrainedProtocol):
        raise UsageError(f"protocol {name}: it trains the encoder; name one for frozen features, such as linear")
    return found

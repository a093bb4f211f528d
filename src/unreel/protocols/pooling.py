"""How a feature map becomes one vector: the encoder's own pooling, a global mean, or a max over windows."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor, nn

from unreel.core.checks import Count, checked
from unreel.core.errors import UsageError
from unreel.nn.encoder import Encoder

PoolingKind: TypeAlias = Literal["encoder", "gap", "max"]
PoolingLike: TypeAlias = "Pooling | str | None"
_EXAMPLES = "'encoder', 'gap', 'max-1x2x2', 'max-2x5x5'"
_WINDOW = re.compile(r"max-([1-9]\d*)x([1-9]\d*)x([1-9]\d*)")


@checked
@dataclass(frozen=True)
class Pooling:
    """How a stage's map (B, C, T, h, w) becomes a vector per view; a part of the feature store's key.

    Attributes:
        kind: ``encoder``: as ``encoder.pool`` does it; ``gap``: the mean over time and space; ``max``: the largest
            value in each ``window``, flattened in the order C, T, h, w.
        window: (t, h, w) of ``max``, in cells of the map; windows do not overlap, and what is left at the end of a
            side is not seen. (1, 2, 2) is the video retrieval papers', 512 × 2 × 7 × 7 to 9,216 values; (2, 5, 5) is
            what TCGL's release does for R(2+1)D, 512 values of the top left corner (docs/methods/evaluation.md, TCGL's
            retrieval).
        keep_views: whether a row of the store holds a vector per view, or their mean. ``None``: a vector per view,
            except for ``max``, whose rows would be large: UCF101 in ten clips is 4.9 GB at 9,216 values a view and
            0.5 GB as means.
    Raises: UsageError for a window that is missing, superfluous or not positive.

    >>> Pooling.of("max-1x2x2").window
    (1, 2, 2)
    """

    kind: PoolingKind = "encoder"
    window: tuple[Count, Count, Count] | None = None
    keep_views: bool | None = None

    def __post_init__(self) -> None:
        if (self.kind == "max") != (self.window is not None):
            raise UsageError(f"pooling: a window belongs to 'max' and to nothing else, got {self.kind} {self.window}")
        if self.keep_views is None:
            object.__setattr__(self, "keep_views", self.kind != "max")

    @classmethod
    def of(cls, value: PoolingLike) -> Pooling:
        """A pooling from its name ("encoder", "gap", "max-1x2x2"); ``None`` is the encoder's own.

        Raises: UsageError for a name that is none.
        """
        if isinstance(value, Pooling):
            return value
        if value is None or value == "encoder":
            return cls()
        if value == "gap":
            return cls("gap")
        found = _WINDOW.fullmatch(value)
        if found is None:
            raise UsageError(f"pooling: expected one of {_EXAMPLES}, got {value!r}")
        t, h, w = map(int, found.groups())
        return cls("max", (t, h, w))

    @property
    def name(self) -> str:
        """The name that ``of`` reads."""
        return self.kind if self.window is None else "max-" + "x".join(map(str, self.window))

    @property
    def key(self) -> str:
        """What the store's key says of it; empty for the encoder's own, as stores were keyed before there was a choice.

        >>> Pooling.of("max-1x2x2").key
        'max-1x2x2, mean over views'
        """
        text = "" if self.kind == "encoder" else self.name
        return text if self.keep_views else f"{text or 'encoder'}, mean over views"

    def resolved(self, encoder: Encoder) -> Pooling:
        """The encoder's own where that is the same computation, so that its stored features serve both."""
        own_is_gap = type(encoder).pool is Encoder.pool
        return Pooling("encoder", keep_views=self.keep_views) if self.kind == "gap" and own_is_gap else self

    def __call__(self, encoder: Encoder, feature_map: Tensor, stage: str = "") -> Tensor:
        """A map (B, C, T, h, w) to vectors (B, D).

        Raises: UsageError where the window does not fit the map.
        """
        if self.kind == "encoder":
            return encoder.pool(feature_map)
        if self.kind == "gap":
            return feature_map.mean((2, 3, 4))
        assert self.window is not None
        if any(size < window for size, window in zip(feature_map.shape[2:], self.window, strict=True)):
            size = " × ".join(map(str, feature_map.shape[1:]))
            raise UsageError(
                f"pooling {self.name!r} does not fit: the map{f' of stage {stage!r}' if stage else ''} is {size} "
                "(channels, time, height, width). Give larger or longer clips, an earlier layer, a smaller window, "
                "or pooling='gap'"
            )
        return nn.functional.max_pool3d(feature_map.float(), self.window, self.window).flatten(1)

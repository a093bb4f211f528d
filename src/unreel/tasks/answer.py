"""The answer in one sentence: better, worse, or not decided and what would decide it. Decided losses come first."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from unreel.core.words import counted
from unreel.stats.intervals import PairedDifference
from unreel.tasks.baselines import BASELINES

if TYPE_CHECKING:
    from unreel.tasks.scores import Score

# More groups than this many times those at hand are out of reach: the difference is then called too small.
_IN_REACH = 20


def groups_to_decide(found: PairedDifference) -> int | None:
    """How many more groups would decide a difference of this size; 0 where it is decided, None where none would do.

    An interval is as wide as 1 / √groups. With m times as many groups, the bound on the side of 0, which now lies w
    from the difference d, would lie w / √m from it. It leaves 0 out once w / √m < |d|, that is for m = (w / d)².
    """
    if found.decided:
        return 0
    towards_0 = found.difference - found.low if found.difference > 0 else found.high - found.difference
    if found.difference == 0 or not math.isfinite(towards_0):
        return None
    needed = found.n_groups * (towards_0 / found.difference) ** 2
    return max(1, math.floor(needed) + 1 - found.n_groups)


def bounds(found: PairedDifference) -> str:
    """The size of a decided difference as people read it, its sign being in the words: "0.050 [0.010, 0.090]"."""
    low, high = sorted((abs(found.low), abs(found.high)))
    return f"{abs(found.difference):.3f} [{low:.3f}, {high:.3f}]"


def undecided(found: PairedDifference, unit: str | None = None) -> str:
    """An undecided difference, and what would decide it; ``unit``: what one group is called."""
    shown = f"{found.difference:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
    more = groups_to_decide(found)
    unit = unit or ("sample" if found.n == found.n_groups else "group")
    if more is None:
        return f"{shown}: no difference that more {unit}s could decide"
    if more > _IN_REACH * found.n_groups:
        return f"{shown}: more than {_IN_REACH} times as many {unit}s would be needed to decide so small a difference"
    return f"{shown}: about {counted(more, f'more {unit}')} would decide a difference of this size"


def sentence(scores: Iterable[Score]) -> str:
    """What the primary scores of the encoder asked about say of it, beside chance, its controls and other encoders.

    Whatever is decided against it is told, of every protocol: below chance, and everything that beats it. Only where
    nothing is does the first protocol's score say what is not decided, and then what it is better than.
    """
    asked = [s for s in scores if s.encoder == "encoder" and s.primary]
    if not asked:
        return ""
    tests = [_Test(score, named=len(asked) > 1) for score in asked]
    first = tests[0]
    lost = [part for kind in (_Test.below, _Test.worse) for test in tests for part in kind(test)]
    found = [*lost, *first.at_chance()] if lost else [*first.at_chance(), *first.open(), *first.better()]
    text = "; ".join(found or first.above())
    about = "" if first.by else f" ({_measured(asked[0])})"
    return f"{text[0].upper()}{text[1:]}{about}." if text else ""


def _measured(score: Score) -> str:
    n = f"n = {score.n}" + (f" in {counted(score.n_groups, 'group')}" if score.n_groups != score.n else "")
    chance = "" if math.isnan(score.chance) else f", chance {score.chance:.3f}"
    return f"{score.protocol} {score.metric} {score.value:.3f}{chance}, {n}"


class _Test:
    """One primary score, in parts of a sentence."""

    def __init__(self, score: Score, *, named: bool) -> None:
        self.score = score
        self.by = f"{score.protocol} {score.metric}: " if named else ""

    def below(self) -> list[str]:
        s = self.score
        if s.interval is None or s.above_chance or s.mark != "bad" or s.versus_chance == "undecided":
            return []
        shown = f"{s.value:.3f} [{s.interval.low:.3f}, {s.interval.high:.3f}] where chance is {s.chance:.3f}"
        return [f"{self.by}{'below' if s.higher_is_better else 'worse than'} chance: {shown}"]

    def worse(self) -> list[str]:
        return self._compared("worse")

    def better(self) -> list[str]:
        return self._compared("better")

    def at_chance(self) -> list[str]:
        s = self.score
        if s.interval is None:
            return [f"{self.by}not decided: too few groups for an interval"]
        return [f"{self.by}not decided: no different from chance"] * (s.versus_chance == "undecided")

    def open(self) -> list[str]:
        found = [
            f"against {self._who(name)} {undecided(self.score.differences[name])}" for name in self._names("undecided")
        ]
        return [f"{self.by}not decided {'; '.join(found)}"] if found else []

    def above(self) -> list[str]:
        return [f"{self.by}{'above' if self.score.higher_is_better else 'better than'} chance"] * bool(
            self.score.above_chance
        )

    def _compared(self, word: str) -> list[str]:
        found = [f"{self._who(name)} by {bounds(self.score.differences[name])}" for name in self._names(word)]
        return [f"{self.by}{word} than {' and than '.join(found)}"] if found else []

    def _names(self, word: str) -> list[str]:
        """What the score compares so with: other encoders first, as they are what one could take instead."""
        s = self.score
        return sorted((name for name in s.differences if s.word(name) == word), key=lambda name: name in BASELINES)

    def _who(self, name: str) -> str:
        return name if name in BASELINES or self.score.protocol == "finetune" else f"{name} frozen"

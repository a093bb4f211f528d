"""The Background Challenge: one head, tested on pictures whose backgrounds were kept, removed or swapped.

Xiao et al. 2021, arXiv 2006.09994; docs/methods/evaluation.md, Background Challenge. ``unreel data prepare imagenet9``
writes the manifest; ``data.synthetic.backgrounds`` makes one of the built-in world.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from unreel.core.errors import DataError, UsageError, unknown_name
from unreel.data.choice import choose_column
from unreel.data.columns import Columns
from unreel.data.manifest import Manifest, Source
from unreel.protocols.clips import source_names
from unreel.protocols.protocol import encode
from unreel.tasks.classification import LabelTask, blind_accuracy
from unreel.tasks.task import TASKS, Metric, Outcomes, Resampled, source_name

DIRECTIONS: dict[str, bool | None] = {
    "original": True,
    "mixed_same": True,
    "mixed_rand": True,
    "mixed_next": True,
    "only_fg": True,
    "no_fg": None,
    "only_bg_b": False,
    "only_bg_t": False,
}
"""Whether higher is better. ``no_fg`` keeps the object's outline, so it has no direction.

Source: docs/methods/evaluation.md, Background Challenge.
"""
GAP = ("mixed_same", "mixed_rand")
"""The BG-gap, what a background of another class costs, is the accuracy on the first minus that on the second."""


class VariantTask(LabelTask):
    """A label task whose test part comes in variants; the head is fitted on one of them.

    The metric called like the protocol's own ("accuracy") is that of ``main``; "accuracy.<variant>" are the others'.
    Intervals resample whole groups with all their variants, so that differences between variants are paired.

    Args:
        data: a manifest with the column ``label.<variant>``, or what makes one.
        variant: that column.
        train_variant: the variant that the head is fitted and chosen on.
        main: the variant quoted first; ``None`` is ``train_variant``.
        label, group, train, validation, test, splits, test_fraction, seed: as in ``LabelTask``.
    Raises: UsageError for an unknown variant; DataError where the data has no such column, and as ``LabelTask``.
    """

    def __init__(
        self,
        data: Source,
        *,
        variant: str = "variant",
        train_variant: str = "original",
        main: str | None = None,
        label: str | None = None,
        group: str | None = None,
        train: str = "train",
        validation: str = "val",
        test: str = "test",
        splits: Sequence[str] | None = None,
        test_fraction: float = 0.3,
        seed: int = 0,
    ) -> None:
        manifest = Manifest.open(data, columns=Columns(label=label, group=group))
        if variant not in manifest.label_names:
            raise DataError(
                f"the data has no column label.{variant}, which tells variants of a picture apart; "
                "`unreel data prepare imagenet9` writes one"
            )
        others = [name for name in manifest.label_names if name != variant]
        super().__init__(
            manifest,
            label=choose_column("label", manifest.columns.label or None, others, required=True),
            train=train,
            validation=validation,
            test=test,
            splits=splits,
            test_fraction=test_fraction,
            seed=seed,
        )
        self.source = source_name(data)
        self.variants = np.array(manifest.labels(variant))
        known = sorted({v for v, role in zip(self.variants.tolist(), self.roles.tolist(), strict=True) if role})
        self.main = train_variant if main is None else main
        for name in (train_variant, self.main):
            if name not in known:
                raise unknown_name("variant", name, known)
        elsewhere = (self.roles != "test") & (self.roles != "") & (self.variants != train_variant)
        without = (self.variants == "") & (self.roles != "")
        self.roles = np.where(elsewhere | without, "", self.roles)
        for role in ("train", "test"):
            if not (self.roles == role).any():
                raise DataError(f"no source of variant {train_variant!r} is in the {role} part")
        tested = Counter(self.variants[self.roles == "test"].tolist())
        if self.main not in tested:
            raise UsageError(f"variant {self.main!r} is not in the test part; there are {', '.join(sorted(tested))}")
        #: The variants of the test part: the one quoted first, then in the order of the challenge, then by name.
        order = [self.main, *DIRECTIONS, *sorted(tested)]
        self.tested = tuple(name for name in dict.fromkeys(order) if name in tested)
        sizes = ", ".join(f"{name} {tested[name]}" for name in self.tested)
        notes = [f"fitted on {train_variant}, tested on {sizes}"]
        if elsewhere.any():
            notes.append(f"{int(elsewhere.sum())} training sources of other variants are left out")
        if not self.group:
            notes.append("no group says which variants are of one picture: differences between variants are not paired")
        self.notes = (*self.notes, *notes)

    @cached_property
    def _row_of(self) -> dict[str, int]:
        """Where in the data a test sample is, by its name."""
        assert isinstance(self.data, Manifest)
        return dict(zip(source_names(self.data.subset(self.used)), self.used, strict=True))

    def is_of(self, variant: str) -> NDArray[np.bool_]:
        """Which sources of the data are of a variant."""
        return np.asarray(self.variants == variant)

    def direction(self, variant: str) -> bool | None:
        """Whether higher is better for a variant; None: neither."""
        return DIRECTIONS.get(variant)

    def differences(self) -> Mapping[str, tuple[str, str]]:
        """Metrics that are the difference of two variants, lower being better: name → (first, second)."""
        return {}

    def metrics(self, outcomes: Outcomes) -> tuple[Metric, ...]:
        """The protocol's primary metric by variant, that of ``main`` first, then the differences."""
        own = outcomes.primary
        by_variant = [
            Metric(own if name == self.main else f"{own}.{name}", self.direction(name), partial(self._of, variant=name))
            for name in self.tested
        ]
        gaps = [Metric(n, False, partial(self._difference, pair=pair)) for n, pair in self.differences().items()]
        return (*by_variant, *gaps)

    def _rows(self, outcomes: Outcomes, variant: str) -> NDArray[np.bool_]:
        if outcomes.truth.ids is None:
            raise UsageError("variants need the names of the test samples: give Truth(ids=…)")
        own = self.is_of(variant)
        return np.array([name in self._row_of and own[self._row_of[name]] for name in map(str, outcomes.truth.ids)])

    def _of(self, outcomes: Outcomes, variant: str) -> Resampled:
        """The mean over the samples of one variant. A resample without any, where variants are not paired, gives the
        mean over all of them."""
        values, rows = outcomes.values[outcomes.primary], self._rows(outcomes, variant)
        if not rows.any():
            raise DataError(f"no test source of variant {variant!r} could be read")
        whole = float(values[rows].mean())
        counted = np.where(rows, values, 0.0)

        def statistic(index: NDArray[np.int64]) -> float:
            number = int(rows[index].sum())
            return float(counted[index].sum()) / number if number else whole

        return Resampled(statistic, _chance(outcomes, rows))

    def _difference(self, outcomes: Outcomes, pair: tuple[str, str]) -> Resampled:
        a, b = (self._of(outcomes, variant).statistic for variant in pair)
        return Resampled(lambda index: a(index) - b(index), 0.0)


def _chance(outcomes: Outcomes, rows: NDArray[np.bool_]) -> float:
    """The rule of classifiers on some of the samples; for other protocols their chance on all."""
    if outcomes.predictions.kind != "classes" or outcomes.primary != "accuracy":
        return float(outcomes.chance[outcomes.primary])
    return blind_accuracy(outcomes.card, encode(outcomes.truth.labels[rows], outcomes.predictions.classes))


@TASKS.register("background")
class BackgroundTask(VariantTask):
    """The Background Challenge: how far does a head look at the background?

    Source: docs/methods/evaluation.md, Background Challenge.

    Fitted on ``original``, tested on every variant that the test part has: ``original``, ``mixed_same``,
    ``mixed_rand``, ``mixed_next``, ``only_fg``, ``no_fg``, ``only_bg_b``, ``only_bg_t``. "bg_gap" is the accuracy on
    mixed_same minus that on mixed_rand, lower being better, its interval over pictures. With profile ``paper-occon``
    it is the paper's. Arguments and errors as ``VariantTask``.
    """

    def differences(self) -> Mapping[str, tuple[str, str]]:
        """The BG-gap, where both of its variants are tested."""
        return {"bg_gap": GAP} if all(name in self.tested for name in GAP) else {}

"""The first sentence: decided losses before all, never praise beside them, and what would decide the rest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.tasks.test_scores import difference, score
from unreel.stats.intervals import PairedDifference, paired_bootstrap
from unreel.tasks.answer import groups_to_decide, sentence, undecided
from unreel.tasks.scores import Score


def compared(found: Score, **differences: tuple[float, float]) -> Score:
    named = {name.replace("_", "-"): difference(*bounds) for name, bounds in differences.items()}
    return replace(found, differences=named, references=dict.fromkeys(named, 0.5))


GOOD, AT_CHANCE, BELOW = score(0.6, 0.8), score(0.4, 0.6), score(0.2, 0.4)


@pytest.mark.parametrize(
    ("found", "start", "absent"),
    [
        (
            compared(GOOD, other=(0.01, 0.09), first_weights=(0.1, 0.3)),
            "Better than other frozen by 0.050 [0.010, 0.090] and than first-weights by 0.200 [0.100, 0.300] (knn",
            ("orse", "ecided"),
        ),
        (
            compared(GOOD, other=(-0.09, -0.01), first_weights=(0.1, 0.3)),
            "Worse than other frozen by 0.050 [0.010, 0.090] (knn",
            ("etter", "first-weights"),
        ),
        (
            compared(GOOD, frame_statistics=(-0.3, -0.1), first_weights=(-0.2, -0.1), other=(0.1, 0.2)),
            "Worse than frame-statistics by 0.200 [0.100, 0.300] and than first-weights by 0.150 [0.100, 0.200] (knn",
            ("etter", "other"),
        ),
        (
            compared(GOOD, other=(-0.01, 0.05), first_weights=(0.1, 0.3)),
            "Not decided against other frozen +0.020 [-0.010, +0.050]: about 76 more samples would decide a difference "
            "of this size; better than first-weights by 0.200 [0.100, 0.300] (knn",
            ("orse",),
        ),
        (
            compared(BELOW, first_weights=(0.1, 0.3)),
            "Below chance: 0.300 [0.200, 0.400] where chance is 0.500 (knn accuracy 0.300, chance 0.500, n = 60).",
            ("etter",),
        ),
        (compared(AT_CHANCE, other=(-0.2, -0.1)), "Worse than other frozen by 0.150 [0.100, 0.200]; not", ("etter",)),
        (compared(AT_CHANCE), "Not decided: no different from chance (knn", ("etter", "bove")),
        (compared(GOOD), "Above chance (knn", ("etter",)),
        (replace(GOOD, interval=None), "Not decided: too few groups for an interval (knn", ("bove",)),
        (
            replace(compared(score(0.1, 0.2, higher_is_better=False), other=(-0.09, -0.01)), chance=0.5),
            "Better than other frozen by 0.050 [0.010, 0.090]",
            ("orse",),
        ),
        (score(0.6, 0.8, higher_is_better=False), "Worse than chance: 0.700", ("elow",)),
    ],
)
def test_one_sentence(found: Score, start: str, absent: tuple[str, ...]) -> None:
    said = sentence([found])
    assert said.startswith(start)
    assert said.endswith(").")
    assert not [word for word in absent if word in said]


def test_a_loss_of_any_protocol_comes_before_praise_of_the_first() -> None:
    first = compared(GOOD, first_weights=(0.1, 0.3))
    second = replace(compared(GOOD, first_weights=(-0.3, -0.1)), protocol="linear")
    assert sentence([first, second]) == "Linear accuracy: worse than first-weights by 0.200 [0.100, 0.300]."
    won = replace(second, differences=first.differences)
    assert sentence([first, won]) == "Knn accuracy: better than first-weights by 0.200 [0.100, 0.300]."
    assert sentence([replace(first, encoder="other"), replace(first, primary=False)]) == ""


def test_trained_encoders_are_not_called_frozen() -> None:
    found = replace(compared(GOOD, other=(0.1, 0.2)), protocol="finetune")
    assert sentence([found]).startswith("Better than other by 0.150")


@pytest.mark.parametrize("mean", [0.12, -0.12])
def test_so_many_more_groups_decide_a_difference_of_this_size(mean: float) -> None:
    """Against drawn samples: with that many groups the bound is near 0, with half or twice as many it is not."""

    def found(n: int) -> PairedDifference:
        values = np.random.default_rng(5).normal(0, 1, n)
        values = values - values.mean() + mean
        return paired_bootstrap(values, np.zeros(n), seed=0, num_resamples=4000)

    more = groups_to_decide(found(60))
    assert more is not None
    assert more > 60

    def bound(n: int) -> float:  # on the side of 0, as a share of the difference
        d = found(n)
        return (d.low if mean > 0 else -d.high) / abs(mean)

    assert abs(bound(60 + more)) < 0.2
    assert bound(60 + more // 3) < -0.2
    assert bound(3 * (60 + more)) > 0.2


def test_what_no_number_of_groups_decides() -> None:
    assert groups_to_decide(difference(0.1, 0.2)) == 0
    assert groups_to_decide(difference(-0.2, -0.1)) == 0
    assert groups_to_decide(difference(-0.1, 0.1)) is None
    assert groups_to_decide(difference(0.0, 0.1)) == 1
    assert "no difference that more samples could decide" in undecided(difference(-0.1, 0.1))
    assert "more than 20 times as many samples" in undecided(difference(-0.1, 0.102))
    grouped = replace(difference(-0.1, 0.3), n=600)
    assert "about 181 more groups would decide" in undecided(grouped)

"""What a score is said to decide: above, below or neither, against chance and against controls."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from unreel.stats.intervals import Interval, PairedDifference
from unreel.tasks.scores import Report, Score

CAUSES = "a label that follows the split or the group, swapped labels, or groups so few and small"


def score(low: float, high: float, *, chance: float = 0.5, higher_is_better: bool | None = True) -> Score:
    return Score(
        *("encoder", "knn", "accuracy", (low + high) / 2, 60, 60, 30, chance, Interval(low, high, 0.95)),
        higher_is_better=higher_is_better,
        primary=True,
    )


def difference(low: float, high: float) -> PairedDifference:
    return PairedDifference((low + high) / 2, low, high, 0.01, 60, 60)


@pytest.mark.parametrize(
    ("found", "side", "above", "mark", "words"),
    [
        (score(0.223, 0.454), "below", False, "bad", "BELOW chance (0.500)"),
        (score(0.6, 0.8), "above", True, "good", "above chance"),
        (score(0.4, 0.6), "undecided", False, "open", "not distinguishable from chance (0.500)"),
        # An interval that touches chance decides nothing, nor does a rounding error.
        (score(0.5, 0.7), "undecided", False, "open", "not distinguishable from chance"),
        (score(0.3, 0.5), "undecided", False, "open", "not distinguishable from chance"),
        (score(0.1 + 0.2, 0.7, chance=0.3), "undecided", False, "open", "not distinguishable from chance"),
        (score(0.1, 0.7 - 0.6, chance=0.1), "undecided", False, "open", "not distinguishable from chance"),
        # Chance at the edge.
        (score(0.8, 0.9, chance=1.0), "below", False, "bad", "BELOW chance (1.000)"),
        (score(0.9, 1.0, chance=1.0), "undecided", False, "open", "not distinguishable"),
        (score(0.0, 0.1, chance=0.0), "undecided", False, "open", "not distinguishable"),
        (score(0.1, 0.2, chance=0.0), "above", True, "good", "above chance"),
        # Where lower is better, above chance is the bad side, and where neither is, it is a fact without a mark.
        (score(0.6, 0.8, higher_is_better=False), "above", False, "bad", "WORSE than chance (0.500; lower is better)"),
        (score(0.1, 0.2, higher_is_better=False), "below", True, "good", "better than chance (0.500; lower is better)"),
        (score(0.6, 0.8, higher_is_better=None), "above", None, "open", "above chance"),
        (score(0.1, 0.2, higher_is_better=None), "below", None, "open", "BELOW chance (0.500)"),
        (score(0.1, 0.2, chance=float("nan")), "undecided", False, "open", "its chance is not known"),
    ],
)
def test_a_side_is_said_with_its_mark(found: Score, side: str, above: bool | None, mark: str, words: str) -> None:
    assert (found.versus_chance, found.above_chance, found.mark) == (side, above, mark)
    sentence = found.verdict.split("): ", 1)[1]
    assert sentence.startswith(words)
    assert (CAUSES in sentence) == (mark == "bad")


def test_without_an_interval_nothing_is_decided() -> None:
    found = replace(score(0.1, 0.2), interval=None, n_groups=1)
    assert (found.versus_chance, found.above_chance, found.mark) == (None, None, "open")
    assert found.verdict.endswith("(n = 60 in 1 group): too few groups for an interval; this decides nothing")


@pytest.mark.parametrize(
    ("low", "high", "better", "mark", "words"),
    [
        (0.1, 0.3, True, "good", "better than CONTROL by 0.200"),
        (-0.3, -0.1, True, "bad", "WORSE than CONTROL by 0.200"),
        (0.1, 0.3, False, "bad", "WORSE than CONTROL by 0.200"),
        (-0.3, -0.1, False, "good", "better than CONTROL by 0.200"),
        (0.1, 0.3, None, "open", "higher than CONTROL by 0.200"),
        (-0.3, -0.1, None, "open", "lower than CONTROL by 0.200"),
        (-0.1, 0.3, True, "open", "difference to CONTROL undecided (+0.100 [-0.100, +0.300])"),
        (0.0, 0.3, True, "open", "difference to CONTROL undecided"),
        (-0.3, 0.0, True, "open", "difference to CONTROL undecided"),
        (0.0, 0.0, True, "open", "no different from CONTROL in any resample"),
    ],
)
@pytest.mark.parametrize("control", ["random-init", "frame-statistics", "another"])
def test_every_control_is_spoken_of(
    control: str, low: float, high: float, better: bool | None, mark: str, words: str
) -> None:
    good_side = (0.1, 0.2) if better is False else (0.6, 0.8)
    found = replace(score(*good_side, higher_is_better=better), differences={control: difference(low, high)})
    assert words.replace("CONTROL", control) in found.verdict
    # Another encoder may well be the better one: that is no fault of this one.
    wanted = {"frame-statistics": {"open": "good"}, "another": {"open": "good", "bad": "good"}}.get(control, {})
    assert found.mark == ("open" if better is None else wanted.get(mark, mark))


def test_below_chance_outweighs_a_good_difference() -> None:
    found = replace(score(0.223, 0.454), differences={"random-init": difference(0.1, 0.3)})
    assert found.mark == "bad"
    assert replace(score(0.4, 0.6), differences={"random-init": difference(0.1, 0.3)}).mark == "open"


def test_json_says_the_side_too(tmp_path: Path) -> None:
    report = Report((score(0.223, 0.454), score(0.4, 0.6), replace(score(0, 1), interval=None)), {}, {})
    plain = json.loads(report.to_json(tmp_path).read_text())
    assert [s["versus_chance"] for s in plain["scores"]] == ["below", "undecided", None]
    assert "BELOW chance (0.500)" in plain["verdicts"][0]
    assert "BELOW chance (0.500)" in report.text()
    assert Report.from_dict(plain) == report

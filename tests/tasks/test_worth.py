"""Is it worth it? The sentence never praises what is beaten, and rows are compared on the same samples."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.tasks.test_evaluate import Oracle, world
from unreel.data.sampling import ClipPlan
from unreel.protocols import Compute, LinearProbe
from unreel.stats.intervals import Interval, PairedDifference
from unreel.tasks import LabelTask
from unreel.tasks.evaluate import Asked, ask
from unreel.tasks.records import Resampling
from unreel.tasks.worth import Row, compare, worth_sentence

PLAN = ClipPlan(num_frames=2, stride=1, num_clips=1, num_crops=1, size_px=8, short_side_px=8)


def rows(trained: tuple[float, float] = (0.6, 0.8), **differences: tuple[float, float]) -> list[Row]:
    """The trained net between these bounds, and its differences to others, all of 40 groups."""
    found = {
        name.replace("_", "-"): PairedDifference((low + high) / 2, low, high, 0.1, 80, 40)
        for name, (low, high) in differences.items()
    }
    mine = Row("trained", "", sum(trained) / 2, (0.7,), 0.5, Interval(*trained, 0.95), found, minutes=6.0, steps=40)
    others = [
        Row(name, "", mine.value - d.difference, (0.6,), 0.5, mine.interval, steps=9 * (name == "scratch"))
        for name, d in found.items()
    ]
    return [mine, *others]


@pytest.mark.parametrize(
    ("found", "start", "end"),
    [
        (
            rows(frozen=(0.01, 0.09), scratch=(0.1, 0.2), frame_statistics=(0.0, 0.1)),
            "Yes: training net further on your 80 videos is better than the same net frozen by 0.050 [0.010, 0.090] (",
            "6.0 minutes of training).",
        ),
        (
            rows(frozen=(-0.09, -0.01), scratch=(0.1, 0.2)),
            "No: training net further on your 80 videos is worse than the same net frozen by 0.050 [0.010, 0.090] (",
            "take the net as it is, which costs no training.",
        ),
        (
            rows(frozen=(0.01, 0.09), frame_statistics=(-0.3, -0.1)),
            "No: net trained on your 80 videos is beaten by frame-statistics by 0.200 [0.100, 0.300] (",
            "plain statistics of the pixels do as well, and need no net.",
        ),
        (
            rows(frozen=(-0.01, 0.05), first_weights=(0.1, 0.2)),
            "Not decided: training net further on your 80 videos against the same net frozen is +0.020 "
            "[-0.010, +0.050]: about 51 more patients would decide a difference of this size (",
            "until then take the net as it is, which costs no training.",
        ),
        (
            rows(frozen=(0.1, 0.2), frozen_plain=(-0.01, 0.05)),
            "Not decided: training net further on your 80 videos against the same net frozen on plain pixels is +0.020",
            "until then take the net as it is, on plain pixels, which costs no training.",
        ),
        (rows((0.2, 0.4), frozen=(0.01, 0.09)), "No: trained on your 80 videos, net is below chance", "anything else."),
        (rows((0.4, 0.6), frozen=(0.01, 0.09)), "Not decided: trained on your 80 videos, net is no different", ")."),
        (
            rows(first_weights=(0.01, 0.09)),
            "Yes: training net on your 80 videos is better than the same net untrained by 0.050",
            "training).",
        ),
        (
            rows(first_weights=(-0.09, -0.01)),
            "No: training net on your 80 videos is worse than the same net untrained by 0.050",
            "look for weights that were trained on much data before.",
        ),
        ([replace(row, interval=None) for row in rows(frozen=(0.0, 0.1))], "Not decided: there are too few", ")."),
    ],
)
def test_the_sentence(found: list[Row], start: str, end: str) -> None:
    said = worth_sentence(found, metric="balanced_accuracy", encoder="net", videos="80 videos", unit="patient")
    assert said.startswith(start)
    assert said.endswith(end)
    assert ("better" in said) == start.startswith("Yes")


def test_rows_are_compared_on_the_same_samples_of_all_seeds() -> None:
    clips = world(strength=14)
    quiet = Compute(device="cpu", workers=0, progress=False)
    nets = {"encoder": Asked(Oracle(), PLAN), "blind": Asked(Oracle(signal=False), PLAN)}
    tasks = {seed: LabelTask(clips, folds=3, seed=seed) for seed in (0, 1)}
    answers = [ask(task, [LinearProbe(c=0.3)], nets, seed=s, compute=quiet).records for s, task in tasks.items()]
    records = {
        name: [found[key]["linear"] for found in answers] for name, key in (("trained", "encoder"), ("frozen", "blind"))
    }
    found, metric = compare(tasks[0], records, Resampling(num_resamples=400))
    assert metric == "balanced_accuracy"
    trained, frozen = found

    def recall(which: str, groups: list[str]) -> float:
        """Balanced accuracy of both seeds together, of groups with repeats, in a slow loop."""
        right: dict[str, list[bool]] = {}
        for record in records[which]:
            said, truth = record.outcomes.predictions.labels, record.outcomes.truth
            assert truth.groups is not None
            for group in groups:
                for i in np.flatnonzero(truth.groups == group):
                    right.setdefault(str(truth.labels[i]), []).append(bool(said[i] == truth.labels[i]))
        return float(np.mean([np.mean(own) for own in right.values()]))

    every = sorted({*clips.groups})
    assert trained.value == pytest.approx(recall("trained", every))
    d = trained.differences["frozen"]
    assert d.difference == pytest.approx(recall("trained", every) - recall("frozen", every))
    assert d.difference > 0.1
    assert frozen.differences["trained"].difference == pytest.approx(-d.difference)
    assert (d.n, d.n_groups) == (180, 30)
    assert len(trained.by_seed) == 2
    rng = np.random.default_rng(1)
    drawn = [rng.choice(every, len(every)).tolist() for _ in range(400)]
    means = [recall("trained", groups) - recall("frozen", groups) for groups in drawn]
    assert (d.low, d.high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.03)

"""Figures: what they show is what was given; every one follows the page's colours."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from matplotlib.patches import StepPatch

from unreel.core.errors import UsageError
from unreel.data.batch import Batch, View
from unreel.data.sampling import IntervalDistribution
from unreel.report.figures import (
    _limits,
    _smoothed,
    contact_sheet,
    curves,
    interval_figure,
    score_figure,
)
from unreel.stats.intervals import Interval
from unreel.tasks.scores import Report, Score


def _check_svg(svg: str) -> ElementTree.Element:
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg")
    assert root.get("aria-label")
    assert not re.search(r"#0[0-9]0[0-9]0[0-9]\b", svg), "a stand-in colour was left"
    assert "var(--ink)" in svg or "var(--muted)" in svg
    ids = [e.get("id") for e in root.iter() if e.get("id")]
    assert len(ids) == len(set(ids))
    for target in re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', svg):
        assert (target[0] or target[1]) in ids
    return root


def _records(n: int = 100) -> list[dict[str, float | None]]:
    return [
        {
            "step": i,
            "epoch": 0,
            "lr": 0.1,
            "loss": 3.0 / i,
            "contrast_accuracy": 0.5,
            "data_wait": 0.01,
            "s_per_step": 1.0,
        }
        for i in range(1, n + 1)
    ]


def test_one_curve_per_quantity_in_a_fixed_order() -> None:
    records = [*_records(), {"step": 100, "probe.knn": 0.4, "alignment": 0.1, "val_loss": 0.2}]
    drawings = curves(records, chance={"loss": 2.0, "contrast_accuracy": 0.1})
    assert [d.name for d in drawings] == [
        "curve-loss", "curve-val_loss", "curve-contrast_accuracy", "curve-alignment", "curve-probe.knn", "curve-lr",
        "curve-data_wait",
    ]  # fmt: skip
    for drawing in drawings:
        _check_svg(drawing.svg())
    loss, _, accuracy = drawings[:3]
    assert "from 3 at step 1 to 0.03 at step 100; chance is 2" in loss.text
    assert "chance is 10.0 %" in accuracy.text
    assert "chance 2" in "".join(ElementTree.fromstring(loss.svg()).itertext())


def test_curves_with_gaps_or_a_single_record() -> None:
    assert curves([]) == []
    drawings = curves([{"step": 5, "loss": None, "lr": 0.1}, {"step": 9, "loss": 1.0}])
    assert [d.name for d in drawings] == ["curve-loss", "curve-lr"]
    (held,) = curves([{"step": 5, "val_loss": 1.0}])
    assert held.title.startswith("Loss (validation)")
    for count, lines in ((59, 2), (60, 3)):  # from 60 records on a mean stands before what was measured
        (long,) = curves([{"step": i + 1, "loss": float(i % 7)} for i in range(count)])
        assert len(long.figure.axes[0].lines) == lines
    for drawing in drawings:
        _check_svg(drawing.svg())


def test_smoothing_neither_lags_nor_leaves_the_range() -> None:
    line = np.linspace(5, 1, 200)
    np.testing.assert_allclose(_smoothed(line)[10:-10], line[10:-10])
    noisy = np.random.default_rng(0).normal(size=200)
    slow = [noisy[max(0, i - 5) : i + 6].mean() for i in range(200)]
    np.testing.assert_allclose(_smoothed(noisy), slow, atol=1e-12)
    np.testing.assert_allclose(_smoothed(np.full(60, 2.0)), 2.0)


def test_a_spike_at_the_start_does_not_flatten_the_curve() -> None:
    values = np.concatenate([[1000.0], np.linspace(3, 1, 99)])
    assert _limits(values, None, floor=None)[1] < 6
    low, high = _limits(np.ones(5), None, floor=None)
    assert low < 1 < high
    assert _limits(np.ones(5), 3.0, floor=0.0) == (0.0, pytest.approx(3.16))


def _score(encoder: str, protocol: str, value: float, **options: object) -> Score:
    interval = options.pop("interval", Interval(value - 0.1, value + 0.1, 0.95))
    values = {"metric": "accuracy", "n": 50, "n_groups": 50, "n_train": 90, "chance": 0.1, "primary": True}
    return Score(encoder, protocol, value=value, interval=interval, **{**values, **options})  # type: ignore[arg-type]


def test_scores_stand_beside_chance_and_controls() -> None:
    scores = (
        _score("encoder", "linear", 0.6),
        _score("random-init", "linear", 0.3, interval=None),
        _score("encoder", "knn", 0.5),
        _score("encoder", "knn", 0.9, metric="top5", primary=False),
    )
    drawing = score_figure(Report(scores, {}, {}))
    root = _check_svg(drawing.svg())
    words = "".join(root.itertext())
    for word in ("linear · accuracy", "knn · accuracy", "random-init", "95% interval"):
        assert word in words
    assert "top5" not in words
    assert "encoder linear 0.600 (chance 0.100)" in drawing.text
    axes = drawing.figure.axes[0]
    dots = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]  # type: ignore[index]
    assert dots == [0.6, 0.3, 0.5]
    spans = [tuple(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 2]  # type: ignore[arg-type]
    assert spans == [(0.1, 0.1), (0.1, 0.1), pytest.approx((0.5, 0.7)), pytest.approx((0.4, 0.6))]
    with pytest.raises(UsageError):
        score_figure(Report((), {}, {}))


@pytest.mark.parametrize("kind", ["decreasing", "uniform", "increasing", "none", "fixed", "independent", "exponential"])
def test_interval_histogram_follows_the_probabilities(kind: str) -> None:
    """Check of docs/methods/cvrl.md, Sampling: the drawn shares lie within five standard errors of the exact ones."""
    distribution = IntervalDistribution(kind, frames=30)  # type: ignore[arg-type]
    drawing = interval_figure(distribution)
    _check_svg(drawing.svg())
    axes = drawing.figure.axes[0]
    drawn = np.array([bar.get_height() for bar in axes.patches if hasattr(bar, "get_height")][:20])  # type: ignore[attr-defined]
    exact = distribution.pmf(100).numpy().reshape(20, 5).sum(1)
    assert drawn.sum() == pytest.approx(1)
    told = float(drawing.text.split(" %")[0]) / 100
    assert told == pytest.approx(distribution.pmf(100).numpy()[:50].sum(), abs=0.05)
    (line,) = [patch for patch in axes.patches if isinstance(patch, StepPatch)]
    np.testing.assert_allclose(line.get_data().values, exact, atol=1e-12)
    assert np.all(np.abs(drawn - exact) <= 5 * np.sqrt(exact * (1 - exact) / 4000) + 1e-9)


def test_contact_sheet_puts_every_frame_in_its_place() -> None:
    """Pixel values say which video, view and frame they come from."""
    rows, frames = 3, 5
    first = torch.zeros(rows, frames, 4, 6, 3, dtype=torch.uint8)
    second = torch.zeros(rows, 3, frames, 2, 3)
    for r in range(rows):
        for t in range(frames):
            first[r, t] = 10 * r + t
            second[r, :, t] = (210 + 10 * r + t) / 255
    sheet = contact_sheet([first, second], max_videos=2, max_frames=3, gap_px=1, split_px=2)
    assert sheet.shape == (2 * 4 + 1, 3 * 6 + 2 + 2 + 3 * 3 + 2, 3)
    assert sheet.dtype == np.uint8
    for r in range(2):
        for column, t in enumerate((0, 2, 4)):
            y = r * 5
            assert np.all(sheet[y : y + 4, column * 7 : column * 7 + 6] == 10 * r + t)
            x = 22 + column * 4
            assert np.all(sheet[y : y + 2, x : x + 3] == 210 + 10 * r + t)
            assert np.all(sheet[y + 2 : y + 4, x : x + 3] == 255)  # a smaller view is padded with white
    batch = Batch(
        (View(first, torch.zeros(rows, frames)), View(second, torch.zeros(rows, frames))),
        {}, torch.zeros(rows), torch.zeros(rows), torch.zeros(rows),
    )  # fmt: skip
    np.testing.assert_array_equal(contact_sheet(batch), contact_sheet([first, second]))
    np.testing.assert_array_equal(contact_sheet([first, second[:2]]), contact_sheet([first[:2], second[:2]]))
    assert contact_sheet([torch.full((1, 3, 1, 2, 2), 1.5)]).min() == 255  # beyond the range is white, not around


def test_contact_sheet_of_grey_images_and_of_nonsense() -> None:
    grey = torch.rand(2, 1, 1, 8, 8)
    assert contact_sheet([grey]).shape == (18, 8, 3)
    for wrong in ([], [torch.zeros(2, 3, 8, 8)], [torch.zeros(2, 7, 1, 8, 8)]):
        with pytest.raises(UsageError):
            contact_sheet(wrong)

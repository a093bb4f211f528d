from __future__ import annotations

import math
from itertools import pairwise

import pytest

from unreel.core.errors import UsageError
from unreel.train.schedule import Plateau, make_schedule, per_epoch, warmup_cosine

T, W, BASE = 71_488, 1_787, 0.32


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.0),
        (1, 1.787951e-4),
        (893, 0.1596640),
        (1787, 0.3195069),
        (17_872, 0.2731371),
        (35_744, 0.16),
        (T, 0.0),
    ],
)
def test_check_23_worked_values(step: int, expected: float) -> None:
    assert warmup_cosine(step, BASE, T, W) == pytest.approx(expected, rel=5e-7, abs=1e-12)


def test_check_23_peak_is_the_cosine_at_the_end_of_warmup() -> None:
    rates = [warmup_cosine(t, BASE, 1000, 25) for t in range(1001)]
    assert max(rates) == rates[25] < BASE
    assert all(x < y for x, y in pairwise(rates[:26]))
    assert all(x > y for x, y in pairwise(rates[25:]))
    assert warmup_cosine(2000, BASE, 1000, 25) == 0.0


def test_without_warmup_the_first_rate_is_the_base() -> None:
    assert warmup_cosine(0, BASE, 10) == BASE
    assert warmup_cosine(10, BASE, 10, 10) == 0.0


@pytest.mark.parametrize(("step", "total", "warmup"), [(0, 0, 0), (0, 10, 11), (0, 10, -1), (-1, 10, 0)])
def test_nonsense_is_refused(step: int, total: int, warmup: int) -> None:
    with pytest.raises(ValueError, match="step"):
        warmup_cosine(step, BASE, total, warmup)


def test_other_schedules() -> None:
    assert make_schedule("constant", 0.1, 10)(7) == 0.1
    rate = make_schedule("multistep", 1.0, 10, milestones=[3, 5], milestone_factor=0.5)
    assert [rate(t) for t in (0, 2, 3, 5)] == [1.0, 1.0, 0.5, 0.25]


def test_check_C14_cosine_per_epoch() -> None:
    """docs/methods/moco.md, Training: b = 0.03, f = 0.001, E = 800; set at the start of an epoch, f never reached."""
    steps = 7
    rate = make_schedule("cosine", 0.03, 800 * steps, final_lr=0.001, steps_per_epoch=steps)
    assert rate(0) == 0.03
    assert rate(400 * steps) == pytest.approx(0.0155, abs=1e-15)
    assert 0.001 < rate(800 * steps - 1) < 0.001 + 1e-6
    assert rate(800 * steps - 1) == pytest.approx(0.001 + 0.0145 * (1 + math.cos(math.pi * 799 / 800)), abs=1e-15)
    for epoch in (0, 1, 399, 799):
        within = {rate(epoch * steps + i) for i in range(steps)}
        assert len(within) == 1
        assert rate(epoch * steps + steps) < within.pop()


@pytest.mark.parametrize("steps", [10 / 3, 2.5, 1.0, 0.5])
def test_an_epoch_need_not_be_whole_steps(steps: float) -> None:
    shown = [per_epoch(float, steps)(t) for t in range(12)]
    assert all(0 <= t - s < max(1.0, steps) for t, s in enumerate(shown))
    assert len(set(shown)) == len({math.floor(t / steps) for t in range(12)})


def test_a_warm_up_counts_every_step() -> None:
    rate = make_schedule("cosine", 1.0, 100, 15, steps_per_epoch=10)
    each = make_schedule("cosine", 1.0, 100, 15)
    assert [rate(t) for t in range(16)] == [each(t) for t in range(16)]
    assert rate(19) == rate(15) == each(15)
    assert rate(29) == rate(20) == each(20)


def test_only_the_cosine_moves_per_epoch() -> None:
    with pytest.raises(UsageError, match="can move per epoch"):
        make_schedule("constant", 1.0, 10, steps_per_epoch=2)
    with pytest.raises(UsageError, match="steps_per_epoch must be > 0, got 0"):
        per_epoch(float, 0)


def test_the_cosine_may_end_above_zero() -> None:
    assert warmup_cosine(10, BASE, 10, final_lr=0.01) == pytest.approx(0.01)
    assert warmup_cosine(5, BASE, 10, final_lr=0.02) == pytest.approx((BASE + 0.02) / 2)
    assert warmup_cosine(0, BASE, 10, final_lr=0.01) == pytest.approx(BASE)


def test_schedules_by_name() -> None:
    steps = make_schedule("multistep", 1.0, 10, 2, milestones=[4, 6], milestone_factor=0.1)
    assert [steps(t) for t in (0, 1, 2, 4, 6)] == pytest.approx([0.0, 0.5, 1.0, 0.1, 0.01])
    assert make_schedule("cosine", 1.0, 10, final_lr=0.5)(10) == pytest.approx(0.5)
    plateau = make_schedule("plateau", 1.0, 10, 2, plateau_patience=1, min_lr=0.2)
    assert isinstance(plateau, Plateau)
    assert [plateau(t) for t in (0, 1, 2)] == [0.0, 0.5, 1.0]
    for step in range(1, 9):
        plateau.observe(1.0, step)
    assert plateau(9) == 0.2  # never below min_lr
    for options, message in (
        ({"name": "multistep"}, "needs milestones"),
        ({"name": "constant", "milestones": [3]}, "belong to the schedule 'multistep'"),
        ({"name": "constant", "final_lr": 0.1}, "final_lr"),
        ({"name": "plateau", "plateau_factor": 1.0}, "factor"),
    ):
        with pytest.raises(UsageError, match=message):
            make_schedule(**{"base_lr": 1.0, "total_steps": 10, **options})  # type: ignore[arg-type]

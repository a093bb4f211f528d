from __future__ import annotations

from itertools import pairwise

import pytest

from unreel.train.schedule import constant, multistep, warmup_cosine

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
    assert constant(0.1)(7) == 0.1
    rate = multistep(1.0, {3: 0.1, 5: 0.5})
    assert [rate(t) for t in (0, 2, 3, 5)] == pytest.approx([1.0, 1.0, 0.1, 0.05])

"""What records say is wrong with a run: falls are told, noise and plain bad luck are not."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from unreel.train.health import collapsed, findings, spread, watch


def records(values: Sequence[float | None], name: str = "contrast_accuracy") -> list[dict[str, Any]]:
    return [{"step": 10 * (i + 1), "loss": 1.0, name: v} for i, v in enumerate(values)]


RISE = list(np.linspace(0.01, 0.3, 12))
FALL = list(np.linspace(0.3, 0.019, 12))
CHANCE = {"contrast_accuracy": 1 / 257}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([*RISE, *FALL, *[0.019] * 6], True),
        ([*RISE, None, *FALL, *[0.019] * 6], True),  # a record without it
        (RISE, False),
        ([*RISE, *[0.3] * 8, *[0.15] * 8], False),  # lower, not lost
        ([*RISE, *[0.3] * 8, 0.0], False),  # one bad record
        ([0.02, 0.004] * 12, False),  # never clear of chance
        ([0.004] * 24, False),
        ([0.3, 0.01, 0.01], False),  # too few records to say
        ([*[0.9] * 5, *[0.1] * 5], True),
    ],
)
def test_a_fall_is_told_and_noise_is_not(values: list[float | None], told: bool) -> None:
    assert bool(findings(records(values), CHANCE)) == told


def test_what_is_told() -> None:
    (text,) = findings(records([*RISE, *[0.3] * 5, *FALL, *[0.019] * 6]), CHANCE)
    assert re.match(r"contrast accuracy fell from 30 % near step 1[45]0 to 1\.9 % \(chance is 0\.39 %\): ", text)
    assert "unreel evaluate" in text
    (unknown,) = findings(records([*[0.8] * 6, *[0.2] * 6], "accuracy"))
    assert unknown.startswith("accuracy fell from 80 % near step 30 to 20 %: ")
    assert findings(records([*[0.8] * 6, *[0.2] * 6], "probe.accuracy")) == []


@pytest.mark.parametrize(("level", "told"), [(0.5, 0.55), (0.25, 0.35), (1 / 6, 0.3)])
def test_where_chance_is_high_a_fall_to_it_is_told(level: float, told: float) -> None:
    """A coin is right half the time: three times worse than the best is not below it, but as near to it is."""
    chance = {"accuracy": level}
    assert findings(records([*[0.9] * 8, *[told] * 8], "accuracy"), chance)
    assert not findings(records([*[0.9] * 8, *[0.8] * 8], "accuracy"), chance)
    assert not findings(records([*[level + 0.03] * 8, *[level] * 8], "accuracy"), chance)  # it never knew


def test_the_log_is_told_once_and_not_again_when_a_run_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    rows = records([*RISE, *FALL, *[0.019] * 20])
    caplog.set_level(logging.WARNING, logger="unreel")
    look = watch(CHANCE)
    for row in rows:
        look(row)
    (message,) = caplog.messages
    assert "contrast accuracy fell" in message
    first = int(message.split()[1].rstrip(":"))
    assert 120 < first < 320  # while it falls, not at the end
    caplog.clear()
    again = watch(CHANCE, rows)
    again(records([0.019] * 1)[0])
    assert caplog.messages == []
    for row in records([0.5] * 30, "other_accuracy"):
        look(row)
    assert caplog.messages == []


def test_collapse_is_a_share_of_energy_whatever_the_scale() -> None:
    rng = np.random.default_rng(0)
    apart = rng.normal(size=(50, 8)) + 3
    for scale in (1e-6, 1, 1e6):
        assert 0.05 < spread(scale * apart) < 0.2
        assert not collapsed(scale * apart)
        assert collapsed(scale * (3 + 1e-4 * rng.normal(size=(50, 8))))
    assert spread(np.eye(4) - 0.25) == pytest.approx(1)
    assert collapsed(np.zeros((5, 3)))
    assert collapsed(np.ones((2, 3)))
    assert not collapsed(np.ones((1, 3)))  # one sample is like itself

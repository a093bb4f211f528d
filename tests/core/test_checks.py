"""Arguments are checked against their annotations, where these name limits or options."""

from __future__ import annotations

import inspect
import pickle
from dataclasses import dataclass, replace
from typing import Literal

import pytest

from unreel.core.checks import Count, Positive, Share, checked
from unreel.core.errors import UsageError
from unreel.core.settings import defaults, describe


@checked
@dataclass(frozen=True)
class Knobs:
    p: Share = 0.5
    kind: Literal["mean", "max"] = "mean"
    window: tuple[Count, Count] | None = None


class Net:
    @checked
    def __init__(self, width: Count, *, rate: Positive = -1.0) -> None:
        self.width, self.rate = width, rate


class Deeper(Net):
    pass


@checked
def scaled(values: list[float], by: Positive = 1.0, *more: float, **named: float) -> list[float]:
    return [v * by for v in [*values, *more, *named.values()]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Knobs(1.5), "p must be ≤ 1, got 1.5"),
        (lambda: Knobs(p=float("nan")), "p must be"),
        (lambda: Knobs(kind="sum"), "kind must be one of mean, max, got 'sum'"),  # type: ignore[arg-type]
        (lambda: Knobs(window=(2, 0)), r"window\[1\] must be ≥ 1, got 0"),
        (lambda: replace(Knobs(), p=-1), "p must be ≥ 0, got -1"),
        (lambda: Net(0), "width must be ≥ 1, got 0"),
        (lambda: Deeper(2, rate=0), "rate must be > 0, got 0"),
        (lambda: scaled([1.0], 0), "by must be > 0, got 0"),
        (lambda: scaled([1.0], by=-2), "by must be > 0, got -2"),
    ],
)
def test_what_an_annotation_forbids_is_refused_by_name(call: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()  # type: ignore[operator]


def test_arguments_come_through_as_they_are_and_defaults_are_trusted() -> None:
    assert scaled([1.0], 2, 3.0, other=4.0) == [2.0, 6.0, 8.0]
    assert Net(3).rate == -1.0
    window = [1, 2]
    assert Knobs(window=window).window is window  # type: ignore[arg-type]
    assert pickle.loads(pickle.dumps(Knobs(0.25))) == Knobs(0.25)


def test_signatures_and_settings_are_those_of_the_builder() -> None:
    assert list(inspect.signature(Knobs).parameters) == ["p", "kind", "window"]
    assert defaults(Knobs) == {"p": 0.5, "kind": "mean", "window": None}
    assert [(s.name, s.limits) for s in describe(Net)] == [("width", "≥ 1"), ("rate", "> 0")]

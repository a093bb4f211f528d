import io

import pytest

from unreel.core import progress
from unreel.core.progress import Progress, format_seconds


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run(stream: io.StringIO, *, seconds: float, steps: int = 10, wait_s: float | None = None) -> str:
    clock = Clock()
    with Progress("train", steps, unit="steps", stream=stream, clock=clock) as bar:
        for _ in range(steps):
            clock.now += seconds / steps
            bar.advance(wait_s=wait_s)
    return stream.getvalue()


def test_short_work_is_silent() -> None:
    assert run(io.StringIO(), seconds=1.9) == ""
    assert run(Terminal(), seconds=1.9) == ""


def test_plain_lines_come_every_ten_seconds() -> None:
    lines = run(io.StringIO(), seconds=100, steps=100, wait_s=0.25).splitlines()
    assert len(lines) == 10
    assert lines[0] == "train: 10/100 steps · 10 % · 1 steps/s · 1:30 left · data wait 25 %"
    assert lines[-1] == "train: 100/100 steps · 100 % · 1 steps/s · in 1:40 · data wait 25 %"
    assert run(io.StringIO(), seconds=3).splitlines() == ["train: 10/10 steps · 100 % · 3.33 steps/s · in 3 s"]


def test_a_terminal_gets_one_line_rewritten() -> None:
    text = run(Terminal(), seconds=20)
    assert text.count("\n") == 1
    assert text.removesuffix("\x1b[?25h").endswith("\n")
    assert text.count("\r") > 5


def test_slow_steps_are_told_in_seconds_each() -> None:
    assert "20 s/step" in run(io.StringIO(), seconds=200)


def test_resumed_work_does_not_count_in_the_rate() -> None:
    clock = Clock()
    bar = Progress("train", 100, unit="steps", stream=io.StringIO(), clock=clock)
    bar.resume_at(50)
    clock.now += 10
    bar.advance(10)
    assert bar.text() == "train: 60/100 steps · 60 % · 1 steps/s · 40 s left"


def test_callable() -> None:
    bar = Progress("index", stream=io.StringIO())
    bar(3, 7)
    bar(5)
    assert (bar.done, bar.total) == (5, 7)


def test_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_quiet", False)
    progress.set_quiet(True)
    assert progress.is_quiet()
    assert run(io.StringIO(), seconds=100) == ""


@pytest.mark.parametrize(("seconds", "text"), [(4.2, "4 s"), (187, "3:07"), (8109, "2:15:09"), (59.7, "1:00")])
def test_format_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text

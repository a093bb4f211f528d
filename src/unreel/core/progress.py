"""Progress on stderr: a bar on a terminal, a line every ten seconds elsewhere, silence before two seconds.

Every bar shows the rate, the time left, and, where the caller measures it, the share of time spent waiting for data.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

_SHOW_AFTER_S = 2.0
_REFRESH_S = 0.2
_LINE_EVERY_S = 10.0

_quiet = bool(os.environ.get("UNREEL_QUIET"))


def set_quiet(quiet: bool) -> None:
    """Turn all progress off or on again (``--quiet``; the environment variable UNREEL_QUIET starts with it off)."""
    global _quiet
    _quiet = quiet


def is_quiet() -> bool:
    """Whether progress is turned off."""
    return _quiet


def format_seconds(seconds: float) -> str:
    """ "4 s", "3:07", "2:15:09"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _format_rate(rate: float, unit: str) -> str:
    if rate >= 1 or rate == 0:
        return f"{rate:.3g} {unit}/s" if rate < 1000 else f"{rate:,.0f} {unit}/s"
    return f"{1 / rate:.3g} s/{unit.removesuffix('s')}"


class Progress:
    """A count towards a total. A context manager; also callable as ``progress(done, total)``.

    Args:
        label: what is going on ("index").
        total: how many there are, or None if unknown.
        unit: what is counted, in the plural ("videos").
        stream: where to write; stderr by default.
        show_after_s: nothing is written before this many seconds have passed.
        clock: seconds, monotonic (tests pass their own).
    """

    def __init__(
        self,
        label: str,
        total: int | None = None,
        *,
        unit: str = "items",
        stream: TextIO | None = None,
        show_after_s: float = _SHOW_AFTER_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.label = label
        self.total = total
        self.unit = unit
        self.done = 0
        self.waited_s = 0.0
        self._measured_wait = False
        self._note = ""
        self._stream = stream if stream is not None else sys.stderr
        self._terminal = bool(getattr(self._stream, "isatty", lambda: False)()) and os.environ.get("TERM") != "dumb"
        self._clock = clock
        self._start = clock()
        self._start_done = 0
        self._show_after_s = show_after_s
        self._next_write = self._start + (show_after_s if self._terminal else max(show_after_s, _LINE_EVERY_S))
        self._shown = False
        self._written = -1  # the count in the last plain line
        self._bar: Bar | None = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, done: int, total: int | None = None) -> None:
        """Set the count, for producers that report it themselves."""
        if total is not None:
            self.total = total
        self.advance(done - self.done)

    def resume_at(self, done: int) -> None:
        """Start counting at ``done`` (a resumed run); what was done before does not count in the rate."""
        self.done = self._start_done = done

    def advance(self, count: int = 1, *, wait_s: float | None = None, note: str | None = None) -> None:
        """Count on; ``wait_s`` seconds of it were spent waiting for data; ``note`` is shown at the end ("loss 3.2")."""
        self.done += count
        if wait_s is not None:
            self.waited_s += wait_s
            self._measured_wait = True
        if note is not None:
            self._note = note
        now = self._clock()
        if now >= self._next_write and not _quiet:
            self._write()
            self._next_write = now + (_REFRESH_S if self._terminal else _LINE_EVERY_S)

    @property
    def elapsed_s(self) -> float:
        return self._clock() - self._start

    @property
    def wait_share(self) -> float:
        """Share of the time spent waiting for data, in [0, 1]."""
        elapsed = self.elapsed_s
        return min(1.0, self.waited_s / elapsed) if elapsed > 0 else 0.0

    def text(self) -> str:
        """The line as it stands: count, share, rate, time left, data-wait share, note."""
        elapsed = self.elapsed_s
        rate = (self.done - self._start_done) / elapsed if elapsed > 0 else 0.0
        unit = self.unit.removesuffix("s") if (self.total or self.done) == 1 else self.unit
        parts = [f"{self.done:,}/{self.total:,} {unit}" if self.total else f"{self.done:,} {unit}"]
        if self.total:
            parts.append(f"{100 * self.done / self.total:.0f} %")
        if rate > 0:
            parts.append(_format_rate(rate, self.unit))
        if self.total and rate > 0 and self.done < self.total:
            parts.append(f"{format_seconds((self.total - self.done) / rate)} left")
        elif self.total and self.done >= self.total:
            parts.append(f"in {format_seconds(elapsed)}")
        if self._measured_wait:
            parts.append(f"data wait {100 * self.wait_share:.0f} %")
        if self._note:
            parts.append(self._note)
        return f"{self.label}: " + " · ".join(parts)

    def _write(self) -> None:
        self._shown = True
        if self._terminal:
            self._bar = self._bar or _bar(self._stream)
            (task,) = self._bar.task_ids
            self._bar.update(task, completed=self.done, total=self.total, description=self.text(), refresh=True)
        else:
            print(self.text(), file=self._stream, flush=True)
            self._written = self.done

    def close(self) -> None:
        """Write the last state, if anything was shown or enough time has passed."""
        late = self._shown or self.elapsed_s >= self._show_after_s
        if late and self._written != self.done and not _quiet:
            self._write()
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._shown, self._show_after_s = None, False, float("inf")


def _bar(stream: TextIO) -> Bar:
    from rich.console import Console  # here, because most commands end before there is a bar to show
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar
    from rich.table import Column

    line = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True))
    bar = Bar(
        BarColumn(20, table_column=Column(min_width=20)),
        line,
        console=Console(file=stream, force_terminal=True),
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    bar.add_task("")
    bar.start()
    bar.console.show_cursor()  # a process that is killed must not leave a terminal without one
    return bar

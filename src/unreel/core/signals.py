"""Signals that ask a program to stop, as terminals, systems and schedulers send them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# SIGUSR1 and SIGUSR2 are what SLURM and others send some time before a job's end; like SIGHUP (a terminal that closed)
# they end a process that does nothing about them.
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class Interrupted(BaseException):
    """A signal asked to stop; like KeyboardInterrupt it passes every handler of errors, and blocks clean up."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"stopped by {signal.Signals(number).name}")


class StopWish:
    """Turns a signal into a wish that a loop grants when it can; a second signal does what it always does, at once."""

    def __init__(self) -> None:
        self.wished: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopWish:
        self._before = _handle(self._wish, ignored=(signal.SIG_IGN, None))
        return self

    def _wish(self, number: int) -> None:
        self.wished = number
        signal.signal(number, self._before[number])

    def __exit__(self, *_: object) -> None:
        _restore(self._before)

    @property
    def name(self) -> str:
        """The signal's name; empty without a wish."""
        return "" if self.wished is None else signal.Signals(self.wished).name

    def obey(self) -> None:
        """What the signal would have done at once."""
        if self.wished is not None:
            signal.raise_signal(self.wished)


@contextmanager
def interruptible() -> Iterator[None]:
    """Within, signals that would end the process at once raise ``Interrupted`` instead; Ctrl-C is as it was."""

    def interrupt(number: int) -> None:
        raise Interrupted(number)

    before = _handle(interrupt, ignored=(signal.SIG_IGN, None, signal.default_int_handler))
    try:
        yield
    finally:
        _restore(before)


def _handle(handler: Callable[[int], None], *, ignored: tuple[Any, ...]) -> dict[int, Any]:
    """Handle the signals that stop, but for those with an ignored handler; returns the handlers that were there."""
    if threading.current_thread() is not threading.main_thread():  # elsewhere Python allows no handlers
        return {}
    process = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a process forked with this handler ends as it would without
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        handler(number)

    before: dict[int, Any] = {}
    for number in STOPPING:
        if signal.getsignal(number) not in ignored:
            before[number] = signal.signal(number, handle)
    return before


def _restore(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)

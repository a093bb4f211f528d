"""Signals that ask to stop: as a wish, as an error that cleans up, and as they were."""

from __future__ import annotations

import signal

import pytest

from unreel.core.signals import STOPPING, Interrupted, StopWish, interruptible


@pytest.mark.parametrize("number", STOPPING)
def test_a_wish_is_granted_later_and_a_second_signal_at_once(number: signal.Signals) -> None:
    heard: list[int] = []
    before = signal.signal(number, lambda n, _: heard.append(n))
    try:
        with StopWish() as stop:
            assert (stop.wished, stop.name) == (None, "")
            stop.obey()
            signal.raise_signal(number)
            assert (stop.wished, stop.name, heard) == (number, number.name, [])
            signal.raise_signal(number)
            assert heard == [number]
        stop.obey()
        assert heard == [number, number]
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", [n for n in STOPPING if n != signal.SIGINT])
def test_a_signal_that_would_end_the_process_lets_blocks_clean_up(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_DFL)
    cleaned = []

    def work() -> None:
        try:
            signal.raise_signal(number)
        finally:
            cleaned.append(number)

    try:
        with pytest.raises(Interrupted, match=f"stopped by {number.name}") as caught, interruptible():
            work()
        assert caught.value.number == number
        assert cleaned == [number]
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, None])
def test_what_others_decided_stays(handler: object) -> None:
    """nohup ignores SIGHUP; a library may handle a signal outside Python, which Python shows as None."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signal, "getsignal", lambda number: handler)
        changed = []
        patch.setattr(signal, "signal", lambda number, new: changed.append(number))
        with interruptible(), StopWish():
            assert changed == []

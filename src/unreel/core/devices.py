"""Where a command computes, and with how many threads beside its reading processes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from unreel.core.errors import UsageError

# Reading processes of the recipes that a CPU can train.
TRAINING_READERS = 2


def choose_device(name: str | torch.device | None = None) -> torch.device:
    """The device asked for, else this process's CUDA device, else the CPU. Raises UsageError when it is not there."""
    if name is None:
        return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError):  # unknown, not built in, absent, no data
        there = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        there += ["mps"] * torch.backends.mps.is_available()
        raise UsageError(
            f"there is no device {str(name)!r} here; torch sees {', '.join(there)}. Leave it out to take the best"
        ) from None
    return device


def usable_cores() -> int:
    """Cores that this process may use: its own share where a launcher started several on this machine."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        cores = os.cpu_count() or 1
    return max(1, cores // max(1, int(os.environ.get("LOCAL_WORLD_SIZE") or 1)))


def default_workers(device: torch.device) -> int:
    """Reading processes of a command that only encodes: up to 8 beside a GPU, a quarter of the cores beside a CPU.

    On a CPU that is none below four cores, where encoding needs them all, and none where processes are not forked, so
    that a short script needs no ``if __name__ == "__main__":``.
    """
    cores = usable_cores()
    if device.type == "cpu":
        return min(8, cores // 4) if sys.platform.startswith("linux") else 0
    return min(8, max(1, cores - 1))


@contextmanager
def room_for(readers: int) -> Iterator[None]:
    """Compute with no more threads than so many reading processes leave cores, inside; fewer stay fewer.

    With a thread for every core they wait for one another: on two cores a step then takes 1.5 times the processor time.
    Sums end in other last bits with other numbers of threads. So ``readers`` is the usual number for the work at hand,
    never the number that was asked for: any number of workers gives the same bits. Where ``OMP_NUM_THREADS`` says how
    many threads, that many there are.
    """
    before = torch.get_num_threads()
    if not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(max(1, min(before, usable_cores() - readers)))
    try:
        yield
    finally:
        torch.set_num_threads(before)

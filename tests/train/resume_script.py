"""Run in a process of its own by test_trainer: continue a run and write its final state."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch
from toys import Toy, toy_batches

from unreel.train import build_optimizer, fit
from unreel.train.schedule import warmup_cosine

folder, mode = Path(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
torch.manual_seed(int(sys.argv[3]))  # whatever state the process starts with must not matter
method = Toy()
optimizer = build_optimizer(method, lr=0.05)


class Slow(list):  # type: ignore[type-arg]
    """Says when it is in the middle of the run, so that the parent can send a signal."""

    served = 0

    def __iter__(self):  # type: ignore[no-untyped-def]
        for batch in super().__iter__():
            Slow.served += 1
            if mode == "signal" and Slow.served == 5:
                print("ready", flush=True)
                deadline = time.monotonic() + 60
                while signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL and time.monotonic() < deadline:
                    time.sleep(0.01)  # fit's handler gives way to the default once the signal has come
            yield batch


fit(
    method,
    Slow(toy_batches()),
    optimizer,
    total_steps=20,
    schedule=lambda step: warmup_cosine(step, 0.05, 20, 4),
    device="cpu",
    seed=3,
    checkpoint=folder / "checkpoints",
)
torch.save({"method": method.state_dict(), "optimizer": optimizer.state_dict()}, folder / "final.pt")

"""A method small enough to train hundreds of steps in a second, with every kind of state a method can have."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from unreel.core.keys import Key
from unreel.data.batch import Batch, View
from unreel.methods import LossOutput, Method, StepsDone
from unreel.nn.encoder import Encoder, InputSpec, StageInfo


class ToyEncoder(Encoder):
    """Mean colour over time, a convolution with batch norm and dropout: (B, 3, T, H, W) to (B, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.num_features = 4
        self.input_spec = InputSpec(num_frames=2, size_px=4)
        self.stage_info = {"last": StageInfo(4, 1, 1)}
        self.net = nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4), nn.ReLU(), nn.Dropout(0.2))

    def forward_features(self, x: Tensor, names: Any = None) -> dict[str, Tensor]:
        return {"last": self.net(x)}


class ToyViews:
    """uint8 to float; draws nothing."""

    num_views = 1

    def apply(self, batch: Batch) -> Batch:
        views = tuple(
            View(v.data.permute(0, 4, 1, 2, 3).float() / 255, v.times_s, v.params, v.aligned) for v in batch.views
        )
        return Batch(views, batch.targets, batch.sample_id, batch.group, batch.row, batch.faults)


class Memory:
    """A batch operation that mixes in the mean of the batches before, and a keyed number."""

    def __init__(self) -> None:
        self.mean = torch.zeros(3, 1, 1, 1)

    def __call__(self, batch: Batch, key: Key) -> Batch:
        view = batch.views[0]
        clips = view.data + 0.1 * self.mean.to(view.data) + 0.01 * key.uniform()
        self.mean = 0.5 * self.mean + 0.5 * view.data.mean((0, 2, 3, 4))[:, None, None, None].cpu()
        views = (View(clips, view.times_s, view.params, view.aligned),)
        return Batch(views, batch.targets, batch.sample_id, batch.group, batch.row, batch.faults)

    def state_dict(self) -> dict[str, Tensor]:
        return {"mean": self.mean}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.mean = state["mean"].clone()


class Toy(Method):
    """Regress the mean brightness; a moving teacher, a queue, and a log of the hooks."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.encoder = ToyEncoder()
        self.head = nn.Linear(4, 1)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
        self.register_buffer("teacher", torch.zeros(4))
        self.register_buffer("queue", torch.zeros(3))
        self.views = ToyViews()  # type: ignore[assignment]
        self.batch_operations = (Memory(),)
        self.calls: list[str] = []
        self.seen: list[float] = []

    def forward(self, batch: Batch) -> LossOutput:
        clips = batch.views[0].data
        self.seen.append(float(clips.double().mean()))
        found = self.head(self.encoder(self.encoder.prepare(clips))).squeeze(1)
        loss = (found - clips.mean((1, 2, 3, 4)) + 0.01 * self.teacher.sum()).square().mean()
        return LossOutput(loss, {"output": found.detach().mean()})

    def on_step_begin(self, progress: StepsDone) -> None:
        self.calls.append(f"begin {progress.step}")
        self.teacher.lerp_(self.encoder.net[0].weight.detach()[:, 0, 0, 0, 0], 0.1)

    def on_gradients(self) -> None:
        assert any(p.grad is not None for p in self.parameters())
        self.calls.append("gradients")

    def on_step_end(self, progress: StepsDone, applied: bool) -> None:
        self.calls.append(f"end {progress.step} {applied}")
        if applied:
            self.queue.copy_(torch.roll(self.queue, 1))
            self.queue[0] = self.seen[-1]


def toy_batch(step: int, rows: int = 4, *, floating: bool = False) -> Batch:
    generator = torch.Generator().manual_seed(step)
    clips = torch.randint(0, 256, (rows, 2, 4, 4, 3), generator=generator, dtype=torch.uint8)
    ids = torch.arange(rows)
    view = View(clips, torch.zeros(rows, 2))
    batch = Batch((view,), {}, ids, ids, ids)
    return ToyViews().apply(batch) if floating else batch


def toy_batches(count: int = 6, rows: int = 4) -> list[Batch]:
    return [toy_batch(step, rows) for step in range(count)]


class Seekable:
    """A loader with ``iterate``; remembers from where it was asked to start."""

    def __init__(self, count: int = 6) -> None:
        self.batches = toy_batches(count)
        self.steps_per_epoch = count
        self.starts: list[int] = []
        self.quarantine: set[str] = set()

    def extend_quarantine(self, paths: Any) -> None:
        self.quarantine.update(paths)

    def __iter__(self) -> Any:
        return self.iterate(0, self.steps_per_epoch)

    def iterate(self, start_step: int = 0, total_steps: int | None = None) -> Any:
        self.starts.append(start_step)
        for step in range(start_step, total_steps or self.steps_per_epoch):
            yield self.batches[step % len(self.batches)]

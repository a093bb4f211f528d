from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from unreel.methods import create_method
from unreel.nn import create_encoder
from unreel.recipes.build import prepare
from unreel.train import estimate
from unreel.train.backend import Backend
from unreel.train.estimate import activation_bytes, estimate_step, seconds_per_step
from unreel.train.optim import build_optimizer


def test_kept_activations_by_hand() -> None:
    """A linear map keeps its input, a ReLU its output; weights are not activations, shared storage counts once."""
    x = torch.zeros(10, 3, requires_grad=True)
    assert activation_bytes(nn.Linear(3, 5), x) == 10 * 3 * 4
    # The ReLU's output is also the second map's input.
    assert activation_bytes(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)), x) == 10 * (3 + 5) * 4
    meta = nn.Linear(3, 5, device="meta")
    assert activation_bytes(meta, torch.zeros(10, 3, device="meta", requires_grad=True)) == 10 * 3 * 4


def test_a_step_costs_weights_states_and_activations_and_changes_nothing() -> None:
    encoder = create_encoder("r3d_tiny", seed=0)
    method = create_method("cvrl", encoder, seed=0, size=32, clip_frames=4, hidden_dim=16, out_dim=8)
    before = {k: v.clone() for k, v in method.state_dict().items()}
    optimizer = build_optimizer(method, lr=0.1)
    small = estimate_step(method, optimizer, batch_size=2)
    large = estimate_step(method, optimizer, batch_size=4)
    weights = 4 * sum(p.numel() for p in method.parameters())
    assert small.memory_bytes - small.activation_bytes == 3 * weights
    assert large.activation_bytes == 2 * small.activation_bytes
    assert small.seconds > 0
    after = method.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert all(p.grad is None for p in method.parameters())


def test_reading_runs_beside_the_step_as_far_as_workers_and_cores_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    cpu, gpu = torch.device("cpu"), torch.device("cuda")

    def seconds(step: float, read: float, workers: int, device: torch.device = cpu) -> float:
        return seconds_per_step(step, read, samples=10, workers=workers, device=device)

    assert seconds(3.0, 0.5, 0) == 3 + 5  # one after the other
    assert seconds(3.0, 0.1, 2) == 3  # the step is longer, and there are cores for both
    assert seconds(1.0, 0.5, 2) == 2.5  # the workers are what it waits for
    assert seconds(3.0, 1.2, 8) == (3 * 2 + 12) / 4  # more to do than cores
    assert seconds(3.0, 1.2, 8, gpu) == 3
    assert seconds(0.1, 0.5, 2, gpu) == 2.5


def test_training_is_timed_on_copies_and_a_large_batch_is_drawn_from_small_ones(
    tiny_world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"size": 32, "clip_frames": 4, "hidden_dim": 16, "out_dim": 8, "steps": 2, "warmup_epochs": 0, "workers": 0}
    prepared = prepare("cvrl", tiny_world, encoder="r3d_tiny", call={**small, "batch_size": 16})
    before = {name: tensor.clone() for name, tensor in prepared.method.state_dict().items()}
    sizes: list[int] = []
    monkeypatch.setattr(estimate.time, "perf_counter", lambda: sum(sizes))

    def train(method: Any, batches: Any, optimizer: Any, **options: Any) -> None:
        assert method is not prepared.method
        for _, batch in zip(range(3), batches, strict=False):
            sizes.append(2 + 3 * len(batch))  # two seconds, and three for each video

    monkeypatch.setattr(estimate, "fit", train)
    found = estimate.time_training(prepared.method, prepared.optimizer, prepared.loader, Backend("cpu"))
    assert found == 2 + 3 * 16
    monkeypatch.undo()
    assert (estimate.time_training(prepared.method, prepared.optimizer, prepared.loader, Backend("cpu")) or 0) > 0
    assert all(torch.equal(before[name], tensor) for name, tensor in prepared.method.state_dict().items())
    assert not prepared.optimizer.state
    batch, seconds = estimate.read_samples(prepared.loader)
    assert len(batch) == 8
    assert seconds > 0

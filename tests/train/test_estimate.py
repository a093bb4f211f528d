import torch
from torch import nn

from unreel.methods import create_method
from unreel.nn import create_encoder
from unreel.train.estimate import activation_bytes, estimate_step
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

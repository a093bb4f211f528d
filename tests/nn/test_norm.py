from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unreel.core import distributed
from unreel.nn.norm import SyncBatchNorm, synchronise

KINDS = {nn.BatchNorm1d: (6, 3), nn.BatchNorm2d: (6, 3, 2, 2), nn.BatchNorm3d: (6, 3, 2, 2, 2)}


def data(shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator, dtype=torch.float64) * 3 + 5


def train_once(norm: nn.Module, x: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """Output, gradients and buffers after one training step; ``weight`` makes the loss uneven over rows."""
    x = x.clone().requires_grad_()
    out = norm(x)
    (out.square() * weight).sum().backward()
    assert x.grad is not None
    gradients = {f"grad.{n}": p.grad for n, p in norm.named_parameters() if p.grad is not None}
    return {"out": out.detach(), "x": x.grad, **gradients, **{n: b.clone() for n, b in norm.named_buffers()}}


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("affine", [True, False])
def test_one_process_is_plain_batch_norm_to_the_bit(kind: type[nn.Module], affine: bool) -> None:
    x = data(KINDS[kind])
    plain, other = (kind(3, affine=affine).double() for _ in range(2))  # type: ignore[call-arg]
    synced = synchronise(other)
    assert isinstance(synced, SyncBatchNorm)
    one, two = train_once(plain, x, torch.ones_like(x)), train_once(synced, x, torch.ones_like(x))
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.equal(value, two[name]), name
    assert torch.equal(plain.eval()(x), synced.eval()(x))


def test_conversion_keeps_names_parameters_and_mode() -> None:
    net = nn.Sequential(nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4, momentum=0.003), nn.Sequential(nn.BatchNorm1d(4)))
    net[1].eval()
    before = dict(net.named_parameters())
    state = {n: v.clone() for n, v in net.state_dict().items()}
    assert synchronise(net) is net
    assert all(p is before[n] for n, p in net.named_parameters())
    assert net.state_dict().keys() == state.keys()
    assert not net[1].training
    assert net[1].momentum == 0.003
    assert isinstance(net[2][0], SyncBatchNorm)
    converted = net[1]
    assert synchronise(net)[1] is converted  # type: ignore[index]


def half(rank: int, unequal: bool) -> slice:
    cut = 2 if unequal else 3
    return slice(0, cut) if rank == 0 else slice(cut, 6)


def on_ranks(unequal: bool, momentum: float | None) -> dict[str, dict[str, Any]]:
    results = {}
    for kind, shape in KINDS.items():
        rows = half(distributed.rank(), unequal)
        norm = synchronise(kind(3, momentum=momentum).double())  # type: ignore[call-arg]
        result = train_once(norm, data(shape)[rows], uneven(shape)[rows])
        results[kind.__name__] = {n: v.numpy() for n, v in result.items()}
    return results


def uneven(shape: tuple[int, ...]) -> Tensor:
    return torch.arange(1.0, 7.0, dtype=torch.float64).view(-1, *[1] * (len(shape) - 1))


@pytest.mark.ddp
@pytest.mark.parametrize("unequal", [False, True])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_two_processes_normalise_by_the_global_batch(ddp: Any, unequal: bool, momentum: float | None) -> None:
    ranks = ddp.run(on_ranks, unequal, momentum)
    for kind, shape in KINDS.items():
        truth = train_once(kind(3, momentum=momentum).double(), data(shape), uneven(shape))  # type: ignore[call-arg]
        found = [{n: torch.as_tensor(v) for n, v in r[kind.__name__].items()} for r in ranks]
        for name, value in truth.items():
            if name in ("out", "x"):
                both = torch.cat([found[0][name], found[1][name]])
            elif name.startswith("grad."):  # each rank holds its part; DDP adds them
                both = found[0][name] + found[1][name]
            else:
                both = found[0][name]
                assert torch.equal(both, found[1][name]), name
            torch.testing.assert_close(both, value, rtol=1e-12, atol=1e-12, msg=f"{kind.__name__} {name}")


def half_precision() -> tuple[torch.dtype, float]:
    norm = synchronise(nn.BatchNorm3d(3))
    rows = half(distributed.rank(), False)
    x = data(KINDS[nn.BatchNorm3d]).to(torch.bfloat16)[rows].requires_grad_()
    out = norm(x)
    out.sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16
    return out.dtype, float(out.detach().double().mean())


@pytest.mark.ddp
def test_half_inputs_keep_their_type_and_are_summed_in_float32(ddp: Any) -> None:
    results = ddp.run(half_precision)
    assert all(dtype == torch.bfloat16 for dtype, _ in results)
    assert sum(mean for _, mean in results) == pytest.approx(0.0, abs=5e-3)

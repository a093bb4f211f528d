from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unreel.core import distributed
from unreel.core.errors import UsageError
from unreel.nn.norm import SyncBatchNorm, separate_calls, still_statistics, synchronise

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


# -- several calls in one ------------------------------------------------------------------------------------------

# TCGL's fifteen calls: three snippets, each followed by its four frame-sets (docs/methods/tcgl.md, Backbones, "BN
# statistics").
SNIPPETS, FRAME_SETS = (0, 5, 10), (1, 2, 3, 4, 6, 7, 8, 9, 11, 12, 13, 14)
ROWS = 4


class Net(nn.Module):
    """Every kind of norm, one of them used twice, one frozen, one that keeps no statistics."""

    def __init__(self, momentum: float | None) -> None:
        super().__init__()
        self.first = nn.BatchNorm3d(3, momentum=momentum)
        self.twice = nn.BatchNorm2d(3, momentum=momentum)
        self.plain = nn.BatchNorm1d(3, affine=False, momentum=momentum)
        self.frozen = nn.BatchNorm1d(3, momentum=momentum)
        self.bare = nn.BatchNorm1d(3, track_running_stats=False)
        self.out = nn.Linear(3, 3)
        self.relu = nn.ReLU(inplace=True)  # as in every encoder: what a norm gives may be written into

    def train(self, mode: bool = True) -> Net:
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.first(x)).mean(2)
        x = self.twice(self.twice(x).square()).mean((2, 3))
        return self.bare(self.out(self.frozen(self.plain(x).sin())))  # type: ignore[no-any-return]


def net(momentum: float | None = 0.1) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = Net(momentum).double().train()
    for i, p in enumerate(module.parameters()):
        p.data.add_(0.1 * torch.arange(p.numel(), dtype=torch.float64).view_as(p) + 0.01 * i)
    synchronise(module)
    return module


def fifteen(rows: slice = slice(None)) -> tuple[list[Tensor], list[Tensor]]:
    """Inputs of the fifteen calls, each of its own mean and scale and of 4 or 2 frames; weights of their outputs."""
    generator = torch.Generator().manual_seed(0)
    inputs = []
    for call in range(15):
        shape = (ROWS, 3, 4 if call in SNIPPETS else 2, 2, 2)
        inputs.append(torch.randn(shape, generator=generator, dtype=torch.float64)[rows] * (1 + call) + call)
    weights = [torch.randn(ROWS, 3, generator=generator, dtype=torch.float64)[rows] for _ in range(15)]
    return inputs, weights


def results(module: nn.Module, inputs: list[Tensor], outputs: list[Tensor], weights: list[Tensor]) -> dict[str, Tensor]:
    torch.stack([(o * w).sum() for o, w in zip(outputs, weights, strict=True)]).sum().backward()
    found = {f"out{i}": o.detach() for i, o in enumerate(outputs)}
    for i, x in enumerate(inputs):
        assert x.grad is not None
        found[f"x{i}"] = x.grad
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        found[f"grad.{name}"] = parameter.grad
    return found | {name: buffer.clone() for name, buffer in module.named_buffers()}


def one_by_one(module: nn.Module, rounds: int = 1) -> dict[str, Tensor]:
    """The oracle: the calls in their order."""
    inputs, weights = fifteen()
    inputs = [x.requires_grad_() for x in inputs]
    for _ in range(rounds):
        module.zero_grad()
        outputs = [module(x) for x in inputs]
    return results(module, inputs, outputs, weights)


def together(
    module: nn.Module, groups: tuple[tuple[int, ...], ...], rounds: int = 1, rows: slice = slice(None)
) -> dict[str, Tensor]:
    """The same calls, one pass for each group of them."""
    inputs, weights = fifteen(rows)
    inputs = [x.requires_grad_() for x in inputs]
    for _ in range(rounds):
        module.zero_grad()
        outputs: dict[int, Tensor] = {}
        for group in groups:
            with separate_calls(module, group, 15):
                out = module(torch.cat([inputs[call] for call in group]))
            outputs.update(zip(group, out.chunk(len(group)), strict=True))
    return results(module, inputs, [outputs[call] for call in range(15)], weights)


def compare(found: dict[str, Tensor], truth: dict[str, Tensor]) -> None:
    assert found.keys() == truth.keys()
    for name, value in truth.items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-10, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize(
    "groups",
    [
        (SNIPPETS, FRAME_SETS),
        (FRAME_SETS, SNIPPETS),
        ((10, 0, 5), FRAME_SETS[::-1]),
        tuple((call,) for call in range(15)),
    ],
)
def test_calls_together_are_the_calls_one_by_one(groups: tuple[tuple[int, ...], ...], momentum: float | None) -> None:
    """Outputs, every gradient and every buffer, over two rounds; a single round is not enough to see what is kept."""
    truth = one_by_one(net(momentum), rounds=2)
    assert truth["first.num_batches_tracked"] == 30
    assert truth["twice.num_batches_tracked"] == 60
    assert truth["frozen.num_batches_tracked"] == 0
    compare(together(net(momentum), groups, rounds=2), truth)


def test_one_group_may_hold_all_calls_and_a_batch_norm_may_be_the_module() -> None:
    plain, grouped = (nn.BatchNorm1d(3).double() for _ in range(2))
    x = data((6, 3))
    for part in x.chunk(3):
        plain(part)
    with separate_calls(grouped, (0, 1, 2), 3):
        grouped(x)
    for one, two in zip(plain.buffers(), grouped.buffers(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


def test_running_statistics_wait_for_the_whole_round() -> None:
    module = nn.BatchNorm1d(3)
    before = {n: b.clone() for n, b in module.named_buffers()}
    with separate_calls(module, (0, 2), 3):
        module(torch.randn(4, 3))
    assert module.running_mean is not None
    assert torch.equal(module.running_mean, before["running_mean"])
    assert module.num_batches_tracked == 2
    assert set(module.state_dict()) == {"weight", "bias", *before}
    assert set(vars(module)) == set(vars(nn.BatchNorm1d(3)))
    with separate_calls(module, (1,), 3):
        module(torch.randn(4, 3))
    assert not torch.equal(module.running_mean, before["running_mean"])


@pytest.mark.parametrize("momentum", [0.1, None])
def test_still_statistics_normalise_by_the_batch_and_stay(momentum: float | None) -> None:
    module, twin = (nn.Sequential(nn.BatchNorm1d(3, momentum=momentum)) for _ in range(2))
    x, y = torch.randn(8, 3), 5 + torch.randn(8, 3)
    for each in (module, twin):
        each(x)
    before = {n: b.clone() for n, b in module.named_buffers()}
    with still_statistics(module):
        torch.testing.assert_close(module(y), nn.functional.batch_norm(y, None, None, training=True))
        with separate_calls(module, (0, 1), 2):
            module(y)
    assert all(torch.equal(b, before[n]) for n, b in module.named_buffers())
    with pytest.raises(ZeroDivisionError), still_statistics(module):
        _ = 1 / 0
    for each in (module, twin):  # goes on as one that never saw the others
        each(y)
    assert all(torch.equal(a, b) for a, b in zip(module.buffers(), twin.buffers(), strict=True))


def test_evaluation_and_frozen_norms_are_left_alone() -> None:
    module, other = net().eval(), net().eval()
    inputs, _ = fifteen()
    x = torch.cat([inputs[call] for call in SNIPPETS])
    with separate_calls(module, SNIPPETS, 15):
        out = module(x)
        odd = module.first(x[:11])  # no equal parts are asked for here
    assert torch.equal(odd, other.first(x[:11]))
    assert torch.equal(out, other(x))  # ``bare`` too: batch statistics even in evaluation, of all rows
    assert all(torch.equal(a, b) for a, b in zip(module.buffers(), other.buffers(), strict=True))


def test_an_exception_leaves_no_trace_and_a_broken_step_is_forgotten() -> None:
    module = net()
    before = {n: b.clone() for n, b in module.named_buffers()}
    inputs, _ = fifteen()
    with pytest.raises(RuntimeError, match="shape"), separate_calls(module, SNIPPETS, 15):
        module(torch.cat([inputs[call] for call in SNIPPETS])).view(1)  # the forward pass was made in vain
    assert all(torch.equal(before[n], b) for n, b in module.named_buffers())
    assert all("forward" not in vars(m) for m in module.modules())
    with separate_calls(module, SNIPPETS, 15):  # this step gets no further
        module(100 * torch.cat([inputs[call] for call in SNIPPETS]))
    module.zero_grad()
    truth = one_by_one(net())
    found = together(module, (SNIPPETS, FRAME_SETS))
    counters = {n for n in truth if n.endswith("num_batches_tracked")}
    compare(
        {n: v for n, v in found.items() if n not in counters}, {n: v for n, v in truth.items() if n not in counters}
    )


@pytest.mark.parametrize("calls", [(), (0, 0), (0, 15), (-1, 2)])
def test_impossible_calls_are_refused(calls: tuple[int, ...]) -> None:
    with (
        pytest.raises(UsageError, match="distinct numbers of calls between 0 and 14"),
        separate_calls(net(), calls, 15),
    ):
        pass


def test_wrong_uses_of_separate_calls_are_named() -> None:
    module = nn.BatchNorm1d(3)
    with separate_calls(module, (0, 1), 3):
        with pytest.raises(UsageError, match="not 2 equal parts"):
            module(torch.randn(5, 3))
        with pytest.raises(UsageError, match="open on this module"), separate_calls(module, (2,), 3):
            pass
        module(torch.randn(4, 3))
    with pytest.raises(UsageError, match=r"calls \[1\] of 3 were made before"), separate_calls(module, (1, 2), 3):
        module(torch.randn(4, 3))
    with pytest.raises(UsageError, match="synchronise"), separate_calls(nn.SyncBatchNorm(3), (0,), 1):
        pass


def separate_on_ranks(unequal: bool) -> dict[str, Any]:
    # Ranks hold unequal shares of each call's rows, as ranks do at the end of an epoch.
    cut = 1 if unequal else 2
    rows = slice(0, cut) if distributed.rank() == 0 else slice(cut, ROWS)
    found = together(net(), (FRAME_SETS, SNIPPETS), rounds=2, rows=rows)
    module = nn.parallel.DistributedDataParallel(nn.Sequential(net()))
    wrapped = together(module, (FRAME_SETS, SNIPPETS), rows=rows)
    return {"plain": {n: v.numpy() for n, v in found.items()}, "ddp": {n: v.numpy() for n, v in wrapped.items()}}


@pytest.mark.ddp
@pytest.mark.parametrize("unequal", [False, True])
def test_two_processes_separate_calls_of_the_global_batch(ddp: Any, unequal: bool) -> None:
    ranks = ddp.run(separate_on_ranks, unequal)
    truth = one_by_one(net(), rounds=2)
    once = one_by_one(net())
    for kind, expected in (("plain", truth), ("ddp", once)):
        found = [{n.replace("module.0.", ""): torch.as_tensor(v) for n, v in r[kind].items()} for r in ranks]
        joined: dict[str, Tensor] = {}
        for name, value in expected.items():
            one, two = found[0][name], found[1][name]
            if name.startswith(("out", "x")):
                joined[name] = torch.cat([one, two])
            elif name.startswith("grad."):  # each rank's part; DDP has averaged them already
                joined[name] = one + two
                if kind == "ddp":
                    assert torch.equal(one, two), name
            else:
                assert torch.equal(one, two), name
                joined[name] = one
            assert joined[name].shape == value.shape
        # bare (without statistics to keep) is synchronised as well, so that all rows see the same numbers
        compare(joined, expected)

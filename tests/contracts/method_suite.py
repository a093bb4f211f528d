"""What every method must do. Subclass ``MethodSuite`` in the method's own test, or add a case to test_method.py.

A case gives a fresh method (equal weights at every call, small, on the CPU) and a batch whose views have been applied.
"""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from unreel.core.keys import Key
from unreel.data.batch import Aligned, Batch, View, ViewParams
from unreel.data.contracts import Sampler, SupportsViews
from unreel.methods import LossOutput, Method, StepsDone
from unreel.nn.encoder import Encoder


def permuted(batch: Batch, order: Tensor) -> Batch:
    """The same batch with its rows, parameters and aligned data in another order."""
    views = tuple(
        View(
            v.data[order],
            v.times_s[order],
            ViewParams({n: p[order] for n, p in v.params.values.items()}, v.params.shared),
            {n: Aligned(a.kind, a.data[order]) for n, a in v.aligned.items()},
        )
        for v in batch.views
    )
    return replace(
        batch,
        views=views,
        targets={n: t[order] for n, t in batch.targets.items()},
        sample_id=batch.sample_id[order],
        group=batch.group[order],
        row=batch.row[order],
    )


def tensors_of(batch: Batch) -> list[Tensor]:
    return [
        *(v.data for v in batch.views),
        *(p for v in batch.views for p in v.params.values.values()),
        *batch.targets.values(),
        batch.sample_id,
        batch.group,
    ]


def train_steps(method: Method, batch: Batch, steps: range, optimizer: torch.optim.Optimizer) -> None:
    for step in steps:
        torch.manual_seed(Key(0, step).bits())
        method.on_step_begin(StepsDone(step, 10))
        optimizer.zero_grad()
        method(batch).loss.backward()
        method.on_gradients()
        optimizer.step()
        method.on_step_end(StepsDone(step + 1, 10), True)


class MethodSuite:
    """Tests of the contract; a subclass overrides ``make_method`` and ``make_batch``."""

    # Parameters that no gradient reaches on purpose (a teacher is better frozen with requires_grad=False).
    untrained: ClassVar[frozenset[str]] = frozenset()
    # Whether the loss of a batch is the same in every order of its samples.
    order_free: ClassVar[bool] = True

    def make_method(self) -> Method:
        raise NotImplementedError

    def make_batch(self, seed: int = 0) -> Batch:
        raise NotImplementedError

    def seeded(self, method: Method, batch: Batch) -> LossOutput:
        torch.manual_seed(5)
        output: LossOutput = method(batch)
        return output

    def test_has_an_encoder_a_sampler_views_and_hooks(self) -> None:
        method = self.make_method()
        assert isinstance(method, Method)
        assert isinstance(method.encoder, Encoder)
        assert isinstance(method.sampler, Sampler)
        assert isinstance(method.views, SupportsViews)
        assert method.sampler.num_views == method.views.num_views == len(self.make_batch().views)
        method.on_step_begin(StepsDone(0, 10))
        method.on_gradients()
        method.on_step_end(StepsDone(1, 10), False)

    def test_gives_a_scalar_loss_and_detached_scalar_logs(self) -> None:
        output = self.seeded(self.make_method(), self.make_batch())
        assert isinstance(output, LossOutput)
        assert output.loss.shape == ()
        assert output.loss.requires_grad
        assert torch.isfinite(output.loss)
        for name, value in output.logs.items():
            assert value.shape == (), name
            assert not value.requires_grad, name

    def test_is_pure_in_the_batch(self) -> None:
        batch = self.make_batch()
        before = copy.deepcopy(tensors_of(batch))
        self.seeded(self.make_method(), batch).loss.backward()
        assert all(torch.equal(a, b) for a, b in zip(before, tensors_of(batch), strict=True))

    def test_two_calls_give_equal_bits(self) -> None:
        batch = self.make_batch()
        one, two = self.make_method(), self.make_method()
        assert torch.equal(self.seeded(one, batch).loss, self.seeded(two, batch).loss)
        method = self.make_method().eval()  # where batch norms do not move, the same module too
        assert torch.equal(self.seeded(method, batch).loss, self.seeded(method, batch).loss)

    def test_order_of_the_samples_does_not_matter(self) -> None:
        if not self.order_free:
            pytest.skip("this method's loss depends on the order by design")
        batch = self.make_batch()
        order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(3))
        one = self.seeded(self.make_method().double().eval(), double(batch)).loss
        two = self.seeded(self.make_method().double().eval(), double(permuted(batch, order))).loss
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)

    def test_gradient_reaches_every_trainable_parameter(self) -> None:
        method = self.make_method()
        self.seeded(method, self.make_batch()).loss.backward()
        silent = [
            name
            for name, p in method.named_parameters()
            if p.requires_grad and name not in self.untrained and (p.grad is None or not bool(p.grad.abs().sum() > 0))
        ]
        assert not silent

    def test_state_dict_continues_to_the_bit(self) -> None:
        batch = self.make_batch()
        through, first = self.make_method(), self.make_method()
        optimizer = torch.optim.SGD(through.parameters(), lr=0.01, momentum=0.9)
        train_steps(through, batch, range(4), optimizer)
        optimizer = torch.optim.SGD(first.parameters(), lr=0.01, momentum=0.9)
        train_steps(first, batch, range(2), optimizer)
        saved = pickle.loads(pickle.dumps((first.state_dict(), optimizer.state_dict())))
        second = self.make_method()
        for parameter in second.parameters():
            torch.nn.init.zeros_(parameter)
        second.load_state_dict(saved[0])
        optimizer = torch.optim.SGD(second.parameters(), lr=0.01, momentum=0.9)
        optimizer.load_state_dict(saved[1])
        train_steps(second, batch, range(2, 4), optimizer)
        for name, value in through.state_dict().items():
            assert torch.equal(value, second.state_dict()[name]), name

    def test_sampler_and_views_pickle(self) -> None:
        method = self.make_method()
        for part in (method.sampler, method.views):
            assert type(pickle.loads(pickle.dumps(part))) is type(part)


def double(batch: Batch) -> Batch:
    """The batch with float64 clips."""
    return replace(batch, views=tuple(replace(v, data=v.data.double()) for v in batch.views))

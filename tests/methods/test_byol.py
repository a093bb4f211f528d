"""BYOL (docs/methods/byol.md): heads, momentum, mixing."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.methods.siamese_clips import encoded, standard, tiny, views_batch
from unreel.core.errors import UsageError
from unreel.core.keys import Key
from unreel.data.batch import Batch
from unreel.losses import byol_loss
from unreel.methods import StepsDone, create_method
from unreel.nn import create_encoder
from unreel.nn.heads import L2Norm
from unreel.views.batch_ops import CutMix, Mixup


def test_defaults_are_the_published() -> None:
    found = standard("byol")
    wanted = {"momentum": 0.996, "momentum_schedule": "constant", "hidden_dim": 4096, "out_dim": 256}
    assert {name: found[name] for name in wanted} == wanted
    with torch.device("meta"):
        official, paper = (create_method("byol", create_encoder("resnet_18"), variant=v) for v in ("official", "paper"))
    counts = [sum(p.numel() for p in m.parameters()) for m in (official.head, official.predictor, paper.head)]
    norm, out = 2 * 4096, 4096 * 256 + 256
    assert counts == [512 * 4096 + norm + out, 256 * 4096 + norm + out, 512 * 4096 + 4096 + norm + out]


def test_check_C13_projections_have_norm_one_before_the_predictor() -> None:
    method = tiny("byol", variant="official")
    seen: list[Tensor] = []
    method.predictor.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    method(views_batch(2))
    assert len(seen) == 2
    for z in seen:
        torch.testing.assert_close(z.norm(dim=1), torch.ones(4))
    assert isinstance(method.predictor[-1], L2Norm)
    z = encoded(tiny("byol").head, method.encoder, views_batch(2).views[0].data)
    assert float((z.norm(dim=1) - 1).abs().max().detach()) > 0.01
    with pytest.raises(UsageError, match="did you mean 'official'"):
        tiny("byol", variant="offical")


def test_the_momentum_reaches_the_teacher() -> None:
    for schedule, done, expected in (("constant", 5, 0.9), ("cosine", 5, 0.95), ("cosine", 10, 1.0)):
        method = tiny("byol", momentum=0.9, momentum_schedule=schedule)
        nn.init.zeros_(method.encoder.conv1.weight)
        teacher = method.teacher.parts[0].conv1.weight
        before = teacher.clone()
        method.on_step_begin(StepsDone(done, 10))
        torch.testing.assert_close(teacher, expected * before)
    with pytest.raises(UsageError, match="momentum_schedule must be"):
        tiny("byol", momentum_schedule="linear")


def outputs(method: Any, batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
    clips = [method.encoder.prepare(view.data) for view in batch.views]
    return [method.predictor(method.head(method.encoder(x))) for x in clips], [method.teacher(x) for x in clips]


def other_teacher(method: Any) -> Any:
    """Weights of the teacher that are not the student's, so that mixing them up is seen."""
    nn.init.normal_(method.teacher.parts[1][0].weight, generator=torch.Generator().manual_seed(1))
    return method


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_the_loss_is_both_directions(variant: str) -> None:
    method = other_teacher(tiny("byol", variant=variant).eval())
    batch = views_batch(2)
    p, y = outputs(method, batch)
    found = method(batch)
    torch.testing.assert_close(found.loss, byol_loss(p[0], y[1]) + byol_loss(p[1], y[0]))
    torch.testing.assert_close(found.logs["cosine"], -found.loss.detach() / 4)
    assert 0 < float(found.logs["spread"]) < 1


def test_rho_clips_are_all_pairs_at_the_scale_of_two() -> None:
    method = other_teacher(tiny("byol", rho=4).eval())
    batch = views_batch(4)
    p, y = outputs(method, batch)
    losses = [byol_loss(p[i], y[j]) + byol_loss(p[j], y[i]) for i in range(4) for j in range(i)]
    torch.testing.assert_close(method(batch).loss, torch.stack(losses).mean())


@pytest.mark.parametrize("operation", [Mixup(), CutMix(fold=False)])
def test_a_mixed_view_agrees_with_both_of_its_samples_by_their_shares(operation: Any) -> None:
    method = other_teacher(tiny("byol").eval())
    batch = operation(views_batch(2), Key("mix"))
    name = type(operation).__name__.lower()
    weight, partner = batch.targets[f"{name}.weight"].tolist(), batch.targets[f"{name}.partner"].tolist()
    assert partner != [0, 1, 2, 3]
    p, y = outputs(method, batch)
    total = torch.zeros(())
    for row, (share, other) in enumerate(zip(weight, partner, strict=True)):
        for shown, of in ((share, row), (1 - share, other)):  # row of view 0 shows sample `of` by `shown`
            total = total - 2 * shown * torch.cosine_similarity(p[0][row], y[1][of], dim=0)
            total = total - 2 * shown * torch.cosine_similarity(p[1][of], y[0][row], dim=0)
    torch.testing.assert_close(method(batch).loss, total / 4)
    unmixed = method(replace(batch, targets={})).loss
    assert abs(float((unmixed - total / 4).detach())) > 1e-4


def test_no_gradient_through_the_teacher() -> None:
    method = tiny("byol")
    frozen = copy.deepcopy(method.teacher.state_dict())
    method(views_batch(2)).loss.backward()
    assert all(p.grad is None for p in method.teacher.parameters())
    for name, parameter in method.teacher.named_parameters():
        assert torch.equal(parameter, frozen[name])

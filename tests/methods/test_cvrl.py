from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.methods.clips import loader, random_batch, rows_of, tiny_cvrl, video
from unreel.core import distributed
from unreel.core.settings import Layer, defaults, describe
from unreel.data.batch import Batch
from unreel.data.sampling import IntervalDistribution, PairSampler
from unreel.losses import contrastive, nt_xent
from unreel.methods import CVRL, create_method, list_methods
from unreel.nn import create_encoder
from unreel.nn.heads import projection_mlp
from unreel.recipes.schema import resolve
from unreel.train import Checkpoints, build_optimizer, fit
from unreel.train.backend import distribute
from unreel.train.schedule import warmup_cosine
from unreel.views.presets import view_plan


def test_defaults_are_the_papers() -> None:
    with torch.device("meta"):
        method = CVRL(create_encoder("r3d_50"))
    assert sum(p.numel() for p in method.parameters()) == 44_535_744
    assert (method.sampler.clip_frames, method.sampler.stride) == (16, 2)
    assert method.sampler.distribution == IntervalDistribution("decreasing", 1.0)
    assert method.views == view_plan("paper")
    assert method.temperature == 0.1
    assert method.head[1].momentum == 0.003
    spec = method.encoder.input_spec
    assert (spec.num_frames, spec.stride_frames, spec.size_px) == (16, 2, 224)


def test_every_setting_of_a_part_is_a_setting_with_the_parts_default() -> None:
    rest = {"encoder": {"name": "r3d_tiny"}, "train": {"batch_size": 4}}
    settings = resolve([Layer("test", {"method": {"name": "cvrl"}, **rest})])
    for section, builder in (("views", view_plan), ("clips", PairSampler), ("head", projection_mlp)):
        wanted = {name: value for name, value in defaults(builder).items() if name != "num_views"}
        assert settings.to_plain()[section] == wanted
    assert {i.name for i in describe(CVRL)} - CVRL.parts.keys() == {*settings["method"]} - {"name"}
    method = tiny_cvrl(preset="release", blur_p=0.0, flip_p=0.0)
    assert method.views == view_plan("release", size=16, blur_p=0.0, flip_p=0.0)


def test_names_are_checked() -> None:
    encoder = create_encoder("r3d_tiny")
    assert "cvrl" in list_methods()
    with pytest.raises(ValueError, match="did you mean 'cvrl'"):
        create_method("cvlr", encoder)
    with pytest.raises(ValueError, match="no argument 'temprature'; it takes temperature"):
        create_method("cvrl", encoder, temprature=0.2)
    with pytest.raises(TypeError, match="jiter_p"):
        CVRL(encoder, jiter_p=0.1)
    with pytest.raises(ValueError, match="gather must be"):
        CVRL(encoder, gather="all")  # type: ignore[arg-type]


def test_a_seed_decides_the_heads_weights_and_leaves_the_generator() -> None:
    before = torch.get_rng_state()
    encoder = create_encoder("r3d_tiny", seed=0)
    one, two, other = (create_method("cvrl", encoder, seed=s, hidden_dim=8) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    heads = [nn.utils.parameters_to_vector(m.head.parameters()) for m in (one, two, other)]  # type: ignore[union-attr, arg-type]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_both_views_go_through_one_forward_pass() -> None:
    """Batch statistics cover both views: the loss is that of one concatenated pass, not of two passes."""
    method, batch = tiny_cvrl(), random_batch()
    calls = []
    method.encoder.register_forward_pre_hook(lambda module, inputs: calls.append(inputs[0]))
    output = method(batch)
    assert len(calls) == 1
    assert torch.equal(calls[0], torch.cat([v.data for v in batch.views]))
    twin = tiny_cvrl()
    z = twin.head(twin.encoder(torch.cat([v.data for v in batch.views])))
    assert torch.equal(output.loss, nt_xent(z[:4], z[4:]))
    apart = tiny_cvrl()
    parts = [apart.head(apart.encoder(v.data)) for v in batch.views]
    assert abs(float((nt_xent(*parts) - output.loss).detach())) > 1e-4


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"reduction": "sum_of_views"}, {"reduction": "sum_of_views"}),
        ({"temperature": 0.5, "same_view_negatives": False}, {"temperature": 0.5, "same_view_negatives": False}),
        ({"normalize": False, "gather": "local"}, {"normalize": False, "gather": False}),
    ],
)
def test_loss_options_reach_the_loss(options: dict[str, Any], expected: dict[str, Any]) -> None:
    batch = random_batch()
    output, twin = tiny_cvrl(**options)(batch), tiny_cvrl()
    z = twin.head(twin.encoder(torch.cat([v.data for v in batch.views])))
    assert torch.equal(output.loss, nt_xent(z[:4], z[4:], **expected))


def test_grad_scale_multiplies_the_gradient() -> None:
    gradients, losses = [], []
    for scale in (1.0, 4.0):
        method = tiny_cvrl(grad_scale=scale)
        loss = method(random_batch()).loss
        loss.backward()
        gradients.append(method.head[0].weight.grad)
        losses.append(float(loss.detach()))
    torch.testing.assert_close(gradients[1], 4 * gradients[0])
    assert losses[0] == losses[1]  # what is logged stays comparable


def test_head_options_reach_the_head() -> None:
    head = tiny_cvrl(bn_eps=1e-3, bn_momentum=0.2).head
    assert (head[1].eps, head[1].momentum) == (1e-3, 0.2)
    bare = tiny_cvrl(batch_norm=False, bias=False).head
    assert [type(m) for m in bare] == [nn.Linear, nn.ReLU, nn.Linear]
    assert all(m.bias is None for m in bare if isinstance(m, nn.Linear))


# --- two processes ----------------------------------------------------------------------------------------------


def global_batch(step: int = 0) -> Batch:
    return random_batch(8, seed=step, dtype=torch.float64)


def gradients_of(module: nn.Module) -> dict[str, Tensor]:
    return {n.removeprefix("module."): p.grad for n, p in module.named_parameters() if p.grad is not None}


def on_ranks(mutation: str) -> dict[str, Any]:
    """Loss, gradients and buffers after one backward pass of DDP on this rank's half."""
    rank = distributed.rank()
    method = tiny_cvrl().double().train()
    module = distribute(method, torch.device("cpu"), synchronise_norm=mutation != "norm", unused=False)
    saved = contrastive.all_gather_with_grad
    if mutation == "gather":
        contrastive.all_gather_with_grad = lambda x: saved(x).detach()
    try:
        output = module(rows_of(global_batch(), slice(4 * rank, 4 * rank + 4)))
        output.loss.backward()
    finally:
        contrastive.all_gather_with_grad = saved
    return {
        "loss": float(distributed.all_reduce_mean(output.loss.detach())),
        "logs": {n: float(v) for n, v in output.logs.items()},
        "gradients": {n: g.numpy() for n, g in gradients_of(module).items()},
        "buffers": {n: b.numpy() for n, b in method.named_buffers()},
    }


def worst(found: dict[str, Any], truth: dict[str, Tensor]) -> float:
    assert found.keys() == truth.keys()
    return max(float((torch.as_tensor(found[n]) - truth[n]).abs().max()) for n in truth)


@pytest.mark.ddp
def test_check_11_two_processes_give_loss_and_gradients_of_one_with_batch_norm(ddp: Any) -> None:
    method = tiny_cvrl().double().train()
    output = method(global_batch())
    output.loss.backward()
    truth = gradients_of(method)
    size = max(float(g.abs().max()) for g in truth.values())
    ranks, detached, apart = (ddp.run(on_ranks, mutation) for mutation in ("none", "gather", "norm"))
    for rank in ranks:
        assert rank["loss"] == pytest.approx(float(output.loss.detach()), abs=1e-10)
        assert rank["logs"] == pytest.approx({n: float(v) for n, v in output.logs.items()}, abs=1e-10)
        assert worst(rank["gradients"], truth) < 1e-10 * size
        assert worst(rank["buffers"], {n: b.double() for n, b in method.named_buffers()}) < 1e-10
    # The test sees a gather through which no gradient flows (the loss is right, the gradients are not) …
    assert detached[0]["loss"] == pytest.approx(float(output.loss.detach()), abs=1e-10)
    assert worst(detached[0]["gradients"], truth) > 1e-2 * size
    # … and norms that each rank computes by itself.
    assert abs(apart[0]["loss"] - float(output.loss.detach())) > 1e-4
    assert worst(apart[0]["gradients"], truth) > 1e-2 * size


def fit_on_ranks(folder: str, steps: int, accumulate: int = 1) -> dict[str, Any]:
    torch.set_default_dtype(torch.float64)
    try:
        rank, world = distributed.rank(), distributed.world_size()
        count = 8 // world
        method = tiny_cvrl().double()
        batches = [rows_of(global_batch(step), slice(count * rank, count * (rank + 1))) for step in range(4)]
        saver = Checkpoints(folder, every_steps=1) if folder else None
        optimizer = build_optimizer(method, lr=0.05)
        result = fit(
            method,
            batches,
            optimizer,
            total_steps=4,
            device="cpu",
            checkpoint=saver,
            stop_after=steps,
            accumulate=accumulate,
            max_grad_norm=5.0,
        )
        state = {n: v.numpy() for n, v in method.state_dict().items()}
        return {"state": state, "resumed_from": result.resumed_from, "last": result.last}
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.ddp
@pytest.mark.parametrize("accumulate", [1, 2])
def test_fit_on_two_processes_is_fit_on_one(ddp: Any, accumulate: int) -> None:
    truth = fit_on_ranks("", 4, accumulate)
    for rank in ddp.run(fit_on_ranks, "", 4, accumulate):
        assert worst(rank["state"], {n: torch.as_tensor(v) for n, v in truth["state"].items()}) < 1e-8
        for name in ("loss", "contrast_accuracy", "grad_norm"):
            assert rank["last"][name] == pytest.approx(truth["last"][name], rel=1e-5)


@pytest.mark.ddp
def test_two_processes_resume_with_equal_bits(ddp: Any, tmp_path: Path) -> None:
    whole = ddp.run(fit_on_ranks, "", 4)
    ddp.run(fit_on_ranks, str(tmp_path), 2)
    resumed = ddp.run(fit_on_ranks, str(tmp_path), 4)
    for rank in (0, 1):
        assert resumed[rank]["resumed_from"] == 2
        for name, value in whole[rank]["state"].items():
            assert np.array_equal(value, resumed[rank]["state"][name]), name
    assert len(Checkpoints(tmp_path).paths()) == 2


def uneven(rank_rows: tuple[int, int]) -> str:
    method = tiny_cvrl()
    batch = rows_of(random_batch(8), slice(0, rank_rows[distributed.rank()]))
    try:
        fit(method, [batch], build_optimizer(method, lr=0.1), device="cpu")
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


@pytest.mark.ddp
def test_unequal_batches_are_refused_on_every_rank_instead_of_hanging(ddp: Any) -> None:
    for message in ddp.run(uneven, (4, 3)):
        assert message.startswith("DataError: batches must be equal on all processes")


# --- learning ---------------------------------------------------------------------------------------------------


def embed(method: CVRL, videos: list[Tensor]) -> np.ndarray[Any, Any]:
    method.eval()
    with torch.no_grad():
        found = method.encoder(method.encoder.prepare(torch.stack([v[2:10:2] for v in videos])))
    return nn.functional.normalize(found, dim=1).numpy()


def probe(method: CVRL, videos: list[Tensor], labels: list[int]) -> float:
    """Accuracy of a linear classifier on embeddings of videos it has not seen."""
    from sklearn.linear_model import LogisticRegression  # here, as the pool's processes import this file too

    x, y = embed(method, videos), np.array(labels)
    train = np.arange(len(y)) % 2 == 0
    return float(LogisticRegression(C=1000.0, max_iter=3000).fit(x[train], y[train]).score(x[~train], y[~train]))


@pytest.mark.slow
def test_check_25_learns_from_moving_shapes() -> None:
    labels = [label for label in range(8) for _ in range(32)]
    videos = [video(label, number) for number, label in enumerate(labels)]
    options: dict[str, Any] = {"clip_frames": 4, "stride": 2, "size": 24, "hidden_dim": 64, "out_dim": 32}
    options |= {"hue": 0.05, "gray_p": 0.0, "jitter_strength": 0.5, "crop_area_min": 0.5, "bn_momentum": 0.1}
    method, steps, rows = tiny_cvrl(**options), 110, 32
    random_init = probe(tiny_cvrl(**options), videos, labels)
    optimizer = build_optimizer(method, lr=0.1, weight_decay=1e-4)
    result = fit(
        method,
        loader(method, videos, rows=rows),
        optimizer,
        total_steps=steps,
        schedule=lambda step: warmup_cosine(step, 0.1, steps, 10),
        device="cpu",
    )
    assert result.last["contrast_accuracy"] > 5 / rows
    assert probe(method, videos, labels) > random_init + 0.1


def test_sampler_and_views_travel_to_workers() -> None:
    method = tiny_cvrl()
    assert pickle.loads(pickle.dumps(method.views)) == method.views
    assert repr(pickle.loads(pickle.dumps(method.sampler))) == repr(method.sampler)

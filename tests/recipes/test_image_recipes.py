"""Recipes of the image methods (docs/methods/moco.md, Training), and what a run with a teacher says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from unreel.cli.main import main
from unreel.core.settings import Layer
from unreel.methods import create_method
from unreel.nn import create_encoder
from unreel.nn.registry import ENCODERS
from unreel.recipes import load_recipe
from unreel.recipes.build import method_arguments, prepare
from unreel.recipes.plan import plan
from unreel.recipes.schema import place_overrides, resolve
from unreel.train import build_optimizer
from unreel.train.schedule import make_schedule
from unreel.views.bg_mixup import BGMixup

PAPER = ["moco_in9", "moco_coco", "moco_cub", "moco_flowers", "byol_in9", "byol_coco"]


@pytest.mark.parametrize("name", PAPER)
def test_check_C14_recipes_of_the_object_aware_paper(name: str) -> None:
    """docs/methods/moco.md, Training: 0.03 per 256 images, to 0.001 by epochs, decay on all, no warm-up.

    800 epochs, or 2,000 of the two small sets.
    """
    settings = resolve(load_recipe(name).layers)
    optimizer, train, task = settings["optimizer"], settings["train"], settings["method"]
    assert (optimizer["name"], optimizer["momentum"], optimizer["nesterov"]) == ("sgd", 0.9, False)
    assert (optimizer["lr_per_256"], optimizer["weight_decay"], optimizer["decay"]) == (0.03, 1e-4, "all")
    epochs = 2000 if name in ("moco_cub", "moco_flowers") else 800
    assert (train["batch_size"], train["epochs"], train["warmup_epochs"]) == (256, epochs, 0)
    assert (train["schedule"], train["schedule_per"], train["final_lr"]) == ("cosine", "epoch", 0.001)
    views, clips, head = settings["views"], settings["clips"], settings["head"]
    assert (views["preset"], views["size"], clips["clip_frames"], clips["rho"]) == ("occon", 224, 1, 2)
    encoder = settings["encoder"]
    assert (encoder["name"], encoder["zero_init_residual"], encoder["normalization"]) == ("resnet_18", True, "imagenet")
    if task["name"] == "moco":
        assert (head["version"], task["queue_size"], task["momentum"]) == ("occon", 65_536, 0.999)
        assert (task["temperature"], task["symmetric"], head["out_dim"]) == (0.2, False, 128)
    else:
        assert (head["variant"], task["momentum"], head["hidden_dim"]) == ("official", 0.996, 4096)


@pytest.mark.parametrize("name", PAPER)
def test_recipes_of_the_paper_build(name: str) -> None:
    """Encoder and method of each, without memory for them; with the switch of BG-Mixup as the paper has it."""
    switch = Layer("test", place_overrides(load_recipe(name).layers, {"bg_mixup": "cam"}))
    settings = resolve([*load_recipe(name).layers, switch])
    with torch.device("meta"):
        encoder = create_encoder("resnet_18", **settings.arguments("encoder", ENCODERS["resnet_18"]))
        method = create_method(settings["method"]["name"], encoder, **method_arguments(settings))
    assert (encoder.num_features, encoder.input_spec.size_px, encoder.input_spec.num_frames) == (512, 224, 1)
    assert method.aligned == ("masks",)
    (mixup,) = method.batch_operations
    assert isinstance(mixup, BGMixup)
    assert (mixup.probability, mixup.threshold, mixup.memory, mixup.block) == (0.4, 0.2, 50, 64)
    assert (mixup.mask_mode, mixup.views) == ("soft", (0,))


def test_a_method_without_a_recipe_for_a_cpu_names_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("unreel.recipes.build.default_recipe", lambda *_, **__: None)
    assert main(["pretrain", "videos", "--out", "run", "--method", "byol"]) == 2
    assert "choose one with --recipe, such as byol_coco, byol_go_on, byol_images" in capsys.readouterr().err


@pytest.mark.parametrize("batch", [256, 512])
def test_check_C14_a_batch_of_512_doubles_the_base_only(batch: int) -> None:
    settings = resolve(load_recipe("moco_in9").layers)
    values = {k: v for k, v in settings["optimizer"].items() if k != "lr"}
    optimizer = build_optimizer(torch.nn.Linear(2, 2), global_batch=batch, **values)
    base = 0.03 * batch / 256
    assert optimizer.defaults["lr"] == pytest.approx(base)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {1e-4}
    rate = make_schedule("cosine", base, 800 * 3, final_lr=settings["train"]["final_lr"], steps_per_epoch=3)
    assert rate(400 * 3 + 2) == pytest.approx((base + 0.001) / 2)


def test_the_rate_follows_batch_and_accumulation(tiny_world: Path) -> None:
    call = {
        **{"clip_frames": 2, "size": 16, "hidden_dim": 8, "out_dim": 4},
        "optimizer": {"name": "sgd", "lr": None, "lr_per_256": 0.03},
        "train": {"batch_size": 4, "accumulate": 2, "steps": 1, "workers": 0, "device": "cpu"},
    }
    prepared = prepare("simclr", tiny_world / "manifest.csv", encoder="r3d_tiny", call=call)
    assert prepared.optimizer.defaults["lr"] == pytest.approx(0.03 * 4 * 2 / 256)


def test_a_teacher_is_not_counted_as_a_head(tiny_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNREEL_CACHE", str(tmp_path))
    call = {
        **{"clip_frames": 2, "size": 16, "hidden_dim": 8, "out_dim": 4, "queue_size": 16},
        "train": {"batch_size": 4, "steps": 1, "epochs": None, "warmup_epochs": 0, "workers": 0, "device": "cpu"},
    }
    prepared = prepare("moco", tiny_world / "manifest.csv", encoder="r3d_tiny", call=call)
    found = plan(prepared)
    width = prepared.method.encoder.num_features
    assert found.features == width
    assert found.head_parameters == width * 8 + 8 + 8 * 4 + 4
    assert prepared.total_steps == 1

"""Recipes of the image methods (object_aware.md §1.1–1.3), and what a run with a teacher says of itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from unreel.core.settings import Settings
from unreel.recipes import load_recipe
from unreel.recipes.build import prepare, settings_schema
from unreel.recipes.plan import plan
from unreel.train import build_optimizer
from unreel.train.schedule import make_schedule


@pytest.mark.parametrize("name", ["moco_in9", "moco_coco", "byol_coco"])
def test_check_C14_recipes_of_the_object_aware_paper(name: str) -> None:
    """object_aware.md §1.1–1.3: 0.03 per 256 images, to 0.001 by epochs, decay on all, no warm-up, 800 epochs."""
    settings = Settings.resolve(settings_schema(), load_recipe(name).layers)
    optimizer, train, task = settings["optimizer"], settings["train"], settings["method"]
    assert (optimizer["name"], optimizer["momentum"], optimizer["nesterov"]) == ("sgd", 0.9, False)
    assert (optimizer["lr_per_256"], optimizer["weight_decay"], optimizer["decay"]) == (0.03, 1e-4, "all")
    assert (train["batch_size"], train["epochs"], train["warmup_epochs"]) == (256, 800, 0)
    assert (train["schedule"], train["schedule_per"], train["final_lr"]) == ("cosine", "epoch", 0.001)
    assert (task["views"], task["size"], task["clip_frames"], task["rho"]) == ("occon", 224, 1, 2)
    encoder = settings["encoder"]
    assert (encoder["name"], encoder["zero_init_residual"], encoder["normalization"]) == ("resnet_18", True, "imagenet")
    if task["name"] == "moco":
        assert (task["version"], task["queue_size"], task["momentum"]) == ("occon", 65_536, 0.999)
        assert (task["temperature"], task["symmetric"], task["out_dim"]) == (0.2, False, 128)
    else:
        assert (task["variant"], task["momentum"], task["hidden_dim"]) == ("official", 0.996, 4096)


@pytest.mark.parametrize("batch", [256, 512])
def test_check_C14_a_batch_of_512_doubles_the_base_only(batch: int) -> None:
    settings = Settings.resolve(settings_schema(), load_recipe("moco_in9").layers)
    values = {k: v for k, v in settings["optimizer"].items() if k != "lr"}
    optimizer = build_optimizer(torch.nn.Linear(2, 2), global_batch=batch, **values)
    base = 0.03 * batch / 256
    assert optimizer.defaults["lr"] == pytest.approx(base)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {1e-4}
    rate = make_schedule("cosine", base, 800 * 3, final_lr=settings["train"]["final_lr"], steps_per_epoch=3)
    assert rate(400 * 3 + 2) == pytest.approx((base + 0.001) / 2)


def test_a_teacher_is_not_counted_as_a_head(tiny_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNREEL_CACHE", str(tmp_path))
    call = {
        "method": {"clip_frames": 2, "size": 16, "hidden_dim": 8, "out_dim": 4, "queue_size": 16},
        "train": {"batch_size": 4, "steps": 1, "epochs": None, "warmup_epochs": 0, "workers": 0, "device": "cpu"},
    }
    prepared = prepare("moco", tiny_world / "manifest.csv", encoder="r3d_tiny", call=call)
    found = plan(prepared)
    width = prepared.method.encoder.num_features
    assert found.head_parameters == width * 8 + 8 + 8 * 4 + 4
    assert prepared.total_steps == 1

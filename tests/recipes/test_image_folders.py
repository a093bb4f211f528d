"""A folder of images trains and is evaluated by the command that a folder of videos takes; nothing has to be known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unreel import api
from unreel.cli.main import main
from unreel.core.errors import DataError, UsageError
from unreel.data.manifest import Manifest, Row
from unreel.media.image import encode_image
from unreel.nn import create_encoder
from unreel.recipes import list_recipes
from unreel.recipes.build import default_recipe, prepare
from unreel.recipes.page import first_views
from unreel.recipes.plan import plan

FAST: dict[str, Any] = {
    "size": 32,
    "encoder.width": 4,
    "train.batch_size": 8,
    "train.steps": 2,
    "train.warmup_steps": 0,
    "train.workers": 0,
    "train.device": "cpu",
}
METHODS = {n.removesuffix("_images") for n in list_recipes("*_images")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-four images of several sizes, half red and half blue, PNG and JPEG."""
    path = tmp_path_factory.mktemp("images")
    for i in range(24):
        pixels = np.random.default_rng(i).integers(0, 120, (30 + i, 50 - i, 3), np.uint8)
        pixels[..., 2 * (i % 2)] += 120
        kind = "png" if i % 3 else "jpeg"
        target = path / ("red", "blue")[i % 2] / f"{i}.{kind}"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(encode_image(pixels, format=kind))  # type: ignore[arg-type]
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNREEL_CACHE", str(tmp_path / "cache"))


def test_which_recipe_is_taken() -> None:
    assert sorted(METHODS) == ["byol", "moco", "pirl", "simclr", "supervised", "swav"]
    assert default_recipe() == default_recipe("cvrl") == default_recipe("cvrl", images=True) == "cvrl_small"
    assert default_recipe(images=True) == "simclr_images"
    assert default_recipe("moco") == "moco_small"
    assert default_recipe("moco", images=True) == "moco_images"
    assert default_recipe("nothing") is default_recipe("nothing", images=True) is None


def test_images_are_known_by_their_names() -> None:
    def images(*rows: Row) -> bool:
        return Manifest("/root", rows).only_images

    assert images(Row("a.png"), Row("b/c.JPG"), Row("", frames=("1.png",)))
    assert not images(Row("a.png"), Row("b.mp4"))
    assert not images(Row("", frames=("1.png", "2.png")))
    assert not images(Row("folder_of_frames"))


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_for_images_trains_on_a_folder(method: str, folder: Path, tmp_path: Path) -> None:
    """Without a word on frames: the views are of one."""
    small = {"swav": {"views.small_size": 16}, "pirl": {"views.jigsaw_size": 48, "jigsaw.patch_px": 14}}
    held = {"train.validation": 6, "train.select": "last"} if method == "supervised" else {}
    prepared = prepare(method, folder, encoder="resnet_18", call=FAST | small.get(method, {}) | held)
    assert prepared.method.encoder.input_spec.num_frames == 1
    assert prepared.settings["encoder"]["width"] == 4
    if method != "pirl":  # a step of the method, by itself
        output = prepared.method(first_views(prepared, samples=4))
        output.loss.backward()
        assert np.isfinite(output.loss.item())
        return
    run = api.run_prepared(prepared, out=tmp_path / "run")
    assert np.isfinite([r for r in run.metrics() if "loss" in r][-1]["loss"])
    assert not run.faults()
    assert prepared.settings["method"]["num_sources"] == 24
    assert "num_sources: 24" in (run.path / "config.yaml").read_text()
    report = api.evaluate(run, folder, protocol=["linear", "knn"])
    assert {score.protocol for score in report.scores} == {"linear", "knn"}
    again = prepare(None, folder, recipe=run.path / "config.yaml")
    assert again.settings["method"]["num_sources"] == 24


def test_a_memory_has_a_place_for_training_rows_only(folder: Path) -> None:
    held = {"train.validation": 6, "views.jigsaw_size": 48, "jigsaw.patch_px": 14}
    prepared = prepare("pirl", folder, call=FAST | held)
    assert len(prepared.manifest) == prepared.settings["method"]["num_sources"] == 18


def test_the_command_and_what_it_says_before(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [f"--{name}={value}" for name, value in FAST.items() if name != "encoder.width"]
    assert main(["pretrain", str(folder), "--method", "swav", "--encoder", "r3d_tiny", "--dry-run", *options]) == 0
    text = capsys.readouterr().out
    assert "images    24\n" in text
    assert "swav: 6 views, 32² pixels" in text
    assert "encoder   r3d_tiny" in text
    assert "steps     2 of 8 images" in text
    assert main(["pretrain", str(folder), "--list-settings"]) == 0
    assert "recipe simclr_images" in capsys.readouterr().out


def test_small_views_are_counted_by_their_pixels(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def estimate(*_: Any, num_views: int, **__: Any) -> Any:
        asked.append(num_views)
        raise KeyboardInterrupt

    monkeypatch.setattr("unreel.recipes.plan.estimate_step", estimate)
    for options, views in (({}, 3), ({"views.small_views": 0}, 2), ({"views.small_size": 32}, 6)):
        prepared = prepare("swav", folder, call=FAST | {"views.small_size": 16} | options)
        with pytest.raises(KeyboardInterrupt):
            plan(prepared)
        assert asked[-1] == views


@pytest.mark.parametrize(
    ("method", "recipe", "message"),
    [
        ("cvrl", None, "all 24 files here are images, and each of cvrl's clips would show one of them 8 times"),
        (None, "cvrl_small", r"8 times: take --method simclr and leave --recipe out \(methods for images: byol, moco"),
        (None, "tcgl_small", "are images: take --method simclr and leave --recipe out"),
        (None, "moco_small", "8 times: take --recipe moco_images; or set clips.clip_frames to 1"),
        ("tcgl", None, "tcgl learns from what changes in time.*methods for images: byol, moco"),
    ],
)
def test_a_recipe_for_videos_is_refused_with_what_to_do(
    method: str | None, recipe: str | None, message: str, folder: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        prepare(method, folder, recipe=recipe)


def test_a_batch_of_more_images_than_there_are(folder: Path) -> None:
    message = (
        r"has 24 images, fewer than one global batch of 32; set --train\.batch_size 24 or less \(batch_size=24 in Py"
    )
    with pytest.raises(DataError, match=message):
        prepare("simclr", folder, call=FAST | {"train.batch_size": 32})


def test_cvrl_on_single_frames_if_asked(folder: Path) -> None:
    call = {"clip_frames": 1, "stride": 1, **{k: v for k, v in FAST.items() if k != "encoder.width"}}
    prepared = prepare("cvrl", folder, call=call)
    assert prepared.method.encoder.input_spec.num_frames == 1


def test_a_resnet_of_any_width() -> None:
    narrow, usual = create_encoder("resnet_18", width=16), create_encoder("resnet_18")
    assert (narrow.num_features, usual.num_features) == (128, 512)
    assert narrow.stage_info["stem"].channels == 16
    assert narrow.arguments["width"] == 16
    assert create_encoder("resnet_50", width=8, stem="cifar").num_features == 256
    with pytest.raises(UsageError, match="width"):
        create_encoder("resnet_18", width=0)

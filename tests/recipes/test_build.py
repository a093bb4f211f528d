"""What a recipe makes of data that only partly fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unreel import api
from unreel.core.errors import DataError, UsageError
from unreel.core.settings import Layer, describe
from unreel.data.contracts import min_frames
from unreel.data.manifest import Manifest
from unreel.data.row import Row
from unreel.media import write_video
from unreel.methods import create_method, method_builder
from unreel.methods.method import DataFacts
from unreel.nn import create_encoder
from unreel.nn.registry import ENCODERS
from unreel.recipes import list_recipes, load_recipe
from unreel.recipes.build import list_all, method_arguments, prepare
from unreel.recipes.plan import plan
from unreel.recipes.schema import resolve

SMALL: dict[str, Any] = {
    **{"clip_frames": 2, "interval": 1, "size": 16, "resize": [16, 20], "hidden": 8},
    "train": {"batch_size": 4, "steps": 1, "epochs": None, "warmup_epochs": 0, "workers": 0, "device": "cpu"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four videos of 8 frames, which three snippets of 2 frames just fit into, and three of 7."""
    path = tmp_path_factory.mktemp("videos")
    for i in range(7):
        pixels = np.random.default_rng(i).integers(0, 255, (8 if i < 4 else 7, 16, 20, 3), np.uint8)
        write_video(path / f"{i}.mp4", pixels, fps=10)
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNREEL_CACHE", str(tmp_path / "cache"))


def test_short_videos_are_left_out_and_everybody_is_told(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="unreel")
    note = "Shorter than 8 frames and left out: 3 of 7 videos."
    prepared = prepare("vcop", folder, encoder="r3d_tiny", call=SMALL)
    assert prepared.notes == (note,)
    assert {row.path for row in prepared.manifest} == {"0.mp4", "1.mp4", "2.mp4", "3.mp4"}
    found = plan(prepared)
    assert "videos    4 of 7 (3 shorter than 8 frames)\n" in found.text()
    assert found.to_plain()["videos_too_short"] == 3
    run = api.run_prepared(prepared, out=tmp_path / "run")
    assert note in caplog.text
    assert run.notes == [note] == json.loads((run.path / "environment.json").read_text())["notes"]
    assert note in (run.path / "report.html").read_text()
    assert not run.faults()


def test_fewer_than_a_batch_left_is_an_error_that_says_what_to_change(folder: Path) -> None:
    call = {**SMALL, "train": {**SMALL["train"], "batch_size": 5}}
    with pytest.raises(
        DataError, match=r"shorter than the 8 frames .* 3 of 7 videos; the 4 left are fewer than one batch of 5"
    ) as caught:
        prepare("vcop", folder, encoder="r3d_tiny", call=call)
    for knob in (
        ".num_snippets (fewer)",
        ".clip_frames (shorter",
        ".interval (smaller)",
        "train.batch",
    ):
        assert knob in str(caught.value)


def test_nobody_is_told_where_all_fit(folder: Path) -> None:
    call = {**SMALL, "interval": 0}
    prepared = prepare("vcop", folder, encoder="r3d_tiny", call=call)
    assert prepared.notes == ()
    planned = plan(prepared)
    assert planned.text().startswith("videos    7\n")
    for gib, said in ((0.014, "14 MiB"), (0.0, "1 MiB"), (0.976, "999 MiB"), (0.99, "1.0 GiB"), (12.34, "12.3 GiB")):
        assert f"memory    about {said}\n" in replace(planned, memory_gib=gib).text()


@pytest.mark.parametrize("name", [n for n in list_recipes() if not n.startswith("demo")])
def test_every_recipe_builds_its_method(name: str) -> None:
    settings = resolve(load_recipe(name).layers)
    architecture, method_name = str(settings["encoder"]["name"]), str(settings["method"]["name"])
    rows = Manifest(".", tuple(Row(f"{name}.mp4", labels={"label": name}) for name in "ab"))
    follows = method_builder(method_name).from_data(DataFacts(rows, 2), settings["method"])
    task = method_arguments(settings.put("method", follows, "data"))
    known = {info.name for info in describe(ENCODERS[architecture])}
    with torch.device("meta"):
        encoder = create_encoder(architecture, **{n: v for n, v in settings["encoder"].items() if n in known})
        method = create_method(method_name, encoder, **task)
    assert method.sampler.num_views == method.views.num_views
    spec = method.encoder.input_spec
    clips, views = settings.get("clips", settings["method"]), settings.get("views", settings["method"])
    assert spec.num_frames == clips.get("clip_frames", spec.num_frames)
    assert spec.size_px == views.get("size", spec.size_px)
    # Comments cannot be checked, but a small recipe must fit the videos its first line names.
    if name.endswith("_small"):
        assert min_frames(method.sampler) <= 45


TINY: dict[str, Any] = {
    **{k: v for k, v in SMALL.items() if k != "train"},
    "train.batch_size": 2,
    "train.workers": 0,
    "train.device": "cpu",
}


@pytest.mark.parametrize(
    ("length", "expected", "total"),
    [
        ({"epochs": 2}, ("warmup_epochs", 0.2, "shortened with train.epochs"), 4),  # four videos, two a batch
        ({"epochs": 9.5}, ("warmup_epochs", 0.95, "shortened with train.epochs"), 19),
        ({"steps": 19}, ("warmup_steps", 1, "shortened with train.steps"), 19),  # the recipe's: 5 epochs, 10 steps
        ({"steps": 3}, ("warmup_steps", 0, "shortened with train.steps"), 3),
        ({"epochs": 10}, ("warmup_epochs", 5.0, "recipe vcop_small"), 20),  # half of the run is left
        ({"steps": 20}, ("warmup_epochs", 5.0, "recipe vcop_small"), 20),
        ({}, ("warmup_epochs", 5.0, "recipe vcop_small"), 120),
    ],
)
def test_a_recipes_warm_up_fits_the_run_that_was_asked_for(
    length: dict[str, Any], expected: tuple[str, float, str], total: int, folder: Path
) -> None:
    prepared = prepare("vcop", folder, encoder="r3d_tiny", call=TINY | length)
    name, value, origin = expected
    train, origins = prepared.settings["train"], prepared.settings.origins["train"]
    assert (train[name], origins[name]) == (value, origin)
    assert prepared.total_steps == total
    other = "warmup_epochs" if name == "warmup_steps" else "warmup_steps"
    assert not train[other]  # the one that does not count is not left in config.yaml


def test_a_shortened_warm_up_is_said_and_holds_when_the_run_goes_on_or_is_repeated(
    folder: Path, tmp_path: Path
) -> None:
    call = TINY | {"epochs": 5}
    prepared = prepare("vcop", folder, encoder="r3d_tiny", call=call)
    assert "5 epochs; warm-up of 0.5 epochs (shortened with train.epochs)\n" in plan(prepared).text()
    run = api.run_prepared(prepared, out=tmp_path / "run")
    assert run.environment["identity"]["warmup_steps"] == 1
    again = api.run_prepared(prepare("vcop", folder, encoder="r3d_tiny", call=call), out=tmp_path / "run")
    assert again.completed  # it was not taken for another run
    repeated = prepare(None, folder, recipe=run.path / "config.yaml").settings
    assert repeated.to_plain()["train"] == prepared.settings.to_plain()["train"]
    assert repeated.origins["train"] == prepared.settings.origins["train"]
    assert "warm-up" not in plan(prepare("vcop", folder, encoder="r3d_tiny", call=TINY)).text()


def test_a_run_made_otherwise_is_repeated_as_it_was(folder: Path, tmp_path: Path) -> None:
    """A config.yaml's own length and warm-up belong together, whoever chose them."""
    call = TINY | {"epochs": 8, "warmup_epochs": 6}
    prepare("vcop", folder, encoder="r3d_tiny", call=call).settings.dump(tmp_path / "config.yaml")
    assert prepare(None, folder, recipe=tmp_path / "config.yaml").settings["train"]["warmup_epochs"] == 6


def test_a_warm_up_longer_than_the_run_is_an_error_that_names_both_settings(folder: Path) -> None:
    both = (
        r"train\.warmup_epochs is 3 \(call\), longer than the whole run: train\.epochs is 2 \(call\)\. Set train\.war"
    )
    with pytest.raises(UsageError, match=both + r"mup_epochs to less, such as 0\.2, or train\.epochs to more"):
        prepare("vcop", "nowhere", call={"epochs": 2, "warmup_epochs": 3})  # before any file is looked at
    with pytest.raises(
        UsageError, match=r"steps is 7 .* train\.epochs is 3 \(call\); that is 7 of 6 steps\. Set train\.w"
    ):
        prepare("vcop", folder, encoder="r3d_tiny", call=TINY | {"epochs": 3, "warmup_steps": 7})
    call = TINY | {"epochs": 2, "warmup_epochs": 2}
    assert prepare("vcop", folder, encoder="r3d_tiny", call=call).settings["train"]["warmup_epochs"] == 2  # all of it
    own = r"warmup_epochs is 61 \(call\), .* train\.epochs is 60 \(recipe vcop_small\)"
    with pytest.raises(UsageError, match=own):
        prepare("vcop", folder, call={"warmup_epochs": 61})


def test_list_settings_shows_the_shortened_warm_up() -> None:
    rows = list_all("simclr_images", [Layer("command line", {"train": {"epochs": 2}})])
    row = next(row for row in rows if row["setting"] == "train.warmup_epochs")
    assert (row["value"], row["origin"]) == ("0.2", "shortened with train.epochs")

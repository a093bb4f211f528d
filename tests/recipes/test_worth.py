"""``worth-it`` end to end on the smallest world: what is trained, tested, kept, and not done again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import unreel.recipes.worth as module
from unreel import api
from unreel.cli.main import main
from unreel.core.errors import UsageError
from unreel.core.extras import MissingExtraError
from unreel.data.manifest import Manifest
from unreel.nn import create_encoder, save_encoder
from unreel.recipes.build import Prepared
from unreel.train.run import Run

RECIPE = """
method: {{name: cvrl}}
clips: {{clip_frames: 4, stride: 1}}
views: {{size: 32}}
head: {{hidden_layers: 1, hidden_dim: 16, out_dim: 8}}
encoder: {{name: r3d_tiny}}
optimizer: {{name: adamw, lr: {lr}}}
train: {{batch_size: 8, steps: {steps}, workers: 0}}
"""


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("worth")
    (home / "on.yaml").write_text(RECIPE.format(lr=0.001, steps=3))
    (home / "small.yaml").write_text(RECIPE.format(lr=0.002, steps=2))
    save_encoder(create_encoder("r3d_tiny", seed=5), home / "net.safetensors")
    return {
        "label": "motion",
        "encoder": home / "net.safetensors",
        "recipe": home / "on.yaml",
        "scratch": home / "small.yaml",
        "folds": 2,
        "num_resamples": 100,
        "device": "cpu",
        "workers": 0,
        "progress": False,
    }


def no_training(prepared: Prepared, *, out: Path) -> Run:
    raise AssertionError(f"{out} is trained again")


@pytest.fixture(scope="module")
def found(options: dict[str, Any], tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("answer") / "out"
    return out, api.worth_it(tiny_world, out=out, seeds=(0, 1), **options)


def test_every_row_is_tested_in_the_same_folds(found: Any, tiny_world: Path) -> None:
    out, answer = found
    assert [row.name for row in answer.rows] == ["frozen", "trained", "scratch", "first-weights", "frame-statistics"]
    assert answer.n == len(Manifest.open(tiny_world, tell=False)) == 32
    assert {row.steps for row in answer.rows} == {0, 6, 4}  # of both seeds
    assert answer.row("trained").minutes > 0
    assert all(len(row.by_seed) == 2 for row in answer.rows)
    assert {d.n for row in answer.rows for d in row.differences.values()} == {64}
    assert any("training saw all videos" in note for note in answer.notes)
    written = json.loads((out / "worth_it.json").read_text())
    assert written["sentence"] == answer.sentence
    assert written["rows"][1]["differences"]["frozen"]["n_groups"] == answer.n_groups
    page = (out / "worth_it.html").read_text()
    assert answer.sentence in page.replace("&#39;", "'")
    assert all(row.what in page for row in answer.rows)
    assert answer.text().startswith(answer.sentence)


def test_training_began_with_the_encoder_and_went_on(found: Any, options: dict[str, Any]) -> None:
    out, _ = found
    start, nets = api.load_encoder(options["encoder"]).state_dict(), []
    for seed in (0, 1):
        nets.append(Run(out / "runs" / f"trained-seed-{seed}").load_encoder().state_dict())
    weights = [name for name in start if name.endswith("weight") and start[name].ndim > 1]
    for trained in nets:  # three steps at 0.001 have gone a little way, from there
        assert all(0 < (start[name] - trained[name]).abs().max() < 0.02 for name in weights)
    assert any((nets[0][name] - nets[1][name]).abs().max() > 0 for name in weights)


def test_what_is_there_is_not_done_again(
    found: Any, options: dict[str, Any], tiny_world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, answer = found
    monkeypatch.setattr(module, "ask", no_training)
    monkeypatch.setattr(module, "seconds_per_step", no_training)
    study = api.worth_study(tiny_world, out=out, seeds=(0, 1), **options)
    study.train = no_training
    assert [t.done for t in study.plan().trainings] == [True] * 4
    again = study.run()
    assert again.rows == answer.rows
    assert again.sentence == answer.sentence


def test_another_label_uses_the_same_runs(
    found: Any, options: dict[str, Any], tiny_world: Path, tmp_path: Path
) -> None:
    out, _ = found
    other = {**options, "label": "appearance", "out": tmp_path, "runs": out / "runs"}
    study = api.worth_study(tiny_world, **other)
    study.train = no_training
    assert study.run().label == "appearance"


def test_the_net_on_plain_pixels_stands_beside_where_the_recipe_shows_it_something_else(
    options: dict[str, Any], tiny_world: Path, tmp_path: Path
) -> None:
    study = api.worth_study(tiny_world, out=tmp_path, **options)
    assert [*study.untrained()] == ["frozen"]
    study.starts["trained"].method.encoder.input_spec = replace(study.frozen("trained").input_spec, dct_highpass=1)
    nets = study.untrained()
    assert [net.input_spec.dct_highpass for net in nets.values()] == [1, 0]
    assert [*nets] == ["frozen", "frozen-plain"]
    assert {net.input_spec.size_px for net in nets.values()} == {32}


def test_a_plan_fits_the_minutes_and_writes_nothing(
    options: dict[str, Any], tiny_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "seconds_per_step", lambda prepared: 30.0)
    plan = api.worth_study(tiny_world, out=tmp_path / "out", minutes=1, **options).plan()
    assert [(t.name, t.steps, t.whole) for t in plan.trainings] == [("trained", 2, 3), ("scratch", 2, 2)]
    assert plan.minutes > 2
    assert "2 steps of the recipe's 3, about 1.0 min (30 s a step)" in plan.text()
    assert not (tmp_path / "out").exists()


def test_held_out_groups_are_in_no_training(options: dict[str, Any], tiny_world: Path, tmp_path: Path) -> None:
    seen: dict[str, set[str]] = {}

    def train(prepared: Prepared, *, out: Path) -> Run:
        seen[out.name] = {row.path for row in prepared.manifest}
        return api.run_prepared(prepared, out=out)

    study = api.worth_study(tiny_world, out=tmp_path, held_out=True, **options)
    study.train = train
    answer = study.run()
    task = study.tasks[0]
    assert len(seen) == 4
    for name, paths in seen.items():
        fold = task.folds[int(name.rpartition("-")[2]) - 1]
        tested = {study.rows[i].path for i in range(32) if fold.roles[i] == "test"}
        assert tested
        assert not paths & tested
        assert len(paths) + len(tested) == 32
    assert answer.n == 32
    assert answer.held_out
    assert not any("training saw all videos" in note for note in answer.notes)


def test_without_the_encoders_package_the_small_net_is_trained(
    options: dict[str, Any], tiny_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(place: object) -> None:
        raise MissingExtraError("net needs the package net, which is not installed: pip install net")

    monkeypatch.setattr(module, "open_encoder", missing)
    monkeypatch.setattr(module, "seconds_per_step", lambda prepared: 0.01)
    answer = api.worth_it(tiny_world, out=tmp_path, **{**options, "recipe": None})
    assert [row.name for row in answer.rows] == ["trained", "first-weights", "frame-statistics"]
    assert answer.reference == "first-weights"
    assert "pip install net. Without it" in answer.notes[0]
    assert "frozen" not in answer.sentence


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"seeds": ()}, "seeds"),
        ({"seeds": (1, 1)}, "seeds"),
        ({"minutes": 0}, "minutes"),
        ({"protocol": "finetune"}, "trains the encoder"),
    ],
)
def test_what_cannot_be_is_refused(
    options: dict[str, Any], tiny_world: Path, wrong: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        api.worth_study(tiny_world, **{**options, **wrong})


def test_the_command(found: Any, options: dict[str, Any], tiny_world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = found
    command = ["worth-it", str(tiny_world), "--label", "motion", "--out", str(out), "--folds", "2", "--seed", "0", "1"]
    command += ["--encoder", str(options["encoder"]), "--recipe", str(options["recipe"]), "--device", "cpu"]
    command += ["--workers", "0", "--dry-run", "--quiet"]
    assert main(command) == 0
    assert capsys.readouterr().out.endswith("Nothing was trained or written.\n")

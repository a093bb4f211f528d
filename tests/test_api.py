"""The public functions, from a folder of videos to scores, at the smallest size that is still real."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import unreel
from unreel import api
from unreel.core.errors import DataError, UsageError
from unreel.media import encode_image
from unreel.methods import create_method
from unreel.nn import create_encoder
from unreel.nn.weights import read_card
from unreel.recipes import list_recipes
from unreel.recipes.build import list_all, method_arguments, prepare
from unreel.recipes.plan import plan

SMALL: dict[str, Any] = {
    "steps": 2, "warmup_epochs": 0, "batch_size": 4, "workers": 0,
    "size": 32, "clip_frames": 4, "hidden_dim": 16, "out_dim": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    return unreel.pretrain("cvrl", tiny_world, encoder="r3d_tiny", out=tmp_path_factory.mktemp("runs") / "one", **SMALL)


def test_public_names_are_there_and_lazy() -> None:
    for name in (
        "load_encoder",
        "wrap_encoder",
        "save_encoder",
        "embed",
        "pretrain",
        "evaluate",
        "search",
        "predict",
        "load_head",
        "outliers",
    ):
        assert callable(getattr(unreel, name))
        assert name in dir(unreel)
    with pytest.raises(AttributeError, match="no attribute 'forecast'"):
        unreel.forecast  # noqa: B018


def test_pretrain_leaves_a_run_and_learns_from_the_training_split_only(run: Any) -> None:
    assert run.completed
    assert {
        "config.yaml",
        "metrics.jsonl",
        "environment.json",
        "encoder.safetensors",
        "report.html",
        "views.png",
        "checkpoints",
    } <= {p.name for p in run.path.iterdir()}
    config = (run.path / "config.yaml").read_text()
    assert "steps: 2" in config
    assert "# call" in config
    assert "# recipe cvrl_small" in config
    card = read_card(run.path)
    assert card["pretraining"]["data"]["videos"] == 16


def test_the_same_call_returns_the_finished_run_and_another_is_refused(run: Any, tiny_world: Path) -> None:
    again = unreel.pretrain("cvrl", tiny_world, encoder="r3d_tiny", out=run.path, **SMALL)
    assert again.path == run.path
    with pytest.raises(UsageError, match=r"holds another run: .*method\.temperature was 0\.1, is 0\.3"):
        unreel.pretrain("cvrl", tiny_world, encoder="r3d_tiny", out=run.path, temperature=0.3, **SMALL)
    with pytest.raises(UsageError, match="already holds a run"):
        unreel.pretrain("cvrl", tiny_world, encoder="r3d_tiny", out=run.path, resume=False, **SMALL)


def test_a_runs_config_makes_the_same_run_again(run: Any, tiny_world: Path, tmp_path: Path) -> None:
    again = unreel.pretrain("cvrl", tiny_world, out=tmp_path / "again", recipe=run.path)
    one, two = (unreel.load_encoder(r).state_dict() for r in (run, again))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_an_encoder_or_a_method_may_be_passed(run: Any, tiny_world: Path, tmp_path: Path) -> None:
    encoder = create_encoder("r3d_tiny", seed=0)
    by_object = unreel.pretrain("cvrl", tiny_world, encoder=encoder, out=tmp_path / "encoder", **SMALL)
    assert "name: r3d_tiny" in (by_object.path / "config.yaml").read_text()
    one, two = unreel.load_encoder(run).state_dict(), unreel.load_encoder(by_object).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert all(torch.equal(encoder.state_dict()[name], two[name]) for name in two)

    recipe = prepare("cvrl", tiny_world, encoder="r3d_tiny", call=SMALL).settings
    settings = method_arguments(recipe)
    known = {*settings, *(key for section in settings.values() if isinstance(section, dict) for key in section)}
    train = {k: v for k, v in SMALL.items() if k not in known}
    method = create_method("cvrl", create_encoder("r3d_tiny", seed=0), seed=0, **settings)
    by_method = unreel.pretrain(method, tiny_world, out=tmp_path / "method", **train)
    three = unreel.load_encoder(by_method).state_dict()
    assert all(torch.equal(one[name], three[name]) for name in one)
    with pytest.raises(UsageError, match="leave out encoder="):
        unreel.pretrain(method, tiny_world, encoder="r3d_tiny", out=tmp_path / "x")


def test_embed_search_and_evaluate(run: Any, tiny_world: Path, tmp_path: Path) -> None:
    encoder = unreel.load_encoder(run.path)
    embeddings = unreel.embed(encoder, tiny_world, progress=False)
    assert embeddings.vectors.shape == (32, encoder.num_features)
    videos = sorted((tiny_world / "test").glob("*.mp4"))
    assert np.allclose(unreel.embed(run, videos, progress=False).vectors, embeddings.vectors[16:], atol=1e-5)

    hits = unreel.search(encoder, tiny_world, videos[0], top=40, progress=False)
    assert len(hits) == 31
    assert "test/00000.mp4" not in {hit.path for hit in hits}
    unit = embeddings.vectors / np.linalg.norm(embeddings.vectors, axis=1, keepdims=True)
    cosines = np.delete(unit @ unit[16], 16)
    assert np.allclose([hit.similarity for hit in hits], np.sort(cosines)[::-1], atol=1e-5)
    with pytest.raises(UsageError, match="must be ≥ 1, got 0"):
        unreel.search(encoder, tiny_world, videos[0], top=0)
    with pytest.raises(DataError, match=r"gone\.mp4: there is no such file"):
        unreel.search(encoder, tiny_world, "gone.mp4")
    with pytest.raises(DataError, match="no other video"):
        unreel.search(encoder, videos[:1], videos[0], progress=False)

    report = unreel.evaluate(run, tiny_world, protocol="knn", label="motion", num_resamples=50, progress=False)
    score = report.score()
    assert (score.n, score.n_train) == (16, 16)
    assert "random-init" in score.references


def test_embeddings_are_written(run: Any, tiny_world: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    embeddings = unreel.embed(run, tiny_world, label="motion", progress=False)
    api.write_embeddings(embeddings, tmp_path / "v.npz")
    api.write_embeddings(embeddings, tmp_path / "new" / "v.parquet")
    arrays = np.load(tmp_path / "v.npz")
    table = pq.read_table(tmp_path / "new" / "v.parquet")
    assert np.array_equal(arrays["vectors"], embeddings.vectors)
    assert np.array_equal(np.stack(table["vector"].to_numpy()), embeddings.vectors)
    assert table["label"].to_pylist() == arrays["labels"].tolist() == embeddings.labels.tolist()
    with pytest.raises(UsageError, match=r"\.npz or \.parquet"):
        api.write_embeddings(embeddings, tmp_path / "v.txt")


def test_index_counts_what_is_there(tiny_world: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    good = next((tiny_world / "train").glob("*.mp4"))
    (tmp_path / "good.mp4").write_bytes(good.read_bytes())
    summary = api.index(tmp_path, out=tmp_path / "table" / "m.parquet")
    plain = json.loads(json.dumps(summary.to_plain()))
    assert (plain["sources"], plain["readable"], plain["sizes"]) == (2, 1, {"32x32": 1})
    assert [f["path"] for f in plain["faults"]] == ["broken.mp4"]
    assert "videos    1 readable of 2" in summary.text()
    assert "broken.mp4" in summary.text()
    with pytest.raises(UsageError, match=r"ends in \.csv or \.parquet"):
        api.index(tmp_path, out="x.txt")


def test_an_index_of_images_speaks_of_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, format in (("a.jpg", "jpeg"), ("cut.jpg", "jpeg"), ("b.png", "png")):
        (tmp_path / name).write_bytes(encode_image(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8), format=format))
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(cut.read_bytes()[:1500])
    summary = api.index(tmp_path)
    lines = summary.text().splitlines()
    assert lines[:3] == ["images    2 readable of 3", "size      60x40: 2", "codec     mjpeg: 1, png: 1"]
    assert len(lines) == 4
    assert "cut.jpg" in lines[3]
    assert "the file was cut off" in lines[3]
    assert [fault.cause for fault in summary.faults] == ["TruncatedError"]


def test_plan_counts_without_training(tiny_world: Path) -> None:
    prepared = prepare(
        "cvrl", tiny_world, encoder="r3d_tiny", call={**SMALL, "steps": None, "epochs": 3, "batch_size": 8}
    )
    before = {k: v.clone() for k, v in prepared.method.state_dict().items()}
    found = plan(prepared)
    assert (found.videos, found.videos_found, found.steps, found.epochs) == (16, 32, 6, 3.0)
    encoder = prepared.method.encoder
    assert found.encoder_parameters == sum(p.numel() for p in encoder.parameters())
    total = sum(p.numel() for p in prepared.method.parameters())
    assert found.encoder_parameters + found.head_parameters == total
    assert found.hours > 0
    assert "6 of 8 videos, 3 epochs" in found.text()
    assert all(torch.equal(before[k], v) for k, v in prepared.method.state_dict().items())
    json.dumps(found.to_plain())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"temprature": 1}, "unknown setting 'temprature'; did you mean method.temperature?"),
        ({"name": "x"}, "'name' is a setting of"),
        ({"optimizer": {"lrr": 1}}, "unknown setting optimizer.lrr; did you mean optimizer.lr"),
        ({"optimiser.lr": 1}, "unknown section 'optimiser'; did you mean 'optimizer'?"),
        ({"batch_size": 0}, "train.batch_size must be ≥ 1 videos, got 0"),
        ({"encoder": "r3d_tny"}, "encoder.name: unknown encoder 'r3d_tny'; did you mean 'r3d_tiny'"),
        ({"recipe": "cvrl_smal"}, "unknown recipe 'cvrl_smal'; did you mean 'cvrl_small'"),
    ],
)
def test_wrong_settings_are_refused_before_the_data_are_looked_at(
    tmp_path: Path, overrides: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        unreel.pretrain("cvrl", tmp_path / "nowhere", out=tmp_path / "run", **overrides)
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_missing_or_too_few_data(tmp_path: Path, tiny_world: Path) -> None:
    with pytest.raises(DataError, match="nowhere: there is no such file or folder"):
        unreel.pretrain("cvrl", tmp_path / "nowhere", out=tmp_path / "run")
    with pytest.raises(DataError, match="fewer than one global batch of 32"):
        unreel.pretrain("cvrl", tiny_world, out=tmp_path / "run")
    with pytest.raises(DataError, match="no row is in split 'val'"):
        unreel.pretrain("cvrl", tiny_world, out=tmp_path / "run", split="val")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_resolves_completely(name: str) -> None:
    rows = {row["setting"]: row for row in list_all(name)}
    assert {key.split(".")[0] for key in rows} >= {"data", "method", "encoder", "optimizer", "train"}
    assert rows["train.batch_size"]["origin"] == f"recipe {name}"


@pytest.mark.parametrize(("name", "videos", "steps"), [("cvrl_k400", 215_570, 42_104), ("cvrl_k600", 366_016, 71_488)])
def test_kinetics_recipes_are_the_papers(name: str, videos: int, steps: int) -> None:
    """docs/methods/cvrl.md, Training: 0.32 at 1024 videos, 1e-6 on kernels, 200 epochs, 5 of them warm-up."""
    values = {row["setting"]: row["value"] for row in list_all(name)}
    assert values["encoder.name"] == "r3d_50"
    assert float(values["optimizer.lr"]) == pytest.approx(0.32)
    assert float(values["optimizer.weight_decay"]) == 1e-6
    assert values["optimizer.decay"] == "kernels"
    assert float(values["method.temperature"]) == 0.1
    assert (values["clips.clip_frames"], values["clips.stride"], values["views.size"]) == ("16", "2", "224")
    assert values["method.reduction"] == "sum_of_views"  # what the release's learning rate belongs to
    epoch_steps = videos / int(values["train.batch_size"])
    assert int(values["train.steps"]) == steps == round(200 * epoch_steps)
    assert int(values["train.warmup_steps"]) == round(5 * epoch_steps)


def test_every_public_name_is_there_and_lists_are_sorted() -> None:
    """What outside code relies on, from ``import unreel`` alone."""
    assert all(callable(getattr(unreel, name)) for name in unreel.__all__)
    from unreel.explain import contracam  # the package keeps its names, and is called like its command

    assert callable(contracam)
    with pytest.raises(UsageError, match="limit -1"):
        unreel.explain("nowhere", "nowhere", out="nowhere", limit=-1)
    for found, known in (
        (unreel.list_encoders(), "r3d_small"),
        (unreel.list_methods(), "cvrl"),
        (unreel.list_recipes(), "demo"),
    ):
        assert known in found
        assert found == sorted(found)

"""Every command once, in the order a stranger would use them, on the smallest world that is still real."""

import json
from pathlib import Path

import pytest

from unreel.cli.main import main

SMALL = [
    *("--encoder.name", "r3d_tiny", "--size", "32", "--clip_frames", "4", "--hidden-dim", "16"),
    *("--train.steps", "2", "--train.warmup_epochs=0", "--train.batch_size", "4", "--train.workers", "0"),
]


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, object]:
    """A command's JSON; it must be all that is on stdout."""
    code = main([*map(str, arguments), "--json", "--quiet"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    assert captured.err == ""
    return json.loads(captured.out)


@pytest.fixture(scope="module")
def run(tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("path") / "run"
    assert main(["pretrain", str(tiny_world), "--out", str(out), *SMALL, "--quiet"]) == 0
    return out


def test_index(capsys: pytest.CaptureFixture[str], tiny_world: Path, tmp_path: Path) -> None:
    found = call(capsys, "data", "index", tiny_world, "--out", tmp_path / "m.csv")
    assert (found["sources"], found["readable"], found["splits"]) == (32, 32, {"train": 16, "test": 16})
    again = call(capsys, "data", "index", tmp_path / "m.csv")
    assert again["readable"] == 32
    assert main(["data", "index", str(tiny_world)]) == 0
    assert "videos    32 readable of 32" in capsys.readouterr().out


def test_annotate(capsys: pytest.CaptureFixture[str], tiny_world: Path, tmp_path: Path) -> None:
    arguments = ("data", "annotate", "motion_energy", tiny_world, "--out", tmp_path, "--workers", 0)
    assert call(capsys, *arguments)["computed"] == 32
    assert call(capsys, *arguments)["known"] == 32
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.mp4").write_bytes(b"no video")
    assert main(["data", "annotate", "motion_energy", str(tmp_path / "broken"), "--workers", "0"]) == 0
    assert capsys.readouterr().out.startswith("1 computed, 0 known already; 1 of them could not be read\n")
    assert main(["data", "annotate", "motion", str(tiny_world)]) == 2
    assert "did you mean 'motion_energy'" in capsys.readouterr().err


def test_dry_run(capsys: pytest.CaptureFixture[str], tiny_world: Path) -> None:
    found = call(capsys, "pretrain", tiny_world, "--dry-run", *SMALL)
    assert (found["steps"], found["videos"], found["encoder"]) == (2, 16, "r3d_tiny")
    assert found["settings"]["views"]["size"] == 32
    assert main(["pretrain", str(tiny_world), "--dry-run", *SMALL]) == 0
    assert capsys.readouterr().out.endswith("Nothing was trained or written.\n")


def test_a_run_ends_with_what_the_dry_run_said_of_it(
    capsys: pytest.CaptureFixture[str], tiny_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNREEL_CACHE", str(tmp_path / "cache"))
    told = call(capsys, "pretrain", tiny_world, "--dry-run", "--out", tmp_path / "run", *SMALL)
    assert 0 < told["disk_gib"] < told["disk_free_gib"]
    done = call(capsys, "pretrain", tiny_world, "--out", tmp_path / "run", *SMALL)
    assert done["predicted_seconds"] == pytest.approx(told["hours"] * 3600, abs=0.1)
    assert main(["pretrain", str(tiny_world), "--out", str(tmp_path / "run"), *SMALL]) == 0
    assert "the dry run said about" in capsys.readouterr().out
    other = call(capsys, "pretrain", tiny_world, "--out", tmp_path / "other", *SMALL, "--train.seed", "5")
    assert other["predicted_seconds"] is None


def test_list_settings(capsys: pytest.CaptureFixture[str]) -> None:
    rows = call(capsys, "pretrain", "x", "--list-settings", "--train.steps", 7)["settings"]
    steps = next(row for row in rows if row["setting"] == "train.steps")
    assert steps == {"setting": "train.steps", "value": "7", "may_be": steps["may_be"], "origin": "command line"}
    assert "≥ 1 steps" in steps["may_be"]
    epochs = next(row for row in rows if row["setting"] == "train.epochs")
    assert epochs["value"] == "none"


def test_pretrain_again_changes_nothing(capsys: pytest.CaptureFixture[str], run: Path, tiny_world: Path) -> None:
    before = (run / "encoder.safetensors").stat().st_mtime_ns
    found = call(capsys, "pretrain", tiny_world, "--out", run, *SMALL)
    assert found["completed"] is True
    assert found["last"]["step"] == 2
    assert (run / "encoder.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--out is missing: say where"),
        (
            ["--out", "r", "--method.temprature", "1"],
            "unknown setting method.temprature; did you mean method.temperature",
        ),
        (["--out", "r", "--method.temperature", "-1"], "method.temperature must be > 0, got -1"),
        (
            ["--out", "r", "--views.preset", "papr"],
            "views.preset must be one of paper, release, occon, mocov2, crop_only, none, got 'papr'",
        ),
        (["--out", "r", "--encoder.name", "r3d_teeny"], "unknown encoder 'r3d_teeny'; did you mean 'r3d_tiny'"),
        (["--out", "r", "--data.workers", "0"], "unknown setting data.workers; did you mean train.workers?"),
        (["--out", "r", "--data.wrkers", "0"], "unknown setting data.wrkers; did you mean train.workers?"),
        (["--out", "r", "--data.qqq", "0"], "unknown setting data.qqq; known: data.boxes, "),
        (["--out", "r", "--method.temp", "1"], "unknown setting method.temp; did you mean method.temperature?"),
        (
            ["--out", "r", "--train.epochs", "2", "--train.warmup_epochs", "3"],
            "train.warmup_epochs is 3 (command line)",
        ),
        (["--out", "r", "--trian.steps", "1"], "unknown section 'trian'; did you mean 'train'?"),
        (["--out", "r", "--train.rank", "1"], "train.rank is not a setting"),
        (["--out", "r", "--recipe", "nowhere.yaml"], "recipe nowhere.yaml: there is no such file"),
    ],
)
def test_wrong_settings(
    capsys: pytest.CaptureFixture[str], tiny_world: Path, arguments: list[str], message: str
) -> None:
    assert main(["pretrain", str(tiny_world), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_failed_work(capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_world: Path) -> None:
    out = str(tmp_path / "run")
    for data, message in ((tmp_path / "gone", "there is no such file or folder"), (tmp_path, "no video or image file")):
        assert main(["pretrain", str(data), "--out", out]) == 1
        assert message in capsys.readouterr().err
    assert main(["pretrain", str(tiny_world), "--out", out]) == 1
    assert "has 16 videos, fewer than one global batch of 32; set --train.batch_size 16" in capsys.readouterr().err
    assert main(["embed", str(tmp_path / "gone"), str(tiny_world), "--out", str(tmp_path / "v.npz")]) == 1
    assert "no encoder at" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_embed(capsys: pytest.CaptureFixture[str], run: Path, tiny_world: Path, tmp_path: Path) -> None:
    out = tmp_path / "v.npz"
    found = call(capsys, "embed", run, tiny_world, "--out", out)
    assert found == {"embeddings": str(out), "videos": 32, "features": 192, "unreadable": []}
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "data" / "good.mp4").write_bytes((tiny_world / "test" / "00000.mp4").read_bytes())
    assert main(["embed", str(run), str(tmp_path / "data"), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"wrote {out}: 1 video × 192 features\nleft out: ")
    assert "broken.mp4" in text
    assert main(["embed", str(run), str(tiny_world), "--out", "v.txt"]) == 2


def test_features_are_kept_in_the_run_and_read_by_every_command(
    capsys: pytest.CaptureFixture[str], run: Path, tiny_world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call(capsys, "embed", run, tiny_world, "--out", run.parent / "v.npz")
    assert list((run / "features").glob("*.sqlite"))
    query = str(tiny_world / "test" / "00000.mp4")
    monkeypatch.setattr("unreel.protocols.features._Job.push", None)  # nothing is encoded
    assert main(["search", str(run), str(tiny_world), query]) == 0
    assert f"32 of 32 videos: embedded before, read from {run / 'features'}\n" in capsys.readouterr().err
    monkeypatch.undo()
    assert main(["search", str(run), str(tiny_world), query, "--store", "none"]) == 0
    assert "embedded before" not in capsys.readouterr().err


def test_search(capsys: pytest.CaptureFixture[str], run: Path, tiny_world: Path) -> None:
    query = tiny_world / "test" / "00000.mp4"
    found = call(capsys, "search", run, tiny_world, query, "--top", 3)
    assert [row["rank"] for row in found["results"]] == [1, 2, 3]
    assert main(["search", str(run), str(tiny_world), "gone.mp4"]) == 1


def test_evaluate_and_report(capsys: pytest.CaptureFixture[str], run: Path, tiny_world: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    found = call(
        capsys,
        *("evaluate", run, tiny_world, "--protocol", "knn", "retrieval", "--label", "motion", "--out", out),
        "--frame-statistics",
    )
    assert {(s["protocol"], s["encoder"]) for s in found["scores"]} == {
        (protocol, encoder)
        for protocol in ("knn", "retrieval")
        for encoder in ("encoder", "random-init", "first-weights", "frame-statistics")
    }
    assert json.loads(out.read_text()) == found
    (kept,) = (run / "scores").glob("*.json")
    assert found.items() <= json.loads(kept.read_text()).items()
    page = call(capsys, "report", run)
    assert Path(str(page["report"])).stat().st_size > 10_000
    assert main(["evaluate", str(run), str(tiny_world)]) in (1, 2)
    assert "choose one with --label appearance (label='appearance' in Python)" in capsys.readouterr().err

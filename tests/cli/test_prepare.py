"""``unreel data prepare`` and the options of ``unreel evaluate`` that choose clips, pooling and gallery."""

import json
from pathlib import Path

import numpy as np
import pytest

from unreel.cli.main import main
from unreel.data.manifest import Manifest
from unreel.media.write import write_video
from unreel.nn import create_encoder, save_encoder


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "UCF101"
    train = [f"{c}/v_{c}_g08_c0{i}.avi" for c in ("Archery", "YoYo") for i in (1, 2)]
    test = [f"{c}/v_{c}_g01_c01.avi" for c in ("Archery", "YoYo")]
    for name in (*train, *test):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / "trainlist02.txt").write_text("".join(f"{n} 1\n" for n in train))
    (root / "testlist02.txt").write_text("0\n" + "".join(f"{n}\n" for n in test))
    return root


def test_prepare_writes_a_manifest_and_says_what_it_met(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tree.parent / "out" / "ucf.csv"
    assert main(["data", "prepare", "ucf101", str(tree), "--out", str(out), "--split-number", "2"]) == 0
    text = capsys.readouterr().out
    assert "6 videos of 2 classes (test: 2, train: 4)" in text
    assert "note: testlist02.txt:1: skipped the header row '0'" in text
    manifest = Manifest.from_csv(out)
    assert [len(manifest.select(split=s)) for s in ("train", "test")] == [4, 2]
    assert manifest[0].groups["group"] == "Archery/g08"
    (tree / "YoYo" / "v_YoYo_g01_c01.avi").unlink()
    call = ["data", "prepare", "ucf101", str(tree), "--out", str(out), "--split-number", "2", "--json"]
    assert main(call) == 1
    assert "--missing skip" in json.loads(capsys.readouterr().out)["error"]["message"]
    assert main([*call, "--missing", "skip"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["missing"] == ["YoYo/v_YoYo_g01_c01.avi"]
    assert found["splits"] == {"test": 1, "train": 4}


def test_prepare_takes_a_layouts_own_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(40):
        (tmp_path / "in9" / "original" / "train" / "00_dog").mkdir(parents=True, exist_ok=True)
        (tmp_path / "in9" / "original" / "train" / "00_dog" / f"n02085620_{i}.JPEG").touch()
    call = ["data", "prepare", "imagenet9", str(tmp_path / "in9"), "--out", str(tmp_path / "m.csv")]
    assert main([*call, "--layout.splits", "linear"]) == 0
    text = capsys.readouterr().out
    assert "40 images of 1 class (train: 38, val: 2)" in text
    assert "note: 2 of 40 training rows drawn as val with seed 42" in text
    assert len(Manifest.from_csv(tmp_path / "m.csv").select(split="val")) == 2
    for bad in ("layout.split=linear", "layout.splits=segmentation", "layout.missing=skip", "method.splits=linear"):
        assert main([*call, "--set", bad]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_prepare_refuses_what_it_cannot_write_or_read(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tree.parent / "m.csv")
    assert main(["data", "prepare", "ucf101", str(tree), "--out", str(tree / "m.txt")]) == 2
    assert main(["data", "prepare", "ucf10", str(tree), "--out", out]) == 2
    assert main(["data", "prepare", "ucf101", str(tree), "--out", out, "--split-number", "4"]) == 2
    assert main(["data", "prepare", "ucf101", str(tree), "--out", out]) == 1  # no lists of split 1
    assert "trainlist01.txt" in capsys.readouterr().err
    assert not Path(out).exists()


def test_evaluate_takes_profile_pooling_and_gallery(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        for label in ("dark", "light"):
            for i in range(2):
                frames = rng.integers(0, 100, (16, 48, 48, 3), dtype=np.uint8) + np.uint8(100 * (label == "light"))
                write_video(tmp_path / name / label / f"{i}.mp4", frames, fps=16)
    net = create_encoder("r3d_tiny", seed=0)
    save_encoder(net, tmp_path / "e.safetensors", card={})
    call = ["evaluate", str(tmp_path / "e.safetensors"), str(tmp_path / "a"), "--gallery", str(tmp_path / "b")]
    assert main([*call, "--profile", "paper-tcgl", "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["profile"], found["encoder"]["pooling"]) == ("paper-tcgl", "max-1x2x2")
    assert found["encoder"]["num_features"] == net.num_features * 2
    assert (found["task"]["n_test"], found["task"]["n_train"]) == (4, 4)
    assert found["scores"][0]["protocol"] == "retrieval"
    assert main([*call, "--pooling", "max-2x9x9", "--quiet"]) == 2
    assert "does not fit" in capsys.readouterr().err

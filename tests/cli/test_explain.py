"""``unreel explain``, ``unreel data annotate boxes|masks``, and a run's method opened again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from unreel import api
from unreel.cli.main import main
from unreel.core.errors import DataError, UsageError
from unreel.data.manifest import Manifest
from unreel.data.objects import open_facts
from unreel.data.sidecars import find_tables, made_by
from unreel.explain import contracam
from unreel.media.image import encode_image
from unreel.methods import SimCLR
from unreel.nn import create_encoder, save_encoder
from unreel.recipes.trained import load_cam_nets, load_method

SIZE = 32


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(2)
    for i in range(6):
        pixels = generator.integers(0, 90, (SIZE, SIZE + 8, 3), dtype=np.uint8)
        pixels[4 + 2 * i : 18 + 2 * i, 8:22] += np.uint8(120)
        (folder / f"class-{i % 2}").mkdir(exist_ok=True)
        (folder / f"class-{i % 2}" / f"{i}.png").write_bytes(encode_image(pixels))
    return folder


def _train(folder: Path, out: Path, method: str, **settings: object) -> Path:
    train = {"steps": 1, "epochs": None, "warmup_epochs": 0, "batch_size": 4, "workers": 0, "device": "cpu", "seed": 3}
    options = {"size": SIZE, "clip_frames": 1, "stride": 1, **settings}
    api.pretrain(method, folder, out=out, encoder="r3d_tiny", train=train, **options)
    return out


@pytest.fixture(scope="module")
def run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """SimCLR on the pictures, one step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNREEL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield _train(pictures, tmp_path_factory.mktemp("runs") / "simclr", "simclr", out_dim=8)


def test_a_runs_method_comes_back_with_its_head(run: Path) -> None:
    method = load_method(run)
    assert isinstance(method, SimCLR)
    assert not method.training
    saved = torch.load(api.Run(run).checkpoints[-1], weights_only=True)["method"]
    for name, value in method.state_dict().items():
        assert torch.equal(value, saved[name]), name
    encoder = api.load_encoder(run)
    assert method.encoder.input_spec == encoder.input_spec
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, method.encoder.state_dict()[name])
    nets = load_cam_nets(run)
    assert (nets.embed, nets.score) == ("projector", "contrastive")
    assert nets.projector is not None
    maps = contracam(nets.encoder, nets.projector, torch.rand(3, 3, SIZE, SIZE), expand_resolution=2)
    assert maps.shape == (3, 1, SIZE, SIZE)


def test_what_cannot_come_back(run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a run"):
        load_method(tmp_path)
    (tmp_path / "config.yaml").write_text((run / "config.yaml").read_text())
    with pytest.raises(DataError, match="no checkpoint"):
        load_method(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "step-000000001.pt").write_bytes(b"broken")
    with pytest.raises(DataError, match="none of its 1 checkpoints"):
        load_method(tmp_path)
    (tmp_path / "config.yaml").write_text("train:\n  seed: 0\n")
    with pytest.raises(UsageError, match="given as an object"):
        load_method(tmp_path)


def test_nets_of_other_methods_and_of_files(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNREEL_CACHE", str(tmp_path))
    classifier = load_cam_nets(_train(pictures, tmp_path / "supervised", "supervised"))
    assert classifier.score == "supervised"
    assert classifier.projector is not None
    encoder = create_encoder("r3d_tiny")
    encoder.input_spec = replace(encoder.input_spec, num_frames=1, size_px=SIZE)
    alone = load_cam_nets(save_encoder(encoder, tmp_path / "e.safetensors"))
    assert (alone.projector, alone.embed) == (None, "backbone")


def test_explain_makes_a_page(run: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = ["explain", str(run), str(pictures), "--iterations", "2", "--workers", "0", "--quiet"]
    out = tmp_path / "page"
    assert (
        main([*call, "--out", str(out), "--boxes", "--crf", "--limit", "4", "--objects.margin", "0.1", "--json"]) == 0
    )
    told = json.loads(capsys.readouterr().out)
    assert told["images"] == 4
    assert (out / "index.html").read_text().count("<figure>") == 4
    card = json.loads((out / "explain.json").read_text())
    assert card["crf"]["iterations"] == 5
    assert card["objects"]["margin"] == 0.1
    assert card["settings"]["expand_resolution"] == 2
    assert told["boxes"] == (out / "boxes.txt").read_text().count(",") / 3
    assert main([*call, "--out", str(tmp_path / "plain"), "--cam.mask_colour", "zero"]) == 0
    assert not (tmp_path / "plain" / "boxes.txt").exists()
    assert "6 images explained" in capsys.readouterr().out
    assert main([*call, "--out", str(out), "--cam.mask_color", "zero"]) == 2
    assert "cam.mask_colour" in capsys.readouterr().err
    assert main([*call, "--out", str(out), "--boxs.margin", "0"]) == 2
    assert main([*call, "--out", str(out), "--batch-size", "0"]) == 2
    assert "batch_size must be at least 2, got 0" in capsys.readouterr().err


def test_explain_takes_no_negative_limit(
    run: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*map(str, ["explain", run, pictures, "--out", tmp_path / "page", "--limit", "-1"])]) == 2
    assert "--limit -1: expected a number of images or videos, or 0 for all" in capsys.readouterr().err
    assert not (tmp_path / "page").exists()


def test_annotate_makes_tables_that_training_finds(
    run: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UNREEL_CACHE", str(tmp_path))
    manifest = Manifest.open(pictures)
    for name in ("boxes", "masks"):
        call = ["data", "annotate", name, str(pictures), "--encoder", str(run), "--workers", "0", "--quiet"]
        assert main([*call, "--cam.iterations", "1"]) == 0
        assert "6 computed, 0 known" in capsys.readouterr().out
        (table,) = find_tables(name, manifest)
        settings = made_by(table)["settings"]
        assert settings["settings"]["iterations"] == 1
        assert settings["settings"]["expand_resolution"] == (2 if name == "boxes" else 1)
        if name == "boxes":
            assert settings["crf"]["iterations"] == 5  # the paper's, for images
        assert main([*call, "--cam.iterations", "1"]) == 0
        assert "0 computed, 6 known" in capsys.readouterr().out
    facts = open_facts(manifest, ["boxes"], ["masks"])
    assert set(facts.tables) == {"boxes", "masks"}
    assert facts.manifest.file(0, "mask").is_file()
    (old,) = find_tables("boxes", manifest)
    call = ["data", "annotate", "boxes", str(pictures), "--encoder", str(run), "--workers", "0", "--quiet"]
    assert main([*call, "--cam.iterations", "1", "--batch-size", "3", "--seed", "5"]) == 0
    assert "6 computed, 0 known" in capsys.readouterr().out
    (table,) = set(find_tables("boxes", manifest)) - {old}
    told, before = made_by(table)["settings"], made_by(old)["settings"]
    assert (told["batch_size"], told["seed"]) == (3, 5)
    assert (before["batch_size"], before["seed"]) == (256, 0)
    assert main([*call, "--batch-size", "1"]) == 2
    assert "batch_size must be at least 2, got 1" in capsys.readouterr().err
    assert main([*call, "--no-crf", "--crf.iterations", "5"]) == 2
    assert "--no-crf leaves out what --crf.iterations would change" in capsys.readouterr().err
    for more in (["--batch-size", "4"], ["--seed", "1"]):
        assert main(["data", "annotate", "motion_energy", str(pictures), *more]) == 2
        assert "--batch-size, --device, --seed" in capsys.readouterr().err
    assert main(["data", "annotate", "boxes", str(pictures)]) == 2
    assert f"\n  unreel data annotate boxes {pictures} --encoder RUN\n" in capsys.readouterr().err
    assert main(["data", "annotate", "motion_energy", str(pictures), "--crf"]) == 2
    assert main(["data", "annotate", "masks", str(pictures), "--encoder", str(run), "--crf"]) == 2
    assert "masks are kept as they are found" in capsys.readouterr().err

"""The object-aware path of commands at a size where nothing can be learned: what comes out, not how good it is.

The numbers are those of ``benchmarks/object_aware.py``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import unreel
from unreel.cli.main import main
from unreel.data.manifest import Manifest
from unreel.data.synthetic import ActionWorld
from unreel.explain import contracam
from unreel.media import read_clip
from unreel.recipes.trained import load_cam_nets

SMALL = [
    *("--method", "moco", "--encoder", "r3d_tiny", "--size", "32", "--clip_frames", "4"),
    *("--stride", "1", "--hidden_dim", "16", "--out_dim", "8", "--method.queue_size", "16"),
    *("--train.steps", "3", "--train.warmup_epochs", "0", "--train.batch_size", "6", "--train.workers", "0"),
]
# An encoder of three steps has found no objects: a map of half the frame counts, and in every row.
MIXED = ["--bg_threshold", "0.5", "--bg_probability", "1"]

ASKED: dict[str, Any] = {"protocol": "knn", "baselines": (), "num_resamples": 50, "workers": 0, "progress": False}


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    """A command's JSON."""
    code = main([*map(str, arguments), "--json", "--quiet"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    found: dict[str, Any] = json.loads(captured.out)
    return found


def test_check_C18_from_scenes_to_a_debiased_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    world = tmp_path / "scenes"
    options: dict[str, Any] = {"size_px": 32, "num_frames": 8, "num_backgrounds": 8, "audio_rate_hz": 0}
    ActionWorld(
        5, 12, 6, background_link="motion", background_strength=1.0, test_background="swapped", **options
    ).write(world)
    plain, debiased = tmp_path / "plain", tmp_path / "debiased"
    assert call(capsys, "pretrain", world, "--out", plain, *SMALL)["completed"]

    clips = [read_clip(path, indices=range(0, 8, 2)).pixels for path in sorted((world / "train").glob("*.mp4"))[:4]]
    nets = load_cam_nets(plain)
    shown = torch.stack([torch.as_tensor(clip) for clip in clips])
    maps = contracam(nets.encoder, nets.projector, shown, iterations=3, expand_resolution=4)
    assert maps.shape == (4, 1, 4, 32, 32)
    assert (float(maps.min()), float(maps.max())) == (0, 1)

    found = call(
        *(capsys, "data", "annotate", "masks", world, "--encoder", plain, "--workers", 0),
        *("--cam.iterations", 3, "--cam.expand_resolution", 4),  # 8 × 8 cells instead of 2 × 2
    )
    assert found["computed"] == len(Manifest.open(world)) == 18
    assert call(capsys, "pretrain", world, "--out", debiased, *SMALL, "--bg-mixup", "cam", *MIXED)["completed"]
    weights = [next(iter(unreel.load_encoder(path).parameters())) for path in (plain, debiased)]
    assert not torch.equal(*weights)  # the same seed and steps: the backgrounds made the difference
    for path in (plain, debiased):
        report = unreel.evaluate(path, world, label="motion", **ASKED, store=tmp_path / "store")
        (accuracy,) = (s for s in report.scores if s.metric == "accuracy")
        assert (accuracy.n, 0 <= accuracy.value <= 1) == (6, True)

"""The atlas' script: every method has its entry, entries can be built, numbers reach the page. Nothing is trained."""

from __future__ import annotations

import numpy as np
import pytest

from tests.scripts import script
from unreel.data.manifest import Manifest
from unreel.data.synthetic import ActionWorld
from unreel.recipes.build import prepare
from unreel.tasks.order import ClipOrderTask


@pytest.fixture(scope="module")
def atlas():
    return script("atlas")


@pytest.fixture(scope="module")
def manifest(atlas, tmp_path_factory):
    """The worlds of one seed, a hundredth as many."""
    pytest.importorskip("av")
    return Manifest.from_csv(atlas.write_worlds(tmp_path_factory.mktemp("atlas"), 0, scale=0.01))


def test_every_registered_method_has_an_entry(atlas):
    """It grows with every method: a new one needs a row in benchmarks/atlas.py, ENTRIES."""
    assert atlas.missing_entries() == []


# Frames that pass the encoder for one video: clips of 8 frames; TCGL's frame-sets double its three.
FRAMES = {
    "cvrl": 16, "simclr": 16, "moco": 16, "byol": 16, "simsiam": 16, "swav": 16, "pirl": 40, "tcgl": 48, "vcop": 24,
    "opn": 32, "shuffle_learn": 24, "vcp": 24, "arrow_of_time": 8, "pace": 8, "rotation": 32, "supervised": 8,
}  # fmt: skip


def test_entries_build_on_the_world_and_cost_what_they_say(atlas, manifest):
    train = manifest.select(split="train")
    for method in atlas.ENTRIES:
        settings = atlas.settings_of(method, 0, 1) | {"train.batch_size": 4}
        prepared = prepare(method, train, call=settings)
        assert not prepared.notes, f"{method}: {prepared.notes}"
        spec = prepared.method.encoder.input_spec
        assert (spec.num_frames, spec.stride_frames, spec.size_px, spec.dct_highpass) == (8, 1, 48, 1), method
        frames = atlas.frames_per_video(prepared)  # a forward pass of the method on two of the world's videos
        assert frames == FRAMES.get(method, frames) >= 8, method


def test_worlds_have_their_parts(atlas, manifest):
    assert set(manifest.splits) == {"train", "test", "swap-train", "swapped", "unswapped"}
    parts = {split: manifest.select(split=split) for split in manifest.splits}
    # The same videos before other backgrounds.
    assert parts["swapped"].labels("motion") == parts["unswapped"].labels("motion")
    assert parts["swapped"].labels("background") != parts["unswapped"].labels("background")
    motions = list(atlas.MOTIONS)
    large = {where: ActionWorld(0, 100, 300, test_background=where, **atlas.SWAP) for where in ("same", "swapped")}
    for where, share in (("same", 0.9), ("swapped", 0.0)):
        recipes = [large[where].recipe(i) for i in range(100, 400)]
        told = np.mean([r.background == r.motion for r in recipes])
        assert abs(told - share) < 0.08
    assert len(motions) == atlas.SWAP["num_backgrounds"]


def test_clips_of_the_plan_share_no_frame_and_every_factor_is_a_task(atlas, manifest):
    clips = atlas.PLAN.indices(atlas.WORLD["num_frames"])
    assert len(np.unique(clips)) == clips.size
    for name, factor in atlas.FACTORS.items():
        task = factor.task(manifest, 0)
        assert isinstance(task, ClipOrderTask) == (name == "order")
        assert set(task.roles) == {"train", "test"}


def test_hits_are_packed_without_loss(atlas):
    for n in (1, 7, 8, 9, 576):
        hits = (np.random.default_rng(n).random(n) > 0.4).astype(float)
        np.testing.assert_array_equal(atlas.unpack(atlas.pack(hits), n), hits)


def _run(atlas, method, seed, lift):
    rng = np.random.default_rng(seed)
    n = 80
    base = rng.random(n) < 0.4
    scores = {}
    for name, factor in atlas.FACTORS.items():
        mine = base | (rng.random(n) < lift)
        scores[name] = {
            "protocol": factor.protocol,
            "metric": factor.metric,
            "chance": 0.125,
            "n": n,
            "n_train": 100,
            "hits": atlas.pack(mine),
            "random-init": atlas.pack(base),
            "frame-statistics": atlas.pack(np.zeros(n)),
        }
    pretext = {k: {"chance": c, "n": n, "hits": atlas.pack(base)} for k, c in atlas.ENTRIES[method].pretext.items()}
    return {
        "method": method, "seed": seed, "budget_frames": 1000, "steps": 10, "batch_size": 4, "frames_per_video": 16,
        "frames_per_step": 64, "s_per_step": 0.5, "train_s": 5.0, "ask_s": 3.0, "loss": 1.0, "head_parameters": 10,
        "encoder_parameters": 20, "threads": 1, "environment": {}, "scores": scores, "pretext": pretext,
    }  # fmt: skip


def test_summary_page_and_map_hold_every_number(atlas):
    runs = [_run(atlas, "cvrl", 1, 0.5), _run(atlas, "cvrl", 2, 0.5), _run(atlas, "tcgl", 1, 0.0)]
    summary = atlas.summarise(runs)
    cell = summary["methods"]["cvrl"]["all"]["factors"]["motion"]
    assert cell["n"] == 160
    each = [summary["methods"]["cvrl"][s]["factors"]["motion"] for s in ("1", "2")]
    assert cell["value"] == pytest.approx(np.mean([c["value"] for c in each]))
    assert cell["difference"] == pytest.approx(np.mean([c["difference"] for c in each]))
    assert cell["difference_low"] > 0
    assert cell["high"] - cell["low"] < each[0]["high"] - each[0]["low"]
    assert summary["methods"]["tcgl"]["1"]["factors"]["motion"]["difference"] == 0
    assert list(summary["methods"]["tcgl"]) == ["1"]
    words = dict.fromkeys(("all", "cvrl", "tcgl"), "as ever")
    page = atlas.render({"runs": runs, "summary": summary, "settings": words, "tuning": "by hand"})
    assert f"{100 * cell['value']:.1f} [{100 * cell['low']:.1f}, {100 * cell['high']:.1f}]" in page
    assert "TCGL without the leak, seed 1: order accuracy" in page
    assert "| tcgl | 1 | order accuracy up to reversal | 80 | 33.3 |" in page
    assert page.count("| cvrl | all |") == len(atlas.FACTORS)
    svg = atlas.draw(summary)
    assert f"{100 * cell['value']:.1f}" in svg
    for row in ("cvrl", "tcgl", "random-init", "frame-statistics"):
        assert row in svg


def test_report_and_development_seeds_do_not_mix(atlas):
    for arguments in (["--seeds", "0"], ["--develop", "--seeds", "3001"]):
        with pytest.raises(Exception, match="development seeds are 0 to 9"):
            atlas.main(arguments)

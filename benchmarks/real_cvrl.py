"""CVRL on two small collections of real video: pre-train without labels, probe the frozen encoder, beside controls.

    python benchmarks/real_cvrl.py --data fight_surv --seeds 1001 1002 1003
    python benchmarks/real_cvrl.py --data covid_blues --seeds 1001 1002 1003
    python benchmarks/real_cvrl.py --render                      # docs/results/cvrl.md from cvrl.json, nothing is run

Each seed is one run: the training part of the collection is pre-trained on with the recipe ``cvrl_small`` and the
changes below, then linear probe, nearest neighbours and retrieval are fitted on the training part and scored on the
test part, for the pre-trained encoder, the same architecture with fresh weights, and plain statistics of the same
clips. No group (scene, patient) is in both parts. Nothing is chosen by looking at the test part.

``--develop`` leaves the test part out altogether: a third of the training part, cut by whole groups (another third for
each of three consecutive seeds), is held out of pre-training and probing and scored instead. Settings were chosen so.

The collections are not part of this repository; their READMEs name source and licence. Where one is absent the script
says so and ends.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common import fill
from real_data import (
    COLLECTIONS,
    CONTROLS,
    FACTS,
    Change,
    Seed,
    Study,
    compare_all,
    main,
    pooled,
    probe,
)

import unreel
from unreel.data.manifest import Manifest
from unreel.nn import count_parameters
from unreel.protocols import Compute
from unreel.protocols.clips import default_plan
from unreel.tasks import FrameStatistics, random_init
from unreel.tasks.profiles import resolve_protocols

RECIPE = "cvrl_small"
PROTOCOLS = ("linear", "knn", "retrieval")
CVRL = "cvrl"
PAIRS = {control: (CVRL, control) for control in CONTROLS}

# What a collection's nature asks of the recipe.
CHANGES = {
    "fight_surv": (
        Change(
            "encoder.dct_highpass",
            1,
            "the cameras stand still: a clip minus its mean over time is what moves, and the scene, by which "
            "two clips of a video are all too easily matched, is gone",
        ),
    ),
    "covid_blues": (
        Change("views.flip_p", 0.0, "left and right of the image are left and right of the probe: positions"),
        Change("views.saturation", 0.0, "B-mode video is grey"),
        Change("views.hue", 0.0, "B-mode video is grey"),
        Change("views.gray_p", 0.0, "B-mode video is grey"),
    ),
}


# ------------------------------------------------------------------------------------------------------------ the run


def run_seed(name: str, manifest: Manifest, seed: int, out: Path, options: argparse.Namespace) -> Seed:
    """Pre-train and fit every protocol on the training part, score the test part."""
    start, workers = time.perf_counter(), options.workers
    settings: dict[str, Any] = {change.setting: change.value for change in CHANGES[name]}
    # ``data.split`` is left at its default: the split called train, and no label is looked at.
    run = unreel.pretrain(
        "cvrl", manifest, recipe=RECIPE, out=out, seed=seed, workers=workers, cache_mb=600, **settings
    )
    trained = time.perf_counter()
    encoder = unreel.load_encoder(run)
    nets = {
        CVRL: encoder,
        "random-init": random_init(encoder, seed=seed),
        "frame-statistics": FrameStatistics(encoder.input_spec),
    }
    plan = default_plan(encoder.input_spec)
    protocols, compute = resolve_protocols(PROTOCOLS), Compute(workers=workers)
    outcomes, metrics, notes = probe(nets, manifest, plan, protocols, seed, compute=compute)
    record = [r for r in run.metrics() if "loss" in r][-1]
    cost = {
        "seed": seed,
        "pretrain_s": round(trained - start, 1),
        "evaluate_s": round(time.perf_counter() - trained, 1),
        "steps": int(record["step"]),
        "videos": sum(row.split == "train" for row in manifest),
        "parameters": count_parameters(encoder),
        "features": encoder.num_features,
        "architecture": encoder.architecture,
        "loss": round(float(record["loss"]), 3),
        "contrast_accuracy": round(float(record["contrast_accuracy"]), 3),
        "probe": {p: dict(o.card.settings) for p, o in outcomes[CVRL].items()},
    }
    return Seed(seed, outcomes, metrics, tuple(dict.fromkeys(notes)), cost)


# ------------------------------------------------------------------------------------------------------------- scores


def all_scores(name: str, seeds: Sequence[Seed]) -> list[dict[str, Any]]:
    """Per seed and for the mean of the seeds: the primary metric of every protocol, and what else is worth a row."""
    about = COLLECTIONS[name]
    other = "accuracy" if about.metric == "balanced_accuracy" else "balanced_accuracy"
    asked = [("linear", about.metric), ("knn", about.metric), ("retrieval", "hit@1")]
    asked += [("linear", other), ("knn", other), ("retrieval", "mAP")]
    return compare_all(asked, seeds, about.unit, PAIRS)


def pooled_scores(name: str, seeds: Sequence[Seed]) -> list[dict[str, Any]]:
    """Development: means over seeds, each on its own held-out third."""
    metric = COLLECTIONS[name].metric
    return pooled((("linear", metric), ("knn", metric), ("retrieval", "mAP")), seeds, (CVRL, *CONTROLS))


def told(name: str, found: Seed) -> tuple[list[tuple[str, str, Sequence[str]]], list[float]]:
    """What is printed of a seed."""
    rows = [(p, COLLECTIONS[name].metric, (CVRL, *CONTROLS)) for p in ("linear", "knn")]
    return rows, [found.cost["pretrain_s"], found.cost["evaluate_s"]]


SHOWN = {"frame-statistics": "frame statistics", "random-init": "random weights", CVRL: "CVRL"}
SHOWN_PAIRS = {control: f"CVRL − {label}" for control, label in CONTROLS.items()}


def render(found: Mapping[str, Any]) -> str:
    """The page, every number from the JSON beside it."""
    return fill("cvrl", globals(), found=found, names=lambda about: {p: p for p in PROTOCOLS}, **FACTS)


STUDY = Study("cvrl", RECIPE, CHANGES, run_seed, all_scores, pooled_scores, told)

if __name__ == "__main__":
    main(STUDY, __doc__, render, seeds=(1001, 1002, 1003), threads=2, workers=1)

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

import numpy as np
from real_data import (
    COLLECTIONS,
    CONTROLS,
    METRIC_NAMES,
    Change,
    Seed,
    arguments,
    compare_all,
    describe,
    development,
    environment,
    limits,
    number,
    pooled,
    recipe_rows,
    setting_table,
    span,
    statistic_of,
    table,
)
from real_data import main as run_main

import unreel
from unreel.data.manifest import Manifest
from unreel.nn import count_parameters
from unreel.protocols import Compute
from unreel.protocols.clips import default_plan
from unreel.protocols.features import embed_all
from unreel.tasks import FrameStatistics, LabelTask, random_init
from unreel.tasks.classification import score_head
from unreel.tasks.profiles import resolve_protocols
from unreel.tasks.task import Outcomes

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


def run_seed(name: str, manifest: Manifest, seed: int, out: Path, workers: int) -> Seed:
    """Pre-train and fit every protocol on the training part, score the test part."""
    start = time.perf_counter()
    settings: dict[str, Any] = {change.setting: change.value for change in CHANGES[name]}
    # ``data.split`` is left at its default: the split called train, and no label is looked at.
    run = unreel.pretrain(
        "cvrl", manifest, recipe=RECIPE, out=out, seed=seed, workers=workers, cache_mb=600, **settings
    )
    trained = time.perf_counter()
    encoder = unreel.load_encoder(run)
    task = LabelTask(manifest, seed=seed)
    nets = {
        CVRL: encoder,
        "random-init": random_init(encoder, seed=seed),
        "frame-statistics": FrameStatistics(encoder.input_spec),
    }
    plan = default_plan(encoder.input_spec)
    embeddings = dict(
        zip(nets, embed_all(list(nets.values()), task.clips(plan), compute=Compute(workers=workers)), strict=True)
    )
    protocols = resolve_protocols(PROTOCOLS)
    outcomes: dict[str, dict[str, Outcomes]] = {}
    notes: list[str] = list(task.notes)
    for net, found in embeddings.items():
        parts = task.parts(found)
        outcomes[net] = {p.name: score_head(p.fit(parts.train, seed=seed), parts.test) for p in protocols}
        notes += [f"{found.path} could not be read ({found.cause})" for found in found.faults]
        notes += [f"{net}, {o.protocol}: {note}" for o in outcomes[net].values() for note in o.notes]
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
    metrics = {p.name: task.metrics(outcomes[CVRL][p.name]) for p in protocols}
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


def run_collection(name: str, whole: Manifest, options: argparse.Namespace) -> dict[str, Any]:
    """Every seed of one collection, and their scores."""
    seeds = []
    for seed in options.seeds:
        manifest = development(whole, seed) if options.develop else whole
        kind = "develop" if options.develop else "report"
        found = run_seed(name, manifest, seed, options.runs / f"{name}-{kind}-{seed}", options.workers)
        seeds.append(found)
        primary = COLLECTIONS[name].metric
        for protocol in ("linear", "knn"):
            shown = {
                net: statistic_of(found, net, protocol, primary)[0](np.arange(found.outcomes[net][protocol].n))
                for net in (CVRL, *CONTROLS)
            }
            print(f"{name} seed {seed} {protocol} {primary}: " + ", ".join(f"{k} {v:.3f}" for k, v in shown.items()))
        print(f"{name} seed {seed}: {found.cost['pretrain_s']} s + {found.cost['evaluate_s']} s", flush=True)
    return {
        "seeds": list(options.seeds),
        "data": describe(whole),
        "recipe": recipe_rows(RECIPE, CHANGES[name]),
        "scores": pooled_scores(name, seeds) if options.develop else all_scores(name, seeds),
        "cost": [s.cost for s in seeds],
        "notes": list(dict.fromkeys(note for s in seeds for note in s.notes)),
        "environment": environment(),
    }


# --------------------------------------------------------------------------------------------------------------- page


def score_rows(scores: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    rows = []
    for s in scores:
        strong = "**" if s["seed"] == "mean" else ""
        rows.append(
            [
                f"{s['protocol']}, {METRIC_NAMES[s['metric']]}",
                f"{strong}{s['seed']}{strong}",
                number(s["chance"]),
                number(s["values"]["frame-statistics"]["value"]),
                number(s["values"]["random-init"]["value"]),
                strong + span(s["values"][CVRL], "value") + strong,
                span(s["differences"]["random-init"], "difference"),
                span(s["differences"]["frame-statistics"], "difference"),
            ]
        )
    return rows


SCORE_HEADER = (
    "protocol",
    "seed",
    "chance",
    "frame statistics",
    "random weights",
    "CVRL",
    "CVRL − random weights",
    "CVRL − frame statistics",
)


def verdicts(scores: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the mean rows of the primary metrics decide, in words."""
    lines = []
    for s in scores:
        if s["seed"] != "mean":
            continue
        cvrl = s["values"][CVRL]
        side = "above" if cvrl["low"] > s["chance"] else "**below**" if cvrl["high"] < s["chance"] else ""
        chance = f"{side} chance" if side else "not distinguishable from chance"
        parts = [f"CVRL is {chance}"]
        for control, label in CONTROLS.items():
            d = s["differences"][control]
            if d["low"] > 0:
                word = f"better than {label} by {number(d['difference'])}"
            elif d["high"] < 0:
                word = f"**worse** than {label} by {number(-d['difference'])}"
            else:
                word = f"against {label} undecided ({number(d['difference'], sign=True)})"
            parts.append(f"{word}, where less than {number(d['detectable'])} would be missed more than once in five")
        lines.append(f"- {s['protocol']}, {METRIC_NAMES[s['metric']]}: {'; '.join(parts)}.")
    return lines


def render(found: Mapping[str, Any]) -> str:
    """The page, every number from the JSON beside it."""
    lines = [
        "# CVRL on real video",
        "",
        "Rendered from [cvrl.json](cvrl.json) by `python benchmarks/real_cvrl.py --render`; all numbers are in it.",
        "",
        "Two small public collections, pre-trained on their own training part without labels on a CPU, then probed "
        "with the encoder frozen. Controls: the same architecture with random weights, and 46 plain statistics of "
        "the same clips (colour, layout, edges, change over time). Intervals are 95 % bootstraps that resample whole "
        "groups of the test part; differences are paired. They hold for the encoders trained here: what another "
        "training part would give they do not know; the spread over seeds shows what the seed alone does.",
        "",
        "**Read later.** Random weights as they are made normalise by statistics that no layer has. Settling those "
        "alone, without learning, moves scores on these collections by as much as training did here "
        "([tcgl.md](tcgl.md), first weights). A difference to random weights below may be no more than that; "
        "this page has no such control.",
        "",
    ]
    if not found.get("report"):
        lines += ["The report seeds have not been run yet.", ""]
    for name, entry in found.get("report", {}).items():
        lines += section(name, entry)
    lines += developed(found.get("development", {}), found.get("screening", {}))
    return "\n".join(lines).rstrip() + "\n"


def section(name: str, entry: Mapping[str, Any]) -> list[str]:
    about = COLLECTIONS[name]
    train, test = entry["data"]["train"], entry["data"]["test"]
    seeds = " ".join(str(s) for s in entry["seeds"])
    cost = entry["cost"]
    seconds = [c["pretrain_s"] + c["evaluate_s"] for c in cost]
    first = cost[0]
    primary = {("linear", about.metric), ("knn", about.metric), ("retrieval", "hit@1")}
    main = [s for s in entry["scores"] if (s["protocol"], s["metric"]) in primary]
    rest = [s for s in entry["scores"] if (s["protocol"], s["metric"]) not in primary and s["seed"] == "mean"]
    versions = ", ".join(f"{k} {v}" for k, v in entry["environment"]["packages"].items())
    lines = [
        f"## {about.title}",
        "",
        f"{about.classes.capitalize()}, {len(test['classes'])} classes; {train['videos']} training videos of "
        f"{train['groups']} {about.unit}, {test['videos']} test videos of {test['groups']} other {about.unit}; "
        f"{entry['data']['hours'] * 60:.1f} minutes in all.",
        "",
        "```",
        f"python benchmarks/real_cvrl.py --data {name} --seeds {seeds}",
        "```",
        "",
        f"{first['steps']} steps; `{first['architecture']}`, {first['parameters']:,} parameters, {first['features']} "
        f"features. Seconds per run, pre-training and evaluation: {', '.join(f'{s:.0f}' for s in seconds)} on "
        f"{entry['environment']['cores']} cores ({versions}). Last contrast accuracy: "
        f"{', '.join(number(c['contrast_accuracy']) for c in cost)}.",
        "",
        *table(SCORE_HEADER, score_rows(main)),
        "Other metrics, mean of the seeds:",
        "",
        *table(SCORE_HEADER, score_rows(rest)),
        "**What it says.**",
        "",
        *verdicts(main),
        "",
        "**What n can decide.** " + " ".join(limits(entry, about)),
        "",
    ]
    if entry["notes"]:
        lines += ["Notes: " + "; ".join(entry["notes"]) + ".", ""]
    return [*lines, *setting_table(entry["recipe"])]


def developed(entries: Mapping[str, Any], screening: Mapping[str, Any]) -> list[str]:
    """How the settings were chosen: what was tried, and the chosen ones on held-out groups."""
    if not entries and not screening:
        return []
    lines = [
        "## How the settings were chosen",
        "",
        "On development seeds and the training parts; no test part was opened.",
    ]
    lines.append("")
    if screening:
        rows = [
            [r["data"], r["what"], r["seed"], *(number(r[k]) for k in ("linear", "knn", "hit1", "map"))]
            for r in screening["rows"]
        ]
        lines += [screening["how"], ""]
        lines += table(("data", "tried", "seed", "linear", "knn (k = 10)", "hit@1", "mAP"), rows)
        lines += [screening["found"], ""]
    if entries:
        lines += [
            "The chosen settings with `--develop`: a third of the training part, cut by whole groups, was held out of "
            "pre-training and probing and scored, another third for each seed. Means over the seeds:",
            "",
        ]
        rows = []
        for name, entry in entries.items():
            for s in entry["scores"]:
                v = s["values"]
                cells = [name, f"{s['protocol']}, {METRIC_NAMES[s['metric']]}", ", ".join(map(str, entry["seeds"]))]
                rows.append(
                    [*cells, str(s["n"]), *(number(v[net]) for net in ("frame-statistics", "random-init", CVRL))]
                )
        header = ("data", "protocol", "seeds", "n", "frame statistics", "random weights", "CVRL")
        lines += table(header, rows)
    return lines


def main() -> None:
    run_main(arguments(__doc__, page="cvrl", seeds=(1001, 1002, 1003), threads=2, workers=1), run_collection, render)


if __name__ == "__main__":
    main()

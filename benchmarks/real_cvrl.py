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
import json
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

import unreel
from unreel.core.errors import DataError
from unreel.data.index import index
from unreel.data.manifest import Manifest
from unreel.data.splits import group_kfold
from unreel.nn import count_parameters
from unreel.protocols.features import default_plan, embed_all
from unreel.protocols.protocol import Outcomes
from unreel.recipes import load_recipe
from unreel.stats import bootstrap_ci, paired_bootstrap
from unreel.tasks import FrameStatistics, LabelTask, random_init
from unreel.tasks.evaluate import resolve_protocols
from unreel.train.run import describe_environment

REPOSITORY = Path(__file__).resolve().parents[1]
RECIPE = "cvrl_small"
PROTOCOLS = ("linear", "knn", "retrieval")
CONTROLS = {"random-init": "random weights", "frame-statistics": "frame statistics"}
CVRL = "cvrl"


class Change(NamedTuple):
    """A setting that differs from the recipe for one collection, and why."""

    setting: str
    value: object
    why: str


@dataclass(frozen=True)
class Collection:
    """Where a collection's table and videos are, what its columns mean, and what its nature asks of the recipe."""

    title: str
    table: str
    videos: str
    columns: Mapping[str, str]
    classes: str
    unit: str
    metric: str
    changes: tuple[Change, ...]


COLLECTIONS = {
    "fight_surv": Collection(
        title="Surveillance camera fights (Aktı et al. 2019)",
        table="fight_surv/labels.csv",
        videos="fight_surv",
        columns={"path": "clip", "group": "source_group"},
        classes="fight or not",
        unit="scenes",
        metric="accuracy",
        changes=(
            Change(
                "encoder.dct_highpass",
                1,
                "the cameras stand still: a clip minus its mean over time is what moves, and the scene, by which "
                "two clips of a video are all too easily matched, is gone",
            ),
        ),
    ),
    "covid_blues": Collection(
        title="COVID-BLUES lung ultrasound (Wiedemann et al. 2025)",
        table="covid_blues/labels.csv",
        videos="covid_blues/lus_videos",
        columns={"path": "video", "group": "patient", "label": "bluepoint"},
        classes="scan position",
        unit="patients",
        metric="balanced_accuracy",
        changes=(
            Change("method.flip_p", 0.0, "left and right of the image are left and right of the probe: positions"),
            Change("method.saturation", 0.0, "B-mode video is grey"),
            Change("method.hue", 0.0, "B-mode video is grey"),
            Change("method.gray_p", 0.0, "B-mode video is grey"),
        ),
    ),
}


# ------------------------------------------------------------------------------------------------------------ the run


def open_collection(name: str, root: Path) -> Manifest:
    """The collection's manifest with probed facts. Raises DataError where the collection or a file of it is absent."""
    about = COLLECTIONS[name]
    table = root / about.table
    if not table.is_file():
        raise DataError(f"{table} is not there; --root names the folder that holds {name}/")
    manifest = Manifest.from_csv(table, root=root / about.videos, columns=about.columns)
    indexed = index(manifest)
    for fault in indexed.faults:
        print(f"fault: {fault.message}")
    return indexed.manifest


def development(manifest: Manifest, seed: int) -> Manifest:
    """The training part alone, one third of it (whole groups, a third per seed) now called the test part."""
    train = manifest.select(split="train")
    folds = group_kfold(train, 3, labels="label")
    return train.with_splits(["test" if fold == seed % 3 else "train" for fold in folds])


class Seed(NamedTuple):
    """What one seed's run found: outcomes[encoder][protocol] on the test part, and what it cost."""

    seed: int
    outcomes: dict[str, dict[str, Outcomes]]
    metrics: dict[str, tuple[Any, ...]]
    notes: tuple[str, ...]
    cost: dict[str, object]


def run_seed(name: str, manifest: Manifest, seed: int, out: Path, workers: int) -> Seed:
    """Pre-train and fit every protocol on the training part, score the test part."""
    about = COLLECTIONS[name]
    start = time.perf_counter()
    settings: dict[str, Any] = {change.setting: change.value for change in about.changes}
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
    embeddings = dict(zip(nets, embed_all(list(nets.values()), task.clips(plan), workers=workers), strict=True))
    protocols = resolve_protocols(PROTOCOLS)
    outcomes: dict[str, dict[str, Outcomes]] = {}
    notes: list[str] = list(task.notes)
    for net, found in embeddings.items():
        parts = task.parts(found)
        outcomes[net] = {p.name: p.fit(parts.train, seed=seed).score(parts.test) for p in protocols}
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
        "probe": {p: dict(o.settings) for p, o in outcomes[CVRL].items()},
    }
    metrics = {p.name: task.metrics(outcomes[CVRL][p.name]) for p in protocols}
    return Seed(seed, outcomes, metrics, tuple(dict.fromkeys(notes)), cost)


# ------------------------------------------------------------------------------------------------------------- scores

Statistic = Callable[[NDArray[np.int64]], float]


def statistic_of(seed: Seed, net: str, protocol: str, metric: str) -> tuple[Statistic, float]:
    """A metric of one encoder as a function of test rows, and the score of looking at nothing."""
    outcomes = seed.outcomes[net][protocol]
    chosen = next(m for m in seed.metrics[protocol] if m.name == metric)
    if chosen.statistic is not None:
        made = chosen.statistic(outcomes)
        return made.statistic, float(made.chance)
    values = outcomes.values[metric]
    return (lambda rows: float(values[rows].mean())), float(outcomes.chance[metric])


def mean_of(functions: Sequence[Statistic]) -> Statistic:
    """The mean over seeds on the same resampled rows."""
    return lambda rows: float(np.mean([f(rows) for f in functions]))


def score(seeds: Sequence[Seed], protocol: str, metric: str, unit: str) -> dict[str, Any]:
    """One row of the table: every encoder's score with its interval over groups, and CVRL's paired differences."""
    groups = seeds[0].outcomes[CVRL][protocol].groups
    assert groups is not None
    rows = np.arange(len(groups))
    made = {net: [statistic_of(s, net, protocol, metric) for s in seeds] for net in (CVRL, *CONTROLS)}
    means = {net: mean_of([f for f, _ in found]) for net, found in made.items()}
    values = {}
    for net, function in means.items():
        interval = bootstrap_ci(function, groups=groups)
        values[net] = {"value": function(rows), "low": interval.low, "high": interval.high}
    differences = {}
    for net in CONTROLS:
        d = paired_bootstrap(means[CVRL], means[net], groups=groups)
        differences[net] = {
            "difference": d.difference,
            "low": d.low,
            "high": d.high,
            "p": d.p_value,
            "detectable": detectable(d.high - d.low, d.n_groups),
        }
    return {
        "seed": seeds[0].seed if len(seeds) == 1 else "mean",
        "protocol": protocol,
        "metric": metric,
        "n": len(groups),
        "groups": len(np.unique(groups)),
        "unit": unit,
        "chance": float(np.mean([c for _, c in made[CVRL]])),
        "values": values,
        "differences": differences,
    }


def detectable(width: float, groups: int) -> float:
    """The smallest true difference that a two-sided 5 % test over groups finds four times in five.

    The standard error is that of the bootstrap (a 95 % interval is 2 · 1.96 of them wide); the factor is Student's with
    one degree of freedom less than there are groups.
    """
    error = width / (2 * stats.norm.ppf(0.975))
    return float(error * (stats.t.ppf(0.975, groups - 1) + stats.t.ppf(0.8, groups - 1)))


def all_scores(name: str, seeds: Sequence[Seed]) -> list[dict[str, Any]]:
    """Per seed and for the mean of the seeds: the primary metric of every protocol, and what else is worth a row."""
    about = COLLECTIONS[name]
    other = "accuracy" if about.metric == "balanced_accuracy" else "balanced_accuracy"
    asked = [("linear", about.metric), ("knn", about.metric), ("retrieval", "hit@1")]
    asked += [("linear", other), ("knn", other), ("retrieval", "mAP")]
    parts = [[s] for s in seeds] + ([list(seeds)] if len(seeds) > 1 else [])
    return [score(part, protocol, metric, about.unit) for protocol, metric in asked for part in parts]


def pooled_scores(name: str, seeds: Sequence[Seed]) -> list[dict[str, Any]]:
    """Development: every seed has its own held-out third, so scores are means over seeds, without intervals."""
    about = COLLECTIONS[name]
    rows = []
    for protocol, metric in (("linear", about.metric), ("knn", about.metric), ("retrieval", "mAP")):
        found: dict[str, float] = {}
        for net in (CVRL, *CONTROLS):
            pairs = [(statistic_of(s, net, protocol, metric)[0], s.outcomes[net][protocol].n) for s in seeds]
            found[net] = float(np.mean([function(np.arange(n)) for function, n in pairs]))
        n = sum(s.outcomes[CVRL][protocol].n for s in seeds)
        rows.append({"protocol": protocol, "metric": metric, "n": n, "values": found})
    return rows


def describe(manifest: Manifest) -> dict[str, Any]:
    """Sizes of the parts."""
    found: dict[str, Any] = {}
    for part in ("train", "test"):
        rows = [row for row in manifest if row.split == part]
        labels = Counter(row.labels["label"] for row in rows)
        groups = {row.groups["group"] for row in rows}
        found[part] = {"videos": len(rows), "groups": len(groups), "classes": dict(sorted(labels.items()))}
    seconds = [row.facts.duration_s for row in manifest if row.facts is not None]
    found["hours"] = round(sum(seconds) / 3600, 3)
    return found


def recipe_rows(name: str) -> list[list[str]]:
    """The recipe's lines as (setting, value, why), a collection's changes in place of what they replace."""
    rows: dict[str, list[str]] = {}
    section = ""
    for line in load_recipe(RECIPE).path.read_text(encoding="utf-8").splitlines():
        if head := re.match(r"(\w+):\s*$", line):
            section = head[1]
        elif entry := re.match(r"\s+(\w+):\s*([^#]*?)\s*(?:#\s*(.*))?$", line):
            setting = f"{section}.{entry[1]}"
            rows[setting] = [setting, entry[2], entry[3] or ""]
    for change in COLLECTIONS[name].changes:
        value = str(change.value).lower() if isinstance(change.value, bool) else str(change.value)
        before = rows[change.setting][1] if change.setting in rows else "the default"
        rows[change.setting] = [change.setting, value, f"{change.why} (recipe: {before})"]
    return list(rows.values())


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
    environment = describe_environment()
    return {
        "seeds": list(options.seeds),
        "data": describe(whole),
        "recipe": recipe_rows(name),
        "scores": pooled_scores(name, seeds) if options.develop else all_scores(name, seeds),
        "cost": [s.cost for s in seeds],
        "notes": list(dict.fromkeys(note for s in seeds for note in s.notes)),
        "environment": {k: environment[k] for k in ("python", "packages", "cores", "threads")},
    }


# --------------------------------------------------------------------------------------------------------------- page


def number(value: float, *, sign: bool = False) -> str:
    text = f"{value:+.3f}" if sign else f"{value:.3f}"
    return text.replace("-", "−")


def span(entry: Mapping[str, float], key: str) -> str:
    sign = key == "difference"
    low, high = number(entry["low"], sign=sign), number(entry["high"], sign=sign)
    return f"{number(entry[key], sign=sign)} [{low}, {high}]"


METRIC_NAMES = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "hit@1": "hit@1", "mAP": "mAP"}


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(header) + " |",
        "|" + "---|" * len(header),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
    ]


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
        chance = "above chance" if cvrl["low"] > s["chance"] else "not distinguishable from chance"
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


def limits(entry: Mapping[str, Any], about: Collection) -> list[str]:
    """What this many videos in this many groups can and cannot decide, before any result is known."""
    test = entry["data"]["test"]
    n, groups = test["videos"], test["groups"]
    largest = max(test["classes"].values())
    chance = largest / n if about.metric == "accuracy" else 1 / len(test["classes"])
    half = stats.norm.ppf(0.975) * math.sqrt(chance * (1 - chance) / n)
    lines = [
        f"{n} test videos in {groups} {about.unit}: were all videos independent, an accuracy at chance "
        f"({number(chance)}) would still be read with ± {number(half)} (95 %). Videos of one of the {about.unit} are "
        "alike, so intervals resample whole groups; those in the table are what the data gave.",
    ]
    if groups < 10:
        all_agree = 2 * 0.5**groups
        one_against = 2 * (groups + 1) * 0.5**groups
        lines.append(
            f"With {groups} groups a bootstrap interval is too narrow. A sign test over {about.unit} reaches 5 % only "
            f"if all {groups} agree (p = {all_agree:.3f}); one against the others already gives p = {one_against:.3f}."
        )
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
    lines += ["Settings:", "", *table(("setting", "value", "why"), [[f"`{a}`", b, c] for a, b, c in entry["recipe"]])]
    return lines


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=sorted(COLLECTIONS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1001, 1002, 1003])
    parser.add_argument("--root", type=Path, default=REPOSITORY.parent / "shared" / "data")
    parser.add_argument("--runs", type=Path, default=REPOSITORY / "runs" / "real_cvrl", help="where runs are kept")
    parser.add_argument("--json", type=Path, default=REPOSITORY / "docs" / "results" / "cvrl.json")
    parser.add_argument("--develop", action="store_true", help="score on a part of the training part instead")
    parser.add_argument("--render", action="store_true", help="only write the page from the JSON")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1, help="processes that decode")
    options = parser.parse_args()
    found: dict[str, Any] = {"format": 1, "report": {}, "development": {}}
    if options.json.is_file():
        found = json.loads(options.json.read_text(encoding="utf-8"))
    if not options.render:
        if options.data is None:
            parser.error("--data is missing: " + " or ".join(sorted(COLLECTIONS)))
        torch.set_num_threads(options.threads)
        try:
            manifest = open_collection(options.data, options.root)
        except DataError as error:
            print(f"skipped {options.data}: {error}")
            return
        entry = run_collection(options.data, manifest, options)
        found["development" if options.develop else "report"][options.data] = entry
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    options.json.with_suffix(".md").write_text(render(found), encoding="utf-8")


if __name__ == "__main__":
    main()

"""What the benchmarks on real collections share: the collections, held-out thirds, paired scores, tables, words.

``real_cvrl.py`` and ``real_tcgl.py`` use it; it runs nothing by itself. The collections are not part of this
repository; their READMEs name source and licence.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from unreel.core.errors import DataError, UsageError
from unreel.data.dataset import resize_frames
from unreel.data.index import index
from unreel.data.manifest import Manifest
from unreel.data.splits import group_kfold
from unreel.media import Frames, VideoInfo, decoder_for
from unreel.recipes import load_recipe
from unreel.stats import bootstrap_ci, paired_bootstrap
from unreel.tasks.task import Outcomes
from unreel.train.run import describe_environment

REPOSITORY = Path(__file__).resolve().parents[1]
CONTROLS = {"random-init": "random weights", "frame-statistics": "frame statistics"}


class Change(NamedTuple):
    """A setting that differs from the recipe for one collection, and why."""

    setting: str
    value: object
    why: str


@dataclass(frozen=True)
class Collection:
    """Where a collection's table and videos are, and what its columns mean."""

    title: str
    table: str
    videos: str
    columns: Mapping[str, str]
    classes: str
    unit: str
    metric: str


COLLECTIONS = {
    "fight_surv": Collection(
        title="Surveillance camera fights (Aktı et al. 2019)",
        table="fight_surv/labels.csv",
        videos="fight_surv",
        columns={"path": "clip", "group": "source_group"},
        classes="fight or not",
        unit="scenes",
        metric="accuracy",
    ),
    "covid_blues": Collection(
        title="COVID-BLUES lung ultrasound (Wiedemann et al. 2025)",
        table="covid_blues/labels.csv",
        videos="covid_blues/lus_videos",
        columns={"path": "video", "group": "patient", "label": "bluepoint"},
        classes="scan position",
        unit="patients",
        metric="balanced_accuracy",
    ),
}


# ------------------------------------------------------------------------------------------------------------ the data


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


class KeptFrames:
    """A decoder that reads each video once, resizes its frames to one size and keeps them in memory.

    Where a view or a clip plan begins with that very resize, samples are the same to the bit, and a run of many epochs
    over a few hundred short videos is bound by computing and not by decoding.
    """

    name = "kept"

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self._frames: dict[str, Frames] = {}

    def _whole(self, path: str | PathLike[str]) -> Frames:
        key = fspath(path)
        if key not in self._frames:
            found = decoder_for(path).read(path, indices=np.arange(decoder_for(path).probe(path).num_frames))
            small = resize_frames(torch.from_numpy(found.pixels), self.height, self.width)
            self._frames[key] = Frames(small.contiguous().numpy(), found.times_s)
        return self._frames[key]

    def probe(self, path: str | PathLike[str]) -> VideoInfo:
        """The file's facts, at the size it is kept."""
        return replace(decoder_for(path).probe(path), height=self.height, width=self.width)

    def frame_times(self, path: str | PathLike[str]) -> NDArray[np.float64]:
        """Presentation time of every frame."""
        return decoder_for(path).frame_times(path)

    def read(
        self,
        path: str | PathLike[str],
        *,
        indices: NDArray[np.int64] | None = None,
        times_s: NDArray[np.float64] | None = None,
    ) -> Frames:
        """Kept frames by index. Raises UsageError for times, which no sampler here asks for."""
        if indices is None or times_s is not None:
            raise UsageError("kept frames are read by index")
        whole = self._whole(path)
        return Frames(whole.pixels[indices], whole.times_s[indices])

    def facts(self, manifest: Manifest) -> Manifest:
        """The same manifest, whose probed facts tell the size that the frames are kept at."""
        rows = [
            row if row.facts is None else replace(row, facts=replace(row.facts, height=self.height, width=self.width))
            for row in manifest
        ]
        return replace(manifest, rows=tuple(rows))


# -------------------------------------------------------------------------------------------------------------- scores

Statistic = Callable[[NDArray[np.int64]], float]


class Seed(NamedTuple):
    """What one seed's run found: outcomes[encoder][protocol] on the test part, and what it cost."""

    seed: int
    outcomes: dict[str, dict[str, Outcomes]]
    metrics: dict[str, tuple[Any, ...]]
    notes: tuple[str, ...]
    cost: dict[str, Any]


def statistic_of(seed: Seed, net: str, protocol: str, metric: str) -> tuple[Statistic, float]:
    """A metric of one encoder as a function of test rows, and the score of looking at nothing."""
    outcomes = seed.outcomes[net][protocol]
    chosen = next(m for m in seed.metrics[protocol] if m.name == metric)
    if chosen.statistic is not None:
        made = chosen.statistic(outcomes)
        return made.statistic, float(made.chance)
    values = outcomes.values[metric]
    return (lambda rows: float(values[rows].mean())), float(outcomes.chance[metric])


def mean_of(
    seeds: Sequence[Seed], net: str, protocol: str, metric: str
) -> tuple[Statistic | NDArray[np.float64], float, float]:
    """The mean over seeds as ``bootstrap_ci`` takes it, on the same samples for all; its value; and chance.

    A mean over samples is given as their outcomes, which is the quicker way to resample it.
    """
    made = [statistic_of(s, net, protocol, metric) for s in seeds]
    chance = float(np.mean([c for _, c in made]))
    if all(next(m for m in s.metrics[protocol] if m.name == metric).statistic is None for s in seeds):
        values = np.mean([s.outcomes[net][protocol].values[metric] for s in seeds], axis=0)
        return values, float(values.mean()), chance
    rows = np.arange(seeds[0].outcomes[net][protocol].n)
    value = float(np.mean([f(rows) for f, _ in made]))
    return (lambda chosen: float(np.mean([f(chosen) for f, _ in made]))), value, chance


def compare(
    seeds: Sequence[Seed], protocol: str, metric: str, unit: str, pairs: Mapping[str, tuple[str, str]]
) -> dict[str, Any]:
    """One row of a table: every encoder's score with its interval over groups, and paired differences by name.

    ``pairs``: name → (a, b) for a − b. Chance is that of the first pair's first encoder.
    """
    nets = list(dict.fromkeys(net for pair in pairs.values() for net in pair))
    groups = seeds[0].outcomes[nets[0]][protocol].truth.groups
    assert groups is not None
    means = {net: mean_of(seeds, net, protocol, metric) for net in nets}
    values = {}
    for net, (source, value, _) in means.items():
        interval = bootstrap_ci(source, groups=groups)
        values[net] = {"value": value, "low": interval.low, "high": interval.high}
    differences = {}
    for name, (a, b) in pairs.items():
        d = paired_bootstrap(means[a][0], means[b][0], groups=groups)
        differences[name] = {
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
        "chance": means[nets[0]][2],
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


def compare_all(
    asked: Sequence[tuple[str, str]], seeds: Sequence[Seed], unit: str, pairs: Mapping[str, tuple[str, str]]
) -> list[dict[str, Any]]:
    """Rows per seed and for the mean of the seeds, for each (protocol, metric)."""
    parts = [[s] for s in seeds] + ([list(seeds)] if len(seeds) > 1 else [])
    return [compare(part, protocol, metric, unit, pairs) for protocol, metric in asked for part in parts]


def pooled(asked: Sequence[tuple[str, str]], seeds: Sequence[Seed], nets: Sequence[str]) -> list[dict[str, Any]]:
    """Development: every seed has its own held-out third, so scores are means over seeds, without intervals."""
    rows = []
    for protocol, metric in asked:
        found: dict[str, float] = {}
        for net in nets:
            pairs = [(statistic_of(s, net, protocol, metric)[0], s.outcomes[net][protocol].n) for s in seeds]
            found[net] = float(np.mean([function(np.arange(n)) for function, n in pairs]))
        n = sum(s.outcomes[nets[0]][protocol].n for s in seeds)
        rows.append({"protocol": protocol, "metric": metric, "n": n, "values": found})
    return rows


def environment() -> dict[str, Any]:
    """What of the machine and the packages is worth a line on the page."""
    found = describe_environment()
    return {k: found[k] for k in ("python", "packages", "cores", "threads")}


def recipe_rows(recipe: str, changes: Sequence[Change]) -> list[list[str]]:
    """The recipe's lines as (setting, value, why), a collection's changes in place of what they replace."""
    rows: dict[str, list[str]] = {}
    section = ""
    for line in load_recipe(recipe).path.read_text(encoding="utf-8").splitlines():
        if head := re.match(r"(\w+):\s*$", line):
            section = head[1]
        elif entry := re.match(r"\s+(\w+):\s*([^#]*?)\s*(?:#\s*(.*))?$", line):
            setting = f"{section}.{entry[1]}"
            rows[setting] = [setting, entry[2], entry[3] or ""]
    for change in changes:
        value = str(change.value).lower() if isinstance(change.value, bool) else str(change.value)
        before = rows[change.setting][1] if change.setting in rows else "the default"
        rows[change.setting] = [change.setting, value, f"{change.why} (recipe: {before})"]
    return list(rows.values())


# ---------------------------------------------------------------------------------------------------------------- page

METRIC_NAMES = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "hit@1": "hit@1", "mAP": "mAP"}


def number(value: float, *, sign: bool = False) -> str:
    text = f"{value:+.3f}" if sign else f"{value:.3f}"
    return text.replace("-", "−")


def span(entry: Mapping[str, float], key: str) -> str:
    sign = key == "difference"
    low, high = number(entry["low"], sign=sign), number(entry["high"], sign=sign)
    return f"{number(entry[key], sign=sign)} [{low}, {high}]"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(header) + " |",
        "|" + "---|" * len(header),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
    ]


def setting_table(rows: Sequence[Sequence[str]]) -> list[str]:
    return ["Settings:", "", *table(("setting", "value", "why"), [[f"`{a}`", b, c] for a, b, c in rows])]


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


# -------------------------------------------------------------------------------------------------------- command line


def arguments(
    description: str | None, *, page: str, seeds: Sequence[int], threads: int, workers: int
) -> argparse.ArgumentParser:
    """The command line that both scripts share; ``page`` names the results (``cvrl``)."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=sorted(COLLECTIONS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
    parser.add_argument("--root", type=Path, default=REPOSITORY.parent / "shared" / "data")
    runs = REPOSITORY / "runs" / f"real_{page}"
    parser.add_argument("--runs", type=Path, default=runs, help="where runs are kept")
    parser.add_argument("--json", type=Path, default=REPOSITORY / "docs" / "results" / f"{page}.json")
    parser.add_argument("--develop", action="store_true", help="score on a part of the training part instead")
    parser.add_argument("--render", action="store_true", help="only write the page from the JSON")
    parser.add_argument("--threads", type=int, default=threads)
    parser.add_argument("--workers", type=int, default=workers, help="processes that decode")
    return parser


def main(
    parser: argparse.ArgumentParser,
    run: Callable[[str, Manifest, argparse.Namespace], dict[str, Any]],
    render: Callable[[Mapping[str, Any]], str],
) -> None:
    """Run one collection into the JSON (or nothing, with ``--render``), and write the page from it."""
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
        start = time.perf_counter()
        entry = run(options.data, manifest, options)
        print(f"{options.data}: {time.perf_counter() - start:.0f} s")
        if options.json.is_file():  # again: another collection may have finished meanwhile
            found = json.loads(options.json.read_text(encoding="utf-8"))
        found["development" if options.develop else "report"][options.data] = entry
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    options.json.with_suffix(".md").write_text(render(found), encoding="utf-8")

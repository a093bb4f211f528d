"""What the benchmarks on real collections share: the collections, held-out thirds, paired scores, tables, words.

``real_cvrl.py`` and ``real_tcgl.py`` use it; it runs nothing by itself. The collections are not part of this
repository; their READMEs name source and licence.
"""

from __future__ import annotations

import argparse
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
from common import (
    COLLECTIONS_ROOT,
    REPOSITORY,
    RESULTS,
    arguments,
    cell,
    difference,
    environment,
    load,
    save,
)
from numpy.typing import NDArray
from scipy import stats

from unreel.core.errors import DataError, UsageError
from unreel.data.dataset import resize_frames
from unreel.data.index import index
from unreel.data.manifest import Manifest
from unreel.data.sampling import ClipPlan
from unreel.data.splits import group_kfold
from unreel.media import Frames, VideoInfo, decoder_for
from unreel.nn import Encoder
from unreel.protocols import Compute, Pooling
from unreel.recipes import load_recipe
from unreel.tasks import LabelTask
from unreel.tasks.evaluate import Asked, ask
from unreel.tasks.profiles import AnyProtocol
from unreel.tasks.task import Metric, Outcomes

FEW_GROUPS = 10  # below, a bootstrap over groups is too narrow and each group's sign is told
FACTS = {"NORMAL": stats.norm.ppf(0.975), "FEW_GROUPS": FEW_GROUPS}  # what both pages are filled in with
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


class Seed(NamedTuple):
    """What one seed's run found: outcomes[encoder][protocol] on the test part, and what it cost."""

    seed: int
    outcomes: dict[str, dict[str, Outcomes]]
    metrics: dict[str, tuple[Metric, ...]]
    notes: tuple[str, ...]
    cost: dict[str, Any]

    def measured(self, net: str, protocol: str, metric: str) -> Any:
        """A metric of one encoder: value, chance, and what intervals resample."""
        chosen = next(m for m in self.metrics[protocol] if m.name == metric)
        return chosen.measure(self.outcomes[net][protocol])

    def line(self, nets: Sequence[str], protocol: str, metric: str) -> str:
        """Every encoder's score, for people who wait."""
        return ", ".join(f"{net} {self.measured(net, protocol, metric).value:.3f}" for net in nets)


def probe(
    nets: Mapping[str, Encoder],
    manifest: Manifest,
    plan: ClipPlan,
    protocols: Sequence[AnyProtocol],
    seed: int,
    *,
    compute: Compute,
    pooling: str | None = None,
) -> tuple[dict[str, dict[str, Outcomes]], dict[str, tuple[Metric, ...]], list[str]]:
    """Every encoder frozen, by every protocol: outcomes, metrics, notes. Plain statistics have no map to pool."""
    task = LabelTask(manifest, seed=seed)
    pooled = None if pooling is None else Pooling.of(pooling)
    asked = {name: Asked(net, plan, None if name == "frame-statistics" else pooled) for name, net in nets.items()}
    found = ask(task, protocols, asked, seed=seed, compute=compute)
    outcomes = {net: {p: r.outcomes for p, r in records.items()} for net, records in found.records.items()}
    metrics = {p: task.metrics(o) for p, o in outcomes[next(iter(nets))].items()}
    notes = [*task.notes, *(f"{fault.path} could not be read ({fault.cause})" for fault in found.faults)]
    notes += [f"{net}, {p}: {note}" for net, by in outcomes.items() for p, o in by.items() for note in o.notes]
    return outcomes, metrics, notes


def mean_of(seeds: Sequence[Seed], net: str, protocol: str, metric: str) -> tuple[Any, float, float]:
    """The mean over seeds as ``bootstrap_ci`` takes it, on the same samples for all; its value; and chance.

    A mean over samples is given as their outcomes, which is the quicker way to resample it.
    """
    made = [s.measured(net, protocol, metric) for s in seeds]
    sources, chance = [m.source for m in made], float(np.mean([m.chance for m in made]))
    if not any(callable(source) for source in sources):
        values = np.mean(sources, axis=0)
        return values, float(values.mean()), chance
    return (lambda rows: float(np.mean([f(rows) for f in sources]))), float(np.mean([m.value for m in made])), chance


def compare(
    seeds: Sequence[Seed], protocol: str, metric: str, unit: str, pairs: Mapping[str, tuple[str, str]]
) -> dict[str, Any]:
    """One row of a table: every encoder's score with its interval over groups, and paired differences by name.

    ``pairs``: name → (a, b) for a − b. Chance is that of the first pair's first encoder.
    """
    nets = list(dict.fromkeys(net for pair in pairs.values() for net in pair))
    groups = seeds[0].outcomes[nets[0]][protocol].truth.groups
    means = {net: mean_of(seeds, net, protocol, metric) for net in nets}
    units = len(np.unique(groups))
    differences = {name: difference(means[a][0], means[b][0], groups) for name, (a, b) in pairs.items()}
    for d in differences.values():
        d["detectable"] = detectable(d["high"] - d["low"], units)
    return {
        "seed": seeds[0].seed if len(seeds) == 1 else "mean",
        "protocol": protocol,
        "metric": metric,
        "n": len(groups),
        "groups": units,
        "unit": unit,
        "chance": means[nets[0]][2],
        "values": {net: cell(source, groups, value=value) for net, (source, value, _) in means.items()},
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
        found = {n: float(np.mean([s.measured(n, protocol, metric).value for s in seeds])) for n in nets}
        n = sum(s.outcomes[nets[0]][protocol].n for s in seeds)
        rows.append({"protocol": protocol, "metric": metric, "n": n, "values": found})
    return rows


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


# -------------------------------------------------------------------------------------------------------- command line


class Study(NamedTuple):
    """One of the scripts: its page's name, its recipe and what a collection changes of it, and what it does.

    ``run``: one seed of a collection; ``scores`` of report seeds, ``pooled`` of development seeds; ``told``: protocols,
    metrics and encoders to print, and seconds.
    """

    name: str
    recipe: str
    changes: Mapping[str, Sequence[Change]]
    run: Callable[[str, Manifest, int, Path, argparse.Namespace], Seed]
    scores: Callable[[str, Sequence[Seed]], list[dict[str, Any]]]
    pooled: Callable[[str, Sequence[Seed]], list[dict[str, Any]]]
    told: Callable[[str, Seed], tuple[list[tuple[str, str, Sequence[str]]], list[float]]]

    def collection(self, name: str, whole: Manifest, options: argparse.Namespace) -> dict[str, Any]:
        """Every seed of one collection, and their scores."""
        seeds = []
        for seed in options.seeds:
            manifest = development(whole, seed) if options.develop else whole
            kind = "develop" if options.develop else "report"
            found = self.run(name, manifest, seed, options.runs / f"{name}-{kind}-{seed}", options)
            seeds.append(found)
            rows, seconds = self.told(name, found)
            for protocol, metric, nets in rows:
                print(f"{name} seed {seed} {protocol} {metric}: {found.line(nets, protocol, metric)}")
            print(f"{name} seed {seed}: {' s + '.join(map(str, seconds))} s", flush=True)
        return {
            "seeds": list(options.seeds),
            "data": describe(whole),
            "recipe": recipe_rows(self.recipe, self.changes[name]),
            "scores": (self.pooled if options.develop else self.scores)(name, seeds),
            "cost": [s.cost for s in seeds],
            "notes": list(dict.fromkeys(note for s in seeds for note in s.notes)),
            "environment": environment(),
        }


def main(
    study: Study,
    description: str | None,
    render: Callable[[Mapping[str, Any]], str],
    *,
    seeds: Sequence[int],
    threads: int,
    workers: int,
) -> None:
    """Run one collection into the JSON (or nothing, with ``--render``), and write the page from it."""
    parser = arguments(description, out=False)
    parser.add_argument("--data", choices=sorted(COLLECTIONS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
    parser.add_argument("--root", type=Path, default=COLLECTIONS_ROOT)
    runs = REPOSITORY / "runs" / f"real_{study.name}"
    parser.add_argument("--runs", type=Path, default=runs, help="where runs are kept")
    parser.add_argument("--json", type=Path, default=RESULTS / f"{study.name}.json")
    parser.add_argument("--develop", action="store_true", help="score on a part of the training part instead")
    parser.add_argument("--render", action="store_true", help="only write the page from the JSON")
    parser.add_argument("--threads", type=int, default=threads)
    parser.add_argument("--workers", type=int, default=workers, help="processes that decode")
    options = parser.parse_args()
    nothing: dict[str, Any] = {"format": 1, "report": {}, "development": {}}
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
        entry = study.collection(options.data, manifest, options)
        print(f"{options.data}: {time.perf_counter() - start:.0f} s")
        found = load(options.json, nothing)  # now: another collection may have finished meanwhile
        found["development" if options.develop else "report"][options.data] = entry
        save(options.json, found)
    options.json.with_suffix(".md").write_text(render(load(options.json, nothing)), encoding="utf-8")

"""TCGL on two small collections of real video, as published and without its leak, beside controls.

    python benchmarks/real_tcgl.py --data fight_surv --seeds 4001 4002 4003
    python benchmarks/real_tcgl.py --data covid_blues --seeds 4001 4002 4003
    python benchmarks/real_tcgl.py --render                      # docs/results/tcgl.md from tcgl.json, nothing is run

Each seed pre-trains two encoders on the training part, from the same weights and on the same snippets: one whose order
head is given the graph built from the order (the paper's setting, which leaks: docs/methods/tcgl.md, Where we differ,
P1), one whose head is given a graph that knows nothing of it. Both, the same architecture with random weights, and
plain statistics of the same clips are then probed as ``real_cvrl.py`` does it, and the test part's order is predicted.
No group (scene, patient) is in both parts. Nothing is chosen by looking at the test part.

``--develop`` leaves the test part out altogether: a third of the training part, cut by whole groups (another third for
each of three consecutive seeds), is held out and scored instead. Settings were chosen so.

The collections are not part of this repository; their READMEs name source and licence. Where one is absent the script
says so and ends.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from common import fill, settled, side
from numpy.typing import NDArray
from real_data import (
    COLLECTIONS,
    FACTS,
    FEW_GROUPS,
    Change,
    Collection,
    KeptFrames,
    Seed,
    Study,
    compare_all,
    main,
    pooled,
    probe,
)
from real_data import CONTROLS as COMMON_CONTROLS
from scipy import stats

import unreel
from unreel.api import run_prepared
from unreel.data.batch import Batch, collate
from unreel.data.dataset import ClipDataset
from unreel.data.loader import ClipLoader
from unreel.data.manifest import Manifest
from unreel.data.snippets import SnippetSampler, permutation_class, permutations
from unreel.methods import Method
from unreel.nn import Encoder, count_parameters
from unreel.protocols import KNN, Compute, LinearProbe
from unreel.protocols.clips import default_plan
from unreel.protocols.features import embed_all, evaluation_mode
from unreel.protocols.head import HeadCard, Predictions, with_card
from unreel.protocols.retrieval import Retrieval
from unreel.protocols.samples import FeatureSet, Truth
from unreel.recipes import load_recipe
from unreel.recipes.build import Prepared, prepare
from unreel.tasks import FrameStatistics, LabelTask, random_init
from unreel.tasks.classification import score_head
from unreel.tasks.task import Metric, Outcomes
from unreel.train.run import Run

RECIPE = "tcgl_small"
FAITHFUL, LEAK_FREE = "faithful", "leak-free"
# The one setting in which the two differ.
VARIANTS = {FAITHFUL: "order", LEAK_FREE: "position_chain"}
FIRST = "first-weights"
CONTROLS = {FIRST: "first weights", **COMMON_CONTROLS}
NETS = {FAITHFUL: "TCGL, faithful", LEAK_FREE: "TCGL, leak-free", **CONTROLS}
PAIRS = {
    f"{FAITHFUL} − random-init": (FAITHFUL, "random-init"),
    f"{LEAK_FREE} − random-init": (LEAK_FREE, "random-init"),
    f"{FAITHFUL} − {FIRST}": (FAITHFUL, FIRST),
    f"{LEAK_FREE} − {FIRST}": (LEAK_FREE, FIRST),
    f"{FAITHFUL} − {LEAK_FREE}": (FAITHFUL, LEAK_FREE),
    f"{FAITHFUL} − frame-statistics": (FAITHFUL, "frame-statistics"),
    f"{LEAK_FREE} − frame-statistics": (LEAK_FREE, "frame-statistics"),
}
ORDER_PAIRS = {f"{FAITHFUL} − {LEAK_FREE}": (FAITHFUL, LEAK_FREE)}
ORDER_METRICS = ("order", "order_up_to_reversal", "order_mixed")
TRAINING_LOGS = ("order_accuracy", "order_accuracy_up_to_reversal")
KS = (1, 5, 10, 20, 50)  # docs/methods/evaluation.md, TCGL's retrieval
POOLING = "max-1x2x2"  # of the last map, for retrieval (docs/methods/evaluation.md, TCGL's retrieval)
TEST_CLIPS = 10  # uniform clips per video (docs/methods/evaluation.md, TCGL's retrieval)
# Tuples drawn per video to measure order accuracy; each is shown in all orders.
DRAWS = {"train": 1, "test": 3}
SETTLING_EPOCHS = 2

# What a collection's nature asks of the recipe.
CHANGES: dict[str, tuple[Change, ...]] = {
    "fight_surv": (
        Change("train.epochs", 30, "for the time it takes; the order loss had not moved after 44 either"),
        Change("train.warmup_epochs", 3, "a tenth of the run"),
    ),
    "covid_blues": (
        Change(
            "clips.stride",
            2,
            "25 frames a second, and what moves in a lung moves slowly; a tuple then spans 53 of 59 or more frames",
        ),
        Change("clips.interval", 4, "as above"),
        Change("views.resize", [55, 55], "the frames are square, and depth and width are the same length in them"),
        Change("views.flip_p", 0.0, "left and right of the image are left and right of the probe: positions"),
    ),
}


# ------------------------------------------------------------------------------------------------------------- the run


class Trained(NamedTuple):
    """One variant of one seed: what pre-training left, and what it cost."""

    prepared: Prepared
    run: Run
    seconds: float


def made_ready(manifest: Manifest, settings: Mapping[str, Any], seed: int, kept: KeptFrames) -> Prepared:
    """A run on the split called train before its first step, with frames from memory."""
    prepared = prepare("tcgl", manifest, recipe=RECIPE, call={"seed": seed, "workers": 0, **settings})
    dataset = prepared.loader.dataset
    small = ClipDataset(kept.facts(prepared.manifest), dataset.sampler, dataset.views, seed=dataset.seed, decoder=kept)
    loader = ClipLoader(small, **prepared.settings.arguments("train", ClipLoader))
    return replace(prepared, loader=loader)


def pretrain(manifest: Manifest, settings: Mapping[str, Any], seed: int, out: Path, kept: KeptFrames) -> Trained:
    """Pre-train; no label is looked at. A run of an earlier call is made again: its order head is not kept."""
    start = time.perf_counter()
    shutil.rmtree(out, ignore_errors=True)
    prepared = made_ready(manifest, settings, seed, kept)
    run = run_prepared(prepared, out=out)
    return Trained(prepared, run, time.perf_counter() - start)


def kept_frames(settings: Mapping[str, Any]) -> KeptFrames:
    """Frames at the size that views and test clips resize to first, so that keeping them changes no sample."""
    height, width = settings.get("views.resize", load_recipe(RECIPE).sections["views"]["resize"])
    return KeptFrames(height, width)


# --------------------------------------------------------------------------------------------------------- the order


@contextmanager
def order_logits(method: Method) -> Iterator[list[torch.Tensor]]:
    """What the order head says, batch by batch; losses that need frame-sets are not computed meanwhile."""
    seen: list[torch.Tensor] = []
    weights = method.w_intra, method.w_inter
    handle = method.order_head.register_forward_hook(lambda module, args, logits: seen.append(logits))
    method.w_intra = method.w_inter = 0.0
    try:
        with evaluation_mode(method), torch.inference_mode():
            yield seen
    finally:
        handle.remove()
        method.w_intra, method.w_inter = weights


def reordered(batch: Batch, order: torch.Tensor) -> Batch:
    """Snippets that stand in the order filmed, put into ``order`` (n,) instead."""
    count = len(batch)
    targets = {
        **batch.targets,
        "order": order.expand(count, -1),
        "order_class": torch.full((count,), permutation_class(order)),
    }
    return replace(batch, views=tuple(batch.views[int(k)] for k in order), targets=targets)


def mixed(batch: Batch) -> Batch:
    """The same tuples, each of whose snippets comes from another video: no content can tell their order."""
    views = tuple(replace(view, data=view.data.roll(p, 0)) for p, view in enumerate(batch.views))
    return replace(batch, views=views)


def order_accuracy(
    method: Method, manifest: Manifest, decoder: KeptFrames, *, draws: int, batch_size: int = 24
) -> dict[str, NDArray[np.float64]]:
    """Accuracy per video (N,): of the order, up to reversal, and of the order with mixed snippets.

    Each of ``draws`` tuples of a video is shown in every order, so that a head that always answers the same has
    exactly 1/n!, whatever was drawn. Crops are random, as in training.
    """
    own = method.sampler
    sampler = SnippetSampler(own.num_snippets, own.clip_frames, own.interval, stride=own.stride, shuffle=False)
    dataset = ClipDataset(manifest, sampler, method.views, decoder=decoder)
    orders = permutations(own.num_snippets)
    last = len(orders) - 1  # an order and its reversal are classes c and n! − 1 − c
    parts: list[dict[str, NDArray[np.float64]]] = []
    with order_logits(method) as seen:
        for rows in np.array_split(np.arange(len(dataset)), -(-len(dataset) // batch_size)):
            hits: dict[str, list[NDArray[np.bool_]]] = {name: [] for name in ORDER_METRICS}
            for draw in range(draws):
                whole = method.views.apply(collate([dataset.sample(int(row), epoch=draw) for row in rows]))
                for truth, order in enumerate(orders):
                    batch = reordered(whole, order)
                    seen.clear()
                    method(batch)
                    method(mixed(batch))
                    answer, other = (logits.argmax(1).numpy() for logits in seen)
                    hits["order"].append(answer == truth)
                    hits["order_up_to_reversal"].append((answer == truth) | (answer == last - truth))
                    hits["order_mixed"].append(other == truth)
            parts.append({name: np.mean(found, axis=0) for name, found in hits.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in ORDER_METRICS}


def order_outcomes(trained: Trained, manifest: Manifest, kept: KeptFrames) -> dict[str, Any]:
    """Order accuracy of a variant on the videos it was trained on, and per video on the test part's long ones."""
    method = trained.prepared.method
    train = order_accuracy(method, kept.facts(trained.prepared.manifest), kept, draws=DRAWS["train"])
    rows = tuple(row for row in manifest if row.split == "test" and row.facts.num_frames >= method.sampler.min_frames)
    held_out = order_accuracy(method, kept.facts(replace(manifest, rows=rows)), kept, draws=DRAWS["test"])
    blind = 1 / len(permutations(method.sampler.num_snippets))
    # The graph of the order tells it up to reversal where each pair of reversed orders has a graph of its own, as with
    # three snippets; of the two that are left one is a guess (docs/methods/tcgl.md, Graphs and Where we differ P1).
    leaks = trained.prepared.settings["graph"]["head_graph"] == "order"
    chance = {
        "order": 0.5 if leaks else blind,
        "order_up_to_reversal": 1.0 if leaks else 2 * blind,
        "order_mixed": 0.5 if leaks else blind,
    }
    outcomes = Outcomes(
        Predictions("values", HeadCard("order"), values=held_out["order"]),
        Truth(
            np.array([row.labels["label"] for row in rows]),
            np.array([row.groups["group"] for row in rows]),
            np.array([row.path for row in rows]),
        ),
        held_out,
        chance,
        "order",
        chance_rule="what the graph alone tells, with features that know nothing",
    )
    return {"outcomes": outcomes, "train": {name: float(values.mean()) for name, values in train.items()}}


# -------------------------------------------------------------------------------------------------------- one seed


def run_seed(name: str, manifest: Manifest, seed: int, out: Path, options: argparse.Namespace) -> Seed:
    """Pre-train both variants, fit every protocol on the training part, score the test part."""
    settings: dict[str, Any] = {change.setting: change.value for change in CHANGES[name]}
    kept = kept_frames(settings)
    trained = {
        variant: pretrain(manifest, {**settings, "graph.head_graph": graph}, seed, out / variant, kept)
        for variant, graph in VARIANTS.items()
    }
    begin = time.perf_counter()
    order = {variant: order_outcomes(found, manifest, kept) for variant, found in trained.items()}
    ordered = time.perf_counter()
    encoders = {variant: unreel.load_encoder(found.run) for variant, found in trained.items()}
    spec = encoders[FAITHFUL].input_spec
    nets = {
        **encoders,
        # What both variants start from, as a run at a learning rate of zero would leave it.
        FIRST: settled(made_ready(manifest, settings, seed, kept), epochs=SETTLING_EPOCHS).encoder,
        "random-init": random_init(encoders[FAITHFUL], seed=seed),
        "frame-statistics": FrameStatistics(spec),
    }
    outcomes, metrics, notes = asked_frozen(nets, kept.facts(manifest), seed, kept)
    for variant, found in order.items():
        outcomes[variant]["order"] = found["outcomes"]
    metrics["order"] = tuple(Metric(m) for m in order[FAITHFUL]["outcomes"].values)
    cost: dict[str, Any] = {
        "seed": seed,
        "order_s": round(ordered - begin, 1),
        "evaluate_s": round(time.perf_counter() - ordered, 1),
        "parameters": count_parameters(encoders[FAITHFUL]),
        "features": encoders[FAITHFUL].num_features,
        "architecture": encoders[FAITHFUL].architecture,
        "min_frames": trained[FAITHFUL].prepared.method.sampler.min_frames,
        "probe": {p: dict(o.card.settings) for p, o in outcomes[FAITHFUL].items()},
    }
    for variant, found in trained.items():
        records = [r for r in found.run.metrics() if "loss" in r]
        late = records[-max(1, len(records) // 5) :]
        cost[variant] = {
            "pretrain_s": round(found.seconds, 1),
            "steps": int(records[-1]["step"]),
            "videos": len(found.prepared.manifest),
            "short": found.prepared.num_short,
            "logs": {
                k: round(float(np.mean([r[k] for r in late])), 3)
                for k in sorted(records[-1])
                if k.startswith(("loss", "order"))
            },
            "train": {k: round(v, 4) for k, v in order[variant]["train"].items()},
        }
    return Seed(seed, outcomes, metrics, notes, cost)


def asked_frozen(
    nets: Mapping[str, Encoder], manifest: Manifest, seed: int, kept: KeptFrames
) -> tuple[dict[str, dict[str, Outcomes]], dict[str, tuple[Metric, ...]], list[str]]:
    """Every encoder frozen: linear and neighbours on its embedding, retrieval on its last map."""
    plan = replace(default_plan(nets[FAITHFUL].input_spec, num_clips=TEST_CLIPS), resize_px=(kept.height, kept.width))
    compute = Compute(workers=0, decoder=kept)
    outcomes, metrics, notes = probe(nets, manifest, plan, [LinearProbe(), KNN()], seed, compute=compute)
    retrieved, more, _ = probe(nets, manifest, plan, [Retrieval(ks=KS)], seed, compute=compute, pooling=POOLING)
    for net, found in retrieved.items():
        outcomes[net] |= found
    metrics |= more
    task = LabelTask(manifest, seed=seed)
    clips = task.clips(plan, decoder=kept)
    for net, encoder in nets.items():
        pooling = None if net == "frame-statistics" else POOLING
        test = task.parts(embed_all([encoder], clips, pooling=pooling, compute=compute)[0]).test
        assert test.groups is not None
        if len(set(test.groups)) * 3 < len(test):  # several videos of each group: patients, not scenes
            outcomes[net]["patient retrieval"] = same_group(test)
            metrics["patient retrieval"] = task.metrics(outcomes[net]["patient retrieval"])
    return outcomes, metrics, notes


def same_group(test: FeatureSet) -> Outcomes:
    """Leave one video out of the test part: is the nearest other video one of the same patient?"""
    assert test.groups is not None
    own = FeatureSet(test.vectors, test.groups, test.groups, test.ids)
    return score_head(with_card(Retrieval(ks=KS, exclude="source").fit(own), protocol="patient retrieval"), own)


# ------------------------------------------------------------------------------------------------------------- scores


def asked_of(name: str, seeds: Sequence[Seed]) -> list[tuple[str, str]]:
    """Protocols and metrics of a collection, the primary ones first."""
    about = COLLECTIONS[name]
    found = seeds[0].outcomes[FAITHFUL]
    retrievals = [p for p in ("retrieval", "patient retrieval") if p in found]
    primary = [("linear", about.metric), ("knn", about.metric), *((p, "hit@1") for p in retrievals)]
    rest = [(p, metric) for p in retrievals for metric in found[p].values if metric != "hit@1"]
    return [*primary, *rest]


def all_scores(name: str, seeds: Sequence[Seed]) -> list[dict[str, Any]]:
    """Every asked row per seed and for their mean; where groups are few, what each of them says."""
    rows = compare_all(asked_of(name, seeds), seeds, COLLECTIONS[name].unit, PAIRS)
    rows += compare_all([("order", metric) for metric in ORDER_METRICS], seeds, COLLECTIONS[name].unit, ORDER_PAIRS)
    for row in rows:
        if row["groups"] < FEW_GROUPS and row["seed"] == "mean":
            pairs = PAIRS if row["protocol"] != "order" else ORDER_PAIRS
            row["signs"] = {pair: signs(seeds, row["protocol"], row["metric"], *nets) for pair, nets in pairs.items()}
        if row["protocol"] == "order":
            row["chances"] = {v: seeds[0].outcomes[v]["order"].chance[row["metric"]] for v in VARIANTS}
    return rows


def signs(seeds: Sequence[Seed], protocol: str, metric: str, a: str, b: str) -> dict[str, Any]:
    """In how many groups a is better than b, worse, or equal, by the mean outcome of their samples over the seeds.

    The p-value is that of the two-sided sign test, which leaves ties out. Balanced accuracy has no share per group:
    plain accuracy stands for it.
    """

    def per_sample(net: str) -> NDArray[np.float64]:
        values = [s.outcomes[net][protocol].values for s in seeds]
        return np.asarray(np.mean([v[metric] if metric in v else v["accuracy"] for v in values], axis=0))

    groups = seeds[0].outcomes[a][protocol].truth.groups
    assert groups is not None
    difference = per_sample(a) - per_sample(b)
    means = np.array([difference[groups == g].mean() for g in np.unique(groups)]).round(9)
    better, worse = int((means > 0).sum()), int((means < 0).sum())
    p = float(stats.binomtest(better, better + worse).pvalue) if better + worse else 1.0
    return {"better": better, "worse": worse, "equal": len(means) - better - worse, "p": p}


def pooled_scores(name: str, seeds: Sequence[Seed]) -> list[dict[str, Any]]:
    """Development: means over seeds, each on its own held-out third."""
    asked = [(p, m) for p, m in asked_of(name, seeds) if m in (COLLECTIONS[name].metric, "hit@1", "mAP")]
    order = [("order", metric) for metric in ORDER_METRICS]
    return [*pooled(asked, seeds, tuple(NETS)), *pooled(order, seeds, tuple(VARIANTS))]


def told(name: str, found: Seed) -> tuple[list[tuple[str, str, Sequence[str]]], list[float]]:
    """What is printed of a seed."""
    rows = [(p, m, tuple(NETS)) for p, m in asked_of(name, [found])[:4]]
    rows += [("order", m, tuple(VARIANTS)) for m in ORDER_METRICS]
    return rows, [found.cost[v]["pretrain_s"] for v in VARIANTS] + [found.cost["order_s"], found.cost["evaluate_s"]]


# --------------------------------------------------------------------------------------------------------------- page

SHOWN = {**{net: CONTROLS[net] for net in reversed(CONTROLS)}, **{variant: variant for variant in VARIANTS}}
SHOWN_PAIRS = {p: p.replace("random-init", "random").replace(FIRST, "first") for p in tuple(PAIRS)[:5]}


def way(s: Mapping[str, Any], pair: str) -> int:
    """1 or -1 where a difference is decided. Intervals of few groups are too narrow: their signs must agree."""
    return side(s["differences"][pair]) * ("signs" not in s or s["signs"][pair]["p"] <= 0.05)


def names(about: Collection) -> dict[str, str]:
    """Protocols in words."""
    what = "class" if about.classes == "fight or not" else "position"
    return {p: p for p in ("linear", "knn", "patient retrieval")} | {"retrieval": f"{what} retrieval"}


def render(found: Mapping[str, Any]) -> str:
    """The page, every number from the JSON beside it."""
    return fill("tcgl", globals(), found=found, names=names, way=way, **FACTS)


STUDY = Study("tcgl", RECIPE, CHANGES, run_seed, all_scores, pooled_scores, told)

if __name__ == "__main__":
    main(STUDY, __doc__, render, seeds=(4001, 4002, 4003), threads=1, workers=0)

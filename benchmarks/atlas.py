"""The atlas: what every method learns of the built-in world, factor by factor, at one price.

    python benchmarks/atlas.py                                   # every method, report seeds; docs/results/atlas.*
    python benchmarks/atlas.py --develop --seeds 0 --methods tcgl   # development: runs/atlas/atlas.{json,md,svg}
    python benchmarks/atlas.py --cost                            # what a step of each method costs, side by side
    python benchmarks/atlas.py --render                          # the page and the heat map again from atlas.json

For each seed one world of small videos is written: an object that moves, another that goes through an irreversible
event, still bystanders, few shared backgrounds. Each method is pre-trained on the training videos, without labels, with
one encoder and about the same number of frames through it; then the frozen encoder is asked on the test videos about
every factor of the world, beside the same encoder with random weights and plain statistics of the same clips. What a
method was trained to tell is asked too, of the method as it was left, on the test videos.

A run that is done (``runs/atlas/<method>-<seed>.json``) is not made again, and any number of processes may share the
runs. Development seeds are 0 to 9; report seeds
are run once, with settings that were fixed before.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch
from common import REPOSITORY, RESULTS, arguments, cell, difference, fill, load, percent, save, seeds_of, take_turns
from heat_map import heat_map, standalone_svg
from numpy.typing import NDArray

from unreel import api
from unreel.core.errors import DataError, UsageError
from unreel.core.files import write_whole
from unreel.core.keys import Key
from unreel.core.memory import keep_freed_memory
from unreel.data.batch import Batch, collate
from unreel.data.dataset import ClipDataset
from unreel.data.manifest import Manifest
from unreel.data.sampling import ClipPlan
from unreel.data.synthetic import APPEARANCES, EVENTS, MOTIONS, ActionWorld
from unreel.methods import Method, StepsDone, list_methods
from unreel.nn import Encoder, count_parameters
from unreel.nn.kernels import channels_last
from unreel.protocols import Compute, LinearProbe, Retrieval
from unreel.protocols.protocol import FeatureProtocol
from unreel.protocols.store import encoder_digest
from unreel.recipes.build import Prepared, prepare
from unreel.recipes.page import first_views
from unreel.tasks import FrameStatistics, LabelTask, random_init
from unreel.tasks.evaluate import Asked
from unreel.tasks.evaluate import ask as question
from unreel.tasks.jobs import JobStore
from unreel.tasks.order import ClipOrderTask
from unreel.train.feed import place
from unreel.train.run import describe_environment

REPORT_SEEDS = (3001, 3002, 3003)
BUDGET = 150_000  # frames through the encoder while training: 60 to 90 s of one thread

# ------------------------------------------------------------------------------------------------------------ the world

# Chosen on development seeds so that order can be learned at this price (see TUNING); the same for every method.
WORLD: Mapping[str, Any] = {
    "num_frames": 48,  # three snippets of 8 frames, 11 apart, or four, 5 apart
    "period_frames": (5.0, 6.0),  # a clip of 8 frames sees a whole period
    "radius_px": (8.0, 9.0),
    "amplitude_px": (8.0, 10.0),
    "drift_turns": 0.5,
    "num_backgrounds": 4,
    "num_colors": 2,
    "contrast": 0.4,
    "camera": 0.25,
    "events": True,
    "bystanders": (0, 4),
    "audio_rate_hz": 0,
}
NUM_TRAIN, NUM_TEST = 768, 576  # whole runs of 64 (motion × appearance) and of 6 (events)
# The background-swap world: eight backgrounds, each of which names a motion in 90 % of the training videos. Every
# camera drifts, so that an encoder that removes each clip's mean over time sees the background at all.
SWAP: Mapping[str, Any] = {
    **WORLD,
    "camera": 1.0,
    "num_backgrounds": 8,
    "background_link": "motion",
    "background_strength": 0.9,
}
NUM_SWAP_TRAIN, NUM_SWAP_TEST = 512, 384
SIZE_PX, CLIP_FRAMES = 48, 8
# Clips at 0, 13, 26 and 40 of 48 frames: none shares a frame with another.
PLAN = ClipPlan(num_frames=CLIP_FRAMES, stride=1, num_clips=4, num_crops=1, size_px=SIZE_PX, short_side_px=SIZE_PX)


def write_worlds(folder: Path, seed: int, *, workers: int = 0, scale: float = 1.0) -> Path:
    """The videos of one seed and one manifest of them all; returns the manifest.

    Splits: train and test; of the swap world swap-train, swapped (the background names another class) and unswapped.

    Args:
        folder: of this seed. seed: of all worlds.
        workers: processes that render and encode.
        scale: of the numbers of videos; a test needs few.
    """
    manifest = folder / "manifest.csv"
    if manifest.is_file():
        return manifest
    train, test, swap_train, swap_test = (
        max(6, round(scale * n)) for n in (NUM_TRAIN, NUM_TEST, NUM_SWAP_TRAIN, NUM_SWAP_TEST)
    )
    parts = {
        "main": (ActionWorld(seed, train, test, **WORLD), {"train": "train", "test": "test"}),
        "swapped": (
            ActionWorld(seed, swap_train, swap_test, test_background="swapped", **SWAP),
            {"train": "swap-train", "test": "swapped"},
        ),
        # A draw's address has no number of videos in it: these are the swapped videos before another world.
        "same": (ActionWorld(seed, 0, swap_test, test_background="same", **SWAP), {"test": "unswapped"}),
    }
    rows = []
    for name, (world, splits) in parts.items():
        part = Manifest.from_csv(world.write(folder / name, workers=workers))
        rows += [
            replace(r, path=f"{name}/{r.path}", split=splits[r.split], groups={"group": f"{name}/{r.groups['group']}"})
            for r in part
        ]
    return Manifest(str(folder), tuple(rows)).to_csv(manifest)


# ---------------------------------------------------------------------------------------------------------- the methods


@dataclass(frozen=True)
class Entry:
    """How a method is trained for the atlas.

    ``settings`` go over the method's small recipe, where there is one, and ``COMMON``. ``pretext``: names in the
    method's logs that are shares of right answers, and the share that knowing nothing gives; asked per test video.
    """

    settings: Mapping[str, Any]
    batch_size: int
    pretext: Mapping[str, float] = field(default_factory=dict)


# One encoder and one optimiser for all. The mean over time is taken away from every clip: without that, contrast learns
# the backgrounds (docs/results/demo.md) and TCGL is not TCGL (docs/methods/tcgl.md, STKD).
COMMON: Mapping[str, Any] = {
    "encoder.name": "r3d_tiny",
    "encoder.dct_highpass": 1,
    "optimizer.name": "adamw",
    "optimizer.lr": 0.004,  # tuned for order at this budget: 0.003 is slower
    "optimizer.weight_decay": 0.001,
    "train.schedule": "cosine",
    "train.precision": "float32",
    "train.memory_format": "channels_last",
    "train.workers": 0,
    "train.log_every": 5,
    "data.cache_mb": 600,  # the whole training part, decoded once
    "size": SIZE_PX,
    "clip_frames": CLIP_FRAMES,
}
# Views of the tasks about time: the frame at 52 pixels, a crop of 48 for each snippet, a flip for all together.
_SNIPPETS: Mapping[str, Any] = {"resize": (52, 52), "flip_p": 0.5}
# Views of contrast, as recipes/demo.yaml: smaller crops lose the only object, the aspect is part of some shapes.
_PAIRS: Mapping[str, Any] = {
    "views.preset": "paper",
    "stride": 1,
    "interval": "uniform",
    "views.crop_area_min": 0.4,
    "views.crop_aspect_min": 0.75,
    "views.crop_aspect_max": 1.333,
    "views.jitter_strength": 1.0,
    "head.hidden_dim": 192,
    "head.out_dim": 64,
}
_ORDER: Mapping[str, Any] = {**_SNIPPETS, "interval": 11, "head.dropout": 0.1}
ENTRIES: Mapping[str, Entry] = {
    "cvrl": Entry({**_PAIRS, "head.hidden_layers": 1, "head.bn_momentum": 0.1}, 64),
    "simclr": Entry(_PAIRS, 64),
    # The queue is two thirds of the videos; at the paper's 65,536 it would not fill in this run.
    "moco": Entry({**_PAIRS, "method.queue_size": 512, "method.momentum": 0.99}, 64),
    "byol": Entry({**_PAIRS, "method.momentum": 0.99}, 64),
    "simsiam": Entry({**_PAIRS, "predictor.bottleneck": 48}, 64),
    # With the release's ε, temperature and small crops every development run ended at log K, where all predictions are
    # alike: the views of so small a frame agree too little for sharp targets. These settings leave it behind.
    "swav": Entry(
        {
            **_PAIRS,
            "views.crop_area_min": 0.7,
            "views.small_views": 0,
            "method.num_prototypes": 32,
            "method.epsilon": 0.02,
            "method.temperature": 0.3,
            "method.freeze_steps": 10,
            "method.queue_size": 0,
        },
        64,
    ),
    # Four patches, as nine of 16 pixels would be smaller than the encoder's stride; the memory holds every video.
    "pirl": Entry(
        {
            **{k: v for k, v in _PAIRS.items() if k != "head.hidden_dim"},
            "clips.rho": 2,
            "jigsaw.grid": 2,
            "views.jigsaw_size": SIZE_PX,
            "jigsaw.patch_px": 20,
            "method.num_negatives": 256,
        },
        64,
    ),
    "tcgl": Entry(
        {  # the head's graph knows nothing of the order (docs/methods/tcgl.md, The label leak)
            **_ORDER,
            "method.bn_grouping": "joint",
            "method.bn_statistics": "snippets",
            "graph.head_graph": "position_chain",
            "graph.hidden": 192,
            "head.gate_hidden": 64,
        },
        16,
        {"order_accuracy": 1 / 6, "order_accuracy_up_to_reversal": 1 / 3},
    ),
    "vcop": Entry({**_ORDER, "head.hidden": 192}, 16, {"accuracy": 1 / 6}),
    "opn": Entry({**_ORDER, "interval": 5, "head.hidden": 192}, 16, {"accuracy": 1 / 12}),
    "shuffle_learn": Entry({**_SNIPPETS, "interval": 1}, 16, {"accuracy": 3 / 4}),
    "vcp": Entry({**_SNIPPETS, "interval": 5}, 16, {"accuracy": 1 / 5}),
    "arrow_of_time": Entry({**_SNIPPETS, "stride": 1}, 32, {"accuracy": 1 / 2}),
    "pace": Entry({**_SNIPPETS, "clips.rates": (1, 2, 3, 4)}, 32, {"accuracy": 1 / 4}),
    "rotation": Entry({"resize": (52, 52), "stride": 1}, 16, {"accuracy": 1 / 4}),
    # The reference with labels, of motion.
    "supervised": Entry({**_SNIPPETS, "method.label": "motion", "stride": 1}, 32, {"accuracy": 1 / 8}),
}


def missing_entries() -> list[str]:
    """Registered methods that have no entry here: the atlas grows with every method."""
    return sorted(set(list_methods()) - set(ENTRIES))


def settings_of(method: str, seed: int, steps: int) -> dict[str, Any]:
    """All settings over the recipe."""
    entry = ENTRIES[method]
    warmup = steps // 10
    run = {"train.seed": seed, "train.steps": steps, "train.warmup_steps": warmup, "train.batch_size": entry.batch_size}
    return {**COMMON, **entry.settings, **run}


def frames_per_video(prepared: Prepared) -> int:
    """Frames that pass the encoder for each video of a step, counted on two videos."""
    seen = 0

    def count(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal seen
        seen += inputs[0].shape[0] * inputs[0].shape[2]

    hook = prepared.method.encoder.register_forward_pre_hook(count)
    try:
        with torch.no_grad():
            prepared.method.eval()(first_views(prepared, samples=2))
    finally:
        hook.remove()
    return seen // 2


# ---------------------------------------------------------------------------------------------------------- the factors


@dataclass(frozen=True)
class Factor:
    """A column of the atlas: what is asked of frozen features, and how."""

    title: str
    protocol: str
    metric: str
    label: str = ""
    train: str = "train"
    test: str = "test"
    shown: bool = True

    def task(self, manifest: Manifest, seed: int) -> LabelTask:
        """The question; one about order has no label."""
        rows = manifest.select(split=(self.train, self.test))
        if not self.label:
            return ClipOrderTask(rows, train=self.train, test=self.test, seed=seed)
        return LabelTask(rows, label=self.label, train=self.train, test=self.test, seed=seed)


FACTORS: Mapping[str, Factor] = {
    "motion": Factor("motion", "linear", "accuracy", "motion"),
    "event": Factor("irreversible\nmotion", "linear", "accuracy", "event"),
    "appearance": Factor("appearance", "linear", "accuracy", "appearance"),
    "order": Factor("order of\ntwo clips", "linear", "accuracy"),
    "background_swapped": Factor(
        "motion, back-\nground swapped", "linear", "accuracy", "motion", "swap-train", "swapped"
    ),
    "background_same": Factor(
        "motion, back-\nground kept", "linear", "accuracy", "motion", "swap-train", "unswapped", shown=False
    ),
    "count": Factor("count", "linear", "accuracy", "count"),
    "motion_retrieval": Factor("motion,\nretrieval", "retrieval", "hit@1", "motion"),
    "appearance_retrieval": Factor("appearance,\nretrieval", "retrieval", "hit@1", "appearance"),
}
PROTOCOLS: Mapping[str, FeatureProtocol] = {"linear": LinearProbe(), "retrieval": Retrieval(ks=(1,))}
CONTROLS = ("random-init", "frame-statistics")


def pack(hits: NDArray[Any]) -> str:
    """Right or wrong per test video, as hexadecimal bits."""
    return np.packbits(np.asarray(hits) > 0.5).tobytes().hex()


def unpack(text: str, n: int) -> NDArray[np.float64]:
    """The inverse of ``pack``: (n,) of 0 and 1."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), dtype=np.uint8))[:n].astype(np.float64)


def ask(net: Encoder, manifest: Manifest, store: Path, seed: int) -> dict[str, dict[str, Any]]:
    """Every factor's outcome on the test videos: metric, chance, n, and hits per video."""
    found: dict[str, dict[str, Any]] = {}
    for name, factor in FACTORS.items():
        nets, compute = {"encoder": Asked(net, PLAN)}, Compute(store=store, progress=False)
        asked = question(factor.task(manifest, seed), [PROTOCOLS[factor.protocol]], nets, seed=seed, compute=compute)
        if asked.faults:
            raise DataError(f"{name}: {asked.faults[0].message}")
        record = asked.records["encoder"][factor.protocol]
        found[name] = {
            "protocol": factor.protocol,
            "metric": factor.metric,
            "chance": float(record.outcomes.chance[factor.metric]),
            "n": record.outcomes.n,
            "n_train": record.n_train,
            "hits": pack(record.outcomes.values[factor.metric]),
        }
    return found


def ask_pretext(method: Method, entry: Entry, manifest: Manifest, seed: int) -> dict[str, dict[str, Any]]:
    """What the method was trained to tell, on test videos, one at a time: hits per video.

    A batch of one makes the logs those of that video; in evaluation nothing depends on the rest of a batch.
    """
    if not entry.pretext:
        return {}
    rows = manifest.select(split="test")
    views = method.validation_views if method.validation_views is not None else method.views
    dataset = ClipDataset(rows, method.sampler, views, seed=seed, target_columns=method.target_columns)
    key = Key(seed, "atlas", "pretext")
    hits: dict[str, list[float]] = {name: [] for name in entry.pretext}
    method.eval()
    with torch.no_grad():
        for row in range(len(rows)):
            batch = place(views, collate([dataset.sample(row)]), torch.device("cpu"))
            logs = method(replace(batch, key=key)).logs
            for name in hits:
                hits[name].append(float(logs[name]))
    found = {}
    for name, values in hits.items():
        if not set(values) <= {0.0, 1.0}:  # several clips of a video: a mean, kept as it is
            found[name] = {"chance": entry.pretext[name], "n": len(values), "shares": [round(v, 6) for v in values]}
        else:
            found[name] = {"chance": entry.pretext[name], "n": len(values), "hits": pack(np.array(values))}
    return found


# -------------------------------------------------------------------------------------------------------------- the run


def run_one(method: str, seed: int, records: JobStore, budget: int, threads: int) -> str:
    """One method on one seed's world: train and ask; returns the result as JSON."""
    folder = records.folder
    torch.set_num_threads(threads)
    started = time.perf_counter()
    entry = ENTRIES[method]
    world = folder / f"world-{seed}"
    manifest = Manifest.from_csv(world / "manifest.csv")
    train = manifest.select(split="train")
    per_video = frames_per_video(prepare(method, train, call=settings_of(method, seed, 1)))
    steps = max(1, round(budget / (per_video * entry.batch_size)))
    prepared = prepare(method, train, call=settings_of(method, seed, steps))
    run = api.run_prepared(prepared, out=folder / f"{method}-{seed}")
    # The method as training left it; where an earlier call trained it, its checkpoint.
    state = torch.load(run.checkpoints[-1], map_location="cpu", weights_only=True)
    prepared.method.load_state_dict(state["method"])
    trained = time.perf_counter()
    encoder = run.load_encoder()
    # Asked alike whatever clips it was trained on.
    encoder.input_spec = replace(encoder.input_spec, num_frames=CLIP_FRAMES, stride_frames=1, size_px=SIZE_PX)
    store = folder / f"features-{seed}"
    scores = ask(encoder, manifest, store, seed)
    nets = {"random-init": random_init(encoder, seed=seed), "frame-statistics": FrameStatistics(encoder.input_spec)}
    controls = {  # of an encoder that no method changed: asked once per seed
        name: json.loads(
            records.keep(
                f"control-{encoder_digest(net)[:16]}-{seed}",
                lambda net=net: json.dumps(ask(net, manifest, store, seed)),
            )
        )
        for name, net in nets.items()
    }
    for name, score in scores.items():
        for control, theirs in controls.items():
            if theirs[name]["n"] != score["n"]:
                raise DataError(f"{method}, {name}: {control} was asked {theirs[name]['n']} videos, not {score['n']}")
            score[control] = theirs[name]["hits"]
    pretext = ask_pretext(prepared.method, entry, manifest, seed)
    records = [r for r in run.metrics() if "s_per_step" in r]
    result = {
        "method": method,
        "seed": seed,
        "budget_frames": budget,
        "steps": steps,
        "batch_size": entry.batch_size,
        "frames_per_video": per_video,
        "frames_per_step": per_video * entry.batch_size,
        # Without waiting for data, which the first epoch decodes; the median is not moved by other programs' bursts.
        "s_per_step": float(np.median([r["s_per_step"] * (1 - r["data_wait"]) for r in records])),
        "train_s": round(trained - started, 1),
        "ask_s": round(time.perf_counter() - trained, 1),
        "loss": records[-1]["loss"],
        "head_parameters": count_parameters(prepared.method) - count_parameters(encoder),
        "encoder_parameters": count_parameters(encoder),
        "threads": threads,
        "environment": {k: v for k, v in describe_environment().items() if k in ("python", "packages", "cores")},
        "scores": scores,
        "pretext": pretext,
    }
    return json.dumps(result, indent=1) + "\n"


def work(todo: Sequence[tuple[str, int]], folder: Path, budget: int, threads: int) -> None:
    """Make the runs that no other process makes, and wait for the others'."""
    records = JobStore(folder)
    jobs = {f"{m}-{s}": partial(run_one, m, s, records, budget, threads) for m, s in todo}
    for name, _ in records.work(jobs):
        print(f"done: {name}", flush=True)


# ------------------------------------------------------------------------------------------------------------- summary


def _cell(mine: NDArray[np.float64], control: NDArray[np.float64] | None, chance: float) -> dict[str, Any]:
    found: dict[str, Any] = {"n": len(mine), "chance": chance, **cell(mine)}
    if control is not None:
        d = difference(mine, control)
        found |= {"difference": d["difference"], "difference_low": d["low"], "difference_high": d["high"], "p": d["p"]}
    return found


def _hits(score: Mapping[str, Any], who: str = "hits") -> NDArray[np.float64]:
    return np.array(score["shares"]) if "shares" in score else unpack(score[who], score["n"])


def _answers(runs: Sequence[Mapping[str, Any]], factor: str, who: str) -> tuple[NDArray[np.float64], float]:
    """Hits on the test videos of all runs, one after the other, and the mean of their chance levels."""
    scores = [run["scores"][factor] for run in runs]
    return np.concatenate([_hits(s, who) for s in scores]), float(np.mean([s["chance"] for s in scores]))


def _control_cell(runs: Sequence[Mapping[str, Any]], factor: str, control: str) -> dict[str, Any]:
    hits, chance = _answers(runs, factor, control)
    return _cell(hits, None, chance)


def summarise(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Per method and seed, and over the seeds together: every factor's score with intervals over test videos.

    Seeds have worlds of their own, so that "all" has as many videos as all test parts together; its intervals hold for
    these trained encoders and other videos, and do not cover another training.
    """
    methods = [m for m in ENTRIES if any(r["method"] == m for r in runs)]
    cells: dict[str, Any] = {}
    for method in methods:
        mine = [r for r in runs if r["method"] == method]
        groups = {str(r["seed"]): [r] for r in mine} | ({"all": mine} if len(mine) > 1 else {})
        for seed, part in groups.items():
            found: dict[str, Any] = {}
            for factor in FACTORS:
                hits, chance = _answers(part, factor, "hits")
                random, _ = _answers(part, factor, "random-init")
                found[factor] = _cell(hits, random, chance)
            told = {
                name: _cell(
                    np.concatenate([_hits(r["pretext"][name]) for r in part]), None, part[0]["pretext"][name]["chance"]
                )
                for name in part[0]["pretext"]
            }
            cells.setdefault(method, {})[seed] = {"factors": found, "pretext": told}
    first = {r["seed"]: r for r in reversed(runs)}  # any method's: controls are the same for all
    controls: dict[str, Any] = {}
    for control in CONTROLS:
        for seed, part in ({str(s): [r] for s, r in first.items()} | {"all": list(first.values())}).items():
            controls.setdefault(control, {})[seed] = {
                factor: _control_cell(part, factor, control) for factor in FACTORS
            }
    return {"methods": cells, "controls": controls}


def draw(summary: Mapping[str, Any], cost: Mapping[str, Mapping[str, float]] | None = None) -> str:
    """The heat map as a file's text; ``cost`` of ``measure_cost`` goes below the methods' names."""
    price = {m: f"\n{c['s_per_step']:.2f} s a step" for m, c in (cost or {}).items()}
    shown = {name: f for name, f in FACTORS.items() if f.shown}
    newest = {m: seeds.get("all") or next(iter(seeds.values())) for m, seeds in summary["methods"].items()}
    rows = {m: cells["factors"] for m, cells in newest.items()}
    for control, seeds in summary["controls"].items():
        rows[control] = seeds["all"]

    def table(key: str) -> NDArray[np.float64]:
        return np.array([[cells[f].get(key, np.nan) for f in shown] for cells in rows.values()])

    chance = np.nanmean(table("chance"), axis=0)
    drawing = heat_map(
        [name.replace("_", " ") + price.get(name, "") for name in rows],
        [f"{f.title}\nchance {100 * c:.1f}" for f, c in zip(shown.values(), chance, strict=True)],
        [table(key) for key in ("value", "low", "high")],
        [table(key) for key in ("difference", "difference_low", "difference_high")],
        name="atlas",
        title="Atlas of the built-in world",
        unit="points over random-init",
    )
    return standalone_svg(drawing)


def render(results: Mapping[str, Any]) -> str:
    """The page, every number from the merged results."""
    worlds = {"motions": len(MOTIONS), "events": len(EVENTS), "appearances": len(APPEARANCES)}
    return fill("atlas", globals(), found=results, classes=worlds)


def _settings(values: Mapping[str, Any]) -> str:
    return ", ".join(f"`{k} {v}`" for k, v in values.items()) or "the recipe's"


def merge(folder: Path, seeds: Sequence[int], known: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """All results of these seeds in a folder, over those known before, in the order of methods and seeds."""
    found = {(r["method"], r["seed"]): dict(r) for r in known}
    for method in ENTRIES:
        for seed in seeds:
            path = folder / f"{method}-{seed}.json"
            if path.is_file():
                found[method, seed] = json.loads(path.read_text(encoding="utf-8"))
    order = {m: i for i, m in enumerate(ENTRIES)}
    runs = [found[k] for k in sorted((k for k in found if k[0] in order), key=lambda k: (order[k[0]], k[1]))]
    if not runs:
        raise DataError(f"{folder} holds no result of seeds {', '.join(map(str, seeds))}")
    return {"runs": runs, "summary": summarise(runs)}


def measure_cost(
    folder: Path, methods: Sequence[str], seed: int, *, rounds: int = 5
) -> dict[str, dict[str, float | int]]:
    """Processor seconds of one optimiser step of each method: one thread, one batch in memory, methods taking turns.

    The processor's clock, so that what else the machine does disturbs it little; the first round is not counted.
    """
    train = Manifest.from_csv(write_worlds(folder / f"world-{seed}", seed)).select(split="train")
    jobs = {}
    for method in methods:
        entry = ENTRIES[method]
        prepared = prepare(method, train, call={**settings_of(method, seed, 10), "data.cache_mb": 0})
        prepared.method.train()
        channels_last(prepared.method)
        batch = place(prepared.method.views, prepared.loader.first(entry.batch_size), torch.device("cpu"))
        jobs[method] = (prepared, batch, frames_per_video(prepared) * entry.batch_size)
    times = take_turns({m: partial(_step, p, batch) for m, (p, batch, _) in jobs.items()}, rounds, clock=process_time)
    return {
        method: {
            "s_per_step": float(np.median(times[method])),
            "lowest": min(times[method]),
            "highest": max(times[method]),
            "frames_per_step": frames,
        }
        for method, (_, _, frames) in jobs.items()
    }


def _step(prepared: Prepared, batch: Batch) -> None:
    prepared.method.on_step_begin(StepsDone(0, 10))
    prepared.optimizer.zero_grad(set_to_none=True)
    prepared.method(batch).loss.backward()
    prepared.method.on_gradients()
    prepared.optimizer.step()
    prepared.method.on_step_end(StepsDone(1, 10), True)


def publish(results: Mapping[str, Any], folder: Path) -> None:
    """Write atlas.json, atlas.md and atlas.svg."""
    save(folder / "atlas.json", results, ascii=True)
    write_whole(folder / "atlas.md", render(results))
    write_whole(folder / "atlas.svg", draw(results["summary"], results.get("cost")))


def table_of(results: Mapping[str, Any]) -> str:
    """A few lines per run for people who wait."""
    lines = []
    for method, by_seed in results["summary"]["methods"].items():
        for seed, cells in by_seed.items():
            parts = [
                f"{name} {100 * c['value']:.1f} ({100 * c['difference']:+.1f})" for name, c in cells["factors"].items()
            ]
            parts += [f"{n} {percent(c['value'], c['low'], c['high'])}" for n, c in cells["pretext"].items()]
            lines.append(f"{method} {seed}: " + ", ".join(parts))
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> None:
    parser = arguments(__doc__, out=False)
    parser.add_argument("--methods", nargs="+", choices=tuple(ENTRIES), default=list(ENTRIES))
    parser.add_argument("--seeds", nargs="+", type=int, help="default: the report seeds, or 0 with --develop")
    parser.add_argument("--budget", type=int, default=BUDGET, help="frames through the encoder per run")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "runs" / "atlas")
    parser.add_argument("--develop", action="store_true", help="seeds 0 to 9; results stay in the folder")
    parser.add_argument("--cost", action="store_true", help="only measure what a step of each method costs")
    parser.add_argument("--render", action="store_true", help="run nothing")
    options = parser.parse_args(words)
    seeds = seeds_of(options, REPORT_SEEDS)
    if (missing := missing_entries()) and not options.develop:
        raise UsageError(f"methods without an entry in the atlas: {', '.join(missing)}")
    out = options.folder if options.develop else RESULTS
    before = load(out / "atlas.json", {})
    known, cost = [] if options.develop else before.get("runs", []), before.get("cost", {})
    if options.cost:
        torch.set_num_threads(1)
        keep_freed_memory()  # as training does on a CPU
        cost = {**cost, **measure_cost(options.folder, options.methods, seeds[0])}
    elif not options.render:
        done = {(r["method"], r["seed"]) for r in known}
        todo = [(m, s) for s in seeds for m in options.methods if (m, s) not in done]
        for seed in dict.fromkeys(s for _, s in todo):
            write_worlds(options.folder / f"world-{seed}", seed, workers=options.jobs if options.jobs > 1 else 0)
        given = (todo, options.folder, options.budget, options.threads)
        others = [get_context("spawn").Process(target=work, args=given) for _ in range(options.jobs - 1)]
        for process in others:
            process.start()
        work(*given)
        for process in others:
            process.join()
    results = {**merge(options.folder, seeds, known), "cost": cost, "tuning": before.get("tuning", "")}
    made = dict.fromkeys(r["method"] for r in results["runs"])
    now = {m: f"{ENTRIES[m].batch_size} videos a step; {_settings(ENTRIES[m].settings)}" for m in made}
    # Those of runs made before are told as they were.
    results["settings"] = {"all": _settings(COMMON), **now, **before.get("settings", {})}
    publish(results, out)
    print(table_of(results))


if __name__ == "__main__":
    main()

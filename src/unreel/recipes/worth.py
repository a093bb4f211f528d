"""Is training on my videos worth it? Trains what there is to train, tests everything in the same folds, and says so."""

from __future__ import annotations

import copy
import json
import logging
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from unreel.core.digests import mapping_digest
from unreel.core.errors import UsageError
from unreel.core.extras import MissingExtraError
from unreel.core.files import check_apart, check_folder, write_whole
from unreel.core.words import counted, plural
from unreel.data.columns import Assigned
from unreel.data.manifest import Manifest, Source
from unreel.nn.encoder import Encoder
from unreel.nn.weights import named_encoder
from unreel.protocols.clips import ArrayClips, default_plan
from unreel.protocols.compute import USUAL, Compute
from unreel.protocols.linear import LinearProbe
from unreel.protocols.store import FeatureStore, encoder_digest
from unreel.recipes.build import Prepared, default_recipe, prepare
from unreel.report.pages import write_page
from unreel.tasks.baselines import FrameStatistics, first_weights
from unreel.tasks.classification import LabelTask
from unreel.tasks.evaluate import Asked, ask
from unreel.tasks.folds import folds_of, pooled
from unreel.tasks.jobs import JobStore
from unreel.tasks.profiles import frozen_protocol
from unreel.tasks.records import Record, Resampling, record_of
from unreel.tasks.task import Task
from unreel.tasks.worth import FIRST, FROZEN, PLAIN, SCRATCH, STATISTICS, TRAINED, WorthIt, compare, worth_sentence
from unreel.train.backend import Backend
from unreel.train.monitor import Monitor
from unreel.train.run import Run, describe_environment, open_encoder
from unreel.train.trainer import fit

log = logging.getLogger(__name__)

GOING_ON = {False: "byol_go_on", True: "images_go_on"}
"""The recipes that go on from good weights: of videos, and of images."""

# Balanced accuracy is asked for, so classes weigh the same; few values of C, as few groups choose among them.
_PROBE = LinearProbe(balanced=True, c_values=(1e-3, 1e-2, 1e-1))

# Steps that are timed before a training; the first, which starts the workers, does not count.
_TIMED = 4
# Frames of a video that a net of single frames is tested on; clips of a net of several.
_FRAMES, _CLIPS = 8, 4
# What recipes of this machine's size take; a smaller set is one batch.
_BATCH = 32

Train = Callable[..., Run]


@dataclass(frozen=True)
class Training:
    """One training of a study: of which row, by which recipe, how long, and whether it is done.

    ``steps`` of the recipe's ``whole``, at ``seconds`` a step; 0 seconds where it was not timed, as it is done.
    """

    name: str
    recipe: str
    seed: int
    fold: int | None
    folder: Path
    steps: int
    whole: int
    seconds: float
    done: bool

    @property
    def minutes(self) -> float:
        """What is left of it, about."""
        return 0.0 if self.done else self.steps * self.seconds / 60

    @property
    def title(self) -> str:
        fold = "" if self.fold is None else f", without the groups of fold {self.fold + 1}"
        return f"{self.name} ({Path(self.recipe).stem}, seed {self.seed}{fold})"


@dataclass(frozen=True)
class WorthPlan:
    """What a study would do and cost. ``embedding`` is minutes, about, of all nets."""

    trainings: tuple[Training, ...]
    embedding: float
    notes: tuple[str, ...] = ()

    @property
    def minutes(self) -> float:
        return self.embedding + sum(t.minutes for t in self.trainings)

    def to_dict(self) -> dict[str, object]:
        rows = [{**vars(t), "folder": str(t.folder), "minutes": round(t.minutes, 2)} for t in self.trainings]
        return {"trainings": rows, "embedding_minutes": round(self.embedding, 2), "minutes": round(self.minutes, 2)}

    def text(self) -> str:
        lines = []
        for t in self.trainings:
            cut = f" of the recipe's {t.whole}" if t.steps < t.whole else ""
            cost = "done" if t.done else f"about {t.minutes:.1f} min ({t.seconds:.2g} s a step)"
            lines.append(f"{t.title}: {counted(t.steps, 'step')}{cut}, {cost}")
        lines.append(f"embed and test: about {self.embedding:.1f} min")
        lines.append(f"in all about {self.minutes:.1f} min")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes), "Nothing was trained or written."])


@dataclass
class Study:
    """The question, and what answers it; see ``unreel.worth_it`` for the arguments. ``train``: trains what is prepared.

    Everything lies below ``runs`` (runs, features) and ``out`` (answers, page): what is there is not done again.
    """

    data: Source
    train: Train
    label: str | None = None
    group: str | None = None
    encoder: str | os.PathLike[str] = "efficientnet_lite0"
    recipe: str | os.PathLike[str] | None = None
    scratch: str | os.PathLike[str] | None = None
    folds: int = 5
    seeds: Sequence[int] = (0,)
    minutes: float = 8.0
    held_out: bool = False
    protocol: str = "linear"
    out: str | os.PathLike[str] = "worth-it"
    runs: str | os.PathLike[str] | None = None
    compute: Compute = USUAL
    resampling: Resampling = Resampling()  # noqa: RUF009 - frozen
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.seeds or len({*self.seeds}) < len(self.seeds):
            raise UsageError(f"seeds: expected one or several different numbers, got {list(self.seeds)}")
        if self.minutes <= 0:
            raise UsageError(f"minutes: expected more than 0, got {self.minutes:g}")
        self.how = _PROBE if self.protocol == "linear" else frozen_protocol(self.protocol)
        opened = Manifest.open(self.data)
        self.tasks = {
            seed: LabelTask(opened, label=self.label, group=self.group, folds=self.folds, seed=seed)
            for seed in self.seeds
        }
        self.known = self.tasks[self.seeds[0]].sources
        assert not isinstance(self.known.data, ArrayClips)
        # Without labels, which training does not see, and without splits: so one training serves every label.
        rows = [
            replace(row, split="", labels={}, groups={"group": g} if g else {})
            for row, g in zip(self.known.data, self.known.groups, strict=True)
        ]
        self.rows = replace(self.known.data, rows=tuple(rows), columns=Assigned())
        self.images = self.rows.only_images
        self.out = Path(self.out)
        self.runs = Path(self.runs) if self.runs is not None else self.out / "runs"
        self.compute = replace(self.compute, store=self.compute.store or FeatureStore(self.runs / "features"))
        self.goes_on = True
        try:
            open_encoder(self.encoder)
        except MissingExtraError as error:
            self.goes_on = False
            self.notes.append(f"{error}. Without it, the net that is trained starts from fresh weights")

    # --- what there is to train ---------------------------------------------------------------------------------

    @cached_property
    def recipes(self) -> dict[str, str]:
        """Row → the recipe that trains it."""
        small = str(self.scratch or default_recipe(images=self.images))
        fits = str(self.encoder) == "efficientnet_lite0"  # its stages are named in the recipes that go on
        on = str(self.recipe or (GOING_ON[self.images] if fits else small))
        return {TRAINED: on, SCRATCH: small} if self.goes_on else {TRAINED: str(self.recipe or small)}

    def prepared(self, name: str, seed: int, fold: int | None = None, steps: int | None = None) -> Prepared:
        """A training's parts, before its first step."""
        rows = self.rows
        if fold is not None:
            tested = self.tasks[seed].folds[fold].roles == "test"
            apart = {identity for identity, t in zip(self.known.identities, tested, strict=True) if t}
            rows = rows.subset([i for i, identity in enumerate(self.known.identities) if identity not in apart])
        encoder: str | Encoder | None = None
        if name == TRAINED and self.goes_on:
            encoder = named_encoder(self.encoder) or open_encoder(self.encoder)
        call: dict[str, object] = {"train.seed": seed}
        call |= {} if steps is None else {"train.steps": steps}
        call |= {"train.batch_size": len(rows)} if len(rows) < _BATCH else {}
        call |= {} if self.compute.device is None else {"train.device": str(self.compute.device)}
        call |= {} if self.compute.workers is None else {"train.workers": self.compute.workers}
        return prepare(None, rows, encoder=encoder, recipe=self.recipes[name], call=call)

    @cached_property
    def starts(self) -> dict[str, Prepared]:
        """Row → what its training begins with; its method stays as it is."""
        return {name: self.prepared(name, self.seeds[0]) for name in self.recipes}

    def frozen(self, name: str) -> Encoder:
        """The net that a training begins with."""
        return copy.deepcopy(self.starts[name].method.encoder).eval()

    def untrained(self) -> dict[str, Encoder]:
        """The net that is trained further, as it was: on what the recipe shows it, and on plain pixels if they differ.

        A recipe that changes what a net sees must not be praised for beating the net on that input alone.
        """
        if not self.goes_on:
            return {}
        frozen = self.frozen(TRAINED)
        plain, spec = open_encoder(self.encoder), frozen.input_spec
        if plain.input_spec.dct_highpass == spec.dct_highpass:
            return {FROZEN: frozen}
        plain.input_spec = replace(plain.input_spec, size_px=spec.size_px)
        return {FROZEN: frozen, PLAIN: plain}

    def folder(self, name: str, seed: int, fold: int | None) -> Path:
        assert isinstance(self.runs, Path)
        if fold is None:
            return self.runs / f"{name}-seed-{seed}"
        return self.runs / f"{name}-seed-{seed}-{self.known.label}-of-{self.folds}-without-fold-{fold + 1}"

    def plan(self) -> WorthPlan:
        """What there is to train, with the steps that the minutes allow, timed on the first of them."""
        timed: dict[str, float] = {}
        trainings: list[Training] = []
        for seed in self.seeds:
            for name in self.recipes:
                for fold in range(self.folds) if self.held_out else [None]:
                    folder = self.folder(name, seed, fold)
                    run, whole = Run(folder), self.starts[name].total_steps
                    begun = (folder / "config.yaml").is_file()
                    if not run.completed and name not in timed:
                        log.info("timing %s: the first steps of %s", name, self.recipes[name])
                        timed[name] = seconds_per_step(self.prepared(name, seed))
                    seconds = timed.get(name, 0.0)
                    allowed = max(1, min(whole, int(self.minutes * 60 / seconds))) if seconds else whole
                    steps = int(str(run.config["train"].get("steps") or whole)) if begun else allowed
                    trainings.append(
                        Training(name, self.recipes[name], seed, fold, folder, steps, whole, seconds, run.completed)
                    )
        return WorthPlan(tuple(trainings), self._embedding(timed), tuple(self.notes))

    def _embedding(self, timed: Mapping[str, float]) -> float:
        """Minutes to embed: a forward pass is a third of a step, and every net has one of its own weights beside."""
        total = 0.0
        for name, seconds in timed.items():
            start = self.starts[name]
            clips = start.settings["train"]["batch_size"] * start.method.sampler.num_views
            asked = len(self.rows) * self._asked(start.method.encoder).clips.num_clips
            total += 2 * seconds / 3 / clips * asked / 60 * (self.folds if self.held_out else 1)
        return total

    # --- answers ------------------------------------------------------------------------------------------------

    def run(self) -> WorthIt:
        """Train, test and compare; writes the answer as JSON and as a page."""
        began = time.monotonic()
        assert isinstance(self.out, Path)
        assert isinstance(self.runs, Path)
        check_apart(self.out, self.rows.root)
        check_folder(self.out)
        plan = self.plan()
        left = plan.minutes
        for number, training in enumerate(plan.trainings, 1):
            where = f"[{number}/{len(plan.trainings)}]"
            if training.done:
                log.info("%s %s: done before", where, training.title)
                continue
            cost = f"{counted(training.steps, 'step')}, about {training.minutes:.1f} min"
            told = f"{where} training {training.title}: {cost}"
            log.info("%s; about %.0f min left in all", told, left)
            steps = training.steps if training.steps != training.whole else None
            self.train(self.prepared(training.name, training.seed, training.fold, steps), out=training.folder)
            if not Run(training.folder).completed:
                raise UsageError(f"{training.folder} is not complete: the same call goes on")
            left -= training.minutes
        records: dict[str, list[Record]] = {}
        for seed in self.seeds:
            log.info("embedding and testing, seed %d; about %.0f min left in all", seed, left * (seed == self.seeds[0]))
            for name, record in self._records(seed).items():
                records.setdefault(name, []).append(record)
        return self._answer(records, plan, (time.monotonic() - began) / 60)

    def _records(self, seed: int) -> dict[str, Record]:
        """What every net answers in all folds: what is kept, or asked now."""
        task, folds = self.tasks[seed], list(range(self.folds)) if self.held_out else [None]
        runs = {(n, f): Run(self.folder(n, seed, f)).load_encoder() for n in self.recipes for f in folds}
        frozen = self.untrained()
        digest = mapping_digest(
            {
                "worth": 1,
                "data": self._data.digest,
                "task": {**task.about, "data": ""},
                "how": repr(self.how),
                "nets": {f"{n} {f}": encoder_digest(net) for (n, f), net in runs.items()},
                "frozen": [encoder_digest(net) for net in frozen.values()],
                "seed": seed,
            }
        )
        store = JobStore(Path(self.out) / "answers")

        def make() -> str:
            parts = folds_of(task) if self.held_out else [task]
            found: dict[str, list[Record]] = {}
            for fold, part in zip(folds, parts, strict=True):
                nets = {n: self._asked(net) for n, net in frozen.items()}
                nets |= {n: self._asked(runs[n, fold]) for n in self.recipes}
                small = nets[SCRATCH if self.goes_on else TRAINED]
                untrained = first_weights(small.net, part, small.clips, seed=seed, compute=self.compute)
                nets[FIRST] = replace(small, net=untrained)
                nets[STATISTICS] = replace(small, net=FrameStatistics(small.net.input_spec))
                answers = ask(part, [self.how], nets, seed=seed, compute=self.compute)
                for name, own in answers.records.items():
                    found.setdefault(name, []).append(own[self.how.name])
            return json.dumps({name: _together(task, own).to_json() for name, own in found.items()})

        return {name: Record.from_json(text) for name, text in json.loads(store.keep(digest, make)).items()}

    @property
    def _data(self) -> Manifest:
        assert isinstance(self.known.data, Manifest)
        return self.known.data

    def _asked(self, net: Encoder) -> Asked:
        clips = 1 if self.images else _FRAMES if net.input_spec.num_frames == 1 else _CLIPS
        return Asked(net, default_plan(net.input_spec, num_clips=clips))

    def _answer(self, records: Mapping[str, Sequence[Record]], plan: WorthPlan, minutes: float) -> WorthIt:
        task, known = self.tasks[self.seeds[0]], self.known
        rows, metric = compare(task, records, self.resampling, seed=self.seeds[0])
        videos, unit = counted(len(self.rows), self.rows.noun), self._unit()
        told = self._told(videos)
        spent = {name: _spent([t for t in plan.trainings if t.name == name]) for name in self.recipes}
        rows = [replace(row, what=told[row.name], **spent.get(row.name, {})) for row in rows]
        net = self.starts[TRAINED].method.encoder
        name = net.architecture or type(net).__name__
        first = next(iter(records.values()))[0]
        notes = [*self.notes, *self._cautions(plan), *task.notes]
        assert isinstance(self.out, Path)
        files = (self.out / "worth_it.json", self.out / "worth_it.html")
        found = WorthIt(
            worth_sentence(rows, metric=metric, encoder=name, videos=videos, unit=unit),
            tuple(rows),
            FROZEN if self.goes_on else FIRST,
            metric,
            self.how.name,
            self.resampling.level,
            first.outcomes.n,
            len({*np.array(first.outcomes.truth.groups).tolist()}),
            unit,
            known.label,
            known.group,
            self.folds,
            tuple(self.seeds),
            self.held_out,
            name,
            self.recipes[TRAINED],
            round(minutes, 2),
            tuple(dict.fromkeys(notes)),
            tuple(map(str, files)),
            {"data": task.source, "videos": videos, "when": time.strftime("%Y-%m-%d %H:%M"), **describe_environment()},
        )
        write_whole(files[0], json.dumps(found.to_dict(), indent=1, allow_nan=False) + "\n")
        write_page(files[1], "worth_it.html.jinja", title="Is training on these videos worth it?", found=found)
        return found

    def _unit(self) -> str:
        if not any(self.known.groups):
            return self.rows.noun
        return self.known.group.removesuffix("_id").replace("_", " ") or "group"

    def _told(self, videos: str) -> dict[str, str]:
        """What every row is, in words."""
        names = {name: start.method.encoder.architecture for name, start in self.starts.items()}
        seen = f"these {videos}, without labels"
        small = names[SCRATCH if self.goes_on else TRAINED]
        on = "trained further" if self.goes_on else "trained from scratch"
        return {
            FROZEN: f"{names[TRAINED]} as it was, frozen, on the same input as trained",
            PLAIN: f"{names[TRAINED]} as it was, frozen, on plain pixels",
            TRAINED: f"{names[TRAINED]} {on} on {seen}, by {Path(self.recipes[TRAINED]).stem}",
            SCRATCH: f"{small} trained from scratch on {seen}, by {Path(self.recipes.get(SCRATCH, '')).stem}",
            FIRST: f"{small} untrained, its batch statistics settled",
            STATISTICS: "46 plain numbers of the pixels, without a net",
        }

    def _cautions(self, plan: WorthPlan) -> Iterator[str]:
        if self.held_out:
            yield "for every fold, nets were trained without the groups that the fold tests"
        else:
            nouns = plural(self.rows.noun)
            yield f"training saw all {nouns}, those that folds test too, but no label; --held-out keeps them out"
        for name in self.recipes:
            cut = [t for t in plan.trainings if t.name == name and t.steps < t.whole]
            if cut:
                yield f"{name}: {cut[0].steps} of the recipe's {cut[0].whole} steps, in {self.minutes:g} minutes"


def _together(task: Task, records: Sequence[Record]) -> Record:
    """The record of all folds, where each was asked by itself."""
    if len(records) == 1:
        return records[0]
    first = records[0]
    faults = tuple({fault["path"]: fault for record in records for fault in record.faults}.values())
    sizes = {"n_train": min(r.n_train for r in records), "n_val": min(r.n_val for r in records)}
    whole = record_of(
        task, pooled([r.outcomes for r in records]), about=first.about, seed=first.seed, sizes=sizes, faults=()
    )
    return replace(whole, faults=faults)


def _spent(trainings: Sequence[Training]) -> dict[str, Any]:
    """Minutes and steps of trainings, as their runs have written them down."""
    minutes = 0.0
    for training in trainings:
        before = 0
        for record in Run(training.folder).metrics():
            if "s_per_step" in record:
                minutes += float(record["s_per_step"]) * (int(record["step"]) - before) / 60
                before = int(record["step"])
    return {"minutes": round(minutes, 2), "steps": sum(t.steps for t in trainings)}


def seconds_per_step(prepared: Prepared) -> float:
    """How long a step takes here, reading included: a few steps of a training that is then thrown away."""
    train, times = prepared.settings["train"], list[float]()
    fit(
        prepared.method,
        prepared.loader,
        prepared.optimizer,
        total_steps=min(_TIMED, prepared.total_steps),
        device=Backend(**prepared.settings.arguments("train", Backend)),
        seed=train["seed"],
        accumulate=train["accumulate"],
        monitor=Monitor(log_every=1, echo=lambda record: times.append(record["s_per_step"])),
    )
    return statistics.median(times[1:] or times)
